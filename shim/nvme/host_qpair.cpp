// SPDX-License-Identifier: BSD-3-Clause
// The queue: PDUs from the controller, timeouts and the end of the connection. host_commands.cpp turns Ios into
// commands.
#include "nvme/host_qpair.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/mutation.hpp"
#include "nvme/host_encoding.hpp"

namespace ftl {

using wire::Fes;
using wire::PduType;

namespace {

constexpr uint32_t kMaxH2cMin = 4096;
constexpr uint32_t kTimeoutChecks = 8;  // checks per timeout period

HostQpairConfig checked(HostQpairConfig config, const BlockDeviceInfo &info) {
    if (config.queue_depth == 0 || config.queue_depth > HostQpair::kQueueDepthMax) {
        throw std::invalid_argument("queue_depth must be within 1.." + std::to_string(HostQpair::kQueueDepthMax));
    }
    if (info.block_bytes == 0 || info.block_bytes % 4 != 0) {
        throw std::invalid_argument(
            "a block of " + std::to_string(info.block_bytes) +
            " bytes is not a multiple of dwords: block_bytes + metadata_bytes must be a multiple of 4");
    }
    if (config.max_io_bytes < info.block_bytes) {
        throw std::invalid_argument("max_io_bytes must be at least one block");
    }
    if (config.max_h2c_data < kMaxH2cMin) {
        throw std::invalid_argument("max_h2c_data must be at least " + std::to_string(kMaxH2cMin));
    }
    config.max_h2c_data &= ~uint32_t{3};
    return config;
}

}  // namespace

HostQpair::HostQpair(std::shared_ptr<Reactor> reactor, int fd, const HostQpairConfig &config,
                     const BlockDeviceInfo &info)
    : reactor_(std::move(reactor)), config_(checked(config, info)), info_(info), slots_(config_.queue_depth) {
    info_.deallocated_reads_zeroes = false;  // unknown: the controller decides that
    set_limits(info_, config_.max_io_bytes, config_.max_append_bytes);
    for (uint32_t i = 0; i < slots_.size(); ++i) {
        slots_[i].command.slot = i;
        slots_[i].data.slot = i;
        slots_[i].next_free = i + 1 < slots_.size() ? i + 1 : kNoSlot;
    }
    PduHandler &handler = *this;
    stream_ = std::make_unique<PduStream>(handler, PduStream::Role::host, fd, config_.header_digest,
                                          config_.data_digest, config_.tls);
    // The reactor only borrows the qpair. Python and the issuers own it, and its destructor removes it from the
    // reactor.
    const std::shared_ptr<Poller> borrowed(std::shared_ptr<void>(), this);
    reactor_->call([&] { id_ = reactor_->add(borrowed); });
}

HostQpair::~HostQpair() {
    reactor_->call([this] { reactor_->remove(id_); });
}

void HostQpair::close() {
    reactor_->call([this] {
        if (connected_) {
            stream_->set_fault(QpairClose::closed);
            lose();
        }
    });
}

bool HostQpair::busy() const noexcept {
    return !done_.empty() || (connected_ && ((stream_->sending() && !stream_->blocked()) || stream_->has_input()));
}

// --- PDUs from the controller -----------------------------------------------------------------------------------

bool HostQpair::on_header(const uint8_t *pdu, PduType type, uint8_t flags, uint32_t data_length,
                          DataSink &sink) noexcept {
    switch (type) {
        case PduType::capsule_resp: {
            wire::CapsuleResp response;
            std::memcpy(&response, pdu, sizeof response);
            return on_response(response);
        }
        case PduType::c2h_data: {
            wire::C2hData data;
            std::memcpy(&data, pdu, sizeof data);
            return on_c2h_data(data, flags, data_length, sink);
        }
        case PduType::r2t: {
            wire::R2t r2t;
            std::memcpy(&r2t, pdu, sizeof r2t);
            return on_r2t(r2t);
        }
        default: {
            wire::TermReq request;
            std::memcpy(&request, pdu, sizeof request);
            stream_->set_fault(QpairClose::peer_terminated, static_cast<uint32_t>(request.fes));
            return false;
        }
    }
}

HostQpair::Slot *HostQpair::slot_of(uint16_t cid) noexcept {
    if (cid >= slots_.size() || slots_[cid].io == nullptr || slots_[cid].answered) {
        return nullptr;
    }
    return &slots_[cid];
}

bool HostQpair::on_response(const wire::CapsuleResp &pdu) noexcept {
    Slot *slot = slot_of(pdu.cqe.cid);
    if (slot == nullptr) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::CapsuleResp, cqe) + offsetof(wire::Cqe, cid));
    }
    Status status = wire::status_from_wire(pdu.cqe.status);
    const Io &io = *slot->io;
    slot->do_not_retry = status != status::ok && wire::dnr_from_wire(pdu.cqe.status);
    if (status == status::ok) {
        if (slot->digest_error) {
            status = status::transient_transport_error;
        } else if (from_controller(io.op) ? slot->received < slot->length : slot->writes && slot->sent < slot->length) {
            status = status::data_transfer_error;  // success, but data is missing
        }
        if (io.op == Op::append) {
            slot->result = pdu.cqe.result;
            if (!append_address(io, info_, slot->result) && status == status::ok) {
                status = status::internal_error;
            }
        } else {
            slot->result = pdu.cqe.result;
        }
    }
    answer(*slot, status);
    return true;
}

