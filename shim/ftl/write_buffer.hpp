// SPDX-License-Identifier: BSD-3-Clause
// Accepted blocks and trim records wait here for media. One mapping, anonymous or shared with a file that outlives the
// process, has slots of one block each.
//
// A restarted daemon recovers acknowledged writes from the mapping:
//   offset                 content
//   0                      BufferHeader
//   header.slots_offset    slot_count   SlotRecord
//   header.records_offset  record_count PendingRecord
//   header.data_offset     slot_count   blocks of 4096 B
// A record is in use if its state is `held`. That state is stored last (release), and cleared before the record or its
// data change. So a held record is complete, at whatever instruction the process is killed.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/mutation.hpp"
#include "base/page_memory.hpp"
#include "ftl/layout.hpp"
#include "ftl/placement.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

inline constexpr uint32_t kNoSlot = ~uint32_t{0};

struct BufferHeader {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;  // CRC32C of this struct with this field zero
    layout::Uuid uuid;
    uint32_t slot_count;
    uint32_t record_count;
    uint64_t slots_offset;
    uint64_t records_offset;
    uint64_t data_offset;
    uint64_t block_count;  // of the device
};
static_assert(sizeof(BufferHeader) == 72);

enum : uint32_t { kRecordFree = 0, kRecordHeld = 1 };

struct SlotRecord {
    uint64_t lba;
    uint64_t seq;
    uint32_t crc;
    uint32_t state;
};
static_assert(sizeof(SlotRecord) == 24);

struct PendingRecord {
    uint64_t lba;
    uint64_t seq;
    uint32_t block_count;
    uint32_t flags;  // layout::kRecordTrim or kRecordLost
    uint32_t state;
    uint32_t reserved;
};
static_assert(sizeof(PendingRecord) == 32);

inline void publish(uint32_t &state) noexcept {
    std::atomic_ref<uint32_t>(state).store(kRecordHeld, std::memory_order_release);
}
inline void retract(uint32_t &state) noexcept {
    std::atomic_ref<uint32_t>(state).store(kRecordFree, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);  // no later store to the record may come before this one
}

// An intrusive list of slots or records: the links are an array of the pool.
struct SlotList {
    uint32_t head = kNoSlot;
    uint32_t tail = kNoSlot;
    uint32_t count = 0;

    [[nodiscard]] bool empty() const noexcept { return count == 0; }
    void push_back(uint32_t *next, uint32_t slot) noexcept {
        next[slot] = kNoSlot;
        (tail == kNoSlot ? head : next[tail]) = slot;
        tail = slot;
        ++count;
    }
    void push_front(uint32_t *next, uint32_t slot) noexcept {
        next[slot] = head;
        head = slot;
        if (tail == kNoSlot) {
            tail = slot;
        }
        ++count;
    }
    // Appends all of `other`, which is empty then.
    void append(uint32_t *next, SlotList &other) noexcept {
        if (other.empty()) {
            return;
        }
        (tail == kNoSlot ? head : next[tail]) = other.head;
        tail = other.tail;
        count += other.count;
        other = SlotList{};
    }
    uint32_t pop_front(const uint32_t *next) noexcept {
        const uint32_t slot = head;
        head = next[slot];
        if (head == kNoSlot) {
            tail = kNoSlot;
        }
        --count;
        return slot;
    }
};

// Free slots in the order in which they were freed, so that slots that are handed out together tend to be adjacent.
class FreeRing {
public:
    explicit FreeRing(uint32_t slot_count) : ring_(slot_count), count_(slot_count) {
        for (uint32_t slot = 0; slot < slot_count; ++slot) {
            ring_[slot] = slot;
        }
    }
    [[nodiscard]] uint32_t count() const noexcept { return count_; }
    [[nodiscard]] uint32_t peek(uint32_t ahead) const noexcept {
        const uint32_t place = head_ + ahead;
        return ring_[place < ring_.size() ? place : place - ring_.size()];
    }
    uint32_t take() noexcept {
        const uint32_t slot = ring_[head_];
        head_ = head_ + 1 == ring_.size() ? 0 : head_ + 1;
        --count_;
        return slot;
    }
    void give(uint32_t slot) noexcept {
        const uint32_t place = head_ + count_;
        ring_[place < ring_.size() ? place : place - ring_.size()] = slot;
        ++count_;
    }

private:
    std::vector<uint32_t> ring_;
    uint32_t head_ = 0;
    uint32_t count_ = 0;
};

