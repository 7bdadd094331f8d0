// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/delay.hpp"

#include <algorithm>
#include <utility>

#include "virtual/plain.hpp"

namespace ftl {

Delay::Delay(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, const Latencies &latencies_ns)
    : Forwarder(std::move(base)), latencies_ns_(latencies_ns), registration_(std::move(reactor), *this) {
    make_plain(info_);
}

void Delay::came_back(Io &io) noexcept {
    if (io.op != Op::read && io.op != Op::write) {
        io.complete(io);
        return;
    }
    const bool slow = prng_.below(kOneIn) == 0;
    const size_t kind = io.op == Op::read ? (slow ? p99_read : avg_read) : (slow ? p99_write : avg_write);
    io.device_data[kOwn] = registration_.reactor().now_ns() + latencies_ns_[kind];
    held_[kind].push(io);
}

uint32_t Delay::poll(uint64_t now_ns) noexcept {
    uint32_t count = Forwarder::poll(now_ns);
    for (IoList &list : held_) {
        IoList due;
        while (!list.empty() && list.front()->device_data[kOwn] <= now_ns) {
            due.push(*list.pop());
        }
        while (Io *io = due.pop()) {
            io->complete(*io);
            ++count;
        }
    }
    return count;
}

uint64_t Delay::deadline_ns() const noexcept {
    uint64_t deadline = ~uint64_t{0};
    for (const IoList &list : held_) {
        if (!list.empty()) {
            deadline = std::min(deadline, list.front()->device_data[kOwn]);
        }
    }
    return deadline;
}

void Delay::cancel(Io &io) noexcept {
    if (io.device_data[kChild] == 0) {
        for (IoList &list : held_) {
            if (abort_held(list, io)) {
                return;
            }
        }
    }
    Forwarder::cancel(io);
}

void Delay::set_latency(Kind kind, uint64_t latency_ns) {
    registration_.reactor().call([&] { latencies_ns_[kind] = latency_ns; });
}

}  // namespace ftl
