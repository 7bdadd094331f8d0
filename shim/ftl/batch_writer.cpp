// SPDX-License-Identifier: BSD-3-Clause
// The second half of BandWriter: it builds batches and summaries, writes them and accounts for them.
#include <algorithm>

#include "base/iov_cursor.hpp"
#include "base/mutation.hpp"
#include "ftl/band_writer.hpp"
#include "nvme/zns.hpp"

namespace ftl {

using layout::BatchHeader;
using layout::BatchKind;
using layout::BlockEntry;

namespace {

constexpr uint32_t kFinishAttempts = 6;
constexpr uint64_t kFinishAgainNs = 10'000'000;  // delay before the second attempt; it doubles with each attempt
constexpr uint32_t kPrefetchAhead = 4;           // blocks of a batch
constexpr uint8_t kFullAtOnceMax = 3;            // in a row; a zone that is always full cannot be written

}  // namespace

void BandWriter::start_batch(OpenBand &open, ZoneWriter &zone, Choice choice) noexcept {
    const auto [source, from_class] = choice;
    const Placement &placement = state_.placement;
    const Band &band = state_.bands[open.band];
    const Zone &place = state_.zone(open.band, zone.punit);
    const uint32_t room = state_.data_area - zone.next_offset;
    auto &header = *reinterpret_cast<BatchHeader *>(zone.scratch);
    header.magic = layout::kBatchMagic;
    header.version = layout::kVersion;
    header.crc = 0;
    header.uuid = state_.config.media_uuid;
    header.band_seq = band.seq;
    header.address = state_.config.use_append ? 0 : place.start + zone.next_offset;
    header.count = 0;
    zone.item_count = 0;
    header.band = open.band;
    header.punit = zone.punit;
    zone.state = ZoneState::batch;
    zone.source = source;
    zone.first_offset = zone.next_offset;
    zone.done_blocks = 0;
    const bool of_user = source == Source::user || source == Source::user_records;
    const uint32_t side_class = of_user ? kStreamUser : placement.shared ? kStreamReloc : placement.first(Side::reloc);
    header.stream = static_cast<uint16_t>(source == Source::pad ? open.stream : side_class);
    BatchKind kind = BatchKind::data;
    switch (source) {
        case Source::user:
            take_user(zone, header, from_class,
                      std::min({state_.max_data, room - 1, state_.buffer.fifos[from_class].count}));
            break;
        case Source::reloc:
            take_reloc(zone, header, from_class,
                       std::min({state_.max_data, room - 1, state_.reloc.fifos[from_class].count}));
            break;
        case Source::user_records:
        case Source::reloc_records:
            kind = BatchKind::records;
            take_records(zone, header, of_user);
            break;
        case Source::pad:
        case Source::none:
            kind = BatchKind::pad;
            break;
    }
    header.kind = static_cast<uint16_t>(kind);
    std::fill(header.blocks + zone.item_count, header.blocks + layout::kEntriesPerBlock, BlockEntry{});
    header.crc = layout::block_crc(&header);
    const uint32_t data_blocks = kind == BatchKind::data ? zone.item_count : 0;
    zone.block_count = 1 + data_blocks;
    zone.map[zone.first_offset] =
        BlockEntry{layout::kHeaderLba, 0, 0, layout::kHeaderFlag | static_cast<uint32_t>(kind)};
    std::copy(header.blocks, header.blocks + data_blocks, zone.map.get() + zone.first_offset + 1);
    zone.next_offset += zone.block_count;
    ++state_.stats.batches;
    state_.stats.short_batches += kind == BatchKind::data && data_blocks < state_.max_data ? 1 : 0;
    issue_chunk(zone);
}

void BandWriter::take_user(ZoneWriter &zone, BatchHeader &header, uint8_t from_class, uint32_t count) noexcept {
    WriteBuffer &buffer = state_.buffer;
    SlotList &fifo = buffer.fifos[from_class];
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t slot = fifo.pop_front(buffer.next.data());
        zone.items[i] = slot;
        const SlotRecord &record = buffer.records[slot];
        header.blocks[i] = BlockEntry{record.lba, record.seq, record.crc, 0};
    }
    header.count = count;
    zone.item_count = count;
    header.stream = from_class;
    uint32_t &requeued = buffer.requeued[from_class];
    requeued -= std::min(requeued, count);
    buffer.waiting_since[from_class] = fifo.empty() ? 0 : std::max<uint64_t>(state_.now, 1);
    ++user_batches_;
}

