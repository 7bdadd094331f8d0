// SPDX-License-Identifier: BSD-3-Clause
// The host side of one I/O queue in shared memory (vfio-user): a remote namespace as a BlockDevice. Like HostQpair,
// which does this over TCP: CID = slot, three lists, completions from poll().
//
// The server moves data directly to and from the Io's memory if it has mapped that memory for this direction
// (MappedRanges). Otherwise the data go through the slot's own buffer. The server gives no signal, so the reactor polls
// while commands are in flight: without a pause first, then with naps that become longer.
//
// Everything in the queue memory may be changed by the server at any time. A completion queue entry is read once, and
// checked. Nothing else is read back.
#pragma once

#include <memory>
#include <vector>

#include "nvme/pdu_stream.hpp"  // QpairClose
#include "reactor/block_device.hpp"
#include "reactor/io_list.hpp"
#include "reactor/reactor.hpp"
#include "vfio_user/doorbells.hpp"
#include "vfio_user/mapped_ranges.hpp"
#include "vfio_user/queue_memory.hpp"

namespace ftl {

struct SharedHostQpairConfig {
    uint32_t nsid = 1;
    uint64_t memory_iova = 0;  // of the queue memory
    uint64_t sq_doorbell = 0;  // offsets from the start of the mapped doorbells
    uint64_t cq_doorbell = 0;
    uint32_t used_entries = 0;      // commands that somebody has executed in the queues before; below `entries`
    uint32_t max_append_bytes = 0;  // ZASL
    uint64_t io_timeout_ns = 0;     // a command without an answer for that long ends the connection; 0: no limit
};

struct SharedHostQpairStats {
    uint64_t commands = 0;
    uint64_t direct_bytes = 0;   // of Ios' own memory
    uint64_t bounced_bytes = 0;  // copied to or from the slot's buffer
};

class SharedHostQpair final : public BlockDevice, public Poller {
public:
    // Throws std::invalid_argument. `info` describes the namespace; the constructor sets max_io_blocks and
    // max_append_blocks. The server has created both queues, and knows the queue memory.
    SharedHostQpair(std::shared_ptr<Reactor> reactor, std::shared_ptr<SharedQueueMemory> memory,
                    std::shared_ptr<MappedRanges> ranges, std::shared_ptr<Doorbells> doorbells,
                    const SharedHostQpairConfig &config, const BlockDeviceInfo &info);
    // No Io may be outstanding.
    ~SharedHostQpair() override;

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override {
        return !done_.empty() || (in_flight_ > 0 && reactor_->now_ns() < progress_ns_ + kSpinNs);
    }
    [[nodiscard]] bool lost() const noexcept override { return !connected_; }
    [[nodiscard]] uint64_t deadline_ns() const noexcept override;

    [[nodiscard]] uint32_t id() const noexcept { return id_; }
    [[nodiscard]] bool connected() const noexcept { return connected_; }
    // Outstanding and later I/O fails with path_error. Any thread may call it. Idempotent.
    void close();
    // Control path. An address of registered memory that had to be copied because the server has not mapped it; null:
    // none since the last call. The event shared_memory_wanted says that there is one.
    [[nodiscard]] const void *take_wanted();
    [[nodiscard]] const SharedHostQpairStats &stats() const noexcept { return stats_; }

private:
    static constexpr uint32_t kNoSlot = ~uint32_t{0};
    static constexpr uint64_t kSpinNs = 100'000;
    static constexpr uint64_t kNapMinNs = 20'000;
    static constexpr uint64_t kNapMaxNs = 1'000'000;

    struct Slot {
        Io *io = nullptr;  // null: the slot is free
        uint32_t length = 0;
        bool bounced = false;
        uint64_t started_ns = 0;
        uint32_t next_free = 0;
    };

    void start(Io &io) noexcept;
    bool point_to(const Io &io, uint32_t length, uint32_t number, wire::Sqe &sqe) noexcept;
    void point_to_buffer(uint32_t length, uint32_t number, wire::Sqe &sqe) noexcept;
    uint32_t reap(uint64_t now_ns) noexcept;
    bool complete(const wire::Cqe &cqe) noexcept;
    uint32_t run_done() noexcept;
    void check_timeouts(uint64_t now_ns) noexcept;
    void lose() noexcept;

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<SharedQueueMemory> memory_;
    std::shared_ptr<MappedRanges> ranges_;
    std::shared_ptr<Doorbells> doorbells_;
    const SharedHostQpairConfig config_;
    BlockDeviceInfo info_;
    uint32_t id_ = 0;
    bool connected_ = true;

    std::vector<Slot> slots_;  // sized in the constructor
    uint32_t free_ = 0;        // head of the list through next_free
    uint32_t in_flight_ = 0;
    uint32_t sq_tail_ = 0;
    uint32_t cq_head_ = 0;
    uint16_t phase_ = 1;
    QpairClose fault_ = QpairClose::none;
    uint64_t progress_ns_ = 0;  // the last submission to an empty queue, or completion
    uint64_t polled_ns_ = 0;
    uint64_t check_at_ns_ = 0;
    const void *wanted_ = nullptr;
    IoList waiting_;  // Ios that wait for a slot
    IoList done_;     // poll() completes these
    SharedHostQpairStats stats_;
};

}  // namespace ftl
