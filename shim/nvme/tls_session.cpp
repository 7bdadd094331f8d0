// SPDX-License-Identifier: BSD-3-Clause
// Reads and writes data of a session. tls_handshake.cpp establishes it.
#include "nvme/tls_session.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "nvme/openssl.hpp"

namespace ftl {

TlsSession::TlsSession(int fd) {
    fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) {
        throw std::system_error(errno, std::generic_category(), "can't duplicate the fd of a TLS session");
    }
}

std::shared_ptr<TlsSession> TlsSession::as_host(int fd, TlsPsk psk) {
    std::shared_ptr<TlsSession> session(new TlsSession(fd));
    session->psk_ = std::move(psk);
    session->open(true);
    return session;
}

std::shared_ptr<TlsSession> TlsSession::as_target(int fd, FindPsk find_psk) {
    std::shared_ptr<TlsSession> session(new TlsSession(fd));
    session->find_psk_ = std::move(find_psk);
    session->open(false);
    return session;
}

void TlsSession::take() {
    if (!established_ || taken_) {
        throw std::invalid_argument(taken_ ? "this TLS session is already in use"
                                           : "the handshake of this TLS session is not complete");
    }
    taken_ = true;
}

void TlsSession::acknowledge() noexcept {
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

void TlsSession::close() noexcept {
    if (!taken_ && fd_ >= 0) {
        ::close(fd_);
        fd_ = -1;
        established_ = false;
        failed_ = true;
        more_input_ = false;
        held_ = 0;
    }
}

#ifdef SHIM_OPENSSL

std::string TlsSession::cipher() const {
    return established_ ? SSL_get_cipher_name(ssl_of(ssl_)) : "";
}

bool TlsSession::kernel_sends() const noexcept {
    return BIO_get_ktls_send(SSL_get_wbio(ssl_of(ssl_))) > 0;
}

bool TlsSession::kernel_receives() const noexcept {
    return BIO_get_ktls_recv(SSL_get_rbio(ssl_of(ssl_))) > 0;
}

ssize_t TlsSession::read(const iovec *iov, uint32_t iov_count) noexcept {
    if (!established_ || read_error_ != 0) {
        more_input_ = false;
        errno = established_ ? read_error_ : ENOTCONN;
        return -1;
    }
    SSL *ssl = ssl_of(ssl_);
    size_t total = 0;
    uint32_t reads = 0;
    more_input_ = true;
    for (uint32_t i = 0; i < iov_count; ++i) {
        size_t filled = 0;
        while (filled < iov[i].iov_len) {
            if (++reads > kReadsMax) {
                break;
            }
            size_t got = 0;
            starved_ = false;
            io_error_ = 0;
            ERR_clear_error();
            if (SSL_read_ex(ssl, static_cast<uint8_t *>(iov[i].iov_base) + filled, iov[i].iov_len - filled, &got) ==
                1) {
                filled += got;
                total += got;
                empty_records_ = 0;
                continue;
            }
            const int error = SSL_get_error(ssl, 0);
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
                if (!starved_ && error == SSL_ERROR_WANT_READ && ++empty_records_ <= kEmptyRecordsMax) {
                    continue;
                }
                if (starved_ || error == SSL_ERROR_WANT_WRITE) {
                    more_input_ = false;
                    errno = EAGAIN;
                    return total > 0 ? static_cast<ssize_t>(total) : -1;
                }
                read_error_ = EBADMSG;
            } else if (error == SSL_ERROR_ZERO_RETURN || at_end_) {
                // If there was data, more_input_ makes the next call report the end of the stream.
                more_input_ = total > 0;
                return static_cast<ssize_t>(total);
            } else {
                read_error_ = io_error_ != 0 ? io_error_ : EBADMSG;
            }
            ERR_clear_error();
            more_input_ = total > 0;
            errno = read_error_;
            return total > 0 ? static_cast<ssize_t>(total) : -1;
        }
    }
    if (total == 0) {
        errno = EAGAIN;
        return -1;
    }
    return static_cast<ssize_t>(total);
}

bool TlsSession::flush() noexcept {
    if (held_ > 0) {
        if (!send_record(held_output_.get(), held_)) {
            return false;
        }
        held_ = 0;
    }
    return true;
}

// Partial writes are off: the record is sent as a whole, or must be offered again.
bool TlsSession::send_record(const uint8_t *bytes, size_t count) noexcept {
    SSL *ssl = ssl_of(ssl_);
    size_t sent = 0;
    io_error_ = 0;
    ERR_clear_error();
    if (SSL_write_ex(ssl, bytes, count, &sent) == 1) {
        return true;
    }
    const int error = SSL_get_error(ssl, 0);
    const bool later = error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ;
    ERR_clear_error();
    errno = later ? EAGAIN : io_error_ != 0 ? io_error_ : EBADMSG;
    return false;
}

// Gathers small pieces into one record. A piece that fills a record is sent without a copy.
ssize_t TlsSession::write(const iovec *iov, uint32_t iov_count) noexcept {
    if (!established_) {
        errno = ENOTCONN;
        return -1;
    }
    size_t taken = 0;
    size_t skip = 0;  // bytes of the first entry
    const auto next = [&] { return static_cast<const uint8_t *>(iov->iov_base) + skip; };
    const auto advance = [&](size_t bytes) {
        taken += bytes;
        skip += bytes;
        if (skip == iov->iov_len) {
            ++iov;
            --iov_count;
            skip = 0;
        }
    };
    const auto hold = [&](size_t bytes) {
        std::memcpy(held_output_.get() + held_, next(), bytes);
        held_ += bytes;
    };
    while (flush()) {
        if (iov_count == 0) {
            return static_cast<ssize_t>(taken);
        }
        if (iov->iov_len - skip >= kRecordBytes) {
            if (!send_record(next(), kRecordBytes)) {
                if (errno != EAGAIN) {
                    break;
                }
                // OpenSSL requires the same bytes again, at any address, whether it has encrypted them or not.
                hold(kRecordBytes);
            }
            advance(kRecordBytes);
            continue;
        }
        while (iov_count > 0 && held_ < kRecordBytes && iov->iov_len - skip < kRecordBytes) {
            const size_t piece = std::min(iov->iov_len - skip, kRecordBytes - held_);
            hold(piece);
            advance(piece);
        }
    }
    return taken > 0 ? static_cast<ssize_t>(taken) : -1;
}

void TlsSession::end_output() noexcept {
    if (established_ && held_ == 0) {
        ERR_clear_error();
        SSL_shutdown(ssl_of(ssl_));
        ERR_clear_error();
    }
}

#else

std::string TlsSession::library() {
    return "";
}

void TlsSession::open(bool /*is_host*/) {
    throw std::runtime_error(
        "TLS: the shim was built without OpenSSL: install its headers (apt-get install libssl-dev), then reinstall "
        "spdk-ftl-py");
}

TlsSession::~TlsSession() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

TlsSession::Step TlsSession::handshake() {
    return Step::failed;
}
std::string TlsSession::cipher() const {
    return "";
}
bool TlsSession::kernel_sends() const noexcept {
    return false;
}
bool TlsSession::kernel_receives() const noexcept {
    return false;
}
ssize_t TlsSession::read(const iovec * /*iov*/, uint32_t /*iov_count*/) noexcept {
    errno = ENOTCONN;
    return -1;
}
ssize_t TlsSession::write(const iovec * /*iov*/, uint32_t /*iov_count*/) noexcept {
    errno = ENOTCONN;
    return -1;
}
bool TlsSession::flush() noexcept {
    return true;
}
void TlsSession::end_output() noexcept {}

#endif

}  // namespace ftl
