// SPDX-License-Identifier: BSD-3-Clause
// Sends and receives PDUs on a non-blocking stream socket, or on a TLS session on it: framing, digests and gathering.
// The handler interprets the PDUs.
//
// Receive: one large recv() fills a linear buffer with any number of PDUs, which are parsed there. The data of large
// PDUs goes from the socket directly to its destination. Send: queued PDUs leave in as few sendmsg() calls as the
// kernel allows.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/iov_cursor.hpp"
#include "nvme/tls_session.hpp"
#include "nvme/wire.hpp"

namespace ftl {

// Why a qpair ended: `a` of the events target_qpair_closed and host_qpair_lost.
enum class QpairClose : uint64_t {
    none = 0,
    peer_closed = 1,      // end of stream
    socket_error = 2,     // b = errno
    protocol_error = 3,   // the peer violated the protocol; b = the FES that was sent to it
    peer_terminated = 4,  // the peer sent a TermReq; b = its FES
    disconnected = 5,     // by a Disconnect command
    closed = 6,           // by close()
    timed_out = 7,        // a command was not answered in time
};

struct StreamFault {
    QpairClose reason = QpairClose::none;
    uint32_t detail = 0;  // errno or FES
    uint32_t fei = 0;
    explicit operator bool() const noexcept { return reason != QpairClose::none; }
};

// A PDU to be sent. The handler's slots own it; the stream borrows it from queue() until on_sent() or clear().
struct TxPdu {
    static constexpr size_t kHeaderMax = sizeof(wire::CapsuleCmd) + wire::kDigestBytes;

    TxPdu *next = nullptr;
    const iovec *data = nullptr;  // the data after the header: data_length bytes from data_skip on
    uint32_t data_count = 0;
    uint32_t data_skip = 0;
    uint32_t data_length = 0;
    uint32_t slot = 0;  // for the handler
    bool queued = false;
    uint8_t header_length = 0;  // including its digest
    uint8_t digest_length = 0;
    alignas(8) std::array<uint8_t, kHeaderMax> header{};
    std::array<uint8_t, wire::kDigestBytes> digest{};

    template <class Pdu>
    void set_header(const Pdu &pdu) noexcept {
        static_assert(sizeof(Pdu) + wire::kDigestBytes <= kHeaderMax);
        __builtin_memcpy(header.data(), &pdu, sizeof(Pdu));
    }
    [[nodiscard]] uint32_t bytes() const noexcept { return header_length + data_length + digest_length; }
};

// Destination of the data of the PDU being received. iov null: the data is discarded.
struct DataSink {
    const iovec *iov = nullptr;
    uint32_t iov_count = 0;
    uint32_t skip = 0;  // bytes of iov to skip first
};

class PduHandler {
public:
    // A header is complete, well-formed and verified; data_length bytes of data follow. The header bytes are valid only
    // during the call. False: the handler called PduStream::reject() or stop().
    virtual bool on_header(const uint8_t *pdu, wire::PduType type, uint8_t flags, uint32_t data_length,
                           DataSink &sink) noexcept = 0;
    // What follows the PDU whose header comes next, as far as it has arrived: a hint. Nothing in it has been checked.
    virtual void on_ahead(const uint8_t *bytes, size_t count) noexcept {
        (void)bytes;
        (void)count;
    }
    // All data of that PDU has arrived. Not called if data_length is 0.
    virtual bool on_data(bool digest_ok) noexcept = 0;
    // The kernel has taken the whole PDU. The handler may queue() more PDUs, including this one.
    virtual void on_sent(TxPdu &pdu) noexcept = 0;

protected:
    ~PduHandler() = default;
};

class PduStream {
public:
    enum class Role : uint8_t { host, target };

    // Takes a duplicate of fd, which must be a connected stream socket, or takes over the TLS session on it. Throws
    // std::system_error, or std::invalid_argument if the session is not established or has another user.
    PduStream(PduHandler &handler, Role role, int fd, bool header_digest, bool data_digest,
              std::shared_ptr<TlsSession> tls = nullptr);
    ~PduStream();
    PduStream(const PduStream &) = delete;
    PduStream &operator=(const PduStream &) = delete;

    // Reads and parses what the socket has. Returns the number of PDUs and pieces of data it processed. Check fault()
    // afterwards.
    uint32_t receive() noexcept;
    // Call it in on_header() or on_data(): the PDU violates the protocol. `fei`: offset of the faulty field.
    bool reject(wire::Fes fes, uint32_t fei = 0) noexcept;
    // Call it in on_header() or on_data(): stops parsing.
    bool stop() noexcept {
        stopped_ = true;
        return false;
    }

    // The caller sets the header's type, flags (LAST, SUCCESS) and specific fields. queue() fills in lengths and
    // digests.
    void queue(TxPdu &pdu) noexcept;
    // Sends what the kernel takes. Returns the number of PDUs that were sent completely.
    uint32_t flush() noexcept;
    // A poll's part: flush(), receive() if `receives`, and flush() for what the handler has queued meanwhile. What
    // other pollers have queued leaves first, so that the peer works while this side asks its socket. Returns the work
    // done.
    uint32_t exchange(bool receives) noexcept;
    // Drops all queued PDUs. If one was partly sent, the stream cannot send any more.
    void clear() noexcept;
    // Queues the TermReq of this role for the present fault (protocol_error).
    void queue_term_req() noexcept;

