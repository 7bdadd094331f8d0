// SPDX-License-Identifier: BSD-3-Clause
// Logical-to-physical table: one entry per LBA. Outside this class an entry is a uint64_t with two tag bits at the top,
// whatever its form in memory. The tag bits say what the payload is:
//   00 address on media                        01 slot of the write buffer
//   10 trimmed: header block of the record     11 lost: header block of the record
// Records that are not on media yet use the top of the payload range (pending()). An entry of all ones: never written.
//
// Forms in memory, by what the base can hold:
//   narrow   4 bytes: the tag and 30 bits. Where only the blocks in zones fit, not all addresses, the blocks are
//            numbered without the holes between zones (ZoneAddresses).
//   compact  4 bytes, a code: numbers of blocks, then slots, then pending trims and pending losses. Entries of records
//            on media are numbers, too; two bits for each LBA beside the codes tell them apart, in pages that take no
//            memory where no LBA has such an entry.
//   wide     8 bytes, as outside.
//
// A table that is larger than the memory it may take is paged (ftl/paged_memory.hpp).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "base/mutation.hpp"
#include "base/page_memory.hpp"
#include "ftl/paged_memory.hpp"
#include "ftl/zone_addresses.hpp"

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
    static constexpr uint32_t kSlotsMax = uint32_t{1} << 24;
    static constexpr uint64_t kNarrowBlocksMax = (uint64_t{1} << 30) - 8192;
    static constexpr uint64_t kCompactBlocksMax = (uint64_t{1} << 32) - kSlotsMax - 2 * 8192;

    enum class Tag : uint8_t { media = 0, slot = 1, trim = 2, lost = 3 };
    enum class Form : uint8_t { narrow, compact, wide };

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
    // For tests, which have the other forms on small devices then. Of tables that are made from now on.
    static void limit_narrow(uint64_t blocks) noexcept { narrow_limit_ = std::min(blocks, kNarrowBlocksMax); }
    static Form form_for(const ZoneAddresses &base) noexcept {
        const uint64_t blocks = base.usable();
        if (blocks <= narrow_limit_) {
            return Form::narrow;
        }
        return blocks <= kCompactBlocksMax && base.zone_capacity() <= kCompactBlocksMax ? Form::compact : Form::wide;
    }
    // With what the tables of such a device have together.
    static Paging paging_for(Paging paging, uint64_t block_count, const ZoneAddresses &base, bool with_crcs) {
        paging.of_bytes = block_count * (entry_bytes(form_for(base)) + (with_crcs ? sizeof(uint16_t) : 0));
        return paging;
    }
    static uint32_t entry_bytes(Form form) noexcept { return form == Form::wide ? sizeof(uint64_t) : sizeof(uint32_t); }

    // base: where addresses can be; determines the form. Throws std::bad_alloc, PageFileError.
    L2p(uint64_t block_count, const ZoneAddresses &base, const Paging &paging = {})
        : block_count_(block_count),
          form_(form_for(base)),
          numbered_(form_ != Form::wide && base.block_count() > narrow_limit_ && base.has_holes()),
          base_(base) {
        const uint64_t bytes = block_count * entry_bytes(form_);
        if (paging.pages()) {
            paged_ = std::make_unique<PagedMemory>(bytes, paging);
        } else {
            memory_ = PageMemory::or_bad_alloc(bytes, Pages::sparse_huge);
        }
        if (form_ == Form::compact) {
            tags_ = PageMemory::or_bad_alloc(block_count / kTagsInByte + 1, Pages::sparse);
        }
    }

    // Entries are stored inverted, so that untouched (zero) pages mean "never written" and cost no memory.
    [[nodiscard]] uint64_t get(uint64_t lba) const noexcept {
        switch (form_) {
            case Form::narrow:
                return widened(~*at<uint32_t>(lba));
            case Form::compact:
                return decoded(lba, ~*at<uint32_t>(lba));
            case Form::wide:
                break;
        }
        return ~*at<uint64_t>(lba);
    }
    // The same, for who looks at all LBAs in their order.
    [[nodiscard]] uint64_t peek(uint64_t lba) const noexcept {
        if (!paged_) {
            return get(lba);
        }
        const uint8_t *memory = paged_->peek(lba * entry_bytes(form_));
        return form_ == Form::narrow    ? widened(~one<uint32_t>(memory))
               : form_ == Form::compact ? decoded(lba, ~one<uint32_t>(memory))
                                        : ~one<uint64_t>(memory);
    }
    // Its address, if it has one, must be in a zone.
    void set(uint64_t lba, uint64_t entry) noexcept {
        switch (form_) {
            case Form::narrow: {
                // Pending payloads keep their distance from the top when cut to 30 bits.
                const uint64_t low = is_numbered(entry) ? base_.number(payload(entry)) : entry;
                *to<uint32_t>(lba) = ~(static_cast<uint32_t>(entry >> kTagShift) << kNarrowShift |
                                       static_cast<uint32_t>(low & kNarrowMask));
                return;
            }
            case Form::compact:
                set_compact(lba, entry);
                return;
            case Form::wide:
                *to<uint64_t>(lba) = ~entry;
        }
    }
    void prefetch(uint64_t lba) const noexcept {
        if (paged_) {
            paged_->want(lba * entry_bytes(form_), PagedMemory::For::hosts);
            return;
        }
        __builtin_prefetch(memory_.data() + lba * entry_bytes(form_), 1);
        if (tagged_ != 0) {
            __builtin_prefetch(tags_.data() + lba / kTagsInByte, 1);
        }
    }
    // The entry of a checkpoint with 4 bytes. It has no pending payloads: these are addresses there.
    [[nodiscard]] static constexpr uint64_t of_narrow(uint32_t entry) noexcept {
        return entry == ~uint32_t{0} ? kInvalid
                                     : (uint64_t{entry >> kNarrowShift} << kTagShift) | (entry & kNarrowMask);
    }
    // Entries as a checkpoint has them, if they are the same here but for the inversion; else false.
    [[nodiscard]] bool set_range(uint64_t first, std::span<const uint32_t> entries) noexcept {
        if (form_ != Form::narrow || numbered_) {
            return false;
        }
        invert(first, entries);
        return true;
    }
    [[nodiscard]] bool set_range(uint64_t first, std::span<const uint64_t> entries) noexcept {
        if (form_ != Form::wide) {
            return false;
        }
        invert(first, entries);
        return true;
    }
    // The entries of these LBAs in the order of the LBAs, as visit(entry).
    template <typename Visit>
    void each(uint64_t first, uint64_t end, Visit &&visit) const noexcept {
        if (paged_) {
            for (uint64_t lba = first; lba < end; ++lba) {
                visit(peek(lba));
            }
            return;
        }
        switch (form_) {
            case Form::narrow:
                for (uint64_t lba = first; lba < end; ++lba) {
                    visit(widened(~narrow()[lba]));
                }
                return;
            case Form::compact:
                for (uint64_t lba = first; lba < end; ++lba) {
                    visit(decoded(lba, ~narrow()[lba]));
                }
                return;
            case Form::wide:
                for (uint64_t lba = first; lba < end; ++lba) {
                    visit(~wide()[lba]);
                }
        }
    }
    // Whether set() and get() can have it. An entry from elsewhere may not be one.
    [[nodiscard]] bool holds(uint64_t entry) const noexcept {
        if (entry == kInvalid || form_ == Form::wide) {
            return true;
        }
        if (tag(entry) == Tag::slot) {
            return payload(entry) < kSlotsMax;
        }
        if (tag(entry) != Tag::media && is_pending(entry)) {
            return pending_record(entry) < kPendingMax;
        }
        return numbered_ || form_ == Form::compact ? base_.has(payload(entry)) : payload(entry) < base_.block_count();
    }
    [[nodiscard]] uint64_t block_count() const noexcept { return block_count_; }
    // Null: everything is in memory.
    [[nodiscard]] PagedMemory *paged() const noexcept { return paged_.get(); }
    // Whether get() and set() of these LBAs need not wait for pages; those that are missing are on their way then.
    [[nodiscard]] bool want(uint64_t lba, uint64_t count, PagedMemory::For whom) const noexcept {
        return !paged_ || paged_->want_range(lba * entry_bytes(form_), count * entry_bytes(form_), whom);
    }
    [[nodiscard]] Form form() const noexcept { return form_; }
    // Whether the memory of one has the same meaning in the other.
    [[nodiscard]] bool is_like(const L2p &other) const noexcept {
        return block_count_ == other.block_count_ && form_ == other.form_ &&
               (form_ == Form::wide || (numbered_ == other.numbered_ && (!numbered_ || base_ == other.base_)));
    }

