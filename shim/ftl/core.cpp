// SPDX-License-Identifier: BSD-3-Clause
// The I/O side of FtlCore: polling, submission and flushes. core_waiting.cpp has the I/O that must wait;
// core_orders.cpp and core_resets.cpp have the orders.
#include "ftl/core.hpp"

#include <algorithm>

#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"

namespace ftl {

FtlCore::FtlCore(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, CoreConfig config)
    : state_(std::move(reactor), std::move(base), std::move(config)),
      movers_(state_),
      writer_(state_, on_copied, this),
      reader_(state_) {
    info_.block_count = state_.config.block_count;
    info_.block_bytes = kBlockSize;
    info_.max_io_blocks = kMaxIoBlocks;
    info_.volatile_cache = true;
    info_.compare_write_blocks = kCompareWriteBlocks;
    info_.write_uncorrectable = true;
    info_.thin = true;
    flush_io_.op = Op::flush;
    flush_io_.owner = this;
    flush_io_.complete = on_base_flush;
    for (Drain &drain : drains_) {
        drain.core = this;
        drain.io.op = Op::flush;
        drain.io.owner = &drain;
        drain.io.complete = on_drained;
    }
    for (uint32_t number = 0; number < state_.bands.size(); ++number) {
        Band &band = state_.bands.change(number);
        band.io.owner = this;
        band.io.owner_data = number;
    }
    resets_.reserve(state_.bands.size());
    make_compares();
}

void FtlCore::on_copied(void *context, uint16_t mover) noexcept {
    static_cast<FtlCore *>(context)->movers_.copied(mover);
}

// --- polling

uint32_t FtlCore::poll(uint64_t now_ns) noexcept {
    state_.now = now_ns;
    if (throttled_ && now_ns > last_poll_) {
        state_.stats.throttled_ns += now_ns - last_poll_;
    }
    state_.clock_stands = now_ns == last_poll_;
    last_poll_ = now_ns;
    uint32_t work = run_pages();
    work += complete_done();
    if (state_.failed != status::ok) {
        end_everything();
        work += complete_done();
        detach_when_done();
        return work;
    }
    work += state_.busy_ios.run(now_ns, [this](BaseIo &io) { state_.submit_base(io); });
    work += run_compares();
    // Who asks first gets pages: reads and writes take turns.
    reads_first_ = !reads_first_ && state_.l2p.paged() != nullptr;
    if (reads_first_) {
        work += reader_.run(done_);
    }
    work += run_waiting();
    state_.demand.user_waits |= compares_crave_;
    work += run_cache();
    work += reader_.run(done_);
    work += movers_.run();
    work += state_.records.settle(state_, [this](const Records::Meta &record) { movers_.record_done(record); });
    work += writer_.run();
    work += run_flushes();
    work += run_resets();
    work += state_.pages_go_on() ? 1 : 0;
    return work;
}

bool FtlCore::busy() const noexcept {
    return !done_.empty() || (cache_ && cache_->busy()) || (trims_go_on() && state_.now >= trim_again_) ||
           movers_.busy() || !state_.records.settling.empty();
}

uint64_t FtlCore::deadline_ns() const noexcept {
    if (state_.failed != status::ok) {
        return ~uint64_t{0};
    }
    const bool again = flush_again_at_ > state_.now && !flush_in_flight_;
    const bool unlimited_soon = throttled_ && state_.active_moves == 0 && state_.throttle.share > 0;
    return std::min({unlimited_soon ? state_.moved_ns + kNextMoveNs : ~uint64_t{0},
                     trims_go_on() ? trim_again_ : ~uint64_t{0}, writer_.deadline_ns(), movers_.deadline_ns(),
                     state_.busy_ios.due_ns(), cache_ ? cache_->deadline_ns() : ~uint64_t{0},
                     again ? flush_again_at_ : ~uint64_t{0}});
}

uint32_t FtlCore::run_pages() noexcept {
    const uint32_t work = state_.run_pages();
    if (state_.pages_broken()) [[unlikely]] {
        // Whatever was looked up since is wrong.
        state_.fail(status::internal_error);
        IoList doubtful;
        doubtful.append(done_);
        while (!doubtful.empty()) {
            finish(*doubtful.pop(), state_.failed);
        }
    }
    return work;
}

uint32_t FtlCore::complete_done() noexcept {
    // I/O that a completion submits, and that is done at once, is left for the next round.
    IoList batch;
    batch.append(done_);
    uint32_t count = 0;
    while (!batch.empty()) {
        Io &io = *batch.pop();
        io.complete(io);
        ++count;
    }
    return count;
}

void FtlCore::attach() {
    poller_id_ = state_.reactor->add(shared_from_this());
    if (state_.id == 0) {
        state_.id = poller_id_;
    }
}

void FtlCore::detach_when_done() noexcept {
    if (closed_ && poller_id_ != 0 && done_.empty() && state_.base_outstanding == 0 &&
        (!cache_ || cache_->outstanding() == 0)) {
        state_.reactor->remove(poller_id_);
        poller_id_ = 0;
        state_.base.reset();
        if (cache_) {
            cache_->release();
        }
    }
}

// --- submission

void FtlCore::submit(Io &io) noexcept {
    io.status = status::ok;
    io.result = 0;
    if (state_.failed != status::ok) {
        // The Io keeps its reserved slots: a gate in front writes their content to the next core.
        finish(io, state_.failed);
        if (poller_id_ == 0) {
            attach();
        }
        return;
    }
    const bool has_range = io.op == Op::read || io.op == Op::write || io.op == Op::write_zeroes ||
                           io.op == Op::deallocate || io.op == Op::compare_write || io.op == Op::write_uncorrectable;
    if (has_range && (io.lba >= info_.block_count || io.block_count > info_.block_count - io.lba)) {
        give_back(io);
        finish(io, status::lba_out_of_range);
        return;
    }
    if ((io.op == Op::read || io.op == Op::write) && (io.block_count == 0 || io.block_count > info_.max_io_blocks)) {
        give_back(io);
        finish(io, status::invalid_field);
        return;
    }
    if (io.op == Op::compare_write && (io.block_count == 0 || io.block_count > kCompareWriteBlocks)) {
        finish(io, status::atomic_write_unit);
        return;
    }
    if ((refusing_ || state_.writes_failed != status::ok) && has_range && io.op != Op::read) {
        give_back(io);
        finish(io, state_.writes_failed != status::ok ? state_.writes_failed : status::namespace_not_ready);
        return;
    }
    switch (io.op) {
        case Op::read:
            ++state_.stats.user_reads;
            reader_.start(io, done_);
            break;
        case Op::write:
            ++state_.stats.user_writes;
            write(io);
            break;
        case Op::write_zeroes:
        case Op::deallocate:
            state_.stats.user_trimmed_blocks += io.block_count;
            [[fallthrough]];
        case Op::write_uncorrectable:
            waiting_.push(io);
            marking_ = true;
            break;
        case Op::flush:
            ++state_.stats.flushes;
            flush(io, false);
            break;
        case Op::compare_write:
            ++state_.stats.user_writes;
            compare_write(io);
            break;
        case Op::append:
        case Op::zone_send:
        case Op::zone_report:
            finish(io, status::invalid_opcode);
            break;
    }
}

// The reserved slots form a list through the pool's links. device_data[0] is the first one.
bool FtlCore::reserve(Io &io, uint32_t iov_room) noexcept {
    WriteBuffer &buffer = state_.buffer;
    const uint32_t count = io.block_count;
    if (state_.failed != status::ok || count == 0 || count > info_.max_io_blocks || io.lba >= info_.block_count ||
        count > info_.block_count - io.lba || writes_wait_ || waiting_.has(io) || buffer.free.count() < count) {
        return false;
    }
    // A write with its own buffer at the head of the queue must find slots eventually, so reservations never take all
    // slots.
    if (buffer.reserved + count > buffer.slot_count - buffer.slot_count / kUnreservedPart) {
        return false;
    }
    uint32_t entries = 1;
    for (uint32_t i = 1; i < count; ++i) {
        entries += buffer.free.peek(i) != buffer.free.peek(i - 1) + 1 ? 1 : 0;
    }
    if (entries > iov_room) {
        return false;
    }
    entries = 0;
    uint32_t previous = kNoSlot;
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t slot = buffer.free.take();
        entries = add_piece(io.iov, entries, buffer.block(slot), kBlockSize);
        if (previous == kNoSlot) {
            io.device_data[0] = slot;
        } else {
            buffer.next[previous] = slot;
        }
        previous = slot;
    }
    buffer.next[previous] = kNoSlot;
    io.iov_count = entries;
    buffer.reserved += count;
    return true;
}

