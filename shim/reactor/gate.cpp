// SPDX-License-Identifier: BSD-3-Clause
#include "reactor/gate.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace ftl {
namespace {

std::shared_ptr<BlockDevice> checked(std::shared_ptr<BlockDevice> device) {
    if (!device) {
        throw std::invalid_argument("gate: no device is given");
    }
    if (dynamic_cast<Gate *>(device.get()) != nullptr) {
        throw std::invalid_argument("gate: the device is a gate itself, and an I/O can pass only one");
    }
    return device;
}

void require_same(const char *what, uint64_t was, uint64_t is) {
    if (was != is) {
        throw std::invalid_argument("gate: " + std::string(what) +
                                    " of the new device differs from the previous one: " + std::to_string(is) +
                                    " instead of " + std::to_string(was));
    }
}

// Hosts know these properties of the device, so they must not change.
void require_same(const BlockDeviceInfo &was, const BlockDeviceInfo &is) {
    if (is.block_count < was.block_count) {
        require_same("block_count", was.block_count, is.block_count);
    }
    require_same("block_bytes", was.block_bytes, is.block_bytes);
    require_same("metadata_bytes", was.metadata_bytes, is.metadata_bytes);
    require_same("max_io_blocks", was.max_io_blocks, is.max_io_blocks);
    require_same("max_append_blocks", was.max_append_blocks, is.max_append_blocks);
    require_same("volatile_cache", was.volatile_cache ? 1 : 0, is.volatile_cache ? 1 : 0);
    require_same("deallocated_reads_zeroes", was.deallocated_reads_zeroes ? 1 : 0, is.deallocated_reads_zeroes ? 1 : 0);
    require_same("compare_write_blocks", was.compare_write_blocks, is.compare_write_blocks);
    require_same("write_uncorrectable", was.write_uncorrectable ? 1 : 0, is.write_uncorrectable ? 1 : 0);
    require_same("thin", was.thin ? 1 : 0, is.thin ? 1 : 0);
    require_same("zoned", was.zoned ? 1 : 0, is.zoned ? 1 : 0);
    require_same("zone_size", was.zone_size, is.zone_size);
    require_same("zone_capacity", was.zone_capacity, is.zone_capacity);
    require_same("max_open_zones", was.max_open_zones, is.max_open_zones);
    require_same("max_active_zones", was.max_active_zones, is.max_active_zones);
}

}  // namespace

Gate::Gate(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device, bool accounts)
    : behind_(std::make_unique<Behind>(Behind{this, checked(std::move(device))})),
      account_(accounts ? std::make_unique<IoAccount>() : nullptr),
      registration_(std::move(reactor), *this) {
    infos_.push_back(std::make_unique<const BlockDeviceInfo>(behind_->device->info()));
    info_.store(infos_.back().get(), std::memory_order_release);
}

// --- I/O

void Gate::submit(Io &io) noexcept {
    io.gated_complete = io.complete;
    io.gated_owner = io.owner;
    io.gated_sent = io.gated_cancelled = false;
    if (account_) {
        io.gated_at_ns = registration_.reactor().now_ns();
    }
    switch (state_) {
        case State::open:
            forward(io);
            break;
        case State::holding:
            held_.push(io);
            break;
        case State::failing:
            io.status = failure_;
            done_.push(io);
            break;
    }
}

void Gate::forward(Io &io) noexcept {
    io.complete = on_complete;
    io.owner = behind_.get();
    io.gated_sent = true;
    ++behind_->users;
    ++behind_->sent;
    behind_->device->submit(io);
}

void Gate::on_complete(Io &io) noexcept {
    auto &from = *static_cast<Behind *>(io.owner);
    io.gated_sent = false;
    --from.users;
    --from.sent;
    if (io.status != status::ok && from.device->lost()) {
        from.gate->came_back(io, from);
    } else {
        from.gate->give_back(io);
    }
}

void Gate::came_back(Io &io, const Behind &from) noexcept {
    if (io.gated_cancelled) {
        give_back(io);
        return;
    }
    switch (state_) {
        case State::open:
            if (&from != behind_.get()) {
                forward(io);  // a late completion: its device already has a successor
                return;
            }
            state_ = State::holding;
            [[fallthrough]];
        case State::holding:
            held_.push(io);
            break;
        case State::failing:
            io.status = failure_;
            give_back(io);
            break;
    }
}

// Returns the Io to its issuer.
void Gate::give_back(Io &io) noexcept {
    release_memory(io);
    if (account_ && !io.gated_cancelled) {
        account_->add(io, registration_.reactor().now_ns() - io.gated_at_ns);
    }
    io.complete = io.gated_complete;
    io.owner = io.gated_owner;
    io.complete(io);
}

void Gate::release_memory(Io &io) noexcept {
    if (auto *memory = static_cast<Behind *>(io.gated_memory); memory != nullptr) {
        --memory->users;
        io.gated_memory = nullptr;
    }
}

