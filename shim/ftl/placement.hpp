// SPDX-License-Identifier: BSD-3-Clause
// Which class of bands a block is written to: tables that Python sets, looked up for each block.
//
// Classes 0 to user_count - 1 take what hosts write, the others what relocation copies. Ages are counted in blocks that
// hosts have written (differences of seqs). spdk_ftl_py/ftl/policy/interface.py describes the same.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace ftl {

inline constexpr uint32_t kClassesMax = 8;
inline constexpr uint8_t kNoClass = 255;

enum class Side : uint8_t { user, reloc };

struct AgeClasses {
    std::array<uint64_t, kClassesMax - 1> limits{};  // ascending; exclusive
    std::array<uint8_t, kClassesMax> classes{};
    uint8_t limit_count = 0;

    [[nodiscard]] uint8_t of(uint64_t age) const noexcept {
        uint8_t i = 0;
        while (i < limit_count && age >= limits[i]) {
            ++i;
        }
        return classes[i];
    }
};

struct Placement {
    uint8_t class_count = 2;
    uint8_t user_count = 1;
    uint8_t unwritten = 0;                            // for an LBA without an older version
    AgeClasses user;                                  // by the age of the version that is replaced
    std::array<AgeClasses, kClassesMax> relocated{};  // by the class of the band it was in, then by the block's age
    std::vector<uint8_t> regions;                     // by LBA / region_blocks; empty: none
    uint64_t region_blocks = 1;
    bool shared = false;  // both sides write to class 0, the only one

    // The classes of a side are first() to end() - 1.
    [[nodiscard]] uint8_t first(Side side) const noexcept { return side == Side::user || shared ? 0 : user_count; }
    [[nodiscard]] uint8_t end(Side side) const noexcept { return side == Side::user ? user_count : class_count; }
    [[nodiscard]] bool is_one(Side side) const noexcept { return end(side) - first(side) == 1; }
    // Throws std::invalid_argument unless each table names only classes of its own side.
    void check() const;
    [[nodiscard]] Side side(uint32_t band_class) const noexcept {
        return band_class < user_count ? Side::user : Side::reloc;
    }
    // kNoClass: the region does not decide.
    [[nodiscard]] uint8_t of_region(uint64_t lba) const noexcept {
        if (regions.empty()) {
            return kNoClass;
        }
        const uint64_t region = lba / region_blocks;
        return region < regions.size() ? regions[region] : kNoClass;
    }
};

}  // namespace ftl