void BandWriter::take_reloc(ZoneWriter &zone, BatchHeader &header, uint8_t from_class, uint32_t count) noexcept {
    RelocBuffer &buffer = state_.reloc;
    SlotList &fifo = buffer.fifos[from_class];
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t slot = fifo.pop_front(buffer.next.data());
        zone.items[i] = slot;
        const RelocBuffer::Meta &meta = buffer.meta[slot];
        const uint64_t seq = MUTATED(gc_makes_new_seq) ? state_.next_seq++ : meta.seq;
        header.blocks[i] = BlockEntry{meta.lba, seq, meta.crc, 0};
    }
    header.count = count;
    zone.item_count = count;
    header.stream = static_cast<uint16_t>(state_.placement.shared ? kStreamReloc : from_class);
    buffer.waiting_since[from_class] = state_.now;
}

void BandWriter::take_records(ZoneWriter &zone, BatchHeader &header, bool of_user) noexcept {
    Records &records = state_.records;
    SlotList &queue = records.queue(of_user);
    const uint32_t count = std::min(queue.count, layout::kEntriesPerBlock);
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t record = queue.pop_front(records.next.data());
        zone.items[i] = record;
        const PendingRecord &pending = records.records[record];
        header.records[i] = layout::RecordEntry{pending.lba, pending.seq, pending.block_count, pending.flags};
        if (of_user ? MUTATED(trim_not_recorded) : MUTATED(gc_drops_records)) {
            header.records[i].block_count = 0;
        }
        if (of_user && pending.flags == layout::kRecordLost && MUTATED(uncorrectable_not_recorded)) {
            header.records[i].block_count = 0;
        }
    }
    header.count = count;
    zone.item_count = count;
    records_busy_[of_user ? 0 : 1] = true;
}

void BandWriter::issue_chunk(ZoneWriter &zone) noexcept {
    const uint64_t start = state_.zone(zone.band->band, zone.punit).start;
    BaseIo &io = zone.io;
    if (zone.state == ZoneState::summary) {
        zone.chunk_blocks = std::min(zone.block_count - zone.done_blocks, scratch_blocks_);
        make_summary(zone);
        zone.iov[0] = iovec{zone.scratch, size_t{zone.chunk_blocks} * kBlockSize};
        io.iov_count = 1;
    } else {
        zone.chunk_blocks = std::min(zone.block_count - zone.done_blocks, state_.max_io);
        point_iov(zone);
    }
    io.iov = zone.iov.data();
    io.op = state_.config.use_append ? Op::append : Op::write;
    io.lba = state_.config.use_append ? start : start + zone.first_offset + zone.done_blocks;
    io.block_count = zone.chunk_blocks;
    io.zone_action = 0;
    io.result = 0;
    state_.submit_base(io);
}

void BandWriter::point_iov(ZoneWriter &zone) noexcept {
    uint8_t *data = zone.source == Source::reloc ? state_.reloc.data() : state_.buffer.data;
    uint32_t count = 0;
    for (uint32_t i = zone.done_blocks; i < zone.done_blocks + zone.chunk_blocks; ++i) {
        uint8_t *block = i == 0 ? zone.scratch : data + size_t{zone.items[i - 1]} * kBlockSize;
        count = add_piece(zone.iov.data(), count, block, kBlockSize);
    }
    zone.io.iov_count = count;
}