void FtlCore::abandon(Io &io) noexcept {
    give_back(io);
}

void FtlCore::adopt(Io &io, std::span<Io *const> parts) noexcept {
    WriteBuffer &buffer = state_.buffer;
    uint32_t next = kNoSlot;
    for (size_t i = parts.size(); i-- > 0;) {
        const auto slot = static_cast<uint32_t>(parts[i]->device_data[0]);
        buffer.next[slot] = next;
        buffer.records[slot].crc = parts[i]->crc;
        next = slot;
    }
    io.device_data[0] = next;
}

// Does nothing unless the Io holds reserved slots.
void FtlCore::give_back(Io &io) noexcept {
    WriteBuffer &buffer = state_.buffer;
    if (io.op != Op::write || io.iov_count == 0 || !buffer.holds(io.iov[0].iov_base)) {
        return;
    }
    auto slot = static_cast<uint32_t>(io.device_data[0]);
    while (slot != kNoSlot) {
        const uint32_t next = buffer.next[slot];
        buffer.free.give(slot);
        --buffer.reserved;
        slot = next;
    }
    io.iov_count = 0;
}

void FtlCore::write(Io &io) noexcept {
    const bool reserved = io.iov_count > 0 && state_.buffer.holds(io.iov[0].iov_base);
    io.device_data[1] = 0;
    // Pages come for all that wait, not only for the first in each line.
    const bool pages = state_.want(io.lba, io.block_count);
    if (writes_wait_ || waiting_.has(io) || !share_allows() || !pages) {
        waiting_.push(io);
    } else if (reserved) {
        accept_reserved(io);
    } else if (!accept_own(io)) {
        waiting_.push(io);
        writes_wait_ = true;
    }
}

