// SPDX-License-Identifier: BSD-3-Clause
// Answers in O(1) per block whether everything accepted before some moment is on media.
//
// Each accepted block or record joins the current epoch, and leaves it when it is on media. A barrier closes the
// current epoch; it is done when no member of that epoch, or of an earlier one, is left. Epochs are in a ring. If the
// ring is full, the current epoch stays open a little longer, and the barrier also waits for what joins it meanwhile.
#pragma once

#include <array>
#include <cstdint>

namespace ftl {

class Epochs {
public:
    uint64_t join() noexcept {
        ++members_[current_ % kRing];
        return current_;
    }
    void leave(uint64_t epoch) noexcept {
        if (--members_[epoch % kRing] == 0) {
            advance();
        }
    }
    // The epoch that must be done so that everything accepted so far is on media.
    uint64_t barrier() noexcept {
        if (members_[current_ % kRing] == 0) {
            return current_ - 1;
        }
        const uint64_t epoch = current_;
        close_wanted_ = true;
        close_current();
        return epoch;
    }
    [[nodiscard]] bool done(uint64_t epoch) const noexcept { return done_ >= epoch; }

private:
    static constexpr uint64_t kRing = 256;

    void close_current() noexcept {
        if (close_wanted_ && current_ - done_ < kRing) {
            ++current_;
            close_wanted_ = false;
        }
    }
    void advance() noexcept {
        while (done_ + 1 < current_ && members_[(done_ + 1) % kRing] == 0) {
            ++done_;
        }
        if (close_wanted_) {
            close_current();
            while (done_ + 1 < current_ && members_[(done_ + 1) % kRing] == 0) {
                ++done_;
            }
        }
    }

    uint64_t current_ = 1;
    uint64_t done_ = 0;
    bool close_wanted_ = false;
    std::array<uint64_t, kRing> members_{};
};

}  // namespace ftl
