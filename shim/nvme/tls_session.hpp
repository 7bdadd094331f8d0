// SPDX-License-Identifier: BSD-3-Clause
// TLS 1.3 with a pre-shared key on one non-blocking stream socket: the handshake, then read and write like a socket's.
//
// It is OpenSSL's, where the shim was built with that; no certificates, no tickets, no early data, no key without a
// Diffie-Hellman exchange. Records go through a filter of ours between OpenSSL and the socket, so that one recv()
// brings as many as there are. Where the kernel has taken over the cipher (kTLS), that filter steps aside.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace ftl {

// What both ends know, and by which name. The hash says the cipher suite, too.
struct TlsPsk {
    std::string identity;
    std::vector<uint8_t> key;
    bool sha384 = false;  // TLS_AES_256_GCM_SHA384; else TLS_AES_128_GCM_SHA256
};

// Used by one thread at a time: by Python's until a PduStream takes it, by the reactor's from then on.
class TlsSession {
public:
    // Of an identity that a host offers; nothing: there is no such key. What it throws ends the handshake.
    using FindPsk = std::function<std::optional<TlsPsk>(const std::string &identity)>;
    enum class Step : uint8_t { done = 0, wants_read = 1, wants_write = 2, failed = 3 };

    // So many of the identities that a host offers are looked up.
    static constexpr uint32_t kIdentitiesMax = 4;
    // Records without data that may come in a row, such as key updates.
    static constexpr uint32_t kEmptyRecordsMax = 32;
    static constexpr size_t kRecordBytes = 16384;
    static constexpr size_t kInputBytes = 128 * 1024;
    // Records that one read takes, however small they are.
    static constexpr uint32_t kReadsMax = 128;

    // "OpenSSL 3.0.22 …"; empty: the shim was built without.
    static std::string library();

    // Each takes a duplicate of fd. Throws std::runtime_error without OpenSSL, std::system_error,
    // std::invalid_argument.
    static std::shared_ptr<TlsSession> as_host(int fd, TlsPsk psk);
    static std::shared_ptr<TlsSession> as_target(int fd, FindPsk find_psk);
    ~TlsSession();
    TlsSession(const TlsSession &) = delete;
    TlsSession &operator=(const TlsSession &) = delete;

    // To be repeated until done or failed. After failed, error() says why, and an alert may have been sent.
    Step handshake();
    [[nodiscard]] bool established() const noexcept { return established_; }
    [[nodiscard]] const std::string &error() const noexcept { return error_; }
    // Which key it was, and what it came to; once established.
    [[nodiscard]] const std::string &identity() const noexcept { return psk_.identity; }
    [[nodiscard]] std::string cipher() const;
    // The kernel does it: for what is sent, and received.
    [[nodiscard]] bool kernel_sends() const noexcept;
    [[nodiscard]] bool kernel_receives() const noexcept;

    // As recvmsg() and sendmsg(): bytes, 0 at the end of the stream, or -1 and errno. EBADMSG: a record that is none,
    // or was changed on its way. What write() has taken it may still hold: flush() then.
    ssize_t read(const iovec *iov, uint32_t iov_count) noexcept;
    ssize_t write(const iovec *iov, uint32_t iov_count) noexcept;
    // False: something is held still, or can't be sent any more (then errno is not EAGAIN).
    bool flush() noexcept;
    [[nodiscard]] bool holds_output() const noexcept { return held_ > 0; }
    // The next read() has something to do although the socket has nothing.
    [[nodiscard]] bool has_input() const noexcept { return more_input_; }
    // The peer may go on sending: what has come is acknowledged at once. Each record is a segment of its own to TCP, so
    // that a peer with a small buffer for sending (SPDK's) would wait out the delayed ACK in the middle of a PDU.
    void acknowledge() noexcept;
    // The peer is told that nothing more comes. Best effort.
    void end_output() noexcept;

    [[nodiscard]] int fd() const noexcept { return fd_; }
    // Of records: what was received from the socket.
    [[nodiscard]] uint64_t bytes_received() const noexcept { return bytes_received_; }
    // For a PduStream: from now on nobody else may use it. Throws std::invalid_argument.
    void take();
    [[nodiscard]] bool taken() const noexcept { return taken_; }
    // Lets go of the socket, unless a PduStream has taken it. Idempotent.
    void close() noexcept;

private:
    struct Library;  // what OpenSSL calls

    explicit TlsSession(int fd);
    void open(bool is_host);
    bool send_record(const uint8_t *bytes, size_t count) noexcept;

    int fd_ = -1;
    void *ssl_ = nullptr;
    TlsPsk psk_;
    FindPsk find_psk_;
    std::exception_ptr thrown_;
    std::string error_;
    bool established_ = false;
    bool failed_ = false;
    bool taken_ = false;
    bool starved_ = false;  // the socket had nothing
    bool at_end_ = false;
    bool more_input_ = true;
    int io_error_ = 0;
    int read_error_ = 0;
    uint32_t empty_records_ = 0;
    uint64_t bytes_received_ = 0;

    std::unique_ptr<uint8_t[]> held_output_;  // one record's worth
    size_t held_ = 0;
};

}  // namespace ftl