// While a limit is set, the share is the user's part of all blocks written. Accepted blocks drain whatever the share
// is: see docs/architecture.md, "Write path".
bool FtlCore::share_allows() noexcept {
    const bool rests = state_.active_moves == 0 && (state_.now >= state_.moved_ns + kNextMoveNs || state_.clock_stands);
    return state_.throttle.allows(rests);
}

// From here on the block belongs to the device: it has a seq, a CRC, an L2P entry and a place in the FIFO. With an nv
// cache, the cache gets the block before the FIFO.
void FtlCore::accept_block(uint64_t lba, uint32_t slot, uint32_t crc) noexcept {
    state_.overtake_trim(lba, 1);
    hold(slot, lba, state_.next_seq++, crc);
    if (!cache_ || !cache_->push(slot)) {
        state_.buffer.queue(slot);
    }
    ++state_.stats.user_written_blocks;
    state_.throttle.accepted();
}

void FtlCore::hold(uint32_t slot, uint64_t lba, uint64_t seq, uint32_t crc) noexcept {
    WriteBuffer &buffer = state_.buffer;
    if (!MUTATED(trim_hits_newer_write) || !CoreState::holds_content(state_.l2p.get(lba))) {
        state_.trims.uncover(state_, lba);
    }
    SlotRecord &record = buffer.records[slot];
    record.lba = lba;
    record.crc = crc;
    record.seq = seq;
    if (!MUTATED(slot_not_held)) {
        publish(record.state);
    }
    if (!state_.placement.is_one(Side::user)) {
        buffer.band_class[slot] = state_.class_of_write(lba);
    }
    buffer.epoch[slot] = MUTATED(class_not_flushed) && buffer.band_class[slot] != 0 ? 0 : state_.epochs.join();
    if (!MUTATED(old_crc_kept) || state_.l2p.get(lba) == L2p::kInvalid) {
        state_.crcs.set(lba, BlockCrcs::cut(crc));
    }
    state_.replace(lba, L2p::slot(slot));
}

