// SPDX-License-Identifier: BSD-3-Clause
#include "reactor/reactor.hpp"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace ftl {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};
constexpr uint64_t kNsPerMs = 1'000'000;
// A reactor with nothing to do wakes this often nevertheless, to notice a deadline that nobody has told it of.
constexpr uint64_t kSleepMaxNs = 1000 * kNsPerMs;
constexpr int kEpollBatch = 64;
constexpr uint64_t kWakeTag = ~uint64_t{0};

// Of all reactors: whoever mistakes the reactor of a poller finds nothing there, instead of another poller.
std::atomic<uint32_t> next_id{1};

uint64_t monotonic_ns() noexcept {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

int checked(int fd, const char *what) {
    if (fd < 0) {
        throw std::system_error(errno, std::generic_category(), what);
    }
    return fd;
}

void signal_eventfd(int fd) noexcept {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);  // EAGAIN: the eventfd is already signalled
}

void clear_eventfd(int fd) noexcept {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof count);
}

}  // namespace

Reactor::Reactor(std::string name, uint32_t spin_us)
    : name_(std::move(name)), spin_ns_(uint64_t{spin_us} * 1000), patience_ns_(spin_ns_) {
    wake_fd_ = checked(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
    event_fd_ = checked(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
    rebuild_epoll();
    refresh_clock();
}

Reactor::~Reactor() {
    stop();
    entries_.clear();
    added_.clear();
    ::close(epoll_fd_);
    ::close(wake_fd_);
    ::close(event_fd_);
}

void Reactor::start(int cpu) {
    const std::lock_guard direct(direct_mutex_);
    if (running()) {
        throw std::logic_error("reactor " + name_ + " is already running");
    }
    stopping_ = false;
    simulated_clock_ = false;
    running_ = true;
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), name_.substr(0, 15).c_str());
    if (cpu >= 0) {
        cpu_set_t *set = CPU_ALLOC(cpu + 1);
        const size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
        CPU_ZERO_S(bytes, set);
        CPU_SET_S(static_cast<size_t>(cpu), bytes, set);
        const int error = pthread_setaffinity_np(thread_.native_handle(), bytes, set);
        CPU_FREE(set);
        if (error != 0) {
            stop();
            throw std::system_error(error, std::generic_category(),
                                    "reactor " + name_ + " can't run on CPU " + std::to_string(cpu));
        }
    }
}

void Reactor::stop() {
    if (!thread_.joinable()) {
        return;
    }
    if (std::this_thread::get_id() == thread_.get_id()) {
        throw std::logic_error("reactor " + name_ + " can't be stopped from its own thread");
    }
    stopping_ = true;
    signal_eventfd(wake_fd_);
    thread_.join();
    thread_ = std::thread();
}

void Reactor::run() {
    owner_ = std::this_thread::get_id();
    refresh_clock();
    uint64_t last_work_ns = now_ns_;
    bool worked = false;
    bool slept = false;  // since the last work, while something was awaited
    while (!stopping_.load(std::memory_order_acquire)) {
        const uint64_t before_ns = now_ns_;
        refresh_clock();
        std::atomic<uint64_t> &spent_ns = worked ? busy_ns_ : idle_ns_;
        spent_ns.store(spent_ns.load(std::memory_order_relaxed) + (now_ns_ - before_ns), std::memory_order_relaxed);
        worked = false;
        if (calls_pending_.load(std::memory_order_acquire)) {
            run_calls();
            last_work_ns = now_ns_;
            worked = true;
        }
        if (poll_round() > 0) {
            if (slept) {
                slept = false;
                adapt_patience(now_ns_ - last_work_ns);
            }
            last_work_ns = now_ns_;
            worked = true;
        }
        const bool others_run = std::exchange(others_run_, false);
        const Mood mood = this->mood(worked);
        const bool gives_way = mood.blocks_peer && !mood.busy && !mood.awaits;
        if (worked && !gives_way) {
            if (others_run) {
                sched_yield();
            }
            continue;
        }
        if (mood.hurries && spin_ns_ > 0 && now_ns_ - last_work_ns < kHurryMaxNs) {
            continue;
        }
        if (mood.busy || (!gives_way && now_ns_ - last_work_ns < (mood.awaits ? patience_ns_ : spin_ns_))) {
            sched_yield();  // the peer may need this core to make the progress that we poll for
            continue;
        }
        worked = sleep();
        slept = mood.awaits && !worked;
        if (worked) {
            last_work_ns = now_ns_;
        }
    }
    {
        // Calls queued before the end still run. Later calls find running_ false and run in their caller's thread.
        const std::lock_guard lock(call_mutex_);
        running_ = false;
    }
    run_calls();
    owner_ = std::thread::id();
}

