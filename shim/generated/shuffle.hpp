// SPDX-License-Identifier: BSD-3-Clause
// A permutation of [0, count) that depends on a seed, computed in both directions without a table.
//
// A Feistel network on two digits of almost the same size, whose product is at least count: each round adds to one
// digit a hash of the other, modulo its size. A result beyond count is put in again; that is rare, because the product
// exceeds count by less than one digit.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/prng.hpp"

namespace ftl {

class Shuffle {
public:
    // `count`: 1 .. 2^62.
    Shuffle(uint64_t count, uint64_t seed) noexcept
        : count_(count),
          high_(static_cast<uint64_t>(std::sqrt(static_cast<double>(count))) + 1),
          low_((count + high_ - 1) / high_) {
        Prng prng(seed);
        for (uint64_t &key : keys_) {
            key = prng.next();
        }
    }

    [[nodiscard]] uint64_t count() const noexcept { return count_; }

    // Where `from` goes. Both are below count.
    [[nodiscard]] uint64_t map(uint64_t from) const noexcept {
        do {
            uint64_t high = from / low_;
            uint64_t low = from % low_;
            for (unsigned round = 0; round < kRounds; round += 2) {
                high = add(high, hash(low, round, high_), high_);
                low = add(low, hash(high, round + 1, low_), low_);
            }
            from = high * low_ + low;
        } while (from >= count_);
        return from;
    }
    // unmap(map(i)) == i.
    [[nodiscard]] uint64_t unmap(uint64_t to) const noexcept {
        do {
            uint64_t high = to / low_;
            uint64_t low = to % low_;
            for (unsigned round = kRounds; round > 0; round -= 2) {
                low = add(low, low_ - hash(high, round - 1, low_), low_);
                high = add(high, high_ - hash(low, round - 2, high_), high_);
            }
            to = high * low_ + low;
        } while (to >= count_);
        return to;
    }

private:
    static constexpr unsigned kRounds = 4;

    [[nodiscard]] uint64_t hash(uint64_t digit, unsigned round, uint64_t below) const noexcept {
        const uint64_t mixed = Prng::mix(digit + keys_[round]) >> 32;
        return (mixed * below) >> 32;  // a digit has at most 32 bits
    }
    // `more` is at most `below`.
    static uint64_t add(uint64_t digit, uint64_t more, uint64_t below) noexcept {
        const uint64_t sum = digit + more;
        return sum >= below ? sum - below : sum;
    }

    uint64_t count_;
    uint64_t high_;  // size of the digit
    uint64_t low_;
    uint64_t keys_[kRounds] = {};
};

}  // namespace ftl