// The mapping itself.
class BufferMapping {
public:
    // Throws std::system_error if the file can't be made (its message names the path).
    BufferMapping(uint32_t slot_count, uint32_t record_count, uint64_t block_count, const layout::Uuid &uuid,
                  const std::optional<std::string> &path);

    [[nodiscard]] SlotRecord *slots() const noexcept { return slots_; }
    [[nodiscard]] PendingRecord *records() const noexcept { return records_; }
    [[nodiscard]] uint8_t *data() const noexcept { return data_; }

private:
    PageMemory memory_;
    PageMemory data_memory_;  // if it is not part of memory_
    SlotRecord *slots_ = nullptr;
    PendingRecord *records_ = nullptr;
    uint8_t *data_ = nullptr;
};

// User blocks between acceptance and media.
class WriteBuffer {
public:
    WriteBuffer(BufferMapping &mapping, uint32_t slots)
        : records(mapping.slots()),
          data(mapping.data()),
          slot_count(slots),
          free(slots),
          next(slots, kNoSlot),
          epoch(slots, 0),
          lent(slots, 0),
          band_class(slots, 0) {}

    [[nodiscard]] uint8_t *block(uint32_t slot) const noexcept { return data + size_t{slot} * kBlockSize; }
    [[nodiscard]] uint32_t slot_of(const void *block_data) const noexcept {
        return static_cast<uint32_t>(static_cast<size_t>(static_cast<const uint8_t *>(block_data) - data) / kBlockSize);
    }
    [[nodiscard]] bool holds(const void *address) const noexcept {
        const auto *byte = static_cast<const uint8_t *>(address);
        return byte >= data && byte < data + size_t{slot_count} * kBlockSize;
    }
    void release(uint32_t slot) noexcept {
        retract(records[slot].state);
        lent[slot] = 0;
        free.give(slot);
    }
    // The block is durable on the base. A lent slot stays while the nv cache holds its write back, because a gate may
    // have to repeat that write from here if this core is lost. Other slots do not: a write that is larger than the
    // buffer, or than the ring, only continues when its own slots become free.
    void durable(uint32_t slot) noexcept {
        if (lent[slot] == 0 || records[slot].seq <= answered_seq || MUTATED(lent_slot_freed)) {
            release(slot);
        } else {
            unanswered.push_back(next.data(), slot);
        }
    }
    // Every write up to that seq is completed, or no longer needs slots. Writes complete in order of seq, and slots
    // become durable in another order, but the writes of a late seq soon complete, too.
    void answered(uint64_t seq) noexcept {
        answered_seq = seq;
        while (!unanswered.empty() && records[unanswered.head].seq <= seq) {
            release(unanswered.pop_front(next.data()));
        }
    }
    // Finds a slot with a block of the LBA, held or not, whose data match its full CRC and for which is(record) is
    // true.
    template <typename Is>
    [[nodiscard]] uint32_t find(uint64_t lba, Is &&is) const noexcept {
        for (uint32_t slot = 0; slot < slot_count; ++slot) {
            const SlotRecord &record = records[slot];
            if (record.lba == lba && is(record) && crc32c(0, block(slot), kBlockSize) == record.crc) {
                return slot;
            }
        }
        return kNoSlot;
    }
    void queue(uint32_t slot) noexcept { fifos[band_class[slot]].push_back(next.data(), slot); }
    // Puts slots of one class back into its FIFO, in order of seq. `slots` are in that order. Only slots that were
    // queued again before can be older than one of them.
    void requeue(const uint32_t *slots, uint32_t count) noexcept {
        if (count == 0) {
            return;
        }
        const uint8_t its_class = band_class[slots[0]];
        SlotList &fifo = fifos[its_class];
        uint32_t *link = &fifo.head;
        for (uint32_t i = 0; i < count; ++i) {
            const uint32_t slot = slots[i];
            while (*link != kNoSlot && records[*link].seq < records[slot].seq) {
                link = &next[*link];
            }
            next[slot] = *link;
            *link = slot;
            link = &next[slot];
            if (*link == kNoSlot) {
                fifo.tail = slot;
            }
        }
        fifo.count += count;
        requeued[its_class] += count;
    }
    [[nodiscard]] bool queued() const noexcept {
        return std::any_of(fifos.begin(), fifos.end(), [](const SlotList &fifo) { return !fifo.empty(); });
    }
    // Classes from `count` on no longer exist: their blocks go to the last one that does.
    void keep_classes(uint8_t count) noexcept {
        const auto last = static_cast<uint8_t>(count - 1);
        for (uint8_t &each : band_class) {
            each = std::min(each, last);
        }
        for (uint8_t gone = count; gone < kClassesMax; ++gone) {
            SlotList merged;
            SlotList &one = fifos[last];
            SlotList &other = fifos[gone];
            while (!one.empty() || !other.empty()) {
                const bool from_one =
                    other.empty() || (!one.empty() && records[one.head].seq < records[other.head].seq);
                merged.push_back(next.data(), (from_one ? one : other).pop_front(next.data()));
            }
            one = merged;
            other = SlotList{};
            requeued[last] += std::exchange(requeued[gone], 0);
            waiting_since[gone] = 0;
        }
    }