// worked: another round follows unless the reactor gives way, so it is enough to know that it does not.
Reactor::Mood Reactor::mood(bool worked) const noexcept {
    Mood mood;
    for (const Entry &entry : entries_) {
        if (worked && (mood.busy || mood.awaits)) {
            break;
        }
        mood.busy |= entry.poller->busy();
        mood.awaits |= entry.poller->awaits();
        mood.hurries |= entry.poller->hurries();
        mood.blocks_peer |= entry.poller->blocks_peer();
    }
    return mood;
}

// The reactor has slept, and the work that it awaited came after waited_ns.
void Reactor::adapt_patience(uint64_t waited_ns) noexcept {
    if (spin_ns_ > 0) {
        patience_ns_ = waited_ns > kAwaitMaxNs ? spin_ns_ : std::max(spin_ns_, std::min(2 * patience_ns_, kAwaitMaxNs));
    }
}

uint32_t Reactor::step() {
    const std::lock_guard direct(direct_mutex_);
    if (running()) {
        throw std::logic_error("reactor " + name_ + " has its own thread: step() works only on a stopped reactor");
    }
    refresh_clock();
    return poll_round();
}

uint32_t Reactor::poll_round() {
    uint32_t work = 0;
    polling_ = true;
    for (Entry &entry : entries_) {
        if (!entry.removed) {
            work += entry.poller->poll(now_ns_);
        }
    }
    polling_ = false;
    rounds_.store(rounds_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (swept_needed_ || !added_.empty()) {
        sweep();
    }
    return work;
}

void Reactor::sweep() {
    swept_needed_ = false;
    // These may be the last references to the pollers, whose destructors may call remove(). They run at the end of this
    // function, when entries_ is consistent again.
    const auto first =
        std::stable_partition(entries_.begin(), entries_.end(), [](const Entry &entry) { return !entry.removed; });
    const std::vector<Entry> gone(std::make_move_iterator(first), std::make_move_iterator(entries_.end()));
    entries_.erase(first, entries_.end());
    for (Entry &entry : added_) {
        entries_.push_back(std::move(entry));
    }
    added_.clear();
}

void Reactor::call(const std::function<void()> &fn) {
    if (std::this_thread::get_id() == owner_ && running()) {
        fn();
        return;
    }
    Call request{&fn, nullptr};
    {
        std::unique_lock lock(call_mutex_);
        if (running_.load(std::memory_order_acquire)) {
            calls_.push_back(&request);
            calls_pending_.store(true, std::memory_order_release);
            signal_eventfd(wake_fd_);
            call_done_.wait(lock, [&] { return request.done; });
            lock.unlock();
            if (request.error) {
                std::rethrow_exception(request.error);
            }
            return;
        }
    }
    const std::lock_guard direct(direct_mutex_);
    refresh_clock();
    fn();
}

void Reactor::run_calls() {
    std::vector<Call *> calls;
    {
        const std::lock_guard lock(call_mutex_);
        calls.swap(calls_);
        calls_pending_.store(false, std::memory_order_release);
    }
    for (Call *request : calls) {
        try {
            (*request->fn)();
        } catch (...) {
            request->error = std::current_exception();
        }
    }
    {
        const std::lock_guard lock(call_mutex_);
        for (Call *request : calls) {
            request->done = true;
        }
    }
    call_done_.notify_all();
    if (swept_needed_) {
        sweep();
    }
}

void Reactor::wake() noexcept {
    // Pairs with the fence in sleep(): either this thread sees asleep_, or the sleeper sees what was published before
    // wake().
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_relaxed)) {
        signal_eventfd(wake_fd_);
    }
}

uint32_t Reactor::add(std::shared_ptr<Poller> poller) {
    const uint32_t id = next_id.fetch_add(1, std::memory_order_relaxed);
    Entry entry{id, std::move(poller)};
    if (polling_) {
        added_.push_back(std::move(entry));
    } else {
        entries_.push_back(std::move(entry));
    }
    return id;
}

void Reactor::remove(uint32_t id) {
    const auto matches = [id](const Entry &entry) { return entry.id == id && !entry.removed; };
    std::erase_if(added_, matches);
    const auto found = std::find_if(entries_.begin(), entries_.end(), matches);
    if (found == entries_.end()) {
        return;
    }
    if (found->watched_fd >= 0) {
        epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, found->watched_fd, nullptr);
    }
    if (polling_) {
        found->removed = true;
        swept_needed_ = true;
    } else {
        const std::shared_ptr<Poller> last = std::move(found->poller);
        entries_.erase(found);
    }
}

void Reactor::refresh_clock() noexcept {
    if (!simulated_clock_) {
        now_ns_ = monotonic_ns();
    }
}

void Reactor::set_now(uint64_t now_ns) noexcept {
    simulated_clock_ = true;
    now_ns_ = now_ns;
}

void Reactor::rebuild_epoll() {
    if (epoll_fd_ >= 0) {
        ::close(epoll_fd_);
    }
    epoll_fd_ = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeTag;
    checked(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event), "epoll_ctl");
    for (Entry &entry : entries_) {
        entry.watched_fd = -1;
    }
}

