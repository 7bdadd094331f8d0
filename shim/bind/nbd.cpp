// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>

#include "bind/bindings.hpp"
#include "bind/closed_by_python.hpp"
#include "bind/fields.hpp"
#include "nbd/nbd_connection.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using PyNbdConnection = ClosedByPython<NbdConnection>;

}  // namespace

void bind_nbd(nb::module_ &m) {
    const nb::call_guard<nb::gil_scoped_release> unlocked;
    Fields<NbdConnectionStats>(m, "NbdConnectionStats")
        .field("requests", &NbdConnectionStats::requests)
        .field("read_blocks", &NbdConnectionStats::read_blocks)
        .field("write_blocks", &NbdConnectionStats::write_blocks)
        .field("errors", &NbdConnectionStats::errors)
        .field("bytes_in", &NbdConnectionStats::bytes_in)
        .field("bytes_out", &NbdConnectionStats::bytes_out)
        .end();
    nb::class_<PyNbdConnection>(m, "NbdConnection")
        .def(
            "__init__",
            [](PyNbdConnection *self, std::shared_ptr<Reactor> reactor, int fd, std::shared_ptr<BlockDevice> device,
               uint64_t block_count, bool read_only, bool structured_replies, bool trim, bool write_zeroes,
               bool fast_zero) {
                NbdConnectionConfig config;
                config.block_count = block_count;
                config.read_only = read_only;
                config.structured_replies = structured_replies;
                config.trim = trim;
                config.write_zeroes = write_zeroes;
                config.fast_zero = fast_zero;
                const nb::gil_scoped_release released;
                new (self) PyNbdConnection(std::in_place, std::move(reactor), fd, config, std::move(device));
            },
            nb::arg("reactor"), nb::arg("fd"), nb::arg("device"), nb::kw_only(), nb::arg("block_count"),
            nb::arg("read_only") = false, nb::arg("structured_replies") = false, nb::arg("trim") = true,
            nb::arg("write_zeroes") = true, nb::arg("fast_zero") = true)
        .def_prop_ro("id", [](const PyNbdConnection &self) { return self->id(); })
        .def(
            "stats", [](PyNbdConnection &self) { return NbdConnectionStats(self->stats()); }, unlocked)
        .def_prop_ro(
            "connected", [](PyNbdConnection &self) { return !self->dead(); }, unlocked)
        .def_prop_ro("drained", [](const PyNbdConnection &self) { return self->drained(); })
        .def(
            "disconnect", [](PyNbdConnection &self) { self->disconnect(); }, unlocked)
        .def("close", [](PyNbdConnection &self) { self->close(); }, unlocked);
}

}  // namespace ftl
