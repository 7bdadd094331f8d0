// SPDX-License-Identifier: BSD-3-Clause
// Latency histogram whose buckets grow with the value: 32 per power of two, so a percentile is off by at most 3 %.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace ftl {

class LatencyHistogram {
public:
    void clear() noexcept { *this = LatencyHistogram(); }

    void add(uint64_t ns) noexcept {
        ++counts_[bucket_of(ns)];
        ++count_;
        sum_ += ns;
        min_ = std::min(min_, ns);
        max_ = std::max(max_, ns);
    }

    [[nodiscard]] uint64_t count() const noexcept { return count_; }
    [[nodiscard]] uint64_t sum() const noexcept { return sum_; }
    [[nodiscard]] uint64_t min() const noexcept { return count_ == 0 ? 0 : min_; }
    [[nodiscard]] uint64_t max() const noexcept { return max_; }
    [[nodiscard]] uint64_t mean() const noexcept { return count_ == 0 ? 0 : sum_ / count_; }

    // The value that `per_mille` of all recorded values do not exceed.
    [[nodiscard]] uint64_t percentile(uint64_t per_mille) const noexcept { return at_most(per_mille, 1000); }

    // The value that `part` of `whole` of all recorded values do not exceed.
    [[nodiscard]] uint64_t at_most(uint64_t part, uint64_t whole) const noexcept {
        const uint64_t rank = (count_ * part + whole - 1) / whole;
        uint64_t seen = 0;
        for (size_t bucket = 0; bucket < counts_.size(); ++bucket) {
            seen += counts_[bucket];
            if (seen >= rank && seen > 0) {
                return std::min(top_of(bucket), max_);
            }
        }
        return max_;
    }

private:
    static constexpr unsigned kSubBits = 5;
    static constexpr uint64_t kSub = uint64_t{1} << kSubBits;
    static constexpr size_t kBuckets = (64 - kSubBits + 1) * kSub;

    static size_t bucket_of(uint64_t ns) noexcept {
        if (ns < kSub) {
            return ns;
        }
        const unsigned shift = static_cast<unsigned>(std::bit_width(ns)) - kSubBits - 1;
        return (shift + 1) * kSub + ((ns >> shift) - kSub);
    }
    static uint64_t top_of(size_t bucket) noexcept {
        if (bucket < kSub) {
            return bucket;
        }
        const uint64_t shift = bucket / kSub - 1;
        return ((bucket % kSub + kSub + 1) << shift) - 1;
    }

    std::array<uint64_t, kBuckets> counts_{};
    uint64_t count_ = 0;
    uint64_t sum_ = 0;
    uint64_t min_ = ~uint64_t{0};
    uint64_t max_ = 0;
};

}  // namespace ftl
