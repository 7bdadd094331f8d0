// SPDX-License-Identifier: BSD-3-Clause
// TLS 1.3 with a pre-shared key on a non-blocking stream socket: the handshake, then read and write as on a socket.
//
// OpenSSL implements it, if the shim is built with OpenSSL. It uses no certificates, no tickets, no early data, and no
// key without a Diffie-Hellman exchange. A filter of the shim sits between OpenSSL and the socket, so that one recv()
// reads all available records. If the kernel handles the cipher (kTLS), the filter passes calls through.
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

// A key that both ends know, and its identity. The hash determines the cipher suite.
struct TlsPsk {
    std::string identity;
    std::vector<uint8_t> key;
    bool sha384 = false;  // TLS_AES_256_GCM_SHA384; otherwise TLS_AES_128_GCM_SHA256
};

// Only one thread may use it at a time: Python's until a PduStream takes it, then the reactor's.
class TlsSession {
public:
    // Looks up an identity that a host offers; nullopt: unknown. An exception ends the handshake.
    using FindPsk = std::function<std::optional<TlsPsk>(const std::string &identity)>;
    enum class Step : uint8_t { done = 0, wants_read = 1, wants_write = 2, failed = 3 };

    // How many of a host's identities are looked up.
    static constexpr uint32_t kIdentitiesMax = 4;
    // How many records without data, such as key updates, may arrive in a row.
    static constexpr uint32_t kEmptyRecordsMax = 32;
    static constexpr size_t kRecordBytes = 16384;
    static constexpr size_t kInputBytes = 128 * 1024;
    // How many records one read takes, however small they are.
    static constexpr uint32_t kReadsMax = 128;

    // "OpenSSL 3.0.22 …"; empty: the shim was built without OpenSSL.
    static std::string library();

    // Each takes a duplicate of fd. Throws std::runtime_error without OpenSSL, and std::system_error or
    // std::invalid_argument.
    static std::shared_ptr<TlsSession> as_host(int fd, TlsPsk psk);
    static std::shared_ptr<TlsSession> as_target(int fd, FindPsk find_psk);
    ~TlsSession();
    TlsSession(const TlsSession &) = delete;
    TlsSession &operator=(const TlsSession &) = delete;

    // Repeat it until it returns done or failed. After failed, error() says why, and an alert may have been sent.
    Step handshake();
    [[nodiscard]] bool established() const noexcept { return established_; }
    [[nodiscard]] const std::string &error() const noexcept { return error_; }
    // The identity of the key, and the negotiated cipher. Valid once established.
    [[nodiscard]] const std::string &identity() const noexcept { return psk_.identity; }
    [[nodiscard]] std::string cipher() const;
    // The kernel encrypts output or decrypts input (kTLS).
    [[nodiscard]] bool kernel_sends() const noexcept;
    [[nodiscard]] bool kernel_receives() const noexcept;

    // Like recvmsg() and sendmsg(): bytes, 0 at the end of the stream, or -1 and errno. EBADMSG: the input is not a
    // record, or was modified. write() may keep data that it has taken: call flush() then.
    ssize_t read(const iovec *iov, uint32_t iov_count) noexcept;
    ssize_t write(const iovec *iov, uint32_t iov_count) noexcept;
    // False: some data is still held, or cannot be sent any more (then errno is not EAGAIN).
    bool flush() noexcept;
    [[nodiscard]] bool holds_output() const noexcept { return held_ > 0; }
    // The next read() has work although the socket has no input.
    [[nodiscard]] bool has_input() const noexcept { return more_input_; }
    // Acknowledges received data at once, so that the peer may continue to send. To TCP, each record is a segment of
    // its own. A peer with a small send buffer (SPDK's) would otherwise wait for the delayed ACK in the middle of a
    // PDU.
    void acknowledge() noexcept;
    // Tells the peer that no more data will follow. Best effort.
    void end_output() noexcept;

    [[nodiscard]] int fd() const noexcept { return fd_; }
    // Bytes of records that were received from the socket.
    [[nodiscard]] uint64_t bytes_received() const noexcept { return bytes_received_; }
    // Called by a PduStream: from now on nobody else may use the session. Throws std::invalid_argument.
    void take();
    [[nodiscard]] bool taken() const noexcept { return taken_; }
    // Closes the socket, unless a PduStream has taken it. Idempotent.
    void close() noexcept;

private:
    struct Library;  // OpenSSL's callbacks

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
    bool starved_ = false;  // the socket had no data
    bool at_end_ = false;
    bool more_input_ = true;
    int io_error_ = 0;
    int read_error_ = 0;
    uint32_t empty_records_ = 0;
    uint64_t bytes_received_ = 0;

    std::unique_ptr<uint8_t[]> held_output_;  // room for one record
    size_t held_ = 0;
};

}  // namespace ftl
