// SPDX-License-Identifier: BSD-3-Clause
// The target side of one NVMe/TCP I/O queue, after Connect: commands of a remote host become Ios to the BlockDevices of
// its namespaces.
//
// The constructor allocates all memory of a qpair, which costs nothing until it is touched:
//   - queue_size slots, each with a buffer for in-capsule data, small reads and DSM ranges (>= 4 KiB)
//   - a pool of 16 KiB chunks for larger transfers: kPoolBytes, or what the two largest commands need if that is more
//   - kLanes lanes for Compare, Verify and Copy: memory for a part of their blocks. Such a command takes a lane when it
//     has its data, and needs nothing else until it is done, so those that wait for a lane get one
// If too few chunks are free, a command waits in line before the target asks for any of its data. So a slow or hostile
// peer cannot make memory grow, and the stream never stops in the middle of a PDU because memory is short.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/page_memory.hpp"
#include "nvme/command_decoder.hpp"
#include "nvme/flush_alarm.hpp"
#include "nvme/namespace_table.hpp"
#include "nvme/pdu_stream.hpp"
#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

struct TargetQpairConfig {
    uint32_t queue_size = 128;  // entries of the SQ: SQSIZE + 1
    bool header_digest = false;
    bool data_digest = false;
    uint32_t max_io_bytes = 131072;
    uint32_t in_capsule_bytes = 8192;
    uint32_t max_h2c_data = 131072;
    uint16_t sqhd = 1;  // next SQHD to report
    bool flow_control = true;
    bool success_flag = true;
    std::shared_ptr<FlushAlarm> flush_alarm;  // of this host; null: no Flush must fail
    std::shared_ptr<TlsSession> tls;          // null: no TLS
    bool reservations = false;                // somebody calls take_command(); else these commands are invalid
};

// A command that Python executes.
struct QueuedCommand {
    uint64_t token = 0;
    uint32_t nsid = 0;
    uint32_t cdw10 = 0;
    uint32_t cdw11 = 0;
    uint32_t length = 0;  // bytes that the host sends or wants
    uint8_t opcode = 0;
    std::array<uint8_t, 16> data{};  // the beginning of what the host sent
};

struct TargetQpairStats {
    uint64_t commands = 0;
    uint64_t read_blocks = 0;
    uint64_t write_blocks = 0;
    uint64_t errors = 0;
    uint64_t bytes_in = 0;
    uint64_t bytes_out = 0;
};

inline constexpr uint32_t kNoTargetSlot = ~uint32_t{0};

class TargetQpair final : public Poller, private PduHandler {
public:
    static constexpr uint32_t kQueueSizeMax = 4096;
    static constexpr uint32_t kMaxIoBytesMax = 16 * 1024 * 1024;
    static constexpr uint32_t kInCapsuleBytesMax = 1024 * 1024;
    static constexpr uint32_t kChunkBytes = 16 * 1024;
    static constexpr uint32_t kPoolBytes = 2 * 1024 * 1024;
    static constexpr uint32_t kSlotBufferMin = 4096;  // 256 DSM ranges, 128 ranges of a copy, half of a fused pair
    static constexpr uint32_t kLanes = 4;
    static constexpr uint32_t kLaneBytes = 128 * 1024;
    // How long the peer may take to read the last PDUs.
    static constexpr uint64_t kLingerNs = 1'000'000'000;
    // Time limits for data that an R2T asked for or that a capsule announced: for each transfer, and for the silence of
    // the host meanwhile. Other hosts lack the memory that is reserved for such data.
    static constexpr uint64_t kTransferNs = 60'000'000'000;
    static constexpr uint64_t kSilenceNs = 15'000'000'000;
    // A queue with little traffic is polled in one of this many rounds. Hosts may have many idle queues, and each poll
    // is a system call that delays busy queues.
    static constexpr uint32_t kIdleRounds = 16;
    static constexpr uint64_t kIdleWindowNs = 100'000'000;
    static constexpr uint32_t kIdleHitsMax = 100;  // receptions per window

    using Namespaces = NamespaceTable::Devices;
    using BarsByNsid = NamespaceTable::BarsByNsid;