void FtlCore::accept_reserved(Io &io) noexcept {
    auto slot = static_cast<uint32_t>(io.device_data[0]);
    for (uint32_t i = 0; i < io.block_count; ++i) {
        const uint32_t next = state_.buffer.next[slot];
        state_.buffer.lent[slot] = 1;
        const WriteBuffer &buffer = state_.buffer;
        accept_block(io.lba + i, slot,
                     io.crcs_known ? buffer.records[slot].crc : crc32c(0, buffer.block(slot), kBlockSize));
        slot = next;
    }
    state_.buffer.reserved -= io.block_count;
    accepted(io);
}

// Returns the CRC of what is in the slot: hosts may change their memory meanwhile.
uint32_t FtlCore::take_block(IovCursor &cursor, uint8_t *to) noexcept {
    const IovCursor before = cursor;
    if (const iovec piece = cursor.piece(kBlockSize); piece.iov_len == kBlockSize) [[likely]] {
        return copy_crc32c(to, piece.iov_base, kBlockSize);
    }
    cursor = before;
    cursor.read(to, kBlockSize);
    return crc32c(0, to, kBlockSize);
}

// Accepts as many blocks as there are free slots. device_data[1] counts them. True: all blocks are accepted.
bool FtlCore::accept_own(Io &io) noexcept {
    WriteBuffer &buffer = state_.buffer;
    auto block = static_cast<uint32_t>(io.device_data[1]);
    IovCursor cursor(io.memory());
    cursor.skip(size_t{block} * kBlockSize);
    for (; block < io.block_count && buffer.free.count() > 0; ++block) {
        const uint32_t slot = buffer.free.take();
        accept_block(io.lba + block, slot, take_block(cursor, buffer.block(slot)));
    }
    io.device_data[1] = block;
    if (block < io.block_count) {
        return false;
    }
    accepted(io);
    return true;
}

void FtlCore::accepted(Io &io) noexcept {
    const bool cached = cache_ && cache_->state() != NvCache::State::off;
    const bool in_cache = io.op == Op::write || io.op == Op::compare_write;
    if ((io.fua && !MUTATED(fua_ignored)) || (cached && !in_cache)) {
        // Trims do not go through the cache. With a cache, a completed trim must be durable nevertheless.
        flush(io, false);
    } else if (cached) {
        cache_->hold_back(io);
    } else {
        done_.push(io);
    }
}

uint32_t FtlCore::run_cache() noexcept {
    if (!cache_) {
        return 0;
    }
    const uint32_t work = cache_->run(done_);
    state_.demand.cache_waits = cache_->ring_full();
    if (state_.writes_failed != status::ok &&
        (cache_->state() == NvCache::State::failed ||
         (cache_->ring_full() && cache_->outstanding() == 0 && writer_.user_has_no_band()))) {
        // The content of the write buffer will not become durable any more.
        end_held_back(state_.writes_failed);
    }
    state_.buffer.answered(cache_->answered_seq());
    return work;
}

void FtlCore::end_held_back(Status status) noexcept {
    IoList ended;
    cache_->end(ended);
    while (!ended.empty()) {
        finish(*ended.pop(), status);
    }
}

// --- flush

// The Io completes when everything accepted so far is on media and the base has been flushed.
void FtlCore::flush(Io &io, bool forced) noexcept {
    if (open_ != nullptr) {
        cut_mark(*open_);  // a flush does not wait for blocks that are still being declared uncorrectable
    }
    const uint64_t epoch = MUTATED(flush_before_landing) ? 0 : state_.epochs.barrier();
    io.device_data[0] = epoch;
    state_.demand.wanted_epoch = std::max(state_.demand.wanted_epoch, epoch);
    if (forced) {
        state_.demand.forced_epoch = std::max(state_.demand.forced_epoch, epoch);
    }
    tickets_.push(io);
}

