// SPDX-License-Identifier: BSD-3-Clause
// FIFO of lent Ios through Io::next, and helpers for the memory of an Io.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "reactor/block_device.hpp"

namespace ftl {

class IoList {
public:
    [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }
    [[nodiscard]] uint32_t count() const noexcept { return count_; }

    void push(Io &io) noexcept {
        io.next = nullptr;
        if (tail_ != nullptr) {
            tail_->next = &io;
        } else {
            head_ = &io;
        }
        tail_ = &io;
        ++count_;
    }

    Io *pop() noexcept {
        Io *io = head_;
        if (io != nullptr) {
            head_ = io->next;
            if (head_ == nullptr) {
                tail_ = nullptr;
            }
            io->next = nullptr;
            --count_;
        }
        return io;
    }

    // Removes the Io at `position`; O(position), only for seeded schedules.
    Io *take(uint64_t position) noexcept {
        if (position == 0) {
            return pop();
        }
        Io *before = head_;
        while (--position > 0) {
            before = before->next;
        }
        Io *io = before->next;
        before->next = io->next;
        if (tail_ == io) {
            tail_ = before;
        }
        io->next = nullptr;
        --count_;
        return io;
    }

    // O(n), control path only. False: it is not in this list.
    bool remove(Io &io) noexcept {
        Io *before = nullptr;
        for (Io *each = head_; each != nullptr; before = each, each = each->next) {
            if (each != &io) {
                continue;
            }
            (before != nullptr ? before->next : head_) = io.next;
            if (tail_ == &io) {
                tail_ = before;
            }
            io.next = nullptr;
            --count_;
            return true;
        }
        return false;
    }

private:
    Io *head_ = nullptr;
    Io *tail_ = nullptr;
    uint32_t count_ = 0;
};

[[nodiscard]] inline uint64_t iov_bytes(const Io &io) noexcept {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < io.iov_count; ++i) {
        bytes += io.iov[i].iov_len;
    }
    return bytes;
}

// Goes through an Io's memory from front to back.
class IoCursor {
public:
    explicit IoCursor(const Io &io) noexcept : iov_(io.iov), count_(io.iov_count) {}

    // The next contiguous piece of at most `bytes`; empty at the end.
    iovec piece(uint64_t bytes) noexcept {
        while (index_ < count_ && offset_ == iov_[index_].iov_len) {
            ++index_;
            offset_ = 0;
        }
        if (index_ == count_) {
            return {nullptr, 0};
        }
        const uint64_t room = std::min<uint64_t>(bytes, iov_[index_].iov_len - offset_);
        const iovec result{static_cast<uint8_t *>(iov_[index_].iov_base) + offset_, room};
        offset_ += room;
        return result;
    }

    // Copies what fits; false if not everything fits.
    bool put(const void *source, uint64_t bytes) noexcept {
        const auto *from = static_cast<const uint8_t *>(source);
        while (bytes > 0) {
            const iovec to = piece(bytes);
            if (to.iov_len == 0) {
                return false;
            }
            std::memcpy(to.iov_base, from, to.iov_len);
            from += to.iov_len;
            bytes -= to.iov_len;
        }
        return true;
    }

    void get(void *target, uint64_t bytes) noexcept {
        auto *to = static_cast<uint8_t *>(target);
        while (bytes > 0) {
            const iovec from = piece(bytes);
            if (from.iov_len == 0) {
                return;
            }
            std::memcpy(to, from.iov_base, from.iov_len);
            to += from.iov_len;
            bytes -= from.iov_len;
        }
    }

    void zero(uint64_t bytes) noexcept {
        while (bytes > 0) {
            const iovec to = piece(bytes);
            if (to.iov_len == 0) {
                return;
            }
            std::memset(to.iov_base, 0, to.iov_len);
            bytes -= to.iov_len;
        }
    }

    void skip(uint64_t bytes) noexcept {
        while (bytes > 0) {
            const iovec passed = piece(bytes);
            if (passed.iov_len == 0) {
                return;
            }
            bytes -= passed.iov_len;
        }
    }

private:
    const iovec *iov_;
    uint32_t count_;
    uint32_t index_ = 0;
    uint64_t offset_ = 0;
};

}  // namespace ftl
