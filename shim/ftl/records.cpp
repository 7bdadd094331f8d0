// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/records.hpp"

#include <algorithm>

#include "ftl/core_state.hpp"

namespace ftl {

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

uint32_t Records::copy(uint64_t lba, uint64_t seq, uint32_t block_count, uint32_t flags, uint64_t match,
                       uint16_t mover) noexcept {
    const uint32_t record = free.take();
    PendingRecord &entry = records[record];
    entry.lba = lba;
    entry.seq = seq;
    entry.block_count = block_count;
    entry.flags = flags;
    Meta &record_meta = meta[record];
    record_meta = Meta{};
    record_meta.match = match;
    record_meta.cursor = lba;
    record_meta.mover = mover;
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
    band.references += record_meta.references;
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
    const bool fresh = L2p::is_pending(record_meta.match);
    const uint64_t end = records[record].lba + records[record].block_count;
    const uint64_t stop = std::min(end, record_meta.cursor + budget);
    const uint64_t entry = (record_meta.match & ~L2p::kPayloadMask) | record_meta.header;
    Band &home = state.bands.change(state.band_of(record_meta.header));
    uint64_t lba = record_meta.cursor;
    for (; lba < stop && !(fresh && record_meta.references == 0); ++lba) {
        if (state.l2p.get(lba) != record_meta.match) {
            continue;
        }
        if (fresh) {
            --record_meta.references;
        } else {
            --state.bands.change(state.band_of(L2p::payload(record_meta.match))).references;
            ++home.references;
        }
        state.l2p.set(lba, entry);
    }
    budget -= static_cast<uint32_t>(std::max<uint64_t>(lba - record_meta.cursor, 1));
    record_meta.cursor = lba;
    if (lba < end && !(fresh && record_meta.references == 0)) {
        return false;
    }
    --home.settling;
    return true;
}

}  // namespace ftl
