// SPDX-License-Identifier: BSD-3-Clause
// Movers' metadata: selects the zones of a band to look at, and reads and checks the metadata: summaries and headers.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/mutation.hpp"
#include "ftl/mover.hpp"

namespace ftl {

using layout::BatchHeader;
using layout::BatchKind;
using layout::BlockEntry;
using layout::SummaryBlock;

void Movers::next_zone(Mover &mover) noexcept {
    while (state_.bands[mover.band].in_force() && ++mover.punit < state_.punits) {
        const Zone &zone = state_.zone(mover.band, mover.punit);
        if (zone.start == kNoZone || zone.write_pointer == 0) {
            continue;
        }
        mover.zones_done = false;
        mover.walking = zone.write_pointer < state_.data_area + state_.summary_area;
        mover.summary_next = 0;
        mover.walk_offset = 0;
        mover.seen_offset = 0;
        mover.singly_until = 0;
        mover.gap = false;
        mover.headers = 0;
        mover.ahead_count = 0;
        if (mover.scrubs) {
            mover.first_offset = mover.entry = 0;
            state_.scrubbed.punit = mover.punit;
            state_.scrubbed.offset = 0;
        }
        next_metadata(mover);
        return;
    }
    mover.zones_done = true;
    mover.phase = mover.scrubs || mover.group->empty() ? Phase::drain : Phase::records;
}

void Movers::next_metadata(Mover &mover) noexcept {
    const Zone &zone = state_.zone(mover.band, mover.punit);
    if (state_.p2l) {
        if (take_from_memory(mover)) {
            return;
        }
    } else if (mover.walking) {
        const uint32_t end = std::min(zone.write_pointer, state_.data_area);
        if (mover.walk_offset < end && state_.bands[mover.band].in_force()) {
            const uint32_t at = mover.walk_offset - mover.ahead_offset;
            if (!mover.gap && at < mover.ahead_count) {
                use_walked(mover, true, mover.buffer + size_t{at} * kBlockSize, 1);
                return;
            }
            // A band that is scrubbed may be written meanwhile.
            const bool ahead = !mover.scrubs && mover.headers >= kAheadAfter && mover.entry_count < kGapBlocks / 2;
            const bool single = !(mover.gap || ahead) || mover.walk_offset < mover.singly_until;
            const uint32_t count =
                single ? 1 : std::min({kGapBlocks, end - mover.walk_offset, state_.base->info().max_io_blocks});
            read_metadata(mover, Want::walk_header, zone.start + mover.walk_offset, count);
            return;
        }
    } else if (mover.summary_next < state_.summary_area && state_.bands[mover.band].in_force()) {
        const uint32_t count =
            std::min({kWindowBlocks, state_.summary_area - mover.summary_next, state_.base->info().max_io_blocks});
        read_metadata(mover, Want::summary, zone.start + state_.data_area + mover.summary_next, count);
        return;
    }
    mover.phase = Phase::next_zone;
}

// False: the zone has no more entries.
bool Movers::take_from_memory(Mover &mover) noexcept {
    const Zone &zone = state_.zone(mover.band, mover.punit);
    const uint32_t end = std::min(zone.write_pointer, state_.data_area);
    if (mover.walk_offset >= end) {
        return false;
    }
    mover.first_offset = mover.walk_offset;
    mover.entry = 0;
    mover.entry_count = std::min(end - mover.first_offset, static_cast<uint32_t>(mover.entries.size()));
    const uint64_t seq = state_.bands[mover.band].data_seq();
    for (uint32_t i = 0; i < mover.entry_count; ++i) {
        // Nobody verifies a CRC, and the seq only says how old the block is, for its placement.
        mover.entries[i] = BlockEntry{state_.p2l->get(zone.start + mover.first_offset + i), seq, 0, 0};
    }
    mover.walk_offset += mover.entry_count;
    mover.phase = Phase::window;
    return true;
}

void Movers::read_metadata(Mover &mover, Want want, uint64_t address, uint32_t block_count) noexcept {
    mover.want = want;
    mover.ahead_count = 0;
    mover.read_done = false;
    mover.phase = Phase::reading;
    mover.iov = iovec{mover.buffer, size_t{block_count} * kBlockSize};
    mover.io.lba = address;
    mover.io.block_count = block_count;
    if (mover.scrubs) {
        ++state_.bands[mover.band].readers;
        charge(block_count);
    }
    state_.submit_base(mover.io);
}

void Movers::on_metadata(Io &io) noexcept {
    auto &mover = *static_cast<Mover *>(io.owner);
    CoreState &state = mover.movers->state_;
    if (!mover.scrubs) {
        mover.read_done = mover.movers->settled(mover.io, mover.probe, true);
        return;
    }
    const Answer answer = mover.movers->scrub_came_back(mover, mover.io, mover.probe, true);
    if (answer != Answer::awaited) {
        --state.bands[mover.band].readers;
    }
    mover.read_done = answer == Answer::final;
}

void Movers::metadata_came(Mover &mover) noexcept {
    const bool read = mover.io.status == status::ok;
    state_.stats.read_errors += read ? 0 : 1;
    const auto &header = *reinterpret_cast<const BatchHeader *>(mover.buffer);
    if (std::exchange(mover.probe.refused, false)) {
        mover.busy = mover.io.status;
        mover.phase = Phase::drain;
        return;
    }
    if (mover.io.status == status::zone_offline && mover.want != Want::record_header) {
        // Nothing in this zone can be read. The sweep handles its records and blocks that are in force.
        damaged(mover, mover.io.status);
        mover.phase = Phase::next_zone;
        return;
    }
    switch (mover.want) {
        case Want::summary:
            if (read) {
                use_summary(mover);
            } else {
                damaged(mover, mover.io.status);
                mover.walking = true;
                next_metadata(mover);
            }
            break;
        case Want::walk_header:
            if (read && !mover.gap) {
                mover.ahead_offset = mover.walk_offset;
                mover.ahead_count = mover.io.block_count;
                use_walked(mover, true, mover.buffer, 1);
            } else {
                use_walked(mover, read, mover.buffer, mover.io.block_count);
            }
            break;
        case Want::record_header: {
            const auto offset = static_cast<uint32_t>(mover.io.lba - state_.zone(mover.band, mover.punit).start);
            mover.phase = Phase::window;
            // The sweep handles the content of a damaged header.
            if (read && is_ours(mover, header, offset) && header.kind == static_cast<uint16_t>(BatchKind::records)) {
                take_records(mover, header, mover.io.lba);
            } else {
                damaged(mover, read ? status::guard_check : mover.io.status);
            }
            break;
        }
    }
}

// Notes that metadata is damaged. A scrub then looks at the band again.
void Movers::damaged(Mover &mover, Status status) noexcept {
    mover.damage = status;
    mover.damage_at = mover.io.lba;
}

// True for a block that was our summary, written in this life of the band, and is now damaged. A block that was never
// written as a summary may contain anything. A summary from an earlier life of the band has a correct CRC.
bool Movers::was_ours(const Mover &mover, const SummaryBlock &block) const noexcept {
    return block.crc != layout::block_crc(&block) &&
           (block.magic == layout::kSummaryMagic || block.uuid == state_.config.media_uuid) &&
           block.band_seq == state_.bands[mover.band].seq;
}

bool Movers::was_ours(const Mover &mover, const BatchHeader &header) const noexcept {
    return header.crc != layout::block_crc(&header) &&
           (header.magic == layout::kBatchMagic || header.uuid == state_.config.media_uuid) &&
           header.band_seq == state_.bands[mover.band].seq;
}

// Looks for the next header in the blocks from walk_offset on.
void Movers::use_walked(Mover &mover, bool read, const uint8_t *blocks, uint32_t count) noexcept {
    for (uint32_t i = 0; read && i < count; ++i) {
        const auto &header = *reinterpret_cast<const BatchHeader *>(blocks + size_t{i} * kBlockSize);
        if (is_ours(mover, header, mover.walk_offset + i)) {
            mover.walk_offset += i;
            mover.gap = false;
            ++mover.headers;
            use_header(mover, header);
            return;
        }
    }
    if (mover.scrubs && count == 1 && (!read || was_ours(mover, *reinterpret_cast<const BatchHeader *>(blocks)))) {
        damaged(mover, read ? status::guard_check : mover.io.status);
    }
    if (!read && count > 1) {
        // Read the blocks one by one, so that an unreadable block does not hide the headers beside it.
        mover.singly_until = mover.walk_offset + count;
    } else if (!mover.again) {
        // Usually the end of the written part. A second look, after the rest of the band was moved, shows whether there
        // is more.
        mover.phase = Phase::next_zone;
        return;
    } else {
        mover.gap = !MUTATED(gap_not_searched);
        mover.walk_offset += mover.gap ? count : state_.data_area;
    }
    next_metadata(mover);
}

bool Movers::is_ours(const Mover &mover, const BatchHeader &header, uint32_t offset) const noexcept {
    const uint64_t address = state_.zone(mover.band, mover.punit).start + offset;
    return header.magic == layout::kBatchMagic && header.crc == layout::block_crc(&header) &&
           header.version == layout::kVersion && header.uuid == state_.config.media_uuid &&
           header.band_seq == state_.bands[mover.band].seq &&
           header.address == (state_.config.use_append ? 0 : address) && header.count <= layout::kEntriesPerBlock &&
           header.band == mover.band && header.punit == mover.punit;
}

bool Movers::is_ours(const Mover &mover, const SummaryBlock &block, uint32_t index) const noexcept {
    return block.magic == layout::kSummaryMagic && block.crc == layout::block_crc(&block) &&
           block.version == layout::kVersion && block.uuid == state_.config.media_uuid &&
           block.band_seq == state_.bands[mover.band].seq && block.index == index &&
           block.count <= layout::kEntriesPerBlock && block.band == mover.band && block.punit == mover.punit;
}

void Movers::use_summary(Mover &mover) noexcept {
    mover.first_offset = mover.summary_next * layout::kEntriesPerBlock;
    mover.entry = 0;
    mover.entry_count = 0;
    for (uint32_t i = 0; i < mover.io.block_count; ++i) {
        const auto &block = *reinterpret_cast<const SummaryBlock *>(mover.buffer + size_t{i} * kBlockSize);
        if (!is_ours(mover, block, mover.summary_next + i)) {
            // If the zone was finished early, its summary was never written.
            state_.stats.crc_errors += block.magic == 0 || block.magic == ~uint64_t{0} ? 0 : 1;
            if (was_ours(mover, block)) {
                damaged(mover, status::guard_check);
            }
            mover.walking = true;
            mover.seen_offset = mover.first_offset;
            mover.entry_count = 0;
            next_metadata(mover);
            return;
        }
        std::copy_n(block.entries, block.count, mover.entries.data() + mover.entry_count);
        mover.entry_count += block.count;
    }
    mover.summary_next += mover.io.block_count;
    mover.phase = Phase::window;
}

void Movers::use_header(Mover &mover, const BatchHeader &header) noexcept {
    const uint32_t offset = mover.walk_offset++;
    mover.first_offset = offset + 1;
    mover.entry = 0;
    mover.entry_count = 0;
    mover.phase = Phase::window;
    if (header.kind == static_cast<uint16_t>(BatchKind::data)) {
        std::copy_n(header.blocks, header.count, mover.entries.data());
        const uint32_t end = std::min(state_.zone(mover.band, mover.punit).write_pointer, state_.data_area);
        mover.entry_count = std::min(header.count, end - mover.first_offset);
        mover.walk_offset += mover.entry_count;
    } else if (header.kind == static_cast<uint16_t>(BatchKind::records) && offset >= mover.seen_offset) {
        take_records(mover, header, state_.zone(mover.band, mover.punit).start + offset);
    }
}

}  // namespace ftl
