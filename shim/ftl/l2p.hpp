// SPDX-License-Identifier: BSD-3-Clause
// Logical-to-physical table: one entry of 4 or 8 bytes per LBA, with two tag bits at the top.
//
// Outside this class an entry is a uint64_t, whatever its width in memory. The tag bits say what the payload is:
//   00 address on media                        01 slot of the write buffer
//   10 trimmed: header block of the record     11 lost: header block of the record
// Records that are not on media yet use the top of the payload range (pending()). An entry of all ones: never written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/page_memory.hpp"

namespace ftl {

class L2p {
public:
    static constexpr unsigned kTagShift = 62;
    static constexpr uint64_t kPayloadMask = (uint64_t{1} << kTagShift) - 1;
    static constexpr uint64_t kInvalid = ~uint64_t{0};
    static constexpr uint64_t kSlotFlag = uint64_t{1} << kTagShift;
    static constexpr uint64_t kTrimFlag = uint64_t{2} << kTagShift;
    static constexpr uint64_t kLostFlag = uint64_t{3} << kTagShift;
    static constexpr uint32_t kPendingMax = 8190;  // records not on media; the top 8192 payloads are theirs
    static constexpr uint64_t kNarrowBlocksMax = (uint64_t{1} << 30) - 8192;

    enum class Tag : uint8_t { media = 0, slot = 1, trim = 2, lost = 3 };

    static constexpr Tag tag(uint64_t entry) { return static_cast<Tag>(entry >> kTagShift); }
    static constexpr uint64_t payload(uint64_t entry) { return entry & kPayloadMask; }
    static constexpr uint64_t slot(uint32_t index) { return kSlotFlag | index; }
    // The entry of an LBA whose newest record (flag: kTrimFlag or kLostFlag) has not reached media.
    static constexpr uint64_t pending(uint64_t flag, uint32_t record) { return flag | (kPayloadMask - 1 - record); }
    static constexpr bool is_pending(uint64_t entry) {
        return payload(entry) > kPayloadMask - 8192 && payload(entry) != kPayloadMask;
    }
    static constexpr uint32_t pending_record(uint64_t entry) {
        return static_cast<uint32_t>(kPayloadMask - 1 - payload(entry));
    }

    // base_block_count determines the width: 4 bytes if every address, and the pending payloads above them, fit into 30
    // bits.
    L2p(uint64_t block_count, uint64_t base_block_count)
        : block_count_(block_count),
          wide_(base_block_count > kNarrowBlocksMax),
          memory_(PageMemory::or_bad_alloc(block_count * (wide_ ? sizeof(uint64_t) : sizeof(uint32_t)),
                                           Pages::sparse_huge)) {}

    // Entries are stored inverted, so that untouched (zero) pages mean "never written" and cost no memory.
    [[nodiscard]] uint64_t get(uint64_t lba) const noexcept {
        if (wide_) {
            return ~wide()[lba];
        }
        return widened(~narrow()[lba]);
    }
    void set(uint64_t lba, uint64_t entry) noexcept {
        if (wide_) {
            wide()[lba] = ~entry;
        } else {
            // Pending payloads keep their distance from the top when cut to 30 bits.
            narrow()[lba] = ~(static_cast<uint32_t>(entry >> kTagShift) << kNarrowShift |
                              static_cast<uint32_t>(entry & kNarrowMask));
        }
    }
    void prefetch(uint64_t lba) const noexcept {
        __builtin_prefetch(memory_.data() + lba * (wide_ ? sizeof(uint64_t) : sizeof(uint32_t)), 1);
    }
    // The entry of a checkpoint with 4 bytes. It has no pending payloads: these are addresses there.
    [[nodiscard]] static constexpr uint64_t of_narrow(uint32_t entry) noexcept {
        return entry == ~uint32_t{0} ? kInvalid
                                     : (uint64_t{entry >> kNarrowShift} << kTagShift) | (entry & kNarrowMask);
    }
    // Entries as a checkpoint has them: as wide as here, not inverted.
    void set_range(uint64_t first, std::span<const uint32_t> entries) noexcept { invert(entries, narrow() + first); }
    void set_range(uint64_t first, std::span<const uint64_t> entries) noexcept { invert(entries, wide() + first); }
    // The entries of these LBAs in the order of the LBAs, as visit(entry).
    template <typename Visit>
    void each(uint64_t first, uint64_t end, Visit &&visit) const noexcept {
        if (wide_) {
            for (uint64_t lba = first; lba < end; ++lba) {
                visit(~wide()[lba]);
            }
        } else {
            for (uint64_t lba = first; lba < end; ++lba) {
                visit(widened(~narrow()[lba]));
            }
        }
    }
    [[nodiscard]] uint64_t block_count() const noexcept { return block_count_; }
    [[nodiscard]] bool is_wide() const noexcept { return wide_; }

private:
    static constexpr unsigned kNarrowShift = 30;
    static constexpr uint64_t kNarrowMask = (uint64_t{1} << kNarrowShift) - 1;

    // Pending payloads are at the top, whatever the width.
    [[nodiscard]] static constexpr uint64_t widened(uint32_t entry) noexcept {
        const uint64_t low = entry & kNarrowMask;
        return (uint64_t{entry >> kNarrowShift} << kTagShift) |
               (low >= kNarrowBlocksMax ? low + (kPayloadMask - kNarrowMask) : low);
    }
    template <typename Entry>
    static void invert(std::span<const Entry> from, Entry *to) noexcept {
        for (size_t i = 0; i < from.size(); ++i) {
            to[i] = ~from[i];
        }
    }
    [[nodiscard]] uint64_t *wide() const noexcept { return reinterpret_cast<uint64_t *>(memory_.data()); }
    [[nodiscard]] uint32_t *narrow() const noexcept { return reinterpret_cast<uint32_t *>(memory_.data()); }

    uint64_t block_count_;
    bool wide_;
    PageMemory memory_;
};

}  // namespace ftl
