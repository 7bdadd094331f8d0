// SPDX-License-Identifier: BSD-3-Clause
// The zone state machine of NVMe ZNS (Zoned Namespace Command Set 1.1, section 2.1), without data: write pointers, zone
// states, open and active resources, and the zone report. EmulatedMedia and ZonedOverlay use it.
//
// Resources: opening an Empty zone takes an active and an open resource. When all open resources are taken, the least
// recently written implicitly opened zone is closed to free one. Explicitly opened zones are never closed for that.
// Zone Operation Characteristics to advertise: ZOC 0 (fixed capacity, no excursions), OZCS bit 0 (RAZB: reads may cross
// zone boundaries). Blocks at and after the write pointer read as zeroes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nvme/zns.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

using zns::ZoneAction;
using zns::ZoneState;

[[nodiscard]] const char *zone_state_name(ZoneState state) noexcept;

// EmulatedMedia also stores zones in this form in its ".zones" file.
struct ZoneRecord {
    uint64_t written = 0;  // blocks with data from the zone's start; the write pointer, unless finished early
    ZoneState state = ZoneState::empty;
    uint8_t attributes = 0;  // zone attributes of the descriptor
    uint8_t reserved[6] = {};
};
static_assert(sizeof(ZoneRecord) == 16);

struct ZoneGeometry {
    uint32_t zone_count = 0;
    uint64_t zone_size = 0;         // blocks
    uint64_t zone_capacity = 0;     // blocks
    uint32_t max_open_zones = 0;    // 0: no limit
    uint32_t max_active_zones = 0;  // 0: no limit
};

class ZoneTable {
public:
    // The device implements it, and handles the data of the zones.
    class Observer {
    public:
        virtual void zone_reset(uint32_t zone) noexcept = 0;
        virtual void zone_finished(uint32_t zone) noexcept = 0;

    protected:
        ~Observer() = default;
    };

    // Works in place on the caller's records: one per zone, each of them valid(). Open zones become closed. Throws
    // std::invalid_argument if the geometry is invalid.
    ZoneTable(const ZoneGeometry &geometry, std::span<ZoneRecord> records, Observer &observer);

    [[nodiscard]] static bool valid(const ZoneRecord &record, const ZoneGeometry &geometry) noexcept;

    [[nodiscard]] const ZoneGeometry &geometry() const noexcept { return geometry_; }
    [[nodiscard]] uint64_t block_count() const noexcept { return block_count_; }
    [[nodiscard]] uint32_t zone_of(uint64_t lba) const noexcept {
        return static_cast<uint32_t>(zone_shift_ != 0 ? lba >> zone_shift_ : lba / geometry_.zone_size);
    }
    [[nodiscard]] uint64_t start_of(uint32_t zone) const noexcept { return zone * geometry_.zone_size; }
    [[nodiscard]] const ZoneRecord &record(uint32_t zone) const noexcept { return records_[zone]; }
    [[nodiscard]] uint32_t open_zones() const noexcept { return open_; }
    [[nodiscard]] uint32_t active_zones() const noexcept { return active_; }

    // Checks whether these blocks may be read.
    [[nodiscard]] Status check_read(uint64_t lba, uint64_t block_count) const noexcept;

    // Checks whether these blocks may be written now. On success the zone is open; call advance() when they are
    // written.
    [[nodiscard]] Status begin_write(uint64_t lba, uint64_t block_count) noexcept;
    // The same for Zone Append. `alba`: LBA of the first block.
    [[nodiscard]] Status begin_append(uint64_t zone_start, uint64_t block_count, uint64_t &alba) noexcept;
    void advance(uint32_t zone, uint64_t block_count) noexcept;

    // Zone Management Send: io.zone_action, io.zone_all, io.lba.
    [[nodiscard]] Status send(const Io &io) noexcept;

    // Zone Management Receive: io.zone_action, io.zone_filter, io.zone_all (partial), io.lba. Fills io's memory.
    [[nodiscard]] Status report(const Io &io) const noexcept;

    // The device makes a zone read_only or offline.
    void fail_zone(uint32_t zone, ZoneState state) noexcept;
    // The device makes a zone full before it is written to its end. False: the zone is not active, and does not change.
    [[nodiscard]] bool finish_zone(uint32_t zone) noexcept;
    // Sets or clears the attributes with which the device recommends a finish or a reset. The action clears them.
    void recommend(uint32_t zone, bool finish, bool reset) noexcept;

    // Only the first block_count blocks, which must be whole zones, are visible. The others must be empty.
    void show(uint64_t block_count) noexcept { block_count_ = block_count; }
    [[nodiscard]] uint32_t zones_shown() const noexcept {
        return static_cast<uint32_t>(block_count_ / geometry_.zone_size);
    }

    // After a power loss: open zones become closed, or empty if they have no data.
    void power_cycle() noexcept;
    // After a power loss of all but the first `written` blocks (and of the end of a finish).
    void truncate(uint32_t zone, uint64_t written) noexcept;

private:
    struct Link {
        uint32_t previous, next;
    };

    [[nodiscard]] bool in_range(uint64_t lba, uint64_t block_count) const noexcept {
        return lba < block_count_ && block_count <= block_count_ - lba;
    }
    [[nodiscard]] Status check_writable(uint32_t zone) const noexcept;
    [[nodiscard]] Status open(uint32_t zone, ZoneState how) noexcept;
    [[nodiscard]] Status act(uint32_t zone, ZoneAction action) noexcept;
    [[nodiscard]] Status act_on_all(ZoneAction action) noexcept;
    void set_state(uint32_t zone, ZoneState state) noexcept;
    void link(uint32_t zone) noexcept;
    void unlink(uint32_t zone) noexcept;

    ZoneGeometry geometry_;
    uint64_t block_count_;
    uint32_t zone_shift_ = 0;
    std::span<ZoneRecord> records_;
    Observer &observer_;
    uint32_t open_ = 0;
    uint32_t active_ = 0;
    // Implicitly opened zones, least recently written first. Element zone_count is the anchor of the list.
    std::vector<Link> links_;
};

}  // namespace ftl
