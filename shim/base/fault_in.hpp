// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace ftl {

// A system call has found memory missing (EFAULT): another process has shrunk the file behind it. An access of our own
// raises SIGBUS, whose handler puts other memory there (vfio_user/guarded_mapping.hpp). Then the call can be repeated.
inline void fault_in(std::span<const iovec> memory) noexcept {
    constexpr size_t kPage = 4096;
    for (const iovec &piece : memory) {
        const auto *bytes = static_cast<const volatile uint8_t *>(piece.iov_base);
        for (size_t at = 0; at < piece.iov_len; at += kPage) {
            (void)bytes[at];
        }
        if (piece.iov_len > 0) {
            (void)bytes[piece.iov_len - 1];
        }
    }
}

}  // namespace ftl
