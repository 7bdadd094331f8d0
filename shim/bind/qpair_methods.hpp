// SPDX-License-Identifier: BSD-3-Clause
// What the target side of every kind of I/O queue offers to Python.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>

#include <map>
#include <memory>
#include <utility>

#include "bind/closed_by_python.hpp"
#include "nvme/target_qpair.hpp"

namespace ftl {

using BarPairs = std::map<uint32_t, std::pair<Status, Status>>;

[[nodiscard]] inline NamespaceTable::BarsByNsid bars_of(const BarPairs &pairs) {
    NamespaceTable::BarsByNsid bars;
    for (const auto &[nsid, each] : pairs) {
        bars[nsid] = {each.first, each.second};
    }
    return bars;
}

template <typename Qpair>
void bind_qpair_methods(nanobind::class_<ClosedByPython<Qpair>> &bound) {
    namespace nb = nanobind;
    using Self = ClosedByPython<Qpair>;
    const nb::call_guard<nb::gil_scoped_release> unlocked;
    bound.def_prop_ro("id", [](const Self &self) { return self->id(); })
        .def(
            "set_namespace",
            [](Self &self, uint32_t nsid, std::shared_ptr<BlockDevice> device, std::pair<Status, Status> bars) {
                self->set_namespace(nsid, std::move(device), {bars.first, bars.second});
            },
            nb::arg("nsid"), nb::arg("device").none(), nb::arg("bars") = std::pair<Status, Status>(), unlocked)
        .def(
            "give_back_removed", [](Self &self) { return self->give_back_removed(); }, unlocked)
        .def(
            "set_bars",
            [](Self &self, uint32_t nsid, std::pair<Status, Status> bars) {
                self->set_bars(nsid, {bars.first, bars.second});
            },
            nb::arg("nsid"), nb::arg("bars"), unlocked)
        .def(
            "abort_io", [](Self &self, uint32_t nsid) { self->abort_io(nsid); }, nb::arg("nsid"), unlocked)
        .def_prop_ro("aborting", [](const Self &self) { return self->aborting(); })
        .def(
            "stats", [](Self &self) { return TargetQpairStats(self->stats()); }, unlocked)
        .def_prop_ro(
            "connected", [](Self &self) { return !self->dead(); }, unlocked)
        .def_prop_ro("drained", [](const Self &self) { return self->drained(); })
        .def("close", [](Self &self) { self->close(); }, unlocked);
}

}  // namespace ftl
