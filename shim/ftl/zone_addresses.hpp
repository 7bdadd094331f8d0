// SPDX-License-Identifier: BSD-3-Clause
// The blocks of a base that its zones can hold, numbered without the holes behind their capacities: zone * capacity +
// offset. A real drive has 1077 MiB in each 2 GiB of addresses.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/mutation.hpp"

namespace ftl {

class ZoneAddresses {
public:
    // zone_capacity: at most zone_size. The last zone may end early.
    ZoneAddresses(uint64_t block_count, uint64_t zone_size, uint64_t zone_capacity)
        : block_count_(block_count),
          zone_size_(std::max<uint64_t>(zone_size, 1)),
          capacity_(std::clamp<uint64_t>(zone_capacity, 1, zone_size_)),
          hole_(zone_size_ - capacity_),
          shift_(std::has_single_bit(zone_size_) ? std::countr_zero(zone_size_) : -1),
          reciprocal_(capacity_ == 1 ? 0 : ~uint64_t{0} / capacity_ + 1) {}
    // A base without zones.
    explicit ZoneAddresses(uint64_t block_count) : ZoneAddresses(block_count, block_count, block_count) {}

    // Numbers are below it.
    [[nodiscard]] uint64_t usable() const noexcept {
        return block_count_ / zone_size_ * capacity_ + std::min(block_count_ % zone_size_, capacity_);
    }
    [[nodiscard]] uint64_t block_count() const noexcept { return block_count_; }
    [[nodiscard]] uint64_t zone_capacity() const noexcept { return capacity_; }
    [[nodiscard]] bool has_holes() const noexcept { return hole_ != 0; }
    // Whether a zone can hold it.
    [[nodiscard]] bool has(uint64_t address) const noexcept {
        return address < block_count_ && address - zone_of(address) * zone_size_ < capacity_;
    }
    // Of an address that a zone can hold.
    [[nodiscard]] uint64_t number(uint64_t address) const noexcept { return address - zone_of(address) * hole_; }
    // Of a number below 2^32.
    [[nodiscard]] uint64_t address(uint64_t number) const noexcept {
        // Exact for numbers and capacities below 2^32 (Granlund and Montgomery, "Division by invariant integers using
        // multiplication", 1994); a division would take several times as long.
        const auto product = static_cast<unsigned __int128>(number) * reciprocal_;
        const uint64_t zone = capacity_ == 1 ? number : static_cast<uint64_t>(product >> 64);
        return number + zone * hole_ - (MUTATED(l2p_zone_too_low) && zone > 3 ? hole_ : 0);
    }
    bool operator==(const ZoneAddresses &) const = default;

private:
    [[nodiscard]] uint64_t zone_of(uint64_t address) const noexcept {
        return shift_ >= 0 ? address >> shift_ : address / zone_size_;
    }

    uint64_t block_count_;
    uint64_t zone_size_;
    uint64_t capacity_;
    uint64_t hole_;
    int shift_;
    uint64_t reciprocal_;
};

}  // namespace ftl
