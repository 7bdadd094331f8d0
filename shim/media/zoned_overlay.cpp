// SPDX-License-Identifier: BSD-3-Clause
#include "media/zoned_overlay.hpp"

#include <bit>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "reactor/error_class.hpp"

namespace ftl {
namespace {

ZoneGeometry geometry_of(const BlockDeviceInfo &base, uint64_t zone_capacity, uint32_t max_open_zones) {
    if (base.zoned) {
        throw std::invalid_argument("the base device is zoned itself: use it without an overlay");
    }
    if (zone_capacity == 0 || zone_capacity > base.block_count) {
        throw std::invalid_argument("zone_capacity " + std::to_string(zone_capacity) +
                                    " must be within 1..block_count of the base (" + std::to_string(base.block_count) +
                                    ")");
    }
    const uint64_t zone_size = std::bit_ceil(zone_capacity);
    const uint64_t zone_count = base.block_count / zone_size;
    if (zone_count == 0 || zone_count > std::numeric_limits<uint32_t>::max()) {
        throw std::invalid_argument("zone_capacity " + std::to_string(zone_capacity) + " makes zones of " +
                                    std::to_string(zone_size) + " blocks: a base of " +
                                    std::to_string(base.block_count) + " blocks can't be divided into such zones");
    }
    return {static_cast<uint32_t>(zone_count), zone_size, zone_capacity, max_open_zones, 0};
}

}  // namespace

ZonedOverlay::ZonedOverlay(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, uint64_t zone_capacity,
                           uint32_t max_open_zones, bool initially_full, bool zone_commands)
    : base_(std::move(base)),
      info_(base_->info()),
      zone_commands_(zone_commands),
      children_(kWritesMax),
      registration_(std::move(reactor), *this) {
    const ZoneGeometry geometry = geometry_of(info_, zone_capacity, max_open_zones);
    info_.block_count = geometry.zone_count * geometry.zone_size;
    info_.zoned = true;
    info_.zone_size = geometry.zone_size;
    info_.zone_capacity = geometry.zone_capacity;
    info_.max_append_blocks = zone_commands ? info_.max_io_blocks : 0;
    info_.max_open_zones = max_open_zones;
    info_.max_active_zones = 0;
    ZoneRecord initial;
    if (initially_full) {
        initial.state = ZoneState::full;
        initial.written = geometry.zone_capacity;
    }
    records_.assign(geometry.zone_count, initial);
    writes_in_zone_.assign(geometry.zone_count, 0);
    zones_ = std::make_unique<ZoneTable>(geometry, records_, *this);
    for (Child &child : children_) {
        child.overlay = this;
        child.io.owner = &child;
        child.io.complete = &ZonedOverlay::on_write_done;
        child.next_free = std::exchange(free_children_, &child);
    }
}

void ZonedOverlay::done(Io &io, Status status) noexcept {
    io.status = status;
    io.do_not_retry = dnr(status);
    done_.push(io);
}

Status ZonedOverlay::check(const Io &io) const noexcept {
    if (io.block_count == 0 || (io.op != Op::write_zeroes && io.block_count > info_.max_io_blocks)) {
        return status::invalid_field;
    }
    return status::ok;
}

void ZonedOverlay::submit(Io &io) noexcept {
    io.result = 0;
    if (!zone_commands_ && (io.op == Op::append || io.op == Op::zone_send || io.op == Op::zone_report)) {
        done(io, status::invalid_opcode);
        return;
    }
    switch (io.op) {
        case Op::flush:
            base_->submit(io);
            return;
        case Op::read: {
            const Status failed = zones_->check_read(io.lba, io.block_count);
            if (failed != status::ok) {
                done(io, failed);
            } else {
                base_->submit(io);
            }
            return;
        }
        case Op::write:
        case Op::append:
        case Op::write_zeroes:
            if (free_children_ == nullptr || !waiting_.empty()) {
                waiting_.push(io);
            } else {
                write(io, *free_children_);
            }
            return;
        case Op::deallocate:
            done(io, zones_->check_read(io.lba, io.block_count));  // only a hint; a zone reset frees the blocks
            return;
        case Op::zone_send:
            if (has_writes(io)) {
                parked_.push(io);
            } else {
                done(io, zones_->send(io));
            }
            return;
        case Op::zone_report:
            done(io, zones_->report(io));
            return;
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;
    }
    done(io, status::invalid_opcode);
}

// `child` is the first free child.
void ZonedOverlay::write(Io &io, Child &child) noexcept {
    Status failed = check(io);
    uint64_t lba = io.lba;
    if (failed == status::ok) {
        failed = io.op == Op::append ? zones_->begin_append(io.lba, io.block_count, lba)
                                     : zones_->begin_write(io.lba, io.block_count);
    }
    if (failed != status::ok) {
        done(io, failed);
        return;
    }
    const uint32_t zone = zones_->zone_of(lba);
    zones_->advance(zone, io.block_count);
    ++writes_in_zone_[zone];
    ++writes_;
    free_children_ = child.next_free;
    child.parent = &io;
    child.io.op = io.op == Op::append ? Op::write : io.op;
    child.io.status = status::ok;
    child.io.lba = lba;
    child.io.block_count = io.block_count;
    child.io.fua = io.fua;
    child.io.iov = io.iov;
    child.io.iov_count = io.iov_count;
    base_->submit(child.io);
}

void ZonedOverlay::on_write_done(Io &io) noexcept {
    auto &child = *static_cast<Child *>(io.owner);
    child.overlay->write_done(child);
}

void ZonedOverlay::write_done(Child &child) noexcept {
    Io &parent = *std::exchange(child.parent, nullptr);
    const uint32_t zone = zones_->zone_of(child.io.lba);
    --writes_in_zone_[zone];
    --writes_;
    parent.status = child.io.status;
    parent.do_not_retry = child.io.do_not_retry;
    if (child.io.status != status::ok && takes_again(child)) {
        // The write has not happened, and a conventional device accepts the same blocks again.
        zones_->truncate(zone, child.io.lba - zones_->start_of(zone));
    } else if (child.io.status != status::ok) {
        if (records_[zone].state != ZoneState::offline) {
            zones_->fail_zone(zone, ZoneState::read_only);
        }
    } else if (parent.op == Op::append) {
        parent.result = child.io.lba;
    }
    child.next_free = std::exchange(free_children_, &child);

    while (free_children_ != nullptr && !waiting_.empty()) {
        write(*waiting_.pop(), *free_children_);
    }
    IoList parked = std::exchange(parked_, IoList());
    while (Io *io = parked.pop()) {
        if (has_writes(*io)) {
            parked_.push(*io);
        } else {
            done(*io, zones_->send(*io));
        }
    }
    parent.complete(parent);
}

// True if the sender may repeat the write: the base was busy, and no later write to the zone is done or outstanding.
bool ZonedOverlay::takes_again(const Child &child) const noexcept {
    const uint32_t zone = zones_->zone_of(child.io.lba);
    const ZoneRecord &record = records_[zone];
    const uint64_t end = child.io.lba - zones_->start_of(zone) + child.io.block_count;
    return error_class(child.io.op, child.io.status, child.io.do_not_retry) == ErrorClass::busy &&
           writes_in_zone_[zone] == 0 && record.written == end && record.state != ZoneState::read_only &&
           record.state != ZoneState::offline;
}

bool ZonedOverlay::has_writes(const Io &zone_send) const noexcept {
    if (zone_send.zone_all) {
        return writes_ > 0;
    }
    return zone_send.lba < zones_->block_count() && writes_in_zone_[zones_->zone_of(zone_send.lba)] > 0;
}

uint32_t ZonedOverlay::poll(uint64_t) noexcept {
    const uint32_t count = done_.count();
    for (uint32_t i = 0; i < count; ++i) {
        Io &io = *done_.pop();
        io.complete(io);
    }
    return count;
}

}  // namespace ftl
