// SPDX-License-Identifier: BSD-3-Clause
// Compare, Verify and Copy: TargetQpair executes them as reads and writes of the device, one after the other, in the
// memory of a lane. They work with every device.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/iov_cursor.hpp"
#include "nvme/target_qpair.hpp"

namespace ftl {

void TargetQpair::start_steps(Slot &slot) noexcept {
    if (slot.shape.steps == Steps::copy) {
        if (const Status bad = check_copy(slot.ns->device->info(), slot.io, slot.shape); bad != status::ok) {
            answer(slot, bad);
            return;
        }
        slot.copy_lba = slot.io.lba;
    }
    if (lanes_free_ != 0 && line_head_ == kNoTargetSlot) {
        first_step(slot);
        return;
    }
    slot.state = State::in_line;
    slot.next = kNoTargetSlot;
    (line_head_ == kNoTargetSlot ? line_head_ : slots_[line_tail_].next) = number_of(slot);
    line_tail_ = number_of(slot);
}

void TargetQpair::first_step(Slot &slot) noexcept {
    slot.lane = static_cast<uint32_t>(std::countr_zero(lanes_free_));
    lanes_free_ &= ~(1U << slot.lane);
    slot.host_iov_count = slot.io.iov_count;
    read_step(slot);
}

// Blocks of the command, or of the current range of a copy.
uint32_t TargetQpair::step_blocks(const Slot &slot) const noexcept {
    return slot.shape.steps == Steps::copy ? copy_range_of(host_iov(slot)->iov_base, slot.range).block_count + 1U
                                           : slot.command_blocks;
}

void TargetQpair::read_step(Slot &slot) noexcept {
    const BlockDeviceInfo &info = slot.ns->device->info();
    Io &io = slot.io;
    if (slot.shape.steps == Steps::copy) {
        io.lba = copy_range_of(host_iov(slot)->iov_base, slot.range).lba + slot.step_done;
    } else {
        if (slot.step_done == 0) {
            slot.command_blocks = io.block_count;
        } else {
            io.lba += io.block_count;
        }
    }
    const uint32_t most = std::min(info.max_io_blocks, lane_bytes_ / info.block_bytes);
    io.op = Op::read;
    io.block_count = std::min(step_blocks(slot) - slot.step_done, most);
    slot.lane_iov = {lanes_.data() + size_t{slot.lane} * lane_bytes_, size_t{io.block_count} * info.block_bytes};
    io.iov = &slot.lane_iov;
    io.iov_count = 1;
    submit(slot);
}

void TargetQpair::step_done(Slot &slot) noexcept {
    Io &io = slot.io;
    if (io.status != status::ok) {
        answer(slot, io.status);
        return;
    }
    if (slot.shape.steps == Steps::copy && io.op == Op::read) {
        io.op = Op::write;
        io.lba = slot.copy_lba;
        submit(slot);
        return;
    }
    if (slot.shape.steps == Steps::compare && !matches(slot)) {
        answer(slot, status::compare_failure);
        return;
    }
    slot.step_done += io.block_count;
    const bool whole = slot.step_done == step_blocks(slot);
    if (slot.shape.steps == Steps::copy) {
        stats_.write_blocks += io.block_count;
        slot.copy_lba += io.block_count;
        if (whole) {
            ++slot.range;
            slot.step_done = 0;
        }
    }
    if (whole && slot.range == slot.shape.ranges) {
        answer(slot, status::ok);
        return;
    }
    read_step(slot);
}

// Whether the blocks that were just read are those that the host has sent.
bool TargetQpair::matches(const Slot &slot) const noexcept {
    IovCursor cursor(std::span<const iovec>(host_iov(slot), slot.host_iov_count));
    cursor.skip(size_t{slot.step_done} * slot.ns->device->info().block_bytes);
    const auto *read = static_cast<const uint8_t *>(slot.lane_iov.iov_base);
    bool same = true;
    cursor.each(slot.lane_iov.iov_len, [&](const uint8_t *data, size_t bytes) {
        same = same && std::memcmp(read, data, bytes) == 0;
        read += bytes;
    });
    return same;
}

void TargetQpair::give_lane(Slot &slot) noexcept {
    if (slot.lane == kNoTargetSlot) {
        return;
    }
    lanes_free_ |= 1U << slot.lane;
    slot.lane = kNoTargetSlot;
    if (serving_line_) {
        return;  // the next command in line was answered at once, and gives its lane back
    }
    serving_line_ = true;
    while (life_ == Life::open && lanes_free_ != 0 && line_head_ != kNoTargetSlot) {
        Slot &next = slots_[line_head_];
        line_head_ = next.next;
        first_step(next);
    }
    serving_line_ = false;
}

}  // namespace ftl
