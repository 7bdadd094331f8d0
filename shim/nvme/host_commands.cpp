// SPDX-License-Identifier: BSD-3-Clause
// HostQpair's commands: turns an Io into a command, sends its data PDUs and completes it.
#include <algorithm>

#include "nvme/host_encoding.hpp"
#include "nvme/host_qpair.hpp"

namespace ftl {

using wire::PduType;

void HostQpair::submit(Io &io) noexcept {
    io.status = status::ok;
    io.do_not_retry = false;
    io.result = 0;
    uint32_t length = 0;
    const Status refused = connected_ ? check_io(io, info_, config_.max_io_bytes, length) : status::path_error;
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
    sqe = encode_io(io, config_.nsid, cid, slot.length);
    sqe.flags = wire::kFlagsPsdtSgl;
    sqe.sgl.type = wire::kSglTransport;
    sqe.sgl.length = slot.length;
    const iovec *data = io.iov;
    uint32_t data_count = io.iov_count;
    if (io.op == Op::deallocate) {
        slot.range = dsm_range(io);
        slot.range_iov = {&slot.range, sizeof slot.range};
        data = &slot.range_iov;
        data_count = 1;
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
