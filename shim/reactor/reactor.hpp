// SPDX-License-Identifier: BSD-3-Clause
// One thread that owns a set of pollers (qpairs, media, FTL cores): it polls while there is work, and sleeps in epoll
// when idle. If it is not started, the caller's thread drives it with step(): simulation and tests.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "reactor/event.hpp"

namespace ftl {

// Something the reactor polls. Every method runs on the reactor's thread.
class Poller {
public:
    virtual ~Poller() = default;
    virtual uint32_t poll(uint64_t now_ns) noexcept = 0;  // returns how much was done
    [[nodiscard]] virtual bool busy() const noexcept { return false; }
    // It has asked somebody for something, and the answer may come within microseconds.
    [[nodiscard]] virtual bool awaits() const noexcept { return false; }
    // Little is awaited, from another processor: others have nothing to do before it comes, so the reactor does not
    // offer them this processor.
    [[nodiscard]] virtual bool hurries() const noexcept { return false; }
    // Its peer runs on this processor, and has nothing to do before this side goes on: while the reactor polls, the
    // peer can't answer.
    [[nodiscard]] virtual bool blocks_peer() const noexcept { return false; }
    // The fd to sleep on; -1 for none. EPOLLIN when wants_read(), EPOLLOUT when wants_write().
    [[nodiscard]] virtual int fd() const noexcept { return -1; }
    [[nodiscard]] virtual bool wants_read() const noexcept { return true; }
    [[nodiscard]] virtual bool wants_write() const noexcept { return false; }
    // The fd is readable or writable, after a sleep: the next poll() looks at it.
    virtual void ready() noexcept {}
    // Earliest time at which poll() has something to do although no fd is ready; ~0 for never.
    [[nodiscard]] virtual uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
};

class Reactor {
public:
    // All blocks of a band may be lost, but half of the ring is enough for these events. The other half is for events
    // that Python waits for: I/O of ports (a few ports with some 128 each), drains (16), and one event for each qpair
    // and for each band or zone with an order from Python. If the event loop stalls long enough, these may overflow the
    // ring, too, so any event may be dropped. The overflow event then tells Python, which asks for everything that it
    // waits for.
    static constexpr size_t kEventRing = 8192;
    static constexpr size_t kLostBlocksMax = kEventRing / 2;

    // Limit on how long a reactor polls for what a poller awaits. A processor that sleeps takes some 50 us to wake up
    // in a virtual machine.
    static constexpr uint64_t kAwaitMaxNs = 200'000;
    static constexpr uint64_t kHurryMaxNs = 10'000;  // for how long after the last work a poller may hurry

    // spin_us: how long to continue polling after the last work before sleeping. While a poller awaits something, the
    // reactor continues longer, up to kAwaitMaxNs, if it has slept before for less than that. While one blocks its
    // peer, and none awaits something, the reactor sleeps at once: sched_yield() gives the processor only to threads of
    // the same cgroup and, with autogroups, of the same session.
    explicit Reactor(std::string name, uint32_t spin_us = 20);
    ~Reactor();
    Reactor(const Reactor &) = delete;
    Reactor &operator=(const Reactor &) = delete;

    // cpu: the thread runs on that CPU alone; negative: where the kernel puts it. Throws std::system_error.
    void start(int cpu = -1);
    void stop();  // idempotent; joins the thread
    [[nodiscard]] bool running() const noexcept { return running_.load(std::memory_order_acquire); }
    // Any thread: how often every poller has been polled. After a wake() it rises, unless a poller hangs.
    [[nodiscard]] uint64_t rounds() const noexcept { return rounds_.load(std::memory_order_relaxed); }

    // Drives the pollers once from the calling thread. Only while not running. Returns work done.
    uint32_t step();

    // Runs fn on the reactor's thread and waits for it. If the reactor is not running, runs fn in the caller's thread
    // at once. Control path only. An exception of fn is rethrown here.
    void call(const std::function<void()> &fn);

    // Any thread: wakes the reactor, so that every poller is polled soon. Cheap while the reactor is awake.
    void wake() noexcept;

    // Reactor thread only. Another process, perhaps one that needs this processor, has got work: it may run after this
    // round.
    void let_others_run() noexcept { others_run_ = true; }