bool Gate::reserve(Io &io, uint32_t iov_room) noexcept {
    if (state_ != State::open || io.fua || !behind_->device->reserve(io, iov_room)) {
        return false;
    }
    io.gated_memory = behind_.get();
    ++behind_->users;
    return true;
}

void Gate::expect(uint64_t lba) const noexcept {
    if (state_ == State::open) {
        behind_->device->expect(lba);
    }
}

void Gate::abandon(Io &io) noexcept {
    if (auto *memory = static_cast<Behind *>(io.gated_memory); memory != nullptr) {
        memory->device->abandon(io);
        release_memory(io);
    }
}

void Gate::adopt(Io &io, std::span<Io *const> parts) noexcept {
    auto *memory = static_cast<Behind *>(parts.front()->gated_memory);
    // A device that has a successor gets no more I/O. Its memory stays until the Io is done, like that of a held one.
    if (memory == behind_.get()) {
        memory->device->adopt(io, parts);
    }
    for (Io *part : parts) {
        part->gated_memory = nullptr;
    }
    memory->users -= parts.size() - 1;
    io.gated_memory = memory;
}

void Gate::cancel(Io &io) noexcept {
    io.gated_cancelled = true;
    if (io.gated_sent) {
        static_cast<Behind *>(io.owner)->device->cancel(io);
    } else if (held_.remove(io)) {
        io.status = status::aborted;
        done_.push(io);
    }
}

// Completes the Ios that are done now. Those that a completion submits wait for the next poll.
uint32_t Gate::poll(uint64_t /*now_ns*/) noexcept {
    IoList batch = done_;
    done_ = {};
    uint32_t count = 0;
    while (Io *io = batch.pop()) {
        give_back(*io);
        ++count;
    }
    return count;
}

// --- orders

void Gate::take_unused(Behinds &unused) {
    const auto idle = std::partition(earlier_.begin(), earlier_.end(),
                                     [](const std::unique_ptr<Behind> &each) { return each->users > 0; });
    std::move(idle, earlier_.end(), std::back_inserter(unused));
    earlier_.erase(idle, earlier_.end());
}

void Gate::retire(Behinds &unused) {
    if (behind_) {
        earlier_.push_back(std::move(behind_));
    }
    take_unused(unused);
}

void Gate::hold() {
    Behinds unused;
    registration_.reactor().call([&] {
        if (state_ == State::failing) {
            return;
        }
        state_ = State::holding;
        retire(unused);
    });
}

void Gate::set_device(std::shared_ptr<BlockDevice> device) {
    device = checked(std::move(device));
    require_same(info(), device->info());
    if (device->info().block_count > info().block_count) {
        infos_.push_back(std::make_unique<const BlockDeviceInfo>(device->info()));
    }
    auto next = std::make_unique<Behind>(Behind{this, std::move(device)});
    Behinds unused;
    registration_.reactor().call([&] {
        retire(unused);
        behind_ = std::move(next);
        state_ = State::open;
        info_.store(infos_.back().get(), std::memory_order_release);
        IoList batch = held_;
        held_ = {};
        while (Io *io = batch.pop()) {
            forward(*io);
        }
        take_unused(unused);
    });
}

void Gate::fail(Status status) {
    if (status == status::ok) {
        throw std::invalid_argument("gate: I/O can't fail with status 0");
    }
    Behinds unused;
    registration_.reactor().call([&] {
        state_ = State::failing;
        failure_ = status;
        while (Io *io = held_.pop()) {
            io->status = status;
            done_.push(*io);
        }
        retire(unused);
    });
}

uint64_t Gate::allocated_blocks() {
    std::shared_ptr<BlockDevice> device;
    registration_.reactor().call([&] { device = behind_ ? behind_->device : nullptr; });
    if (device) {
        allocated_.store(device->allocated_blocks(), std::memory_order_relaxed);
    }
    return allocated_.load(std::memory_order_relaxed);
}

bool Gate::sweep() {
    Behinds unused;
    bool swept = false;
    registration_.reactor().call([&] {
        take_unused(unused);
        swept = earlier_.empty();
    });
    return swept;
}

bool Gate::emptied() {
    bool empty = false;
    registration_.reactor().call([&] {
        empty = std::all_of(earlier_.begin(), earlier_.end(),
                            [](const std::unique_ptr<Behind> &each) { return each->sent == 0; });
    });
    return empty;
}

Gate::State Gate::state() {
    State result{};
    registration_.reactor().call([&] { result = state_; });
    return result;
}

uint32_t Gate::held() {
    uint32_t result = 0;
    registration_.reactor().call([&] { result = held_.count(); });
    return result;
}

std::unique_ptr<const Gate::Account> Gate::account() {
    if (!account_) {
        throw std::logic_error("gate: it keeps no account");
    }
    auto result = std::make_unique<Account>();
    registration_.reactor().call([&] {
        result->io = *account_;
        result->state = state_;
        result->held = held_.count();
    });
    return result;
}

}  // namespace ftl
