// SPDX-License-Identifier: BSD-3-Clause
// OpenSSL, if the shim is built with it. Only the sources of TlsSession include this; its header does not need OpenSSL.
#pragma once

#ifdef SHIM_OPENSSL
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

namespace ftl {

inline SSL *ssl_of(void *ssl) noexcept {
    return static_cast<SSL *>(ssl);
}

}  // namespace ftl
#endif
