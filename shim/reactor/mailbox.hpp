// SPDX-License-Identifier: BSD-3-Clause
// A lock-free queue from any threads to one, without a capacity: the items are linked through a member of their own. A
// sender pushes one at a time; the receiver takes all that are there, oldest first.
#pragma once

#include <atomic>
#include <cstddef>

namespace ftl {

inline constexpr size_t kCacheLine = 64;

template <typename T, T *T::*Link>
class Mailbox {
public:
    Mailbox() = default;
    Mailbox(const Mailbox &) = delete;
    Mailbox &operator=(const Mailbox &) = delete;
    ~Mailbox() = default;

    // A sender. What it has written before is visible to who takes the item; it must not touch the item any more.
    void push(T &item) noexcept {
        T *head = head_.load(std::memory_order_relaxed);
        do {
            item.*Link = head;
        } while (!head_.compare_exchange_weak(head, &item, std::memory_order_release, std::memory_order_relaxed));
    }

    // The receiver. The oldest item, linked to the others; null: there are none.
    [[nodiscard]] T *take() noexcept {
        if (head_.load(std::memory_order_relaxed) == nullptr) {
            return nullptr;
        }
        T *newest = head_.exchange(nullptr, std::memory_order_acquire);
        T *oldest = nullptr;
        while (newest != nullptr) {
            T *next = newest->*Link;
            newest->*Link = oldest;
            oldest = newest;
            newest = next;
        }
        return oldest;
    }

private:
    alignas(kCacheLine) std::atomic<T *> head_{nullptr};
};

}  // namespace ftl
