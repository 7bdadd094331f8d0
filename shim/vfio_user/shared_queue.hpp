// SPDX-License-Identifier: BSD-3-Clause
// A submission queue and its completion queue in a client's memory, with their doorbells in BAR0: fetches commands,
// writes completions, and keeps the record of what is in flight. It knows nothing of what the commands mean.
//
// The queue fetches a command only if there is room for its completion, so completions never wait for the client.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/page_memory.hpp"
#include "vfio_user/command_memory.hpp"
#include "vfio_user/dma_map.hpp"
#include "vfio_user/queue_record.hpp"

namespace ftl {

// Why a shared queue has ended by itself.
enum class SharedFault : uint64_t {
    none = 0,
    broken_memory = 1,     // the client has shrunk a file
    invalid_doorbell = 2,  // detail: its value
};

struct SharedQueueConfig {
    uint32_t qid = 1;
    uint64_t sq_iova = 0;
    uint64_t cq_iova = 0;
    uint32_t sq_entries = 128;
    uint32_t cq_entries = 128;
};

class SharedQueue {
public:
    static constexpr uint32_t kEntriesMax = 4096;
    static constexpr uint32_t kQidMax = 511;  // the last one with doorbells in the page
    static constexpr uint32_t kBarBytes = 8192;
    static constexpr uint32_t kDoorbellsOffset = 4096;
    static constexpr uint32_t kNone = ~uint32_t{0};

    // Takes no ownership of the fds. A record of zeroes begins a queue: its doorbells are set to 0. Otherwise the queue
    // goes on: completions that may be missing are written, and unfinished() has what was in flight. Throws
    // std::invalid_argument, also for a record of another queue, and std::system_error.
    SharedQueue(DmaMap &map, int bar0_fd, int record_fd, const SharedQueueConfig &config);

    // Slots of commands to execute again, in the order of the queue.
    [[nodiscard]] const std::vector<uint32_t> &unfinished() const noexcept { return unfinished_; }
    [[nodiscard]] uint32_t slot_count() const noexcept { return config_.sq_entries; }
    [[nodiscard]] uint32_t in_flight() const noexcept { return in_flight_; }

    // Both, side by side; and their values at the last look().
    [[nodiscard]] uint64_t *doorbells() const noexcept { return reinterpret_cast<uint64_t *>(sq_doorbell_); }
    [[nodiscard]] uint64_t seen() const noexcept { return uint64_t{cq_head_} << 32 | sq_tail_; }

    // Reactor thread. Reads the doorbells. False: fault() has the reason, and nothing more may be done.
    [[nodiscard]] bool look() noexcept;
    // The next command; kNone: there is none, or no room for its completion.
    [[nodiscard]] uint32_t fetch() noexcept;
    [[nodiscard]] const wire::Sqe &command(uint32_t slot) const noexcept { return slots_[slot].sqe; }
    // status: as in the completion queue, without the phase.
    void complete(uint32_t slot, uint16_t status, uint64_t result) noexcept;

    [[nodiscard]] SharedFault fault() const noexcept { return fault_; }
    [[nodiscard]] uint32_t fault_detail() const noexcept { return fault_detail_; }

private:
    void begin() noexcept;
    void go_on();
    void write_completion(const wire::Cqe &cqe) noexcept;
    void advance_completed() noexcept;
    [[nodiscard]] bool fail(SharedFault fault, uint32_t detail) noexcept;
    [[nodiscard]] uint32_t load(const uint32_t *doorbell) const noexcept;

    const SharedQueueConfig config_;
    DmaMap &map_;
    GuardedMapping bar0_;
    PageMemory record_;
    DmaMap::Regions keep_;  // with the queues
    std::vector<uint8_t *> sq_pages_;
    std::vector<uint8_t *> cq_pages_;
    uint32_t *sq_doorbell_;
    uint32_t *cq_doorbell_;
    RecordHeader *header_;
    RecordSlot *slots_;
    std::vector<uint32_t> free_;
    std::vector<uint32_t> unfinished_;
    uint32_t in_flight_ = 0;
    uint64_t fetched_ = 0;
    uint64_t completed_ = 0;
    uint32_t sq_head_ = 0;  // fetched_ % sq_entries
    uint32_t sq_tail_ = 0;
    uint32_t cq_head_ = 0;
    uint32_t cq_tail_ = 0;  // completed_ % cq_entries
    uint32_t cq_used_ = 0;  // entries that the client has not taken
    bool phase_ = true;     // of the next completion
    SharedFault fault_ = SharedFault::none;
    uint32_t fault_detail_ = 0;
};

}  // namespace ftl
