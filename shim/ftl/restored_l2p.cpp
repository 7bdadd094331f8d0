// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/restored_l2p.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/mutation.hpp"

namespace ftl {
namespace {

// Rows whose LBAs are fetched into the cache meanwhile: each is in other memory.
constexpr size_t kAhead = 16;

}  // namespace

RestoredL2p::RestoredL2p(uint64_t block_count, const ZoneAddresses &base, bool with_crcs, bool with_seqs,
                         bool many_seqs, Paging paging)
    : paging_(L2p::paging_for(std::move(paging), block_count, base, with_crcs)),
      l2p_(block_count, base, paging_),
      crcs_(block_count, with_crcs, paging_) {
    if (with_seqs) {
        seqs_ =
            PageMemory::or_bad_alloc(block_count * sizeof(uint64_t), many_seqs ? Pages::sparse_huge : Pages::sparse);
    }
}

RestoredL2p::Added RestoredL2p::add(std::span<const BlockEntry> rows, std::span<const uint64_t> addresses,
                                    bool all_doubtful) {
    Added added;
    ++version_;
    for (size_t i = 0; i < rows.size(); ++i) {
        if (i + kAhead < rows.size()) {
            prefetch(rows[i + kAhead].lba);
        }
        consider(rows[i], static_cast<uint32_t>(i), addresses[i], all_doubtful, added);
    }
    return added;
}

RestoredL2p::Added RestoredL2p::add(const Summary &summary, uint64_t start, bool all_doubtful) {
    Added added;
    ++version_;
    const size_t count = summary.row_count();
    for (size_t i = 0; i < count; ++i) {
        if (i + kAhead < count) {
            prefetch(summary.row(i + kAhead).lba);
        }
        // Whatever LBA the row of a header has, garbage collection would not look for a block there.
        if ((summary.row(i).flags & layout::kHeaderFlag) == 0) {
            consider(summary.row(i), static_cast<uint32_t>(i), start + i, all_doubtful, added);
        }
    }
    return added;
}

void RestoredL2p::consider(const BlockEntry &row, uint32_t number, uint64_t address, bool doubtful, Added &added) {
    if (row.lba >= block_count()) {
        return;
    }
    ++added.blocks;
    added.seq_sum += static_cast<double>(row.seq);
    if (row.seq < known_seq(row.lba) && !MUTATED(older_seq_wins)) {
        return;
    }
    if (doubtful || is_held(row.lba)) {
        added.doubtful.push_back(number);
    } else {
        take(row, address);
    }
}

void RestoredL2p::merge(std::span<const BlockEntry> rows, std::span<const uint64_t> addresses) {
    ++version_;
    for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].lba < block_count()) {
            take(rows[i], addresses[i]);
        }
    }
}

void RestoredL2p::take(const BlockEntry &row, uint64_t address) {
    const uint64_t known = known_seq(row.lba);
    if (MUTATED(older_seq_wins) ? known == 0 || row.seq < known : row.seq > known) {
        seqs()[row.lba] = row.seq;
        l2p_.set(row.lba, address);
        crcs_.set(row.lba, BlockCrcs::cut(row.crc));
    } else if (row.seq == known && known != 0) {
        copies_.push_back({row.lba, row.seq, address, row.crc, 0});
    }
}

void RestoredL2p::prefetch(uint64_t lba) const noexcept {
    if (lba < block_count()) {
        __builtin_prefetch(seqs() + lba, 1);
        l2p_.prefetch(lba);
        crcs_.prefetch(lba);
    }
}

void RestoredL2p::hold(uint64_t lba, uint64_t count) {
    check_seqs(lba, count, "hold");
    if (held_.data() == nullptr) {
        held_ = PageMemory::or_bad_alloc((block_count() / 64 + 1) * sizeof(uint64_t), Pages::sparse);
    }
    for (uint64_t i = lba; i < lba + count;) {
        if (i % 64 == 0 && lba + count - i >= 64) {
            held()[i / 64] = ~uint64_t{0};
            i += 64;
        } else {
            held()[i / 64] |= uint64_t{1} << (i % 64);
            ++i;
        }
    }
}

