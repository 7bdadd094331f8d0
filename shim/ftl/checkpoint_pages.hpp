// SPDX-License-Identifier: BSD-3-Clause
// Pages of the running checkpoint: parts of the L2P as blocks on media, and back (docs/checkpoint.md). Python says
// which parts go where, and which zones an entry may point to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ftl/layout.hpp"
#include "ftl/restored_l2p.hpp"

namespace ftl {

inline constexpr uint32_t kPageBytes = 4032;

#pragma pack(push, 1)

// docs/media-layout.md, "L2P checkpoint".
struct CheckpointBlock {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
    layout::Uuid uuid;
    uint64_t generation;
    uint64_t address;
    uint64_t first;
    uint32_t index;
    uint16_t section;
    uint16_t count;
    uint8_t data[kPageBytes];
};

#pragma pack(pop)

static_assert(sizeof(CheckpointBlock) == kBlockSize && offsetof(CheckpointBlock, data) == 64);
static_assert(offsetof(CheckpointBlock, crc) == offsetof(layout::BatchHeader, crc));

inline constexpr uint64_t kCheckpointMagic = layout::magic_of("FTLCHKPT");

enum class Section : uint16_t { narrow = 3, wide = 4, crcs = 5 };

constexpr uint32_t entries_in(Section section) {
    return kPageBytes / (section == Section::narrow ? 4 : section == Section::wide ? 8 : 2);
}

// What every page of one checkpoint has.
struct PagesOf {
    layout::Uuid uuid{};
    uint64_t generation = 0;
    bool wide = false;  // entries of 8 bytes
};

// The pages of a part of the L2P: first those of its entries, then, unless there are no CRCs, those of the CRCs. An
// entry that is not an address below media_end is left out, as if the LBA was never written. Pages without any entry
// are left out, too. They are sealed later.
std::vector<CheckpointBlock> make_pages(const PagesOf &of, uint64_t first_lba, std::span<const uint64_t> entries,
                                        std::span<const uint16_t> crcs, uint64_t media_end);
// For blocks that go to these addresses, as numbers `index` and so on of their checkpoint.
void seal_pages(std::span<CheckpointBlock> blocks, uint64_t address, uint32_t index) noexcept;

// Where a page is, and what its entries may point to.
struct PagesAt {
    uint64_t address = 0;
    uint32_t index = 0;
    uint64_t zone_size = 1;
    std::span<const bool> zones;  // by number: entries that point elsewhere are left out
};

// Takes pages that were read. False: one of them is not a whole page of that checkpoint and place; some may be taken.
// has_crcs: by number of the CRC page, those that are there.
bool take_pages(RestoredL2p &l2p, const PagesOf &of, const PagesAt &at, std::span<const CheckpointBlock> blocks,
                std::span<bool> has_crcs);

}  // namespace ftl
