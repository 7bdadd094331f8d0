// SPDX-License-Identifier: BSD-3-Clause
// What all devices on devices need: is an Io within the device, and how it becomes an Io to the device beneath.
#pragma once

#include "reactor/block_device.hpp"

namespace ftl {

// Commands that only an FTL executes, and none of these devices passes on.
inline void no_ftl_commands(BlockDeviceInfo &info) noexcept {
    info.compare_write_blocks = 0;
    info.write_uncorrectable = false;
    info.thin = false;
}

// For flushes, and for operations on blocks.
[[nodiscard]] inline Status check_range(const BlockDeviceInfo &info, const Io &io) noexcept {
    if (io.op == Op::flush) {
        return status::ok;
    }
    if (io.op == Op::compare_write || io.op == Op::write_uncorrectable) {
        return status::invalid_opcode;  // no_ftl_commands() says so
    }
    const bool carries_data = io.op == Op::read || io.op == Op::write;
    if (io.block_count == 0 || (carries_data && io.block_count > info.max_io_blocks)) {
        return status::invalid_field;
    }
    if (io.lba >= info.block_count || io.block_count > info.block_count - io.lba) {
        return status::lba_out_of_range;
    }
    return status::ok;
}

// Fills `below`, whose owner and complete are set, with what `io` asks for, at other blocks. Both share io.iov.
inline void lend(const Io &io, Io &below, uint64_t lba, uint32_t block_count) noexcept {
    below.op = io.op;
    below.zone_action = io.zone_action;
    below.zone_filter = io.zone_filter;
    below.zone_all = io.zone_all;
    below.fua = io.fua;
    below.do_not_retry = false;
    below.status = status::ok;
    below.lba = lba;
    below.block_count = block_count;
    below.iov = io.iov;
    below.iov_count = io.iov_count;
    below.result = 0;
    below.ordered_by = io.ordered_by;
}

}  // namespace ftl
