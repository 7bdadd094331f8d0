// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/host_queue.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/iov_cursor.hpp"
#include "nvme/host_encoding.hpp"

namespace ftl {
namespace {

constexpr uint32_t kSharedTimeoutChecks = 8;  // checks per timeout period
constexpr uint32_t kQueuePage = SharedQueueMemory::kPage;
constexpr uint32_t kNapShare = 4;  // a nap is that part of the time waited so far
constexpr uint16_t kPhase = 1;     // of a completion's status field

}  // namespace

SharedHostQpair::SharedHostQpair(std::shared_ptr<Reactor> reactor, std::shared_ptr<SharedQueueMemory> memory,
                                 std::shared_ptr<MappedRanges> ranges, std::shared_ptr<Doorbells> doorbells,
                                 const SharedHostQpairConfig &config, const BlockDeviceInfo &info)
    : reactor_(std::move(reactor)),
      memory_(std::move(memory)),
      ranges_(std::move(ranges)),
      doorbells_(std::move(doorbells)),
      config_(config),
      info_(info),
      slots_(memory_->depth()) {
    if (info.block_bytes == 0 || info.block_bytes % 4 != 0 || info.block_bytes > memory_->io_bytes()) {
        throw std::invalid_argument("a block of " + std::to_string(info.block_bytes) +
                                    " bytes is not a multiple of dwords, or longer than max_io_bytes");
    }
    for (const uint64_t at : {config.sq_doorbell, config.cq_doorbell}) {
        if (at % 4 != 0 || at >= doorbells_->bytes()) {
            throw std::invalid_argument("the controller has no doorbell at " + std::to_string(at));
        }
    }
    if (config.used_entries >= memory_->entries()) {
        throw std::invalid_argument("the queues have " + std::to_string(memory_->entries()) + " entries");
    }
    sq_tail_ = cq_head_ = config.used_entries;
    info_.deallocated_reads_zeroes = false;  // unknown: the controller decides that
    set_limits(info_, memory_->io_bytes(), config.max_append_bytes);
    for (uint32_t i = 0; i < slots_.size(); ++i) {
        slots_[i].next_free = i + 1 < slots_.size() ? i + 1 : kNoSlot;
    }
    // The reactor only borrows the qpair, as in HostQpair.
    const std::shared_ptr<Poller> borrowed(std::shared_ptr<void>(), this);
    reactor_->call([&] { id_ = reactor_->add(borrowed); });
}

SharedHostQpair::~SharedHostQpair() {
    reactor_->call([this] { reactor_->remove(id_); });
}

void SharedHostQpair::close() {
    reactor_->call([this] {
        if (connected_) {
            lose();
        }
    });
}

const void *SharedHostQpair::take_wanted() {
    const void *wanted = nullptr;
    reactor_->call([&] { wanted = std::exchange(wanted_, nullptr); });
    return wanted;
}

// --- commands ---------------------------------------------------------------------------------------------------

void SharedHostQpair::submit(Io &io) noexcept {
    io.status = status::ok;
    io.do_not_retry = false;
    io.result = 0;
    uint32_t length = 0;
    const Status refused = connected_ ? check_io(io, info_, memory_->io_bytes(), length) : status::path_error;
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

void SharedHostQpair::start(Io &io) noexcept {
    const uint32_t number = free_;
    Slot &slot = slots_[number];
    free_ = slot.next_free;
    slot.io = &io;
    slot.started_ns = reactor_->now_ns();
    slot.length = static_cast<uint32_t>(io.device_data[0]);
    if (in_flight_++ == 0) {
        progress_ns_ = slot.started_ns;
    }
    wire::Sqe sqe = encode_io(io, config_.nsid, static_cast<uint16_t>(number), slot.length);
    slot.bounced = false;
    if (slot.length > 0) {
        slot.bounced = io.op == Op::deallocate || !point_to(io, slot.length, number, sqe);
        if (slot.bounced) {
            point_to_buffer(slot.length, number, sqe);
            if (io.op == Op::deallocate) {
                const wire::DsmRange range = dsm_range(io);
                std::memcpy(memory_->at(memory_->buffer_offset(number)), &range, sizeof range);
            } else if (to_controller(io.op)) {
                IovCursor(io.memory()).read(memory_->at(memory_->buffer_offset(number)), slot.length);
            }
        }
        (slot.bounced ? stats_.bounced_bytes : stats_.direct_bytes) += slot.length;
    }
    ++stats_.commands;
    std::memcpy(memory_->at(memory_->sq_offset() + uint64_t{sq_tail_} * sizeof sqe), &sqe, sizeof sqe);
    sq_tail_ = sq_tail_ + 1 == memory_->entries() ? 0 : sq_tail_ + 1;
    doorbells_->ring(config_.sq_doorbell, sq_tail_);
}

// PRPs to the Io's own memory. False: the server can't use all of it. PRP 1 may start within a page, every other at the
// start of one, and only the last page may end early.
bool SharedHostQpair::point_to(const Io &io, uint32_t length, uint32_t number, wire::Sqe &sqe) noexcept {
    auto *list = reinterpret_cast<uint64_t *>(memory_->at(memory_->list_offset(number)));
    uint64_t first = 0;
    uint64_t second = 0;
    uint32_t count = 0;
    uint32_t left = length;
    for (uint32_t i = 0; left > 0; ++i) {
        const iovec &piece = io.iov[i];
        const auto bytes = static_cast<uint32_t>(std::min<uint64_t>(piece.iov_len, left));
        if (bytes == 0) {
            continue;
        }
        const uint64_t iova = ranges_->iova_of(piece.iov_base, bytes, from_controller(io.op));
        if (iova >= MappedRanges::kForbidden) {
            if (iova == MappedRanges::kNone && wanted_ == nullptr && !ranges_->full() &&
                shared_memory::may_hold(piece.iov_base)) {
                wanted_ = piece.iov_base;
                reactor_->emit(EventKind::shared_memory_wanted, id_);
            }
            return false;
        }
        left -= bytes;
        if (iova % 4 != 0 || (count > 0 && iova % kQueuePage != 0) || (left > 0 && (iova + bytes) % kQueuePage != 0)) {
            return false;
        }
        for (uint64_t at = iova; at < iova + bytes; at = at / kQueuePage * kQueuePage + kQueuePage) {
            if (count == 0) {
                first = at;
            } else {
                second = at;
                list[count - 1] = at;
            }
            ++count;
        }
    }
    sqe.sgl.address = first;
    const uint64_t prp2 = count <= 2 ? second : config_.memory_iova + memory_->list_offset(number);
    std::memcpy(reinterpret_cast<uint8_t *>(&sqe.sgl) + sizeof first, &prp2, sizeof prp2);
    return true;
}

void SharedHostQpair::point_to_buffer(uint32_t length, uint32_t number, wire::Sqe &sqe) noexcept {
    auto *list = reinterpret_cast<uint64_t *>(memory_->at(memory_->list_offset(number)));
    const uint64_t first = config_.memory_iova + memory_->buffer_offset(number);
    uint64_t prp2 = 0;
    if (length > 2 * kQueuePage) {
        prp2 = config_.memory_iova + memory_->list_offset(number);
        for (uint32_t at = kQueuePage; at < length; at += kQueuePage) {
            list[at / kQueuePage - 1] = first + at;
        }
    } else if (length > kQueuePage) {
        prp2 = first + kQueuePage;
    }
    sqe.sgl.address = first;
    std::memcpy(reinterpret_cast<uint8_t *>(&sqe.sgl) + sizeof first, &prp2, sizeof prp2);
}

// --- completions ------------------------------------------------------------------------------------------------

uint32_t SharedHostQpair::poll(uint64_t now_ns) noexcept {
    uint32_t work = run_done();
    if (!connected_ || in_flight_ == 0) {
        return work;
    }
    polled_ns_ = now_ns;
    work += reap(now_ns);
    if (fault_ == QpairClose::none) {
        check_timeouts(now_ns);
    }
    if (fault_ == QpairClose::none && doorbells_->broken()) {
        fault_ = QpairClose::peer_closed;
    }
    if (fault_ != QpairClose::none) {
        lose();
        reactor_->emit(EventKind::host_qpair_lost, id_, static_cast<uint64_t>(fault_), 0);
        work += run_done() + 1;
    }
    return work;
}

uint32_t SharedHostQpair::reap(uint64_t now_ns) noexcept {
    uint32_t count = 0;
    // A server that changes the phases at will can't keep the reactor here.
    for (; count < memory_->depth() && connected_; ++count) {
        uint8_t *entry = memory_->at(memory_->cq_offset() + uint64_t{cq_head_} * sizeof(wire::Cqe));
        wire::Cqe cqe;
        auto &status = *reinterpret_cast<uint16_t *>(entry + offsetof(wire::Cqe, status));
        cqe.status = std::atomic_ref<uint16_t>(status).load(std::memory_order_acquire);
        if ((cqe.status & kPhase) != phase_) {
            break;
        }
        std::memcpy(&cqe, entry, offsetof(wire::Cqe, status));
        if (++cq_head_ == memory_->entries()) {
            cq_head_ = 0;
            phase_ ^= kPhase;
        }
        if (!complete(cqe)) {
            fault_ = QpairClose::protocol_error;
            return count + 1;
        }
    }
    if (count > 0 && connected_) {
        progress_ns_ = now_ns;
        doorbells_->ring(config_.cq_doorbell, cq_head_);
    }
    return count;
}

// False: no command with that id is in flight.
bool SharedHostQpair::complete(const wire::Cqe &cqe) noexcept {
    if (cqe.cid >= slots_.size() || slots_[cqe.cid].io == nullptr) {
        return false;
    }
    Slot &slot = slots_[cqe.cid];
    Io &io = *std::exchange(slot.io, nullptr);
    io.status = wire::status_from_wire(cqe.status);
    io.result = cqe.result;
    if (io.status == status::ok) {
        if (io.op == Op::append && !append_address(io, info_, io.result)) {
            io.status = status::internal_error;
        }
        if (slot.bounced && from_controller(io.op)) {
            IovCursor(io.memory()).write(memory_->at(memory_->buffer_offset(cqe.cid)), slot.length);
        }
    } else {
        io.do_not_retry = wire::dnr_from_wire(cqe.status);
    }
    slot.next_free = free_;
    free_ = cqe.cid;
    --in_flight_;
    if (Io *next = waiting_.pop(); next != nullptr) {
        start(*next);
    }
    io.complete(io);
    return true;
}

// Checks all commands, a few times per timeout period.
void SharedHostQpair::check_timeouts(uint64_t now_ns) noexcept {
    if (config_.io_timeout_ns == 0 || now_ns < check_at_ns_) {
        return;
    }
    check_at_ns_ = now_ns + config_.io_timeout_ns / kSharedTimeoutChecks;
    for (const Slot &slot : slots_) {
        if (slot.io != nullptr && now_ns > slot.started_ns + config_.io_timeout_ns) {
            fault_ = QpairClose::timed_out;
        }
    }
}

uint64_t SharedHostQpair::deadline_ns() const noexcept {
    if (in_flight_ == 0 || !connected_) {
        return ~uint64_t{0};
    }
    const uint64_t waited = polled_ns_ > progress_ns_ ? polled_ns_ - progress_ns_ : 0;
    return polled_ns_ + std::clamp(waited / kNapShare, kNapMinNs, kNapMaxNs);
}

// Completes the Ios that are done now. Those that a completion submits wait for the next poll.
uint32_t SharedHostQpair::run_done() noexcept {
    IoList batch = done_;
    done_ = {};
    uint32_t count = 0;
    while (Io *io = batch.pop()) {
        io->complete(*io);
        ++count;
    }
    return count;
}

void SharedHostQpair::lose() noexcept {
    connected_ = false;
    for (uint32_t i = 0; i < slots_.size(); ++i) {
        Slot &slot = slots_[i];
        if (Io *io = std::exchange(slot.io, nullptr); io != nullptr) {
            io->status = status::path_error;
            io->result = 0;
            done_.push(*io);
            slot.next_free = free_;
            free_ = i;
        }
    }
    in_flight_ = 0;
    while (Io *io = waiting_.pop()) {
        io->status = status::path_error;
        done_.push(*io);
    }
}

}  // namespace ftl
