// SPDX-License-Identifier: BSD-3-Clause
#include "base/crc32c.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ftl {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

// tables[k][b]: the CRC state after byte b, followed by k zero bytes (slicing by 8).
constexpr auto kTables = [] {
    std::array<std::array<uint32_t, 256>, 8> tables{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; ++bit) {
            state = (state >> 1) ^ ((state & 1) != 0 ? kPolynomial : 0);
        }
        tables[0][byte] = state;
    }
    for (size_t k = 1; k < 8; ++k) {
        for (size_t byte = 0; byte < 256; ++byte) {
            const uint32_t previous = tables[k - 1][byte];
            tables[k][byte] = (previous >> 8) ^ tables[0][previous & 0xFF];
        }
    }
    return tables;
}();

uint64_t load_u64(const uint8_t *bytes) noexcept {
    uint64_t value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

uint32_t update_table(uint32_t state, const uint8_t *data, size_t bytes) noexcept {
    for (; bytes >= 8; data += 8, bytes -= 8) {
        const uint64_t word = load_u64(data) ^ state;
        state = 0;
        for (size_t k = 0; k < 8; ++k) {
            state ^= kTables[7 - k][(word >> (8 * k)) & 0xFF];
        }
    }
    for (; bytes > 0; ++data, --bytes) {
        state = (state >> 8) ^ kTables[0][(state ^ *data) & 0xFF];
    }
    return state;
}

#if defined(__x86_64__)

// The crc32 instruction has a latency of 3 and a throughput of 1, so the code computes three independent streams in
// parallel. A block of 4 KiB has room for 3 * 1360 bytes. To join streams, a state is shifted over kStream zero bytes.
// The shift is linear, so four tables of 256 entries are enough.
constexpr size_t kStream = 1360;

struct Shift {
    std::array<std::array<uint32_t, 256>, 4> tables{};

    Shift() noexcept {
        std::array<uint32_t, 32> columns{};
        const std::array<uint8_t, kStream> zeroes{};
        for (size_t bit = 0; bit < 32; ++bit) {
            columns[bit] = update_table(uint32_t{1} << bit, zeroes.data(), zeroes.size());
        }
        for (size_t k = 0; k < 4; ++k) {
            for (size_t byte = 0; byte < 256; ++byte) {
                for (size_t bit = 0; bit < 8; ++bit) {
                    if ((byte >> bit & 1) != 0) {
                        tables[k][byte] ^= columns[8 * k + bit];
                    }
                }
            }
        }
    }

    [[nodiscard]] uint32_t operator()(uint32_t state) const noexcept {
        return tables[0][state & 0xFF] ^ tables[1][state >> 8 & 0xFF] ^ tables[2][state >> 16 & 0xFF] ^
               tables[3][state >> 24];
    }
};

const Shift kShift;

__attribute__((target("sse4.2"))) uint32_t update_sse42(uint32_t state, const uint8_t *data, size_t bytes) noexcept {
    for (; bytes >= 3 * kStream; data += 3 * kStream, bytes -= 3 * kStream) {
        uint64_t a = state;
        uint64_t b = 0;
        uint64_t c = 0;
        for (size_t i = 0; i < kStream; i += 8) {
            a = _mm_crc32_u64(a, load_u64(data + i));
            b = _mm_crc32_u64(b, load_u64(data + kStream + i));
            c = _mm_crc32_u64(c, load_u64(data + 2 * kStream + i));
        }
        state = kShift(kShift(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
    }
    uint64_t wide = state;
    for (; bytes >= 8; data += 8, bytes -= 8) {
        wide = _mm_crc32_u64(wide, load_u64(data));
    }
    state = static_cast<uint32_t>(wide);
    for (; bytes > 0; ++data, --bytes) {
        state = _mm_crc32_u8(state, *data);
    }
    return state;
}

// With 512-bit carry-less multiplication the CRC of a block takes half the time. Each of four registers holds 64 bytes
// of the message. In each step they move 256 bytes ahead: the halves of each 128 bits are multiplied by x^(2048 + 32)
// and x^(2048 - 32) modulo the polynomial, which leaves the CRC of the message unchanged (V. Gopal and others, "Fast
// CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009). At the end the four are folded
// into the last one, and the crc32 instruction takes its 64 bytes as they are.
constexpr size_t kFold = 256;

// x^n modulo the polynomial, with bits reflected, as the instruction needs it.
constexpr uint64_t power(unsigned n) noexcept {
    uint32_t value = 0x80000000;  // x^0
    for (unsigned i = 0; i < n; ++i) {
        value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
    }
    return uint64_t{value} << 1;
}

// Moves a register `bytes` ahead.
struct FoldBy {
    uint64_t low;
    uint64_t high;
    constexpr explicit FoldBy(unsigned bytes) noexcept : low(power(8 * bytes + 32)), high(power(8 * bytes - 32)) {}
};
constexpr size_t kLane = 64;
constexpr FoldBy kFoldBlock(kFold);
constexpr FoldBy kFoldLane(kLane);

#define FTL_AVX512 __attribute__((target("avx512f,avx512vl,avx512bw,vpclmulqdq,sse4.2")))

FTL_AVX512 inline __m512i constants(FoldBy by) noexcept {
    const auto low = static_cast<int64_t>(by.low);
    const auto high = static_cast<int64_t>(by.high);
    return _mm512_set4_epi64(high, low, high, low);
}

FTL_AVX512 inline __m512i fold(__m512i state, __m512i by, __m512i next) noexcept {
    const __m512i low = _mm512_clmulepi64_epi128(state, by, 0x00);
    const __m512i high = _mm512_clmulepi64_epi128(state, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96);  // xor of all three
}

// Reads 64 bytes, and writes them to the copy, if there is one. The memory is read once: what is written is what
// counts.
template <bool kCopies>
FTL_AVX512 inline __m512i take(const uint8_t *from, [[maybe_unused]] uint8_t *to, size_t at) noexcept {
    __m512i value = _mm512_loadu_si512(from + at);
    if constexpr (kCopies) {
        asm("" : "+v"(value));
        _mm512_storeu_si512(to + at, value);
    }
    return value;
}

// bytes: 2 * kFold at least.
template <bool kCopies>
FTL_AVX512 uint32_t fold_all(uint32_t state, const uint8_t *data, uint8_t *to, size_t bytes) noexcept {
    const __m512i by = constants(kFoldBlock);
    __m512i a = _mm512_xor_si512(take<kCopies>(data, to, 0),
                                 _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
    __m512i b = take<kCopies>(data, to, kLane);
    __m512i c = take<kCopies>(data, to, 2 * kLane);
    __m512i d = take<kCopies>(data, to, 3 * kLane);
    size_t at = kFold;
    for (; bytes - at >= kFold; at += kFold) {
        a = fold(a, by, take<kCopies>(data, to, at));
        b = fold(b, by, take<kCopies>(data, to, at + kLane));
        c = fold(c, by, take<kCopies>(data, to, at + 2 * kLane));
        d = fold(d, by, take<kCopies>(data, to, at + 3 * kLane));
    }
    const __m512i lane = constants(kFoldLane);
    d = fold(fold(fold(a, lane, b), lane, c), lane, d);
    alignas(kLane) std::array<uint8_t, kLane> last;
    _mm512_store_si512(last.data(), d);
    state = update_sse42(0, last.data(), last.size());
    if constexpr (kCopies) {
        std::memcpy(to + at, data + at, bytes - at);
        data = to;
    }
    return update_sse42(state, data + at, bytes - at);
}

FTL_AVX512 uint32_t update_avx512(uint32_t state, const uint8_t *data, size_t bytes) noexcept {
    return bytes < 2 * kFold ? update_sse42(state, data, bytes) : fold_all<false>(state, data, nullptr, bytes);
}

#endif

bool has_sse42() noexcept {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
#else
    return false;
#endif
}

// GCC's "vpclmulqdq" is the wide form; "avx512f" says that the system saves the registers, too.
bool has_avx512() noexcept {
#if defined(__x86_64__)
    return has_sse42() && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
           __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("vpclmulqdq") != 0;
#else
    return false;
#endif
}

const bool kHasSse42 = has_sse42();
const bool kHasAvx512 = has_avx512();

}  // namespace

uint32_t crc32c(uint32_t seed, const void *data, size_t bytes) noexcept {
    const auto *octets = static_cast<const uint8_t *>(data);
#if defined(__x86_64__)
    if (kHasAvx512) {
        return ~update_avx512(~seed, octets, bytes);
    }
    if (kHasSse42) {
        return ~update_sse42(~seed, octets, bytes);
    }
#endif
    return ~update_table(~seed, octets, bytes);
}

uint32_t copy_crc32c(void *to, const void *from, size_t bytes) noexcept {
#if defined(__x86_64__)
    if (kHasAvx512 && bytes >= 2 * kFold) {
        return ~fold_all<true>(~uint32_t{0}, static_cast<const uint8_t *>(from), static_cast<uint8_t *>(to), bytes);
    }
#endif
    std::memcpy(to, from, bytes);
    return crc32c(0, to, bytes);
}

const char *crc32c_implementation() noexcept {
    return kHasAvx512 ? "avx512" : kHasSse42 ? "sse4.2" : "table";
}

}  // namespace ftl
