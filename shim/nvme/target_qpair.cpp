// SPDX-License-Identifier: BSD-3-Clause
// The queue: slots and buffers, time limits and the end of the connection. target_commands.cpp runs the commands.
#include "nvme/target_qpair.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "reactor/wait_until.hpp"

namespace ftl {

using wire::Fes;
using wire::PduType;

namespace {

constexpr uint32_t kPage = 4096;
constexpr auto kCloseTimeout = std::chrono::seconds(30);

TargetQpairConfig checked(const TargetQpairConfig &config) {
    const auto within = [](const char *name, uint32_t value, uint32_t least, uint32_t most) {
        if (value < least || value > most || (least >= kPage && value % kPage != 0)) {
            throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + ", must be within " +
                                        std::to_string(least) + ".." + std::to_string(most) +
                                        (least >= kPage ? " and a multiple of 4096" : ""));
        }
    };
    within("queue_size", config.queue_size, 2, TargetQpair::kQueueSizeMax);
    within("max_io_bytes", config.max_io_bytes, kPage, TargetQpair::kMaxIoBytesMax);
    within("max_h2c_data", config.max_h2c_data, kPage, std::numeric_limits<uint32_t>::max());
    within("in_capsule_bytes", config.in_capsule_bytes, 0, TargetQpair::kInCapsuleBytesMax);
    within("sqhd", config.sqhd, 0, config.queue_size - 1);
    return config;
}

// A chunk holds whole blocks, so more than half of each chunk is used.
uint32_t chunks_of_largest(uint32_t max_io_bytes) {
    return max_io_bytes / (TargetQpair::kChunkBytes / 2) + 1;
}

uint32_t round_up(uint32_t bytes) {
    return (bytes + kPage - 1) / kPage * kPage;
}

}  // namespace

TargetQpair::TargetQpair(std::shared_ptr<Reactor> reactor, int fd, const TargetQpairConfig &config,
                         Namespaces namespaces, const BarsByNsid &bars)
    : reactor_(std::move(reactor)),
      config_(checked(config)),
      namespaces_(std::move(namespaces), bars, config_.max_io_bytes),
      slots_(config_.queue_size),
      waiting_head_(kNoTargetSlot),
      waiting_tail_(kNoTargetSlot),
      for_python_(config_.queue_size),
      slot_buffer_bytes_(round_up(std::max(config_.in_capsule_bytes, kSlotBufferMin))),
      iov_per_slot_(std::max(config_.max_io_bytes / kBlockSize + 1, chunks_of_largest(config_.max_io_bytes))),
      iovs_(std::make_unique<iovec[]>(size_t{config_.queue_size} * iov_per_slot_)),
      slot_buffers_(size_t{config_.queue_size} * slot_buffer_bytes_),
      chunk_total_(std::max(kPoolBytes / kChunkBytes, 2 * chunks_of_largest(config_.max_io_bytes))),
      chunks_(size_t{chunk_total_} * kChunkBytes),
      chunk_next_(chunk_total_),
      chunks_left_(chunk_total_),
      lane_bytes_(std::min(config_.max_io_bytes, kLaneBytes)),
      lanes_(size_t{kLanes} * lane_bytes_),
      line_head_(kNoTargetSlot),
      line_tail_(kNoTargetSlot),
      fuse_first_(kNoTargetSlot),
      sqhd_(config_.sqhd) {
    for (uint32_t i = 0; i < slots_.size(); ++i) {
        Slot &slot = slots_[i];
        slot.data.slot = slot.reply.slot = i;
        slot.next = i + 1 < slots_.size() ? i + 1 : kNoTargetSlot;
        slot.lane = kNoTargetSlot;
        slot.io.owner = this;
        slot.io.ordered_by = this;
        slot.io.owner_data = i;
        slot.io.complete = [](Io &io) noexcept {
            auto &qpair = *static_cast<TargetQpair *>(io.owner);
            qpair.io_done(qpair.slots_[io.owner_data]);
        };
    }
    for (uint32_t i = 0; i < chunk_total_; ++i) {
        chunk_next_[i] = i + 1 < chunk_total_ ? i + 1 : kNoTargetSlot;
    }
    PduHandler &handler = *this;
    stream_ = std::make_unique<PduStream>(handler, PduStream::Role::target, fd, config_.header_digest,
                                          config_.data_digest, config_.tls);
    // The reactor only borrows the qpair. close() removes it from the reactor.
    const std::shared_ptr<Poller> borrowed(std::shared_ptr<void>(), this);
    reactor_->call([&] { id_ = reactor_->add(borrowed); });
}

TargetQpair::~TargetQpair() {
    close();
}

