// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include <system_error>
#include <utility>

namespace ftl {

// Calls fn without the GIL. A std::system_error becomes an OSError.
template <typename Fn>
decltype(auto) with_os_errors(Fn &&fn) {
    try {
        const nanobind::gil_scoped_release unlocked;
        return std::forward<Fn>(fn)();
    } catch (const std::system_error &error) {
        PyErr_SetObject(PyExc_OSError, nanobind::make_tuple(error.code().value(), error.what()).ptr());
        throw nanobind::python_error();
    }
}

}  // namespace ftl
