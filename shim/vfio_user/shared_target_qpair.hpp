// SPDX-License-Identifier: BSD-3-Clause
// The target side of one I/O queue over vfio-user: commands in a client's memory become Ios to the BlockDevices of its
// namespaces, and their data moves between the devices and that memory. docs/vfio-user.md.
//
// The constructor allocates all memory of a qpair, which costs nothing until it is touched: for each entry of the queue
// an Io with its iovecs, and a buffer for the ranges of dataset management, which are copied before they are checked.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "nvme/command_decoder.hpp"
#include "nvme/flush_alarm.hpp"
#include "nvme/namespace_table.hpp"
#include "nvme/target_qpair.hpp"
#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"
#include "vfio_user/idle_naps.hpp"
#include "vfio_user/shared_queue.hpp"

namespace ftl {

struct SharedQpairConfig {
    SharedQueueConfig queue;
    uint32_t max_io_bytes = 131072;
    std::shared_ptr<FlushAlarm> flush_alarm;  // of this client; null: no Flush must fail
};

class SharedTargetQpair final : public Poller, public MemoryUser {
public:
    static constexpr uint32_t kMaxIoBytesMax = TargetQpair::kMaxIoBytesMax;
    static constexpr uint32_t kRangesBytes = wire::kDsmRangesMax * sizeof(wire::DsmRange);
    static constexpr uint32_t kBatch = 64;  // commands fetched in a poll

    // Registers with the reactor. Throws std::invalid_argument or std::system_error. See SharedQueue for the fds.
    SharedTargetQpair(std::shared_ptr<Reactor> reactor, std::shared_ptr<DmaMap> memory, int bar0_fd, int record_fd,
                      const SharedQpairConfig &config, NamespaceTable::Devices namespaces,
                      const NamespaceTable::BarsByNsid &bars = {});
    ~SharedTargetQpair() override;

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] uint64_t deadline_ns() const noexcept override { return naps_.next_ns(); }
    [[nodiscard]] bool uses(const uint8_t *begin, const uint8_t *end) const noexcept override;

    [[nodiscard]] uint32_t id() const noexcept { return id_; }

    // Control path; any thread but the reactor's may call it. Those that TargetQpair has, too, do the same.
    void set_namespace(uint32_t nsid, std::shared_ptr<BlockDevice> device, Bars bars = {});
    bool give_back_removed();
    void set_bars(uint32_t nsid, Bars bars);
    void abort_io(uint32_t nsid);
    [[nodiscard]] uint32_t aborting() const noexcept { return aborting_.load(std::memory_order_acquire); }
    // The queue has ended by itself (shared_qpair_closed), or by close().
    [[nodiscard]] bool dead();
    [[nodiscard]] bool drained() const noexcept { return drained_.load(std::memory_order_acquire); }
    [[nodiscard]] TargetQpairStats stats();
    // Waits until every Io is back. What was in flight stays in the record. Idempotent.
    void close();

private:
    struct Slot {
        Io io;
        DataShape shape;
        NamespaceTable::Entry *ns = nullptr;
        uint8_t opcode = 0;
        bool at_device = false;
        bool only_reads = false;
        bool flush_all = false;
        bool aborted = false;    // by abort_io(), and not back yet
        bool preempted = false;  // by abort_io(): the device gets no more of it
        uint32_t range = 0;      // dataset management: next range
    };

    void expect(const wire::Sqe &sqe) noexcept;
    void start(uint32_t number) noexcept;
    [[nodiscard]] Status decode(Slot &slot, const wire::Sqe &sqe) noexcept;
    [[nodiscard]] Status place_data(Slot &slot, uint32_t number, const wire::Sqe &sqe) noexcept;
    [[nodiscard]] static bool next_step(Slot &slot, NamespaceTable &namespaces) noexcept;
    void submit(Slot &slot) noexcept;
    void io_done(Slot &slot) noexcept;
    void answer(Slot &slot, Status status) noexcept;
    void die(bool tell) noexcept;
    [[nodiscard]] uint32_t number_of(const Slot &slot) const noexcept {
        return static_cast<uint32_t>(&slot - slots_.data());
    }

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<DmaMap> memory_;
    const SharedQpairConfig config_;
    SharedQueue queue_;
    CommandMemory command_memory_;
    IdleNaps naps_;
    NamespaceTable namespaces_;
    std::vector<Slot> slots_;
    uint32_t iov_per_slot_;
    std::unique_ptr<iovec[]> iovs_;
    PageMemory ranges_;
    uint32_t id_ = 0;
    bool dead_ = false;
    size_t replayed_ = 0;       // of queue_.unfinished()
    uint32_t outstanding_ = 0;  // Ios at devices
    uint32_t answered_ = 0;     // since the last poll
    TargetQpairStats stats_;
    std::atomic<uint32_t> aborting_{0};
    std::atomic<bool> drained_{false};  // dead, and every Io is back
    std::mutex control_mutex_;          // several threads may call close() at once
    bool removed_from_reactor_ = false;
};

}  // namespace ftl
