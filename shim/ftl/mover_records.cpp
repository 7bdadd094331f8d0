// SPDX-License-Identifier: BSD-3-Clause
// Movers' records: writes those in force again, and makes records of what is lost or not described any more.
#include <algorithm>

#include "base/mutation.hpp"
#include "ftl/mover.hpp"

namespace ftl {

using layout::BatchHeader;
using layout::RecordEntry;

// They wait for the rest of the band, if they are not too many.
void Movers::take_records(Mover &mover, const BatchHeader &header, uint64_t address) noexcept {
    // The scrub only verifies.
    if (mover.scrubs || state_.bands[mover.band].references == 0) {
        return;
    }
    const uint64_t offset = address - state_.zone(mover.band, mover.punit).start;
    mover.group->add(address, mover.punit * state_.config.zone_capacity + offset,
                     std::span<const RecordEntry>(header.records, header.count));
    if (!mover.group->room()) {
        mover.phase = Phase::records;
    }
}

// False: more is to be done, or others have to do something first. In small steps, whatever the records cover.
bool Movers::write_records(Mover &mover) noexcept {
    RecordGroup &group = *mover.group;
    uint32_t budget = kScanStep;
    const auto later = [this](bool done) {
        scanning_ |= !done;
        return !done;
    };
    for (;;) {
        switch (mover.record_step) {
            case RecordStep::find:
                if (state_.bands[mover.band].references > 0 && later(group.find_some(state_, mover.band, budget))) {
                    return false;
                }
                mover.record = 0;
                mover.record_step = RecordStep::copy;
                break;
            case RecordStep::copy:
                for (; mover.record < group.size(); ++mover.record) {
                    RecordGroup::Record &each = group[mover.record];
                    if (!each.in_force()) {
                        continue;
                    }
                    if (!state_.records.room()) {
                        return false;
                    }
                    // The rest of its range has something newer, or what is older there is a trim, too.
                    const uint64_t last = each.last - (MUTATED(record_cut_short) && each.last > each.first ? 1 : 0);
                    state_.records.enqueue(state_.records.copy(each.first, each.seq,
                                                               static_cast<uint32_t>(last - each.first + 1), each.flags,
                                                               mover.index, mover.record));
                    ++mover.records;
                }
                mover.record_step = RecordStep::land;
                break;
            case RecordStep::land:
                if (mover.records > 0) {
                    return false;
                }
                mover.record_step = RecordStep::move;
                break;
            case RecordStep::move:
                if (later(group.move_some(state_, mover.band, budget))) {
                    return false;
                }
                for (uint32_t i = 0; i < group.size(); ++i) {
                    if (group[i].copy != RecordGroup::kNoCopy) {
                        --state_.bands.change(state_.band_of(group[i].copy)).settling;
                    }
                }
                mover.record_step = RecordStep::clear;
                break;
            case RecordStep::clear:
                if (later(group.clear_some(budget))) {
                    return false;
                }
                mover.record_step = RecordStep::find;
                mover.phase = mover.zones_done ? Phase::drain : Phase::window;
                return true;
        }
    }
}

void Movers::record_done(const Records::Meta &record) noexcept {
    Mover &mover = movers_[record.mover];
    --mover.records;
    if (record.match == Records::kCopied) {
        (*mover.group)[record.number].copy = record.header;
    }
}

void Movers::make_fresh(Mover &mover, uint64_t flag, uint64_t lba, uint32_t block_count) noexcept {
    Records &records = state_.records;
    state_.overtake_trim(lba, block_count);
    const uint32_t record = records.make(state_, flag, lba, block_count, mover.index);
    for (uint32_t i = 0; i < block_count; ++i) {
        state_.replace(lba + i, L2p::pending(flag, record));
        records.mark(lba + i);
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
