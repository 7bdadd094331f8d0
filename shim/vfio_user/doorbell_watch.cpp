// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/doorbell_watch.hpp"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <system_error>

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

bool WatchedDoorbells::look() noexcept {
    if (!armed_.load(std::memory_order_acquire) ||
        std::atomic_ref<uint64_t>(*doorbells_).load(std::memory_order_relaxed) ==
            seen_.load(std::memory_order_relaxed)) {
        return false;
    }
    disarm();
    reactor_.wake();
    return true;
}

DoorbellWatch &DoorbellWatch::of_process() {
    static DoorbellWatch watch;
    return watch;
}

DoorbellWatch::DoorbellWatch() : nudge_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (nudge_fd_ < 0) {
        throw std::system_error(errno, std::generic_category(), "eventfd");
    }
}

DoorbellWatch::~DoorbellWatch() {
    stopping_ = true;
    one_more();
    if (thread_.joinable()) {
        thread_.join();
    }
    ::close(nudge_fd_);
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
    recent_.store(true);
    if (armed_.fetch_add(1, std::memory_order_relaxed) == 0) {
        armed_.notify_one();
    }
    if (far_.exchange(false)) {
        const uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = ::write(nudge_fd_, &one, sizeof one);
    }
}

void DoorbellWatch::run() noexcept {
    // Since the last ring. What the thread slept beyond its periods does not count: it only makes the watch closer.
    uint64_t quiet_ns = 0;
    while (!stopping_.load(std::memory_order_relaxed)) {
        armed_.wait(0, std::memory_order_relaxed);
        bool rung = false;
        {
            const std::lock_guard lock(mutex_);
            for (WatchedDoorbells *doorbells : all_) {
                rung |= doorbells->look();
            }
        }
        if (recent_.exchange(false) || rung) {
            quiet_ns = 0;
        }
        const uint64_t period_ns = std::clamp(quiet_ns / kPeriodPart, kPeriodNs, kPeriodMaxNs);
        nap(period_ns);
        quiet_ns += period_ns;
    }
}

void DoorbellWatch::nap(uint64_t period_ns) noexcept {
    far_.store(period_ns > kPeriodNs);
    // Whoever became idle before far_ was visible has not nudged.
    const uint64_t wait_ns = recent_.load() ? kPeriodNs : period_ns;
    const timespec timeout{0, static_cast<long>(wait_ns)};
    pollfd nudge{nudge_fd_, POLLIN, 0};
    if (ppoll(&nudge, 1, &timeout, nullptr) > 0) {
        uint64_t count;
        [[maybe_unused]] const ssize_t got = ::read(nudge_fd_, &count, sizeof count);
    }
    far_.store(false);
}

}  // namespace ftl
