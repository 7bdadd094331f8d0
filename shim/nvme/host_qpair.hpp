// SPDX-License-Identifier: BSD-3-Clause
// The host side of one NVMe/TCP I/O queue, after Connect: a remote namespace as a BlockDevice.
//
// As in libnbd, a command is on one of three lists: waiting for a slot, in flight (CID = slot), or done. If the
// connection is lost, all commands move to done with path_error. poll() runs the completions, so complete() never runs
// inside submit().
#pragma once

#include <memory>
#include <vector>

#include "nvme/pdu_stream.hpp"
#include "reactor/block_device.hpp"
#include "reactor/io_list.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

struct HostQpairConfig {
    uint32_t queue_depth = 128;  // outstanding commands; at most SQSIZE
    uint32_t nsid = 1;
    bool header_digest = false;
    bool data_digest = false;
    uint32_t max_h2c_data = 131072;    // MAXH2CDATA of the controller
    uint32_t in_capsule_bytes = 4096;  // IOCCSZ * 16 - 64
    uint32_t max_io_bytes = 131072;    // MDTS
    uint32_t max_append_bytes = 0;     // ZASL
    uint64_t io_timeout_ns = 0;        // a command without an answer for that long ends the connection; 0: no limit
    std::shared_ptr<TlsSession> tls;   // null: no TLS
};

class HostQpair final : public BlockDevice, public Poller, private PduHandler {
public:
    static constexpr uint32_t kQueueDepthMax = 4096;

    // Takes a duplicate of fd and registers with the reactor. Throws std::invalid_argument or std::system_error. `info`
    // describes the namespace; the constructor sets max_io_blocks and max_append_blocks.
    HostQpair(std::shared_ptr<Reactor> reactor, int fd, const HostQpairConfig &config, const BlockDeviceInfo &info);
    // No Io may be outstanding. Issuers share ownership of the device while they have outstanding Ios.
    ~HostQpair() override;

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override;
    [[nodiscard]] bool awaits() const noexcept override { return connected_ && in_flight_ > 0 && elsewhere(); }
    [[nodiscard]] bool hurries() const noexcept override {
        return reads_ > 0 && reads_ == in_flight_ && reads_ <= kHurryMax && elsewhere();
    }
    [[nodiscard]] bool blocks_peer() const noexcept override {
        return connected_ && in_flight_ > 0 && stream_->peer() == PduStream::Place::here;
    }
    [[nodiscard]] bool lost() const noexcept override { return !connected_; }
    [[nodiscard]] int fd() const noexcept override { return stream_->fd(); }
    void ready() noexcept override { skipped_ = kQuietRounds; }
    [[nodiscard]] bool wants_write() const noexcept override { return connected_ && stream_->blocked(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept override {
        return config_.io_timeout_ns > 0 && in_flight_ > 0 ? check_at_ns_ : ~uint64_t{0};
    }

    [[nodiscard]] uint32_t id() const noexcept { return id_; }
    [[nodiscard]] bool connected() const noexcept { return connected_; }
    // Outstanding and later I/O fails with path_error. Any thread may call it. Idempotent.
    void close();

private:
    static constexpr uint32_t kNoSlot = ~uint32_t{0};
    static constexpr uint32_t kQuietRounds = 16;
    static constexpr uint32_t kHurryMax = 2;  // reads in flight; with more, an issuer has enough to do meanwhile

    struct Slot {
        Io *io = nullptr;  // null: the slot is free
        TxPdu command;
        TxPdu data;             // the H2CData PDU being sent; one at a time
        uint32_t length = 0;    // bytes to transfer
        uint32_t granted = 0;   // end of the data that R2Ts have asked for
        uint32_t sent = 0;      // bytes put into H2CData PDUs
        uint32_t received = 0;  // bytes of C2HData received
        uint16_t ttag = 0;
        uint64_t started_ns = 0;
        Status status = status::ok;
        bool do_not_retry = false;
        uint64_t result = 0;
        bool writes = false;    // the command sends data to the controller, by R2T
        bool answered = false;  // answered, but waits until its PDUs have left
        bool digest_error = false;
        uint32_t next_free = 0;
        wire::DsmRange range{};
        iovec range_iov{};
    };

    bool on_header(const uint8_t *pdu, wire::PduType type, uint8_t flags, uint32_t data_length,
                   DataSink &sink) noexcept override;
    bool on_data(bool digest_ok) noexcept override;
    void on_sent(TxPdu &pdu) noexcept override;

    bool on_response(const wire::CapsuleResp &pdu) noexcept;
    bool on_r2t(const wire::R2t &pdu) noexcept;
    bool on_c2h_data(const wire::C2hData &pdu, uint8_t flags, uint32_t data_length, DataSink &sink) noexcept;
    Slot *slot_of(uint16_t cid) noexcept;

    void start(Io &io) noexcept;
    void encode(Slot &slot, uint16_t cid) noexcept;
    void queue_h2c(Slot &slot) noexcept;
    void answer(Slot &slot, Status status) noexcept;
    void finish(Slot &slot) noexcept;
    uint32_t run_done() noexcept;
    [[nodiscard]] bool elsewhere() const noexcept { return stream_->peer() == PduStream::Place::elsewhere; }
    [[nodiscard]] bool skips_receive() noexcept;
    void check_timeouts(uint64_t now_ns) noexcept;
    void lose() noexcept;

    std::shared_ptr<Reactor> reactor_;
    const HostQpairConfig config_;
    BlockDeviceInfo info_;
    std::unique_ptr<PduStream> stream_;
    uint32_t id_ = 0;
    bool connected_ = true;

    std::vector<Slot> slots_;  // sized in the constructor
    uint32_t free_ = 0;        // head of the list through next_free; kNoSlot: the list is empty
    uint32_t in_flight_ = 0;
    uint32_t reads_ = 0;    // of them
    bool awaited_ = false;  // in_flight_ > 0 after the previous poll
    uint32_t skipped_ = 0;
    uint64_t check_at_ns_ = 0;
    IoList waiting_;  // Ios that wait for a slot
    IoList done_;     // poll() completes these
    // The PDU being received.
    uint16_t rx_cid_ = 0;
    bool rx_last_ = false;
    bool rx_success_ = false;
    uint32_t rx_length_ = 0;
};

}  // namespace ftl