// --- control path ----------------------------------------------------------------------------------------------

void TargetQpair::set_namespace(uint32_t nsid, std::shared_ptr<BlockDevice> device, Bars bars) {
    // Entries are destroyed on this thread. Python may hold the last reference to a device, and the reactor must not
    // drop such a reference.
    NamespaceTable::Entries unused;
    auto entry = NamespaceTable::entry_of(nsid, std::move(device), bars, config_.max_io_bytes);
    const std::lock_guard lock(control_mutex_);
    if (!removed_from_reactor_) {
        reactor_->call([&] { namespaces_.set(nsid, std::move(entry), unused); });
    }
}

bool TargetQpair::give_back_removed() {
    NamespaceTable::Entries unused;
    bool all = true;
    const std::lock_guard lock(control_mutex_);
    if (!removed_from_reactor_) {
        reactor_->call([&] { all = namespaces_.give_back(unused); });
    }
    return all;
}

// These do not take control_mutex_: close() holds it until every Io is back, and the event loop must not wait for that.

void TargetQpair::set_bars(uint32_t nsid, Bars bars) {
    reactor_->call([&] {
        if (Namespace *ns = life_ == Life::dead ? nullptr : namespaces_.find(nsid); ns != nullptr) {
            ns->bars = bars;
        }
    });
}

void TargetQpair::abort_io(uint32_t nsid) {
    reactor_->call([&] {
        for (Slot &slot : slots_) {
            if (slot.ns == nullptr || slot.ns->nsid != nsid || slot.state == State::python) {
                continue;
            }
            slot.preempted = true;
            if (slot.state == State::device && !slot.aborted) {
                slot.aborted = true;
                aborting_.fetch_add(1, std::memory_order_relaxed);
                slot.ns->device->cancel(slot.io);
            }
        }
    });
}

std::optional<QueuedCommand> TargetQpair::take_command() {
    std::optional<QueuedCommand> taken;
    reactor_->call([&] {
        if (life_ == Life::dead || for_python_count_ == 0) {
            python_told_ = false;
            return;
        }
        const uint32_t number = for_python_[for_python_head_];
        for_python_head_ = (for_python_head_ + 1) % static_cast<uint32_t>(for_python_.size());
        --for_python_count_;
        const Slot &slot = slots_[number];
        QueuedCommand &command = taken.emplace();
        command.token = uint64_t{slot.ticket} << 32 | number;
        command.nsid = slot.ns->nsid;
        command.opcode = slot.opcode;
        command.cdw10 = static_cast<uint32_t>(slot.cdw10_11);
        command.cdw11 = static_cast<uint32_t>(slot.cdw10_11 >> 32);
        command.length = slot.shape.length;
        if (slot.shape.to_device) {
            std::memcpy(command.data.data(), slot.io.iov[0].iov_base,
                        std::min<size_t>(command.data.size(), slot.shape.length));
        }
    });
    return taken;
}

bool TargetQpair::complete_command(uint64_t token, Status status, std::span<const uint8_t> data) {
    bool sent = false;
    const auto number = static_cast<uint32_t>(token);
    if (number >= slots_.size()) {
        return false;
    }
    reactor_->call([&] {
        Slot &slot = slots_[number];
        if (life_ != Life::open || slot.state != State::python || slot.ticket != token >> 32) {
            return;
        }
        if (status == status::ok && !slot.shape.to_device) {
            for (iovec &piece : slot.io.memory()) {
                const size_t bytes = std::min(piece.iov_len, data.size());
                auto *memory = static_cast<uint8_t *>(piece.iov_base);
                std::copy_n(data.begin(), bytes, memory);
                std::fill_n(memory + bytes, piece.iov_len - bytes, uint8_t{0});
                data = data.subspan(bytes);
            }
        }
        answer(slot, status);
        sent = true;
    });
    return sent;
}

TargetQpairStats TargetQpair::stats() {
    TargetQpairStats copy;
    reactor_->call([&] {
        copy = stats_;
        copy.bytes_in = stream_->bytes_in();
        copy.bytes_out = stream_->bytes_out();
    });
    return copy;
}

bool TargetQpair::dead() {
    bool dead = false;
    reactor_->call([&] { dead = life_ == Life::dead; });
    return dead;
}

void TargetQpair::close() {
    const std::lock_guard lock(control_mutex_);
    if (removed_from_reactor_) {
        return;
    }
    reactor_->call([this] {
        if (life_ != Life::dead) {
            stream_->set_fault(QpairClose::closed);
            die(false);
        }
    });
    if (!wait_until(*reactor_, kCloseTimeout, [this] { return drained(); })) {
        throw std::runtime_error("a device did not complete the outstanding I/O of a closed qpair within 30 s");
    }
    reactor_->call([this] { reactor_->remove(id_); });
    removed_from_reactor_ = true;
    namespaces_.clear();
}

