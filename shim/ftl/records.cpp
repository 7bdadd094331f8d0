// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/records.hpp"

#include <algorithm>
#include <bit>

#include "ftl/core_state.hpp"

namespace ftl {

Records::Records(BufferMapping &mapping, uint64_t block_count, uint32_t chunk_blocks)
    : records(mapping.records()),
      free(kRecordCount),
      next(kRecordCount, kNoSlot),
      meta(kRecordCount),
      shift_(static_cast<unsigned>(std::countr_zero(chunk_blocks))),
      word_shift_(shift_ + 6),
      block_count_(block_count),
      marks_(PageMemory::or_bad_alloc(((block_count >> word_shift_) + 1) * sizeof(uint64_t), Pages::sparse)) {}

uint32_t Records::make(CoreState &state, uint64_t flag, uint64_t lba, uint32_t block_count, uint16_t mover) noexcept {
    return make(state, flag, lba, block_count, mover, state.next_seq++);
}

uint32_t Records::make(CoreState &state, uint64_t flag, uint64_t lba, uint32_t block_count, uint16_t mover,
                       uint64_t seq) noexcept {
    const uint32_t record = free.take();
    PendingRecord &entry = records[record];
    entry.lba = lba;
    entry.seq = seq;
    entry.block_count = block_count;
    entry.flags = flag == L2p::kTrimFlag ? layout::kRecordTrim : layout::kRecordLost;
    Meta &record_meta = meta[record];
    record_meta = Meta{};
    record_meta.match = L2p::pending(flag, record);
    record_meta.epoch = state.epochs.join();
    record_meta.cursor = lba;
    record_meta.mover = mover;
    record_meta.of_user = mover == kNoMover;
    user_count += record_meta.of_user ? 1 : 0;
    return record;
}

uint32_t Records::copy(uint64_t lba, uint64_t seq, uint32_t block_count, uint32_t flags, uint16_t mover,
                       uint32_t number) noexcept {
    const uint32_t record = free.take();
    PendingRecord &entry = records[record];
    entry.lba = lba;
    entry.seq = seq;
    entry.block_count = block_count;
    entry.flags = flags;
    Meta &record_meta = meta[record];
    record_meta = Meta{};
    record_meta.match = kCopied;
    record_meta.mover = mover;
    record_meta.number = number;
    return record;
}

void Records::drop(CoreState &state, uint32_t record) noexcept {
    state.epochs.leave(meta[record].epoch);
    release(record);
}

bool Records::retains(const CoreState &state) noexcept {
    return state.retains();
}

void Records::release(uint32_t record) noexcept {
    retract(records[record].state);
    user_count -= meta[record].of_user ? 1 : 0;
    free.give(record);
}

void Records::landed(CoreState &state, uint32_t record, uint64_t header) noexcept {
    Meta &record_meta = meta[record];
    record_meta.landed = true;
    record_meta.header = header;
    Band &band = state.bands.change(state.band_of(header));
    band.references += record_meta.references - (MUTATED(references_miscounted) && record_meta.references > 1 ? 1 : 0);
    ++band.settling;
    if (!retains(state)) {
        retract(records[record].state);
    }
    if (!record_meta.unapplied) {
        settling.push_back(next.data(), record);
    }
    if (record_meta.epoch != 0) {
        state.epochs.leave(record_meta.epoch);
    }
}

void Records::applied(uint32_t record) noexcept {
    meta[record].unapplied = false;
    if (meta[record].landed) {
        settling.push_back(next.data(), record);
    }
}

bool Records::settle_some(CoreState &state, uint32_t record, uint32_t &budget) noexcept {
    Meta &record_meta = meta[record];
    if (record_meta.match == kCopied) {
        --budget;
        return true;
    }
    const uint64_t end = records[record].lba + records[record].block_count;
    if (!record_meta.searched) {
        settle_marked(state, record_meta, end, budget);
        if (record_meta.references > 0 && record_meta.cursor < end) {
            return false;
        }
        record_meta.searched = true;
        record_meta.cursor = records[record].lba;
    }
    // Nothing is left, unless a mark was missing.
    uint64_t &lba = record_meta.cursor;
    for (; lba < end && record_meta.references > 0 && budget > 0; ++lba, --budget) {
        settle_entry(state, record_meta, lba);
    }
    if (lba < end && record_meta.references > 0) {
        return false;
    }
    budget -= budget > 0 ? 1 : 0;
    --state.bands.change(state.band_of(record_meta.header)).settling;
    return true;
}

void Records::settle_entry(CoreState &state, Meta &record_meta, uint64_t lba) noexcept {
    if (state.l2p.get(lba) == record_meta.match) {
        --record_meta.references;
        state.l2p.set(lba, (record_meta.match & ~L2p::kPayloadMask) | record_meta.header);
    }
}

void Records::settle_marked(CoreState &state, Meta &record_meta, uint64_t end, uint32_t &budget) noexcept {
    const uint32_t chunk_blocks = 1U << shift_;
    uint64_t &lba = record_meta.cursor;
    while (lba < end && record_meta.references > 0 && budget > 0) {
        const uint64_t chunk = lba >> shift_;
        const uint64_t word = marks()[chunk / 64] >> chunk % 64;
        if (word == 0) {
            lba = (chunk / 64 + 1) << word_shift_;
            --budget;
            continue;
        }
        const uint64_t marked = chunk + static_cast<uint64_t>(std::countr_zero(word));
        if (marked << shift_ < end && !settle_chunk(state, record_meta, marked)) {
            marks()[marked / 64] &= ~(uint64_t{1} << marked % 64);
        }
        lba = (marked + 1) << shift_;
        budget -= std::min(budget, chunk_blocks);
    }
}

// Returns whether other records are pending there.
bool Records::settle_chunk(CoreState &state, Meta &record_meta, uint64_t chunk) noexcept {
    bool others = false;
    const uint64_t end = std::min((chunk + 1) << shift_, block_count_);
    for (uint64_t lba = chunk << shift_; lba < end; ++lba) {
        settle_entry(state, record_meta, lba);
        const uint64_t entry = state.l2p.get(lba);
        const L2p::Tag tag = L2p::tag(entry);
        others |= (tag == L2p::Tag::trim || tag == L2p::Tag::lost) && L2p::is_pending(entry);
    }
    return others;
}

}  // namespace ftl
