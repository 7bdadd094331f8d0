// SPDX-License-Identifier: BSD-3-Clause
#include "nvme/host_encoding.hpp"

#include "base/iov_cursor.hpp"
#include "nvme/zns.hpp"

namespace ftl {

void set_limits(BlockDeviceInfo &info, uint32_t max_io_bytes, uint32_t max_append_bytes) noexcept {
    info.max_io_blocks = std::min(max_io_bytes / info.block_bytes, kNlbMax);
    info.max_append_blocks = 0;
    if (info.zoned) {
        const uint32_t append_bytes = max_append_bytes > 0 ? std::min(max_append_bytes, max_io_bytes) : max_io_bytes;
        info.max_append_blocks = std::min(append_bytes / info.block_bytes, kNlbMax);
    }
}

Status check_io(const Io &io, const BlockDeviceInfo &info, uint32_t max_io_bytes, uint32_t &length) noexcept {
    length = 0;
    switch (io.op) {
        case Op::flush:
        case Op::zone_send:
            return status::ok;
        case Op::deallocate:
            length = sizeof(wire::DsmRange);
            return io.block_count > 0 ? status::ok : status::invalid_field;
        case Op::write_zeroes:
            return io.block_count > 0 && io.block_count <= kNlbMax ? status::ok : status::invalid_field;
        case Op::zone_report: {
            const uint64_t bytes = iov_bytes(io.memory());
            if (bytes == 0 || bytes % 4 != 0 || bytes > max_io_bytes) {
                return status::invalid_field;
            }
            length = static_cast<uint32_t>(bytes);
            return status::ok;
        }
        case Op::append:
            if (io.block_count > info.max_append_blocks) {
                return status::invalid_field;
            }
            [[fallthrough]];
        case Op::read:
        case Op::write:
            if (io.block_count == 0 || io.block_count > info.max_io_blocks) {
                return status::invalid_field;
            }
            length = io.block_count * info.block_bytes;
            return iov_bytes(io.memory()) >= length ? status::ok : status::invalid_field;
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;
    }
    return status::invalid_opcode;
}

wire::Sqe encode_io(const Io &io, uint32_t nsid, uint16_t cid, uint32_t length) noexcept {
    wire::Sqe sqe{};
    sqe.cid = cid;
    sqe.nsid = nsid;
    sqe.slba = io.lba;
    const uint32_t nlb = io.block_count - 1;
    const uint32_t fua = io.fua ? wire::kCdw12Fua : 0;
    switch (io.op) {
        case Op::read:
            sqe.opcode = wire::opcode::read;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::write:
            sqe.opcode = wire::opcode::write;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::append:
            sqe.opcode = wire::opcode::zone_append;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::flush:
            sqe.opcode = wire::opcode::flush;
            sqe.slba = 0;
            break;
        case Op::write_zeroes:
            sqe.opcode = wire::opcode::write_zeroes;
            sqe.cdw12 = nlb | fua;
            break;
        case Op::deallocate:
            sqe.opcode = wire::opcode::dataset_management;
            sqe.slba = uint64_t{wire::kCdw11Deallocate} << 32;  // cdw10 NR = 0: one range
            break;
        case Op::zone_send:
            sqe.opcode = wire::opcode::zone_mgmt_send;
            sqe.cdw13 = io.zone_action | (io.zone_all ? zns::kCdw13SelectAll : 0);
            break;
        case Op::zone_report:
            sqe.opcode = wire::opcode::zone_mgmt_recv;
            sqe.cdw12 = length / 4 - 1;
            sqe.cdw13 = io.zone_action | (uint32_t{io.zone_filter} << zns::kCdw13FilterShift) |
                        (io.zone_all ? zns::kCdw13Partial : 0);
            break;
        case Op::compare_write:
        case Op::write_uncorrectable:
            break;  // check_io() has refused them
    }
    return sqe;
}

}  // namespace ftl
