// SPDX-License-Identifier: BSD-3-Clause
// The path of an Io through emulated media, and their control. media_operations.cpp executes the operations;
// media_power.cpp emulates a loss of power.
#include "media/media.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "reactor/error_class.hpp"

namespace ftl {
namespace {

constexpr uint64_t kMediaBytesMax = uint64_t{1} << 46;  // half of a process's address space
constexpr uint32_t kDataBytesMin = 512;
constexpr uint32_t kDataBytesMax = 64 * 1024;
constexpr uint32_t kMetadataBytesMax = 64;
constexpr uint32_t kZonesFileVersion = 1;
constexpr char kZonesFileMagic[8] = {'F', 'T', 'L', 'Z', 'O', 'N', 'E', 'S'};

// Start of the ".zones" file. A ZoneRecord per zone follows; the records are updated in place.
struct ZonesFileHeader {
    char magic[8];
    uint32_t version;
    uint32_t zone_count;
    uint64_t zone_size;
    uint64_t zone_capacity;
    uint32_t block_bytes;
    uint32_t reserved;
};
static_assert(sizeof(ZonesFileHeader) == 40);
constexpr size_t kZonesFileRecordsOffset = 64;

BlockDeviceInfo info_of(const MediaConfig &config) {
    if (config.data_bytes < kDataBytesMin || config.data_bytes > kDataBytesMax ||
        !std::has_single_bit(config.data_bytes)) {
        throw std::invalid_argument("block_bytes " + std::to_string(config.data_bytes) +
                                    " must be a power of two within 512..65536");
    }
    if (config.metadata_bytes > kMetadataBytesMax) {
        throw std::invalid_argument("metadata_bytes " + std::to_string(config.metadata_bytes) + " must be at most " +
                                    std::to_string(kMetadataBytesMax));
    }
    BlockDeviceInfo info;
    info.block_bytes = config.data_bytes + config.metadata_bytes;
    info.metadata_bytes = config.metadata_bytes;
    info.max_io_blocks = config.max_io_blocks;
    info.volatile_cache = config.volatile_cache;
    info.block_count = config.block_count;
    const uint64_t blocks_max = kMediaBytesMax / info.block_bytes;
    if (config.kind == MediaConfig::Kind::zoned) {
        const ZoneGeometry &zones = config.zones;
        if (zones.zone_size != 0 && zones.zone_count > blocks_max / zones.zone_size) {
            throw std::invalid_argument("emulated media is limited to 64 TiB: use fewer or smaller zones");
        }
        info.block_count = zones.zone_count * zones.zone_size;
        info.zoned = true;
        info.zone_size = zones.zone_size;
        info.zone_capacity = zones.zone_capacity;
        info.max_open_zones = zones.max_open_zones;
        info.max_active_zones = zones.max_active_zones;
        info.max_append_blocks = std::min(config.max_append_blocks, config.max_io_blocks);
    }
    if (info.block_count == 0 || info.block_count > blocks_max) {
        throw std::invalid_argument("block_count " + std::to_string(info.block_count) +
                                    " must be at least 1, and the media at most 64 TiB");
    }
    if (config.max_io_blocks == 0) {
        throw std::invalid_argument("max_io_blocks must be at least 1");
    }
    return info;
}

MediaStore store_of(const MediaConfig &config, const BlockDeviceInfo &info) {
    if (config.kind == MediaConfig::Kind::null) {
        return {};
    }
    const uint64_t bytes = info.block_count * info.block_bytes;
    if (config.path.empty()) {
        // Zones fill from front to back, so huge pages waste no memory. With scattered blocks they would.
        return MediaStore::in_memory(bytes, info.zoned);
    }
    MediaStore store = MediaStore::in_file(config.path);
    if (!info.zoned) {
        store.extend(config.path, bytes);
    }
    return store;
}

}  // namespace

EmulatedMedia::EmulatedMedia(std::shared_ptr<Reactor> reactor, const MediaConfig &config)
    : info_(info_of(config)),
      kind_(config.kind),
      store_(store_of(config, info_)),
      hidden_blocks_(config.hidden_blocks),
      registration_(reactor, *this) {
    const uint64_t grain = info_.zoned ? info_.zone_size : 1;
    if (hidden_blocks_ != 0 &&
        (!config.path.empty() || hidden_blocks_ >= info_.block_count || hidden_blocks_ % grain != 0)) {
        throw std::invalid_argument("media that grows must be in memory, and start with at least one block or zone");
    }
    info_.block_count -= hidden_blocks_;
    if (kind_ != MediaConfig::Kind::zoned) {
        return;
    }
    const uint32_t zone_count = config.zones.zone_count;
    if (config.path.empty()) {
        zones_in_memory_.resize(zone_count);
        zones_ = std::make_unique<ZoneTable>(config.zones, zones_in_memory_, *this);
        keeps_stale_ = true;
        zones_->show(info_.block_count);
    } else {
        open_zones_file(config);
    }
    durable_.resize(zone_count);
    dirty_zones_.reserve(zone_count);
    for (uint32_t zone = 0; zone < zone_count; ++zone) {
        durable_[zone].written = zones_->record(zone).written;
    }
}

void EmulatedMedia::open_zones_file(const MediaConfig &config) {
    const ZoneGeometry &geometry = config.zones;
    const std::string path = config.path + ".zones";
    const size_t bytes = kZonesFileRecordsOffset + size_t{geometry.zone_count} * sizeof(ZoneRecord);
    const auto require_no_data = [&] {
        if (!store_.created()) {
            throw std::invalid_argument(config.path + " has data but no " + path +
                                        ": it is not an emulated zoned drive. Remove it, or name another file");
        }
    };
    if (::access(path.c_str(), F_OK) != 0) {
        require_no_data();  // the file belongs to somebody else, so no ".zones" file is created beside it
    }
    zones_file_ = std::make_unique<MappedFile>(path, bytes);
    ZonesFileHeader header{};
    std::memcpy(header.magic, kZonesFileMagic, sizeof header.magic);
    header.version = kZonesFileVersion;
    header.zone_count = geometry.zone_count;
    header.zone_size = geometry.zone_size;
    header.zone_capacity = geometry.zone_capacity;
    header.block_bytes = info_.block_bytes;
    auto *records = reinterpret_cast<ZoneRecord *>(zones_file_->data() + kZonesFileRecordsOffset);
    const std::span<ZoneRecord> table(records, geometry.zone_count);
    if (zones_file_->created()) {
        require_no_data();
        std::fill(table.begin(), table.end(), ZoneRecord{});
        std::memcpy(zones_file_->data(), &header, sizeof header);
    } else if (std::memcmp(zones_file_->data(), &header, sizeof header) != 0) {
        throw std::invalid_argument(path + " belongs to a drive of another geometry. Remove both files to start again");
    }
    const auto damaged = std::find_if(table.begin(), table.end(),
                                      [&](const ZoneRecord &record) { return !ZoneTable::valid(record, geometry); });
    if (damaged != table.end()) {
        throw std::invalid_argument(path + " is damaged at zone " + std::to_string(damaged - table.begin()) +
                                    ". Remove both files to start again");
    }
    store_.extend(config.path, info_.block_count * info_.block_bytes);  // now known to be an emulated drive
    for (uint32_t zone = 0; zone < geometry.zone_count; ++zone) {
        if (table[zone].state == ZoneState::empty && table[zone].written > 0) {  // a reset was interrupted
            const uint64_t start = zone * geometry.zone_size;
            (void)store_.release(start * info_.block_bytes, table[zone].written * info_.block_bytes);
            table[zone].written = 0;
        }
    }
    zones_ = std::make_unique<ZoneTable>(geometry, table, *this);
}

// ---- the path of an Io -----------------------------------------------------------------------------------------

void EmulatedMedia::submit(Io &io) noexcept {
    io.device_data[kPresetStatus] = status::ok;
    io.device_data[kPresetFlags] = 0;
    if (io.op == Op::flush) {
        flushes_at_once_ = std::max(flushes_at_once_, ++flushes_);
    }
    incoming_.push(io);
}

uint32_t EmulatedMedia::poll(uint64_t now_ns) noexcept {
    intake(now_ns);
    if (!delayed_.empty() && delayed_until_ns_ <= now_ns) {
        promote(now_ns);
    }
    if (ready_.empty()) {
        return 0;
    }
    // I/O that a completion submits is left for the next poll.
    if (!schedule_) {
        const uint32_t count = ready_.count();
        for (uint32_t i = 0; i < count; ++i) {
            finish(*ready_.pop());
        }
        return count;
    }
    // Some I/Os stay behind, so that later submissions can overtake them.
    const uint64_t count = schedule_->below(uint64_t{ready_.count()} + 1);
    for (uint64_t i = 0; i < count; ++i) {
        finish(*ready_.take(schedule_->below(ready_.count())));
    }
    return static_cast<uint32_t>(std::max<uint64_t>(count, 1));
}

// Faults count I/Os in the order of submission, whatever order the schedule chooses later.
void EmulatedMedia::intake(uint64_t now_ns) noexcept {
    while (Io *io = incoming_.pop()) {
        if (io->device_data[kPresetStatus] != status::ok || !powered_ || faults_.empty()) {
            ready_.push(*io);
            continue;
        }
        uint64_t touched = io->block_count;  // 0 for a flush: all blocks
        if (io->op == Op::append || (io->op == Op::zone_send && !io->zone_all)) {
            touched = info_.zone_size;  // the position of an append within the zone is not known yet
        } else if (io->op == Op::zone_send) {
            touched = 0;
        } else if (io->op == Op::zone_report) {
            touched = 1;
        }
        const FaultTable::Effect effect = faults_.hit(io->op, io->lba, touched);
        io->device_data[kPresetStatus] = effect.status;
        io->device_data[kPresetFlags] = (effect.do_not_retry ? kPresetDnr : 0) |
                                        (effect.takes_effect ? kPresetTakesEffect : 0) |
                                        (effect.drops_cache ? kPresetDropsCache : 0) | (effect.flip ? kPresetFlip : 0);
        if (effect.latency_ns == 0) {
            ready_.push(*io);
            continue;
        }
        const uint64_t due_ns = now_ns + effect.latency_ns;
        io->device_data[kDueNs] = due_ns;
        delayed_until_ns_ = delayed_.empty() ? due_ns : std::min(delayed_until_ns_, due_ns);
        delayed_.push(*io);
    }
}

void EmulatedMedia::promote(uint64_t now_ns) noexcept {
    IoList waiting = std::exchange(delayed_, IoList());
    delayed_until_ns_ = ~uint64_t{0};
    while (Io *io = waiting.pop()) {
        if (io->device_data[kDueNs] <= now_ns) {
            ready_.push(*io);
        } else {
            delayed_until_ns_ = std::min(delayed_until_ns_, io->device_data[kDueNs]);
            delayed_.push(*io);
        }
    }
}

void EmulatedMedia::finish(Io &io) noexcept {
    const auto preset = static_cast<Status>(io.device_data[kPresetStatus]);
    const uint64_t flags = io.device_data[kPresetFlags];
    io.do_not_retry = false;
    if (io.op == Op::flush) {
        --flushes_;
    }
    if (!powered_) {
        io.status = status::power_loss;
    } else {
        if (preset == status::ok || (flags & kPresetTakesEffect) != 0) {
            io.status = execute(io);
        }
        if (preset != status::ok) {
            io.status = preset;
        }
        if ((flags & kPresetDropsCache) != 0) {
            // Writes that have not been executed yet fail, too: otherwise an append would land where a lost write was.
            intake(0);
            for (IoList *list : {&ready_, &delayed_}) {
                IoList outstanding = std::exchange(*list, IoList());
                while (Io *each = outstanding.pop()) {
                    const bool writes = each->op == Op::write || each->op == Op::append;
                    if (writes && each->device_data[kPresetStatus] == status::ok) {
                        each->device_data[kPresetStatus] = preset;
                    }
                    list->push(*each);
                }
            }
            Prng prng(operations_);
            lose_cache(prng);
        }
        io.do_not_retry = (flags & kPresetDnr) != 0 || dnr(io.status);
        if ((flags & kPresetFlip) != 0 && io.op == Op::read && io.iov_count > 0 && io.iov[0].iov_len > 0) {
            *static_cast<uint8_t *>(io.iov[0].iov_base) ^= 1;
        }
        if (preset != status::power_loss && ++operations_ == cut_at_operation_) {
            cut(cut_seed_);
        }
    }
    io.complete(io);
}

// ---- control ---------------------------------------------------------------------------------------------------

std::vector<EmulatedMedia::Zone> EmulatedMedia::zones() {
    std::vector<Zone> result;
    if (!zones_) {
        return result;
    }
    registration_.reactor().call([&] {
        for (uint32_t zone = 0; zone < zones_->zones_shown(); ++zone) {
            const ZoneRecord &record = zones_->record(zone);
            const uint64_t start = zones_->start_of(zone);
            result.push_back({start, record.state, start + record.written});
        }
    });
    return result;
}

void EmulatedMedia::check_zone(uint32_t zone) const {
    if (!zones_ || zone >= zones_->zones_shown()) {
        throw std::invalid_argument("there is no zone " + std::to_string(zone));
    }
}

void EmulatedMedia::set_zone_state(uint32_t zone, ZoneState state) {
    check_zone(zone);
    bool done = true;
    registration_.reactor().call([&] {
        if (state == ZoneState::full) {
            done = zones_->finish_zone(zone);
        } else {
            zones_->fail_zone(zone, state);
        }
    });
    if (!done) {
        throw std::invalid_argument("zone " + std::to_string(zone) +
                                    " is not active: a drive finishes only open and closed zones");
    }
}

void EmulatedMedia::recommend(uint32_t zone, bool finish, bool reset) {
    check_zone(zone);
    registration_.reactor().call([&] { zones_->recommend(zone, finish, reset); });
}

uint32_t EmulatedMedia::inject_fault(const Fault &fault) {
    uint32_t id = 0;
    registration_.reactor().call([&] { id = faults_.add(fault); });
    return id;
}

void EmulatedMedia::clear_faults(std::optional<uint32_t> id) {
    registration_.reactor().call([&] { faults_.clear(id); });
}

void EmulatedMedia::rot(uint64_t lba, uint32_t bit) {
    if (kind_ == MediaConfig::Kind::null || lba >= info_.block_count || bit / 8 >= info_.block_bytes) {
        throw std::invalid_argument("rot: block " + std::to_string(lba) + " of this device has no bit " +
                                    std::to_string(bit));
    }
    if (content_) {
        throw std::invalid_argument("rot: the content of this device is made, not stored");
    }
    registration_.reactor().call([&] {
        const uint64_t offset = lba * info_.block_bytes + bit / 8;
        uint8_t byte = 0;
        const iovec memory{&byte, 1};
        Status done = store_.read(offset, IovCursor(memory), 1);
        byte ^= static_cast<uint8_t>(1U << bit % 8);
        done = done == status::ok ? store_.write(offset, IovCursor(memory), 1, false) : done;
        if (done != status::ok) {
            throw std::invalid_argument("rot: block " + std::to_string(lba) + " can't be changed");
        }
    });
}

void EmulatedMedia::hold(std::shared_ptr<ZoneContent> content) {
    if (!keeps_stale_ || content_ || info_.block_bytes != kBlockSize) {
        throw std::invalid_argument("only zoned media in memory, with blocks of 4096 bytes, can hold content, once");
    }
    registration_.reactor().call([&] {
        std::vector<uint64_t> made(zones_->geometry().zone_count);
        for (uint32_t zone = 0; zone < zones_->zones_shown(); ++zone) {
            made[zone] = content->written(zone);
            const bool fits = made[zone] <= zones_->geometry().zone_capacity;
            if (!fits || (made[zone] > 0 && zones_->record(zone).state != ZoneState::empty)) {
                throw std::invalid_argument("zone " + std::to_string(zone) +
                                            " is in use, or too small to hold content");
            }
        }
        for (uint32_t zone = 0; zone < made.size(); ++zone) {
            if (made[zone] > 0) {
                zones_->truncate(zone, made[zone]);
                durable_[zone] = {made[zone], false, true};
            }
        }
        content_ = std::move(content);
        made_ = std::move(made);
    });
}

void EmulatedMedia::grow() {
    registration_.reactor().call([&] {
        info_.block_count += hidden_blocks_;
        hidden_blocks_ = 0;
        if (zones_) {
            zones_->show(info_.block_count);
        }
    });
}

void EmulatedMedia::resize(uint64_t block_count) {
    if (kind_ != MediaConfig::Kind::null) {
        throw std::invalid_argument("only null media can be resized");
    }
    if (block_count == 0 || block_count > kMediaBytesMax / info_.block_bytes) {
        throw std::invalid_argument("block_count " + std::to_string(block_count) +
                                    " must be at least 1, and the media at most 64 TiB");
    }
    registration_.reactor().call([&] { info_.block_count = block_count; });
}

void EmulatedMedia::set_schedule(std::optional<uint64_t> seed) {
    registration_.reactor().call([&] {
        schedule_.reset();
        if (seed) {
            schedule_.emplace(*seed);
        }
    });
}

void EmulatedMedia::cut_power_at(uint64_t operation, uint64_t seed) {
    registration_.reactor().call([&] {
        cut_at_operation_ = operation;
        cut_seed_ = seed;
    });
}

uint32_t EmulatedMedia::flushes_at_once() {
    uint32_t result = 0;
    registration_.reactor().call([&] { result = flushes_at_once_; });
    return result;
}

uint64_t EmulatedMedia::operations() {
    uint64_t result = 0;
    registration_.reactor().call([&] { result = operations_; });
    return result;
}

}  // namespace ftl
