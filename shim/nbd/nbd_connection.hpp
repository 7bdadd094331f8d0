// SPDX-License-Identifier: BSD-3-Clause
// The server side of one NBD connection in its transmission phase, after the handshake: requests of a client become Ios
// to a BlockDevice. docs/nbd.md has the design.
//
// The constructor allocates all memory of a connection, which costs nothing until it is touched:
//   - kRequests slots, one for each request that is being received, executed or answered
//   - a pool of kChunkBytes chunks for the data of reads and writes: kPoolBytes.
// If no slot or too few chunks are free, the connection stops reading its socket. So a client that sends without end,
// or never reads, makes no memory grow and delays nobody else. A write's data goes into chunks, never into memory that
// the device reserve()s: a client that stalls in the middle of a write holds nothing of the device.
//
// A request has one Io, which carries out the request in pieces, one after the other, none larger than the device's
// max_io_blocks.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "base/page_memory.hpp"
#include "nbd/wire.hpp"
#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

// Why a connection has ended.
enum class NbdClose : uint64_t {
    none = 0,
    peer_closed = 1,     // end of stream
    socket_error = 2,    // detail = errno
    protocol_error = 3,  // the client violated the protocol
    disconnected = 4,    // NBD_CMD_DISC
    closed = 5,          // by close()
};

struct NbdConnectionConfig {
    uint64_t block_count = 0;  // of the export, as the client was told; the device may have become larger
    bool read_only = false;
    bool structured_replies = false;
    // What was advertised. A request for anything else fails with EINVAL.
    bool trim = true;
    bool write_zeroes = true;
    bool fast_zero = true;
};

struct NbdConnectionStats {
    uint64_t requests = 0;
    uint64_t read_blocks = 0;
    uint64_t write_blocks = 0;
    uint64_t errors = 0;
    uint64_t bytes_in = 0;
    uint64_t bytes_out = 0;
};

class NbdConnection final : public Poller {
public:
    static constexpr uint32_t kRequests = 128;
    static constexpr uint32_t kChunkBytes = 64 * 1024;
    static constexpr uint32_t kPoolBytes = 8 * 1024 * 1024;
    // The largest read or write (NBD_INFO_BLOCK_SIZE). Trims and zeroes have no such limit.
    static constexpr uint32_t kRequestBytesMax = 1024 * 1024;
    // Data of a larger write is not even read and dropped: the protocol lets no client send more unasked.
    static constexpr uint32_t kDropBytesMax = 32 * 1024 * 1024;
    // Blocks of the largest piece of a trim, so that others do not wait long for it.
    static constexpr uint32_t kTrimBlocksMax = 1 << 16;
    static constexpr uint32_t kBlockBytesMin = 512;
    // How long a client may take to read the last replies after NBD_CMD_DISC.
    static constexpr uint64_t kLingerNs = 1'000'000'000;
    // A connection with little traffic is polled in one of this many rounds, because each poll is a system call.
    static constexpr uint32_t kIdleRounds = 16;
    static constexpr uint64_t kIdleWindowNs = 100'000'000;
    static constexpr uint32_t kIdleHitsMax = 100;  // receptions per window

    // Takes a duplicate of fd and registers with the reactor. Throws std::invalid_argument or std::system_error.
    NbdConnection(std::shared_ptr<Reactor> reactor, int fd, const NbdConnectionConfig &config,
                  std::shared_ptr<BlockDevice> device);
    ~NbdConnection() override;

    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override;
    [[nodiscard]] int fd() const noexcept override { return fd_; }
    void ready() noexcept override { skipped_ = kIdleRounds; }
    [[nodiscard]] bool wants_read() const noexcept override { return !stalled_; }
    [[nodiscard]] bool wants_write() const noexcept override { return blocked_; }
    [[nodiscard]] uint64_t deadline_ns() const noexcept override;

    [[nodiscard]] uint32_t id() const noexcept { return id_; }

    // Control path; any thread but the reactor's may call it.
    // The connection has ended. nbd_closed reports the same.
    [[nodiscard]] bool dead();
    // The connection has ended and every Io is back, so close() will not wait.
    [[nodiscard]] bool drained() const noexcept { return drained_.load(std::memory_order_acquire); }
    [[nodiscard]] NbdConnectionStats stats();
    // Closes the socket, and does not wait. Idempotent.
    void disconnect();
    // Like disconnect(), and waits until every Io is back. Idempotent.
    void close();

private:
    static constexpr uint32_t kNone = ~uint32_t{0};
    static constexpr uint32_t kChunksMax = kRequestBytesMax / kChunkBytes;  // of one request
    static constexpr uint32_t kChunks = kPoolBytes / kChunkBytes;
    static constexpr uint32_t kRxBytes = 64 * 1024;
    static constexpr uint32_t kDirectMin = 16 * 1024;  // data from here on is received straight into chunks
    static constexpr uint32_t kReceiveRounds = 4;
    static constexpr uint32_t kSendIovMax = 64;
    static constexpr uint64_t kPeerCheckNs = 1'000'000;

