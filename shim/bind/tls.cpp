// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cerrno>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "bind/bindings.hpp"
#include "bind/held_buffer.hpp"
#include "nvme/tls_session.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

void require_untaken(const TlsSession &session) {
    if (session.taken()) {
        throw std::invalid_argument("a qpair uses this TLS session");
    }
}

nb::object raise_errno() {
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
}

TlsPsk psk_of(std::string identity, const nb::bytes &key, bool sha384) {
    const auto *bytes = reinterpret_cast<const uint8_t *>(key.c_str());
    return {std::move(identity), std::vector<uint8_t>(bytes, bytes + key.size()), sha384};
}

// find_psk is destroyed after the handshake, at the latest with the session, on Python's thread: see TlsSession.
TlsSession::FindPsk calls(nb::callable find_psk) {
    auto held = std::make_shared<nb::callable>(std::move(find_psk));
    return [held](const std::string &identity) -> std::optional<TlsPsk> {
        const nb::object found = (*held)(nb::bytes(identity.data(), identity.size()));
        if (found.is_none()) {
            return std::nullopt;
        }
        const nb::tuple pair = nb::cast<nb::tuple>(found);
        return psk_of(identity, nb::cast<nb::bytes>(pair[0]), nb::cast<bool>(pair[1]));
    };
}

}  // namespace

// The calls keep the GIL: each one handles only a few records of one peer, and keys come from Python.
void bind_tls(nb::module_ &m) {
    nb::class_<TlsSession>(m, "TlsSession")
        .def_static(
            "as_host",
            [](int fd, std::string identity, const nb::bytes &key, bool sha384) {
                return TlsSession::as_host(fd, psk_of(std::move(identity), key, sha384));
            },
            nb::arg("fd"), nb::kw_only(), nb::arg("identity"), nb::arg("key"), nb::arg("sha384"))
        .def_static(
            "as_target",
            [](int fd, nb::callable find_psk) { return TlsSession::as_target(fd, calls(std::move(find_psk))); },
            nb::arg("fd"), nb::arg("find_psk"))
        .def("handshake",
             [](TlsSession &self) {
                 require_untaken(self);
                 return self.handshake();
             })
        .def(
            "read_into",
            [](TlsSession &self, const nb::object &buffer) -> nb::object {
                require_untaken(self);
                const HeldBuffer held(buffer, true);
                const iovec iov{held.data(), held.bytes()};
                const ssize_t got = self.read(&iov, 1);
                if (got < 0) {
                    return errno == EAGAIN ? nb::none() : raise_errno();
                }
                return nb::int_(got);
            },
            nb::arg("buffer"))
        .def(
            "write",
            [](TlsSession &self, const nb::object &data) -> nb::object {
                require_untaken(self);
                const HeldBuffer held(data, false);
                const iovec iov{held.data(), held.bytes()};
                const ssize_t taken = self.write(&iov, 1);
                if (taken < 0) {
                    return errno == EAGAIN ? nb::int_(0) : raise_errno();
                }
                return nb::int_(taken);
            },
            nb::arg("data"))
        .def("end_output",
             [](TlsSession &self) {
                 require_untaken(self);
                 self.end_output();
             })
        .def("close", &TlsSession::close)
        .def_prop_ro("error", &TlsSession::error)
        .def_prop_ro("established", &TlsSession::established)
        .def_prop_ro("identity",
                     [](const TlsSession &self) { return nb::bytes(self.identity().data(), self.identity().size()); })
        .def_prop_ro("cipher", &TlsSession::cipher)
        .def_prop_ro("kernel_sends", &TlsSession::kernel_sends)
        .def_prop_ro("kernel_receives", &TlsSession::kernel_receives)
        .def_prop_ro("has_input", &TlsSession::has_input)
        .def_prop_ro("holds_output", &TlsSession::holds_output)
        .def_prop_ro("bytes_received", &TlsSession::bytes_received);
}

}  // namespace ftl
