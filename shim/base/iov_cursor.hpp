// SPDX-License-Identifier: BSD-3-Clause
// Scattered memory: a cursor that moves through it, and a function that builds its list of entries.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace ftl {

[[nodiscard]] inline uint64_t iov_bytes(std::span<const iovec> memory) noexcept {
    uint64_t bytes = 0;
    for (const iovec &entry : memory) {
        bytes += entry.iov_len;
    }
    return bytes;
}

// Moves through scattered memory from start to end.
class IovCursor {
public:
    IovCursor() = default;  // no memory
    explicit IovCursor(std::span<const iovec> memory) noexcept
        : iov_(memory.data()), end_(memory.data() + memory.size()) {}
    explicit IovCursor(const iovec &memory) noexcept : iov_(&memory), end_(&memory + 1) {}

    // Returns the next contiguous piece of at most `bytes` bytes. It is empty at the end.
    iovec piece(size_t bytes) noexcept {
        while (iov_ != end_ && offset_ == iov_->iov_len) {
            ++iov_;
            offset_ = 0;
        }
        if (iov_ == end_) {
            return {nullptr, 0};
        }
        const size_t step = std::min(bytes, iov_->iov_len - offset_);
        const iovec result{static_cast<uint8_t *>(iov_->iov_base) + offset_, step};
        offset_ += step;
        return result;
    }

    // Calls use(data, bytes) for each contiguous piece of the next `bytes` bytes. False: the memory ended before.
    template <typename Use>
    bool each(size_t bytes, Use &&use) noexcept {
        while (bytes > 0) {
            const iovec next = piece(bytes);
            if (next.iov_len == 0) {
                return false;
            }
            use(static_cast<uint8_t *>(next.iov_base), next.iov_len);
            bytes -= next.iov_len;
        }
        return true;
    }

    void skip(size_t bytes) noexcept {
        each(bytes, [](uint8_t *, size_t) {});
    }
    // False: the memory ended before.
    bool write(const void *source, size_t bytes) noexcept {
        const auto *from = static_cast<const uint8_t *>(source);
        return each(bytes, [&from](uint8_t *to, size_t step) {
            std::memcpy(to, from, step);
            from += step;
        });
    }
    void write_zeroes(size_t bytes) noexcept {
        each(bytes, [](uint8_t *to, size_t step) { std::memset(to, 0, step); });
    }
    void read(void *target, size_t bytes) noexcept {
        auto *to = static_cast<uint8_t *>(target);
        each(bytes, [&to](const uint8_t *from, size_t step) {
            std::memcpy(to, from, step);
            to += step;
        });
    }

private:
    const iovec *iov_ = nullptr;
    const iovec *end_ = nullptr;
    size_t offset_ = 0;  // offset in the current entry
};

// Appends `bytes` bytes at `data` to a list of `count` entries, and extends the last entry if the memory is adjacent.
// Returns the new number of entries.
[[nodiscard]] inline uint32_t add_piece(iovec *iov, uint32_t count, void *data, size_t bytes) noexcept {
    if (count > 0) {
        iovec &last = iov[count - 1];
        if (static_cast<uint8_t *>(last.iov_base) + last.iov_len == data) {
            last.iov_len += bytes;
            return count;
        }
    }
    iov[count] = iovec{data, bytes};
    return count + 1;
}

}  // namespace ftl
