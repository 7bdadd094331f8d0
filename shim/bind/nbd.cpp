// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>

#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "nbd/nbd_connection.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

// An NbdConnection for Python: its destructor does not throw, and does not free memory that a device still uses.
class PyNbdConnection {
public:
    PyNbdConnection(std::shared_ptr<Reactor> reactor, int fd, const NbdConnectionConfig &config,
                    std::shared_ptr<BlockDevice> device)
        : connection_(std::make_unique<NbdConnection>(std::move(reactor), fd, config, std::move(device))) {}
    PyNbdConnection(const PyNbdConnection &) = delete;
    PyNbdConnection &operator=(const PyNbdConnection &) = delete;
    ~PyNbdConnection() {
        try {
            const nb::gil_scoped_release unlocked;
            connection_->close();
        } catch (...) {
            [[maybe_unused]] const auto *leaked = connection_.release();
        }
    }
    [[nodiscard]] NbdConnection &connection() const noexcept { return *connection_; }

private:
    std::unique_ptr<NbdConnection> connection_;
};

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
                new (self) PyNbdConnection(std::move(reactor), fd, config, std::move(device));
            },
            nb::arg("reactor"), nb::arg("fd"), nb::arg("device"), nb::kw_only(), nb::arg("block_count"),
            nb::arg("read_only") = false, nb::arg("structured_replies") = false, nb::arg("trim") = true,
            nb::arg("write_zeroes") = true, nb::arg("fast_zero") = true)
        .def_prop_ro("id", [](const PyNbdConnection &self) { return self.connection().id(); })
        .def(
            "stats", [](PyNbdConnection &self) { return NbdConnectionStats(self.connection().stats()); }, unlocked)
        .def_prop_ro(
            "connected", [](PyNbdConnection &self) { return !self.connection().dead(); }, unlocked)
        .def_prop_ro("drained", [](const PyNbdConnection &self) { return self.connection().drained(); })
        .def(
            "disconnect", [](PyNbdConnection &self) { self.connection().disconnect(); }, unlocked)
        .def("close", [](PyNbdConnection &self) { self.connection().close(); }, unlocked);
}

}  // namespace ftl
