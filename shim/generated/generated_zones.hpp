// SPDX-License-Identifier: BSD-3-Clause
// The bands of an FTL that a host has filled, and then overwritten at random, made from a seed at each read: headers,
// data and summaries, byte for byte as docs/media-layout.md describes them. It takes no memory, so that a load of
// terabytes can be measured on a small machine, and every LBA can be checked.
//
// The blocks of all bands in the order of their writing are "slots". Slot i has seq i + 1. The first block_count slots
// hold every LBA once, in an order that a permutation decides; the others overwrite LBAs, each at most once, in the
// order of another permutation. A third one decides which band is written when. Within a band, one slot after the other
// goes to each of its zones by turns.
//
// What real bands have besides: copies that relocation made, headers of trim and lost records, zones that failed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "ftl/layout.hpp"
#include "generated/shuffle.hpp"
#include "media/zone_content.hpp"

namespace ftl {

struct GeneratedConfig {
    layout::Uuid uuid{};
    uint64_t zone_size = 0;      // blocks
    uint64_t zone_capacity = 0;  // blocks
    uint32_t band_count = 0;     // band b, punit p is zone 2 + b * punits + p
    uint32_t punits = 1;         // zones of a band
    uint64_t block_count = 0;    // LBAs of the FTL
    uint32_t full_bands = 0;     // written to their end; with what was begun they have block_count slots or more
    uint32_t batches_begun = 0;  // full batches in each zone of one more band, which was being written
    uint32_t batch_blocks = layout::kBatchDataBlocksMax + 1;  // header included
    uint64_t seed = 1;
};

class GeneratedZones final : public ZoneContent {
public:
    // Throws std::invalid_argument.
    explicit GeneratedZones(const GeneratedConfig &config);

    [[nodiscard]] uint64_t written(uint32_t zone) const noexcept override;
    void read(uint32_t zone, uint64_t offset, uint64_t block_count, IovCursor &to) noexcept override;

    struct Version {
        uint64_t seq;
        uint64_t address;
    };
    // The newest block of an LBA below block_count.
    [[nodiscard]] Version newest(uint64_t lba) const noexcept;
    // Greater for bands that were opened later; 0: it was never written.
    [[nodiscard]] uint64_t band_seq(uint32_t band) const noexcept;
    // The data of an LBA's block with that seq: kBlockSize bytes.
    void data(uint64_t lba, uint64_t seq, void *block) const noexcept;

    [[nodiscard]] const GeneratedConfig &config() const noexcept { return config_; }
    // Blocks with data, stale ones included.
    [[nodiscard]] uint64_t slots() const noexcept { return slots_; }
    // CPU time that reads have taken so far, and how many blocks they made. Any thread.
    [[nodiscard]] uint64_t cpu_ns() const noexcept { return cpu_ns_.load(std::memory_order_relaxed); }
    [[nodiscard]] uint64_t blocks_made() const noexcept { return blocks_made_.load(std::memory_order_relaxed); }

private:
    struct Place {  // a zone of a band that was written
        uint32_t band;
        uint32_t punit;
        uint64_t order;  // of all bands, as they were written
    };

    [[nodiscard]] Place place_of(uint32_t zone) const noexcept;
    [[nodiscard]] bool is_header(uint64_t offset) const noexcept { return offset % config_.batch_blocks == 0; }
    // Of the data block at this offset of the zone.
    [[nodiscard]] uint64_t slot_at(const Place &place, uint64_t offset) const noexcept;
    [[nodiscard]] uint64_t lba_of(uint64_t slot) const noexcept;
    [[nodiscard]] uint32_t crc_of(uint64_t lba, uint64_t seq) const noexcept;
    [[nodiscard]] layout::BlockEntry entry_of(uint64_t slot) const noexcept;
    [[nodiscard]] uint32_t entries_after(uint64_t header_offset) const noexcept;

    void make_block(const Place &place, uint32_t zone, uint64_t offset, void *block) const noexcept;
    void make_header(const Place &place, uint32_t zone, uint64_t offset, layout::BatchHeader &header) const noexcept;
    void make_summary(const Place &place, uint64_t index, layout::SummaryBlock &block) const noexcept;

    GeneratedConfig config_;
    uint64_t data_area_;   // of a zone: headers and data
    uint64_t zone_slots_;  // of a zone that is written to its end
    uint64_t band_slots_;
    uint64_t slots_;
    Shuffle fill_;
    Shuffle overwrites_;
    Shuffle bands_;                    // order of writing -> number
    std::unique_ptr<uint8_t[]> body_;  // what all data blocks begin with
    uint32_t body_crc_;
    std::atomic<uint64_t> cpu_ns_{0};
    std::atomic<uint64_t> blocks_made_{0};
};

}  // namespace ftl
