// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/striped.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/iov_cursor.hpp"
#include "reactor/error_class.hpp"
#include "virtual/range.hpp"

namespace ftl {

Striped::Striped(std::shared_ptr<Reactor> reactor, Members members, std::vector<uint64_t> lengths,
                 uint64_t strip_blocks)
    : members_(std::move(members)),
      info_(info_of(members_)),
      strip_blocks_(strip_blocks),
      starts_(1, 0),
      children_(kChildren),
      registration_(std::move(reactor), *this) {
    if (lengths.size() != members_.size()) {
        throw std::invalid_argument("a length is needed for each device");
    }
    for (size_t i = 0; i < lengths.size(); ++i) {
        if (lengths[i] == 0 || lengths[i] > members_[i]->info().block_count) {
            throw std::invalid_argument("a length is 0, or more than the device has");
        }
        if (strip_blocks_ != 0 && (lengths[i] != lengths[0] || lengths[i] % strip_blocks_ != 0)) {
            throw std::invalid_argument("the lengths differ, or are no multiple of the strip");
        }
        starts_.push_back(starts_.back() + lengths[i]);
    }
    info_.block_count = starts_.back();
    for (Child &child : children_) {
        child.device = this;
        child.io.owner = &child;
        child.io.complete = &Striped::on_complete;
        child.next_free = std::exchange(free_children_, &child);
    }
}

Striped::Place Striped::place_of(uint64_t lba) const noexcept {
    if (strip_blocks_ == 0) {
        const auto after = std::upper_bound(starts_.begin(), starts_.end(), lba);
        const auto member = static_cast<size_t>(after - starts_.begin()) - 1;
        return {member, lba - starts_[member], *after - lba};
    }
    const uint64_t strip = lba / strip_blocks_;
    const uint64_t offset = lba % strip_blocks_;
    return {static_cast<size_t>(strip % members_.size()), strip / members_.size() * strip_blocks_ + offset,
            members_.size() == 1 ? info_.block_count - lba : strip_blocks_ - offset};
}

// How many of the blocks before `lba` are on the member. They are its first ones.
uint64_t Striped::blocks_before(size_t member, uint64_t lba) const noexcept {
    if (strip_blocks_ == 0) {
        return std::clamp(lba, starts_[member], starts_[member + 1]) - starts_[member];
    }
    const uint64_t row = strip_blocks_ * members_.size();
    const uint64_t rest = std::clamp(lba % row, member * strip_blocks_, (member + 1) * strip_blocks_);
    return lba / row * strip_blocks_ + rest - member * strip_blocks_;
}

bool Striped::all_sent(const Io &io) const noexcept {
    return io.device_data[kSent] == (carries_data(io) ? io.block_count : members_.size());
}

void Striped::submit(Io &io) noexcept {
    io.result = 0;
    io.status = status::ok;
    io.do_not_retry = false;
    for (uint64_t &data : io.device_data) {
        data = 0;
    }
    const bool of_zones = io.op == Op::append || io.op == Op::zone_send || io.op == Op::zone_report;
    const Status refused = of_zones ? status::invalid_opcode : check_range(info_, io);
    if (refused != status::ok) {
        finish(io, refused);
    } else if (!waiting_.empty() || !send(io)) {
        waiting_.push(io);
    } else {
        finish_if_idle(io);
    }
}

// Nothing of an Io that is all sent is outstanding: its data can't be cut, or its pieces came back meanwhile.
void Striped::finish_if_idle(Io &io) noexcept {
    if (io.device_data[kOutstanding] == 0) {
        finish(io, io.status);
    }
}

// False: there are too few children. Call it again when there are more.
bool Striped::send(Io &io) noexcept {
    while (!all_sent(io)) {
        if (free_children_ == nullptr) {
            return false;
        }
        Child &child = *free_children_;
        if (!(carries_data(io) ? send_piece(io, child) : send_range(io, child))) {
            break;
        }
    }
    return true;
}

// Sends the next piece. False: its data is in too many parts.
bool Striped::send_piece(Io &io, Child &child) noexcept {
    const Place place = place_of(io.lba + io.device_data[kSent]);
    const uint64_t most = std::min(place.blocks, io.block_count - io.device_data[kSent]);
    size_t at = io.device_data[kIov];
    size_t offset = io.device_data[kIovOffset];
    uint64_t blocks = 0;
    uint32_t count = 0;
    while (blocks < most) {
        // One block more, if its parts still fit.
        size_t next = at;
        size_t next_offset = offset;
        uint32_t next_count = count;
        const iovec last = count > 0 ? child.iov[count - 1] : iovec{};
        uint64_t missing = info_.block_bytes;
        while (missing > 0 && next < io.iov_count) {
            const size_t step = std::min<size_t>(missing, io.iov[next].iov_len - next_offset);
            if (step > 0) {
                auto *data = static_cast<uint8_t *>(io.iov[next].iov_base) + next_offset;
                const bool joins = next_count > 0 && static_cast<uint8_t *>(child.iov[next_count - 1].iov_base) +
                                                             child.iov[next_count - 1].iov_len ==
                                                         data;
                if (!joins && next_count == kPieceIovs) {
                    break;
                }
                next_count = add_piece(child.iov.data(), next_count, data, step);
                missing -= step;
                next_offset += step;
            }
            if (next_offset == io.iov[next].iov_len) {
                ++next;
                next_offset = 0;
            }
        }
        if (missing > 0) {
            if (count > 0) {
                child.iov[count - 1] = last;  // without what was joined to it
            }
            break;
        }
        at = next;
        offset = next_offset;
        count = next_count;
        ++blocks;
    }
    if (blocks == 0) {
        io.status = status::internal_error;
        io.device_data[kSent] = io.block_count;
        return false;
    }
    lend(io, child.io, place.lba, static_cast<uint32_t>(blocks));
    child.io.iov = child.iov.data();
    child.io.iov_count = count;
    io.device_data[kSent] += blocks;
    io.device_data[kIov] = at;
    io.device_data[kIovOffset] = offset;
    submit_to(place.member, io, child);
    return true;
}

// Sends the operation to the next member, if it concerns that.
bool Striped::send_range(Io &io, Child &child) noexcept {
    const auto member = static_cast<size_t>(io.device_data[kSent]++);
    if (io.op == Op::flush) {
        lend(io, child.io, 0, 0);
        submit_to(member, io, child);
        return true;
    }
    const uint64_t first = blocks_before(member, io.lba);
    const uint64_t end = blocks_before(member, io.lba + io.block_count);
    if (end > first) {
        lend(io, child.io, first, static_cast<uint32_t>(end - first));
        submit_to(member, io, child);
    }
    return true;
}

void Striped::submit_to(size_t member, Io &parent, Child &child) noexcept {
    free_children_ = child.next_free;
    child.parent = &parent;
    child.io.owner_data = member;
    ++parent.device_data[kOutstanding];
    members_[member]->submit(child.io);
}

void Striped::on_complete(Io &io) noexcept {
    auto &child = *static_cast<Child *>(io.owner);
    child.device->returned(child);
}

void Striped::returned(Child &child) noexcept {
    Io &parent = *std::exchange(child.parent, nullptr);
    if (child.io.status != status::ok) {
        parent.status = status::internal_error;
    }
    child.next_free = std::exchange(free_children_, &child);
    --parent.device_data[kOutstanding];
    const bool complete = parent.device_data[kOutstanding] == 0 && all_sent(parent);
    while (!waiting_.empty() && free_children_ != nullptr) {
        if (!send(*waiting_.front())) {
            break;
        }
        finish_if_idle(*waiting_.pop());
    }
    if (complete) {
        parent.complete(parent);
    }
}

void Striped::finish(Io &io, Status status) noexcept {
    io.status = status;
    io.do_not_retry = dnr(status);
    done_.push(io);
}

void Striped::cancel(Io &io) noexcept {
    if (io.device_data[kSent] == 0 && waiting_.remove(io)) {
        finish(io, status::aborted);
        return;
    }
    for (Child &child : children_) {
        if (child.parent == &io) {
            const auto member = static_cast<size_t>(child.io.owner_data);
            members_[member]->cancel(child.io);
        }
    }
}

uint32_t Striped::poll(uint64_t /*now_ns*/) noexcept {
    const uint32_t count = done_.count();
    for (uint32_t i = 0; i < count; ++i) {
        Io &io = *done_.pop();
        io.complete(io);
    }
    return count;
}

void Striped::resize(uint64_t length) {
    if (strip_blocks_ == 0 || length == 0 || length % strip_blocks_ != 0) {
        throw std::invalid_argument("only raid0 changes its size, and by whole strips");
    }
    registration_.reactor().call([&] { info_.block_count = length * members_.size(); });
}

}  // namespace ftl
