// SPDX-License-Identifier: BSD-3-Clause
// What is recorded of a queue in shared memory that outlives the process: how far the queue got, and the commands in
// flight. docs/vfio-user.md, "Commands in flight".
//
//   offset   content
//   0        RecordHeader
//   4096     sq_entries RecordSlots
//
// The order of stores matters, because the process may be killed between any two of them:
//   a command:     sqe, then seq (from now on it is in flight), then the header's `fetched`
//   a completion:  cqe, then position (from now on it must not be executed again), then the entry in the client's
//                  memory, then the header's `completed`, then seq = 0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "nvme/wire.hpp"

namespace ftl {

inline constexpr uint64_t kRecordMagic = 0x31524C46'55464656;  // "VFFUFLR1"
inline constexpr uint64_t kRecordSlotsOffset = 4096;

struct RecordHeader {
    uint64_t magic;  // 0: a new record
    uint32_t qid;
    uint32_t sq_entries;
    uint32_t cq_entries;
    uint32_t reserved;
    uint64_t sq_iova;
    uint64_t cq_iova;
    uint64_t fetched;    // commands since the queue was created: modulo sq_entries, the head of the SQ
    uint64_t completed;  // completions since then: modulo cq_entries, the tail of the CQ
};
static_assert(sizeof(RecordHeader) == 56);

struct alignas(64) RecordSlot {
    wire::Sqe sqe;
    uint64_t seq;       // 0: free. Otherwise the value of `fetched` with this command
    uint64_t position;  // 0: not completed. Otherwise the value of `completed` with this completion
    wire::Cqe cqe;
};
static_assert(sizeof(RecordSlot) == 128 && offsetof(RecordSlot, cqe) == 80);

[[nodiscard]] constexpr uint64_t record_bytes(uint32_t sq_entries) noexcept {
    return kRecordSlotsOffset + (uint64_t{sq_entries} * sizeof(RecordSlot) + 4095) / 4096 * 4096;
}

inline void store_recorded(uint64_t &field, uint64_t value) noexcept {
    std::atomic_ref<uint64_t>(field).store(value, std::memory_order_release);
}

// Frees a slot. No later store to it may come before this one.
inline void clear_recorded(RecordSlot &slot) noexcept {
    store_recorded(slot.seq, 0);
    std::atomic_thread_fence(std::memory_order_release);
}

}  // namespace ftl