void RestoredL2p::apply_record(uint64_t lba, uint64_t count, uint64_t seq, uint64_t entry) {
    check_seqs(lba, count, "apply_record");
    ++version_;
    if (!l2p_.holds(entry)) {
        strange_ = true;
        return;
    }
    for (uint64_t i = lba; i < lba + count; ++i) {
        if (known_seq(i) <= seq) {
            seqs()[i] = seq;
            l2p_.set(i, entry);
        }
    }
}

uint64_t RestoredL2p::supersede(uint64_t lba, uint64_t count, uint64_t seq) {
    check_seqs(lba, count, "supersede");
    ++version_;
    uint64_t older = 0;
    for (uint64_t i = lba; i < lba + count; ++i) {
        if (known_seq(i) < seq) {
            ++older;
            // Else it would take memory where nothing was.
            if (l2p_.get(i) != L2p::kInvalid) {
                l2p_.set(i, L2p::kInvalid);
            }
        }
    }
    return older;
}

RestoredL2p::Counts RestoredL2p::count(uint64_t zone_size, uint64_t zone_count, uint32_t chunk_blocks) const {
    Counts counts;
    counts.zone_size = zone_size;
    counts.chunk_blocks = chunk_blocks;
    counts.of_version = version_;
    counts.chunk_content =
        PageMemory::or_bad_alloc((block_count() + chunk_blocks - 1) / chunk_blocks, Pages::sparse_huge);
    std::vector<uint64_t> slots(zone_count), trims(zone_count), losses(zone_count);
    // Two counters for each zone, which take turns: an entry would wait for its neighbour in the same zone.
    std::vector<uint64_t> media(zone_count), media_too(zone_count);
    const std::array counters{media.data(),     slots.data(), trims.data(), losses.data(),
                              media_too.data(), slots.data(), trims.data(), losses.data()};
    if (strange_) {
        throw std::out_of_range("an entry is behind the capacity of a zone, or behind the last zone");
    }
    const int shift = std::has_single_bit(zone_size) ? std::countr_zero(zone_size) : -1;
    for (uint64_t first = 0; first < block_count(); first += chunk_blocks) {
        const uint64_t end = std::min(block_count(), first + chunk_blocks);
        uint64_t known = 0;
        uint64_t trimmed = 0;
        uint64_t wrong = 0;
        size_t turn = 0;
        l2p_.each(first, end, [&](uint64_t entry) {
            const uint64_t address = L2p::payload(entry);
            // A division would take ten times as long.
            const uint64_t zone = shift >= 0 ? address >> shift : address / zone_size;
            if (zone >= zone_count) [[unlikely]] {
                wrong += entry != L2p::kInvalid ? 1 : 0;
                return;
            }
            ++known;
            trimmed += L2p::tag(entry) == L2p::Tag::trim ? 1 : 0;
            ++counters[turn | static_cast<size_t>(L2p::tag(entry))][zone];
            turn ^= 4;
        });
        if (wrong > 0) {
            throw std::out_of_range("an entry of LBAs " + std::to_string(first) + " to " + std::to_string(end - 1) +
                                    " is behind the last zone");
        }
        counts.known += known;
        counts.content += known - trimmed;
        if (known > trimmed) {
            counts.chunk_content.data()[first / chunk_blocks] = static_cast<uint8_t>(known - trimmed);
        }
    }
    if (std::any_of(slots.begin(), slots.end(), [](uint64_t count) { return count > 0; })) {
        throw std::out_of_range("an entry is not an address");
    }
    counts.blocks.resize(zone_count);
    counts.records.resize(zone_count);
    std::transform(media.begin(), media.end(), media_too.begin(), counts.blocks.begin(), std::plus<>());
    std::transform(trims.begin(), trims.end(), losses.begin(), counts.records.begin(), std::plus<>());
    return counts;
}

