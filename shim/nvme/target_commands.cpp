// SPDX-License-Identifier: BSD-3-Clause
// TargetQpair's commands: from a host's capsule to the device, and back to the host.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/mutation.hpp"
#include "nvme/target_qpair.hpp"

namespace ftl {

using wire::Fes;
using wire::PduType;

namespace {

constexpr size_t kFeiSgl = offsetof(wire::CapsuleCmd, sqe) + offsetof(wire::Sqe, sgl);

}  // namespace

// On entry the slot has no namespace.
Status TargetQpair::decode(Slot &slot, const wire::Sqe &sqe) noexcept {
    slot.io.iov = iovs_.get() + size_t{number_of(slot)} * iov_per_slot_;
    slot.flush_all = false;
    slot.received = 0;
    slot.range = 0;
    slot.step_done = 0;
    slot.aborted = slot.preempted = false;
    slot.opcode = sqe.opcode;
    slot.only_reads = wire::only_reads(sqe.opcode);
    slot.cdw10_11 = sqe.slba;
    if (const Status bad = decode_common(sqe, slot.io, slot.shape); bad != status::ok) {
        return bad;
    }
    if (sqe.opcode == wire::opcode::fabrics) {
        if ((sqe.nsid & 0xFF) != wire::kFabricsDisconnect) {
            return status::invalid_opcode;
        }
        if ((sqe.flags & wire::kFlagsFuseMask) != 0) {
            return status::invalid_field;
        }
        disconnect_ = true;
        return status::ok;
    }
    const bool flush = sqe.opcode == wire::opcode::flush;
    slot.flush_all = flush && sqe.nsid == wire::kNsidAll;
    if (slot.flush_all && (sqe.flags & wire::kFlagsFuseMask) != 0) {
        return status::invalid_field;  // also if there are no namespaces: such a Flush is answered at once
    }
    NamespaceTable::refer(slot.ns, slot.flush_all ? namespaces_.next(0) : namespaces_.find(sqe.nsid));
    if (slot.ns == nullptr) {
        return slot.flush_all ? status::ok : status::invalid_namespace;  // flushes all, but there are none
    }
    if (flush && config_.flush_alarm && config_.flush_alarm->take()) {
        return status::write_fault;
    }
    if (const Status bad = decode_command(sqe, slot.ns->device->info(), config_.max_io_bytes, slot.io, slot.shape);
        bad != status::ok) {
        return bad;
    }
    if (slot.shape.for_python && !config_.reservations) {
        return status::invalid_opcode;
    }
    return bar_of(slot);  // before the host sends its data
}

// Reservation commands work under any reservation, but not through an inaccessible path.
Status TargetQpair::bar_of(const Slot &slot) noexcept {
    const Bars &bars = slot.ns->bars;
    if (slot.shape.for_python) {
        return bars.write == status::reservation_conflict ? status::ok : bars.write;
    }
    return slot.only_reads ? bars.read : bars.write;
}

// Prepares the next Io of a command that has several. False: no Io is left.
bool TargetQpair::next_step(Slot &slot) noexcept {
    if (slot.flush_all) {
        // The record of a removed namespace exists until its last Io is back, so nsid is still valid.
        NamespaceTable::refer(slot.ns, namespaces_.next(slot.ns->nsid));
        return slot.ns != nullptr;
    }
    return take_range(slot.io, slot.shape, slot.range);
}

// --- fused commands ----------------------------------------------------------------------------------------------

// A command has been decoded. The second of a fused pair directly follows the first; if one of them can't be executed,
// both fail.
void TargetQpair::pair(Slot &slot, uint8_t fuse) noexcept {
    slot.fused = slot.second = false;
    slot.partner = kNoTargetSlot;
    const uint32_t before = std::exchange(fuse_first_, kNoTargetSlot);
    Slot *first = before < slots_.size() ? &slots_[before] : nullptr;
    if (fuse == wire::kFuseSecond) {
        if (first != nullptr) {
            slot.fused = slot.second = true;
            slot.partner = before;
            first->partner = number_of(slot);
            if (slot.status == status::ok && (slot.ns != first->ns || slot.io.lba != first->io.lba ||
                                              slot.io.block_count != first->io.block_count)) {
                first->status = slot.status = status::invalid_field;
            }
        } else if (slot.status == status::ok) {
            slot.status = before == kFailedFirst ? status::failed_fused : status::missing_fused;
        }
        return;
    }
    if (first != nullptr) {
        first->fused = false;
        first->status = status::missing_fused;
        if (first->state == State::fused) {
            answer(*first, first->status);
        }
    }
    if (fuse == wire::kFuseFirst) {
        slot.fused = slot.status == status::ok;
        fuse_first_ = slot.fused ? number_of(slot) : kFailedFirst;
    }
}

// The host has sent everything that the command needs. It is fused, or has failed.
void TargetQpair::arrived(Slot &slot) noexcept {
    if (!slot.fused) {
        answer(slot, slot.status);
        return;
    }
    slot.state = State::fused;
    if (slot.partner == kNoTargetSlot || slots_[slot.partner].state != State::fused) {
        return;
    }
    Slot &partner = slots_[slot.partner];
    slot.second ? execute_pair(partner, slot) : execute_pair(slot, partner);
}

void TargetQpair::execute_pair(Slot &first, Slot &second) noexcept {
    // submit() would answer one command only. The second one may be for a namespace that does not exist.
    if (first.ns == nullptr || second.ns == nullptr) {
        first.status = first.status != status::ok ? first.status : Status{status::invalid_field};
    }
    if (first.status == status::ok) {
        first.status = second.ns->removed ? Status{status::invalid_namespace} : bar_of(first);
    }
    if (first.status == status::ok && second.status == status::ok) {
        second.status = bar_of(second);
    }
    if (first.status == status::ok && second.status == status::ok && (first.preempted || second.preempted)) {
        first.status = status::aborted_preempted;
    }
    if (first.status != status::ok || second.status != status::ok) {
        answer(first, first.status != status::ok ? first.status : Status{status::failed_fused});
        answer(second, second.status != status::ok ? second.status : Status{status::failed_fused});
        return;
    }
    second.io.op = Op::compare_write;
    second.io.iov[1] = second.io.iov[0];
    second.io.iov[0] = first.io.iov[0];
    second.io.iov_count = 2;
    submit(second);
}

// --- PDUs from the host ------------------------------------------------------------------------------------------

bool TargetQpair::on_header(const uint8_t *pdu, PduType type, uint8_t flags, uint32_t data_length,
                            DataSink &sink) noexcept {
    rx_type_ = type;
    rx_length_ = data_length;
    switch (type) {
        case PduType::capsule_cmd: {
            wire::CapsuleCmd command;
            std::memcpy(&command, pdu, sizeof command);
            return on_command(command, data_length, sink);
        }
        case PduType::h2c_data: {
            wire::H2cData data;
            std::memcpy(&data, pdu, sizeof data);
            return on_h2c_data(data, flags, data_length, sink);
        }
        default: {
            wire::TermReq request;
            std::memcpy(&request, pdu, sizeof request);
            stream_->set_fault(QpairClose::peer_terminated, static_cast<uint32_t>(request.fes));
            return false;
        }
    }
}

void TargetQpair::on_ahead(const uint8_t *bytes, size_t count) noexcept {
    if (count < sizeof(wire::CapsuleCmd)) {
        return;
    }
    wire::CapsuleCmd next;
    std::memcpy(&next, bytes, sizeof next);
    if (next.ch.type == PduType::capsule_cmd &&
        (next.sqe.opcode == wire::opcode::read || next.sqe.opcode == wire::opcode::write)) {
        if (const NamespaceTable::Entry *ns = namespaces_.find(next.sqe.nsid); ns != nullptr) {
            ns->device->expect(next.sqe.slba);
        }
    }
}

bool TargetQpair::on_command(const wire::CapsuleCmd &pdu, uint32_t data_length, DataSink &sink) noexcept {
    const wire::Sqe &sqe = pdu.sqe;
    const bool in_capsule = sqe.sgl.type == wire::kSglInCapsule;
    if (data_length > config_.in_capsule_bytes) {
        return stream_->reject(Fes::limit_exceeded);
    }
    if (in_capsule && sqe.sgl.address != 0) {
        return stream_->reject(Fes::unsupported_parameter, kFeiSgl);  // an offset is not allowed, because ICDOFF is 0
    }
    if (data_length != (in_capsule ? sqe.sgl.length : 0)) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::CommonHeader, plen));
    }
    Slot *taken = take_slot();
    if (taken == nullptr) {
        return stream_->reject(Fes::sequence_error);  // more outstanding commands than the queue has entries
    }
    Slot &slot = *taken;
    ++stats_.commands;
    slot.cid = sqe.cid;
    slot.reserved = false;
    slot.digest_error = false;
    slot.status = decode(slot, sqe);
    pair(slot, sqe.flags & wire::kFlagsFuseMask);
    if (data_length > 0) {
        await_data(slot, State::capsule);
        rx_slot_ = number_of(slot);
        if (slot.status == status::ok && slot.shape.to_device) {
            find_buffer(slot);  // in-capsule data always fits into the slot's buffer
            sink = {slot.io.iov, slot.io.iov_count, 0};
        }
        return true;
    }
    if (slot.status != status::ok) {
        arrived(slot);
    } else if (slot.shape.length == 0) {
        execute(slot);
    } else if (find_buffer(slot)) {
        begin_transfer(slot);
    }
    return !disconnect_ || stream_->stop();
}