bool HostQpair::on_r2t(const wire::R2t &pdu) noexcept {
    Slot *slot = slot_of(pdu.cccid);
    if (slot == nullptr || !slot->writes) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::R2t, cccid));
    }
    if (slot->command.queued) {
        return stream_->reject(Fes::sequence_error);  // the controller cannot have received the command yet
    }
    if (slot->data.queued || slot->sent < slot->granted) {
        return stream_->reject(Fes::limit_exceeded);  // MAXR2T is 0: one R2T at a time
    }
    if (pdu.r2to != slot->sent) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::R2t, r2to));
    }
    if (pdu.r2tl == 0 || pdu.r2tl > slot->length - slot->sent) {
        return stream_->reject(Fes::out_of_range, offsetof(wire::R2t, r2tl));
    }
    if (pdu.r2tl % 4 != 0) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::R2t, r2tl));
    }
    slot->ttag = pdu.ttag;
    slot->granted = pdu.r2to + pdu.r2tl;
    queue_h2c(*slot);
    return true;
}

bool HostQpair::on_c2h_data(const wire::C2hData &pdu, uint8_t flags, uint32_t data_length, DataSink &sink) noexcept {
    Slot *slot = slot_of(pdu.cccid);
    if (slot == nullptr || !from_controller(slot->io->op)) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::C2hData, cccid));
    }
    if (slot->command.queued) {
        return stream_->reject(Fes::sequence_error);
    }
    if (pdu.datal == 0 || pdu.datal != data_length) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::C2hData, datal));
    }
    if (pdu.datao != slot->received) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::C2hData, datao));
    }
    if (pdu.datal > slot->length - slot->received) {
        return stream_->reject(Fes::out_of_range, offsetof(wire::C2hData, datal));
    }
    rx_last_ = (flags & wire::flag::last_pdu) != 0;
    rx_success_ = (flags & wire::flag::success) != 0;
    if (rx_success_ && !rx_last_) {
        return stream_->reject(Fes::invalid_header_field, offsetof(wire::CommonHeader, flags));
    }
    rx_cid_ = pdu.cccid;
    rx_length_ = data_length;
    sink = {slot->io->iov, slot->io->iov_count, slot->received};
    return true;
}

bool HostQpair::on_data(bool digest_ok) noexcept {
    Slot &slot = slots_[rx_cid_];
    slot.received += rx_length_;
    slot.digest_error = slot.digest_error || !(digest_ok || MUTATED(read_digest_ignored));
    if (rx_success_) {
        const Status status = slot.digest_error             ? status::transient_transport_error
                              : slot.received < slot.length ? status::data_transfer_error
                                                            : status::ok;
        answer(slot, status);
    }
    return true;
}

// --- progress --------------------------------------------------------------------------------------------------

// Checks all commands, a few times per timeout period.
void HostQpair::check_timeouts(uint64_t now_ns) noexcept {
    if (config_.io_timeout_ns == 0 || in_flight_ == 0 || now_ns < check_at_ns_) {
        return;
    }
    check_at_ns_ = now_ns + config_.io_timeout_ns / kTimeoutChecks;
    for (const Slot &slot : slots_) {
        if (slot.io != nullptr && now_ns > slot.started_ns + config_.io_timeout_ns) {
            stream_->set_fault(QpairClose::timed_out);
        }
    }
}

// Nothing that was sent before this poll awaits an answer, so the controller has hardly anything to say, except that
// the connection ends. An empty socket costs a system call all the same.
bool HostQpair::skips_receive() noexcept {
    if (reactor_->settling() && stream_->drained() && !stream_->has_input()) {
        return true;
    }
    // A caller that drives the reactor with step() relies on every round.
    if (awaited_ || stream_->has_input() || !reactor_->running() || ++skipped_ >= kQuietRounds) {
        skipped_ = 0;
        return false;
    }
    return true;
}

uint32_t HostQpair::poll(uint64_t now_ns) noexcept {
    uint32_t work = run_done();
    if (!connected_) {
        return work;
    }
    const bool receives = !skips_receive();
    work += stream_->exchange(receives);
    awaited_ = in_flight_ > 0;
    if (!stream_->fault()) {
        check_timeouts(now_ns);
    }
    if (stream_->fault()) {
        const StreamFault fault = stream_->fault();
        if (fault.reason == QpairClose::protocol_error && !stream_->partly_sent()) {
            // Best effort. The queued PDUs are dropped, because their buffers go back to the issuers now.
            stream_->clear();
            stream_->queue_term_req();
            stream_->flush();
        }
        lose();
        reactor_->emit(EventKind::host_qpair_lost, id_, static_cast<uint64_t>(fault.reason), fault.detail);
        work += run_done() + 1;
    }
    return work;
}

// Completes the Ios that are done now. Those that a completion submits wait for the next poll.
uint32_t HostQpair::run_done() noexcept {
    IoList batch = done_;
    done_ = {};
    uint32_t count = 0;
    while (Io *io = batch.pop()) {
        io->complete(*io);
        ++count;
    }
    return count;
}

void HostQpair::lose() noexcept {
    connected_ = false;
    stream_->clear();
    stream_->shut();
    for (Slot &slot : slots_) {
        if (slot.io == nullptr) {
            continue;
        }
        // This includes commands that were answered before all their data had left.
        slot.io->status = slot.answered ? slot.status : status::path_error;
        slot.io->do_not_retry = slot.answered && slot.do_not_retry;
        slot.io->result = slot.result;
        done_.push(*slot.io);
        slot.io = nullptr;
        slot.next_free = free_;
        free_ = slot.command.slot;
    }
    in_flight_ = reads_ = 0;
    while (Io *io = waiting_.pop()) {
        io->status = status::path_error;
        done_.push(*io);
    }
}

}  // namespace ftl
