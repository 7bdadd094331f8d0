// SPDX-License-Identifier: BSD-3-Clause
// The state of all bands, and which of them have changed since Python last asked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ftl/base_io.hpp"

namespace ftl {

inline constexpr uint32_t kNoBand = ~uint32_t{0};

enum class BandState : uint8_t { free, queued, open, closing, closed, moving, resetting, faulted };

struct Band {
    BandState state = BandState::free;
    uint8_t stream = 0;
    bool listed = false;      // in the list of changed bands
    uint32_t valid = 0;       // data blocks that an LBA points to
    uint32_t written = 0;     // blocks, including headers
    uint32_t given_up = 0;    // blocks that will not be written in this life of the band
    uint32_t next = kNoBand;  // the band that changed after it
    uint64_t seq = 0;
    uint64_t opened_seq = 0;       // the core's next_seq when it was opened
    int64_t data_seqs = 0;         // sum of (seq - opened_seq) over the data blocks that were written to it
    uint32_t data_count = 0;       // their number
    uint64_t references = 0;       // LBAs that point to a record's header in this band
    uint32_t record_headers = 0;   // headers with records written to it
    uint32_t settling = 0;         // records that landed here and are still being spread over the L2P
    mutable uint32_t readers = 0;  // base reads in flight; only the shim uses this
    bool unreadable = false;       // a read failed here: the band is moved before others, as if a zone had failed
    BaseIo io;                     // I/O of its reset
    uint32_t reset_zone = 0;
    uint32_t reset_failed_zone = 0;
    Status reset_status = status::ok;
    Status reset_refused = status::ok;  // while it is determined whether the base does anything else

    [[nodiscard]] bool in_force() const noexcept { return valid != 0 || references != 0; }
    // Of the data blocks, on average; opened_seq while there are none.
    [[nodiscard]] uint64_t data_seq() const noexcept {
        const int64_t mean = data_count == 0 ? 0 : data_seqs / static_cast<int64_t>(data_count);
        return opened_seq + static_cast<uint64_t>(mean);
    }
};

// A band can only be changed by change(), which appends it to a list, once. So Python sees every change, even if events
// are lost, and asks only for bands that have changed. O(1), no allocation.
class Bands {
public:
    // At first all bands have changed.
    void make(size_t count) {
        bands_ = std::vector<Band>(count);
        for (uint32_t number = 0; number < count; ++number) {
            change(number);
        }
    }
    [[nodiscard]] size_t size() const noexcept { return bands_.size(); }
    [[nodiscard]] std::span<const Band> all() const noexcept { return bands_; }
    [[nodiscard]] const Band &operator[](size_t number) const noexcept { return bands_[number]; }
    Band &change(uint32_t number) noexcept {
        Band &band = bands_[number];
        if (!band.listed) [[unlikely]] {
            list(number, band);
        }
        return band;
    }
    // How often a band was listed. Any thread may read it.
    [[nodiscard]] uint64_t changes() const noexcept { return changes_.load(std::memory_order_acquire); }
    // The band that changed first; kNoBand: none. It is listed again with its next change.
    uint32_t take_changed() noexcept {
        const uint32_t number = first_;
        if (number != kNoBand) {
            Band &band = bands_[number];
            first_ = band.next;
            last_ = first_ == kNoBand ? kNoBand : last_;
            band.listed = false;
        }
        return number;
    }

private:
    void list(uint32_t number, Band &band) noexcept {
        band.listed = true;
        band.next = kNoBand;
        (last_ == kNoBand ? first_ : bands_[last_].next) = number;
        last_ = number;
        changes_.store(changes_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    std::vector<Band> bands_;
    uint32_t first_ = kNoBand;
    uint32_t last_ = kNoBand;
    std::atomic<uint64_t> changes_{0};
};

}  // namespace ftl