uint32_t FtlCore::run_flushes() noexcept {
    uint32_t work = 0;
    const bool base_flush = state_.base->info().volatile_cache && !MUTATED(flush_without_base_flush);
    // Epochs ascend along the queue.
    while (!tickets_.empty() && state_.epochs.done(tickets_.front()->device_data[0])) {
        Io &io = *tickets_.pop();
        if (base_flush) {
            to_flush_.push(io);
        } else {
            finish(io, status::ok);  // set here: the Io of a reset still has the status of its last use
        }
        ++work;
    }
    if (state_.writes_failed != status::ok && writer_.user_has_no_band()) {
        while (!tickets_.empty()) {
            finish(*tickets_.pop(), state_.writes_failed);
        }
    }
    if (!flush_in_flight_ && (!to_flush_.empty() || (state_.now >= flush_again_at_ && buffer_wants_flush()))) {
        flushing_.append(to_flush_);
        WriteBuffer &buffer = state_.buffer;
        Records &records = state_.records;
        buffer.flushing.append(buffer.next.data(), buffer.landed);
        records.flushing.append(records.next.data(), records.landed_records);
        flush_in_flight_ = true;
        ++state_.stats.base_flushes;
        state_.submit_base(flush_io_);
        ++work;
    }
    return work;
}

void FtlCore::on_base_flush(Io &io) noexcept {
    auto &core = *static_cast<FtlCore *>(io.owner);
    const uint64_t patience_ns = MUTATED(busy_flush_fails) ? 0 : kBusyPatienceNs;
    const Answer answer = core.state_.came_back(core.flush_io_, patience_ns);
    if (answer == Answer::awaited) {
        return;
    }
    core.flush_in_flight_ = false;
    if (answer == Answer::dropped) {
        return;
    }
    core.end_retention(io.status);
    while (!core.flushing_.empty()) {
        core.finish(*core.flushing_.pop(), io.status);
    }
}

// True: the base should be flushed even if no flush waits, because slots and records that are held until then take too
// much room.
bool FtlCore::buffer_wants_flush() const noexcept {
    const WriteBuffer &buffer = state_.buffer;
    const Records &records = state_.records;
    const uint32_t slots = buffer.landed.count;
    const uint32_t taken = records.landed_records.count;
    if (slots == 0 && taken == 0) {
        return false;
    }
    if (slots >= buffer.slot_count / kLandedPart || taken >= kRecordCount / kLandedPart || !records.room()) {
        return true;
    }
    // Flushing for a few slots would flush after each batch. But if no other slots are about to become free, a few are
    // worth a flush.
    return state_.demand.waits_for_room() &&
           (slots >= buffer.slot_count / kLandedPartWanted || !writer_.user_batches_in_flight());
}

void FtlCore::end_retention(Status status) noexcept {
    WriteBuffer &buffer = state_.buffer;
    Records &records = state_.records;
    if (status == status::ok) {
        while (!buffer.flushing.empty()) {
            buffer.durable(buffer.flushing.pop_front(buffer.next.data()));
        }
        while (!records.flushing.empty()) {
            records.release(records.flushing.pop_front(records.next.data()));
        }
        flushes_failed_ = 0;
        flush_again_at_ = 0;
        return;
    }
    buffer.landed.append(buffer.next.data(), buffer.flushing);
    records.landed_records.append(records.next.data(), records.flushing);
    // User flushes may fail at any rate. Such failures count at most once per retry interval.
    if (state_.now >= flush_again_at_ && buffer_wants_flush()) {
        flush_again_at_ = state_.now + kFlushRetryNs;
        state_.emit(EventKind::flush_failed, status, ++flushes_failed_);
    }
}

// The core has failed, so all waiting I/O ends. Reads that the base still holds end when they come back. Slots keep
// their content, reserved ones too: a successor reads the accepted ones, and a gate in front reads the reserved ones.
void FtlCore::end_everything() noexcept {
    for (uint32_t i = 0; i < waiting_.count(); ++i) {
        WaitingLine &line = waiting_.at(i);
        while (!line.ios.empty()) {
            finish(*line.ios.pop(), state_.failed);
        }
        line.trimming = false;
        line.record = kNoSlot;
    }
    open_ = nullptr;
    waiting_.turn();
    for (IoList *queue : {&tickets_, &to_flush_, &flushing_}) {
        while (!queue->empty()) {
            finish(*queue->pop(), state_.failed);
        }
    }
    if (cache_) {
        end_held_back(state_.failed);
    }
    fail_compares();
    marking_ = false;
    state_.drop_busy();
    reader_.fail(done_);
}

}  // namespace ftl
