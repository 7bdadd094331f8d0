// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/forwarder.hpp"

#include <utility>

#include "reactor/error_class.hpp"
#include "virtual/range.hpp"

namespace ftl {

Forwarder::Forwarder(std::shared_ptr<BlockDevice> base)
    : info_(base->info()), base_(std::move(base)), children_(kChildren) {
    no_ftl_commands(info_);
    for (Child &child : children_) {
        child.device = this;
        child.io.owner = &child;
        child.io.complete = &Forwarder::on_complete;
        child.next_free = std::exchange(free_children_, &child);
    }
}

Status Forwarder::check(const Io &io) const noexcept {
    const bool of_zones = io.op == Op::append || io.op == Op::zone_send || io.op == Op::zone_report;
    if (of_zones) {
        return info_.zoned ? status::ok : status::invalid_opcode;
    }
    return check_range(info_, io);
}

void Forwarder::submit(Io &io) noexcept {
    io.result = 0;
    io.device_data[kChild] = 0;
    const Status refused = check(io);
    if (refused != status::ok) {
        finish(io, refused, dnr(refused));
    } else {
        begin(io);
    }
}

void Forwarder::send(Io &io) noexcept {
    if (free_children_ == nullptr || !waiting_.empty()) {
        waiting_.push(io);
    } else {
        dispatch(io, *free_children_);
    }
}

// `child` is the first free child.
void Forwarder::dispatch(Io &io, Child &child) noexcept {
    free_children_ = child.next_free;
    child.parent = &io;
    io.device_data[kChild] = reinterpret_cast<uint64_t>(&child);
    lend(io, child.io, io.lba + offset_, io.block_count);
    prepare(io, child.io);
    base_->submit(child.io);
}

void Forwarder::on_complete(Io &io) noexcept {
    auto &child = *static_cast<Child *>(io.owner);
    child.device->returned(child);
}

void Forwarder::returned(Child &child) noexcept {
    Io &parent = *std::exchange(child.parent, nullptr);
    parent.device_data[kChild] = 0;
    parent.status = child.io.status;
    parent.do_not_retry = child.io.do_not_retry;
    parent.result = parent.op == Op::append ? child.io.result - offset_ : child.io.result;
    child.next_free = std::exchange(free_children_, &child);
    while (free_children_ != nullptr && !waiting_.empty()) {
        dispatch(*waiting_.pop(), *free_children_);
    }
    came_back(parent);
}

void Forwarder::finish(Io &io, Status status, bool do_not_retry) noexcept {
    io.status = status;
    io.do_not_retry = do_not_retry;
    done_.push(io);
}

bool Forwarder::abort_held(IoList &list, Io &io) noexcept {
    if (!list.remove(io)) {
        return false;
    }
    finish(io, status::aborted, false);
    return true;
}

void Forwarder::cancel(Io &io) noexcept {
    if (io.device_data[kChild] != 0) {
        base_->cancel(reinterpret_cast<Child *>(io.device_data[kChild])->io);
    } else if (abort_held(waiting_, io)) {
        withdrawn(io);
    }
}

// Completes the Ios that are done now. Those that a completion submits wait for the next poll.
uint32_t Forwarder::poll(uint64_t /*now_ns*/) noexcept {
    const uint32_t count = done_.count();
    for (uint32_t i = 0; i < count; ++i) {
        Io &io = *done_.pop();
        io.complete(io);
    }
    return count;
}

}  // namespace ftl
