// SPDX-License-Identifier: BSD-3-Clause
// FIFO of Ios, linked by Io::next. The current holder of the Ios uses it.
#pragma once

#include <cstdint>

#include "reactor/block_device.hpp"

namespace ftl {

class IoList {
public:
    [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }
    [[nodiscard]] uint32_t count() const noexcept { return count_; }
    [[nodiscard]] Io *front() const noexcept { return head_; }

    void push(Io &io) noexcept {
        io.next = nullptr;
        (tail_ == nullptr ? head_ : tail_->next) = &io;
        tail_ = &io;
        ++count_;
    }
    void push_front(Io &io) noexcept {
        io.next = head_;
        head_ = &io;
        if (tail_ == nullptr) {
            tail_ = &io;
        }
        ++count_;
    }
    // Appends all Ios of `other`, in order. `other` is empty then.
    void append(IoList &other) noexcept {
        if (other.empty()) {
            return;
        }
        (tail_ == nullptr ? head_ : tail_->next) = other.head_;
        tail_ = other.tail_;
        count_ += other.count_;
        other = IoList();
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

    // O(n), control path only. False: the Io is not in this list.
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

}  // namespace ftl
