// SPDX-License-Identifier: BSD-3-Clause
#include "generated/generated_zones.hpp"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/prng.hpp"

namespace ftl {
namespace {

constexpr uint32_t kSuperblockZones = 2;
constexpr uint64_t kSlotsMax = uint64_t{1} << 48;
constexpr size_t kStampBytes = 16;  // LBA and seq, at the end of a data block
constexpr size_t kBodyBytes = kBlockSize - kStampBytes;

uint64_t thread_cpu_ns() noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// Throws std::invalid_argument.
const GeneratedConfig &checked(const GeneratedConfig &config) {
    if (config.zone_capacity < 4 || config.zone_capacity > config.zone_size || config.zone_size > kSlotsMax) {
        throw std::invalid_argument("generated zones: zone_capacity must be within 4..zone_size");
    }
    if (config.batch_blocks < 2 || config.batch_blocks > layout::kBatchDataBlocksMax + 1) {
        throw std::invalid_argument("generated zones: batch_blocks must be within 2..128");
    }
    const uint64_t begun = config.batches_begun > 0 ? 1 : 0;
    if (config.punits == 0 || config.full_bands == 0 || config.full_bands + begun > config.band_count) {
        throw std::invalid_argument("generated zones: at least one band must be full, and at most band_count written");
    }
    if (uint64_t{config.band_count} * config.punits > kSlotsMax / config.zone_size) {
        throw std::invalid_argument("generated zones: too many blocks");
    }
    return config;
}

uint64_t data_area_of(const GeneratedConfig &config) {
    return config.zone_capacity - layout::summary_blocks(config.zone_capacity);
}

uint64_t data_blocks_of(const GeneratedConfig &config) {
    const uint64_t area = data_area_of(config);
    return area - (area + config.batch_blocks - 1) / config.batch_blocks;
}

uint64_t slots_of(const GeneratedConfig &config) {
    const uint64_t begun = uint64_t{config.batches_begun} * config.batch_blocks;
    if (begun > data_area_of(config)) {
        throw std::invalid_argument("generated zones: batches_begun must fit into the data area of a zone");
    }
    const uint64_t of_a_punit = config.full_bands * data_blocks_of(config) + begun - config.batches_begun;
    const uint64_t slots = config.punits * of_a_punit;
    if (config.block_count == 0 || config.block_count > slots || slots > 2 * config.block_count) {
        throw std::invalid_argument("generated zones: the " + std::to_string(slots) +
                                    " blocks written must be 1 to 2 times block_count (" +
                                    std::to_string(config.block_count) + ")");
    }
    return slots;
}

}  // namespace

GeneratedZones::GeneratedZones(const GeneratedConfig &config)
    : config_(checked(config)),
      data_area_(data_area_of(config)),
      zone_slots_(data_blocks_of(config)),
      band_slots_(zone_slots_ * config.punits),
      slots_(slots_of(config)),
      fill_(config.block_count, Prng::mix(config.seed) + 1),
      overwrites_(config.block_count, Prng::mix(config.seed) + 2),
      bands_(config.band_count, Prng::mix(config.seed) + 3),
      body_(std::make_unique<uint8_t[]>(kBodyBytes)) {
    Prng prng(config.seed);
    for (size_t at = 0; at < kBodyBytes; at += sizeof(uint64_t)) {
        const uint64_t word = prng.next();
        std::memcpy(body_.get() + at, &word, sizeof word);
    }
    body_crc_ = crc32c(0, body_.get(), kBodyBytes);
}

GeneratedZones::Place GeneratedZones::place_of(uint32_t zone) const noexcept {
    const uint32_t band = (zone - kSuperblockZones) / config_.punits;
    return {band, (zone - kSuperblockZones) % config_.punits, bands_.unmap(band)};
}

uint64_t GeneratedZones::written(uint32_t zone) const noexcept {
    if (zone < kSuperblockZones || (zone - kSuperblockZones) / config_.punits >= config_.band_count) {
        return 0;
    }
    const uint64_t order = place_of(zone).order;
    if (order < config_.full_bands) {
        return config_.zone_capacity;
    }
    return order == config_.full_bands ? uint64_t{config_.batches_begun} * config_.batch_blocks : 0;
}

uint64_t GeneratedZones::band_seq(uint32_t band) const noexcept {
    const uint64_t order = bands_.unmap(band);
    const uint64_t begun = config_.batches_begun > 0 ? 1 : 0;
    return order < config_.full_bands + begun ? order + 1 : 0;
}

void GeneratedZones::read(uint32_t zone, uint64_t offset, uint64_t block_count, IovCursor &to) noexcept {
    const uint64_t began = thread_cpu_ns();
    const Place place = place_of(zone);
    for (uint64_t i = 0; i < block_count; ++i) {
        const iovec piece = to.piece(kBlockSize);
        if (piece.iov_len == kBlockSize) {
            make_block(place, zone, offset + i, piece.iov_base);
            continue;
        }
        uint8_t block[kBlockSize];
        make_block(place, zone, offset + i, block);
        std::memcpy(piece.iov_base, block, piece.iov_len);
        to.write(block + piece.iov_len, kBlockSize - piece.iov_len);
    }
    cpu_ns_.fetch_add(thread_cpu_ns() - began, std::memory_order_relaxed);
    blocks_made_.fetch_add(block_count, std::memory_order_relaxed);
}

uint64_t GeneratedZones::slot_at(const Place &place, uint64_t offset) const noexcept {
    const uint64_t row = offset - offset / config_.batch_blocks - 1;
    return place.order * band_slots_ + row * config_.punits + place.punit;
}

uint64_t GeneratedZones::lba_of(uint64_t slot) const noexcept {
    return slot < config_.block_count ? fill_.map(slot) : overwrites_.map(slot - config_.block_count);
}

uint32_t GeneratedZones::crc_of(uint64_t lba, uint64_t seq) const noexcept {
    const uint64_t stamp[2] = {lba, seq};
    static_assert(sizeof stamp == kStampBytes);
    return crc32c(body_crc_, stamp, sizeof stamp);
}

layout::BlockEntry GeneratedZones::entry_of(uint64_t slot) const noexcept {
    const uint64_t lba = lba_of(slot);
    return {lba, slot + 1, crc_of(lba, slot + 1), 0};
}

uint32_t GeneratedZones::entries_after(uint64_t header_offset) const noexcept {
    return static_cast<uint32_t>(std::min<uint64_t>(config_.batch_blocks, data_area_ - header_offset) - 1);
}

GeneratedZones::Version GeneratedZones::newest(uint64_t lba) const noexcept {
    const uint64_t overwrite = overwrites_.unmap(lba);
    const uint64_t slot = overwrite < slots_ - config_.block_count ? config_.block_count + overwrite : fill_.unmap(lba);
    const uint64_t band = bands_.map(slot / band_slots_);
    const uint64_t row = slot % band_slots_ / config_.punits;
    const uint64_t zone = kSuperblockZones + band * config_.punits + slot % band_slots_ % config_.punits;
    return {slot + 1, zone * config_.zone_size + row + row / (config_.batch_blocks - 1) + 1};
}

void GeneratedZones::data(uint64_t lba, uint64_t seq, void *block) const noexcept {
    const uint64_t stamp[2] = {lba, seq};
    std::memcpy(block, body_.get(), kBodyBytes);
    std::memcpy(static_cast<uint8_t *>(block) + kBodyBytes, stamp, sizeof stamp);
}

void GeneratedZones::make_block(const Place &place, uint32_t zone, uint64_t offset, void *block) const noexcept {
    if (offset >= data_area_) {
        make_summary(place, offset - data_area_, *static_cast<layout::SummaryBlock *>(block));
    } else if (is_header(offset)) {
        make_header(place, zone, offset, *static_cast<layout::BatchHeader *>(block));
    } else {
        const uint64_t slot = slot_at(place, offset);
        data(lba_of(slot), slot + 1, block);
    }
}

void GeneratedZones::make_header(const Place &place, uint32_t zone, uint64_t offset,
                                 layout::BatchHeader &header) const noexcept {
    std::memset(static_cast<void *>(&header), 0, sizeof header);
    header.magic = layout::kBatchMagic;
    header.version = layout::kVersion;
    header.uuid = config_.uuid;
    header.band_seq = place.order + 1;
    header.address = zone * config_.zone_size + offset;
    header.count = entries_after(offset);
    header.kind = static_cast<uint16_t>(header.count > 0 ? layout::BatchKind::data : layout::BatchKind::pad);
    header.band = place.band;
    header.punit = place.punit;
    for (uint32_t i = 0; i < header.count; ++i) {
        header.blocks[i] = entry_of(slot_at(place, offset + 1 + i));
    }
    header.crc = layout::block_crc(&header);
}

void GeneratedZones::make_summary(const Place &place, uint64_t index, layout::SummaryBlock &block) const noexcept {
    const uint64_t first = index * layout::kEntriesPerBlock;
    const auto count = static_cast<uint32_t>(std::min<uint64_t>(layout::kEntriesPerBlock, data_area_ - first));
    std::memset(static_cast<void *>(&block), 0, sizeof block);
    block.magic = layout::kSummaryMagic;
    block.version = layout::kVersion;
    block.uuid = config_.uuid;
    block.band_seq = place.order + 1;
    block.index = static_cast<uint32_t>(index);
    block.count = count;
    block.band = place.band;
    block.punit = place.punit;
    for (uint32_t i = 0; i < count; ++i) {
        const uint64_t offset = first + i;
        if (is_header(offset)) {
            const auto kind = entries_after(offset) > 0 ? layout::BatchKind::data : layout::BatchKind::pad;
            block.entries[i] = {layout::kHeaderLba, 0, 0, layout::kHeaderFlag | static_cast<uint32_t>(kind)};
        } else {
            block.entries[i] = entry_of(slot_at(place, offset));
        }
    }
    block.crc = layout::block_crc(&block);
}

}  // namespace ftl