void BandWriter::make_summary(ZoneWriter &zone) noexcept {
    const Band &band = state_.bands[zone.band->band];
    for (uint32_t i = 0; i < zone.chunk_blocks; ++i) {
        const uint32_t index = zone.done_blocks + i;
        auto &block = *reinterpret_cast<layout::SummaryBlock *>(zone.scratch + size_t{i} * kBlockSize);
        block.magic = layout::kSummaryMagic;
        block.version = layout::kVersion;
        block.crc = 0;
        block.uuid = state_.config.media_uuid;
        block.band_seq = band.seq;
        block.index = index;
        const uint32_t first = std::min(index * layout::kEntriesPerBlock, state_.data_area);
        block.count = std::min(state_.data_area - first, layout::kEntriesPerBlock);
        block.band = zone.band->band;
        block.punit = zone.punit;
        block.reserved = 0;
        std::copy_n(zone.map.get() + first, block.count, block.entries);
        std::fill(block.entries + block.count, block.entries + layout::kEntriesPerBlock, BlockEntry{});
        block.crc = layout::block_crc(&block);
    }
}

void BandWriter::on_complete(Io &io) noexcept {
    auto &zone = *static_cast<ZoneWriter *>(io.owner);
    zone.band->writer->came_back(zone);
}

void BandWriter::came_back(ZoneWriter &zone) noexcept {
    const bool probe = zone.state == ZoneState::finishing && zone.io.op == Op::flush;
    const uint64_t patience_ns = MUTATED(busy_gives_zone_up) ? 0 : probe ? kBusyPatienceLeftNs : kBusyPatienceNs;
    if (state_.came_back(zone.io, patience_ns) != Answer::final) {
        return;
    }
    Zone &place = state_.change_zone(zone.band->band, zone.punit);
    Status status = zone.io.status;
    if (zone.state == ZoneState::finishing) {
        if (zone.io.op == Op::flush) {
            finish_failed(zone, zone.finish_refused);
        } else if (error_class(zone.io) == ErrorClass::busy && !MUTATED(busy_gives_zone_up)) {
            // The wait for the zone is over. To find out whether the zone or the whole base is busy, send a flush,
            // which does no harm.
            zone.finish_refused = status;
            zone.io.op = Op::flush;
            state_.submit_base(zone.io);
        } else {
            finished(zone, status);
        }
        return;
    }
    if (status == status::ok && zone.io.op == Op::append) {
        // SPDK returns only the low half of the address.
        const uint64_t expected = place.start + zone.first_offset + zone.done_blocks;
        if (static_cast<uint32_t>(zone.io.result) != static_cast<uint32_t>(expected)) {
            status = status::zone_invalid_write;
        }
    }
    if (zone.state == ZoneState::starting) {
        if (status == status::ok) {
            after_batch(zone);
        } else {
            // Nothing may be written behind this batch.
            give_up(zone);
            finish(zone);
        }
        return;
    }
    if (status != status::ok) {
        fault(zone, status);
        return;
    }
    zone.done_blocks += zone.chunk_blocks;
    place.write_pointer += zone.chunk_blocks;
    place.full_at_once = 0;
    state_.bands.change(zone.band->band).written += zone.chunk_blocks;
    state_.stats.media_written_blocks += zone.chunk_blocks;
    if (zone.done_blocks < zone.block_count) {
        issue_chunk(zone);
        return;
    }
    if (zone.state == ZoneState::batch) {
        landed(zone);
        if (begins_life(zone)) {
            flush_start(zone);
        } else {
            after_batch(zone);
        }
        return;
    }
    state_.stats.media_summary_blocks += zone.block_count;
    if (!state_.config.finish_zones) {
        zone.state = ZoneState::done;
        return;
    }
    // A zone whose capacity is larger than the common one is not full yet.
    finish(zone);
}

// A zone that is neither full nor written any more would still count as active, and take the place of a zone that is to
// be written.
void BandWriter::finish(ZoneWriter &zone) noexcept {
    zone.state = ZoneState::finishing;
    zone.finish_attempts = 0;
    finish_once_more(zone);
}

