// SPDX-License-Identifier: BSD-3-Clause
// Zones on a conventional device. Their state is in memory: what SPDK's zone_block bdev does in a target, this does in
// the shim.
//
// Submitting a write moves the zone's write pointer, so several writes to a zone may be outstanding in order. If the
// base fails a write, the blocks after it are not reliable: the zone becomes read-only, and its user moves the data
// away. If the base is busy, and no later write exists, the write pointer goes back and the write may be repeated.
// Reads, flushes and FUA go to the base unchanged. A read beyond the write pointer returns the content of the base.
#pragma once

#include <memory>
#include <vector>

#include "media/zone_table.hpp"
#include "reactor/block_device.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"

namespace ftl {

class ZonedOverlay final : public BlockDevice, public ZoneTable::Observer {
public:
    // Zone size: zone_capacity rounded up to a power of two. initially_full: every zone is full until it is reset, for
    // a base whose zone states are unknown. zone_commands false: zone actions, reports and appends are invalid opcodes,
    // as over SPDK's NVMe-oF, where zone_block accepts only reads and writes. Throws std::invalid_argument if the base
    // has no room for such zones.
    ZonedOverlay(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> base, uint64_t zone_capacity,
                 uint32_t max_open_zones, bool initially_full, bool zone_commands);

    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override;
    uint32_t poll(uint64_t now_ns) noexcept override;
    [[nodiscard]] bool busy() const noexcept override { return !done_.empty(); }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }
    // The conventional device, with the same addresses.
    [[nodiscard]] const std::shared_ptr<BlockDevice> &base() const noexcept { return base_; }

private:
    static constexpr uint32_t kWritesMax = 256;  // writes outstanding at the base; more writes wait here

    struct Child {
        Io io;
        Io *parent = nullptr;
        ZonedOverlay *overlay = nullptr;
        Child *next_free = nullptr;
    };

    void done(Io &io, Status status) noexcept;
    [[nodiscard]] Status check(const Io &io) const noexcept;
    void write(Io &io, Child &child) noexcept;
    static void on_write_done(Io &io) noexcept;
    void write_done(Child &child) noexcept;
    [[nodiscard]] bool takes_again(const Child &child) const noexcept;
    [[nodiscard]] bool has_writes(const Io &zone_send) const noexcept;
    void zone_reset(uint32_t) noexcept override {}
    void zone_finished(uint32_t) noexcept override {}

    std::shared_ptr<BlockDevice> base_;
    BlockDeviceInfo info_;
    bool zone_commands_;
    std::vector<ZoneRecord> records_;
    std::unique_ptr<ZoneTable> zones_;
    std::vector<uint32_t> writes_in_zone_;  // writes outstanding at the base
    uint32_t writes_ = 0;
    std::vector<Child> children_;
    Child *free_children_ = nullptr;
    IoList waiting_;  // writes that wait for a child
    IoList parked_;   // zone actions that wait for writes to their zone
    IoList done_;     // done without the base; poll() completes these
    PollerRegistration registration_;
};

}  // namespace ftl
