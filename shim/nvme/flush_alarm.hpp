// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>

namespace ftl {

// Something a host was told is accepted is lost: its next Flush has to fail, once, whichever of its queues it comes by.
class FlushAlarm {
public:
    [[nodiscard]] bool armed() const noexcept { return armed_.load(std::memory_order_relaxed); }
    // True for one caller only.
    [[nodiscard]] bool take() noexcept { return armed() && armed_.exchange(false, std::memory_order_relaxed); }

private:
    std::atomic<bool> armed_{true};
};

}  // namespace ftl
