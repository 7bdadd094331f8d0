// SPDX-License-Identifier: BSD-3-Clause
// An emulated drive: conventional, null or zoned, in memory or in a sparse file. It fails on demand.
//
// I/O waits from submit() to poll(), which executes it at once. So outstanding I/O has had no effect yet. Loss of power
// (power_cut) first executes outstanding I/O in part: any blocks of a conventional write, the first blocks of a zoned
// write, and each zone action either wholly or not at all. Then the volatile cache is lost:
//   - zoned: each zone loses any number of the last blocks written since the last completed flush. A finish since then
//     may be lost, too. Zone resets, opens and closes are durable at once. An FUA write makes its zone durable up to
//     the end of the write.
//   - conventional: any of the blocks written since the last completed flush get their content of that time back. An
//     FUA write is durable at once.
// Media in a file survive the death of the process, whatever the cache holds: only power_cut() loses data. A flush is
// an fdatasync(), and FUA writes have O_DSYNC semantics, so a flush also protects against a power loss of the machine.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/prng.hpp"
#include "media/media_cache.hpp"
#include "media/media_faults.hpp"
#include "media/media_store.hpp"
#include "media/zone_content.hpp"
#include "media/zone_table.hpp"
#include "reactor/block_device.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

struct MediaConfig {
    enum class Kind : uint8_t { conventional, null, zoned };

    Kind kind = Kind::conventional;
    uint64_t block_count = 0;  // conventional and null
    uint32_t data_bytes = kBlockSize;
    uint32_t metadata_bytes = 0;  // interleaved, after the data
    uint32_t max_io_blocks = 256;
    uint32_t max_append_blocks = 32;  // zoned only
    bool volatile_cache = false;
    std::string path;            // empty: in memory
    uint64_t hidden_blocks = 0;  // in memory only: whole zones at the end, which grow() makes visible
    ZoneGeometry zones;          // zoned only
};

class EmulatedMedia final : public BlockDevice, public ZoneTable::Observer {
public:
    // Throws std::invalid_argument, or std::system_error with the name of the file.
    EmulatedMedia(std::shared_ptr<Reactor> reactor, const MediaConfig &config);

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !incoming_.empty() || !ready_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return delayed_.empty() ? ~uint64_t{0} : delayed_until_ns_; }

    // Any thread may call these. Each call runs on the reactor's thread.
    struct Zone {
        uint64_t start;
        ZoneState state;
        uint64_t write_pointer;  // LBA after the last block written
    };
    [[nodiscard]] std::vector<Zone> zones();
    // `state`: read_only or offline; or full: the drive finishes the zone by itself. That throws if the zone is not
    // active.
    void set_zone_state(uint32_t zone, ZoneState state);
    void recommend(uint32_t zone, bool finish, bool reset);
    uint32_t inject_fault(const Fault &fault);
    void clear_faults(std::optional<uint32_t> id);
    // Flips one stored bit without any error. Throws std::invalid_argument if there is no such bit.
    void rot(uint64_t lba, uint32_t bit);
    // The zones that `content` makes hold it until they are reset, as if it had been written and flushed. They must be
    // empty. Zoned media in memory only, with blocks of kBlockSize bytes. Once. Throws std::invalid_argument.
    void hold(std::shared_ptr<ZoneContent> content);
    void power_cut(uint64_t seed);
    void power_on();
    // Call it only while no user of the device knows its old size.
    void grow();
    // Null media only.
    void resize(uint64_t block_count);
    void set_schedule(std::optional<uint64_t> seed);
    void cut_power_at(uint64_t operation, uint64_t seed);
    [[nodiscard]] uint64_t operations();
    // The highest number of flushes that were outstanding at the same time.
    [[nodiscard]] uint32_t flushes_at_once();

private:
    // Use of Io::device_data while this device has an Io.
    static constexpr size_t kDueNs = 0;
    static constexpr size_t kPresetStatus = 1;  // not ok: the Io completes with this status and is not executed
    static constexpr size_t kPresetFlags = 2;
    static constexpr uint64_t kPresetDnr = 1;
    static constexpr uint64_t kPresetTakesEffect = 2;
    static constexpr uint64_t kPresetDropsCache = 4;
    static constexpr uint64_t kPresetFlip = 8;  // the first bit of the read data is wrong

    struct Durable {  // state of a zone after the last flush
        uint64_t written = 0;
        bool dirty = false;    // in dirty_zones_
        bool finished = true;  // false: finished since the last flush
    };

    void open_zones_file(const MediaConfig &config);
    void check_zone(uint32_t zone) const;
    void intake(uint64_t now_ns) noexcept;
    void promote(uint64_t now_ns) noexcept;
    void finish(Io &io) noexcept;

    [[nodiscard]] Status execute(Io &io) noexcept;
    [[nodiscard]] Status check_blocks(const Io &io, uint32_t max_blocks) const noexcept;
    [[nodiscard]] Status read(Io &io) noexcept;
    void read_zone(uint32_t zone, uint64_t offset, uint64_t block_count, IovCursor &to) noexcept;
    [[nodiscard]] Status write(Io &io) noexcept;
    [[nodiscard]] Status append(Io &io) noexcept;
    [[nodiscard]] Status write_zeroes(const Io &io) noexcept;
    [[nodiscard]] Status deallocate(const Io &io) noexcept;
    [[nodiscard]] Status flush() noexcept;
    [[nodiscard]] Status store_zone_blocks(const Io &io, uint64_t lba, uint64_t block_count) noexcept;
    void wrote_zone(uint32_t zone, bool fua) noexcept;
    void mark_dirty(uint32_t zone) noexcept;
    void zone_reset(uint32_t zone) noexcept override;
    void zone_finished(uint32_t zone) noexcept override;

    void cut(uint64_t seed);
    void tear(Io &io, Prng &prng);
    void lose_cache(Prng &prng);
    void lose_zone_cache(Prng &prng);

    BlockDeviceInfo info_;
    MediaConfig::Kind kind_;
    MediaStore store_;
    std::unique_ptr<MappedFile> zones_file_;
    std::vector<ZoneRecord> zones_in_memory_;
    std::unique_ptr<ZoneTable> zones_;
    // In memory, a reset leaves the zone's pages as they are, because faulting them in again would cost more than the
    // rest of a write. Reads must therefore stop at the write pointer.
    bool keeps_stale_ = false;
    std::shared_ptr<ZoneContent> content_;
    std::vector<uint64_t> made_;  // with content_: the blocks of each zone that it makes
    std::vector<Durable> durable_;
    std::vector<uint32_t> dirty_zones_;  // at most one entry per zone; reserved at the start
    UndoLog undo_;
    FaultTable faults_;

    IoList incoming_;  // in order of submission
    IoList delayed_;   // by a latency fault, until Io::device_data[kDueNs]
    IoList ready_;
    uint64_t delayed_until_ns_ = 0;
    bool powered_ = true;
    uint64_t operations_ = 0;
    uint32_t flushes_ = 0;  // outstanding
    uint32_t flushes_at_once_ = 0;
    uint64_t cut_at_operation_ = 0;  // 0: never
    uint64_t cut_seed_ = 0;
    std::optional<Prng> schedule_;
    uint64_t hidden_blocks_ = 0;
    PollerRegistration registration_;
};

}  // namespace ftl
