// SPDX-License-Identifier: BSD-3-Clause
// Emulated media that lose power: which I/O is torn, and which part of the volatile cache is lost.
#include <utility>

#include "base/prng.hpp"
#include "media/media.hpp"

namespace ftl {

void EmulatedMedia::cut(uint64_t seed) {
    if (!powered_) {
        return;
    }
    Prng prng(seed);
    intake(0);
    for (IoList *list : {&ready_, &delayed_}) {
        IoList outstanding = std::exchange(*list, IoList());
        while (Io *io = outstanding.pop()) {
            if (io->device_data[kPresetStatus] == status::ok) {
                tear(*io, prng);
            }
            io->device_data[kPresetStatus] = status::power_loss;
            io->device_data[kPresetFlags] = 0;
            ready_.push(*io);
        }
    }
    lose_cache(prng);
    if (zones_) {
        zones_->power_cycle();
    }
    powered_ = false;
    cut_at_operation_ = 0;
}

// Executes an outstanding Io in part.
void EmulatedMedia::tear(Io &io, Prng &prng) {
    if (io.op == Op::zone_send && zones_) {
        if (prng.coin()) {
            (void)zones_->send(io);
        }
        return;
    }
    if (io.op != Op::write && io.op != Op::append) {
        return;
    }
    if (check_blocks(io, io.op == Op::append ? info_.max_append_blocks : info_.max_io_blocks) != status::ok) {
        return;
    }
    if (zones_) {
        const uint64_t block_count = prng.below(uint64_t{io.block_count} + 1);
        uint64_t lba = io.lba;
        const Status allowed = io.op == Op::append ? zones_->begin_append(io.lba, io.block_count, lba)
                                                   : zones_->begin_write(io.lba, io.block_count);
        if (allowed == status::ok && block_count > 0) {
            (void)store_zone_blocks(io, lba, block_count);
        }
        return;
    }
    if (info_.volatile_cache) {
        undo_.remember(store_, io.lba, io.block_count, info_.block_bytes);
    }
    IovCursor from(io.memory());
    std::vector<uint8_t> block(info_.block_bytes);
    for (uint64_t lba = io.lba; lba < io.lba + io.block_count; ++lba) {
        from.read(block.data(), block.size());
        if (prng.coin()) {
            const iovec memory{block.data(), block.size()};
            (void)store_.write(lba * info_.block_bytes, IovCursor(memory), info_.block_bytes, false);
        }
    }
}

void EmulatedMedia::lose_cache(Prng &prng) {
    if (zones_) {
        lose_zone_cache(prng);
    } else {
        undo_.roll_back(store_, prng, info_.block_bytes);
    }
}

void EmulatedMedia::lose_zone_cache(Prng &prng) {
    for (const uint32_t zone : dirty_zones_) {
        Durable &durable = durable_[zone];
        const ZoneRecord record = zones_->record(zone);
        const bool finish_lost = !durable.finished && prng.coin();
        durable.dirty = false;
        durable.finished = true;
        if (record.state == ZoneState::read_only || record.state == ZoneState::offline) {
            durable.written = record.written;
            continue;
        }
        // All or nothing is as likely as anything in between, because the extremes find most bugs.
        const uint64_t at_stake = record.written - durable.written;
        uint64_t lost = 0;
        switch (prng.below(4)) {
            case 0:
                break;
            case 1:
                lost = at_stake;
                break;
            default:
                lost = prng.below(at_stake + 1);
                break;
        }
        durable.written = record.written - lost;
        if (lost > 0 && !keeps_stale_) {
            (void)store_.release((zones_->start_of(zone) + durable.written) * info_.block_bytes,
                                 lost * info_.block_bytes);
        }
        if (lost > 0 || finish_lost) {
            zones_->truncate(zone, durable.written);
        }
    }
    dirty_zones_.clear();
}

void EmulatedMedia::power_cut(uint64_t seed) {
    registration_.reactor().call([&] { cut(seed); });
}

void EmulatedMedia::power_on() {
    registration_.reactor().call([&] { powered_ = true; });
}

}  // namespace ftl