void TargetQpair::begin_transfer(Slot &slot) noexcept {
    if (!slot.shape.to_device) {
        execute(slot);
        return;
    }
    wire::R2t pdu{};
    pdu.ch.type = PduType::r2t;
    pdu.ch.hlen = sizeof pdu;
    pdu.cccid = slot.cid;
    pdu.ttag = static_cast<uint16_t>(number_of(slot));
    pdu.r2tl = slot.shape.length;
    slot.data.set_header(pdu);
    slot.data.data_length = 0;
    await_data(slot, State::transfer);
    stream_->queue(slot.data);
}

bool TargetQpair::on_h2c_data(const wire::H2cData &pdu, uint8_t flags, uint32_t data_length, DataSink &sink) noexcept {
    if (pdu.ttag >= slots_.size() || slots_[pdu.ttag].state != State::transfer) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::H2cData, ttag));
    }
    Slot &slot = slots_[pdu.ttag];
    if (slot.data.queued) {
        return stream_->reject(Fes::sequence_error);  // the host cannot have received the R2T yet
    }
    if (pdu.cccid != slot.cid) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::H2cData, cccid));
    }
    if (pdu.datal == 0 || pdu.datal % 4 != 0 || pdu.datal != data_length) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::H2cData, datal));
    }
    if (pdu.datal > config_.max_h2c_data) {
        return stream_->reject(Fes::limit_exceeded);
    }
    if (pdu.datao != slot.received || pdu.datal > slot.shape.length - slot.received) {
        return stream_->reject(Fes::out_of_range);
    }
    if ((flags & wire::flag::last_pdu) != 0 && slot.received + pdu.datal < slot.shape.length) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::CommonHeader, flags));
    }
    rx_slot_ = pdu.ttag;
    sink = {slot.io.iov, slot.io.iov_count, MUTATED(h2c_offset_ignored) ? 0 : slot.received};
    return true;
}

