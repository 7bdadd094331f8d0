// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "reactor/gate.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

// Of one kind of I/O. Times in nanoseconds.
struct KindAccount {
    uint64_t count, sum, p50, p90, p99, p999, max;
    std::vector<uint64_t> within;
    std::vector<uint64_t> errors;
};

// What a gate has counted, and what it does now.
struct GateAccount {
    std::string state;
    uint32_t held;
    KindAccount read, write, flush, trim;
};

KindAccount kind_account(const IoAccount &account, IoKind kind) {
    const IoLatency &latency = account.latency(kind);
    const LatencyHistogram &values = latency.values();
    KindAccount result{values.count(),
                       values.sum(),
                       values.percentile(500),
                       values.percentile(900),
                       values.percentile(990),
                       values.percentile(999),
                       values.max(),
                       {},
                       {}};
    for (size_t i = 0; i <= IoLatency::kBounds; ++i) {
        result.within.push_back(latency.within(i));
    }
    for (size_t i = 0; i < IoAccount::kErrorClasses; ++i) {
        result.errors.push_back(account.errors(kind, static_cast<ErrorClass>(i)));
    }
    return result;
}

std::shared_ptr<Gate> make_gate(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device, bool accounts) {
    const nb::gil_scoped_release unlocked;
    // A gate leaves its reactor when it is destroyed, and the reactor's thread may need the GIL meanwhile.
    return std::shared_ptr<Gate>(new Gate(std::move(reactor), std::move(device), accounts), [](Gate *gate) {
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

GateAccount account_of(Gate &gate) {
    std::unique_ptr<const Gate::Account> account;
    {
        const nb::gil_scoped_release released;
        account = gate.account();
    }
    return {state_name(account->state),
            account->held,
            kind_account(account->io, IoKind::read),
            kind_account(account->io, IoKind::write),
            kind_account(account->io, IoKind::flush),
            kind_account(account->io, IoKind::trim)};
}

}  // namespace

void bind_gate(nb::module_ &m) {
    using unlocked = nb::call_guard<nb::gil_scoped_release>;
    Fields<KindAccount>(m, "KindAccount")
        .field("count", &KindAccount::count)
        .field("sum", &KindAccount::sum)
        .field("p50", &KindAccount::p50)
        .field("p90", &KindAccount::p90)
        .field("p99", &KindAccount::p99)
        .field("p999", &KindAccount::p999)
        .field("max", &KindAccount::max)
        .field("within", &KindAccount::within)
        .field("errors", &KindAccount::errors)
        .end();
    Fields<GateAccount>(m, "GateAccount")
        .field("state", &GateAccount::state)
        .field("held", &GateAccount::held)
        .field("read", &GateAccount::read)
        .field("write", &GateAccount::write)
        .field("flush", &GateAccount::flush)
        .field("trim", &GateAccount::trim)
        .end();
    nb::class_<Gate, BlockDevice>(m, "Gate")
        .def(nb::new_(&make_gate), nb::arg("reactor"), nb::arg("device"), nb::arg("accounts") = false)
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
        .def_prop_ro("held", &Gate::held, unlocked())
        .def("account", &account_of);
}

}  // namespace ftl
