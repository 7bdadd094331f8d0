// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/doorbell_watch.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>

namespace ftl {

WatchedDoorbells::WatchedDoorbells(uint64_t *doorbells, Reactor &reactor) : doorbells_(doorbells), reactor_(reactor) {
    DoorbellWatch::of_process().add(*this);
}

WatchedDoorbells::~WatchedDoorbells() {
    disarm();
    DoorbellWatch::of_process().remove(*this);
}

void WatchedDoorbells::arm(uint64_t seen) noexcept {
    seen_.store(seen, std::memory_order_relaxed);
    if (!armed_.exchange(true, std::memory_order_release)) {
        DoorbellWatch::of_process().one_more();
    }
}

void WatchedDoorbells::disarm() noexcept {
    if (armed_.load(std::memory_order_relaxed) && armed_.exchange(false, std::memory_order_relaxed)) {
        DoorbellWatch::of_process().one_less();
    }
}

void WatchedDoorbells::look() noexcept {
    if (!armed_.load(std::memory_order_acquire) ||
        std::atomic_ref<uint64_t>(*doorbells_).load(std::memory_order_relaxed) ==
            seen_.load(std::memory_order_relaxed)) {
        return;
    }
    disarm();
    reactor_.wake();
}

DoorbellWatch &DoorbellWatch::of_process() {
    static DoorbellWatch watch;
    return watch;
}

DoorbellWatch::~DoorbellWatch() {
    stopping_ = true;
    one_more();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void DoorbellWatch::add(WatchedDoorbells &doorbells) {
    const std::lock_guard lock(mutex_);
    all_.push_back(&doorbells);
    if (!thread_.joinable()) {
        thread_ = std::thread([this] { run(); });
        pthread_setname_np(thread_.native_handle(), "doorbells");
    }
}

void DoorbellWatch::remove(WatchedDoorbells &doorbells) {
    const std::lock_guard lock(mutex_);
    all_.erase(std::find(all_.begin(), all_.end(), &doorbells));
}

void DoorbellWatch::one_more() noexcept {
    if (armed_.fetch_add(1, std::memory_order_relaxed) == 0) {
        armed_.notify_one();
    }
}

void DoorbellWatch::run() noexcept {
    while (!stopping_.load(std::memory_order_relaxed)) {
        armed_.wait(0, std::memory_order_relaxed);
        {
            const std::lock_guard lock(mutex_);
            for (WatchedDoorbells *doorbells : all_) {
                doorbells->look();
            }
        }
        std::this_thread::sleep_for(std::chrono::nanoseconds(kPeriodNs));
    }
}

}  // namespace ftl
