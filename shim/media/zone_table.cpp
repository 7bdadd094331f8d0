// SPDX-License-Identifier: BSD-3-Clause
#include "media/zone_table.hpp"

#include <bit>
#include <iterator>
#include <stdexcept>
#include <string>

#include "base/iov_cursor.hpp"

namespace ftl {
namespace {

bool is_open(ZoneState state) noexcept {
    return state == ZoneState::implicitly_open || state == ZoneState::explicitly_open;
}
bool is_active(ZoneState state) noexcept {
    return is_open(state) || state == ZoneState::closed;
}

}  // namespace

const char *zone_state_name(ZoneState state) noexcept {
    switch (state) {
        case ZoneState::empty:
            return "empty";
        case ZoneState::implicitly_open:
            return "implicitly_open";
        case ZoneState::explicitly_open:
            return "explicitly_open";
        case ZoneState::closed:
            return "closed";
        case ZoneState::read_only:
            return "read_only";
        case ZoneState::full:
            return "full";
        case ZoneState::offline:
            return "offline";
    }
    return "invalid";
}

ZoneTable::ZoneTable(const ZoneGeometry &geometry, std::span<ZoneRecord> records, Observer &observer)
    : geometry_(geometry),
      block_count_(geometry.zone_count * geometry.zone_size),
      records_(records),
      observer_(observer),
      links_(size_t{geometry.zone_count} + 1) {
    if (geometry.zone_count == 0 || geometry.zone_size == 0 || records.size() != geometry.zone_count) {
        throw std::invalid_argument("zone_count and zone_size must not be 0");
    }
    if (geometry.zone_capacity == 0 || geometry.zone_capacity > geometry.zone_size) {
        throw std::invalid_argument("zone_capacity " + std::to_string(geometry.zone_capacity) +
                                    " must be within 1..zone_size (" + std::to_string(geometry.zone_size) + ")");
    }
    if (geometry.max_active_zones != 0 && geometry.max_open_zones > geometry.max_active_zones) {
        throw std::invalid_argument("max_open_zones must not exceed max_active_zones: an open zone is an active one");
    }
    if (std::has_single_bit(geometry.zone_size)) {
        zone_shift_ = static_cast<uint32_t>(std::countr_zero(geometry.zone_size));
    }
    links_[geometry.zone_count] = {geometry.zone_count, geometry.zone_count};
    for (ZoneRecord &record : records_) {
        if (is_open(record.state)) {
            record.state = ZoneState::closed;
        }
        if (record.state == ZoneState::closed && (record.written == 0 || record.written == geometry.zone_capacity)) {
            record.state = record.written == 0 ? ZoneState::empty : ZoneState::full;
        }
        active_ += is_active(record.state) ? 1 : 0;
    }
}

bool ZoneTable::valid(const ZoneRecord &record, const ZoneGeometry &geometry) noexcept {
    switch (record.state) {
        // A process may die between the update of a write pointer and the update of the state.
        case ZoneState::empty:
        case ZoneState::implicitly_open:
        case ZoneState::explicitly_open:
        case ZoneState::closed:
        case ZoneState::read_only:
        case ZoneState::full:
        case ZoneState::offline:
            return record.written <= geometry.zone_capacity;
    }
    return false;
}

Status ZoneTable::check_read(uint64_t lba, uint64_t block_count) const noexcept {
    if (!in_range(lba, block_count)) {
        return status::lba_out_of_range;
    }
    const uint32_t last = zone_of(lba + (block_count == 0 ? 0 : block_count - 1));
    for (uint32_t zone = zone_of(lba); zone <= last; ++zone) {
        if (records_[zone].state == ZoneState::offline) {
            return status::zone_offline;
        }
    }
    return status::ok;
}

Status ZoneTable::check_writable(uint32_t zone) const noexcept {
    switch (records_[zone].state) {
        case ZoneState::full:
            return status::zone_full;
        case ZoneState::read_only:
            return status::zone_read_only;
        case ZoneState::offline:
            return status::zone_offline;
        default:
            return status::ok;
    }
}

Status ZoneTable::begin_write(uint64_t lba, uint64_t block_count) noexcept {
    if (!in_range(lba, block_count)) {
        return status::lba_out_of_range;
    }
    const uint32_t zone = zone_of(lba);
    if (const Status failed = check_writable(zone); failed != status::ok) {
        return failed;
    }
    const uint64_t written = records_[zone].written;
    if (lba - start_of(zone) != written) {
        return status::zone_invalid_write;
    }
    if (block_count > geometry_.zone_capacity - written) {
        return status::zone_boundary;
    }
    return open(zone, ZoneState::implicitly_open);
}

Status ZoneTable::begin_append(uint64_t zone_start, uint64_t block_count, uint64_t &alba) noexcept {
    if (zone_start >= block_count_) {
        return status::lba_out_of_range;
    }
    const uint32_t zone = zone_of(zone_start);
    if (zone_start != start_of(zone)) {
        return status::invalid_field;
    }
    if (const Status failed = check_writable(zone); failed != status::ok) {
        return failed;
    }
    if (block_count > geometry_.zone_capacity - records_[zone].written) {
        return status::zone_boundary;
    }
    alba = zone_start + records_[zone].written;
    return open(zone, ZoneState::implicitly_open);
}

void ZoneTable::advance(uint32_t zone, uint64_t block_count) noexcept {
    ZoneRecord &record = records_[zone];
    record.written += block_count;
    if (record.written >= geometry_.zone_capacity) {
        set_state(zone, ZoneState::full);
    } else if (record.state == ZoneState::implicitly_open && links_[geometry_.zone_count].previous != zone) {
        unlink(zone);
        link(zone);
    }
}

// Opens a zone that is empty, closed or already open, if resources are available.
Status ZoneTable::open(uint32_t zone, ZoneState how) noexcept {
    const ZoneState state = records_[zone].state;
    if (is_open(state)) {
        if (how == ZoneState::explicitly_open) {
            set_state(zone, how);
        }
        return status::ok;
    }
    if (state == ZoneState::empty && geometry_.max_active_zones != 0 && active_ >= geometry_.max_active_zones) {
        return status::too_many_active;
    }
    if (geometry_.max_open_zones != 0 && open_ >= geometry_.max_open_zones) {
        const uint32_t oldest = links_[geometry_.zone_count].next;
        if (oldest == geometry_.zone_count) {
            return status::too_many_open;
        }
        set_state(oldest, ZoneState::closed);
    }
    set_state(zone, how);
    return status::ok;
}

void ZoneTable::set_state(uint32_t zone, ZoneState state) noexcept {
    ZoneRecord &record = records_[zone];
    open_ -= is_open(record.state) ? 1 : 0;
    active_ -= is_active(record.state) ? 1 : 0;
    if (record.state == ZoneState::implicitly_open) {
        unlink(zone);
    }
    record.state = state;
    if (state == ZoneState::full) {
        record.attributes &= static_cast<uint8_t>(~zns::kFinishRecommended);
    }
    open_ += is_open(state) ? 1 : 0;
    active_ += is_active(state) ? 1 : 0;
    if (state == ZoneState::implicitly_open) {
        link(zone);
    }
}

void ZoneTable::link(uint32_t zone) noexcept {
    const uint32_t anchor = geometry_.zone_count;
    const uint32_t last = links_[anchor].previous;
    links_[zone] = {last, anchor};
    links_[last].next = zone;
    links_[anchor].previous = zone;
}

void ZoneTable::unlink(uint32_t zone) noexcept {
    const Link here = links_[zone];
    links_[here.previous].next = here.next;
    links_[here.next].previous = here.previous;
}

Status ZoneTable::send(const Io &io) noexcept {
    const auto action = static_cast<ZoneAction>(io.zone_action);
    switch (action) {
        case ZoneAction::close:
        case ZoneAction::finish:
        case ZoneAction::open:
        case ZoneAction::reset:
        case ZoneAction::offline:
            break;
        default:  // this includes Set Zone Descriptor Extension, because ZDES is 0
            return status::invalid_field;
    }
    if (io.zone_all) {
        return act_on_all(action);
    }
    if (io.lba >= block_count_) {
        return status::lba_out_of_range;
    }
    const uint32_t zone = zone_of(io.lba);
    if (io.lba != start_of(zone)) {
        return status::invalid_field;
    }
    return act(zone, action);
}

Status ZoneTable::act(uint32_t zone, ZoneAction action) noexcept {
    ZoneRecord &record = records_[zone];
    const ZoneState state = record.state;
    if (state == ZoneState::offline) {
        return action == ZoneAction::offline ? status::ok : status::invalid_zone_transition;
    }
    if (state == ZoneState::read_only) {
        if (action != ZoneAction::offline) {
            return status::invalid_zone_transition;
        }
        set_state(zone, ZoneState::offline);
        return status::ok;
    }
    switch (action) {
        case ZoneAction::close:
            if (is_open(state)) {
                set_state(zone, ZoneState::closed);
                return status::ok;
            }
            return state == ZoneState::closed ? status::ok : status::invalid_zone_transition;
        case ZoneAction::finish:
            if (state != ZoneState::full) {
                set_state(zone, ZoneState::full);
                observer_.zone_finished(zone);
            }
            return status::ok;
        case ZoneAction::open:
            return state == ZoneState::full ? status::invalid_zone_transition : open(zone, ZoneState::explicitly_open);
        case ZoneAction::reset:
            if (state != ZoneState::empty) {
                set_state(zone, ZoneState::empty);
                observer_.zone_reset(zone);
                record.written = 0;
            }
            record.attributes = 0;
            return status::ok;
        default:
            return status::invalid_zone_transition;
    }
}

// Select All: applies the action to zones in the states that it is meant for.
Status ZoneTable::act_on_all(ZoneAction action) noexcept {
    if (action == ZoneAction::open && geometry_.max_open_zones != 0) {
        uint64_t wanted = 0;
        for (const ZoneRecord &record : records_) {
            wanted += is_active(record.state) ? 1 : 0;
        }
        if (wanted > geometry_.max_open_zones) {
            return status::too_many_open;  // opens all zones or none
        }
    }
    for (uint32_t zone = 0; zone < geometry_.zone_count; ++zone) {
        const ZoneState state = records_[zone].state;
        bool eligible = false;
        switch (action) {
            case ZoneAction::close:
                eligible = is_open(state);
                break;
            case ZoneAction::finish:
                eligible = is_active(state);
                break;
            case ZoneAction::open:
                eligible = state == ZoneState::closed;
                break;
            case ZoneAction::reset:
                eligible = is_active(state) || state == ZoneState::full;
                break;
            default:
                eligible = state == ZoneState::read_only;
                break;
        }
        if (eligible) {
            if (const Status failed = act(zone, action); failed != status::ok) {
                return failed;
            }
        }
    }
    return status::ok;
}

Status ZoneTable::report(const Io &io) const noexcept {
    // The extended report (ZRA 1) would carry descriptor extensions, which do not exist here.
    if (io.zone_action != zns::code(zns::ReportAction::zones) || io.zone_filter > std::size(zns::kFilterStates)) {
        return status::invalid_field;
    }
    if (io.lba >= block_count_) {
        return status::lba_out_of_range;
    }
    const uint64_t bytes = iov_bytes(io.memory());
    const uint64_t room = bytes < sizeof(zns::ReportHeader)
                              ? 0
                              : (bytes - sizeof(zns::ReportHeader)) / sizeof(zns::ZoneDescriptor);  // descriptors
    const bool partial = io.zone_all;

    zns::ReportHeader header{};
    IovCursor out(io.memory());
    IovCursor header_out(io.memory());
    out.write(&header, sizeof header);
    uint64_t matching = 0;
    for (uint32_t zone = zone_of(io.lba); zone < zones_shown(); ++zone) {
        if (matching >= room) {
            if (partial) {
                break;
            }
            if (io.zone_filter == 0) {
                matching += zones_shown() - zone;
                break;
            }
        }
        const ZoneRecord &record = records_[zone];
        if (io.zone_filter != 0 && record.state != zns::kFilterStates[io.zone_filter - 1]) {
            continue;
        }
        if (matching++ < room) {
            zns::ZoneDescriptor entry{};
            entry.type = zns::kZoneTypeSequential;
            entry.state = zns::state_field(record.state);
            entry.attributes = record.attributes;
            entry.capacity = geometry_.zone_capacity;
            entry.start = start_of(zone);
            const bool has_pointer = record.state == ZoneState::empty || is_active(record.state);
            entry.write_pointer = has_pointer ? entry.start + record.written : zns::kNoWritePointer;
            out.write(&entry, sizeof entry);
        }
    }
    out.write_zeroes(bytes);
    header.zone_count = matching;
    header_out.write(&header, sizeof header);
    return status::ok;
}

void ZoneTable::fail_zone(uint32_t zone, ZoneState state) noexcept {
    set_state(zone, state);
}

bool ZoneTable::finish_zone(uint32_t zone) noexcept {
    ZoneRecord &record = records_[zone];
    if (!is_active(record.state)) {
        return false;
    }
    set_state(zone, ZoneState::full);
    record.attributes |= zns::kFinishedByController;
    observer_.zone_finished(zone);
    return true;
}

void ZoneTable::recommend(uint32_t zone, bool finish, bool reset) noexcept {
    uint8_t &attributes = records_[zone].attributes;
    attributes &= static_cast<uint8_t>(~(zns::kFinishRecommended | zns::kResetRecommended));
    attributes |= finish ? zns::kFinishRecommended : 0;
    attributes |= reset ? zns::kResetRecommended : 0;
}

void ZoneTable::power_cycle() noexcept {
    for (uint32_t zone = 0; zone < geometry_.zone_count; ++zone) {
        if (is_active(records_[zone].state)) {
            set_state(zone, records_[zone].written == 0 ? ZoneState::empty : ZoneState::closed);
        }
    }
}

void ZoneTable::truncate(uint32_t zone, uint64_t written) noexcept {
    records_[zone].written = written;
    records_[zone].attributes &= static_cast<uint8_t>(~zns::kFinishedByController);
    if (written == 0) {
        set_state(zone, ZoneState::empty);
    } else {
        set_state(zone, written == geometry_.zone_capacity ? ZoneState::full : ZoneState::closed);
    }
}

}  // namespace ftl
