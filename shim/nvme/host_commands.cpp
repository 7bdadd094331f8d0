// SPDX-License-Identifier: BSD-3-Clause
// HostQpair's commands: turns an Io into a command, sends its data PDUs and completes it.
#include <algorithm>

#include "base/iov_cursor.hpp"
#include "nvme/host_qpair.hpp"
#include "nvme/zns.hpp"

namespace ftl {

using wire::PduType;

Status HostQpair::check(const Io &io, uint32_t &length) const noexcept {
    length = 0;
    switch (io.op) {
        case Op::flush:
        case Op::zone_send:
            return status::ok;
        case Op::deallocate:
            length = sizeof(wire::DsmRange);
            return io.block_count > 0 ? status::ok : status::invalid_field;
        case Op::write_zeroes:
            return io.block_count > 0 && io.block_count <= kNlbMax ? status::ok : status::invalid_field;
        case Op::zone_report: {
            const uint64_t bytes = iov_bytes(io.memory());
            if (bytes == 0 || bytes % 4 != 0 || bytes > config_.max_io_bytes) {
                return status::invalid_field;
            }
            length = static_cast<uint32_t>(bytes);
            return status::ok;
        }
        case Op::append:
            if (io.block_count > info_.max_append_blocks) {
                return status::invalid_field;
            }
            [[fallthrough]];
        case Op::read:
        case Op::write:
            if (io.block_count == 0 || io.block_count > info_.max_io_blocks) {
                return status::invalid_field;
            }
            length = io.block_count * info_.block_bytes;
            return iov_bytes(io.memory()) >= length ? status::ok : status::invalid_field;
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;
    }
    return status::invalid_opcode;
}

void HostQpair::submit(Io &io) noexcept {
    io.status = status::ok;
    io.do_not_retry = false;
    io.result = 0;
    uint32_t length = 0;
    const Status refused = connected_ ? check(io, length) : status::path_error;
    if (refused != status::ok) {
        io.status = refused;
        io.do_not_retry = dnr(refused);
        done_.push(io);
        return;
    }
    io.device_data[0] = length;
    if (free_ == kNoSlot || !waiting_.empty()) {
        waiting_.push(io);
        return;
    }
    start(io);
}

void HostQpair::start(Io &io) noexcept {
    const uint32_t number = free_;
    Slot &slot = slots_[number];
    free_ = slot.next_free;
    ++in_flight_;
    reads_ += from_controller(io.op) ? 1 : 0;
    slot.io = &io;
    slot.started_ns = reactor_->now_ns();
    slot.length = static_cast<uint32_t>(io.device_data[0]);
    slot.granted = slot.sent = slot.received = 0;
    slot.status = status::ok;
    slot.do_not_retry = false;
    slot.result = 0;
    slot.answered = false;
    slot.digest_error = false;
    encode(slot, static_cast<uint16_t>(number));
    stream_->queue(slot.command);
}

void HostQpair::encode(Slot &slot, uint16_t cid) noexcept {
    const Io &io = *slot.io;
    wire::CapsuleCmd pdu{};
    pdu.ch.type = PduType::capsule_cmd;
    pdu.ch.hlen = sizeof pdu;
    wire::Sqe &sqe = pdu.sqe;
    sqe.flags = wire::kFlagsPsdtSgl;
    sqe.cid = cid;
    sqe.nsid = config_.nsid;
    sqe.sgl.type = wire::kSglTransport;
    sqe.sgl.length = slot.length;
    sqe.slba = io.lba;
    const uint32_t nlb = io.block_count - 1;
    const uint32_t fua = io.fua ? wire::kCdw12Fua : 0;
    const iovec *data = io.iov;
    uint32_t data_count = io.iov_count;
    switch (io.op) {
        case Op::read:
            sqe.opcode = wire::opcode::read;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::write:
            sqe.opcode = wire::opcode::write;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::append:
            sqe.opcode = wire::opcode::zone_append;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::flush:
            sqe.opcode = wire::opcode::flush;
            sqe.slba = 0;
            break;
        case Op::write_zeroes:
            sqe.opcode = wire::opcode::write_zeroes;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::deallocate:
            sqe.opcode = wire::opcode::dataset_management;
            sqe.slba = uint64_t{wire::kCdw11Deallocate} << 32;  // cdw10 NR = 0: one range
            slot.range = {0, io.block_count, io.lba};
            slot.range_iov = {&slot.range, sizeof slot.range};
            data = &slot.range_iov;
            data_count = 1;
            break;
        case Op::zone_send:
            sqe.opcode = wire::opcode::zone_mgmt_send;
            sqe.cdw13 = io.zone_action | (io.zone_all ? zns::kCdw13SelectAll : 0);
            break;
        case Op::zone_report:
            sqe.opcode = wire::opcode::zone_mgmt_recv;
            sqe.cdw12 = slot.length / 4 - 1;
            sqe.cdw13 = io.zone_action | (uint32_t{io.zone_filter} << zns::kCdw13FilterShift) |
                        (io.zone_all ? zns::kCdw13Partial : 0);
            break;
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;  // check() has refused them
    }
    slot.writes = to_controller(io.op);
    slot.data.data = data;
    slot.data.data_count = data_count;
    slot.command.data_length = 0;
    if (slot.writes && slot.length <= config_.in_capsule_bytes) {
        slot.writes = false;
        sqe.sgl.type = wire::kSglInCapsule;
        slot.command.data = data;
        slot.command.data_count = data_count;
        slot.command.data_skip = 0;
        slot.command.data_length = slot.length;
    }
    slot.command.set_header(pdu);
}

void HostQpair::queue_h2c(Slot &slot) noexcept {
    const uint32_t piece = std::min(slot.granted - slot.sent, config_.max_h2c_data);
    wire::H2cData pdu{};
    pdu.ch.type = PduType::h2c_data;
    pdu.ch.hlen = sizeof pdu;
    // LAST marks the final PDU for one R2T.
    pdu.ch.flags = slot.sent + piece == slot.granted ? wire::flag::last_pdu : uint8_t{0};
    pdu.cccid = static_cast<uint16_t>(slot.data.slot);
    pdu.ttag = slot.ttag;
    pdu.datao = slot.sent;
    pdu.datal = piece;
    slot.data.set_header(pdu);
    slot.data.data_skip = slot.sent;
    slot.data.data_length = piece;
    slot.sent += piece;
    stream_->queue(slot.data);
}

void HostQpair::on_sent(TxPdu &pdu) noexcept {
    Slot &slot = slots_[pdu.slot];
    if (slot.answered) {
        if (!slot.command.queued && !slot.data.queued) {
            finish(slot);
        }
    } else if (&pdu == &slot.data && slot.sent < slot.granted) {
        queue_h2c(slot);
    }
}

// The controller has completed the command, but may have done so early. PDUs may still be sending the Io's buffers, so
// the Io is completed after they have left.
void HostQpair::answer(Slot &slot, Status status) noexcept {
    slot.status = status;
    slot.answered = true;
    if (!slot.command.queued && !slot.data.queued) {
        finish(slot);
    }
}

void HostQpair::finish(Slot &slot) noexcept {
    Io &io = *slot.io;
    io.status = slot.status;
    io.do_not_retry = slot.do_not_retry;
    io.result = slot.result;
    slot.io = nullptr;
    slot.next_free = free_;
    free_ = slot.command.slot;
    --in_flight_;
    reads_ -= from_controller(io.op) ? 1 : 0;
    if (Io *next = waiting_.pop(); next != nullptr) {
        start(*next);
    }
    io.complete(io);
}

}  // namespace ftl
