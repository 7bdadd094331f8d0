// SPDX-License-Identifier: BSD-3-Clause
// Trim and lost records on their way to media, and from there into the L2P.
//
// A new record marks its LBAs as pending(record); a copy (garbage collection writes a valid record again) leaves them
// at the old header. When the record's batch is on media, the record has landed: its band counts its LBAs as references
// at once, and settle() replaces the entries that have not changed since by the header's address, in bounded steps. The
// record of a trim that is not applied yet settles when it is.
#pragma once

#include <cstdint>
#include <vector>

#include "base/mutation.hpp"
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
        uint64_t match = 0;       // the L2P entry that it replaces
        uint64_t header = 0;      // the header on media
        uint64_t references = 0;  // entries that are pending(this record)
        uint64_t epoch = 0;       // 0: a copy; nobody waits for it
        uint64_t cursor = 0;      // settle(): next LBA
        uint16_t mover = kNoMover;
        bool landed = false;
        bool of_user = false;
        bool unapplied = false;  // Trims hides LBAs whose entries do not refer to it yet
    };

    explicit Records(BufferMapping &mapping)
        : records(mapping.records()), free(kRecordCount), next(kRecordCount, kNoSlot), meta(kRecordCount) {}

    [[nodiscard]] bool user_room() const noexcept { return free.count() > 0 && user_count < kUserRecordsMax; }
    [[nodiscard]] bool room() const noexcept { return free.count() > 0; }

    // Makes a new record; flag is L2p::kTrimFlag or kLostFlag. The caller marks the LBAs, counts references, then
    // queues it.
    uint32_t make(CoreState &state, uint64_t flag, uint64_t lba, uint32_t block_count, uint16_t mover) noexcept;
    // Like make(), with the seq of an earlier life.
    uint32_t make(CoreState &state, uint64_t flag, uint64_t lba, uint32_t block_count, uint16_t mover,
                  uint64_t seq) noexcept;
    // For garbage collection: writes the record again, for entries equal to `match`.
    uint32_t copy(uint64_t lba, uint64_t seq, uint32_t block_count, uint32_t flags, uint64_t match,
                  uint16_t mover) noexcept;
    // Changes the number of blocks: not more than in make(), and before the record is queued.
    void cut(uint32_t record, uint32_t block_count) noexcept { records[record].block_count = block_count; }
    // The record is queued: from here on a restarted daemon finds it.
    void enqueue(uint32_t record) noexcept {
        if (!MUTATED(trim_not_held)) {
            publish(records[record].state);
        }
        queue(meta[record].of_user).push_back(next.data(), record);
    }
    // Undoes make() if no LBA was marked.
    void drop(CoreState &state, uint32_t record) noexcept;

    [[nodiscard]] SlotList &queue(bool of_user) noexcept { return of_user ? user_queue : reloc_queue; }
    void landed(CoreState &state, uint32_t record, uint64_t header) noexcept;
    // Trims hides nothing any more that the record covers.
    void applied(uint32_t record) noexcept;
    void release(uint32_t record) noexcept;
    // Calls done(mover) for each completed record of a mover.
    template <typename Done>
    uint32_t settle(CoreState &state, Done &&done) noexcept {
        uint32_t budget = kSettleStep;
        while (!settling.empty() && budget > 0) {
            const uint32_t record = settling.head;
            if (!settle_some(state, record, budget)) {
                break;
            }
            settling.pop_front(next.data());
            const uint16_t mover = meta[record].mover;
            if (retains(state)) {
                landed_records.push_back(next.data(), record);
            } else {
                release(record);
            }
            if (mover != kNoMover) {
                done(mover);
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

    [[nodiscard]] static bool retains(const CoreState &state) noexcept;
    bool settle_some(CoreState &state, uint32_t record, uint32_t &budget) noexcept;
};

}  // namespace ftl
