// SPDX-License-Identifier: BSD-3-Clause
// Trims that are accepted, but not yet applied to every L2P entry that they cover. See docs/ftl.md, "Trims".
//
// The LBAs are divided into chunks, and each chunk has one byte:
//   0 .. kContentMax           the number of its LBAs that hold content (CoreState::holds_content())
//   kContentMax + 1 + number   all of the chunk is trimmed by trim `number`: its L2P entries are older than that trim
// The second kind of chunk is hidden. Whoever looks for content asks hides() before the L2P; whoever gives an LBA new
// content applies the trim to its chunk first. So no entry of a hidden chunk is ever newer than the trim.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "base/page_memory.hpp"

namespace ftl {

class CoreState;

class Trims {
public:
    static constexpr uint32_t kChunkBlocks = 128;               // LBAs of a chunk, unless the config has fewer
    static constexpr uint32_t kMost = 120;                      // trims that are not applied, at once
    static constexpr uint64_t kPartBlocks = uint64_t{1} << 27;  // a larger trim is accepted in several parts
    static constexpr uint64_t kAhead = 64;           // chunks whose entries are read ahead, if they are paged
    static constexpr uint32_t kChunksPerEntry = 64;  // to look at so many chunks costs as much as one entry

    // chunk_blocks: a power of two, at most kChunkBlocks. Throws std::bad_alloc.
    Trims(uint64_t block_count, uint32_t chunk_blocks);

    [[nodiscard]] bool any() const noexcept { return count_ != 0; }
    [[nodiscard]] bool room() const noexcept { return count_ < kMost; }
    // The LBA is trimmed, whatever its L2P entry says.
    [[nodiscard]] bool hides(uint64_t lba) const noexcept { return any() && chunks()[lba >> shift_] > kContentMax; }
    // The number of LBAs from the first on before the next hidden one; at most `most`.
    [[nodiscard]] uint32_t visible(uint64_t first_lba, uint32_t most) const noexcept;
    // The record of the trim that hides the LBA.
    [[nodiscard]] uint32_t record_of(uint64_t lba) const noexcept {
        return trims_[chunks()[lba >> shift_] - kContentMax - 1].record;
    }
    [[nodiscard]] uint32_t chunk_blocks() const noexcept { return 1U << shift_; }
    // All LBAs of the chunk hold content, and it is not hidden.
    [[nodiscard]] bool is_full(uint64_t chunk) const noexcept { return chunks()[chunk] == chunk_blocks(); }
    // A load has counted the content of all chunks.
    void take_counts(PageMemory &chunk_content) noexcept { std::swap(memory_, chunk_content); }
    // An LBA of a chunk that is not hidden has got content, or has lost it.
    void count(uint64_t lba, bool holds_content) noexcept {
        uint8_t &chunk = chunks()[lba >> shift_];
        chunk = static_cast<uint8_t>(holds_content ? chunk + 1 : chunk - 1);
    }

    // What it takes to accept a trim of so many LBAs: as long as to visit this number of entries.
    [[nodiscard]] uint64_t cost(uint64_t block_count) const noexcept {
        return std::min(block_count, uint64_t{2} << shift_) + (block_count >> shift_) / kChunksPerEntry;
    }
    // The end of the next part of a trim.
    [[nodiscard]] uint64_t part_end(uint64_t lba, uint64_t end) const noexcept;
    // The first LBA that holds content and is not hidden, or the first one of its chunk; `end`: there is none.
    [[nodiscard]] uint64_t first_content(const CoreState &state, uint64_t lba, uint64_t end) const noexcept;
    // Trims the LBAs with a record that is not queued yet, and counts its references. Whole chunks are only hidden.
    void trim(CoreState &state, uint32_t record, uint64_t lba, uint64_t end) noexcept;
    // Applies the trim that hides the LBA, if there is one, to its chunk.
    void uncover(CoreState &state, uint64_t lba) noexcept {
        if (hides(lba)) [[unlikely]] {
            apply(state, lba >> shift_);
        }
    }
    // Applies the oldest trims to about as many entries. Returns their number, or more for the chunks passed over.
    uint32_t run(CoreState &state, uint32_t budget) noexcept;

private:
    static constexpr uint8_t kContentMax = kChunkBlocks;
    static_assert(kContentMax + kMost <= 255);

    struct Trim {
        uint32_t record = 0;
        uint64_t next = 0;  // run(): the chunks before this one are done
        uint64_t end = 0;
        uint64_t left = 0;  // hidden chunks
    };
    struct Hidden {
        uint64_t chunks = 0;
        uint64_t content = 0;
    };

    [[nodiscard]] uint8_t *chunks() const noexcept { return memory_.data(); }
    [[nodiscard]] static bool has_content(uint8_t chunk) noexcept {
        return static_cast<uint8_t>(chunk - 1) < kContentMax;
    }
    [[nodiscard]] uint64_t chunk_after(uint64_t lba) const noexcept { return (lba + (1U << shift_) - 1) >> shift_; }
    void trim_singly(CoreState &state, uint32_t record, uint64_t lba, uint64_t end) noexcept;
    [[nodiscard]] Hidden hide(uint64_t chunk, uint64_t end, uint8_t mark) noexcept;
    void apply(CoreState &state, uint64_t chunk) noexcept;
    void finish(CoreState &state, uint8_t number) noexcept;

    unsigned shift_;
    uint32_t count_ = 0;
    std::array<uint8_t, kMost> order_{};  // the numbers in use, the oldest trim first; then those that are free
    std::array<Trim, kMost> trims_{};
    PageMemory memory_;
};

}  // namespace ftl
