// SPDX-License-Identifier: BSD-3-Clause
#include "reactor/crossing.hpp"

#include <stdexcept>

#include "base/crc32c.hpp"
#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"

namespace ftl {
namespace {

std::shared_ptr<BlockDevice> not_a_crossing(std::shared_ptr<BlockDevice> device) {
    if (!device) {
        throw std::invalid_argument("crossing: no device is given");
    }
    if (dynamic_cast<Crossing *>(device.get()) != nullptr) {
        throw std::invalid_argument("crossing: the device is a crossing itself, and an I/O can pass only one");
    }
    return device;
}

Lease *leases_of(const Io &io) noexcept {
    return static_cast<Lease *>(io.crossed_leases);
}

}  // namespace

// --- the core's reactor

Landing::Landing(std::shared_ptr<Reactor> front, Reactor &core, std::shared_ptr<BlockDevice> device, uint32_t leases)
    : front_(std::move(front)), core_(core), device_(std::move(device)), leases_(leases) {
    parts_.reserve(leases);
    for (Lease &lease : leases_) {
        lease.link = empty_;
        empty_ = &lease;
    }
}

uint32_t Landing::poll(uint64_t now_ns) noexcept {
    if (closing.load(std::memory_order_acquire)) {
        leave();
        return 1;
    }
    uint32_t work = 0;
    if (wakes_) {
        wakes_ = false;
        front_->wake();
        ++work;
    }
    // Cancels first: the Io of each that is here now is among those taken below, or was taken before.
    Io *cancelled = cancels.take();
    for (Io *io = sent.take(); io != nullptr; ++work) {
        Io *next = io->next;
        submit(*io);
        io = next;
    }
    uint64_t cancels_done = 0;
    while (cancelled != nullptr) {
        Io *next = cancelled->crossed_cancel;
        // One that is done is the front's again, as soon as this cancel counts as seen.
        if (!cancelled->crossed_done) {
            device_->cancel(*cancelled);
        }
        cancelled = next;
        ++cancels_done;
    }
    if (cancels_done > 0) {
        cancels_seen.store(cancels_seen.load(std::memory_order_relaxed) + cancels_done, std::memory_order_release);
        wakes_ = true;
        ++work;
    }
    for (Lease *lease = returned.take(); lease != nullptr; ++work) {
        Lease *next = lease->link;
        release(*lease);
        lease = next;
    }
    if (wants_leases.load(std::memory_order_relaxed)) {
        work += refill(now_ns);
    }
    return work;
}

void Landing::submit(Io &io) noexcept {
    if (Lease *lease = leases_of(io); lease != nullptr) {
        io.crossed_leases = nullptr;
        parts_.clear();
        Lease *const first = lease;
        for (; lease != nullptr; lease = lease->link) {
            parts_.push_back(&lease->io);
        }
        device_->adopt(io, parts_);
        for (lease = first; lease != nullptr;) {
            Lease *next = lease->link;
            if (MUTATED(lease_given_twice)) {
                filled.push(*lease);
            } else {
                lease->memory = nullptr;
                lease->link = empty_;
                empty_ = lease;
            }
            lease = next;
        }
    }
    io.complete = on_complete;
    io.owner = this;
    if (MUTATED(durability_not_crossed)) {
        io.fua = false;
        if (io.op == Op::flush) {
            io.status = status::ok;
            on_complete(io);
            return;
        }
    }
    device_->submit(io);
}

void Landing::on_complete(Io &io) noexcept {
    auto &landing = *static_cast<Landing *>(io.owner);
    io.crossed_done = true;
    landing.wakes_ = true;
    landing.done.push(io);
}

void Landing::release(Lease &lease) noexcept {
    device_->abandon(lease.io);
    lease.memory = nullptr;
    lease.link = empty_;
    empty_ = &lease;
}

// Reserves blocks for all empty leases. A device that has no room is left alone for a while: it needs all its room for
// writes that wait.
uint32_t Landing::refill(uint64_t now_ns) noexcept {
    const void *memory = device_->reserves();
    if (memory != nullptr && refill_at_ns_ != kNoRefill && now_ns < refill_at_ns_) {
        memory = nullptr;
    } else {
        refill_at_ns_ =
            memory == nullptr && reserves.load(std::memory_order_relaxed) != nullptr ? now_ns + kScarceNs : kNoRefill;
    }
    uint32_t count = 0;
    while (memory != nullptr && empty_ != nullptr) {
        Lease &lease = *empty_;
        lease.io.op = Op::write;
        lease.io.block_count = 1;
        lease.io.iov = &lease.iov;
        lease.io.iov_count = 0;
        if (!device_->reserve(lease.io, 1)) {
            memory = nullptr;
            refill_at_ns_ = now_ns + kScarceNs;
            break;
        }
        empty_ = lease.link;
        lease.memory = memory;
        filled.push(lease);
        ++count;
    }
    if (memory != reserves.load(std::memory_order_relaxed)) {
        reserves.store(memory, std::memory_order_release);
        ++count;
    }
    wakes_ |= count > 0;
    return count;
}

// Nobody else touches the leases now, wherever they are.
void Landing::leave() noexcept {
    for (Lease &lease : leases_) {
        if (lease.memory != nullptr) {
            release(lease);
        }
    }
    core_.remove(id_);
}

// --- the front's reactor

Crossing::Crossing(std::shared_ptr<Reactor> front, std::shared_ptr<Reactor> core, std::shared_ptr<BlockDevice> device,
                   uint32_t leases)
    : core_(std::move(core)),
      landing_(std::make_shared<Landing>(front, *core_, not_a_crossing(std::move(device)), leases)),
      leases_at_all_(leases > 0) {
    core_->call([this] { landing_->set_id(core_->add(landing_)); });
    registration_.emplace(std::move(front), *this);
}

Crossing::~Crossing() {
    registration_.reset();
    landing_->closing.store(true, std::memory_order_release);
    if (core_->running()) {
        core_->wake();
    } else {
        // Nobody may ever poll the landing, which shares the core's reactor with it.
        core_->call([this] { landing_->leave(); });  // does not wait: no thread runs
    }
}

void Crossing::submit(Io &io) noexcept {
    io.crossed_complete = io.complete;
    io.crossed_owner = io.owner;
    io.crossed_done = false;
    io.crossed_ticket = 0;
    io.crcs_known = false;
    ++stats_.ios;
    if (io.op == Op::write) {
        if (leases_at_all_ && !landing_->wants_leases.load(std::memory_order_relaxed)) {
            landing_->wants_leases.store(true, std::memory_order_relaxed);
        }
        for (Lease *lease = leases_of(io); lease != nullptr; lease = lease->link) {
            lease->io.crc = crc32c(0, lease->iov.iov_base, kBlockSize);
            io.crcs_known = true;
            ++stats_.leased_blocks;
            --stats_.leases;
        }
    }
    landing_->sent.push(io);
    wakes_ = true;
}

uint32_t Crossing::poll(uint64_t /*now_ns*/) noexcept {
    uint32_t work = 0;
    for (Io *io = landing_->done.take(); io != nullptr; ++work) {
        Io *next = io->next;
        if (io->crossed_ticket != 0) {
            early_.push(*io);
        } else if (!MUTATED(crossed_completion_lost) || io->op != Op::flush) {
            complete(*io);
        }
        io = next;
    }
    if (!early_.empty()) {
        const uint64_t seen = landing_->cancels_seen.load(std::memory_order_acquire);
        for (uint32_t left = early_.count(); left > 0; --left) {
            Io &io = *early_.pop();
            if (io.crossed_ticket > seen) {
                early_.push(io);
            } else {
                complete(io);
                ++work;
            }
        }
    }
    take_leases();
    if (wakes_) {
        wakes_ = false;
        ++work;
        core_->wake();
    }
    return work;
}

void Crossing::complete(Io &io) noexcept {
    io.complete = io.crossed_complete;
    io.owner = io.crossed_owner;
    io.crcs_known = false;
    io.complete(io);
}

void Crossing::give_back(Lease &lease) noexcept {
    --stats_.leases;
    landing_->returned.push(lease);
    wakes_ = true;
}

void Crossing::keep(Lease &lease) noexcept {
    if (lease.memory != memory_ && !MUTATED(old_lease_kept)) {
        give_back(lease);
        return;
    }
    lease.link = free_;
    free_ = &lease;
    ++free_count_;
}

void Crossing::take_leases() noexcept {
    // In this order: a lease that is here was reserved from the memory that `reserves` names then, or from earlier one.
    Lease *lease = landing_->filled.take();
    const void *memory = landing_->reserves.load(std::memory_order_acquire);
    if (memory != memory_) {
        memory_ = memory;
        Lease *old = free_;
        free_ = nullptr;
        free_count_ = 0;
        while (old != nullptr) {
            Lease *next = old->link;
            keep(*old);
            old = next;
        }
    }
    while (lease != nullptr) {
        Lease *next = lease->link;
        ++stats_.leases;
        keep(*lease);
        lease = next;
    }
}

bool Crossing::reserve(Io &io, uint32_t iov_room) noexcept {
    const uint32_t count = io.block_count;
    if (io.fua || count == 0 || count > free_count_) {
        return false;
    }
    uint32_t entries = 0;
    const Lease *lease = free_;
    const uint8_t *end = nullptr;
    for (uint32_t i = 0; i < count; ++i, lease = lease->link) {
        const auto *block = static_cast<const uint8_t *>(lease->iov.iov_base);
        entries += block != end ? 1 : 0;
        end = block + kBlockSize;
    }
    if (entries > iov_room) {
        return false;
    }
    entries = 0;
    Lease *last = nullptr;
    io.crossed_leases = free_;
    for (uint32_t i = 0; i < count; ++i) {
        last = free_;
        free_ = free_->link;
        const Lease *into = MUTATED(lease_of_another) && count == 1 && free_ != nullptr ? free_ : last;
        entries = add_piece(io.iov, entries, static_cast<uint8_t *>(into->iov.iov_base), kBlockSize);
    }
    last->link = nullptr;
    free_count_ -= count;
    io.iov_count = entries;
    return true;
}

void Crossing::abandon(Io &io) noexcept {
    Lease *lease = leases_of(io);
    io.crossed_leases = nullptr;
    while (lease != nullptr) {
        Lease *next = lease->link;
        keep(*lease);
        lease = next;
    }
}

void Crossing::cancel(Io &io) noexcept {
    if (io.crossed_ticket == 0) {
        io.crossed_ticket = ++cancels_sent_;
        landing_->cancels.push(io);
        wakes_ = true;
    }
}

Crossing::Stats Crossing::stats() {
    Stats result;
    registration_->reactor().call([&] { result = stats_; });
    return result;
}

}  // namespace ftl
