// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>

namespace ftl {

// Data that was acknowledged to a host is lost. The host's next Flush must fail once, on whichever of its queues it
// arrives.
class FlushAlarm {
public:
    [[nodiscard]] bool armed() const noexcept { return armed_.load(std::memory_order_relaxed); }
    // True for one caller only.
    [[nodiscard]] bool take() noexcept { return armed() && armed_.exchange(false, std::memory_order_relaxed); }

private:
    std::atomic<bool> armed_{true};
};

}  // namespace ftl
