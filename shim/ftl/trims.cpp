// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/trims.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "ftl/core_state.hpp"

namespace ftl {
namespace {

constexpr uint64_t kStride = 64;                 // chunks that are looked at together
constexpr uint64_t kSearch = uint64_t{1} << 16;  // chunks that are passed over at once

}  // namespace

Trims::Trims(uint64_t block_count, uint32_t chunk_blocks)
    : shift_(static_cast<unsigned>(std::countr_zero(chunk_blocks))),
      memory_(PageMemory::or_bad_alloc(chunk_after(block_count), Pages::sparse_huge)) {
    std::iota(order_.begin(), order_.end(), uint8_t{0});
}

uint32_t Trims::visible(uint64_t first_lba, uint32_t most) const noexcept {
    const uint64_t end = first_lba + most;
    for (uint64_t lba = first_lba; lba < end; lba = ((lba >> shift_) + 1) << shift_) {
        if (hides(lba)) {
            return static_cast<uint32_t>(lba - first_lba);
        }
    }
    return most;
}

uint64_t Trims::part_end(uint64_t lba, uint64_t end) const noexcept {
    return end - lba <= kPartBlocks ? end : ((lba + kPartBlocks) >> shift_) << shift_;
}

uint64_t Trims::first_content(const CoreState &state, uint64_t lba, uint64_t end) const noexcept {
    const uint64_t last = end >> shift_;
    const auto singly = [&](uint64_t from, uint64_t to) {
        while (from < to && (hides(from) || !CoreState::holds_content(state.l2p.get(from)))) {
            ++from;
        }
        return from;
    };
    uint64_t chunk = chunk_after(lba);
    if (chunk >= last) {
        return singly(lba, end);
    }
    if (const uint64_t found = singly(lba, chunk << shift_); found < chunk << shift_) {
        return found;
    }
    const uint8_t *const all = chunks();
    for (bool found = false; chunk + kStride <= last; chunk += kStride) {
        for (uint64_t i = 0; i < kStride; ++i) {
            found |= has_content(all[chunk + i]);
        }
        if (found) {
            break;
        }
    }
    while (chunk < last && !has_content(all[chunk])) {
        ++chunk;
    }
    return chunk < last ? chunk << shift_ : singly(last << shift_, end);
}

void Trims::trim(CoreState &state, uint32_t record, uint64_t lba, uint64_t end) noexcept {
    const uint64_t first = chunk_after(lba);
    const uint64_t last = end >> shift_;
    if (first >= last) {
        trim_singly(state, record, lba, end);
        return;
    }
    trim_singly(state, record, lba, first << shift_);
    const uint8_t number = order_[count_];
    const Hidden hidden = hide(first, last, static_cast<uint8_t>(kContentMax + 1 + number));
    if (hidden.chunks > 0) {
        ++count_;
        trims_[number] = Trim{record, first, last, hidden.chunks};
        state.records.meta[record].unapplied = true;
        state.mapped -= hidden.content;
        for (Watch &each : state.watches) {
            each.changed |= each.lba >= lba && each.lba < end;
        }
    }
    trim_singly(state, record, last << shift_, end);
}

// The end of the range may be in the middle of a chunk, and so may the device's.
void Trims::trim_singly(CoreState &state, uint32_t record, uint64_t lba, uint64_t end) noexcept {
    for (; lba < end; ++lba) {
        if (!hides(lba) && CoreState::holds_content(state.l2p.get(lba))) {
            state.replace(lba, L2p::pending(L2p::kTrimFlag, record));
            state.records.mark(lba);
            ++state.records.meta[record].references;
        }
    }
}

// Chunks without content are left as they are: never written, or trimmed before.
Trims::Hidden Trims::hide(uint64_t chunk, uint64_t end, uint8_t mark) noexcept {
    Hidden hidden;
    uint8_t *const all = chunks();
    for (; chunk < end; chunk += kStride) {
        uint8_t *const some = all + chunk;
        uint32_t found = 0;
        uint32_t content = 0;
        const uint64_t count = std::min(kStride, end - chunk);
        for (uint64_t i = 0; i < count; ++i) {
            const uint8_t each = some[i];
            const bool has = has_content(each);
            found += has ? 1 : 0;
            content += has ? each : 0;
            some[i] = has ? mark : each;
        }
        hidden.chunks += found;
        hidden.content += content;
    }
    return hidden;
}

// If the record is on media, the entries refer to its header at once. The band of the header can't be moved or reset
// before all of the trim is applied: Band::settling.
void Trims::apply(CoreState &state, uint64_t chunk) noexcept {
    const auto number = static_cast<uint8_t>(chunks()[chunk] - kContentMax - 1);
    Trim &trim = trims_[number];
    Records::Meta &meta = state.records.meta[trim.record];
    const uint64_t entry = meta.landed ? L2p::kTrimFlag | meta.header : L2p::pending(L2p::kTrimFlag, trim.record);
    uint64_t references = 0;
    const uint64_t end = (chunk + 1) << shift_;
    for (uint64_t lba = chunk << shift_; lba < end; ++lba) {
        const uint64_t before = state.l2p.get(lba);
        if (CoreState::holds_content(before)) {
            state.forget(before);
            state.l2p.set(lba, entry);
            ++references;
        }
    }
    if (meta.landed) {
        state.bands.change(state.band_of(meta.header)).references += references;
    } else {
        meta.references += references;
        state.records.mark(chunk << shift_);
    }
    chunks()[chunk] = 0;
    if (--trim.left == 0) {
        finish(state, number);
    }
}

void Trims::finish(CoreState &state, uint8_t number) noexcept {
    const auto used = order_.begin() + count_;
    std::rotate(std::find(order_.begin(), used, number), std::find(order_.begin(), used, number) + 1, used);
    --count_;
    state.records.applied(trims_[number].record);
}

uint32_t Trims::run(CoreState &state, uint32_t budget) noexcept {
    uint32_t spent = 0;
    while (count_ > 0 && spent < budget) {
        const uint8_t number = order_[0];
        Trim &trim = trims_[number];
        const uint64_t span = std::min(trim.end - trim.next, kSearch);
        const uint8_t *const from = chunks() + trim.next;
        const void *const found = std::memchr(from, kContentMax + 1 + number, span);
        const uint64_t passed =
            found == nullptr ? span : static_cast<uint64_t>(static_cast<const uint8_t *>(found) - from);
        trim.next += passed;
        spent += static_cast<uint32_t>(passed / kChunksPerEntry) + 1;
        if (found != nullptr) {
            if (!state.l2p.want(trim.next << shift_, uint64_t{1} << shift_, PagedMemory::For::core)) {
                static_cast<void>(state.l2p.want(trim.next << shift_, std::min(trim.end - trim.next, kAhead) << shift_,
                                                 PagedMemory::For::core));
                break;
            }
            apply(state, trim.next++);
            spent += 1U << shift_;
        }
    }
    return spent;
}

}  // namespace ftl
