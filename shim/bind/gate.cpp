// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>

#include "bind/bindings.hpp"
#include "reactor/gate.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

std::shared_ptr<Gate> make_gate(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device) {
    const nb::gil_scoped_release unlocked;
    // A gate leaves its reactor when it is destroyed, and the reactor's thread may need the GIL meanwhile.
    return std::shared_ptr<Gate>(new Gate(std::move(reactor), std::move(device)), [](Gate *gate) {
        if (PyGILState_Check() != 0) {
            const nb::gil_scoped_release unlocked_again;
            delete gate;
        } else {
            delete gate;
        }
    });
}

const char *state_name(Gate::State state) {
    switch (state) {
        case Gate::State::open:
            return "open";
        case Gate::State::holding:
            return "holding";
        case Gate::State::failing:
            return "failing";
    }
    return "";
}

}  // namespace

void bind_gate(nb::module_ &m) {
    using unlocked = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<Gate, BlockDevice>(m, "Gate")
        .def(nb::new_(&make_gate), nb::arg("reactor"), nb::arg("device"))
        .def("hold", &Gate::hold, unlocked())
        .def("set_device", &Gate::set_device, nb::arg("device"), unlocked())
        .def("fail", &Gate::fail, nb::arg("status"), unlocked())
        .def("sweep", &Gate::sweep, unlocked())
        .def("emptied", &Gate::emptied, unlocked())
        .def_prop_ro("state",
                     [](Gate &gate) {
                         Gate::State state{};
                         {
                             const nb::gil_scoped_release released;
                             state = gate.state();
                         }
                         return state_name(state);
                     })
        .def_prop_ro("held", &Gate::held, unlocked());
}

}  // namespace ftl
