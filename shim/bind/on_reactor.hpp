// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>

#include "ftl/core.hpp"

namespace ftl {

// Calls fn on the reactor's thread, without the GIL.
template <typename Fn>
void on_reactor(FtlCore &core, Fn &&fn) {
    const std::shared_ptr<Reactor> reactor = core.state().reactor;
    const nanobind::gil_scoped_release unlocked;
    reactor->call(std::forward<Fn>(fn));
}

}  // namespace ftl