void BandWriter::finish_once_more(ZoneWriter &zone) noexcept {
    ++zone.finish_attempts;
    zone.finish_at = 0;
    zone.io.op = Op::zone_send;
    zone.io.zone_action = zns::code(zns::ZoneAction::finish);
    zone.io.lba = state_.zone(zone.band->band, zone.punit).start;
    zone.io.block_count = 0;
    zone.io.iov_count = 0;
    state_.submit_base(zone.io);
}

void BandWriter::finished(ZoneWriter &zone, Status status) noexcept {
    switch (status) {
        case status::ok:
        case status::zone_read_only:  // it cannot be finished, and does not count as active
        case status::zone_offline:
        case status::invalid_zone_transition:
            zone.state = ZoneState::done;
            return;
        default:
            break;
    }
    // The band stays open while the zone may be active. Otherwise a band opened meanwhile could exceed the limit of
    // active zones.
    if (zone.finish_attempts < kFinishAttempts) {
        zone.finish_at = std::max<uint64_t>(state_.now, 1) + (kFinishAgainNs << (zone.finish_attempts - 1));
        ++finishes_waiting_;
        return;
    }
    finish_failed(zone, status);
}

void BandWriter::finish_failed(ZoneWriter &zone, Status status) noexcept {
    // A reset ends the active state in any case, and bands with a failed zone are reset first.
    zone.state = ZoneState::done;
    Zone &place = state_.change_zone(zone.band->band, zone.punit);
    if (!place.faulted) {
        place.faulted = true;
        state_.emit(EventKind::zone_fault, zone.band->band, zone.punit, status);
    }
}

uint32_t BandWriter::run_finishes() noexcept {
    uint32_t work = 0;
    for (OpenBand &open : open_) {
        for (ZoneWriter &zone : open.zones) {
            if (zone.finish_at != 0 && zone.finish_at <= state_.now) {
                --finishes_waiting_;
                finish_once_more(zone);
                ++work;
            }
        }
    }
    return work;
}

bool BandWriter::begins_life(const ZoneWriter &zone) const noexcept {
    return zone.first_offset == 0 && state_.config.flush_zone_starts && state_.base->info().volatile_cache;
}

void BandWriter::flush_start(ZoneWriter &zone) noexcept {
    zone.state = ZoneState::starting;
    zone.io.op = Op::flush;
    zone.io.block_count = 0;
    zone.io.iov_count = 0;
    ++state_.stats.base_flushes;
    state_.submit_base(zone.io);
}

void BandWriter::after_batch(ZoneWriter &zone) noexcept {
    if (zone.next_offset < state_.data_area) {
        zone.state = ZoneState::idle;
        if (zone.close_short) {
            give_up(zone);
            finish(zone);
        }
        return;
    }
    zone.state = ZoneState::summary;
    zone.first_offset = state_.data_area;
    zone.block_count = state_.summary_area;
    zone.done_blocks = 0;
    issue_chunk(zone);
}

