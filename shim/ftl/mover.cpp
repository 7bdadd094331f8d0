// SPDX-License-Identifier: BSD-3-Clause
// What is in force in a band: zones, summaries, headers, records. How blocks are read and checked is in mover_read.cpp.
#include "ftl/mover.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace ftl {

using layout::BatchHeader;
using layout::BatchKind;
using layout::BlockEntry;
using layout::RecordEntry;
using layout::SummaryBlock;

Movers::Movers(CoreState &state)
    : state_(state),
      movers_(state.config.max_active_relocs),
      reads_(size_t{state.config.max_active_relocs} * state.config.max_reloc_qdepth) {
    memory_bytes_ = size_t{kWindowBlocks} * kBlockSize * movers_.size();
    void *memory = mmap(nullptr, memory_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        throw std::bad_alloc();
    }
    memory_ = static_cast<uint8_t *>(memory);
    for (size_t i = 0; i < movers_.size(); ++i) {
        Mover &mover = movers_[i];
        mover.movers = this;
        mover.index = static_cast<uint16_t>(i);
        mover.buffer = memory_ + i * kWindowBlocks * kBlockSize;
        mover.entries.resize(size_t{kWindowBlocks} * layout::kEntriesPerBlock);
        mover.in_force.reserve(layout::kEntriesPerBlock);
        mover.io.op = Op::read;
        mover.io.iov = &mover.iov;
        mover.io.iov_count = 1;
        mover.io.owner = &mover;
        mover.io.complete = on_metadata;
    }
    free_reads_.reserve(reads_.size());
    for (Read &read : reads_) {
        read.io.op = Op::read;
        read.io.iov = read.iov;
        read.io.owner = &read;
        read.io.complete = on_read;
        free_reads_.push_back(&read);
    }
}

Movers::~Movers() {
    munmap(memory_, memory_bytes_);
}

bool Movers::start(uint32_t band) noexcept {
    const auto mover =
        std::find_if(movers_.begin(), movers_.end(), [](const Mover &each) { return each.phase == Phase::free; });
    if (mover == movers_.end()) {
        return false;
    }
    mover->phase = Phase::settling;
    mover->band = band;
    mover->punit = ~0U;
    mover->moved = 0;
    mover->lost = 0;
    mover->sweep_lba = 0;
    state_.bands.change(band).state = BandState::moving;
    ++state_.active_moves;
    return true;
}

uint32_t Movers::run() noexcept {
    scanning_ = false;
    uint32_t work = 0;
    if (state_.active_moves > 0) {
        for (Mover &mover : movers_) {
            if (mover.phase != Phase::free) {
                work += run(mover);
            }
        }
    }
    return work;
}

uint32_t Movers::run(Mover &mover) noexcept {
    uint32_t work = 0;
    if (!mover.lost_slots.empty()) {
        work += declare_lost(mover) ? 1 : 0;
    }
    const Band &band = state_.bands[mover.band];
    for (;; ++work) {
        switch (mover.phase) {
            case Phase::free:
                return work;
            case Phase::settling:
                if (band.settling > 0) {
                    return work;
                }
                mover.phase = Phase::next_zone;
                break;
            case Phase::next_zone:
                next_zone(mover);
                break;
            case Phase::reading:
                if (!mover.read_done) {
                    return work;
                }
                metadata_came(mover);
                break;
            case Phase::window:
                if (!scan_window(mover)) {
                    return work;
                }
                break;
            case Phase::records:
                if (!scan_records(mover)) {
                    return work;
                }
                break;
            case Phase::drain:
            case Phase::last_drain:
                if (mover.reads > 0 || mover.copies > 0 || mover.records > 0 || !mover.lost_slots.empty()) {
                    return work;
                }
                if (mover.phase == Phase::drain && band.in_force()) {
                    mover.phase = Phase::sweep;
                } else {
                    finish(mover);
                }
                break;
            case Phase::sweep:
                if (!sweep(mover)) {
                    return work;
                }
                mover.phase = Phase::last_drain;
                break;
        }
    }
}

void Movers::finish(Mover &mover) noexcept {
    state_.bands.change(mover.band).state = state_.closed_state(mover.band);
    mover.phase = Phase::free;
    --state_.active_moves;
    state_.emit(EventKind::move_done, mover.band, mover.moved, mover.lost);
}

// --- zones and their metadata

