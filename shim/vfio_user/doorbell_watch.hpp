// SPDX-License-Identifier: BSD-3-Clause
// One thread that looks at the doorbells of all idle queues of the process, so that their reactors can sleep: many idle
// queues cost as little as one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "reactor/reactor.hpp"

namespace ftl {

// The doorbells of one queue, side by side: the tail of the SQ and the head of the CQ.
class WatchedDoorbells {
public:
    // Control path. The reactor must exist as long as this.
    WatchedDoorbells(uint64_t *doorbells, Reactor &reactor);
    ~WatchedDoorbells();
    WatchedDoorbells(const WatchedDoorbells &) = delete;
    WatchedDoorbells &operator=(const WatchedDoorbells &) = delete;

    // Reactor thread: wake the reactor, once, when the doorbells have another value than this.
    void arm(uint64_t seen) noexcept;
    void disarm() noexcept;
    [[nodiscard]] bool armed() const noexcept { return armed_.load(std::memory_order_relaxed); }

private:
    friend class DoorbellWatch;

    // The watch's thread, which holds the watch's mutex. True: they have been rung.
    bool look() noexcept;

    uint64_t *const doorbells_;
    Reactor &reactor_;
    std::atomic<uint64_t> seen_{0};
    std::atomic<bool> armed_{false};
};

class DoorbellWatch {
public:
    static constexpr uint64_t kPeriodNs = 2'000'000;
    // While nobody rings and no queue becomes idle, the period grows to this part of the time since then.
    static constexpr uint64_t kPeriodPart = 64;
    static constexpr uint64_t kPeriodMaxNs = 20'000'000;

    static DoorbellWatch &of_process();
    ~DoorbellWatch();
    DoorbellWatch(const DoorbellWatch &) = delete;
    DoorbellWatch &operator=(const DoorbellWatch &) = delete;

private:
    friend class WatchedDoorbells;

    DoorbellWatch();
    void add(WatchedDoorbells &doorbells);
    void remove(WatchedDoorbells &doorbells);
    void one_more() noexcept;
    void one_less() noexcept { armed_.fetch_sub(1, std::memory_order_relaxed); }
    void run() noexcept;
    void nap(uint64_t period_ns) noexcept;

    std::mutex mutex_;
    std::vector<WatchedDoorbells *> all_;
    std::atomic<uint32_t> armed_{0};   // the thread sleeps while it is 0
    std::atomic<bool> recent_{false};  // a queue became idle since the thread last looked
    std::atomic<bool> far_{false};     // the thread sleeps for longer than kPeriodNs
    std::atomic<bool> stopping_{false};
    int nudge_fd_ = -1;   // ends such a sleep
    std::thread thread_;  // started with the first queue
};

}  // namespace ftl
