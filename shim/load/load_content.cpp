// SPDX-License-Identifier: BSD-3-Clause
// The words of a block. A load generator computes them for each block that it writes or reads, so they are computed
// with the widest registers that the processor has. (With 64-bit words, that needs a multiplication of AVX-512.)
#include "load/load_content.hpp"

namespace ftl {
namespace {

[[gnu::always_inline]] inline uint64_t content_word(uint64_t base, size_t position) noexcept {
    uint64_t value = base + position * 0x9E3779B97F4A7C15ULL;
    value = (value ^ (value >> 32)) * 0xD6E8FEB86659FD93ULL;
    return value ^ (value >> 29);
}

[[gnu::always_inline]] inline void fill_content(uint64_t *words, uint64_t base, size_t first) noexcept {
    for (size_t i = first; i < LoadContent::kWords; ++i) {
        words[i] = content_word(base, i);
    }
}

[[gnu::always_inline]] inline uint64_t content_differences(const uint64_t *words, uint64_t base,
                                                           size_t first) noexcept {
    uint64_t found = 0;
    for (size_t i = first; i < LoadContent::kWords; ++i) {
        found |= words[i] ^ content_word(base, i);
    }
    return found;
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512dq,prefer-vector-width=512")]] void fill_content_wide(uint64_t *words, uint64_t base,
                                                                                   size_t first) noexcept {
    fill_content(words, base, first);
}

[[gnu::target("avx512f,avx512dq,prefer-vector-width=512")]] uint64_t content_differences_wide(const uint64_t *words,
                                                                                              uint64_t base,
                                                                                              size_t first) noexcept {
    return content_differences(words, base, first);
}

bool has_wide() noexcept {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

const bool kHasWide = has_wide();
#endif

}  // namespace

void LoadContent::fill_words(uint64_t *words, uint64_t base) noexcept {
#if defined(__x86_64__)
    if (kHasWide) {
        fill_content_wide(words, base, kHeaderWords);
        return;
    }
#endif
    fill_content(words, base, kHeaderWords);
}

uint64_t LoadContent::different_bits(const uint64_t *words, uint64_t base) noexcept {
#if defined(__x86_64__)
    if (kHasWide) {
        return content_differences_wide(words, base, kHeaderWords);
    }
#endif
    return content_differences(words, base, kHeaderWords);
}

}  // namespace ftl
