// SPDX-License-Identifier: BSD-3-Clause
#include "nvme/command_decoder.hpp"

#include <cstring>

#include "nvme/zns.hpp"

namespace ftl {
namespace {

bool out_of_range(const BlockDeviceInfo &info, uint64_t lba, uint64_t block_count) noexcept {
    return lba >= info.block_count || block_count > info.block_count - lba;
}

wire::DsmRange range_of(const Io &io, uint32_t number) noexcept {
    wire::DsmRange range;
    std::memcpy(&range, static_cast<const uint8_t *>(io.iov->iov_base) + number * sizeof range, sizeof range);
    return range;
}

// Over a network only the SGL types in wire::kSgl* can transfer data.
Status check_data(const wire::Sgl &sgl, uint64_t needed, uint32_t max_io_bytes, DataShape &shape) noexcept {
    if (shape.pointers == Pointers::memory) {
        shape.length = needed > max_io_bytes ? 0 : static_cast<uint32_t>(needed);
        return needed > max_io_bytes ? status::invalid_field : status::ok;
    }
    if (sgl.type != wire::kSglTransport && sgl.type != wire::kSglInCapsule) {
        return status::sgl_type;
    }
    if (sgl.type == wire::kSglInCapsule && !shape.to_device) {
        return status::sgl_type;  // a command capsule cannot return data
    }
    if (needed > max_io_bytes) {
        return status::invalid_field;
    }
    if (sgl.length != needed) {
        return status::sgl_data_length;
    }
    shape.length = sgl.length;
    return status::ok;
}

Status decode_rw(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Op op, Io &io,
                 DataShape &shape) noexcept {
    io.op = op;
    io.block_count = (sqe.cdw12 & wire::kCdw12NlbMask) + 1;
    shape.to_device = op != Op::read;
    if (io.block_count > (op == Op::append ? info.max_append_blocks : info.max_io_blocks)) {
        return status::invalid_field;
    }
    if (const Status bad = check_data(sqe.sgl, uint64_t{io.block_count} * info.block_bytes, max_io_bytes, shape);
        bad != status::ok) {
        return bad;
    }
    // For an append, only the zone is known beforehand. The device checks that the data fits.
    return out_of_range(info, io.lba, op == Op::append ? 1 : io.block_count) ? status::lba_out_of_range : status::ok;
}

// Compare and Verify: reads of the device.
Status decode_check(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Steps steps, Io &io,
                    DataShape &shape) noexcept {
    io.op = Op::read;
    io.block_count = (sqe.cdw12 & wire::kCdw12NlbMask) + 1;
    io.fua = false;
    shape.steps = steps;
    const uint64_t bytes = uint64_t{io.block_count} * info.block_bytes;
    if (bytes > max_io_bytes) {
        return status::invalid_field;
    }
    if (steps == Steps::compare) {
        shape.to_device = true;
        if (const Status bad = check_data(sqe.sgl, bytes, max_io_bytes, shape); bad != status::ok) {
            return bad;
        }
    }
    return out_of_range(info, io.lba, io.block_count) ? status::lba_out_of_range : status::ok;
}

Status decode_copy(const wire::Sqe &sqe, const BlockDeviceInfo &info, Io &io, DataShape &shape) noexcept {
    io.op = Op::read;
    shape.steps = Steps::copy;
    shape.to_device = true;
    shape.ranges = (sqe.cdw12 & 0xFF) + 1;
    if ((sqe.cdw12 & wire::kCdw12CopyFormatMask) != 0) {
        return status::invalid_field;
    }
    if (shape.ranges > wire::kCopyRangesMax) {
        return status::command_size_limit;
    }
    if (out_of_range(info, io.lba, 1)) {
        return status::lba_out_of_range;
    }
    return check_data(sqe.sgl, shape.ranges * sizeof(wire::CopyRange), wire::kCopyRangesMax * sizeof(wire::CopyRange),
                      shape);
}

// One of a fused pair: a Compare, or the Write after it.
Status decode_fused(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Io &io,
                    DataShape &shape) noexcept {
    const bool first = (sqe.flags & wire::kFlagsFuseMask) == wire::kFuseFirst;
    if (info.compare_write_blocks == 0 || sqe.opcode != (first ? wire::opcode::compare : wire::opcode::write)) {
        return status::invalid_field;
    }
    if ((sqe.cdw12 & wire::kCdw12NlbMask) >= info.compare_write_blocks) {
        return status::atomic_write_unit;
    }
    return first ? decode_check(sqe, info, max_io_bytes, Steps::compare, io, shape)
                 : decode_rw(sqe, info, max_io_bytes, Op::write, io, shape);
}

Status decode_dsm(const wire::Sqe &sqe, Io &io, DataShape &shape) noexcept {
    io.op = Op::deallocate;
    io.fua = false;
    const auto cdw10 = static_cast<uint32_t>(sqe.slba);
    const auto cdw11 = static_cast<uint32_t>(sqe.slba >> 32);
    shape.ranges = (cdw10 & 0xFF) + 1;
    shape.to_device = true;
    if (shape.pointers == Pointers::memory) {
        shape.length = shape.ranges * static_cast<uint32_t>(sizeof(wire::DsmRange));
    } else {
        if (sqe.sgl.type != wire::kSglTransport && sqe.sgl.type != wire::kSglInCapsule) {
            return status::sgl_type;
        }
        // Linux sends space for 256 ranges, however many ranges it uses.
        if (sqe.sgl.length < shape.ranges * sizeof(wire::DsmRange) ||
            sqe.sgl.length > wire::kDsmRangesMax * sizeof(wire::DsmRange) || sqe.sgl.length % 4 != 0) {
            return status::sgl_data_length;
        }
        shape.length = sqe.sgl.length;
    }
    if ((cdw11 & wire::kCdw11Deallocate) == 0) {
        shape.ranges = 0;  // hints only: nothing to do, but the ranges are still transferred
    }
    return status::ok;
}

Status decode_zone_send(const wire::Sqe &sqe, const BlockDeviceInfo &info, Io &io) noexcept {
    io.op = Op::zone_send;
    io.fua = false;
    io.zone_action = static_cast<uint8_t>(sqe.cdw13);
    io.zone_all = (sqe.cdw13 & zns::kCdw13SelectAll) != 0;
    if (io.zone_action == zns::code(zns::ZoneAction::set_descriptor_extension)) {
        return status::invalid_field;  // the command would carry a zone descriptor extension
    }
    if (!io.zone_all && out_of_range(info, io.lba, 1)) {
        return status::lba_out_of_range;
    }
    return status::ok;
}

Status decode_zone_recv(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Io &io,
                        DataShape &shape) noexcept {
    io.op = Op::zone_report;
    io.fua = false;
    io.zone_action = static_cast<uint8_t>(sqe.cdw13);
    io.zone_filter = static_cast<uint8_t>(sqe.cdw13 >> zns::kCdw13FilterShift);
    io.zone_all = (sqe.cdw13 & zns::kCdw13Partial) != 0;
    if (io.zone_action > zns::code(zns::ReportAction::extended)) {
        return status::invalid_field;
    }
    if (const Status bad = check_data(sqe.sgl, (uint64_t{sqe.cdw12} + 1) * 4, max_io_bytes, shape); bad != status::ok) {
        return bad;
    }
    return out_of_range(info, io.lba, 1) ? status::lba_out_of_range : status::ok;
}

// Linux sends 16 bytes with each of the three, also with a Release, which has a key of 8 bytes.
Status decode_reservation(const wire::Sqe &sqe, uint32_t least, Io &io, DataShape &shape) noexcept {
    io.op = Op::flush;
    io.fua = false;
    shape.to_device = shape.for_python = true;
    if (sqe.sgl.type != wire::kSglTransport && sqe.sgl.type != wire::kSglInCapsule) {
        return status::sgl_type;
    }
    if (sqe.sgl.length < least || sqe.sgl.length > wire::kReservationDataMax || sqe.sgl.length % 4 != 0) {
        return status::sgl_data_length;
    }
    shape.length = sqe.sgl.length;
    return status::ok;
}

Status decode_reservation_report(const wire::Sqe &sqe, uint32_t max_io_bytes, Io &io, DataShape &shape) noexcept {
    io.op = Op::zone_report;  // its memory need not consist of whole blocks
    io.fua = false;
    shape.for_python = true;
    return check_data(sqe.sgl, (uint64_t{static_cast<uint32_t>(sqe.slba)} + 1) * 4, max_io_bytes, shape);
}

}  // namespace

Status decode_command(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, Io &io,
                      DataShape &shape) noexcept {
    if ((sqe.flags & wire::kFlagsFuseMask) != 0) {
        return decode_fused(sqe, info, max_io_bytes, io, shape);
    }
    switch (sqe.opcode) {
        case wire::opcode::read:
            return decode_rw(sqe, info, max_io_bytes, Op::read, io, shape);
        case wire::opcode::write:
            return decode_rw(sqe, info, max_io_bytes, Op::write, io, shape);
        case wire::opcode::flush:
            io.op = Op::flush;
            io.lba = 0;
            io.fua = false;
            return status::ok;
        case wire::opcode::write_zeroes:
            io.op = Op::write_zeroes;
            io.block_count = (sqe.cdw12 & wire::kCdw12NlbMask) + 1;
            return out_of_range(info, io.lba, io.block_count) ? status::lba_out_of_range : status::ok;
        case wire::opcode::compare:
            return decode_check(sqe, info, max_io_bytes, Steps::compare, io, shape);
        case wire::opcode::verify:
            return decode_check(sqe, info, max_io_bytes, Steps::verify, io, shape);
        case wire::opcode::copy:
            return info.zoned ? status::invalid_opcode : decode_copy(sqe, info, io, shape);
        case wire::opcode::write_uncorrectable:
            if (!info.write_uncorrectable) {
                return status::invalid_opcode;
            }
            io.op = Op::write_uncorrectable;
            io.fua = false;
            io.block_count = (sqe.cdw12 & wire::kCdw12NlbMask) + 1;
            return out_of_range(info, io.lba, io.block_count) ? status::lba_out_of_range : status::ok;
        case wire::opcode::dataset_management:
            return decode_dsm(sqe, io, shape);
        case wire::opcode::reservation_register:
        case wire::opcode::reservation_acquire:
            return decode_reservation(sqe, 16, io, shape);
        case wire::opcode::reservation_release:
            return decode_reservation(sqe, 8, io, shape);
        case wire::opcode::reservation_report:
            return decode_reservation_report(sqe, max_io_bytes, io, shape);
        case wire::opcode::zone_append:
            return info.zoned ? decode_rw(sqe, info, max_io_bytes, Op::append, io, shape) : status::invalid_opcode;
        case wire::opcode::zone_mgmt_send:
            return info.zoned ? decode_zone_send(sqe, info, io) : status::invalid_opcode;
        case wire::opcode::zone_mgmt_recv:
            return info.zoned ? decode_zone_recv(sqe, info, max_io_bytes, io, shape) : status::invalid_opcode;
        default:
            return status::invalid_opcode;
    }
}

Status check_ranges(const BlockDeviceInfo &info, const Io &io, const DataShape &shape) noexcept {
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < shape.ranges; ++i) {
        const wire::DsmRange range = range_of(io, i);
        if (range.block_count > 0 && out_of_range(info, range.lba, range.block_count)) {
            return status::lba_out_of_range;
        }
        blocks += range.block_count;
    }
    return blocks > info.block_count ? status::command_size_limit : status::ok;
}

