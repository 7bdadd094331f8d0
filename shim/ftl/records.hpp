// SPDX-License-Identifier: BSD-3-Clause
// Trim and lost records on their way to media, and from there into the L2P.
//
// A new record marks its LBAs as pending(record). When the record's batch is on media, the record has landed: its band
// counts its LBAs as references at once, and settle() replaces the entries that have not changed since by the header's
// address, in bounded steps. The record of a trim that is not applied yet settles when it is. A copy (garbage
// collection writes a valid record again) leaves its LBAs at the old header; the mover changes them when all copies
// have landed.
#pragma once

#include <cstdint>
#include <vector>

#include "base/mutation.hpp"
#include "base/page_memory.hpp"
#include "ftl/l2p.hpp"
#include "ftl/write_buffer.hpp"

namespace ftl {

class CoreState;

inline constexpr uint32_t kRecordCount = 2048;
inline constexpr uint32_t kUserRecordsMax = 1536;  // the rest is for garbage collection, so that trims can't starve it
inline constexpr uint16_t kNoMover = 0xffff;
static_assert(kRecordCount <= L2p::kPendingMax);

class Records {
public:
    struct Meta {
        uint64_t match = 0;       // the L2P entry that it replaces; kCopied
        uint64_t header = 0;      // the header on media
        uint64_t references = 0;  // entries that are pending(this record)
        uint64_t epoch = 0;       // 0: a copy; nobody waits for it
        uint64_t cursor = 0;      // settle(): next LBA
        bool searched = false;    // settle(): all chunks with a mark are done
        uint32_t number = 0;      // of a copy: which one it is for its mover
        uint16_t mover = kNoMover;
        bool landed = false;
        bool of_user = false;
        bool unapplied = false;  // Trims hides LBAs whose entries do not refer to it yet
    };

    static constexpr uint64_t kCopied = L2p::kInvalid;

    // chunk_blocks: as in Trims. Throws std::bad_alloc.
    Records(BufferMapping &mapping, uint64_t block_count, uint32_t chunk_blocks);

    [[nodiscard]] bool user_room() const noexcept { return free.count() > 0 && user_count < kUserRecordsMax; }
    [[nodiscard]] bool room() const noexcept { return free.count() > 0; }

    // Makes a new record; flag is L2p::kTrimFlag or kLostFlag. The caller marks the LBAs, counts references, then
    // queues it.
    uint32_t make(CoreState &state, uint64_t flag, uint64_t lba, uint32_t block_count, uint16_t mover) noexcept;
    // Like make(), with the seq of an earlier life.
    uint32_t make(CoreState &state, uint64_t flag, uint64_t lba, uint32_t block_count, uint16_t mover,
                  uint64_t seq) noexcept;
    // For garbage collection: writes the record again.
    uint32_t copy(uint64_t lba, uint64_t seq, uint32_t block_count, uint32_t flags, uint16_t mover,
                  uint32_t number) noexcept;
    // Changes the number of blocks: not more than in make(), and before the record is queued.
    void cut(uint32_t record, uint32_t block_count) noexcept { records[record].block_count = block_count; }
    // The record is queued: from here on a restarted daemon finds it.
    void enqueue(uint32_t record) noexcept {
        if (!MUTATED(trim_not_held)) {
            publish(records[record].state);
        }
        queue(meta[record].of_user).push_back(next.data(), record);
    }
    // Call it for each LBA that a record marks. A record may cover the whole device, and few LBAs far apart refer to
    // it: settle() finds them by a bit for each chunk. A bit that is missing costs time.
    void mark(uint64_t lba) noexcept { marks()[lba >> word_shift_] |= uint64_t{1} << (lba >> shift_) % 64; }
    // Undoes make() if no LBA was marked.
    void drop(CoreState &state, uint32_t record) noexcept;

    [[nodiscard]] SlotList &queue(bool of_user) noexcept { return of_user ? user_queue : reloc_queue; }
    void landed(CoreState &state, uint32_t record, uint64_t header) noexcept;
    // Trims hides nothing any more that the record covers.
    void applied(uint32_t record) noexcept;
    void release(uint32_t record) noexcept;
    // Calls done(meta) for each record of a mover that has landed, and if it is not a copy, has settled.
    template <typename Done>
    uint32_t settle(CoreState &state, Done &&done) noexcept {
        uint32_t budget = kSettleStep;
        while (!settling.empty() && budget > 0) {
            const uint32_t record = settling.head;
            if (!settle_some(state, record, budget)) {
                break;
            }
            settling.pop_front(next.data());
            if (meta[record].mover != kNoMover) {
                done(meta[record]);
            }
            if (retains(state)) {
                landed_records.push_back(next.data(), record);
            } else {
                release(record);
            }
        }
        return kSettleStep - budget;
    }

    PendingRecord *records;
    FreeRing free;
    std::vector<uint32_t> next;
    std::vector<Meta> meta;
    SlotList user_queue;
    SlotList reloc_queue;
    SlotList settling;
    SlotList landed_records;  // settled, but perhaps only in the base's volatile cache
    SlotList flushing;        // landed before the base flush in flight was sent
    uint32_t user_count = 0;

private:
    static constexpr uint32_t kSettleStep = 32768;

    [[nodiscard]] uint64_t *marks() const noexcept { return reinterpret_cast<uint64_t *>(marks_.data()); }
    void settle_marked(CoreState &state, Meta &record_meta, uint64_t end, uint32_t &budget) noexcept;
    static void settle_entry(CoreState &state, Meta &record_meta, uint64_t lba) noexcept;
    bool settle_chunk(CoreState &state, Meta &record_meta, uint64_t chunk) noexcept;

    [[nodiscard]] static bool retains(const CoreState &state) noexcept;
    bool settle_some(CoreState &state, uint32_t record, uint32_t &budget) noexcept;

    unsigned shift_;
    unsigned word_shift_;
    uint64_t block_count_;
    PageMemory marks_;
};

}  // namespace ftl