void Reactor::watch_fds() {
    for (Entry &entry : entries_) {
        const int fd = entry.poller->fd();
        const bool wants_read = fd >= 0 && entry.poller->wants_read();
        const bool wants_write = fd >= 0 && entry.poller->wants_write();
        if (fd == entry.watched_fd && wants_read == entry.watched_read && wants_write == entry.watched_write) {
            continue;
        }
        if (entry.watched_fd >= 0 && entry.watched_fd != fd) {
            epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, entry.watched_fd, nullptr);  // a closed fd has left the set by itself
            entry.watched_fd = -1;
        }
        if (fd >= 0) {
            epoll_event event{};
            event.events = (wants_read ? uint32_t{EPOLLIN} : 0U) | (wants_write ? uint32_t{EPOLLOUT} : 0U);
            event.data.u64 = entry.id;
            if (epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event) != 0) {
                epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event);
            }
        }
        entry.watched_fd = fd;
        entry.watched_read = wants_read;
        entry.watched_write = wants_write;
    }
}

bool Reactor::sleep() {
    asleep_.store(true, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    // Whoever published before asleep_ became visible did not call wake(), so poll once more.
    settling_ = true;
    const bool worked = calls_pending_.load(std::memory_order_acquire) || poll_round() > 0;
    settling_ = false;
    if (worked) {
        asleep_.store(false, std::memory_order_relaxed);
        return true;
    }
    watch_fds();
    uint64_t wake_ns = now_ns_ + kSleepMaxNs;
    for (const Entry &entry : entries_) {
        wake_ns = std::min(wake_ns, entry.poller->deadline_ns());
    }
    const uint64_t now = monotonic_ns();
    const uint64_t wait_ns = wake_ns > now ? wake_ns - now : 0;
    const timespec timeout{static_cast<time_t>(wait_ns / 1'000'000'000), static_cast<long>(wait_ns % 1'000'000'000)};
    std::array<epoll_event, kEpollBatch> ready{};
    int count = epoll_pwait2(epoll_fd_, ready.data(), kEpollBatch, &timeout, nullptr);
    if (count < 0 && errno == ENOSYS) {  // Linux < 5.11
        count = epoll_wait(epoll_fd_, ready.data(), kEpollBatch, static_cast<int>((wait_ns + kNsPerMs - 1) / kNsPerMs));
    }
    asleep_.store(false, std::memory_order_relaxed);
    bool stale = false;
    for (int i = 0; i < count; ++i) {
        const uint64_t tag = ready[static_cast<size_t>(i)].data.u64;
        if (tag == kWakeTag) {
            clear_eventfd(wake_fd_);
            continue;
        }
        // A socket that its poller has closed stays in the set while another process or object holds a duplicate of it.
        stale |= std::none_of(entries_.begin(), entries_.end(), [tag](const Entry &entry) {
            if (entry.id != tag || entry.poller->fd() != entry.watched_fd || entry.watched_fd < 0) {
                return false;
            }
            entry.poller->ready();
            return true;
        });
    }
    if (stale) {
        rebuild_epoll();
    }
    return false;
}

void Reactor::emit(EventKind kind, uint32_t source, uint64_t a, uint64_t b, uint64_t c) noexcept {
    const uint64_t head = ring_head_.load(std::memory_order_relaxed);
    const size_t most = kind == EventKind::block_lost ? kLostBlocksMax : kEventRing;
    if (head - ring_tail_.load(std::memory_order_acquire) >= most) {
        overflowed_.store(next_id.load(std::memory_order_relaxed), std::memory_order_release);
    } else {
        ring_[head % kEventRing] = Event{kind, source, a, b, c};
        ring_head_.store(head + 1, std::memory_order_release);
    }
    signal_events();
}

bool Reactor::has_room() const noexcept {
    return ring_head_.load(std::memory_order_relaxed) - ring_tail_.load(std::memory_order_acquire) < kEventRing;
}

void Reactor::drop() noexcept {
    overflowed_.store(next_id.load(std::memory_order_relaxed), std::memory_order_release);
    signal_events();
}

void Reactor::signal_events() noexcept {
    if (!signalled_.exchange(true, std::memory_order_acq_rel)) {
        signal_eventfd(event_fd_);
    }
}

std::vector<Event> Reactor::events() {
    clear_eventfd(event_fd_);
    signalled_.store(false, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    std::vector<Event> result;
    uint64_t tail = ring_tail_.load(std::memory_order_relaxed);
    const uint64_t head = ring_head_.load(std::memory_order_acquire);
    result.reserve(static_cast<size_t>(head - tail));
    for (; tail != head; ++tail) {
        result.push_back(ring_[tail % kEventRing]);
    }
    ring_tail_.store(tail, std::memory_order_release);
    if (const uint32_t newer = overflowed_.exchange(0, std::memory_order_acq_rel); newer != 0) {
        result.push_back(Event{EventKind::overflow, 0, newer, 0, 0});
    }
    return result;
}

}  // namespace ftl
