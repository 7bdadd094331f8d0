// SPDX-License-Identifier: BSD-3-Clause
// CRC32C (Castagnoli, reflected 0x82F63B78, init and final xor 0xFFFFFFFF): NVMe/TCP digests and every block on media.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ftl {

// `seed`: the CRC of the preceding data; 0 to start. crc32c(crc32c(0, a), b) == crc32c(0, a ++ b).
[[nodiscard]] uint32_t crc32c(uint32_t seed, const void *data, size_t bytes) noexcept;

// Copies, and returns the CRC of the copy, even if somebody changes the original meanwhile.
[[nodiscard]] uint32_t copy_crc32c(void *to, const void *from, size_t bytes) noexcept;

[[nodiscard]] const char *crc32c_implementation() noexcept;  // "avx512", "sse4.2" or "table"

}  // namespace ftl
