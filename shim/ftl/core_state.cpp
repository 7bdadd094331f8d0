// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/core_state.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>
#include <utility>

namespace ftl {
namespace {

constexpr uint32_t kWriteBufferMin = 8;
constexpr uint32_t kProbes = 2;           // number of blocks of the base that are probed, one after another
constexpr uint64_t kZoneCapacityMin = 4;  // a header, a data block, a summary and one spare block

void require(bool holds, const char *rule) {
    if (!holds) {
        throw std::invalid_argument(rule);
    }
}

const CoreConfig &checked(const CoreConfig &config, const BlockDeviceInfo &info) {
    require(info.block_bytes == kBlockSize && info.metadata_bytes == 0, "the base must have blocks of 4096 bytes");
    require(config.block_count > 0 && config.block_count <= info.block_count,
            "block_count must be within 1 and the base's block_count");
    require(config.zone_capacity >= kZoneCapacityMin && config.zone_capacity <= config.zone_size,
            "zone_capacity must be within 4 and zone_size");
    require(config.zone_capacity <= std::numeric_limits<uint32_t>::max() / 2,
            "zone_capacity must be below 2^31 blocks");
    require(config.batch_blocks >= 2 && config.batch_blocks <= layout::kBatchDataBlocksMax + 1,
            "batch_blocks must be within 2..128");
    require(config.write_buffer_blocks >= kWriteBufferMin && config.write_buffer_blocks <= L2p::kSlotsMax,
            "write_buffer_blocks must be within 8..2^24");
    require(config.reloc_buffer_blocks >= kWriteBufferMin && config.reloc_buffer_blocks <= (1U << 24),
            "reloc_buffer_blocks must be within 8..2^24");
    require(config.max_reloc_qdepth >= 1 && config.max_reloc_qdepth <= 1024, "max_reloc_qdepth must be within 1..1024");
    require(config.max_active_relocs >= 1 && config.max_active_relocs <= 64, "max_active_relocs must be within 1..64");
    require(config.band_threshold >= 1 && config.band_threshold <= 100, "band_threshold must be within 1..100");
    require(config.classes_max >= 2 && config.classes_max <= kClassesMax, "classes_max must be within 2..8");
    require(config.next_seq >= 1, "next_seq must be at least 1");
    require(std::has_single_bit(config.trim_chunk) && config.trim_chunk <= Trims::kChunkBlocks,
            "trim_chunk must be a power of two within 1..128");
    require(!config.zone_starts.empty() && config.punits > 0, "bands must not be empty");
    require(config.punits <= kPunitsMax, "a band has more than 64 zones");
    require(config.zone_starts.size() % config.punits == 0 && config.zone_starts.size() / config.punits < kNoBand,
            "every band must have the same number of zones, or kNoZone");
    require(!config.use_append || info.max_append_blocks >= 2, "the base can't append two blocks at once");
    require(info.max_io_blocks >= 1, "the base has no max_io_blocks");
    return config;
}

ZoneAddresses addresses_of(const BlockDevice &base, const CoreConfig &config) {
    return {base.info().block_count, config.zone_size, config.zone_capacity};
}

Paging paging_of(const BlockDevice &base, const CoreConfig &config) {
    return L2p::paging_for(config.paging, config.block_count, addresses_of(base, config), config.verify_reads);
}

}  // namespace

CoreState::CoreState(std::shared_ptr<Reactor> the_reactor, std::shared_ptr<BlockDevice> the_base, CoreConfig the_config)
    : reactor(std::move(the_reactor)),
      base(std::move(the_base)),
      config(checked(the_config, base->info())),
      l2p(config.block_count, addresses_of(*base, config), paging_of(*base, config)),
      trims(config.block_count, config.trim_chunk),
      crcs(config.block_count, config.verify_reads, paging_of(*base, config)),
      mapping(config.write_buffer_blocks, kRecordCount, config.block_count, config.uuid, config.write_buffer_path),
      buffer(mapping, config.write_buffer_blocks),
      reloc(config.reloc_buffer_blocks),
      records(mapping, config.block_count, config.trim_chunk),
      next_seq(config.next_seq) {
    const BlockDeviceInfo &info = base->info();
    wake_by_pages();
    punits = config.punits;
    if (config.no_data) {
        p2l = std::make_unique<L2p>(info.block_count, ZoneAddresses(config.block_count));
    }
    placement.shared = config.shared_stream;
    placement.class_count = config.shared_stream ? 1 : 2;
    placement.relocated.fill(AgeClasses{{}, {placement.first(Side::reloc)}, 0});
    summary_area = static_cast<uint32_t>(layout::summary_blocks(config.zone_capacity));
    data_area = static_cast<uint32_t>(config.zone_capacity) - summary_area;
    max_io = config.use_append ? info.max_append_blocks : info.max_io_blocks;
    max_data = config.batch_blocks - 1;
    if (config.use_append) {
        max_data = std::min(max_data, info.max_append_blocks - 1);
    }
    if (std::has_single_bit(config.zone_size)) {
        zone_shift = std::countr_zero(config.zone_size);
    }
    zone_band.assign(static_cast<size_t>((info.block_count + config.zone_size - 1) / config.zone_size), kNoBand);
    bands.make(config.zone_starts.size() / punits);
    zones.assign(config.zone_starts.size(), Zone{});
    for (uint32_t band = 0; band < bands.size(); ++band) {
        for (uint32_t punit = 0; punit < punits; ++punit) {
            require(set_zone(band, punit, config.zone_starts[size_t{band} * punits + punit]),
                    "a zone is beyond the base, or used twice");
        }
    }
}

bool CoreState::set_zone(uint32_t band, uint32_t punit, uint64_t start) noexcept {
    if (start != kNoZone) {
        if (start % config.zone_size != 0 || zone_number(start) >= zone_band.size() ||
            start + config.zone_capacity > base->info().block_count) {
            return false;
        }
        const uint32_t owner = band_of(start);
        if (owner != kNoBand && zone(band, punit).start != start) {
            return false;
        }
    }
    Zone &place = change_zone(band, punit);
    if (place.start != kNoZone) {
        zone_band[zone_number(place.start)] = kNoBand;
    }
    place = Zone{};
    place.start = start;
    if (start != kNoZone) {
        zone_band[zone_number(start)] = band;
    }
    return true;
}

BandState CoreState::closed_state(uint32_t band) const noexcept {
    if (bands[band].unreadable) {
        return BandState::faulted;
    }
    for (uint32_t punit = 0; punit < punits; ++punit) {
        if (zone(band, punit).faulted) {
            return BandState::faulted;
        }
    }
    return BandState::closed;
}

void CoreState::unreadable(uint32_t number, uint64_t address, Status status) noexcept {
    if (bands[number].unreadable) {
        return;
    }
    Band &band = bands.change(number);
    band.unreadable = true;
    if (band.state == BandState::closed) {
        band.state = BandState::faulted;
    }
    emit(EventKind::band_unreadable, number, address, status);
}

uint64_t CoreState::entry_of(uint64_t lba) const noexcept {
    uint64_t entry = l2p.peek(lba);
    if (trims.hides(lba)) {
        entry = L2p::pending(L2p::kTrimFlag, trims.record_of(lba));
    }
    const bool of_record = L2p::tag(entry) == L2p::Tag::trim || L2p::tag(entry) == L2p::Tag::lost;
    if (of_record && L2p::is_pending(entry)) {
        const Records::Meta &record = records.meta[L2p::pending_record(entry)];
        entry = record.landed ? (entry & ~L2p::kPayloadMask) | record.header : entry;
    }
    return entry;
}

void CoreState::forget(uint64_t entry) noexcept {
    switch (L2p::tag(entry)) {
        case L2p::Tag::media: {
            const uint32_t band = band_of(entry);
            --bands.change(band).valid;
            if (band == scrubbed.band) [[unlikely]] {
                forget_scrubbed(entry);
            }
            break;
        }
        case L2p::Tag::slot:
            break;
        case L2p::Tag::trim:
        case L2p::Tag::lost:
            if (entry == L2p::kInvalid) {
                break;
            }
            if (L2p::is_pending(entry)) {
                Records::Meta &record = records.meta[L2p::pending_record(entry)];
                --record.references;
                if (record.landed) {
                    --bands.change(band_of(record.header)).references;
                }
            } else {
                --bands.change(band_of(L2p::payload(entry))).references;
            }
            break;
    }
}

void CoreState::forget_scrubbed(uint64_t address) noexcept {
    for (uint32_t punit = 0; punit <= scrubbed.punit && punit < punits; ++punit) {
        const uint64_t start = zone(scrubbed.band, punit).start;
        if (start == kNoZone || address < start || address - start >= config.zone_capacity) {
            continue;
        }
        const bool passed = punit < scrubbed.punit || address - start < scrubbed.offset;
        if (passed && scrubbed.seen > 0) {
            --scrubbed.seen;
        }
        return;
    }
}

// The age of the version that is replaced is that of its band's data on average.
uint8_t CoreState::class_of_write(uint64_t lba) const noexcept {
    const uint8_t by_region = placement.of_region(lba);
    if (by_region != kNoClass) {
        return by_region;
    }
    const uint64_t before = l2p.get(lba);
    switch (L2p::tag(before)) {
        case L2p::Tag::media:
            return placement.user.of(age_of(bands[band_of(before)].data_seq()));
        case L2p::Tag::slot:
            return placement.user.of(0);
        case L2p::Tag::trim:
        case L2p::Tag::lost:
            break;
    }
    return placement.unwritten;
}

uint8_t CoreState::look_up_copy(uint32_t from_band, uint64_t seq) const noexcept {
    return placement.relocated[std::min<uint8_t>(bands[from_band].stream, kClassesMax - 1)].of(age_of(seq));
}

Answer CoreState::came_back(BaseIo &io, uint64_t patience_ns) noexcept {
    --base_outstanding;
    const bool flushed = io.op == Op::flush;
    const Answer answer = judge(io, patience_ns);
    if (flushed && failed == status::ok) {
        // If the core has failed, drop_busy() drops the waiting flushes.
        if (BaseIo *next = flush_turn.pass_on()) {
            send_base(*next);
        }
    }
    return answer;
}

Answer CoreState::judge(BaseIo &io, uint64_t patience_ns) noexcept {
    if (failed == status::namespace_not_ready && error_class(io.op, io.status, io.do_not_retry) == ErrorClass::doubt) {
        failed = io.status;  // of a closed core, too: after a failed flush its close is not clean
    }
    if (failed != status::ok) {
        return Answer::dropped;
    }
    const bool writes = io.op == Op::write || io.op == Op::append;
    if (io.status == status::ok) {
        io.busy_since_ns = 0;
        written_ns = writes ? reactor->now_ns() : written_ns;
        read_ns = io.op == Op::read ? reactor->now_ns() : read_ns;
        return Answer::final;
    }
    const Op op = MUTATED(failed_flush_repeated) ? Op::write : io.op;
    ErrorClass kind = error_class(op, io.status, io.do_not_retry);
    if (MUTATED(busy_flush_doubted) && io.op == Op::flush && kind == ErrorClass::busy) {
        kind = ErrorClass::doubt;
    }
    if (MUTATED(final_flush_told) && kind == ErrorClass::doubt && io.do_not_retry) {
        kind = ErrorClass::command;
    }
    if (kind == ErrorClass::busy && busy_ios.keep(io, reactor->now_ns(), patience_ns)) {
        ++stats.busy_answers;
        troubles.fetch_add(1, std::memory_order_relaxed);
        return Answer::awaited;
    }
    const uint64_t busy_since_ns = std::exchange(io.busy_since_ns, 0);
    switch (kind) {
        case ErrorClass::gone:  // the whole base, not only a zone
            fail(io.status);
            return Answer::dropped;
        case ErrorClass::doubt:
            fail(io.status, true);
            return Answer::dropped;
        case ErrorClass::busy:
            // If the base has accepted no other write meanwhile, the zone is not the cause. A flush concerns the whole
            // base.
            if (op == Op::flush || (writes && written_ns < busy_since_ns && !limits_zones(io.status))) {
                fail(io.status);
                return Answer::dropped;
            }
            return Answer::final;
        default:
            return Answer::final;
    }
}

Answer CoreState::read_came_back(BaseIo &io, Probe &probe, Patience &patience, bool verdict, bool fails) noexcept {
    if (probe.number == 0) {
        const bool was_busy = io.busy_since_ns != 0;
        const Answer answer = came_back(io, probe.again ? kBusyDelayMaxNs : patience.now_ns);
        if (answer != Answer::final) {
            return answer;
        }
        const bool busy = error_class(io) == ErrorClass::busy;
        if (was_busy) {
            patience.now_ns = busy ? kBusyPatienceLeftNs : patience.whole_ns;
        }
        const bool again = std::exchange(probe.again, false);
        if (!verdict || !busy || again) {
            return Answer::final;
        }
        probe.lba = io.lba;
        probe.block_count = io.block_count;
    } else {
        const bool last = probe.number == kProbes;
        // Other reads may have had a shorter wait, because of a bad block.
        const bool read_of_late = reactor->now_ns() < read_ns + patience.whole_ns;
        const Answer answer = came_back(io, last && read_of_late ? patience.whole_ns : kBusyPatienceLeftNs);
        if (answer == Answer::dropped) {
            io.status = failed;  // the data of a probe is not the data of the block
        }
        if (answer != Answer::final) {
            return answer;
        }
        if (error_class(io) != ErrorClass::busy) {
            // The base may have refused every read until a moment ago.
            restore(io, probe);
            probe.again = true;
            submit_base(io);
            return Answer::awaited;
        }
        if (last && !fails) {
            restore(io, probe);
            probe.refused = true;
            return Answer::final;
        }
        if (last) {
            fail(io.status);
            return Answer::dropped;
        }
    }
    io.lba = probe.number++ * config.zone_size;
    io.block_count = 1;
    submit_base(io);
    return Answer::awaited;
}

uint32_t CoreState::run_pages() noexcept {
    uint32_t count = 0;
    PagedMemory::Stats sum;
    for (PagedMemory *paged : {l2p.paged(), crcs.paged()}) {
        if (paged != nullptr) {
            count += paged->run();
            sum.reads += paged->stats().reads;
            sum.writes += paged->stats().writes;
            sum.waits += paged->stats().waits;
        }
    }
    page_events += count;
    stats.l2p_page_reads = sum.reads;
    stats.l2p_page_writes = sum.writes;
    stats.l2p_page_waits = sum.waits;
    return count;
}

void CoreState::wake_by_pages() noexcept {
    const auto wake = [](void *context) { static_cast<Reactor *>(context)->wake(); };
    for (PagedMemory *paged : {l2p.paged(), crcs.paged()}) {
        if (paged != nullptr) {
            paged->wake_with(wake, reactor.get());
        }
    }
}

void CoreState::drop_busy() noexcept {
    const auto give_back = [this](BaseIo &io) {
        ++base_outstanding;  // came_back() decrements it
        io.status = failed;
        io.complete(io);
    };
    while (BaseIo *io = busy_ios.drop()) {
        give_back(*io);
    }
    while (BaseIo *io = flush_turn.drop()) {
        give_back(*io);
    }
}

void CoreState::fail(Status status, bool by_flush) noexcept {
    if (failed == status::ok) {
        failed = status;
        emit(EventKind::core_failed, status, by_flush ? 1 : 0);
    }
}

}  // namespace ftl
