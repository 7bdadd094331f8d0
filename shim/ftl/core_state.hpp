// SPDX-License-Identifier: BSD-3-Clause
// What the parts of FtlCore share: geometry, L2P with its valid counts, buffers, epochs, counters, the base.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutation.hpp"
#include "ftl/bands.hpp"
#include "ftl/epochs.hpp"
#include "ftl/l2p.hpp"
#include "ftl/layout.hpp"
#include "ftl/records.hpp"
#include "ftl/write_buffer.hpp"
#include "reactor/block_device.hpp"
#include "reactor/reactor.hpp"

namespace ftl {

inline constexpr uint32_t kStreamUser = 0;
inline constexpr uint32_t kStreamReloc = 1;
inline constexpr uint32_t kStreamCount = 2;
inline constexpr uint64_t kNoZone = ~uint64_t{0};
inline constexpr uint32_t kPunitsMax = 64;          // one bit of a BandRow each
inline constexpr uint32_t kScanStep = 32768;        // L2P entries visited per poll by what walks ranges of it
inline constexpr uint64_t kBatchAgeNs = 5'000'000;  // data does not wait longer for company

struct CoreConfig {
    layout::Uuid uuid{};
    uint64_t block_count = 0;
    std::vector<uint64_t> zone_starts;  // by band and parallel unit; kNoZone where a band has none
    uint32_t punits = 0;
    uint64_t zone_size = 0;
    uint64_t zone_capacity = 0;
    uint32_t batch_blocks = 128;
    bool use_append = false;
    bool shared_stream = false;
    bool finish_zones = false;
    uint32_t write_buffer_blocks = 1536;
    std::optional<std::string> write_buffer_path;
    uint32_t reloc_buffer_blocks = 512;
    uint32_t max_reloc_qdepth = 32;
    uint32_t max_active_relocs = 3;
    uint32_t band_threshold = 90;
    uint64_t next_seq = 1;
};

struct Zone {
    uint64_t start = kNoZone;
    uint32_t write_pointer = 0;  // relative; what is known to be on media
    bool faulted = false;        // never written again until replaced
};

struct CoreStats {
    uint64_t user_reads = 0;
    uint64_t user_writes = 0;
    uint64_t user_read_blocks = 0;
    uint64_t user_written_blocks = 0;
    uint64_t user_trimmed_blocks = 0;
    uint64_t media_written_blocks = 0;
    uint64_t media_header_blocks = 0;
    uint64_t media_summary_blocks = 0;
    uint64_t media_user_blocks = 0;
    uint64_t media_reloc_blocks = 0;
    uint64_t media_trim_blocks = 0;
    uint64_t reloc_moved_blocks = 0;
    uint64_t reloc_read_blocks = 0;
    uint64_t reloc_reads = 0;
    uint64_t reloc_batches = 0;
    uint64_t lost_blocks = 0;
    uint64_t flushes = 0;
    uint64_t base_flushes = 0;
    uint64_t zone_resets = 0;
    uint64_t crc_errors = 0;
    uint64_t read_errors = 0;
    uint64_t write_errors = 0;
    uint64_t throttled_ns = 0;
    uint64_t batches = 0;
    uint64_t short_batches = 0;
};

class CoreState {
public:
    // Throws std::invalid_argument for what can't be.
    CoreState(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, CoreConfig config);

    // --- geometry
    [[nodiscard]] uint64_t zone_number(uint64_t address) const noexcept {
        return zone_shift >= 0 ? address >> zone_shift : address / config.zone_size;
    }
    [[nodiscard]] uint32_t band_of(uint64_t address) const noexcept { return zone_band[zone_number(address)]; }
    [[nodiscard]] const Zone &zone(uint32_t band, uint32_t punit) const noexcept {
        return zones[size_t{band} * punits + punit];
    }
    // Part of its band's account.
    [[nodiscard]] Zone &change_zone(uint32_t band, uint32_t punit) noexcept {
        bands.change(band);
        return zones[size_t{band} * punits + punit];
    }
    [[nodiscard]] uint32_t data_blocks() const noexcept { return data_area; }
    // False, with nothing changed, where the zone is not one of the base's.
    bool set_zone(uint32_t band, uint32_t punit, uint64_t start) noexcept;

    // Of a band that is neither written nor moved.
    [[nodiscard]] BandState closed_state(uint32_t band) const noexcept;

    // --- L2P, keeping the bands' counts
    void replace(uint64_t lba, uint64_t entry) noexcept {
        forget(l2p.get(lba));
        if (L2p::tag(entry) == L2p::Tag::media) {
            ++bands.change(band_of(entry)).valid;
        }
        l2p.set(lba, entry);
    }
    // As replace() for an entry read before.
    void forget(uint64_t entry) noexcept;

    // --- base I/O
    void submit_base(Io &io) noexcept {
        ++base_outstanding;
        io.status = status::ok;
        base->submit(io);
    }
    // Every completion of a base I/O comes here first. False: the core has failed (or does now), forget about it.
    bool came_back(const Io &io) noexcept;
    void fail(Status status) noexcept;

    // What is on media is held until the base has flushed it.
    [[nodiscard]] bool retains() const noexcept {
        return base->info().volatile_cache && !MUTATED(slot_freed_before_flush);
    }

    void emit(EventKind kind, uint64_t a, uint64_t b = 0, uint64_t c = 0) noexcept { reactor->emit(kind, id, a, b, c); }

    std::shared_ptr<Reactor> reactor;
    std::shared_ptr<BlockDevice> base;
    CoreConfig config;
    uint32_t id = 0;

    uint32_t punits = 0;
    uint32_t summary_area = 0;  // T
    uint32_t data_area = 0;     // D
    uint32_t max_io = 0;        // blocks of a base write
    uint32_t max_data = 0;      // data blocks of a batch
    int zone_shift = -1;
    std::vector<Zone> zones;
    std::vector<uint32_t> zone_band;
    Bands bands;

    L2p l2p;
    Epochs epochs;
    BufferMapping mapping;
    WriteBuffer buffer;
    RelocBuffer reloc;
    Records records;
    CoreStats stats;

    uint64_t next_seq = 1;
    uint64_t now = 0;
    uint64_t wanted_epoch = 0;  // somebody waits for it: short batches are due
    uint64_t forced_epoch = 0;  // a reset or drain waits for it: the user's share does not matter
    uint32_t base_outstanding = 0;
    uint32_t reloc_reads = 0;  // in flight
    uint32_t active_moves = 0;
    uint32_t share = 100;      // percent of what is written that may be the user's
    int64_t credit = 0;        // percent-blocks the user may have accepted while there is a limit
    bool user_waits = false;   // writes or trims that found no room
    bool cache_waits = false;  // the nv cache's ring is full of blocks that are not durable on the base
    Status failed = status::ok;
    Status writes_failed = status::ok;  // no space: answers to writes and trims from now on
};

}  // namespace ftl