    // Takes a duplicate of fd and registers with the reactor. Throws std::invalid_argument or std::system_error.
    TargetQpair(std::shared_ptr<Reactor> reactor, int fd, const TargetQpairConfig &config, Namespaces namespaces,
                const BarsByNsid &bars = {});
    ~TargetQpair() override;

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override;
    [[nodiscard]] bool blocks_peer() const noexcept override {
        return life_ == Life::open && !idle_ && outstanding_ == 0 && stream_->peer() == PduStream::Place::here;
    }
    [[nodiscard]] int fd() const noexcept override { return stream_->fd(); }
    void ready() noexcept override { skipped_ = kIdleRounds; }
    [[nodiscard]] bool wants_write() const noexcept override { return life_ != Life::dead && stream_->blocked(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept override;

    [[nodiscard]] uint32_t id() const noexcept { return id_; }

    // Control path; any thread but the reactor's may call it. `device` null: removes the namespace. Outstanding I/O
    // still completes.
    void set_namespace(uint32_t nsid, std::shared_ptr<BlockDevice> device, Bars bars = {});
    // Lets go of the devices of removed namespaces. False: outstanding I/O uses one still.
    bool give_back_removed();
    // When it returns, no command that these bars forbid reaches the device any more. What the device has already
    // still completes.
    void set_bars(uint32_t nsid, Bars bars);
    // Aborts the commands of the namespace, but not those for Python: the device gets nothing more of them, and what it
    // has not begun is taken back. Whatever can't be taken back completes; aborting() counts what is not back yet.
    void abort_io(uint32_t nsid);
    [[nodiscard]] uint32_t aborting() const noexcept { return aborting_.load(std::memory_order_acquire); }
    // The next command for Python, in the order in which the host completed them. target_qpair_command says that there
    // may be some; it is sent again only after this has returned nullopt.
    [[nodiscard]] std::optional<QueuedCommand> take_command();
    // Answers a command. data: for the host, zeroes behind it. False: the connection has ended.
    bool complete_command(uint64_t token, Status status, std::span<const uint8_t> data);
    // The connection has ended. target_qpair_closed reports the same.
    [[nodiscard]] bool dead();
    // The connection has ended and every Io is back, so close() will not wait.
    [[nodiscard]] bool drained() const noexcept { return drained_.load(std::memory_order_acquire); }
    [[nodiscard]] TargetQpairStats stats();
    // Closes the socket and waits until every Io is back. Idempotent.
    void close();

private:
    // open -> closing (the last PDUs leave, input is discarded) -> dead (Ios may still be at devices)
    enum class Life : uint8_t { open, closing, dead };

    using Namespace = NamespaceTable::Entry;

    enum class State : uint8_t {
        free,
        capsule,    // in-capsule data is arriving
        waiting,    // waits for chunks
        transfer,   // R2T sent, H2CData is arriving
        fused,      // waits for the other command of its pair
        in_line,    // waits for a lane
        device,     // submitted to the device
        python,     // waits for Python, or is there
        answering,  // the last PDUs are queued
    };

    struct Slot {
        Io io;
        DataShape shape;
        Namespace *ns = nullptr;
        State state = State::free;
        Status status = status::ok;  // may be set before the data has arrived
        uint16_t cid = 0;
        bool reserved = false;  // io.iov points into the device's memory
        bool digest_error = false;
        bool flush_all = false;
        bool fused = false;
        bool second = false;     // of a fused pair
        uint32_t partner = 0;    // of a fused pair; kNoTargetSlot: it has not come
        uint32_t lane = 0;       // kNoTargetSlot: none
        uint32_t step_done = 0;  // blocks of the command (copy: of the range) that are done
        uint64_t copy_lba = 0;   // where the next block goes
        iovec lane_iov{};
        uint32_t command_blocks = 0;
        uint32_t host_iov_count = 0;  // entries with the host's data; io.iov is the lane's meanwhile
        bool only_reads = false;
        bool aborted = false;    // by abort_io(), and not back yet
        bool preempted = false;  // by abort_io(): the device gets no more of it
        uint8_t opcode = 0;
        uint32_t received = 0;
        uint64_t since_ns = 0;  // start of state capsule or transfer
        uint32_t range = 0;     // dataset management: next range. Copy: current range
        uint32_t chunk = 0;     // first chunk that the slot holds; chunk_next_ links the others
        uint32_t chunk_count = 0;
        uint32_t next = 0;    // next slot in the free list or the waiting line
        uint32_t ticket = 0;  // Python's, changes with each command
        uint64_t cdw10_11 = 0;
        TxPdu data;   // R2T or C2HData
        TxPdu reply;  // CapsuleResp
    };

    bool on_header(const uint8_t *pdu, wire::PduType type, uint8_t flags, uint32_t data_length,
                   DataSink &sink) noexcept override;
    void on_ahead(const uint8_t *bytes, size_t count) noexcept override;
    bool on_data(bool digest_ok) noexcept override;
    void on_sent(TxPdu &pdu) noexcept override;

    bool on_command(const wire::CapsuleCmd &pdu, uint32_t data_length, DataSink &sink) noexcept;
    bool on_h2c_data(const wire::H2cData &pdu, uint8_t flags, uint32_t data_length, DataSink &sink) noexcept;

    [[nodiscard]] Status decode(Slot &slot, const wire::Sqe &sqe) noexcept;
    bool next_step(Slot &slot) noexcept;
    void pair(Slot &slot, uint8_t fuse) noexcept;
    void arrived(Slot &slot) noexcept;
    void execute_pair(Slot &first, Slot &second) noexcept;
    void start_steps(Slot &slot) noexcept;
    void first_step(Slot &slot) noexcept;
    void read_step(Slot &slot) noexcept;
    void step_done(Slot &slot) noexcept;
    [[nodiscard]] uint32_t step_blocks(const Slot &slot) const noexcept;
    [[nodiscard]] bool matches(const Slot &slot) const noexcept;
    void give_lane(Slot &slot) noexcept;
    [[nodiscard]] iovec *host_iov(const Slot &slot) const noexcept {
        return iovs_.get() + size_t{number_of(slot)} * iov_per_slot_;
    }

    [[nodiscard]] uint32_t number_of(const Slot &slot) const noexcept {
        return static_cast<uint32_t>(&slot - slots_.data());
    }
    Slot *take_slot() noexcept;
    void free_slot(Slot &slot) noexcept;
    bool find_buffer(Slot &slot) noexcept;
    void place_in_slot_buffer(Slot &slot) noexcept;
    bool take_chunks(Slot &slot) noexcept;
    void give_chunks(Slot &slot) noexcept;
    void serve_waiting() noexcept;
    void begin_transfer(Slot &slot) noexcept;
    void execute(Slot &slot) noexcept;
    void submit(Slot &slot) noexcept;
    void give_to_python(Slot &slot) noexcept;
    [[nodiscard]] static Status bar_of(const Slot &slot) noexcept;
    void abandon(Slot &slot) noexcept;
    void io_done(Slot &slot) noexcept;
    void answer(Slot &slot, Status status) noexcept;
    void queue_reply(Slot &slot, Status status, uint64_t result) noexcept;
    void queue_c2h_data(Slot &slot, bool success) noexcept;

    [[nodiscard]] bool skips_round(uint64_t now_ns) noexcept;
    void await_data(Slot &slot, State state) noexcept;
    void check_transfers(uint64_t now_ns) noexcept;
    void begin_close(uint64_t now_ns) noexcept;
    void release_unsubmitted() noexcept;
    void die(bool tell) noexcept;

    std::shared_ptr<Reactor> reactor_;
    const TargetQpairConfig config_;
    std::unique_ptr<PduStream> stream_;
    uint32_t id_ = 0;
    Life life_ = Life::open;
    bool write_shut_ = false;
    uint64_t linger_until_ns_ = 0;

    NamespaceTable namespaces_;

    std::vector<Slot> slots_;
    uint32_t free_ = 0;
    uint32_t waiting_head_;
    uint32_t waiting_tail_;
    uint32_t outstanding_ = 0;          // Ios at devices
    std::vector<uint32_t> for_python_;  // a ring of slots in state python that Python has not taken yet
    uint32_t for_python_head_ = 0;
    uint32_t for_python_count_ = 0;
    bool python_told_ = false;
    std::atomic<uint32_t> aborting_{0};
    uint32_t slot_buffer_bytes_;
    uint32_t iov_per_slot_;
    std::unique_ptr<iovec[]> iovs_;
    PageMemory slot_buffers_;
    uint32_t chunk_total_;
    PageMemory chunks_;
    std::vector<uint32_t> chunk_next_;
    uint32_t chunk_free_ = 0;
    uint32_t chunks_left_ = 0;

    // Lanes: a bit for each free one, and the slots that wait for one.
    uint32_t lane_bytes_;
    PageMemory lanes_;
    uint32_t lanes_free_ = (1U << kLanes) - 1;
    uint32_t line_head_;
    uint32_t line_tail_;
    static constexpr uint32_t kFailedFirst = kNoTargetSlot - 1;  // it was refused, so the second fails, too
    uint32_t fuse_first_;        // the slot of the first of a fused pair, whose second has to come next
    bool serving_line_ = false;  // give_lane() is at work

    uint16_t sqhd_;
    uint32_t rx_slot_ = 0;  // slot whose data is being received
    wire::PduType rx_type_ = wire::PduType::capsule_cmd;
    uint32_t rx_length_ = 0;
    bool disconnect_ = false;
    uint64_t check_ns_ = ~uint64_t{0};  // when transfers are checked next; ~0: there are none
    uint64_t heard_ns_ = 0;
    uint64_t window_ns_ = 0;  // end of the current window
    uint32_t hits_ = 0;       // receptions in the current window
    uint32_t skipped_ = 0;
    bool idle_ = false;  // few receptions in the previous window
    TargetQpairStats stats_;

    std::atomic<bool> drained_{false};  // dead, and every Io is back
    std::mutex control_mutex_;          // several threads may call close() at once
    bool removed_from_reactor_ = false;
};

}  // namespace ftl