wire::CopyRange copy_range_of(const void *data, uint32_t number) noexcept {
    wire::CopyRange range;
    std::memcpy(&range, static_cast<const uint8_t *>(data) + number * sizeof range, sizeof range);
    return range;
}

Status check_copy(const BlockDeviceInfo &info, const Io &io, const DataShape &shape) noexcept {
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < shape.ranges; ++i) {
        const uint64_t count = uint64_t{copy_range_of(io.iov->iov_base, i).block_count} + 1;
        blocks += count;
        if (count > wire::kCopyBlocksMax || blocks > wire::kCopyBlocksMax) {
            return status::command_size_limit;
        }
    }
    if (out_of_range(info, io.lba, blocks)) {
        return status::lba_out_of_range;
    }
    for (uint32_t i = 0; i < shape.ranges; ++i) {
        const wire::CopyRange range = copy_range_of(io.iov->iov_base, i);
        const uint64_t count = uint64_t{range.block_count} + 1;
        if (out_of_range(info, range.lba, count)) {
            return status::lba_out_of_range;
        }
        if (range.lba < io.lba + blocks && io.lba < range.lba + count) {
            return status::overlapping_range;
        }
    }
    return status::ok;
}

bool take_range(Io &io, const DataShape &shape, uint32_t &range) noexcept {
    while (range < shape.ranges) {
        const wire::DsmRange next = range_of(io, range);
        ++range;
        if (next.block_count > 0) {
            io.lba = next.lba;
            io.block_count = next.block_count;
            return true;
        }
    }
    return false;
}

}  // namespace ftl
