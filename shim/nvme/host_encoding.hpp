// SPDX-License-Identifier: BSD-3-Clause
// What is the same for every host queue, over TCP or in shared memory: which Ios it accepts, and the submission queue
// entry of an Io.
#pragma once

#include <algorithm>
#include <cstdint>

#include "nvme/wire.hpp"
#include "reactor/block_device.hpp"

namespace ftl {

inline constexpr uint32_t kNlbMax = 65536;  // NLB is 16 bits, 0-based

// Whether the Io's data go to the controller, or come from it.
constexpr bool to_controller(Op op) noexcept {
    return op == Op::write || op == Op::append || op == Op::deallocate;
}
constexpr bool from_controller(Op op) noexcept {
    return op == Op::read || op == Op::zone_report;
}

// Sets the limits of `info` from the controller's: max_io_bytes of one command (MDTS) and max_append_bytes (ZASL; 0: as
// MDTS).
void set_limits(BlockDeviceInfo &info, uint32_t max_io_bytes, uint32_t max_append_bytes) noexcept;

// ok, or why the Io can't be sent. length: the bytes of data that the command transfers.
[[nodiscard]] Status check_io(const Io &io, const BlockDeviceInfo &info, uint32_t max_io_bytes,
                              uint32_t &length) noexcept;

// Everything but the data pointer. The Io has passed check_io().
[[nodiscard]] wire::Sqe encode_io(const Io &io, uint32_t nsid, uint16_t cid, uint32_t length) noexcept;

// The one range of a DSM command.
[[nodiscard]] inline wire::DsmRange dsm_range(const Io &io) noexcept {
    return {0, io.block_count, io.lba};
}

// The LBA that a Zone Append has written to, from its completion. False: it is not in the zone that the append
// addressed. SPDK returns only DW0. A zone has fewer than 2^32 blocks, so ZSLBA gives the high half.
[[nodiscard]] inline bool append_address(const Io &io, const BlockDeviceInfo &info, uint64_t &result) noexcept {
    uint64_t alba = (io.lba & ~uint64_t{0xFFFFFFFF}) | (result & 0xFFFFFFFF);
    if (alba < io.lba) {
        alba += uint64_t{1} << 32;
    }
    result = alba;
    return alba - io.lba + io.block_count <= info.zone_size;
}

}  // namespace ftl