bool TargetQpair::on_data(bool digest_ok) noexcept {
    if (rx_type_ != PduType::capsule_cmd && rx_type_ != PduType::h2c_data) {
        return true;  // the offending header of a TermReq; its fault is already set
    }
    Slot &slot = slots_[rx_slot_];
    slot.received += rx_length_;
    slot.digest_error = slot.digest_error || !(digest_ok || MUTATED(write_digest_ignored));
    if (rx_type_ == PduType::h2c_data && slot.received < slot.shape.length) {
        return true;
    }
    if (slot.digest_error) {
        slot.status = status::transient_transport_error;
    }
    if (slot.status != status::ok || slot.fused) {
        arrived(slot);
    } else {
        execute(slot);
    }
    return !disconnect_ || stream_->stop();
}

// --- commands --------------------------------------------------------------------------------------------------

// The host has sent everything that the command needs.
void TargetQpair::execute(Slot &slot) noexcept {
    if (slot.ns == nullptr) {
        answer(slot, status::ok);  // a Disconnect, or a flush of all namespaces if there are none
        return;
    }
    if (slot.shape.for_python) {
        give_to_python(slot);
        return;
    }
    if (slot.io.op == Op::deallocate) {
        const Status bad = check_ranges(slot.ns->device->info(), slot.io, slot.shape);
        if (bad != status::ok || !next_step(slot)) {
            answer(slot, bad);
            return;
        }
    } else if (slot.shape.steps != Steps::none) {
        start_steps(slot);
        return;
    } else if (slot.io.op == Op::zone_report) {
        // The device may leave the memory behind the last descriptor unchanged. It must not show data of other users.
        for (uint32_t i = 0; i < slot.io.iov_count; ++i) {
            std::memset(slot.io.iov[i].iov_base, 0, slot.io.iov[i].iov_len);
        }
    }
    submit(slot);
}

void TargetQpair::submit(Slot &slot) noexcept {
    if (slot.ns->removed) {
        answer(slot, status::invalid_namespace);
        return;
    }
    if (const Status bar = bar_of(slot); bar != status::ok) {
        answer(slot, bar);  // the bars may have changed while the data arrived
        return;
    }
    if (slot.preempted) {
        answer(slot, status::aborted_preempted);
        return;
    }
    slot.state = State::device;
    slot.reserved = false;  // the device owns the slots again
    ++outstanding_;
    slot.ns->device->submit(slot.io);
}