void RestoredL2p::put_range(uint64_t first, std::span<const uint32_t> narrow) {
    check_range(first, narrow.size(), "put_range");
    ++version_;
    if (l2p_.set_range(first, narrow)) {
        return;
    }
    // The base has grown since, or is almost too large for such entries.
    for (size_t i = 0; i < narrow.size(); ++i) {
        if (const uint64_t entry = L2p::of_narrow(narrow[i]); entry != L2p::kInvalid) {
            put(first + i, entry);
        }
    }
}

void RestoredL2p::put_range(uint64_t first, std::span<const uint64_t> wide) {
    check_range(first, wide.size(), "put_range");
    ++version_;
    if (l2p_.set_range(first, wide)) {
        return;
    }
    for (size_t i = 0; i < wide.size(); ++i) {
        // Else it would take memory where nothing is.
        if (wide[i] != L2p::kInvalid) {
            put(first + i, wide[i]);
        }
    }
}

void RestoredL2p::put_crcs(uint64_t first, std::span<const uint16_t> cut_crcs) {
    check_range(first, cut_crcs.size(), "put_crcs");
    ++version_;
    if (crcs_.kept()) {
        crcs_.set_range(first, cut_crcs);
    }
}

void RestoredL2p::drop_seqs() {
    seqs_ = PageMemory();
    held_ = PageMemory();
    copies_ = {};
}

void RestoredL2p::exchange(L2p &l2p, BlockCrcs *crcs) noexcept {
    ++version_;
    std::swap(l2p_, l2p);
    if (crcs != nullptr) {
        std::swap(crcs_, *crcs);
    }
}

RestoredL2p RestoredL2p::grown(uint64_t block_count, const ZoneAddresses &base) const {
    if (block_count < this->block_count()) {
        throw std::invalid_argument("grown: the device would be smaller");
    }
    RestoredL2p larger(block_count, base, has_crcs(), false, true, paging_);
    larger.strange_ = strange_;
    for (uint64_t lba = 0; lba < this->block_count(); ++lba) {
        const uint64_t known = l2p_.peek(lba);
        if (known != L2p::kInvalid) {
            larger.put(lba, known);
            larger.put_crc(lba, crc(lba));
        }
    }
    return larger;
}

void RestoredL2p::check_pages() const {
    check_pages_of(l2p_.paged(), crcs_.paged(), paging_.folder);
}

void RestoredL2p::check_range(uint64_t lba, uint64_t count, const char *what) const {
    if (lba > block_count() || count > block_count() - lba) {
        throw std::out_of_range(std::string(what) + ": beyond the last LBA");
    }
}

void RestoredL2p::check_seqs(uint64_t lba, uint64_t count, const char *what) const {
    check_range(lba, count, what);
    if (!has_seqs()) {
        throw std::out_of_range(std::string(what) + ": the seqs were dropped");
    }
}

std::vector<RangePart> uncovered_parts(std::span<const uint64_t> firsts, std::span<const uint64_t> counts,
                                       uint64_t end) {
    std::vector<RangePart> parts;
    std::map<uint64_t, uint64_t> covered;  // from first to behind the last; they do not touch
    for (size_t i = 0; i < firsts.size(); ++i) {
        uint64_t first = std::min(firsts[i], end);
        uint64_t last = first + std::min(counts[i], end - first);
        if (first == last) {
            continue;
        }
        auto next = covered.upper_bound(first);
        if (next != covered.begin() && std::prev(next)->second >= first) {
            --next;
        }
        uint64_t at = first;
        while (next != covered.end() && next->first <= last) {
            if (next->first > at) {
                parts.push_back({i, at, next->first - at});
            }
            at = std::max(at, next->second);
            first = std::min(first, next->first);
            next = covered.erase(next);
        }
        if (at < last) {
            parts.push_back({i, at, last - at});
        }
        covered.emplace(first, std::max(at, last));
    }
    return parts;
}

}  // namespace ftl
