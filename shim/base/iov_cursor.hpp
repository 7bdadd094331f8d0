// SPDX-License-Identifier: BSD-3-Clause
// A place in scattered memory that moves on as bytes are copied to or from it.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ftl {

struct IovCursor {
    const iovec *iov;
    size_t offset = 0;  // in the current entry

    explicit IovCursor(const iovec *entries) : iov(entries) {}

    [[nodiscard]] uint8_t *data() const noexcept { return static_cast<uint8_t *>(iov->iov_base) + offset; }
    // Of `bytes`, more than 0, how many lie side by side here. Moves over entries of length 0.
    [[nodiscard]] size_t adjacent(size_t bytes) noexcept {
        while (iov->iov_len == 0) {
            ++iov;
        }
        return std::min(bytes, iov->iov_len - offset);
    }

    void skip(size_t bytes) noexcept {
        while (bytes > 0) {
            const size_t step = adjacent(bytes);
            bytes -= step;
            offset += step;
            if (offset == iov->iov_len) {
                ++iov;
                offset = 0;
            }
        }
    }
    void write(const uint8_t *from, size_t bytes) noexcept {
        while (bytes > 0) {
            const size_t step = adjacent(bytes);
            std::memcpy(data(), from, step);
            from += step;
            bytes -= step;
            skip(step);
        }
    }
    void write_zeroes(size_t bytes) noexcept {
        while (bytes > 0) {
            const size_t step = adjacent(bytes);
            std::memset(data(), 0, step);
            bytes -= step;
            skip(step);
        }
    }
    void read(uint8_t *to, size_t bytes) noexcept {
        while (bytes > 0) {
            const size_t step = adjacent(bytes);
            std::memcpy(to, data(), step);
            to += step;
            bytes -= step;
            skip(step);
        }
    }
};

}  // namespace ftl