// One event for any number of commands: a host that floods the queue does not fill the event ring.
void TargetQpair::give_to_python(Slot &slot) noexcept {
    slot.state = State::python;
    ++slot.ticket;
    for_python_[(for_python_head_ + for_python_count_) % for_python_.size()] = number_of(slot);
    ++for_python_count_;
    if (!python_told_) {
        python_told_ = true;
        reactor_->emit(EventKind::target_qpair_command, id_);
    }
}

void TargetQpair::abandon(Slot &slot) noexcept {
    if (slot.reserved) {
        slot.reserved = false;
        slot.ns->device->abandon(slot.io);
    }
}

void TargetQpair::io_done(Slot &slot) noexcept {
    --outstanding_;
    if (slot.aborted) {
        slot.aborted = false;
        aborting_.fetch_sub(1, std::memory_order_release);
        if (slot.io.status == status::aborted) {
            slot.io.status = status::aborted_preempted;
        }
    }
    if (life_ != Life::open) {
        free_slot(slot);
        if (life_ == Life::dead && outstanding_ == 0) {
            drained_.store(true, std::memory_order_release);
        }
        return;
    }
    const Status status = slot.io.status;
    if (slot.fused) {
        const bool compared = slot.io.compared;
        answer(slots_[slot.partner], compared ? Status{status::ok} : status);
        answer(slot, compared ? status : Status{status::failed_fused});
        return;
    }
    if (slot.shape.steps != Steps::none) {
        step_done(slot);
        return;
    }
    if (status == status::ok && (slot.flush_all || slot.shape.ranges > 0) && next_step(slot)) {
        submit(slot);
        return;
    }
    answer(slot, status);
}

void TargetQpair::answer(Slot &slot, Status status) noexcept {
    abandon(slot);
    slot.state = State::answering;
    give_lane(slot);
    if (status != status::ok) {
        ++stats_.errors;
        queue_reply(slot, status, slot.shape.steps == Steps::copy ? slot.range : 0);
        return;
    }
    const Io &io = slot.io;
    if (slot.ns != nullptr && slot.shape.length > 0 && !slot.shape.to_device) {
        if (io.op == Op::read) {
            stats_.read_blocks += io.block_count;
        }
        queue_c2h_data(slot, config_.success_flag);
        if (!config_.success_flag) {
            queue_reply(slot, status, 0);
        }
        return;
    }
    if ((io.op == Op::write && slot.shape.steps == Steps::none) || io.op == Op::append || io.op == Op::compare_write) {
        stats_.write_blocks += slot.ns != nullptr ? io.block_count : 0;
    }
    queue_reply(slot, status, io.op == Op::append ? io.result : 0);
    if (slot.chunk_count > 0) {
        give_chunks(slot);
        serve_waiting();
    }
}

void TargetQpair::queue_c2h_data(Slot &slot, bool success) noexcept {
    wire::C2hData pdu{};
    pdu.ch.type = PduType::c2h_data;
    pdu.ch.hlen = sizeof pdu;
    pdu.ch.flags = wire::flag::last_pdu;
    pdu.cccid = slot.cid;
    pdu.datal = slot.shape.length;
    if (success) {
        pdu.ch.flags |= wire::flag::success;
        sqhd_ = static_cast<uint16_t>((sqhd_ + 1U) % config_.queue_size);  // as if a response had been sent
    }
    slot.data.set_header(pdu);
    slot.data.data = slot.io.iov;
    slot.data.data_count = slot.io.iov_count;
    slot.data.data_skip = 0;
    slot.data.data_length = slot.shape.length;
    stream_->queue(slot.data);
}

void TargetQpair::queue_reply(Slot &slot, Status status, uint64_t result) noexcept {
    wire::CapsuleResp pdu{};
    pdu.ch.type = PduType::capsule_resp;
    pdu.ch.hlen = sizeof pdu;
    pdu.cqe.result = result;
    pdu.cqe.cid = slot.cid;
    pdu.cqe.status = wire::status_to_wire(status);
    pdu.cqe.sqhd = config_.flow_control ? sqhd_ : uint16_t{0};
    sqhd_ = static_cast<uint16_t>((sqhd_ + 1U) % config_.queue_size);
    slot.reply.set_header(pdu);
    stream_->queue(slot.reply);
}

void TargetQpair::on_sent(TxPdu &pdu) noexcept {
    Slot &slot = slots_[pdu.slot];
    if (slot.state == State::answering && !slot.data.queued && !slot.reply.queued) {
        free_slot(slot);
    }
}

}  // namespace ftl
