// SPDX-License-Identifier: BSD-3-Clause
// What the commands of a host mean: a submission queue entry becomes an Io, with every check that needs no data. NVM
// Command Set, and Zoned Namespace Command Set 1.1. Which namespace a command is for is the queue's business.
#pragma once

#include <cstdint>

#include "nvme/wire.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

// What travels with a command.
struct DataShape {
    uint32_t length = 0;     // bytes
    uint32_t ranges = 0;     // dataset management: how many of them count
    bool to_device = false;  // data comes from the host
};

// Of every command, before anything else: io and shape as if it moved nothing. Not io.op, and not io.iov.
[[nodiscard]] inline Status decode_common(const wire::Sqe &sqe, Io &io, DataShape &shape) noexcept {
    io.zone_action = 0;
    io.zone_filter = 0;
    io.zone_all = false;
    io.fua = (sqe.cdw12 & wire::kCdw12Fua) != 0;
    io.status = status::ok;
    io.lba = sqe.slba;
    io.block_count = 0;
    io.iov_count = 0;
    io.result = 0;
    shape = {};
    if ((sqe.flags & wire::kFlagsPsdtMask) == 0 || (sqe.flags & wire::kFlagsPsdtMask) == wire::kFlagsPsdtMask ||
        (sqe.flags & wire::kFlagsFuseMask) != 0) {
        return status::invalid_field;  // PRPs, or fused
    }
    return status::ok;
}

// Of a command for a namespace with this info, after decode_common(). The type and length of its data are checked
// against the command; that in-capsule data are there is not.
[[nodiscard]] Status decode_command(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Io &io,
                                    DataShape &shape) noexcept;

// Dataset management: io.iov[0] holds shape.ranges ranges as the host sent them.
// All or nothing: no range is touched when one of them is wrong. Together they may have as many blocks as the
// namespace: DMSL, which Identify tells.
[[nodiscard]] Status check_ranges(const BlockDeviceInfo &info, const Io &io, const DataShape &shape) noexcept;
// Makes io that of the first range that is not empty, from `range` on, and moves `range` behind it; false: there is
// none.
[[nodiscard]] bool take_range(Io &io, const DataShape &shape, uint32_t &range) noexcept;

}  // namespace ftl
