// SPDX-License-Identifier: BSD-3-Clause
// Executes the operations of emulated media.
#include <algorithm>

#include "media/media.hpp"

namespace ftl {

Status EmulatedMedia::execute(Io &io) noexcept {
    io.result = 0;
    switch (io.op) {
        case Op::read:
            return read(io);
        case Op::write:
            return write(io);
        case Op::append:
            return append(io);
        case Op::flush:
            return flush();
        case Op::write_zeroes:
            return write_zeroes(io);
        case Op::deallocate:
            return deallocate(io);
        case Op::zone_send:
            return zones_ ? zones_->send(io) : status::invalid_opcode;
        case Op::zone_report:
            return zones_ ? zones_->report(io) : status::invalid_opcode;
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;
    }
    return status::invalid_opcode;
}

// Checks an Io with data. max_blocks 0: no limit and no data.
Status EmulatedMedia::check_blocks(const Io &io, uint32_t max_blocks) const noexcept {
    if (io.block_count == 0 || (max_blocks != 0 && io.block_count > max_blocks)) {
        return status::invalid_field;
    }
    if (io.lba >= info_.block_count || io.block_count > info_.block_count - io.lba) {
        return status::lba_out_of_range;
    }
    if (max_blocks != 0 && iov_bytes(io.memory()) < uint64_t{io.block_count} * info_.block_bytes) {
        return status::sgl_data_length;
    }
    return status::ok;
}

Status EmulatedMedia::read(Io &io) noexcept {
    if (const Status failed = check_blocks(io, info_.max_io_blocks); failed != status::ok) {
        return failed;
    }
    if (zones_) {
        if (const Status failed = zones_->check_read(io.lba, io.block_count); failed != status::ok) {
            return failed;
        }
    }
    if (!keeps_stale_) {
        return store_.read(io.lba * info_.block_bytes, IovCursor(io.memory()),
                           uint64_t{io.block_count} * info_.block_bytes);
    }
    IovCursor to(io.memory());
    for (uint64_t lba = io.lba, left = io.block_count; left > 0;) {
        const uint32_t zone = zones_->zone_of(lba);
        const uint64_t start = zones_->start_of(zone);
        const uint64_t written_end = start + zones_->record(zone).written;
        const uint64_t zone_end = start + info_.zone_size;
        const uint64_t valid = lba < written_end ? std::min(left, written_end - lba) : 0;
        const uint64_t blank = std::min(left, zone_end - lba) - valid;
        read_zone(zone, lba - start, valid, to);
        to.write_zeroes(blank * info_.block_bytes);
        lba += valid + blank;
        left -= valid + blank;
    }
    return status::ok;
}

// Blocks below the write pointer, in memory.
void EmulatedMedia::read_zone(uint32_t zone, uint64_t offset, uint64_t block_count, IovCursor &to) noexcept {
    const uint64_t end = made_.empty() ? 0 : made_[zone];
    const uint64_t made = offset < end ? std::min(block_count, end - offset) : 0;
    if (made > 0) {
        content_->read(zone, offset, made, to);
    }
    const uint64_t bytes = (block_count - made) * info_.block_bytes;
    (void)store_.read((zones_->start_of(zone) + offset + made) * info_.block_bytes, to, bytes);
    to.skip(bytes);
}

Status EmulatedMedia::write(Io &io) noexcept {
    if (const Status failed = check_blocks(io, info_.max_io_blocks); failed != status::ok) {
        return failed;
    }
    if (zones_) {
        if (const Status failed = zones_->begin_write(io.lba, io.block_count); failed != status::ok) {
            return failed;
        }
        return store_zone_blocks(io, io.lba, io.block_count);
    }
    if (info_.volatile_cache && !io.fua) {
        undo_.remember(store_, io.lba, io.block_count, info_.block_bytes);
    }
    const Status done = store_.write(io.lba * info_.block_bytes, IovCursor(io.memory()),
                                     uint64_t{io.block_count} * info_.block_bytes, io.fua);
    if (info_.volatile_cache && io.fua && done == status::ok) {
        undo_.forget(io.lba, io.block_count);
    }
    return done;
}

Status EmulatedMedia::append(Io &io) noexcept {
    if (!zones_ || info_.max_append_blocks == 0) {
        return status::invalid_opcode;
    }
    if (const Status failed = check_blocks(io, info_.max_append_blocks); failed != status::ok) {
        return failed;
    }
    uint64_t alba = 0;
    if (const Status failed = zones_->begin_append(io.lba, io.block_count, alba); failed != status::ok) {
        return failed;
    }
    io.result = alba;
    return store_zone_blocks(io, alba, io.block_count);
}

// Stores the first block_count blocks of the Io in a zone whose write pointer is at `lba`.
Status EmulatedMedia::store_zone_blocks(const Io &io, uint64_t lba, uint64_t block_count) noexcept {
    const Status done =
        store_.write(lba * info_.block_bytes, IovCursor(io.memory()), block_count * info_.block_bytes, io.fua);
    if (done == status::ok) {
        const uint32_t zone = zones_->zone_of(lba);
        zones_->advance(zone, block_count);
        wrote_zone(zone, io.fua);
    }
    return done;
}

Status EmulatedMedia::write_zeroes(const Io &io) noexcept {
    if (const Status failed = check_blocks(io, 0); failed != status::ok) {
        return failed;
    }
    if (zones_) {
        if (const Status failed = zones_->begin_write(io.lba, io.block_count); failed != status::ok) {
            return failed;
        }
        // Blocks behind the write pointer are already zero, unless the zone keeps stale data.
        if (keeps_stale_) {
            (void)store_.release(io.lba * info_.block_bytes, uint64_t{io.block_count} * info_.block_bytes);
        }
        const uint32_t zone = zones_->zone_of(io.lba);
        zones_->advance(zone, io.block_count);
        wrote_zone(zone, io.fua);
        return status::ok;
    }
    if (info_.volatile_cache && !io.fua) {
        undo_.remember(store_, io.lba, io.block_count, info_.block_bytes);
    }
    const Status done = store_.release(io.lba * info_.block_bytes, uint64_t{io.block_count} * info_.block_bytes);
    if (io.fua && done == status::ok) {
        undo_.forget(io.lba, io.block_count);
        return store_.sync();
    }
    return done;
}

Status EmulatedMedia::deallocate(const Io &io) noexcept {
    if (const Status failed = check_blocks(io, 0); failed != status::ok) {
        return failed;
    }
    if (zones_) {
        return status::ok;  // only a hint; a zone reset frees the blocks
    }
    if (info_.volatile_cache) {
        undo_.remember(store_, io.lba, io.block_count, info_.block_bytes);
    }
    return store_.release(io.lba * info_.block_bytes, uint64_t{io.block_count} * info_.block_bytes);
}

Status EmulatedMedia::flush() noexcept {
    // Data first: a zone table that is newer than the data would describe blocks that do not exist.
    if (const Status failed = store_.sync(); failed != status::ok) {
        return failed;
    }
    if (zones_file_) {
        if (const Status failed = zones_file_->sync(); failed != status::ok) {
            return failed;
        }
    }
    for (const uint32_t zone : dirty_zones_) {
        durable_[zone] = {zones_->record(zone).written, false, true};
    }
    dirty_zones_.clear();
    undo_.clear();
    return status::ok;
}

void EmulatedMedia::wrote_zone(uint32_t zone, bool fua) noexcept {
    if (fua || !info_.volatile_cache) {
        durable_[zone].written = zones_->record(zone).written;
    } else {
        mark_dirty(zone);
    }
}

void EmulatedMedia::mark_dirty(uint32_t zone) noexcept {
    if (!durable_[zone].dirty) {
        durable_[zone].dirty = true;
        dirty_zones_.push_back(zone);
    }
}

void EmulatedMedia::zone_reset(uint32_t zone) noexcept {
    if (!keeps_stale_) {
        // If the file system refuses, old data remains where zeroes belong. A real drive may do the same.
        const uint64_t written = zones_->record(zone).written;
        (void)store_.release(zones_->start_of(zone) * info_.block_bytes, written * info_.block_bytes);
    }
    if (!made_.empty()) {
        made_[zone] = 0;
    }
    durable_[zone].written = 0;
    durable_[zone].finished = true;
}

void EmulatedMedia::zone_finished(uint32_t zone) noexcept {
    if (info_.volatile_cache) {
        durable_[zone].finished = false;
        mark_dirty(zone);
    }
}

}  // namespace ftl