    // open -> closing (the last replies leave, input is discarded) -> dead (Ios may still be at the device)
    enum class Life : uint8_t { open, closing, dead };
    enum class State : uint8_t { free, receiving, device, answering };

    struct Slot {
        Io io;
        State state = State::free;
        uint16_t type = 0;
        bool flush_after = false;  // FUA of an operation that has none of its own
        bool zero_data = false;    // a write of zeroes, without data from the client
        uint64_t cookie = 0;
        uint64_t offset = 0;       // bytes
        uint32_t length = 0;       // bytes
        uint32_t data_length = 0;  // bytes in chunks: of a read or write
        uint64_t next_block = 0;   // next piece
        uint32_t blocks_left = 0;
        uint32_t chunk_count = 0;
        std::array<iovec, kChunksMax> data;       // the chunks
        std::array<iovec, kChunksMax + 1> piece;  // of the current Io
        uint32_t next = kNone;                    // in the free list or the send queue
        std::array<uint8_t, sizeof(nbd::DataChunk)> header;
        uint32_t header_length = 0;
        uint32_t reply_length = 0;  // header and data
    };

    [[nodiscard]] uint32_t number_of(const Slot &slot) const noexcept {
        return static_cast<uint32_t>(&slot - slots_.data());
    }

    // nbd_connection.cpp: life, receiving, sending
    uint32_t receive() noexcept;
    [[nodiscard]] ssize_t receive_some(size_t &asked) noexcept;
    void parse() noexcept;
    void take_data() noexcept;
    uint32_t send() noexcept;
    void sent(size_t bytes) noexcept;
    void queue_reply(Slot &slot) noexcept;
    Slot *take_slot() noexcept;
    void free_slot(Slot &slot) noexcept;
    bool take_chunks(Slot &slot, uint32_t bytes) noexcept;
    void give_chunks(Slot &slot) noexcept;
    [[nodiscard]] bool skips_round(uint64_t now_ns) noexcept;
    void check_peer(uint64_t now_ns) noexcept;
    void fault(NbdClose reason, uint32_t detail = 0) noexcept;
    void drop_input() noexcept;
    void die(bool tell) noexcept;

    // nbd_requests.cpp: requests
    bool on_request(const nbd::Request &request) noexcept;
    [[nodiscard]] uint32_t check(const nbd::Request &request) const noexcept;
    void on_data_received() noexcept;
    void execute(Slot &slot) noexcept;
    void next_piece(Slot &slot) noexcept;
    void submit(Slot &slot) noexcept;
    void io_done(Slot &slot) noexcept;
    void answer(Slot &slot, uint32_t error) noexcept;

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<BlockDevice> device_;
    const NbdConnectionConfig config_;
    const uint32_t block_bytes_;
    const uint32_t max_piece_blocks_;  // of a read or write
    int fd_ = -1;
    uint32_t id_ = 0;
    Life life_ = Life::open;
    NbdClose reason_ = NbdClose::none;
    uint32_t detail_ = 0;
    bool ended_ = false;  // the stream ended after NBD_CMD_DISC
    uint64_t linger_until_ns_ = 0;

    std::vector<Slot> slots_;
    uint32_t free_ = 0;
    uint32_t outstanding_ = 0;  // Ios at the device
    uint32_t active_ = 0;       // slots in use
    PageMemory chunks_;
    PageMemory zeroes_;  // one chunk, never written
    std::array<uint32_t, kChunks> chunk_free_;
    uint32_t chunks_left_ = kChunks;

    // Received, and not parsed yet: buffer_[begin_, end_).
    std::unique_ptr<uint8_t[]> buffer_;
    uint32_t begin_ = 0;
    uint32_t end_ = 0;
    uint32_t rx_slot_ = kNone;  // the write whose data arrives
    uint32_t rx_done_ = 0;      // bytes of it
    uint32_t rx_left_ = 0;      // bytes of data still to come
    uint32_t rx_error_ = 0;     // not 0: the data is dropped, and this is the answer
    bool stalled_ = false;      // the next request waits for a slot or for chunks

    uint32_t send_head_ = kNone;
    uint32_t send_tail_ = kNone;
    uint32_t send_done_ = 0;  // bytes of the head that are sent
    bool blocked_ = false;    // the socket is full

    uint64_t peer_check_ns_ = 0;
    uint64_t window_ns_ = 0;  // end of the current window
    uint32_t hits_ = 0;       // receptions in the current window
    uint32_t skipped_ = 0;
    bool idle_ = false;
    NbdConnectionStats stats_;

    std::atomic<bool> drained_{false};
    std::mutex control_mutex_;  // several threads may call close() at once
    bool removed_from_reactor_ = false;
};

}  // namespace ftl
