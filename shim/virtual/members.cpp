// SPDX-License-Identifier: BSD-3-Clause
#include "virtual/members.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "virtual/plain.hpp"

namespace ftl {

BlockDeviceInfo info_of(const Members &members) {
    if (members.empty() || members.size() > kMembersMax) {
        throw std::invalid_argument(std::to_string(members.size()) + " devices: 1.." + std::to_string(kMembersMax) +
                                    " are possible");
    }
    BlockDeviceInfo info = members.front()->info();
    make_plain(info);
    info.block_count = 0;
    for (const std::shared_ptr<BlockDevice> &member : members) {
        const BlockDeviceInfo &one = member->info();
        if (one.block_bytes != info.block_bytes || one.metadata_bytes != info.metadata_bytes) {
            throw std::invalid_argument("the devices differ in their block size or metadata");
        }
        info.max_io_blocks = std::min(info.max_io_blocks, one.max_io_blocks);
        info.volatile_cache = info.volatile_cache || one.volatile_cache;
        info.deallocated_reads_zeroes = info.deallocated_reads_zeroes && one.deallocated_reads_zeroes;
    }
    return info;
}

}  // namespace ftl
