// SPDX-License-Identifier: BSD-3-Clause
// The CRC that the newest block of each LBA must match when a host reads it: its CRC32C, cut to 16 bits.
//
// By LBA, beside the L2P: a block keeps its CRC when garbage collection moves it. For an LBA without a block (trimmed,
// lost, never written) the value is undefined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

#include "base/page_memory.hpp"
#include "ftl/paged_memory.hpp"

namespace ftl {

class BlockCrcs {
public:
    static constexpr uint64_t kBytes = sizeof(uint16_t);  // of memory for each LBA

    // kept: false saves the memory, and then nothing is verified. Throws std::bad_alloc, PageFileError.
    BlockCrcs(uint64_t block_count, bool kept, const Paging &paging = {}) {
        const uint64_t bytes = block_count * kBytes;
        if (kept && paging.pages()) {
            paged_ = std::make_unique<PagedMemory>(bytes, paging);
        } else if (kept) {
            memory_ = PageMemory::or_bad_alloc(bytes, Pages::sparse_huge);
        }
    }

    // One wrong block in 65,536 matches the 16 bits, but none with an odd number of flipped bits: folding keeps the
    // parity of the CRC32C, whose polynomial has the factor x + 1.
    [[nodiscard]] static constexpr uint16_t cut(uint32_t crc) noexcept {
        return static_cast<uint16_t>(crc ^ crc >> 16);
    }

    [[nodiscard]] bool kept() const noexcept { return memory_.data() != nullptr || paged_; }
    // Null: everything is in memory.
    [[nodiscard]] PagedMemory *paged() const noexcept { return paged_.get(); }
    // As L2p::want().
    [[nodiscard]] bool want(uint64_t lba, uint64_t count, PagedMemory::For whom) const noexcept {
        return !paged_ || paged_->want_range(lba * kBytes, count * kBytes, whom);
    }
    // 0 if none is kept.
    [[nodiscard]] uint16_t get(uint64_t lba) const noexcept {
        if (paged_) [[unlikely]] {
            return *reinterpret_cast<const uint16_t *>(paged_->read(lba * kBytes));
        }
        return kept() ? table()[lba] : uint16_t{0};
    }
    // As L2p::peek().
    [[nodiscard]] uint16_t peek(uint64_t lba) const noexcept {
        return paged_ ? *reinterpret_cast<const uint16_t *>(paged_->peek(lba * kBytes)) : get(lba);
    }
    void prefetch(uint64_t lba) const noexcept {
        if (paged_) [[unlikely]] {
            paged_->want(lba * kBytes, PagedMemory::For::hosts);
        } else if (kept()) {
            __builtin_prefetch(table() + lba, 1);
        }
    }
    void set(uint64_t lba, uint16_t cut_crc) noexcept {
        if (paged_) [[unlikely]] {
            *reinterpret_cast<uint16_t *>(paged_->write(lba * kBytes)) = cut_crc;
        } else if (kept()) {
            table()[lba] = cut_crc;
        }
    }
    // Only if they are kept.
    void set_range(uint64_t first_lba, std::span<const uint16_t> cut_crcs) noexcept {
        if (!paged_) {
            std::copy(cut_crcs.begin(), cut_crcs.end(), table() + first_lba);
            return;
        }
        for (size_t i = 0; i < cut_crcs.size(); ++i) {
            set(first_lba + i, cut_crcs[i]);
        }
    }

private:
    [[nodiscard]] uint16_t *table() const noexcept { return reinterpret_cast<uint16_t *>(memory_.data()); }

    PageMemory memory_;
    std::unique_ptr<PagedMemory> paged_;  // instead of memory_
};

}  // namespace ftl
