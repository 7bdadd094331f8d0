// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <thread>

#include "reactor/reactor.hpp"

namespace ftl {

// Control path: waits until the reactor's pollers have made done() true. Drives a reactor that has no thread. False:
// the time is over.
template <typename Done>
[[nodiscard]] bool wait_until(Reactor &reactor, std::chrono::nanoseconds time, Done &&done) {
    constexpr auto kPoll = std::chrono::microseconds(50);
    const auto until = std::chrono::steady_clock::now() + time;
    while (!done()) {
        if (std::chrono::steady_clock::now() > until) {
            return false;
        }
        if (reactor.running()) {
            std::this_thread::sleep_for(kPoll);
        } else {
            reactor.step();
        }
    }
    return true;
}

}  // namespace ftl
