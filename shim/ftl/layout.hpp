// SPDX-License-Identifier: BSD-3-Clause
// docs/media-layout.md in C++: the layout of the base device, byte by byte. spdk_ftl_py/ftl/media/layout.py has the
// same layout for numpy.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/crc32c.hpp"
#include "reactor/block_device.hpp"

namespace ftl::layout {

static_assert(std::endian::native == std::endian::little, "media structures are little-endian and used in place");

using Uuid = std::array<uint8_t, 16>;

constexpr uint64_t magic_of(const char (&text)[9]) {
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; ++i) {
        value |= uint64_t{static_cast<uint8_t>(text[i])} << (8 * i);
    }
    return value;
}

inline constexpr uint32_t kVersion = 2;
inline constexpr uint64_t kBatchMagic = magic_of("FTLBATCH");
inline constexpr uint64_t kSummaryMagic = magic_of("FTLSUMRY");
inline constexpr uint64_t kHeaderLba = ~uint64_t{0};  // a summary's entry for a header block
inline constexpr uint32_t kHeaderFlag = 0x10000;      // | kind
inline constexpr uint32_t kEntriesPerBlock = 168;
inline constexpr uint32_t kBatchDataBlocksMax = 127;
inline constexpr uint32_t kRecordTrim = 1;  // flags of a record: reads zeroes since seq
inline constexpr uint32_t kRecordLost = 2;  // flags of a record: reads as an error since seq

enum class BatchKind : uint16_t { data = 1, records = 2, pad = 3 };

#pragma pack(push, 1)

struct BlockEntry {
    uint64_t lba;
    uint64_t seq;
    uint32_t crc;
    uint32_t flags;
};

struct RecordEntry {
    uint64_t lba;
    uint64_t seq;
    uint32_t block_count;
    uint32_t flags;
};

struct BatchHeader {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    Uuid uuid;
    uint64_t band_seq;
    uint64_t address;  // of this block; 0 with zone append
    uint32_t count;
    uint16_t kind;
    uint16_t stream;
    uint32_t band;
    uint32_t punit;
    union {
        BlockEntry blocks[kEntriesPerBlock];
        RecordEntry records[kEntriesPerBlock];
    };
};

struct SummaryBlock {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    Uuid uuid;
    uint64_t band_seq;
    uint32_t index;
    uint32_t count;
    uint32_t band;
    uint32_t punit;
    uint64_t reserved;
    BlockEntry entries[kEntriesPerBlock];
};

#pragma pack(pop)

static_assert(sizeof(BlockEntry) == 24 && sizeof(RecordEntry) == 24);
static_assert(sizeof(BatchHeader) == kBlockSize && std::is_trivially_copyable_v<BatchHeader>);
static_assert(offsetof(BatchHeader, crc) == 12 && offsetof(BatchHeader, uuid) == 16);
static_assert(offsetof(BatchHeader, band_seq) == 32 && offsetof(BatchHeader, address) == 40);
static_assert(offsetof(BatchHeader, count) == 48 && offsetof(BatchHeader, kind) == 52);
static_assert(offsetof(BatchHeader, stream) == 54 && offsetof(BatchHeader, band) == 56);
static_assert(offsetof(BatchHeader, punit) == 60 && offsetof(BatchHeader, blocks) == 64);
static_assert(sizeof(SummaryBlock) == kBlockSize && std::is_trivially_copyable_v<SummaryBlock>);
static_assert(offsetof(SummaryBlock, index) == 40 && offsetof(SummaryBlock, count) == 44);
static_assert(offsetof(SummaryBlock, band) == 48 && offsetof(SummaryBlock, punit) == 52);
static_assert(offsetof(SummaryBlock, reserved) == 56 && offsetof(SummaryBlock, entries) == 64);

// T: number of summary blocks of a zone with this capacity. The rest of the zone is its data area.
constexpr uint64_t summary_blocks(uint64_t zone_capacity) {
    return (zone_capacity + kEntriesPerBlock) / (kEntriesPerBlock + 1);
}
static_assert(summary_blocks(169) == 1 && summary_blocks(170) == 2 && summary_blocks(3072) == 19);

// Both kinds of block have their CRC at the same offset.
inline uint32_t block_crc(const void *block) noexcept {
    const auto *bytes = static_cast<const uint8_t *>(block);
    constexpr uint32_t zero = 0;
    uint32_t crc = crc32c(0, bytes, offsetof(BatchHeader, crc));
    crc = crc32c(crc, &zero, sizeof(zero));
    return crc32c(crc, bytes + offsetof(BatchHeader, uuid), kBlockSize - offsetof(BatchHeader, uuid));
}

}  // namespace ftl::layout