private:
    static constexpr unsigned kNarrowShift = 30;
    static constexpr uint64_t kNarrowMask = (uint64_t{1} << kNarrowShift) - 1;
    // Codes of the compact form, above the numbers of blocks. The last one is an LBA that was never written.
    static constexpr uint32_t kFirstSlot = static_cast<uint32_t>(kCompactBlocksMax);
    static constexpr uint32_t kFirstTrim = kFirstSlot + kSlotsMax;
    static constexpr uint32_t kFirstLoss = kFirstTrim + 8192;
    static constexpr uint32_t kNeverWritten = ~uint32_t{0};
    static_assert(kFirstLoss + kPendingMax < kNeverWritten);
    static constexpr uint64_t kTagsInByte = 4;

    // Pending payloads are at the top, whatever the width.
    [[nodiscard]] uint64_t widened(uint32_t entry) const noexcept {
        const uint64_t low = entry & kNarrowMask;
        const uint64_t flag = uint64_t{entry >> kNarrowShift} << kTagShift;
        if (low >= kNarrowBlocksMax) {
            return flag | (low + (kPayloadMask - kNarrowMask));
        }
        return flag | (numbered_ && flag != kSlotFlag ? base_.address(low) : low);
    }
    [[nodiscard]] bool is_numbered(uint64_t entry) const noexcept {
        return numbered_ && tag(entry) != Tag::slot && payload(entry) <= kPayloadMask - 8192;
    }
    [[nodiscard]] uint64_t decoded(uint64_t lba, uint32_t code) const noexcept {
        if (code < kFirstSlot) {
            const uint64_t address = numbered_ ? base_.address(code) : code;
            return tagged_ == 0 ? address : address | uint64_t{tag_bits(lba)} << kTagShift;
        }
        if (code < kFirstTrim) {
            return slot(code - kFirstSlot);
        }
        if (code == kNeverWritten) {
            return kInvalid;
        }
        return code < kFirstLoss ? pending(kTrimFlag, code - kFirstTrim) : pending(kLostFlag, code - kFirstLoss);
    }
    void set_compact(uint64_t lba, uint64_t entry) noexcept {
        uint32_t code = kNeverWritten;
        unsigned bits = 0;
        if (tag(entry) == Tag::slot) {
            code = kFirstSlot + static_cast<uint32_t>(payload(entry));
        } else if (entry != kInvalid && tag(entry) != Tag::media && is_pending(entry)) {
            code = (tag(entry) == Tag::trim ? kFirstTrim : kFirstLoss) + pending_record(entry);
        } else if (entry != kInvalid) {
            code = static_cast<uint32_t>(numbered_ ? base_.number(payload(entry)) : payload(entry));
            bits = static_cast<unsigned>(tag(entry));
        }
        *to<uint32_t>(lba) = ~code;
        if (bits != 0 || (tagged_ != 0 && !MUTATED(l2p_tag_kept))) {
            set_tag_bits(lba, bits);
        }
    }
    [[nodiscard]] unsigned tag_bits(uint64_t lba) const noexcept {
        return static_cast<unsigned>(tags_.data()[lba / kTagsInByte]) >> (lba % kTagsInByte * 2) & 3U;
    }
    void set_tag_bits(uint64_t lba, unsigned bits) noexcept {
        const unsigned before = tag_bits(lba);
        if (before != bits) {
            tags_.data()[lba / kTagsInByte] ^= static_cast<uint8_t>((before ^ bits) << (lba % kTagsInByte * 2));
            tagged_ += (bits != 0 ? 1U : 0U) - (before != 0 ? 1U : 0U);
        }
    }
    template <typename Entry>
    void invert(uint64_t first, std::span<const Entry> from) noexcept {
        for (size_t i = 0; i < from.size();) {
            // As many as are in one piece.
            const size_t end = paged_ ? std::min(from.size(), i + in_page<Entry>(first + i)) : from.size();
            Entry *memory = to<Entry>(first + i);
            for (; i < end; ++i) {
                *memory++ = ~from[i];
            }
        }
    }
    template <typename Entry>
    [[nodiscard]] size_t in_page(uint64_t lba) const noexcept {
        const size_t entries = paged_->page_bytes() / sizeof(Entry);
        return entries - lba % entries;
    }
    template <typename Entry>
    [[nodiscard]] static Entry one(const uint8_t *memory) noexcept {
        Entry entry;
        std::memcpy(&entry, memory, sizeof(entry));
        return entry;
    }
    template <typename Entry>
    [[nodiscard]] const Entry *at(uint64_t lba) const noexcept {
        return reinterpret_cast<const Entry *>(paged_ ? paged_->read(lba * sizeof(Entry))
                                                      : memory_.data() + lba * sizeof(Entry));
    }
    template <typename Entry>
    [[nodiscard]] Entry *to(uint64_t lba) noexcept {
        return reinterpret_cast<Entry *>(paged_ ? paged_->write(lba * sizeof(Entry))
                                                : memory_.data() + lba * sizeof(Entry));
    }
    [[nodiscard]] uint64_t *wide() const noexcept { return reinterpret_cast<uint64_t *>(memory_.data()); }
    [[nodiscard]] uint32_t *narrow() const noexcept { return reinterpret_cast<uint32_t *>(memory_.data()); }

    static inline std::atomic<uint64_t> narrow_limit_{kNarrowBlocksMax};

    uint64_t block_count_;
    Form form_;
    bool numbered_;  // blocks have other numbers than addresses
    ZoneAddresses base_;
    PageMemory memory_;
    std::unique_ptr<PagedMemory> paged_;  // instead of memory_
    PageMemory tags_;
    uint64_t tagged_ = 0;  // LBAs with tag bits that are not 0
};

}  // namespace ftl
