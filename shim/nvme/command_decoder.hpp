// SPDX-License-Identifier: BSD-3-Clause
// Decodes commands from hosts: a submission queue entry becomes an Io. Does every check that needs no data. Commands of
// the NVM Command Set and of the Zoned Namespace Command Set 1.1. The queue looks up the namespace.
#pragma once

#include <cstdint>

#include "nvme/wire.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

// Commands that the queue executes as a series of reads and writes of the device.
enum class Steps : uint8_t { none, compare, verify, copy };

// How a command names its data.
enum class Pointers : uint8_t {
    capsule,  // by an SGL descriptor with the length: NVMe/TCP
    memory,  // by addresses of the host's memory, as PRPs or as SGL. The queue checks that they are as long as the data
};

// The data transfer of a command.
struct DataShape {
    uint32_t length = 0;     // bytes
    uint32_t ranges = 0;     // dataset management, copy: number of valid ranges
    bool to_device = false;  // the host sends data
    Steps steps = Steps::none;
    bool for_python = false;  // a reservation command: Python executes it
    Pointers pointers = Pointers::capsule;
};

// Call it for every command first. It sets io and shape as for a command without data, except io.op and io.iov.
[[nodiscard]] inline Status decode_common(const wire::Sqe &sqe, Io &io, DataShape &shape,
                                          Pointers pointers = Pointers::capsule) noexcept {
    io.zone_action = 0;
    io.zone_filter = 0;
    io.zone_all = false;
    io.fua = (sqe.cdw12 & wire::kCdw12Fua) != 0;
    io.compared = false;
    io.status = status::ok;
    io.lba = sqe.slba;
    io.block_count = 0;
    io.iov_count = 0;
    io.result = 0;
    shape = {};
    shape.pointers = pointers;
    const bool prps = (sqe.flags & wire::kFlagsPsdtMask) == 0;
    if ((prps && pointers == Pointers::capsule) || (sqe.flags & wire::kFlagsPsdtMask) == wire::kFlagsPsdtMask ||
        (sqe.flags & wire::kFlagsFuseMask) == wire::kFlagsFuseMask) {
        return status::invalid_field;  // PRPs over a network, or a reserved value of PSDT or FUSE
    }
    return status::ok;
}

// Decodes a command for a namespace with this info. Call decode_common() first. Checks the type and length of the data
// against the command, but not that in-capsule data is present. A command with shape.steps is a read: io has the blocks
// to compare or verify, or the first block that a copy writes. One of a fused pair is Steps::compare or Op::write.
[[nodiscard]] Status decode_command(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Io &io,
                                    DataShape &shape) noexcept;

// Dataset management: io.iov[0] holds shape.ranges ranges as the host sent them. If one range is invalid, the command
// fails and no range is deallocated. All ranges together may have as many blocks as the namespace (DMSL in the Identify
// data).
[[nodiscard]] Status check_ranges(const BlockDeviceInfo &info, const Io &io, const DataShape &shape) noexcept;
// Copy: io.iov[0] holds shape.ranges source ranges. Checks all of them, and that they do not overlap the destination,
// which begins at io.lba.
[[nodiscard]] Status check_copy(const BlockDeviceInfo &info, const Io &io, const DataShape &shape) noexcept;
// `data`: the ranges as the host sent them.
[[nodiscard]] wire::CopyRange copy_range_of(const void *data, uint32_t number) noexcept;
// Sets io to the next non-empty range, starting with index `range`, and advances `range` past it. False: no range is
// left.
[[nodiscard]] bool take_range(Io &io, const DataShape &shape, uint32_t &range) noexcept;

}  // namespace ftl
