// SPDX-License-Identifier: BSD-3-Clause
// Moves of bands from start to end, and their records. mover_metadata.cpp reads a band's metadata, mover_read.cpp its
// blocks; the scrub is in scrub.cpp.
#include "ftl/mover.hpp"

#include <algorithm>

#include "base/mutation.hpp"

namespace ftl {

using layout::BatchHeader;
using layout::BatchKind;
using layout::BlockEntry;
using layout::RecordEntry;
using layout::SummaryBlock;

Movers::Movers(CoreState &state)
    : state_(state),
      movers_(size_t{state.config.max_active_relocs} + 1),
      reads_(size_t{state.config.max_active_relocs} * state.config.max_reloc_qdepth),
      scrub_reads_(kScrubReads) {
    constexpr size_t blocks = std::max(kWindowBlocks, kGapBlocks);
    memory_ = PageMemory::or_bad_alloc(
        (blocks * movers_.size() + size_t{kRunBlocks} * scrub_reads_.size()) * kBlockSize, Pages::counted);
    for (size_t i = 0; i < movers_.size(); ++i) {
        Mover &mover = movers_[i];
        mover.movers = this;
        mover.index = static_cast<uint16_t>(i);
        mover.buffer = memory_.data() + i * blocks * kBlockSize;
        mover.entries.resize(size_t{kWindowBlocks} * layout::kEntriesPerBlock);
        mover.in_force.reserve(layout::kEntriesPerBlock);
        mover.io.op = Op::read;
        mover.io.iov = &mover.iov;
        mover.io.iov_count = 1;
        mover.io.owner = &mover;
        mover.io.complete = on_metadata;
    }
    movers_.back().scrubs = true;
    in_turn_.reserve(movers_.size());
    for (size_t i = 0; i < scrub_reads_.size(); ++i) {
        ScrubRead &read = scrub_reads_[i];
        read.mover = &movers_.back();
        read.memory = memory_.data() + (blocks * movers_.size() + i * kRunBlocks) * kBlockSize;
        read.io.op = Op::read;
        read.io.iov = &read.iov;
        read.io.iov_count = 1;
        read.io.owner = &read;
        read.io.complete = on_scrub_read;
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

bool Movers::start(uint32_t band) noexcept {
    const auto mover = std::find_if(movers_.begin(), movers_.end(),
                                    [](const Mover &each) { return each.phase == Phase::free || each.scrubs; });
    if (mover->scrubs) {
        return false;
    }
    mover->phase = Phase::settling;
    mover->band = band;
    mover->punit = ~0U;
    mover->moved = 0;
    mover->lost = 0;
    mover->sweep_lba = 0;
    mover->again = false;
    state_.bands.change(band).state = BandState::moving;
    ++state_.active_moves;
    in_turn_.push_back(mover->index);
    return true;
}

uint32_t Movers::run() noexcept {
    scanning_ = false;
    state_.moves_settle = false;
    state_.moves_rest = false;
    state_.moves_reading = 0;
    state_.moves_read = 0;
    uint32_t work = 0;
    if (state_.active_moves > 0) {
        state_.moved_ns = state_.now;
    }
    for (size_t i = 0; i < in_turn_.size();) {
        Mover &mover = movers_[in_turn_[i]];
        work += run(mover);
        if (mover.phase == Phase::free) {
            in_turn_.erase(in_turn_.begin() + static_cast<ptrdiff_t>(i));
        } else {
            const bool read = mover.phase >= Phase::drain;
            state_.moves_reading += read ? 0 : 1;
            state_.moves_read |= read && mover.reads == 0 ? uint64_t{1} << mover.index : 0;
            ++i;
        }
    }
    return work + run_scrub();
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
                    state_.moves_settle = true;
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
                if (!(mover.scrubs ? scrub_window(mover) : scan_window(mover))) {
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
                if (mover.scrubs) {
                    end_of_look(mover);
                } else if (mover.phase == Phase::last_drain || !band.in_force()) {
                    finish(mover);
                } else if (mover.again || state_.p2l) {  // with the P2L in memory, one look is enough
                    mover.phase = Phase::sweep;
                } else {
                    mover.again = true;
                    mover.again_at_ns = state_.now + kMetadataAgainNs;
                    mover.phase = Phase::pause;
                }
                break;
            case Phase::pause:
                if (state_.now < mover.again_at_ns) {
                    return work;
                }
                mover.punit = ~0U;
                mover.phase = Phase::next_zone;
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

uint64_t Movers::deadline_ns() const noexcept {
    uint64_t deadline = state_.moves_rest ? std::min(step_at_ns_, state_.beside_until) : ~uint64_t{0};
    for (const Mover &mover : movers_) {
        if (mover.phase == Phase::pause) {
            deadline = std::min(deadline, mover.again_at_ns);
        } else if (mover.scrubs && mover.phase != Phase::free && scrub_next_ns_ > state_.now) {
            deadline = std::min(deadline, scrub_next_ns_);
        }
    }
    return deadline;
}

// True if the I/O has come back for good. See CoreState::read_came_back().
bool Movers::settled(BaseIo &io, Probe &probe, bool verdict) noexcept {
    if (MUTATED(busy_loses_block)) {
        return state_.came_back(io, 0) == Answer::final;
    }
    return state_.read_came_back(io, probe, patience_, verdict) == Answer::final;
}

void Movers::finish(Mover &mover) noexcept {
    state_.bands.change(mover.band).state = state_.closed_state(mover.band);
    mover.phase = Phase::free;
    --state_.active_moves;
    state_.emit(EventKind::move_done, mover.band, mover.moved, mover.lost);
}

// --- records in force

// Newest first: if two records of this header cover one LBA, the newer one takes its L2P entry.
void Movers::take_records(Mover &mover, const BatchHeader &header, uint64_t address) noexcept {
    if (mover.scrubs) {
        return;  // the scrub only verifies
    }
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
    state_.overtake_trim(lba, block_count);
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
        state_.trims.uncover(state_, meta.lba);
        if (state_.l2p.get(meta.lba) == meta.source) {
            make_fresh(mover, MUTATED(rotten_block_forgotten) ? L2p::kTrimFlag : L2p::kLostFlag, meta.lba, 1);
            ++mover.lost;
            ++state_.stats.lost_blocks;
            state_.emit(EventKind::block_lost, meta.lba, meta.source, meta.status);
        }
        buffer.free.give(slot);
        any = true;
    }
    return any;
}

// Handles L2P entries in this band that no metadata on media explains. Each run of LBAs gets a record; trimmed LBAs
// stay trimmed.
bool Movers::sweep(Mover &mover) noexcept {
    const auto flag_of = [&](uint64_t lba) -> uint64_t {
        state_.trims.uncover(state_, lba);
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
        if (state_.p2l && flag == L2p::kTrimFlag) {
            state_.replace(lba, L2p::kInvalid);
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