void Movers::next_zone(Mover &mover) noexcept {
    while (state_.bands[mover.band].in_force() && ++mover.punit < state_.punits) {
        const Zone &zone = state_.zone(mover.band, mover.punit);
        if (zone.start == kNoZone || zone.write_pointer == 0) {
            continue;
        }
        mover.walking = zone.write_pointer < state_.data_area + state_.summary_area;
        mover.summary_next = 0;
        mover.walk_offset = 0;
        mover.seen_offset = 0;
        next_metadata(mover);
        return;
    }
    mover.phase = Phase::drain;
}

void Movers::next_metadata(Mover &mover) noexcept {
    const Zone &zone = state_.zone(mover.band, mover.punit);
    if (mover.walking) {
        if (mover.walk_offset < std::min(zone.write_pointer, state_.data_area)) {
            read_metadata(mover, Want::walk_header, zone.start + mover.walk_offset, 1);
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

void Movers::read_metadata(Mover &mover, Want want, uint64_t address, uint32_t block_count) noexcept {
    mover.want = want;
    mover.read_done = false;
    mover.phase = Phase::reading;
    mover.iov = iovec{mover.buffer, size_t{block_count} * kBlockSize};
    mover.io.lba = address;
    mover.io.block_count = block_count;
    state_.submit_base(mover.io);
}

void Movers::on_metadata(Io &io) noexcept {
    auto &mover = *static_cast<Mover *>(io.owner);
    mover.movers->state_.came_back(io);
    mover.read_done = true;
}

void Movers::metadata_came(Mover &mover) noexcept {
    const bool read = mover.io.status == status::ok;
    state_.stats.read_errors += read ? 0 : 1;
    const auto &header = *reinterpret_cast<const BatchHeader *>(mover.buffer);
    switch (mover.want) {
        case Want::summary:
            if (read) {
                use_summary(mover);
            } else {
                mover.walking = true;
                next_metadata(mover);
            }
            break;
        case Want::walk_header:
            if (read && is_ours(mover, header, mover.walk_offset)) {
                use_header(mover);
            } else {
                // Whatever follows may still be whole: look for the next header.
                ++mover.walk_offset;
                next_metadata(mover);
            }
            break;
        case Want::record_header: {
            const auto offset = static_cast<uint32_t>(mover.io.lba - state_.zone(mover.band, mover.punit).start);
            mover.phase = Phase::window;
            // A damaged one is left to the sweep.
            if (read && is_ours(mover, header, offset) && header.kind == static_cast<uint16_t>(BatchKind::records)) {
                take_records(mover, header, mover.io.lba);
            }
            break;
        }
    }
}

bool Movers::is_ours(const Mover &mover, const BatchHeader &header, uint32_t offset) const noexcept {
    const uint64_t address = state_.zone(mover.band, mover.punit).start + offset;
    return header.magic == layout::kBatchMagic && header.crc == layout::block_crc(&header) &&
           header.version == layout::kVersion && header.uuid == state_.config.uuid &&
           header.band_seq == state_.bands[mover.band].seq && (header.address == address || header.address == 0) &&
           header.count <= layout::kEntriesPerBlock && header.band == mover.band && header.punit == mover.punit;
}

bool Movers::is_ours(const Mover &mover, const SummaryBlock &block, uint32_t index) const noexcept {
    return block.magic == layout::kSummaryMagic && block.crc == layout::block_crc(&block) &&
           block.version == layout::kVersion && block.uuid == state_.config.uuid &&
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
            ++state_.stats.crc_errors;
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

void Movers::use_header(Mover &mover) noexcept {
    const auto &header = *reinterpret_cast<const BatchHeader *>(mover.buffer);
    const uint32_t offset = mover.walk_offset++;
    mover.entry = 0;
    mover.entry_count = 0;
    mover.phase = Phase::window;
    if (header.kind == static_cast<uint16_t>(BatchKind::data)) {
        std::copy_n(header.blocks, header.count, mover.entries.data());
        mover.first_offset = offset + 1;
        const uint32_t end = std::min(state_.zone(mover.band, mover.punit).write_pointer, state_.data_area);
        mover.entry_count = std::min(header.count, end - mover.first_offset);
        mover.walk_offset += mover.entry_count;
    } else if (header.kind == static_cast<uint16_t>(BatchKind::records) && offset >= mover.seen_offset) {
        take_records(mover, header, mover.io.lba);
    }
}

// --- records in force

// Newest first: where two records of this header cover one LBA, the newer one takes its entry along.
void Movers::take_records(Mover &mover, const BatchHeader &header, uint64_t address) noexcept {
    mover.in_force.clear();
    for (uint32_t i = 0; i < header.count; ++i) {
        const RecordEntry entry = header.records[i];
        if (entry.lba < state_.config.block_count && entry.block_count <= state_.config.block_count - entry.lba &&
            (entry.flags == layout::kRecordTrim || entry.flags == layout::kRecordLost)) {
            mover.in_force.push_back(entry);
        }
    }
    std::sort(mover.in_force.begin(), mover.in_force.end(),
              [](const RecordEntry &a, const RecordEntry &b) { return a.seq > b.seq; });
    mover.header_address = address;
    mover.record = 0;
    mover.record_cursor = 0;
    mover.phase = Phase::records;
}

bool Movers::scan_records(Mover &mover) noexcept {
    uint32_t budget = kScanStep;
    for (; mover.record < mover.in_force.size(); ++mover.record, mover.record_cursor = 0) {
        const RecordEntry &entry = mover.in_force[mover.record];
        const uint64_t flag = entry.flags == layout::kRecordTrim ? L2p::kTrimFlag : L2p::kLostFlag;
        const uint64_t match = flag | mover.header_address;
        uint64_t &i = mover.record_cursor;
        while (i < entry.block_count && state_.l2p.get(entry.lba + i) != match) {
            ++i;
            if (--budget == 0) {
                scanning_ = true;
                return false;
            }
        }
        if (i == entry.block_count) {
            continue;
        }
        if (!state_.records.room()) {
            return false;
        }
        state_.records.enqueue(
            state_.records.copy(entry.lba, entry.seq, entry.block_count, entry.flags, match, mover.index));
        ++mover.records;
    }
    mover.phase = Phase::window;
    return true;
}

void Movers::make_fresh(Mover &mover, uint64_t flag, uint64_t lba, uint32_t block_count) noexcept {
    Records &records = state_.records;
    const uint32_t record = records.make(state_, flag, lba, block_count, mover.index);
    for (uint32_t i = 0; i < block_count; ++i) {
        state_.replace(lba + i, L2p::pending(flag, record));
    }
    records.meta[record].references = block_count;
    records.enqueue(record);
    ++mover.records;
}

bool Movers::declare_lost(Mover &mover) noexcept {
    RelocBuffer &buffer = state_.reloc;
    bool any = false;
    while (!mover.lost_slots.empty() && state_.records.room()) {
        const uint32_t slot = mover.lost_slots.pop_front(buffer.next.data());
        const RelocBuffer::Meta &meta = buffer.meta[slot];
        if (state_.l2p.get(meta.lba) == meta.source) {
            make_fresh(mover, L2p::kLostFlag, meta.lba, 1);
            ++mover.lost;
            ++state_.stats.lost_blocks;
            state_.emit(EventKind::block_lost, meta.lba, meta.source, meta.status);
        }
        buffer.free.give(slot);
        any = true;
    }
    return any;
}

// What nothing on media tells of any more. A record is due for each run of LBAs; trimmed ones stay trimmed.
bool Movers::sweep(Mover &mover) noexcept {
    const auto flag_of = [&](uint64_t lba) -> uint64_t {
        const uint64_t entry = state_.l2p.get(lba);
        const L2p::Tag tag = L2p::tag(entry);
        if (tag == L2p::Tag::slot || entry == L2p::kInvalid || (tag != L2p::Tag::media && L2p::is_pending(entry)) ||
            state_.band_of(L2p::payload(entry)) != mover.band) {
            return 0;
        }
        return tag == L2p::Tag::trim ? L2p::kTrimFlag : L2p::kLostFlag;
    };
    const uint64_t stop = std::min(state_.config.block_count, mover.sweep_lba + kScanStep);
    while (mover.sweep_lba < stop) {
        const uint64_t lba = mover.sweep_lba;
        const uint64_t flag = flag_of(lba);
        if (flag == 0) {
            ++mover.sweep_lba;
            continue;
        }
        if (!state_.records.room()) {
            return false;
        }
        uint32_t count = 0;
        while (lba + count < stop && flag_of(lba + count) == flag) {
            const uint64_t entry = state_.l2p.get(lba + count);
            if (L2p::tag(entry) == L2p::Tag::media) {
                ++mover.lost;
                ++state_.stats.lost_blocks;
                state_.emit(EventKind::block_lost, lba + count, entry, status::unrecovered_read);
            }
            ++count;
        }
        make_fresh(mover, flag, lba, count);
        mover.sweep_lba += count;
    }
    scanning_ = true;
    return mover.sweep_lba == state_.config.block_count || !state_.bands[mover.band].in_force();
}

}  // namespace ftl