    SlotRecord *records;
    uint8_t *data;
    uint32_t slot_count;
    FreeRing free;
    std::vector<uint32_t> next;
    std::vector<uint64_t> epoch;
    std::vector<uint8_t> lent;                  // the issuer received data into it: reserve()
    std::vector<uint8_t> band_class;            // of each slot; 0 while there is only one class
    std::array<SlotList, kClassesMax> fifos{};  // accepted, by class; each in order of seq
    SlotList landed;                            // on media, perhaps only in its volatile cache; still held
    SlotList flushing;                          // landed before the base flush in flight was sent
    SlotList unanswered;                        // durable on the base, but their write is held back
    uint64_t answered_seq = ~uint64_t{0};
    uint32_t reserved = 0;  // handed out by reserve(), not submitted yet
    // By class. Blocks at the front of the FIFO after a failed write: they must not wait.
    std::array<uint32_t, kClassesMax> requeued{};
    std::array<uint64_t, kClassesMax> waiting_since{};
};

// Blocks of a mover between the read and their copy on media.
class RelocBuffer {
public:
    // Throws std::system_error.
    explicit RelocBuffer(uint32_t slots)
        : memory(PageMemory::shared(size_t{slots} * kBlockSize, Sharing::receives)),
          slot_count(slots),
          free(slots),
          next(slots, kNoSlot),
          meta(slots),
          band_class(slots, 0) {}

    struct Meta {
        uint64_t lba;
        uint64_t seq;
        uint64_t source;  // address it was read from
        uint32_t crc;
        uint16_t mover;
        uint16_t status;  // why it is lost
    };

    [[nodiscard]] uint8_t *data() const noexcept { return memory.data(); }
    [[nodiscard]] uint8_t *block(uint32_t slot) const noexcept { return data() + size_t{slot} * kBlockSize; }
    void queue(uint32_t slot, uint8_t to_class) noexcept {
        band_class[slot] = to_class;
        fifos[to_class].push_back(next.data(), slot);
    }
    // The write of these blocks of one class has failed.
    void requeue(const uint32_t *slots, uint32_t count) noexcept {
        for (uint32_t i = count; i-- > 0;) {
            fifos[band_class[slots[i]]].push_front(next.data(), slots[i]);
        }
    }
    [[nodiscard]] bool queued() const noexcept {
        return std::any_of(fifos.begin(), fifos.end(), [](const SlotList &fifo) { return !fifo.empty(); });
    }
    // Each class is now another one: to(old) gives its number.
    template <typename To>
    void renumber(To &&to) noexcept {
        for (uint8_t &each : band_class) {
            each = to(each);
        }
        std::array<SlotList, kClassesMax> old = std::exchange(fifos, {});
        waiting_since = {};
        for (uint8_t each = 0; each < kClassesMax; ++each) {
            if (!old[each].empty()) {
                fifos[to(each)].append(next.data(), old[each]);
            }
        }
    }

    PageMemory memory;
    uint32_t slot_count;
    FreeRing free;
    std::vector<uint32_t> next;
    std::vector<Meta> meta;
    std::vector<uint8_t> band_class;            // of each slot that is queued or being written
    std::array<SlotList, kClassesMax> fifos{};  // by class
    std::array<uint64_t, kClassesMax> waiting_since{};
};

}  // namespace ftl