void BandWriter::landed(ZoneWriter &zone) noexcept {
    const uint64_t header = state_.zone(zone.band->band, zone.punit).start + zone.first_offset;
    const uint32_t count = zone.block_count - 1;
    ++state_.stats.media_header_blocks;
    switch (zone.source) {
        case Source::user: {
            WriteBuffer &buffer = state_.buffer;
            const bool retains = state_.retains();
            Band &band = state_.bands.change(zone.band->band);
            for (uint32_t i = 0; i < count; ++i) {
                if (i + kPrefetchAhead < count) {
                    state_.l2p.prefetch(buffer.records[zone.items[i + kPrefetchAhead]].lba);
                }
                const uint32_t slot = zone.items[i];
                const uint64_t lba = buffer.records[slot].lba;
                band.data_seqs += static_cast<int64_t>(buffer.records[slot].seq - band.opened_seq);
                if (state_.l2p.get(lba) == L2p::slot(slot)) {
                    state_.replace(lba, header + 1 + i);
                }
                state_.remember(header + 1 + i, lba);
                if (retains) {
                    buffer.landed.push_back(buffer.next.data(), slot);
                } else {
                    buffer.durable(slot);
                }
                if (!MUTATED(class_not_flushed) || buffer.epoch[slot] != 0) {
                    state_.epochs.leave(buffer.epoch[slot]);
                }
            }
            band.data_count += count;
            state_.stats.media_user_blocks += count;
            --user_batches_;
            break;
        }
        case Source::reloc: {
            RelocBuffer &buffer = state_.reloc;
            Band &band = state_.bands.change(zone.band->band);
            for (uint32_t i = 0; i < count; ++i) {
                const uint32_t slot = zone.items[i];
                const RelocBuffer::Meta &meta = buffer.meta[slot];
                band.data_seqs += static_cast<int64_t>(meta.seq - band.opened_seq);
                if (state_.l2p.get(meta.lba) == meta.source || MUTATED(gc_undoes_overwrites)) {
                    state_.replace(meta.lba, header + 1 + i);
                    // The CRC is the same unless memory has rotted. From now on the CRC on media counts.
                    state_.crcs.set(meta.lba, BlockCrcs::cut(meta.crc));
                    ++state_.stats.reloc_moved_blocks;
                }
                state_.remember(header + 1 + i, meta.lba);
                buffer.free.give(slot);
                copied_(context_, meta.mover);
            }
            band.data_count += count;
            state_.stats.media_reloc_blocks += count;
            ++state_.stats.reloc_batches;
            break;
        }
        case Source::user_records:
        case Source::reloc_records: {
            for (uint32_t i = 0; i < zone.item_count; ++i) {
                state_.records.landed(state_, zone.items[i], header);
            }
            ++state_.bands.change(zone.band->band).record_headers;
            ++state_.stats.media_trim_blocks;
            records_busy_[zone.source == Source::user_records ? 0 : 1] = false;
            break;
        }
        case Source::pad:
        case Source::none:
            break;
    }
}

void BandWriter::fault(ZoneWriter &zone, Status status) noexcept {
    if (zone.state == ZoneState::batch) {
        requeue(zone);
    }
    give_up(zone);
    Zone &place = state_.change_zone(zone.band->band, zone.punit);
    if (status == status::zone_full && !MUTATED(full_zone_retired) &&
        (place.write_pointer > 0 || ++place.full_at_once < kFullAtOnceMax)) {
        // The drive has finished the zone, which is no failure. Its data stays, and a reset makes the zone fully usable
        // again.
        ++state_.stats.zones_finished;
        state_.emit(EventKind::zone_finished, zone.band->band, zone.punit);
        zone.state = ZoneState::done;
        return;
    }
    ++state_.stats.write_errors;
    state_.troubles.fetch_add(1, std::memory_order_relaxed);
    place.faulted = true;
    state_.emit(EventKind::zone_fault, zone.band->band, zone.punit, status);
    finish(zone);
}

// The rest of the zone stays unwritten until the band is reset.
void BandWriter::give_up(ZoneWriter &zone) noexcept {
    const uint32_t written = state_.zone(zone.band->band, zone.punit).write_pointer;
    state_.bands.change(zone.band->band).given_up += state_.data_area - std::min(written, state_.data_area);
}

void BandWriter::requeue(ZoneWriter &zone) noexcept {
    switch (zone.source) {
        case Source::user:
            // Batches fail in any order. Code that waits for an epoch looks at the head of a FIFO, which must stay in
            // order.
            state_.buffer.requeue(zone.items.data(), zone.item_count);
            --user_batches_;
            break;
        case Source::reloc:
            state_.reloc.requeue(zone.items.data(), zone.item_count);
            break;
        case Source::user_records:
        case Source::reloc_records: {
            const bool of_user = zone.source == Source::user_records;
            for (uint32_t i = zone.item_count; i-- > 0;) {
                state_.records.queue(of_user).push_front(state_.records.next.data(), zone.items[i]);
            }
            records_busy_[of_user ? 0 : 1] = false;
            break;
        }
        case Source::pad:
        case Source::none:
            break;
    }
}

}  // namespace ftl
