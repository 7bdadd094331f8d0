// SPDX-License-Identifier: BSD-3-Clause
#include "vfio_user/shared_target_qpair.hpp"

#include <array>
#include <chrono>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"
#include "reactor/wait_until.hpp"

namespace ftl {
namespace {

constexpr auto kSharedCloseTimeout = std::chrono::seconds(30);

const SharedQpairConfig &checked_shared(const SharedQpairConfig &config) {
    const uint32_t most = SharedTargetQpair::kMaxIoBytesMax;
    if (config.max_io_bytes < kBlockSize || config.max_io_bytes > most || config.max_io_bytes % kBlockSize != 0) {
        throw std::invalid_argument("max_io_bytes is " + std::to_string(config.max_io_bytes) +
                                    ", must be within 4096.." + std::to_string(most) + " and a multiple of 4096");
    }
    if (config.queue.qid == 0) {
        throw std::invalid_argument("qid 0 is the admin queue");
    }
    return config;
}

[[nodiscard]] constexpr bool offered(uint8_t opcode) noexcept {
    switch (opcode) {
        case wire::opcode::flush:
        case wire::opcode::write:
        case wire::opcode::read:
        case wire::opcode::write_uncorrectable:
        case wire::opcode::write_zeroes:
        case wire::opcode::dataset_management:
        case wire::opcode::zone_mgmt_send:
        case wire::opcode::zone_mgmt_recv:
        case wire::opcode::zone_append:
            return true;
        default:
            return false;
    }
}

}  // namespace

SharedTargetQpair::SharedTargetQpair(std::shared_ptr<Reactor> reactor, std::shared_ptr<DmaMap> memory, int bar0_fd,
                                     int record_fd, const SharedQpairConfig &config, NamespaceTable::Devices namespaces,
                                     const NamespaceTable::BarsByNsid &bars)
    : reactor_(std::move(reactor)),
      memory_(std::move(memory)),
      config_(checked_shared(config)),
      queue_(*memory_, bar0_fd, record_fd, config_.queue),
      command_memory_(*memory_),
      naps_(queue_.doorbells(), *reactor_),
      namespaces_(std::move(namespaces), bars, config_.max_io_bytes),
      slots_(queue_.slot_count()),
      iov_per_slot_(config_.max_io_bytes / kBlockSize + 1),
      iovs_(std::make_unique<iovec[]>(size_t{queue_.slot_count()} * iov_per_slot_)),
      ranges_(size_t{queue_.slot_count()} * kRangesBytes) {
    for (uint32_t i = 0; i < slots_.size(); ++i) {
        Io &io = slots_[i].io;
        io.owner = this;
        io.ordered_by = this;
        io.owner_data = i;
        io.complete = [](Io &done) noexcept {
            auto &qpair = *static_cast<SharedTargetQpair *>(done.owner);
            qpair.io_done(qpair.slots_[done.owner_data]);
        };
    }
    memory_->attach(reactor_, this);
    // The reactor only borrows the qpair. close() removes it from the reactor.
    const std::shared_ptr<Poller> borrowed(std::shared_ptr<void>(), this);
    reactor_->call([&] { id_ = reactor_->add(borrowed); });
}

SharedTargetQpair::~SharedTargetQpair() {
    close();
}

// --- control path -------------------------------------------------------------------------------------------------

void SharedTargetQpair::set_namespace(uint32_t nsid, std::shared_ptr<BlockDevice> device, Bars bars) {
    // Entries are destroyed on this thread: see TargetQpair::set_namespace().
    NamespaceTable::Entries unused;
    auto entry = NamespaceTable::entry_of(nsid, std::move(device), bars, config_.max_io_bytes);
    const std::lock_guard lock(control_mutex_);
    if (!removed_from_reactor_) {
        reactor_->call([&] { namespaces_.set(nsid, std::move(entry), unused); });
    }
}

bool SharedTargetQpair::give_back_removed() {
    NamespaceTable::Entries unused;
    bool all = true;
    const std::lock_guard lock(control_mutex_);
    if (!removed_from_reactor_) {
        reactor_->call([&] { all = namespaces_.give_back(unused); });
    }
    return all;
}

// These do not take control_mutex_, for the reason that TargetQpair has.

void SharedTargetQpair::set_bars(uint32_t nsid, Bars bars) {
    reactor_->call([&] {
        if (NamespaceTable::Entry *ns = dead_ ? nullptr : namespaces_.find(nsid); ns != nullptr) {
            ns->bars = bars;
        }
    });
}

void SharedTargetQpair::abort_io(uint32_t nsid) {
    reactor_->call([&] {
        for (Slot &slot : slots_) {
            if (slot.ns == nullptr || slot.ns->nsid != nsid || !slot.at_device) {
                continue;
            }
            slot.preempted = true;
            if (!slot.aborted) {
                slot.aborted = true;
                aborting_.fetch_add(1, std::memory_order_relaxed);
                slot.ns->device->cancel(slot.io);
            }
        }
    });
}

TargetQpairStats SharedTargetQpair::stats() {
    TargetQpairStats copy;
    reactor_->call([&] { copy = stats_; });
    return copy;
}

bool SharedTargetQpair::dead() {
    bool dead = false;
    reactor_->call([&] { dead = dead_; });
    return dead;
}

void SharedTargetQpair::close() {
    const std::lock_guard lock(control_mutex_);
    if (removed_from_reactor_) {
        return;
    }
    reactor_->call([this] {
        if (!dead_) {
            die(false);
        }
    });
    if (!wait_until(*reactor_, kSharedCloseTimeout, [this] { return drained(); })) {
        throw std::runtime_error("a device did not complete the outstanding I/O of a closed queue within 30 s");
    }
    reactor_->call([this] { reactor_->remove(id_); });
    memory_->detach(reactor_, this);
    removed_from_reactor_ = true;
    namespaces_.clear();
}

bool SharedTargetQpair::uses(const uint8_t *begin, const uint8_t *end) const noexcept {
    for (const Slot &slot : slots_) {
        if (!slot.at_device) {
            continue;
        }
        for (const iovec &piece : slot.io.memory()) {
            const auto *first = static_cast<const uint8_t *>(piece.iov_base);
            if (first < end && begin < first + piece.iov_len) {
                return true;
            }
        }
    }
    return false;
}

// --- commands -----------------------------------------------------------------------------------------------------

uint32_t SharedTargetQpair::poll(uint64_t now_ns) noexcept {
    if (dead_) {
        return 0;
    }
    uint32_t work = std::exchange(answered_, 0);
    if (!queue_.look()) {
        die(true);
        return work + 1;
    }
    const std::vector<uint32_t> &unfinished = queue_.unfinished();
    while (replayed_ < unfinished.size()) [[unlikely]] {
        start(unfinished[replayed_++]);
        ++work;
    }
    // All are fetched first: what devices need for them is on its way to the caches when they start.
    std::array<uint32_t, kBatch> fetched;
    uint32_t count = 0;
    for (; count < kBatch; ++count) {
        fetched[count] = queue_.fetch();
        if (fetched[count] == SharedQueue::kNone) {
            break;
        }
        expect(queue_.command(fetched[count]));
    }
    for (uint32_t i = 0; i < count; ++i) {
        start(fetched[i]);
    }
    stats_.commands += count;
    work += count;
    naps_.polled(now_ns, work > 0, queue_.seen());
    return work;
}

void SharedTargetQpair::expect(const wire::Sqe &sqe) noexcept {
    if (sqe.opcode == wire::opcode::read || sqe.opcode == wire::opcode::write) {
        if (const NamespaceTable::Entry *ns = namespaces_.find(sqe.nsid); ns != nullptr) {
            ns->device->expect(sqe.slba);
        }
    }
}

void SharedTargetQpair::start(uint32_t number) noexcept {
    Slot &slot = slots_[number];
    const wire::Sqe &sqe = queue_.command(number);
    Status bad = decode(slot, sqe);
    if (bad == status::ok && slot.shape.length > 0) {
        bad = place_data(slot, number, sqe);
    }
    if (bad != status::ok) {
        answer(slot, bad);
        return;
    }
    if (slot.ns == nullptr) {
        answer(slot, status::ok);  // a flush of all namespaces, and there are none
        return;
    }
    if (slot.io.op == Op::deallocate) {
        bad = check_ranges(slot.ns->device->info(), slot.io, slot.shape);
        if (bad != status::ok || !next_step(slot, namespaces_)) {
            answer(slot, bad);
            return;
        }
    }
    submit(slot);
}

Status SharedTargetQpair::decode(Slot &slot, const wire::Sqe &sqe) noexcept {
    slot.io.iov = iovs_.get() + size_t{number_of(slot)} * iov_per_slot_;
    slot.range = 0;
    slot.flush_all = slot.aborted = slot.preempted = false;
    slot.opcode = sqe.opcode;
    slot.only_reads = wire::only_reads(sqe.opcode);
    if (const Status bad = decode_common(sqe, slot.io, slot.shape, Pointers::memory); bad != status::ok) {
        return bad;
    }
    if (!offered(sqe.opcode)) {
        return status::invalid_opcode;
    }
    if ((sqe.flags & wire::kFlagsFuseMask) != 0) {
        return status::invalid_field;
    }
    const bool flush = sqe.opcode == wire::opcode::flush;
    slot.flush_all = flush && sqe.nsid == wire::kNsidAll;
    NamespaceTable::refer(slot.ns, slot.flush_all ? namespaces_.next(0) : namespaces_.find(sqe.nsid));
    if (slot.ns == nullptr) {
        return slot.flush_all ? status::ok : status::invalid_namespace;
    }
    if (flush && config_.flush_alarm && config_.flush_alarm->take()) {
        return status::write_fault;
    }
    return decode_command(sqe, slot.ns->device->info(), config_.max_io_bytes, slot.io, slot.shape);
}

Status SharedTargetQpair::place_data(Slot &slot, uint32_t number, const wire::Sqe &sqe) noexcept {
    Io &io = slot.io;
    const Status bad =
        command_memory_.point(sqe, slot.shape.length, !slot.shape.to_device, {io.iov, iov_per_slot_}, io.iov_count);
    if (bad != status::ok) {
        return bad;
    }
    if (io.op == Op::deallocate) {
        // The client could change the ranges after they have been checked.
        uint8_t *copy = ranges_.data() + size_t{number} * kRangesBytes;
        IovCursor(io.memory()).read(copy, slot.shape.length);
        io.iov[0] = {copy, slot.shape.length};
        io.iov_count = 1;
    } else if (io.op == Op::zone_report) {
        // The device may leave the memory behind the last descriptor as it is, but the client expects zeroes there.
        IovCursor(io.memory()).write_zeroes(slot.shape.length);
    }
    return status::ok;
}

// Prepares the next Io of a command that has several. False: no Io is left.
bool SharedTargetQpair::next_step(Slot &slot, NamespaceTable &namespaces) noexcept {
    if (slot.flush_all) {
        NamespaceTable::refer(slot.ns, namespaces.next(slot.ns->nsid));
        return slot.ns != nullptr;
    }
    return take_range(slot.io, slot.shape, slot.range);
}

void SharedTargetQpair::submit(Slot &slot) noexcept {
    const Bars &bars = slot.ns->bars;
    if (const Status bar = slot.only_reads ? bars.read : bars.write; bar != status::ok) {
        answer(slot, bar);
    } else if (slot.ns->removed) {
        answer(slot, status::invalid_namespace);
    } else if (slot.preempted) {
        answer(slot, status::aborted_preempted);
    } else {
        slot.at_device = true;
        ++outstanding_;
        slot.ns->device->submit(slot.io);
    }
}

void SharedTargetQpair::io_done(Slot &slot) noexcept {
    --outstanding_;
    slot.at_device = false;
    if (slot.aborted) {
        slot.aborted = false;
        aborting_.fetch_sub(1, std::memory_order_release);
        if (slot.io.status == status::aborted) {
            slot.io.status = status::aborted_preempted;
        }
    }
    if (dead_) {
        NamespaceTable::refer(slot.ns, nullptr);
        if (outstanding_ == 0) {
            drained_.store(true, std::memory_order_release);
        }
        return;
    }
    if (slot.io.status == status::ok && (slot.flush_all || slot.shape.ranges > 0) && next_step(slot, namespaces_)) {
        submit(slot);
        return;
    }
    answer(slot, slot.io.status);
}

void SharedTargetQpair::answer(Slot &slot, Status status) noexcept {
    const Io &io = slot.io;
    uint64_t result = 0;
    if (status != status::ok) {
        ++stats_.errors;
    } else if (io.op == Op::read) {
        stats_.read_blocks += io.block_count;
        stats_.bytes_out += slot.shape.length;
    } else if (io.op == Op::write || io.op == Op::append) {
        stats_.write_blocks += io.block_count;
        stats_.bytes_in += slot.shape.length;
        result = io.op == Op::append ? io.result : 0;
    }
    NamespaceTable::refer(slot.ns, nullptr);
    queue_.complete(number_of(slot), wire::status_to_wire(status), result);
    ++answered_;
}

void SharedTargetQpair::die(bool tell) noexcept {
    dead_ = true;
    naps_.end();
    for (Slot &slot : slots_) {
        if (slot.at_device) {
            slot.ns->device->cancel(slot.io);
        }
    }
    if (tell) {
        reactor_->emit(EventKind::shared_qpair_closed, id_, static_cast<uint64_t>(queue_.fault()),
                       queue_.fault_detail());
    }
    if (outstanding_ == 0) {
        drained_.store(true, std::memory_order_release);
    }
}

}  // namespace ftl
