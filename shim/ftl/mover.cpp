// SPDX-License-Identifier: BSD-3-Clause
// Moves of bands from start to end. mover_metadata.cpp reads a band's metadata, mover_read.cpp its blocks;
// mover_records.cpp writes its records again; the scrub is in scrub.cpp.
#include "ftl/mover.hpp"

#include <algorithm>

#include "base/mutation.hpp"

namespace ftl {

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
        mover.io.op = Op::read;
        mover.io.iov = &mover.iov;
        mover.io.iov_count = 1;
        mover.io.owner = &mover;
        mover.io.complete = on_metadata;
    }
    movers_.back().scrubs = true;
    for (size_t i = 0; i + 1 < movers_.size(); ++i) {
        movers_[i].group.emplace(state_.config.block_count, state_.config.trim_chunk,
                                 state_.config.zone_capacity * state_.punits);
    }
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
    state_.moves_page = false;
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
                if (!write_records(mover)) {
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

}  // namespace ftl
