// SPDX-License-Identifier: BSD-3-Clause
// The second half of TlsSession: the callbacks of OpenSSL, and the handshake.
#include "nvme/openssl.hpp"
#include "nvme/tls_session.hpp"

#ifdef SHIM_OPENSSL

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace ftl {

namespace {

const char *suite_of(bool sha384) noexcept {
    return sha384 ? "TLS_AES_256_GCM_SHA384" : "TLS_AES_128_GCM_SHA256";
}

std::string last_error() {
    const unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
    return reason != nullptr ? reason : "the connection was closed";
}

// Makes the session that OpenSSL requires for an external key. Null: out of memory.
SSL_SESSION *session_of(SSL *ssl, const TlsPsk &psk) noexcept {
    const std::array<unsigned char, 2> suite = {0x13, static_cast<unsigned char>(psk.sha384 ? 0x02 : 0x01)};
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite.data());
    SSL_SESSION *session = cipher != nullptr ? SSL_SESSION_new() : nullptr;
    if (session == nullptr) {
        return nullptr;
    }
    if (SSL_SESSION_set1_master_key(session, psk.key.data(), psk.key.size()) != 1 ||
        SSL_SESSION_set_cipher(session, cipher) != 1 ||
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
        SSL_SESSION_free(session);
        return nullptr;
    }
    return session;
}

uint32_t big16(const unsigned char *bytes) noexcept {
    return static_cast<uint32_t>(bytes[0]) << 8 | bytes[1];
}

void wipe(std::vector<uint8_t> &key) noexcept {
    OPENSSL_cleanse(key.data(), key.size());
    key.clear();
}

}  // namespace

struct TlsSession::Library {
    // --- the filter below OpenSSL; the BIO of the socket is below the filter

    static int filter_read(BIO *bio, char *bytes, int count) noexcept {
        auto &session = *static_cast<TlsSession *>(BIO_get_data(bio));
        BIO_clear_retry_flags(bio);
        if (BIO_get_ktls_recv(BIO_next(bio))) {
            const int got = BIO_read(BIO_next(bio), bytes, count);
            BIO_copy_next_retry(bio);
            session.starved_ = got <= 0 && BIO_should_retry(bio);
            session.at_end_ = got == 0;
            return got;
        }
        ssize_t got = 0;
        do {
            got = recv(session.fd_, bytes, static_cast<size_t>(count), MSG_DONTWAIT);
        } while (got < 0 && errno == EINTR);
        if (got > 0) {
            session.bytes_received_ += static_cast<uint64_t>(got);
            return static_cast<int>(got);
        }
        if (got == 0) {
            session.at_end_ = true;
            return 0;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            session.starved_ = true;
            BIO_set_retry_read(bio);
        } else {
            session.io_error_ = errno;
        }
        return -1;
    }

