// SPDX-License-Identifier: BSD-3-Clause
// When to look at doorbells again: they give no signal. Naps grow with the time without work, so a client that comes
// back waits for a small part of its own pause. After the longest nap another thread looks, and the reactor may sleep.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vfio_user/doorbell_watch.hpp"

namespace ftl {

class IdleNaps {
public:
    static constexpr uint64_t kNapMinNs = 20'000;
    static constexpr uint64_t kNapMaxNs = DoorbellWatch::kPeriodNs;
    static constexpr uint64_t kNapPart = 4;  // of the time without work

    IdleNaps(uint64_t *doorbells, Reactor &reactor) : watched_(doorbells, reactor), reactor_(reactor) {}

    // After a poll. seen: the doorbells as the poll has seen them.
    void polled(uint64_t now_ns, bool worked, uint64_t seen) noexcept {
        if (worked || worked_ns_ == 0) {
            worked_ns_ = now_ns;
        }
        const uint64_t idle_ns = now_ns > worked_ns_ ? now_ns - worked_ns_ : 0;
        const uint64_t nap_ns = std::max(idle_ns / kNapPart, kNapMinNs);
        if (nap_ns < kNapMaxNs) {
            watched_.disarm();
            next_ns_ = now_ns + nap_ns;
        } else if (reactor_.running()) {
            watched_.arm(seen);
            next_ns_ = ~uint64_t{0};
        }
    }
    void end() noexcept {
        watched_.disarm();
        next_ns_ = ~uint64_t{0};
    }
    [[nodiscard]] uint64_t next_ns() const noexcept { return next_ns_; }

private:
    WatchedDoorbells watched_;
    const Reactor &reactor_;
    uint64_t worked_ns_ = 0;
    uint64_t next_ns_ = 0;
};

}  // namespace ftl
