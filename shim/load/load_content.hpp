// SPDX-License-Identifier: BSD-3-Clause
// Self-describing blocks: each contains its seed, LBA and version, and these determine the rest of the block. So a
// reader recognises stale, misplaced and torn blocks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/prng.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

// 0: the block was never written, or was trimmed, and is all zeroes.
using Version = uint32_t;
// A write failed: the block has either its old or its new content, and has it as a whole.
inline constexpr Version kVersionUnknown = ~Version{0};

enum class Mismatch : uint8_t { none, older, newer, wrong_lba, zeroes, garbage };
inline constexpr size_t kMismatchKinds = 6;

[[nodiscard]] constexpr const char *mismatch_name(Mismatch kind) noexcept {
    constexpr const char *kNames[kMismatchKinds] = {"none", "older", "newer", "wrong_lba", "zeroes", "garbage"};
    return kNames[static_cast<size_t>(kind)];
}

class LoadContent {
public:
    static constexpr size_t kWords = kBlockSize / sizeof(uint64_t);
    static constexpr uint64_t kMagic = 0x31444F4C4C544655ULL;  // "UFTLLOD1"

    explicit LoadContent(uint64_t seed) noexcept : seed_(seed) {}

    void fill(uint64_t *words, uint64_t lba, Version version) const noexcept {
        words[0] = kMagic;
        words[1] = seed_;
        words[2] = lba;
        words[3] = version;
        fill_words(words, base_of(lba, version));
    }

    struct Found {
        Mismatch mismatch = Mismatch::none;
        uint64_t lba = 0;  // the LBA in the block, unless it is zeroes or garbage
        Version version = 0;
    };

    [[nodiscard]] Found check(const uint64_t *words, uint64_t lba, Version expected) const noexcept {
        Found found;
        if (words[0] == 0) {
            uint64_t any = 0;
            for (size_t i = 1; i < kWords; ++i) {
                any |= words[i];
            }
            if (any != 0) {
                found.mismatch = Mismatch::garbage;
            } else if (expected != 0 && expected != kVersionUnknown) {
                found.mismatch = Mismatch::zeroes;
            }
            return found;
        }
        found.lba = words[2];
        found.version = static_cast<Version>(words[3]);
        if (words[0] != kMagic || words[1] != seed_ || words[3] == 0 || words[3] >= kVersionUnknown) {
            found.mismatch = Mismatch::garbage;
            return found;
        }
        if (different_bits(words, base_of(found.lba, found.version)) != 0) {
            found.mismatch = Mismatch::garbage;
        } else if (found.lba != lba) {
            found.mismatch = Mismatch::wrong_lba;
        } else if (expected != kVersionUnknown && found.version != expected) {
            // After a trim (expected 0), any content is older than the trim.
            found.mismatch = expected == 0 || found.version < expected ? Mismatch::older : Mismatch::newer;
        }
        return found;
    }

private:
    static constexpr size_t kHeaderWords = 4;

    [[nodiscard]] uint64_t base_of(uint64_t lba, Version version) const noexcept {
        return Prng::mix(seed_ ^ Prng::mix(lba ^ Prng::mix(version)));
    }
    // The words behind the header. One multiplication per word, so that the generator does not dominate a benchmark.
    static void fill_words(uint64_t *words, uint64_t base) noexcept;
    [[nodiscard]] static uint64_t different_bits(const uint64_t *words, uint64_t base) noexcept;

    uint64_t seed_;
};

}  // namespace ftl
