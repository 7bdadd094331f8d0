// SPDX-License-Identifier: BSD-3-Clause
// What RAID levels have in common: the devices that they consist of.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "reactor/block_device.hpp"

namespace ftl {

using Members = std::vector<std::shared_ptr<BlockDevice>>;

inline constexpr uint32_t kMembersMax = 255;  // as in SPDK

// The info of a device on these, with 0 blocks: they must have the same format. Throws std::invalid_argument.
BlockDeviceInfo info_of(const Members &members);

}  // namespace ftl