    static int filter_write(BIO *bio, const char *bytes, int count) noexcept {
        auto &session = *static_cast<TlsSession *>(BIO_get_data(bio));
        BIO_clear_retry_flags(bio);
        if (BIO_get_ktls_send(BIO_next(bio))) {
            const int sent = BIO_write(BIO_next(bio), bytes, count);
            BIO_copy_next_retry(bio);
            return sent;
        }
        ssize_t sent = 0;
        do {
            sent = send(session.fd_, bytes, static_cast<size_t>(count), MSG_DONTWAIT | MSG_NOSIGNAL);
        } while (sent < 0 && errno == EINTR);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                BIO_set_retry_write(bio);
            } else {
                session.io_error_ = errno;
            }
        }
        return static_cast<int>(sent);
    }

    static long filter_ctrl(BIO *bio, int command, long number, void *pointer) noexcept {
        const auto &session = *static_cast<TlsSession *>(BIO_get_data(bio));
        switch (command) {
            case BIO_CTRL_EOF:
                return session.at_end_ ? 1 : 0;
            case BIO_CTRL_FLUSH:
                return 1;
            case BIO_CTRL_PUSH:
            case BIO_CTRL_POP:
            case BIO_CTRL_DUP:
                return 0;
            default:
                return BIO_ctrl(BIO_next(bio), command, number, pointer);
        }
    }

    static BIO_METHOD *filter() {
        static BIO_METHOD *const method = [] {
            BIO_METHOD *made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_FILTER, "records");
            if (made == nullptr || BIO_meth_set_read(made, filter_read) != 1 ||
                BIO_meth_set_write(made, filter_write) != 1 || BIO_meth_set_ctrl(made, filter_ctrl) != 1) {
                throw std::runtime_error("OpenSSL can't register the shim's BIO");
            }
            return made;
        }();
        return method;
    }

    // --- the keys

    // Chooses one of the host's identities, and with it the cipher suite. OpenSSL would choose the suite first, and
    // then find that the key does not match it.
    static int on_client_hello(SSL *ssl, int *alert, void *) noexcept {
        auto &session = *static_cast<TlsSession *>(SSL_get_app_data(ssl));
        if (!session.psk_.identity.empty()) {
            return SSL_CLIENT_HELLO_SUCCESS;  // the second ClientHello, after a HelloRetryRequest
        }
        const unsigned char *bytes = nullptr;
        size_t left = 0;
        *alert = SSL_AD_HANDSHAKE_FAILURE;
        if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_psk, &bytes, &left) != 1 || left < 2) {
            session.error_ = "the host does not offer a pre-shared key";
            return SSL_CLIENT_HELLO_ERROR;
        }
        left = std::min<size_t>(left - 2, big16(bytes));
        bytes += 2;
        session.error_ = "no key is configured for the identity that the host offers";
        for (uint32_t number = 0; number < kIdentitiesMax && left >= 2; ++number) {
            const size_t length = big16(bytes);
            if (left < 2 + length + 4) {
                break;
            }
            try {
                std::optional<TlsPsk> found =
                    session.find_psk_(std::string(reinterpret_cast<const char *>(bytes + 2), length));
                if (found && SSL_set_ciphersuites(ssl, suite_of(found->sha384)) == 1) {
                    session.psk_ = std::move(*found);
                    session.error_.clear();
                    return SSL_CLIENT_HELLO_SUCCESS;
                }
            } catch (...) {
                session.thrown_ = std::current_exception();
                *alert = SSL_AD_INTERNAL_ERROR;
                return SSL_CLIENT_HELLO_ERROR;
            }
            bytes += 2 + length + 4;
            left -= 2 + length + 4;
        }
        *alert = SSL_AD_UNKNOWN_PSK_IDENTITY;
        return SSL_CLIENT_HELLO_ERROR;
    }

    static int find_session(SSL *ssl, const unsigned char *identity, size_t length, SSL_SESSION **session) noexcept {
        const auto &ours = *static_cast<TlsSession *>(SSL_get_app_data(ssl));
        const std::string &known = ours.psk_.identity;
        *session = nullptr;
        if (known.size() == length && std::memcmp(known.data(), identity, length) == 0) {
            *session = session_of(ssl, ours.psk_);
        }
        return 1;
    }

    static int use_session(SSL *ssl, const EVP_MD *hash, const unsigned char **identity, size_t *length,
                           SSL_SESSION **session) noexcept {
        const auto &ours = *static_cast<TlsSession *>(SSL_get_app_data(ssl));
        *session = nullptr;
        if (hash != nullptr && EVP_MD_get_type(hash) != (ours.psk_.sha384 ? NID_sha384 : NID_sha256)) {
            return 1;
        }
        *session = session_of(ssl, ours.psk_);
        *identity = reinterpret_cast<const unsigned char *>(ours.psk_.identity.data());
        *length = ours.psk_.identity.size();
        return *session != nullptr ? 1 : 0;
    }

    static SSL_CTX *make_context(bool is_host) {
        SSL_CTX *context = SSL_CTX_new(is_host ? TLS_client_method() : TLS_server_method());
        if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1 ||
            SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384") != 1 ||
            SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256") != 1) {
            SSL_CTX_free(context);
            throw std::runtime_error("OpenSSL does not support TLS 1.3 with AES-GCM: " + last_error());
        }
        // The PDU parser detects a stream that ends within a PDU.
        SSL_CTX_set_options(
            context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF
#ifdef SSL_OP_ENABLE_KTLS
                         | SSL_OP_ENABLE_KTLS
#endif
        );
        // One record per call: a peer that sends only key updates cannot keep the thread in OpenSSL.
        SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
        SSL_CTX_set_default_read_buffer_len(context, kInputBytes);
        SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);  // see write()
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(context, 0);
        SSL_CTX_set_max_early_data(context, 0);
        SSL_CTX_set_recv_max_early_data(context, 0);
        if (is_host) {
            // No certificate is accepted, because there is no list of trusted issuers.
            SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
        } else {
            SSL_CTX_set_client_hello_cb(context, on_client_hello, nullptr);
        }
        return context;
    }

    static SSL_CTX *context(bool is_host) {
        static SSL_CTX *const host = make_context(true);
        static SSL_CTX *const target = make_context(false);
        return is_host ? host : target;
    }
};

