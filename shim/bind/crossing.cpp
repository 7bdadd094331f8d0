// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "reactor/crossing.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr uint32_t kLeasesMax = 256;  // the largest I/O of an FTL

std::shared_ptr<Crossing> make_crossing(std::shared_ptr<Reactor> front, std::shared_ptr<Reactor> core,
                                        std::shared_ptr<BlockDevice> device, uint32_t leases) {
    if (leases > kLeasesMax) {
        throw std::invalid_argument("crossing: at most " + std::to_string(kLeasesMax) + " leases");
    }
    if (front == core) {
        throw std::invalid_argument("crossing: both of its reactors are the same");
    }
    const nb::gil_scoped_release unlocked;
    // It leaves its reactor when it is destroyed, and the reactor's thread may need the GIL meanwhile.
    return std::shared_ptr<Crossing>(new Crossing(std::move(front), std::move(core), std::move(device), leases),
                                     [](Crossing *crossing) {
                                         if (PyGILState_Check() != 0) {
                                             const nb::gil_scoped_release unlocked_again;
                                             delete crossing;
                                         } else {
                                             delete crossing;
                                         }
                                     });
}

}  // namespace

void bind_crossing(nb::module_ &m) {
    Fields<Crossing::Stats>(m, "CrossingStats")
        .field("ios", &Crossing::Stats::ios)
        .field("leased_blocks", &Crossing::Stats::leased_blocks)
        .field("leases", &Crossing::Stats::leases)
        .end();
    nb::class_<Crossing, BlockDevice>(m, "Crossing")
        .def(nb::new_(&make_crossing), nb::arg("front"), nb::arg("core"), nb::arg("device"), nb::arg("leases") = 0)
        .def("stats", &Crossing::stats, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace ftl
