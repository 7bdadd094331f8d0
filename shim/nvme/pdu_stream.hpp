// SPDX-License-Identifier: BSD-3-Clause
// PDUs in and out of one non-blocking stream socket: framing, digests, gathering. What a PDU means is the handler's.
// With a TLS session they go through that.
//
// Receive: one big recv() feeds a linear buffer from which any number of PDUs is parsed; the data of large PDUs goes
// from the socket straight into its destination. Send: queued PDUs leave in as few sendmsg() as the kernel takes.
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
    protocol_error = 3,   // the peer broke the protocol; b = the FES we sent it
    peer_terminated = 4,  // the peer sent a TermReq; b = its FES
    disconnected = 5,     // by a Disconnect command
    closed = 6,           // by our own close()
    timed_out = 7,        // a command had no answer in time
};

struct StreamFault {
    QpairClose reason = QpairClose::none;
    uint32_t detail = 0;  // errno or FES
    uint32_t fei = 0;
    explicit operator bool() const noexcept { return reason != QpairClose::none; }
};

// A PDU to be sent. Owned by the handler's slots; lent to the stream from queue() until on_sent() or clear().
struct TxPdu {
    static constexpr size_t kHeaderMax = sizeof(wire::CapsuleCmd) + wire::kDigestBytes;

    TxPdu *next = nullptr;
    const iovec *data = nullptr;  // what follows the header: data_length bytes from data_skip on
    uint32_t data_count = 0;
    uint32_t data_skip = 0;
    uint32_t data_length = 0;
    uint32_t slot = 0;  // the handler's
    bool queued = false;
    uint8_t header_length = 0;  // with digest
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

// Where the data of the PDU being received goes; iov null throws it away.
struct DataSink {
    const iovec *iov = nullptr;
    uint32_t iov_count = 0;
    uint32_t skip = 0;  // bytes of iov to leave alone first
};

class PduHandler {
public:
    // A header is complete, well-formed and verified; data_length bytes of data will follow. The bytes are only there
    // during the call. False: PduStream::reject() or stop() was called.
    virtual bool on_header(const uint8_t *pdu, wire::PduType type, uint8_t flags, uint32_t data_length,
                           DataSink &sink) noexcept = 0;
    // All the data of that PDU has arrived (not called when data_length is 0).
    virtual bool on_data(bool digest_ok) noexcept = 0;
    // The kernel has taken the PDU as a whole. May queue() more, also this one.
    virtual void on_sent(TxPdu &pdu) noexcept = 0;

protected:
    ~PduHandler() = default;
};

class PduStream {
public:
    enum class Role : uint8_t { host, target };

    // Takes a duplicate of fd, which must be a connected stream socket, or the TLS session on it. Throws
    // std::system_error; std::invalid_argument for a session that is not established, or another's.
    PduStream(PduHandler &handler, Role role, int fd, bool header_digest, bool data_digest,
              std::shared_ptr<TlsSession> tls = nullptr);
    ~PduStream();
    PduStream(const PduStream &) = delete;
    PduStream &operator=(const PduStream &) = delete;

    // Reads and parses what is there; returns how many PDUs and pieces of data it got on with. Check fault() after.
    uint32_t receive() noexcept;
    // Within on_header/on_data: the PDU breaks the protocol. fei: offset of the field at fault.
    bool reject(wire::Fes fes, uint32_t fei = 0) noexcept;
    // Within on_header/on_data: parse nothing more.
    bool stop() noexcept {
        stopped_ = true;
        return false;
    }

    // The header's type, flags (LAST, SUCCESS) and own fields are the caller's; lengths and digests are filled in here.
    void queue(TxPdu &pdu) noexcept;
    // Sends what the kernel takes; returns how many PDUs were finished.
    uint32_t flush() noexcept;
    // Forgets everything queued (a PDU sent in part too: the stream is unusable for sending after that).
    void clear() noexcept;
    // Queues a TermReq of our role for the present fault (protocol_error).
    void queue_term_req() noexcept;

    // Orderly end: after the last queued PDU. Reads and drops input; true at its end.
    void shut_write() noexcept;
    bool drain_input() noexcept;
    // End at once. The descriptor itself lives until the destructor, so that its number is not reused under epoll.
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
    // receive() has something to do although the socket has nothing.
    [[nodiscard]] bool has_input() const noexcept { return tls_ && open_ && tls_->has_input(); }
    [[nodiscard]] bool partly_sent() const noexcept { return head_ != nullptr && head_sent_ > 0; }
    [[nodiscard]] bool data_digest() const noexcept { return data_digest_; }
    [[nodiscard]] uint64_t bytes_in() const noexcept { return bytes_in_; }
    [[nodiscard]] uint64_t bytes_out() const noexcept { return bytes_out_; }

private:
    enum class State : uint8_t { common_header, header, padding, data, digest };

    static constexpr size_t kRxBufferBytes = 128 * 1024;
    // While large data streams in, read ahead only this much: the rest then lands in its destination without a copy.
    static constexpr size_t kRxSmallWindow = 2048;
    static constexpr uint32_t kDirectMin = 16 * 1024;
    static constexpr uint32_t kReceiveRounds = 4;
    static constexpr uint32_t kIovMax = 256;

    void parse() noexcept;
    bool check_common_header() noexcept;
    bool begin_pdu(const uint8_t *pdu) noexcept;
    bool end_data() noexcept;
    void advance_data(const uint8_t *source, uint32_t bytes) noexcept;
    uint32_t gather_sink(std::array<iovec, kIovMax> &iov) const noexcept;
    ssize_t receive_some(size_t &asked) noexcept;
    bool flush_tls() noexcept;
    ssize_t read_socket(iovec *iov, uint32_t iov_count) noexcept;

    PduHandler &handler_;
    const Role role_;
    const bool header_digest_;
    const bool data_digest_;
    bool open_ = true;
    bool stopped_ = false;
    bool blocked_ = false;
    int fd_ = -1;
    const std::shared_ptr<TlsSession> tls_;  // null: in the clear
    StreamFault fault_;

    // Receive.
    State state_ = State::common_header;
    std::unique_ptr<uint8_t[]> buffer_;
    size_t begin_ = 0;
    size_t end_ = 0;
    size_t window_ = kRxBufferBytes;
    wire::CommonHeader ch_{};
    uint32_t header_need_ = 0;  // header and its digest
    uint32_t data_length_ = 0;
    uint32_t padding_left_ = 0;
    uint32_t data_left_ = 0;
    bool digest_follows_ = false;
    uint32_t data_crc_ = 0;
    bool discards_ = true;  // the data goes nowhere, else to sink_
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