    // Orderly end, to be called after the last queued PDU. Reads and drops input; true at the end of the stream.
    void shut_write() noexcept;
    bool drain_input() noexcept;
    // Immediate end. The destructor closes the descriptor, so that epoll does not see its number reused.
    void shut() noexcept;

    [[nodiscard]] const StreamFault &fault() const noexcept { return fault_; }
    void set_fault(QpairClose reason, uint32_t detail = 0) noexcept {
        if (!fault_) {
            fault_ = {reason, detail, 0};
        }
    }
    [[nodiscard]] int fd() const noexcept { return open_ ? fd_ : -1; }
    [[nodiscard]] bool sending() const noexcept { return head_ != nullptr || (tls_ && tls_->holds_output()); }
    [[nodiscard]] bool blocked() const noexcept { return blocked_ && sending(); }
    // The last receive() has taken all that there was.
    [[nodiscard]] bool drained() const noexcept { return drained_; }
    // Which processor the peer runs on, compared with the one that runs this.
    enum class Place : uint8_t { unknown, here, elsewhere };
    [[nodiscard]] Place peer() const noexcept { return peer_; }
    // receive() has work although the socket has no input.
    [[nodiscard]] bool has_input() const noexcept { return tls_ && open_ && tls_->has_input(); }
    [[nodiscard]] bool partly_sent() const noexcept { return head_ != nullptr && head_sent_ > 0; }
    [[nodiscard]] bool data_digest() const noexcept { return data_digest_; }
    [[nodiscard]] uint64_t bytes_in() const noexcept { return bytes_in_; }
    [[nodiscard]] uint64_t bytes_out() const noexcept { return bytes_out_; }

private:
    enum class State : uint8_t { common_header, header, padding, data, digest };

    // A controller may send all answers of a queue at once. The host takes at most this many bytes, about, in one
    // receive(), and passes them on before it reads more. If everything always moved as one batch, of host, FTL and
    // base only one at a time would have work.
    static constexpr size_t kRxBufferHost = 64 * 1024;
    static constexpr size_t kRxBufferTarget = 128 * 1024;
    // While large data streams in, the read-ahead is this small, so that the rest goes to its destination without a
    // copy.
    static constexpr size_t kRxSmallWindow = 2048;
    static constexpr uint32_t kDirectMin = 16 * 1024;
    static constexpr uint32_t kReceiveRounds = 4;
    static constexpr uint32_t kIovMax = 256;
    static constexpr uint32_t kLocateRounds = 64;  // receptions between two looks where the peer runs

    void parse() noexcept;
    bool check_common_header() noexcept;
    bool begin_pdu(const uint8_t *pdu) noexcept;
    bool end_data() noexcept;
    void advance_data(const uint8_t *source, uint32_t bytes) noexcept;
    uint32_t gather_sink(std::array<iovec, kIovMax> &iov) const noexcept;
    ssize_t receive_some(size_t &asked) noexcept;
    void locate_peer() noexcept;
    bool flush_tls() noexcept;
    ssize_t read_socket(iovec *iov, uint32_t iov_count) noexcept;

    PduHandler &handler_;
    const Role role_;
    const bool header_digest_;
    const bool data_digest_;
    const size_t rx_bytes_;  // size of buffer_
    bool open_ = true;
    bool stopped_ = false;
    bool blocked_ = false;
    int fd_ = -1;
    const std::shared_ptr<TlsSession> tls_;  // null: no TLS
    const bool local_;                       // both ends of the connection are on this machine
    StreamFault fault_;

    // Receive.
    State state_ = State::common_header;
    std::unique_ptr<uint8_t[]> buffer_;
    size_t begin_ = 0;
    size_t end_ = 0;
    size_t window_ = 0;
    bool drained_ = true;
    Place peer_ = Place::unknown;
    Place peer_seen_ = Place::unknown;  // at the last look
    uint32_t locate_rounds_ = 0;
    wire::CommonHeader ch_{};
    uint32_t header_need_ = 0;  // length of the header and its digest
    uint32_t data_length_ = 0;
    uint32_t padding_left_ = 0;
    uint32_t data_left_ = 0;
    bool digest_follows_ = false;
    uint32_t data_crc_ = 0;
    bool discards_ = true;  // the data is discarded; otherwise it goes to sink_
    IovCursor sink_;

    // Send.
    TxPdu *head_ = nullptr;
    TxPdu *tail_ = nullptr;
    uint32_t head_sent_ = 0;
    TxPdu term_;
    std::array<uint8_t, wire::kTermReqDataMax> offender_{};
    iovec offender_iov_{};
    uint32_t offender_length_ = 0;

    uint64_t bytes_in_ = 0;
    uint64_t bytes_out_ = 0;
};

}  // namespace ftl