// --- slots and buffers -----------------------------------------------------------------------------------------

TargetQpair::Slot *TargetQpair::take_slot() noexcept {
    if (free_ == kNoTargetSlot) {
        return nullptr;
    }
    Slot &slot = slots_[free_];
    free_ = slot.next;
    return &slot;
}

void TargetQpair::free_slot(Slot &slot) noexcept {
    give_lane(slot);
    NamespaceTable::refer(slot.ns, nullptr);
    slot.state = State::free;
    slot.next = free_;
    free_ = number_of(slot);
    if (slot.chunk_count > 0) {
        give_chunks(slot);
        serve_waiting();
    }
}

void TargetQpair::place_in_slot_buffer(Slot &slot) noexcept {
    slot.io.iov[0] = {slot_buffers_.data() + size_t{number_of(slot)} * slot_buffer_bytes_, slot.shape.length};
    slot.io.iov_count = 1;
}

bool TargetQpair::take_chunks(Slot &slot) noexcept {
    // Devices rely on whole blocks in each iov entry.
    const uint32_t block_bytes = slot.ns->device->info().block_bytes;
    const uint32_t piece = slot.io.op == Op::zone_report ? kChunkBytes : kChunkBytes / block_bytes * block_bytes;
    const uint32_t count = (slot.shape.length + piece - 1) / piece;
    if (count > chunks_left_) {
        return false;
    }
    chunks_left_ -= count;
    slot.chunk = chunk_free_;
    slot.chunk_count = count;
    uint32_t left = slot.shape.length;
    uint32_t chunk = chunk_free_;
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t bytes = std::min(left, piece);
        slot.io.iov[i] = {chunks_.data() + size_t{chunk} * kChunkBytes, bytes};
        left -= bytes;
        chunk = chunk_next_[chunk];
    }
    slot.io.iov_count = count;
    chunk_free_ = chunk;
    return true;
}

void TargetQpair::give_chunks(Slot &slot) noexcept {
    uint32_t last = slot.chunk;
    for (uint32_t i = 1; i < slot.chunk_count; ++i) {
        last = chunk_next_[last];
    }
    chunk_next_[last] = chunk_free_;
    chunk_free_ = slot.chunk;
    chunks_left_ += slot.chunk_count;
    slot.chunk_count = 0;
}

// False: the slot waits for chunks.
bool TargetQpair::find_buffer(Slot &slot) noexcept {
    if (slot.fused) {
        place_in_slot_buffer(slot);
        return true;
    }
    if (slot.io.op == Op::write && slot.ns->device->reserve(slot.io, iov_per_slot_)) {
        slot.reserved = true;
        return true;
    }
    if (slot.shape.length <= slot_buffer_bytes_) {
        place_in_slot_buffer(slot);
        return true;
    }
    if (waiting_head_ == kNoTargetSlot && take_chunks(slot)) {
        return true;
    }
    slot.state = State::waiting;
    slot.next = kNoTargetSlot;
    if (waiting_head_ == kNoTargetSlot) {
        waiting_head_ = number_of(slot);
    } else {
        slots_[waiting_tail_].next = number_of(slot);
    }
    waiting_tail_ = number_of(slot);
    return false;
}

// In order of arrival, so that small commands do not starve a large one.
void TargetQpair::serve_waiting() noexcept {
    while (life_ == Life::open && waiting_head_ != kNoTargetSlot && take_chunks(slots_[waiting_head_])) {
        Slot &slot = slots_[waiting_head_];
        waiting_head_ = slot.next;
        begin_transfer(slot);
    }
}

// --- life ------------------------------------------------------------------------------------------------------

bool TargetQpair::busy() const noexcept {
    return life_ != Life::dead &&
           ((stream_->sending() && !stream_->blocked()) || (life_ == Life::open && stream_->has_input()));
}

uint64_t TargetQpair::deadline_ns() const noexcept {
    return life_ == Life::closing ? linger_until_ns_ : life_ == Life::open ? check_ns_ : ~uint64_t{0};
}

bool TargetQpair::skips_round(uint64_t now_ns) noexcept {
    if (now_ns >= window_ns_) {
        idle_ = window_ns_ != 0 && hits_ < kIdleHitsMax;
        hits_ = 0;
        window_ns_ = now_ns + kIdleWindowNs;
    }
    // A caller that drives the reactor with step() relies on every round.
    if (!idle_ || stream_->sending() || !reactor_->running() || ++skipped_ >= kIdleRounds) {
        skipped_ = 0;
        return false;
    }
    return true;
}

