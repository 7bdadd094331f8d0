// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>

namespace ftl {

// A device leaves its reactor when it is destroyed, and the reactor's thread may need the GIL meanwhile.
template <typename Device, typename... Args>
std::shared_ptr<Device> make_device(Args &&...args) {
    const nanobind::gil_scoped_release unlocked;
    return std::shared_ptr<Device>(new Device(std::forward<Args>(args)...), [](Device *device) {
        if (PyGILState_Check() != 0) {
            const nanobind::gil_scoped_release unlocked_again;
            delete device;
        } else {
            delete device;
        }
    });
}

}  // namespace ftl
