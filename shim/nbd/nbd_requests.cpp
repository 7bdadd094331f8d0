// SPDX-License-Identifier: BSD-3-Clause
// NbdConnection's requests: from the client to the device, and back to the client.
#include <algorithm>
#include <cstring>

#include "nbd/nbd_connection.hpp"
#include "reactor/error_class.hpp"

namespace ftl {

namespace {

uint32_t nbd_flags_of(uint16_t type, const NbdConnectionConfig &config) noexcept {
    switch (type) {
        case nbd::command::read:
            return nbd::command_flag::fua | (config.structured_replies ? nbd::command_flag::dont_fragment : 0U);
        case nbd::command::write_zeroes:
            return nbd::command_flag::fua | nbd::command_flag::no_hole |
                   (config.fast_zero ? nbd::command_flag::fast_zero : 0U);
        default:
            return nbd::command_flag::fua;
    }
}

uint32_t nbd_error_of(Op op, Status status) noexcept {
    switch (status) {
        case status::ok:
            return nbd::error::none;
        case status::write_protected:
            return nbd::error::perm;
        case status::invalid_opcode:
            return nbd::error::notsup;
        case status::capacity_exceeded:
            return nbd::error::nospc;
        case status::lba_out_of_range:
            return op == Op::write ? nbd::error::nospc : nbd::error::inval;
        case status::invalid_field:
            return nbd::error::inval;
        case status::namespace_not_ready:  // an FTL that is being halted
        case status::aborted_sq_deleted:
            return nbd::error::shutdown;
        default:
            return nbd::error::io;
    }
}

}  // namespace

// An NBD error, or none.
uint32_t NbdConnection::check(const nbd::Request &request) const noexcept {
    const uint16_t type = request.type.get();
    const uint16_t flags = request.flags.get();
    const uint64_t offset = request.offset.get();
    const uint32_t length = request.length.get();
    const bool writes = type == nbd::command::write || type == nbd::command::trim || type == nbd::command::write_zeroes;
    if (type == nbd::command::flush) {
        // A server that takes FUA has to take it with every command.
        return (flags & ~nbd::command_flag::fua) == 0 && offset == 0 && length == 0 ? nbd::error::none
                                                                                    : nbd::error::inval;
    }
    const bool known = type == nbd::command::read || type == nbd::command::write ||
                       (type == nbd::command::trim && config_.trim) ||
                       (type == nbd::command::write_zeroes && config_.write_zeroes);
    if (writes && config_.read_only) {
        return nbd::error::perm;
    }
    if (!known || (flags & ~nbd_flags_of(type, config_)) != 0) {
        return nbd::error::inval;
    }
    if (length == 0 || offset % block_bytes_ != 0 || length % block_bytes_ != 0) {
        return nbd::error::inval;
    }
    if ((type == nbd::command::read || type == nbd::command::write) && length > kRequestBytesMax) {
        return nbd::error::inval;
    }
    const uint64_t first = offset / block_bytes_;
    if (first >= config_.block_count || length / block_bytes_ > config_.block_count - first) {
        return type == nbd::command::write || type == nbd::command::write_zeroes ? nbd::error::nospc
                                                                                 : nbd::error::inval;
    }
    constexpr uint16_t fast_and_solid = nbd::command_flag::fast_zero | nbd::command_flag::no_hole;
    if (type == nbd::command::write_zeroes && (flags & fast_and_solid) == fast_and_solid) {
        return nbd::error::notsup;  // zeroes without a hole are written as data, which is not fast
    }
    return nbd::error::none;
}

// False: no slot, or too few chunks. The request stays in the buffer.
bool NbdConnection::on_request(const nbd::Request &request) noexcept {
    const uint16_t type = request.type.get();
    const uint32_t length = request.length.get();
    if (request.magic.get() != nbd::kRequestMagic || (type == nbd::command::write && length > kDropBytesMax)) {
        fault(NbdClose::protocol_error);
        return true;
    }
    if (type == nbd::command::disconnect) {
        fault(NbdClose::disconnected);
        return true;
    }
    Slot *taken = take_slot();
    if (taken == nullptr) {
        return false;
    }
    Slot &slot = *taken;
    const uint16_t flags = request.flags.get();
    const uint32_t error = check(request);
    const bool has_data = type == nbd::command::read || type == nbd::command::write;
    slot.data_length = error == nbd::error::none && has_data ? length : 0;
    if (slot.data_length > 0 && !take_chunks(slot, length)) {
        free_slot(slot);
        return false;
    }
    ++stats_.requests;
    slot.type = type;
    slot.cookie = request.cookie;
    slot.offset = request.offset.get();
    slot.length = length;
    slot.flush_after = type == nbd::command::trim && (flags & nbd::command_flag::fua) != 0;
    slot.zero_data = type == nbd::command::write_zeroes && (flags & nbd::command_flag::no_hole) != 0;
    slot.io.fua = type != nbd::command::read && !slot.flush_after && (flags & nbd::command_flag::fua) != 0;
    slot.io.do_not_retry = false;
    slot.next_block = slot.offset / block_bytes_;
    slot.blocks_left = length / block_bytes_;
    if (type == nbd::command::write && length > 0) {
        slot.state = State::receiving;
        rx_slot_ = number_of(slot);
        rx_done_ = 0;
        rx_left_ = length;
        rx_error_ = error;
        return true;
    }
    if (error != nbd::error::none) {
        answer(slot, error);
    } else {
        execute(slot);
    }
    return true;
}

void NbdConnection::on_data_received() noexcept {
    Slot &slot = slots_[rx_slot_];
    rx_slot_ = kNone;
    if (rx_error_ != nbd::error::none) {
        answer(slot, rx_error_);
    } else {
        execute(slot);
    }
}

void NbdConnection::execute(Slot &slot) noexcept {
    switch (slot.type) {
        case nbd::command::read:
            slot.io.op = Op::read;
            break;
        case nbd::command::write:
            slot.io.op = Op::write;
            break;
        case nbd::command::trim:
            slot.io.op = Op::deallocate;
            break;
        case nbd::command::write_zeroes:
            slot.io.op = slot.zero_data ? Op::write : Op::write_zeroes;
            break;
        default:
            slot.io.op = Op::flush;
            slot.io.lba = 0;
            slot.io.block_count = slot.io.iov_count = 0;
            slot.io.fua = false;
            submit(slot);
            return;
    }
    next_piece(slot);
}

void NbdConnection::next_piece(Slot &slot) noexcept {
    Io &io = slot.io;
    const bool has_data = io.op == Op::read || io.op == Op::write;
    io.lba = slot.next_block;
    io.block_count = std::min(slot.blocks_left, has_data ? max_piece_blocks_ : kTrimBlocksMax);
    io.iov = slot.piece.data();
    io.iov_count = 0;
    uint32_t bytes = has_data ? io.block_count * block_bytes_ : 0;
    uint32_t at = slot.zero_data ? 0 : static_cast<uint32_t>(slot.next_block * block_bytes_ - slot.offset);
    while (bytes > 0) {
        const uint32_t in_chunk = at % kChunkBytes;
        const uint32_t step = std::min(bytes, kChunkBytes - in_chunk);
        auto *chunk = slot.zero_data ? zeroes_.data() : static_cast<uint8_t *>(slot.data[at / kChunkBytes].iov_base);
        slot.piece[io.iov_count++] = {chunk + in_chunk, step};
        at += step;
        bytes -= step;
    }
    slot.next_block += io.block_count;
    slot.blocks_left -= io.block_count;
    submit(slot);
}

void NbdConnection::submit(Slot &slot) noexcept {
    slot.state = State::device;
    ++outstanding_;
    device_->submit(slot.io);
}

void NbdConnection::io_done(Slot &slot) noexcept {
    --outstanding_;
    if (life_ == Life::dead) {
        free_slot(slot);
        if (outstanding_ == 0) {
            drained_.store(true, std::memory_order_release);
        }
        return;
    }
    Io &io = slot.io;
    if (io.status != status::ok) {
        answer(slot, nbd_error_of(io.op, io.status));
        return;
    }
    if (slot.blocks_left > 0) {
        next_piece(slot);
    } else if (slot.flush_after) {
        slot.flush_after = false;
        io.op = Op::flush;
        io.lba = 0;
        io.block_count = io.iov_count = 0;
        submit(slot);
    } else {
        answer(slot, nbd::error::none);
    }
}

void NbdConnection::answer(Slot &slot, uint32_t error) noexcept {
    const bool read = slot.type == nbd::command::read;
    const bool with_data = read && error == nbd::error::none;
    slot.state = State::answering;
    if (error != nbd::error::none) {
        ++stats_.errors;
    } else if (read) {
        stats_.read_blocks += slot.length / block_bytes_;
    } else if (slot.type == nbd::command::write) {
        stats_.write_blocks += slot.length / block_bytes_;
    }
    const auto put = [&slot](const auto &header) {
        static_assert(sizeof header <= sizeof slot.header);
        std::memcpy(slot.header.data(), &header, sizeof header);
        slot.header_length = sizeof header;
    };
    const auto fill = [&slot](nbd::StructuredReply &head, uint16_t type, uint32_t length) {
        head.magic.set(nbd::kStructuredReplyMagic);
        head.flags.set(nbd::kReplyFlagDone);
        head.type.set(type);
        head.cookie = slot.cookie;
        head.length.set(length);
    };
    // Replies to other requests may be simple ones even if structured replies were negotiated.
    if (read && config_.structured_replies && with_data) {
        nbd::DataChunk chunk{};
        fill(chunk.head, nbd::reply_type::offset_data,
             static_cast<uint32_t>(sizeof chunk - sizeof chunk.head) + slot.length);
        chunk.offset.set(slot.offset);
        put(chunk);
    } else if (read && config_.structured_replies) {
        nbd::ErrorChunk chunk{};
        fill(chunk.head, nbd::reply_type::error, sizeof chunk - sizeof chunk.head);
        chunk.error.set(error);
        put(chunk);
    } else {
        nbd::SimpleReply reply{};
        reply.magic.set(nbd::kSimpleReplyMagic);
        reply.error.set(error);
        reply.cookie = slot.cookie;
        put(reply);
    }
    slot.reply_length = slot.header_length + (with_data ? slot.length : 0);
    if (!with_data) {
        give_chunks(slot);
    }
    queue_reply(slot);
}

}  // namespace ftl
