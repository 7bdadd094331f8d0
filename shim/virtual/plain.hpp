// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "reactor/block_device.hpp"

namespace ftl {

// SPDK's split, error, delay and raid bdevs are not zoned, whatever their base is. On a zoned base they take reads and
// writes, which obey the zones beneath.
inline void make_plain(BlockDeviceInfo &info) noexcept {
    info.zoned = false;
    info.max_append_blocks = 0;
    info.zone_size = 0;
    info.zone_capacity = 0;
    info.max_open_zones = 0;
    info.max_active_zones = 0;
}

}  // namespace ftl
