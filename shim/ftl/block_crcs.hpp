// SPDX-License-Identifier: BSD-3-Clause
// The CRC that the newest block of each LBA must match when a host reads it: its CRC32C, cut to 16 bits.
//
// By LBA, beside the L2P: a block keeps its CRC when garbage collection moves it. For an LBA without a block (trimmed,
// lost, never written) the value is undefined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "base/page_memory.hpp"

namespace ftl {

class BlockCrcs {
public:
    static constexpr uint64_t kBytes = sizeof(uint16_t);  // of memory for each LBA

    // kept: false saves the memory, and then nothing is verified. Throws std::bad_alloc.
    BlockCrcs(uint64_t block_count, bool kept)
        : memory_(kept ? PageMemory::or_bad_alloc(block_count * kBytes, Pages::sparse_huge) : PageMemory()) {}

    // One wrong block in 65,536 matches the 16 bits, but none with an odd number of flipped bits: folding keeps the
    // parity of the CRC32C, whose polynomial has the factor x + 1.
    [[nodiscard]] static constexpr uint16_t cut(uint32_t crc) noexcept {
        return static_cast<uint16_t>(crc ^ crc >> 16);
    }

    [[nodiscard]] bool kept() const noexcept { return memory_.data() != nullptr; }
    // 0 if none is kept.
    [[nodiscard]] uint16_t get(uint64_t lba) const noexcept { return kept() ? table()[lba] : uint16_t{0}; }
    void prefetch(uint64_t lba) const noexcept {
        if (kept()) {
            __builtin_prefetch(table() + lba, 1);
        }
    }
    void set(uint64_t lba, uint16_t cut_crc) noexcept {
        if (kept()) {
            table()[lba] = cut_crc;
        }
    }
    // Only if they are kept.
    void set_range(uint64_t first_lba, std::span<const uint16_t> cut_crcs) noexcept {
        std::copy(cut_crcs.begin(), cut_crcs.end(), table() + first_lba);
    }

private:
    [[nodiscard]] uint16_t *table() const noexcept { return reinterpret_cast<uint16_t *>(memory_.data()); }

    PageMemory memory_;
};

}  // namespace ftl
