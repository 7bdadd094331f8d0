// SPDX-License-Identifier: BSD-3-Clause
// splitmix64: small, fast, and the same sequence on every machine, so that a printed seed replays a run.
#pragma once

#include <cstdint>

namespace ftl {

class Prng {
public:
    explicit Prng(uint64_t seed = 0) noexcept : state_(seed) {}

    uint64_t next() noexcept {
        state_ += 0x9E3779B97F4A7C15ULL;
        return mix(state_);
    }
    // Uniform within [0, bound); 0 for bound 0.
    uint64_t below(uint64_t bound) noexcept {
        return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
    }
    bool coin() noexcept { return (next() >> 63) != 0; }

    static constexpr uint64_t mix(uint64_t value) noexcept {
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
        value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
        return value ^ (value >> 31);
    }

private:
    uint64_t state_;
};

}  // namespace ftl
