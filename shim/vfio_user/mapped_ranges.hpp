// SPDX-License-Identifier: BSD-3-Clause
// The ranges of our memory that a server has mapped, and the addresses (IOVAs) by which commands name them. One for
// each connection; the queues of the connection share it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "base/shared_memory.hpp"

namespace ftl {

class MappedRanges {
public:
    static constexpr uint32_t kRangesMax = 128;  // in the life of a connection
    // What iova_of() returns instead of an address; all others are smaller.
    static constexpr uint64_t kForbidden = ~uint64_t{0} - 1;  // the server may only read it
    static constexpr uint64_t kNone = ~uint64_t{0};           // the server has not mapped all of it

    // Control path, one thread. The server has mapped the range at that address.
    void add(std::shared_ptr<SharedRange> range, uint64_t iova) {
        const uint32_t count = count_.load(std::memory_order_relaxed);
        if (count == kRangesMax) {
            throw std::invalid_argument("the connection has had " + std::to_string(kRangesMax) + " ranges of memory");
        }
        // A place is never used again, because another thread may be looking at it.
        places_[count] = {std::move(range), iova};
        count_.store(count + 1, std::memory_order_release);
    }
    [[nodiscard]] bool full() const noexcept { return count_.load(std::memory_order_relaxed) == kRangesMax; }

    // Hot path, any thread. The address of `bytes` bytes of our memory at the server, kForbidden or kNone. receives:
    // the server is to write there.
    [[nodiscard]] uint64_t iova_of(const void *data, uint64_t bytes, bool receives) const noexcept {
        const uint32_t count = count_.load(std::memory_order_acquire);
        for (uint32_t i = count; i-- > 0;) {  // the newest are in use
            const SharedRange &range = *places_[i].range;
            if (range.holds(data, bytes) && !range.gone.load(std::memory_order_relaxed)) {
                return receives && range.sharing != Sharing::receives
                           ? kForbidden
                           : places_[i].iova + static_cast<uint64_t>(static_cast<const uint8_t *>(data) - range.data);
            }
        }
        return kNone;
    }

private:
    struct Place {
        std::shared_ptr<SharedRange> range;
        uint64_t iova = 0;
    };
    std::array<Place, kRangesMax> places_;
    std::atomic<uint32_t> count_{0};
};

}  // namespace ftl