void TargetQpair::await_data(Slot &slot, State state) noexcept {
    slot.state = state;
    slot.since_ns = reactor_->now_ns();
    if (check_ns_ == ~uint64_t{0}) {
        heard_ns_ = slot.since_ns;
        check_ns_ = slot.since_ns + kSilenceNs;
    }
}

void TargetQpair::check_transfers(uint64_t now_ns) noexcept {
    uint64_t oldest_ns = ~uint64_t{0};
    for (const Slot &slot : slots_) {
        if (slot.state == State::capsule || slot.state == State::transfer) {
            oldest_ns = std::min(oldest_ns, slot.since_ns);
        }
    }
    if (oldest_ns == ~uint64_t{0}) {
        check_ns_ = ~uint64_t{0};
        return;
    }
    // The host may have been silent before the oldest command began to wait for data. That command gets the full time,
    // too.
    const uint64_t silent_since = std::max(heard_ns_, oldest_ns);
    if (now_ns >= oldest_ns + kTransferNs || now_ns >= silent_since + kSilenceNs) {
        stream_->set_fault(QpairClose::timed_out);
        return;
    }
    check_ns_ = std::min(oldest_ns + kTransferNs, silent_since + kSilenceNs);
}

uint32_t TargetQpair::poll(uint64_t now_ns) noexcept {
    if (life_ == Life::dead) {
        return 0;
    }
    uint32_t work = 0;
    if (life_ == Life::open) {
        if (now_ns >= check_ns_) {
            check_transfers(now_ns);
        } else if (skips_round(now_ns)) {
            return 0;
        }
        if (!stream_->fault()) {
            const uint64_t bytes = stream_->bytes_in();
            const uint64_t sent = stream_->bytes_out();
            work = stream_->exchange(!(reactor_->settling() && stream_->drained() && !stream_->has_input()));
            if (stream_->bytes_out() != sent && stream_->drained()) {
                reactor_->let_others_run();  // a host on this machine may have nothing to do but read the answers
            }
            if (stream_->bytes_in() != bytes) {
                heard_ns_ = now_ns;
                ++hits_;
            }
        }
        if (!stream_->fault() && !disconnect_) {
            return work;
        }
        begin_close(now_ns);
        ++work;
    }
    if (life_ == Life::closing) {
        work += stream_->flush();
        if (!stream_->sending() && !write_shut_) {
            write_shut_ = true;
            stream_->shut_write();
        }
        if (stream_->drain_input() || now_ns >= linger_until_ns_) {
            die(true);
            ++work;
        }
    }
    return work;
}

void TargetQpair::begin_close(uint64_t now_ns) noexcept {
    stream_->set_fault(QpairClose::disconnected);
    const QpairClose reason = stream_->fault().reason;
    if (reason != QpairClose::protocol_error && reason != QpairClose::disconnected) {
        die(true);
        return;
    }
    life_ = Life::closing;
    linger_until_ns_ = now_ns + kLingerNs;
    release_unsubmitted();
    if (reason == QpairClose::protocol_error) {
        stream_->queue_term_req();
    }
}

// Releases the reserved memory of commands that will never run, because it takes space in the device's buffer.
void TargetQpair::release_unsubmitted() noexcept {
    for (Slot &slot : slots_) {
        if (slot.state == State::capsule || slot.state == State::waiting || slot.state == State::transfer ||
            slot.state == State::fused || slot.state == State::in_line || slot.state == State::python) {
            abandon(slot);
            slot.state = State::answering;
            if (!slot.data.queued && !slot.reply.queued) {
                free_slot(slot);
            }
        }
    }
    waiting_head_ = waiting_tail_ = kNoTargetSlot;
    line_head_ = line_tail_ = kNoTargetSlot;
    fuse_first_ = kNoTargetSlot;
    for_python_count_ = 0;
}

void TargetQpair::die(bool tell) noexcept {
    const StreamFault fault = stream_->fault();
    life_ = Life::dead;
    stream_->clear();
    stream_->shut();
    release_unsubmitted();
    for (Slot &slot : slots_) {
        if (slot.state == State::answering) {
            free_slot(slot);
        } else if (slot.state == State::device) {
            slot.ns->device->cancel(slot.io);  // the host may send it again on another connection
        }
    }
    if (tell) {
        reactor_->emit(EventKind::target_qpair_closed, id_, static_cast<uint64_t>(fault.reason), fault.detail);
    }
    if (outstanding_ == 0) {
        drained_.store(true, std::memory_order_release);
    }
}

}  // namespace ftl
