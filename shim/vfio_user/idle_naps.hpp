// SPDX-License-Identifier: BSD-3-Clause
// When to look at doorbells again: they give no signal. Naps grow with the time without work, so a client that comes
// back waits for a small part of its own pause, and for kNapMaxNs at most.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ftl {

class IdleNaps {
public:
    static constexpr uint64_t kNapMinNs = 20'000;
    static constexpr uint64_t kNapMaxNs = 2'000'000;
    static constexpr uint64_t kNapPart = 4;  // of the time without work

    void polled(uint64_t now_ns, bool worked) noexcept {
        if (worked || worked_ns_ == 0) {
            worked_ns_ = now_ns;
        }
        const uint64_t idle_ns = now_ns > worked_ns_ ? now_ns - worked_ns_ : 0;
        next_ns_ = now_ns + std::clamp(idle_ns / kNapPart, kNapMinNs, kNapMaxNs);
    }
    [[nodiscard]] uint64_t next_ns() const noexcept { return next_ns_; }

private:
    uint64_t worked_ns_ = 0;
    uint64_t next_ns_ = 0;
};

}  // namespace ftl