    // Reactor thread only. True: the reactor will sleep unless this round finds work. If an fd is readable, the sleep
    // ends at once, so this round need not ask it.
    [[nodiscard]] bool settling() const noexcept { return settling_; }

    // Reactor thread only (or inside call()). Events have the returned id as `source`. The reactor shares ownership
    // until remove(). Any poll() may call remove(), even for its own poller.
    uint32_t add(std::shared_ptr<Poller> poller);
    void remove(uint32_t id);

    // Reactor thread only. Never blocks or allocates.
    void emit(EventKind kind, uint32_t source, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) noexcept;
    // Reactor thread only. True: the next emit() will be kept, unless it is block_lost.
    [[nodiscard]] bool has_room() const noexcept;
    // Reactor thread only. Reports an overflow, like an emit() that is dropped.
    void drop() noexcept;

    // Any thread (one consumer).
    [[nodiscard]] int event_fd() const noexcept { return event_fd_; }
    std::vector<Event> events();

    // Monotonic, and cached for each round of polls. In step mode, the time of the last set_now(), if there was one.
    [[nodiscard]] uint64_t now_ns() const noexcept { return now_ns_; }
    void set_now(uint64_t now_ns) noexcept;  // simulation

    // Any thread. How the reactor's own thread has spent its time: in rounds that found work, and in others, asleep or
    // not. The times stand still while it sleeps, for kSleepMaxNs at most.
    [[nodiscard]] uint64_t busy_ns() const noexcept { return busy_ns_.load(std::memory_order_relaxed); }
    [[nodiscard]] uint64_t idle_ns() const noexcept { return idle_ns_.load(std::memory_order_relaxed); }

private:
    struct Entry {
        uint32_t id;
        std::shared_ptr<Poller> poller;
        bool removed = false;  // no longer polled; removed after the round, because it may be the one being polled
        int watched_fd = -1;
        bool watched_read = false;
        bool watched_write = false;
    };

    // What one of the pollers says, or several.
    struct Mood {
        bool busy = false;
        bool awaits = false;
        bool hurries = false;
        bool blocks_peer = false;
    };

    void run();
    uint32_t poll_round();
    [[nodiscard]] Mood mood(bool worked) const noexcept;
    void run_calls();
    void sweep();
    void refresh_clock() noexcept;
    void watch_fds();
    void rebuild_epoll();
    void adapt_patience(uint64_t waited_ns) noexcept;
    bool sleep();  // true: there was work after all
    void signal_events() noexcept;

    std::string name_;
    uint64_t spin_ns_;
    uint64_t patience_ns_;  // how long to poll for what is awaited
    int epoll_fd_ = -1;
    int wake_fd_ = -1;
    int event_fd_ = -1;

    std::thread thread_;
    std::atomic<bool> running_{false};
    std::atomic<bool> stopping_{false};
    std::atomic<bool> asleep_{false};
    std::atomic<std::thread::id> owner_{};
    std::atomic<uint64_t> rounds_{0};  // only the owner writes it

    std::vector<Entry> entries_;
    std::vector<Entry> added_;  // added during a poll(); moved to entries_ after the round
    bool polling_ = false;
    bool others_run_ = false;
    bool settling_ = false;
    bool swept_needed_ = false;
    uint64_t now_ns_ = 0;
    bool simulated_clock_ = false;
    std::atomic<uint64_t> busy_ns_{0};  // written by the reactor's thread alone, like the next
    std::atomic<uint64_t> idle_ns_{0};

    struct Call {
        const std::function<void()> *fn;
        std::exception_ptr error;
        bool done = false;
    };
    std::recursive_mutex direct_mutex_;  // serialises call() and step() while no thread runs
    std::mutex call_mutex_;
    std::condition_variable call_done_;
    std::vector<Call *> calls_;
    std::atomic<bool> calls_pending_{false};

    std::array<Event, kEventRing> ring_{};
    std::atomic<uint64_t> ring_head_{0};   // next to write
    std::atomic<uint64_t> ring_tail_{0};   // next to read
    std::atomic<uint32_t> overflowed_{0};  // 0: nothing was dropped; otherwise the next free id at that time
    std::atomic<bool> signalled_{false};
};

}  // namespace ftl
