// SPDX-License-Identifier: BSD-3-Clause
// The records of a band that garbage collection moves: which of them are in force, and where their copies are.
//
// An entry of the L2P says in which header its record is, not which one it is, and a record may cover the whole device.
// So one pass over the L2P serves all records of a group, whatever they cover together: it looks only at the chunks of
// LBAs that a record covers, and finds for each entry the newest record of its header that covers the LBA. When the
// copies of these are on media, a second pass over the same chunks lets the entries refer to them. Both run in steps.
#pragma once

#include <cstdint>
#include <span>

#include "base/page_memory.hpp"
#include "ftl/layout.hpp"

namespace ftl {

class CoreState;

class RecordGroup {
public:
    static constexpr uint32_t kRecordsMax = 1U << 14;
    static constexpr uint32_t kNone = ~0U;

    struct Record {
        uint64_t lba;
        uint64_t seq;
        uint64_t first;  // LBA with an entry of this record; behind `last`: there is none
        uint64_t last;
        uint64_t copy;  // header of the copy on media; kNoCopy
        uint32_t block_count;
        uint32_t flags;
        uint32_t header;
        uint32_t reserved;

        [[nodiscard]] bool in_force() const noexcept { return first <= last; }
    };
    static constexpr uint64_t kNoCopy = ~uint64_t{0};

    // The memory is touched only where it is needed. Throws std::bad_alloc.
    RecordGroup(uint64_t block_count, uint32_t chunk_blocks, uint64_t band_blocks);

    [[nodiscard]] bool empty() const noexcept { return header_count_ == 0; }
    // For the records of another header.
    [[nodiscard]] bool room() const noexcept {
        return header_count_ < kRecordsMax && record_count_ + layout::kEntriesPerBlock <= kRecordsMax;
    }
    // place: of the header among the blocks of the band; each of them once.
    void add(uint64_t address, uint64_t place, std::span<const layout::RecordEntry> records) noexcept;
    [[nodiscard]] uint32_t size() const noexcept { return record_count_; }
    [[nodiscard]] Record &operator[](uint32_t number) noexcept { return records()[number]; }

    // The first pass. True: it is over. budget: L2P entries, or what takes as long.
    bool find_some(const CoreState &state, uint32_t band, uint32_t &budget) noexcept;
    // The second pass, when the copies of all records in force have landed.
    bool move_some(CoreState &state, uint32_t band, uint32_t &budget) noexcept;
    // Afterwards it is empty, whatever it has found and moved. True: it is.
    bool clear_some(uint32_t &budget) noexcept;

private:
    struct Header {
        uint64_t address;
        uint64_t place;
        uint32_t first_record;
        uint32_t record_count;
    };
    // The record of an entry is that of its neighbours, mostly.
    struct Known {
        uint64_t address = kNoCopy;
        uint32_t flags = 0;
        uint32_t record = kNone;
        uint64_t from = 0;
        uint64_t until = 0;
    };

    [[nodiscard]] Record *records() const noexcept { return reinterpret_cast<Record *>(records_.data()); }
    [[nodiscard]] Header *headers() const noexcept { return reinterpret_cast<Header *>(headers_.data()); }
    [[nodiscard]] uint32_t *by_place() const noexcept { return reinterpret_cast<uint32_t *>(by_place_.data()); }
    [[nodiscard]] uint64_t *marks() const noexcept { return reinterpret_cast<uint64_t *>(marks_.data()); }
    bool mark_some(uint32_t &budget) noexcept;
    template <typename Visit>
    void visit_chunk(const CoreState &state, uint32_t band, uint64_t chunk, Visit &&visit) noexcept;
    template <typename Visit, typename Enough>
    bool visit_some(const CoreState &state, uint32_t band, uint32_t &budget, Visit &&visit, Enough &&enough) noexcept;
    [[nodiscard]] uint32_t record_of(const CoreState &state, uint32_t band, uint64_t lba, uint64_t entry) noexcept;
    void look_up(const CoreState &state, uint32_t band, uint64_t lba, uint64_t address, uint32_t flags) noexcept;

    uint64_t block_count_;
    unsigned shift_;
    uint32_t header_count_ = 0;
    uint32_t record_count_ = 0;
    bool has_lost_ = false;
    uint32_t marked_ = 0;     // records
    uint64_t mark_at_ = 0;    // next chunk of the record being marked
    uint64_t wide_from_ = 0;  // chunks of the widest range that is marked without a gap
    uint64_t wide_end_ = 0;
    uint64_t word_from_ = kNoCopy;  // words with marks
    uint64_t word_end_ = 0;
    // The pass: the word of marks, and which of its chunks are done.
    uint64_t word_ = 0;
    uint64_t done_ = 0;
    bool begun_ = false;
    uint64_t to_find_ = 0;  // entries of the band that were there when the pass began, and are not found yet
    uint64_t to_move_ = 0;  // entries of the group's records
    Known known_;
    PageMemory records_;
    PageMemory headers_;
    PageMemory by_place_;  // number of the header there, plus one
    PageMemory marks_;     // a bit for each chunk
};

}  // namespace ftl