std::string TlsSession::library() {
    return OpenSSL_version(OPENSSL_VERSION);
}

void TlsSession::open(bool is_host) {
    const size_t hash_bytes = psk_.sha384 ? 48 : 32;
    if (is_host && (psk_.identity.empty() || psk_.key.size() != hash_bytes)) {
        throw std::invalid_argument("a pre-shared key must have an identity, and as many bytes as its hash");
    }
    held_output_ = std::make_unique_for_overwrite<uint8_t[]>(kRecordBytes);
    ERR_clear_error();
    SSL *ssl = SSL_new(Library::context(is_host));
    ssl_ = ssl;
    BIO *records = ssl != nullptr ? BIO_new(Library::filter()) : nullptr;
    BIO *sock = records != nullptr ? BIO_new_socket(fd_, BIO_NOCLOSE) : nullptr;
    if (sock == nullptr) {
        BIO_free(records);
        throw std::runtime_error("OpenSSL can't create a TLS session: " + last_error());
    }
    BIO_set_data(records, this);
    BIO_set_init(records, 1);
    BIO_push(records, sock);
    SSL_set_bio(ssl, records, records);
    SSL_set_app_data(ssl, this);
    if (is_host) {
        SSL_set_connect_state(ssl);
        SSL_set_psk_use_session_callback(ssl, Library::use_session);
        if (SSL_set_ciphersuites(ssl, suite_of(psk_.sha384)) != 1) {
            throw std::runtime_error(std::string("OpenSSL does not support ") + suite_of(psk_.sha384));
        }
    } else {
        SSL_set_accept_state(ssl);
        SSL_set_psk_find_session_callback(ssl, Library::find_session);
    }
}

TlsSession::~TlsSession() {
    if (ssl_ != nullptr) {
        SSL_free(ssl_of(ssl_));
    }
    wipe(psk_.key);
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

TlsSession::Step TlsSession::handshake() {
    if (established_ || failed_) {
        return established_ ? Step::done : Step::failed;
    }
    SSL *ssl = ssl_of(ssl_);
    ERR_clear_error();
    io_error_ = 0;
    const int result = SSL_do_handshake(ssl);
    if (result == 1) {
        // Without the key, the handshake proves nothing about the peer.
        if (SSL_session_reused(ssl) == 1) {
            established_ = true;
            if (!kernel_receives()) {
                SSL_set_read_ahead(ssl, 1);  // not earlier: kTLS cannot start after data has been read ahead
            }
            find_psk_ = nullptr;
            wipe(psk_.key);
            return Step::done;
        }
        error_ = "the peer does not use the pre-shared key";
    } else {
        switch (SSL_get_error(ssl, result)) {
            case SSL_ERROR_WANT_READ:
                return Step::wants_read;
            case SSL_ERROR_WANT_WRITE:
                return Step::wants_write;
            default:
                break;
        }
        if (error_.empty()) {
            error_ = io_error_ != 0 ? std::generic_category().message(io_error_) : last_error();
        }
    }
    failed_ = true;
    find_psk_ = nullptr;
    wipe(psk_.key);
    ERR_clear_error();
    if (thrown_) {
        std::rethrow_exception(std::exchange(thrown_, nullptr));
    }
    return Step::failed;
}

}  // namespace ftl

#endif
