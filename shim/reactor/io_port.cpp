// SPDX-License-Identifier: BSD-3-Clause
#include "reactor/io_port.hpp"

#include <algorithm>

namespace ftl {

IoPort::IoPort(Reactor &reactor, std::shared_ptr<BlockDevice> device, uint32_t depth)
    : reactor_(reactor), device_(std::move(device)), slots_(depth), ring_(depth) {
    for (Slot &slot : slots_) {
        slot.port = this;
        slot.io.owner = &slot;
        slot.io.complete = on_complete;
    }
}

std::optional<uint64_t> IoPort::submit(const IoRequest &request) {
    const auto slot = std::find_if(slots_.begin(), slots_.end(), [](const Slot &candidate) {
        return candidate.state.load(std::memory_order_relaxed) == State::free;
    });
    if (slot == slots_.end()) {
        return std::nullopt;
    }
    const auto number = static_cast<uint64_t>(slot - slots_.begin());
    slot->ticket = generation_++ * slots_.size() + number;
    Io &io = slot->io;
    io.op = request.op;
    io.zone_action = request.zone_action;
    io.zone_filter = request.zone_filter;
    io.zone_all = request.zone_all;
    io.fua = request.fua;
    io.status = status::ok;
    io.do_not_retry = false;
    io.compared = false;
    io.lba = request.lba;
    io.block_count = request.block_count;
    io.result = 0;
    slot->iov = iovec{request.data, request.bytes};
    io.iov = &slot->iov;
    io.iov_count = request.bytes > 0 ? 1 : 0;
    const uint64_t ticket = slot->ticket;
    slot->state.store(State::queued, std::memory_order_relaxed);
    const uint64_t head = head_.load(std::memory_order_relaxed);
    ring_[head % ring_.size()] = static_cast<uint32_t>(number);
    head_.store(head + 1, std::memory_order_release);
    reactor_.wake();
    return ticket;
}

bool IoPort::idle() const noexcept {
    return std::none_of(slots_.begin(), slots_.end(), [](const Slot &slot) {
        const State state = slot.state.load(std::memory_order_acquire);
        return state == State::queued || state == State::lent;
    });
}

uint32_t IoPort::poll(uint64_t /*now_ns*/) noexcept {
    uint64_t tail = tail_.load(std::memory_order_relaxed);
    const uint64_t head = head_.load(std::memory_order_acquire);
    uint32_t work = completed_;
    completed_ = 0;
    for (; tail != head; ++tail, ++work) {
        Slot &slot = slots_[ring_[tail % ring_.size()]];
        slot.state.store(State::lent, std::memory_order_relaxed);
        device_->submit(slot.io);
    }
    tail_.store(tail, std::memory_order_release);
    return work;
}

void IoPort::on_complete(Io &io) noexcept {
    auto &slot = *static_cast<Slot *>(io.owner);
    IoPort &port = *slot.port;
    ++port.completed_;
    const uint64_t ticket = slot.ticket;
    const uint64_t status = io.status;
    const uint64_t result = result_of(io);
    if (port.reactor_.has_room()) {
        slot.state.store(State::done, std::memory_order_release);
        port.reactor_.emit(EventKind::io_done, port.id_, ticket, status, result);
    } else {
        // The event ring is full. The slot keeps the answer until the submitter asks for it after the overflow.
        slot.state.store(State::untold, std::memory_order_release);
        port.reactor_.drop();
    }
}

}  // namespace ftl
