// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/record_group.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/mutation.hpp"
#include "ftl/core_state.hpp"

namespace ftl {
namespace {

constexpr uint64_t kWordChunks = 64;

}  // namespace

RecordGroup::RecordGroup(uint64_t block_count, uint32_t chunk_blocks, uint64_t band_blocks)
    : block_count_(block_count),
      shift_(static_cast<unsigned>(std::countr_zero(chunk_blocks))),
      records_(PageMemory::or_bad_alloc(kRecordsMax * sizeof(Record), Pages::sparse)),
      headers_(PageMemory::or_bad_alloc(kRecordsMax * sizeof(Header), Pages::sparse)),
      by_place_(PageMemory::or_bad_alloc(band_blocks * sizeof(uint32_t), Pages::sparse)),
      marks_(PageMemory::or_bad_alloc(((block_count >> shift_) / kWordChunks + 1) * sizeof(uint64_t), Pages::sparse)) {}

// Newest first: of two records of a header that cover one LBA, the newer one has it.
void RecordGroup::add(uint64_t address, uint64_t place, std::span<const layout::RecordEntry> entries) noexcept {
    Header &header = headers()[header_count_];
    header = Header{address, place, record_count_, 0};
    for (const layout::RecordEntry &entry : entries) {
        if (entry.lba < block_count_ && entry.block_count > 0 && entry.block_count <= block_count_ - entry.lba &&
            (entry.flags == layout::kRecordTrim || entry.flags == layout::kRecordLost)) {
            records()[record_count_++] = Record{entry.lba,   entry.seq,     std::numeric_limits<uint64_t>::max(),
                                                0,           kNoCopy,       entry.block_count,
                                                entry.flags, header_count_, 0};
            ++header.record_count;
            has_lost_ |= entry.flags == layout::kRecordLost;
        }
    }
    std::sort(records() + header.first_record, records() + record_count_,
              [](const Record &a, const Record &b) { return a.seq > b.seq; });
    by_place()[place] = ++header_count_;
}

// Marks the chunks that the records cover. Chunks in the widest range so far are marked already.
bool RecordGroup::mark_some(uint32_t &budget) noexcept {
    for (; marked_ < record_count_; ++marked_) {
        const Record &record = records()[marked_];
        const uint64_t from = record.lba >> shift_;
        const uint64_t end = ((record.lba + record.block_count - 1) >> shift_) + 1;
        for (uint64_t chunk = std::max(from, mark_at_); chunk < end;) {
            if (budget == 0) {
                mark_at_ = chunk;
                return false;
            }
            --budget;
            if (chunk >= wide_from_ && chunk < wide_end_) {
                chunk = wide_end_;
                continue;
            }
            const uint64_t bit = chunk % kWordChunks;
            const uint64_t stop = chunk < wide_from_ ? std::min(end, wide_from_) : end;
            const uint64_t count = std::min(stop - chunk, kWordChunks - bit);
            marks()[chunk / kWordChunks] |= (~uint64_t{0} >> (kWordChunks - count)) << bit;
            chunk += count;
        }
        mark_at_ = 0;
        word_from_ = std::min(word_from_, from / kWordChunks);
        word_end_ = std::max(word_end_, (end - 1) / kWordChunks + 1);
        if (from <= wide_end_ && end >= wide_from_ && wide_from_ < wide_end_) {
            wide_from_ = std::min(wide_from_, from);
            wide_end_ = std::max(wide_end_, end);
        } else if (end - from > wide_end_ - wide_from_) {
            wide_from_ = from;
            wide_end_ = end;
        }
    }
    return true;
}

// visit(lba, entry, record) for each entry of the band; kNone: its record is not in the group.
template <typename Visit>
void RecordGroup::visit_chunk(const CoreState &state, uint32_t band, uint64_t chunk, Visit &&visit) noexcept {
    const uint64_t end = std::min((chunk + 1) << shift_, block_count_);
    for (uint64_t lba = chunk << shift_; lba < end; ++lba) {
        const uint64_t entry = state.l2p.get(lba);
        const L2p::Tag tag = L2p::tag(entry);
        if ((tag == L2p::Tag::trim || tag == L2p::Tag::lost) && entry != L2p::kInvalid && !L2p::is_pending(entry) &&
            state.band_of(L2p::payload(entry)) == band) {
            visit(lba, entry, record_of(state, band, lba, entry));
        }
    }
}

// The chunks that are marked, one after the other, until enough() is true. True: the pass is over.
template <typename Visit, typename Enough>
bool RecordGroup::visit_some(const CoreState &state, uint32_t band, uint32_t &budget, Visit &&visit,
                             Enough &&enough) noexcept {
    for (word_ = std::max(word_, word_from_); word_ < word_end_ && !enough(); ++word_, done_ = 0) {
        for (uint64_t left = marks()[word_] & ~done_; left != 0 && !enough(); left &= left - 1) {
            const uint64_t bit = left & (~left + 1);
            const uint64_t chunk = word_ * kWordChunks + static_cast<uint64_t>(std::countr_zero(left));
            // Where all LBAs hold content, no trim is in force.
            const bool full = !has_lost_ && state.trims.is_full(chunk);
            const uint32_t cost = full ? 1 : 1U << shift_;
            if (budget < cost) {
                budget = 0;
                return false;
            }
            budget -= cost;
            done_ |= bit;
            bool any = false;
            if (!full) {
                visit_chunk(state, band, chunk,
                            [&](uint64_t lba, uint64_t entry, uint32_t record) { any |= visit(lba, entry, record); });
            }
            marks()[word_] &= any ? ~uint64_t{0} : ~bit;
        }
        if (budget == 0) {
            return false;
        }
        --budget;
    }
    word_ = 0;
    done_ = 0;
    return true;
}

// Entries of the band become fewer meanwhile, never more: nothing is written to a band that is moved, and no record
// settles there. So if as many were found as there were, all of them were.
bool RecordGroup::find_some(const CoreState &state, uint32_t band, uint32_t &budget) noexcept {
    if (!begun_) {
        if (!mark_some(budget)) {
            return false;
        }
        begun_ = true;
        to_find_ = state.bands[band].references;
    }
    const auto found = [&](uint64_t lba, uint64_t, uint32_t number) {
        to_find_ -= to_find_ > 0 ? 1 : 0;
        if (number == kNone) {
            return false;
        }
        Record &record = records()[number];
        record.first = std::min(record.first, lba);
        record.last = std::max(record.last, lba);
        ++to_move_;
        return true;
    };
    return visit_some(state, band, budget, found, [this] { return to_find_ == 0; });
}

bool RecordGroup::move_some(CoreState &state, uint32_t band, uint32_t &budget) noexcept {
    const auto move = [&](uint64_t lba, uint64_t entry, uint32_t number) {
        if (number != kNone && records()[number].copy != kNoCopy) {
            const uint64_t copy = records()[number].copy;
            state.l2p.set(lba, (entry & ~L2p::kPayloadMask) | copy);
            --state.bands.change(band).references;
            ++state.bands.change(state.band_of(copy)).references;
            --to_move_;
        }
        return false;
    };
    return visit_some(state, band, budget, move, [this] { return to_move_ == 0; });
}

uint32_t RecordGroup::record_of(const CoreState &state, uint32_t band, uint64_t lba, uint64_t entry) noexcept {
    const uint64_t address = L2p::payload(entry);
    const uint32_t flags = L2p::tag(entry) == L2p::Tag::trim ? layout::kRecordTrim : layout::kRecordLost;
    if (known_.address != address || known_.flags != flags || lba < known_.from || lba >= known_.until) {
        look_up(state, band, lba, address, flags);
    }
    return known_.record;
}

void RecordGroup::look_up(const CoreState &state, uint32_t band, uint64_t lba, uint64_t address,
                          uint32_t flags) noexcept {
    known_ = Known{address, flags, kNone, lba, lba + 1};
    uint32_t number = 0;
    for (uint32_t punit = 0; punit < state.punits; ++punit) {
        const uint64_t start = state.zone(band, punit).start;
        if (start != kNoZone && address >= start && address - start < state.config.zone_capacity) {
            number = by_place()[punit * state.config.zone_capacity + (address - start)];
        }
    }
    if (number == 0) {
        return;
    }
    const Header &header = headers()[number - 1];
    uint64_t until = block_count_;
    for (uint32_t i = header.first_record; i < header.first_record + header.record_count; ++i) {
        const Record &record = records()[i];
        if (record.flags != flags) {
            continue;
        }
        if (lba >= record.lba && lba - record.lba < record.block_count) {
            known_ = Known{address, flags, i, lba, std::min(until, record.lba + record.block_count)};
            return;
        }
        if (record.lba > lba) {
            until = std::min(until, record.lba);
        }
    }
}

bool RecordGroup::clear_some(uint32_t &budget) noexcept {
    for (; word_from_ < word_end_; ++word_from_, --budget) {
        if (budget == 0) {
            return false;
        }
        if (marks()[word_from_] != 0) {
            marks()[word_from_] = 0;
        }
    }
    for (; header_count_ > 0; --header_count_, --budget) {
        if (budget == 0) {
            return false;
        }
        by_place()[headers()[header_count_ - 1].place] = 0;
    }
    record_count_ = marked_ = 0;
    has_lost_ = begun_ = false;
    wide_from_ = wide_end_ = 0;
    word_from_ = kNoCopy;
    word_end_ = 0;
    to_move_ = 0;
    known_ = Known{};
    return true;
}

}  // namespace ftl
