// SPDX-License-Identifier: BSD-3-Clause
#include "reactor/read_list.hpp"

#include <utility>

namespace ftl {

ReadList::ReadList(Reactor &reactor, std::shared_ptr<BlockDevice> device, uint32_t depth)
    : reactor_(reactor), device_(std::move(device)), slots_(depth) {
    free_.reserve(depth);
    for (Slot &slot : slots_) {
        slot.list = this;
        slot.io.owner = &slot;
        slot.io.complete = on_complete;
        free_.push_back(&slot);
    }
}

void ReadList::start(std::vector<uint64_t> addresses, uint32_t block_count, uint8_t *rows) {
    addresses_ = std::move(addresses);
    block_count_ = block_count;
    rows_ = rows;
    status_ = status::ok;
    sent_ = 0;
    state_.store(State::running, std::memory_order_release);
    reactor_.wake();
}

bool ReadList::take_untold() noexcept {
    State untold = State::untold;
    return state_.compare_exchange_strong(untold, State::idle, std::memory_order_acq_rel);
}

uint32_t ReadList::poll(uint64_t /*now_ns*/) noexcept {
    if (state_.load(std::memory_order_acquire) != State::running) {
        return 0;
    }
    uint32_t work = std::exchange(completed_, 0);
    const size_t row_bytes = size_t{block_count_} * device_->info().block_bytes;
    for (; status_ == status::ok && sent_ < addresses_.size() && !free_.empty(); ++sent_, ++work) {
        Slot &slot = *free_.back();
        free_.pop_back();
        Io &io = slot.io;
        io.op = Op::read;
        io.status = status::ok;
        io.do_not_retry = false;
        io.lba = addresses_[sent_];
        io.block_count = block_count_;
        io.result = 0;
        slot.iov = iovec{rows_ + sent_ * row_bytes, row_bytes};
        io.iov = &slot.iov;
        io.iov_count = 1;
        device_->submit(io);
    }
    if (free_.size() == slots_.size() && (status_ != status::ok || sent_ == addresses_.size())) {
        const bool has_room = reactor_.has_room();
        // From here on the submitter may start another list or free the buffer.
        const uint64_t status = status_;
        state_.store(has_room ? State::idle : State::untold, std::memory_order_release);
        if (has_room) {
            reactor_.emit(EventKind::io_done, id_, 0, status, 0);
        } else {
            reactor_.drop();
        }
        ++work;
    }
    return work;
}

void ReadList::on_complete(Io &io) noexcept {
    auto &slot = *static_cast<Slot *>(io.owner);
    ReadList &list = *slot.list;
    ++list.completed_;
    if (io.status != status::ok && list.status_ == status::ok) {
        list.status_ = io.status;
    }
    list.free_.push_back(&slot);
}

}  // namespace ftl
