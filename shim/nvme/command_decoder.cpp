// SPDX-License-Identifier: BSD-3-Clause
// What the commands of a host mean: SQE to Io, with every check that needs no data. NVM command set, ZNS 1.1.
#include <algorithm>
#include <cstring>

#include "nvme/target_qpair.hpp"
#include "nvme/zns.hpp"

namespace ftl {
namespace {

bool out_of_range(const BlockDeviceInfo &info, uint64_t lba, uint64_t block_count) noexcept {
    return lba >= info.block_count || block_count > info.block_count - lba;
}

}  // namespace

TargetQpair::Namespace *TargetQpair::find_namespace(uint32_t nsid) noexcept {
    const auto found =
        std::lower_bound(namespaces_.begin(), namespaces_.end(), nsid,
                         [](const std::unique_ptr<Namespace> &ns, uint32_t value) { return ns->nsid < value; });
    return found != namespaces_.end() && (*found)->nsid == nsid ? found->get() : nullptr;
}

TargetQpair::Namespace *TargetQpair::next_namespace(uint32_t after_nsid) noexcept {
    const auto found =
        std::upper_bound(namespaces_.begin(), namespaces_.end(), after_nsid,
                         [](uint32_t value, const std::unique_ptr<Namespace> &ns) { return value < ns->nsid; });
    return found != namespaces_.end() ? found->get() : nullptr;
}

void TargetQpair::set_namespace_of(Slot &slot, Namespace *ns) noexcept {
    if (slot.ns != nullptr) {
        --slot.ns->users;
    }
    slot.ns = ns;
    if (ns != nullptr) {
        ++ns->users;
    }
}

// On entry the slot has no namespace.
Status TargetQpair::decode(Slot &slot, const wire::Sqe &sqe) noexcept {
    Io &io = slot.io;
    io.zone_action = 0;
    io.zone_filter = 0;
    io.zone_all = false;
    io.fua = (sqe.cdw12 & wire::kCdw12Fua) != 0;
    io.status = status::ok;
    io.lba = sqe.slba;
    io.block_count = 0;
    io.iov = iovs_.get() + size_t{number_of(slot)} * iov_per_slot_;
    io.iov_count = 0;
    io.result = 0;
    slot.to_device = false;
    slot.flush_all = false;
    slot.length = 0;
    slot.received = 0;
    slot.ranges = 0;
    slot.range = 0;
    if ((sqe.flags & wire::kFlagsPsdtMask) == 0 || (sqe.flags & wire::kFlagsPsdtMask) == wire::kFlagsPsdtMask ||
        (sqe.flags & wire::kFlagsFuseMask) != 0) {
        return status::invalid_field;  // PRPs, or fused
    }
    if (sqe.opcode == wire::opcode::fabrics) {
        return decode_fabrics(sqe);
    }
    if (sqe.opcode == wire::opcode::flush) {
        return decode_flush(slot, sqe);
    }
    set_namespace_of(slot, find_namespace(sqe.nsid));
    if (slot.ns == nullptr) {
        return status::invalid_namespace;
    }
    const BlockDeviceInfo &info = slot.ns->device->info();
    switch (sqe.opcode) {
        case wire::opcode::read:
            return decode_rw(slot, sqe, Op::read);
        case wire::opcode::write:
            return decode_rw(slot, sqe, Op::write);
        case wire::opcode::write_zeroes:
            io.op = Op::write_zeroes;
            io.block_count = (sqe.cdw12 & wire::kCdw12NlbMask) + 1;
            return out_of_range(info, io.lba, io.block_count) ? status::lba_out_of_range : status::ok;
        case wire::opcode::dataset_management:
            return decode_dsm(slot, sqe);
        case wire::opcode::zone_append:
            return info.zoned ? decode_rw(slot, sqe, Op::append) : status::invalid_opcode;
        case wire::opcode::zone_mgmt_send:
            return info.zoned ? decode_zone_send(slot, sqe) : status::invalid_opcode;
        case wire::opcode::zone_mgmt_recv:
            return info.zoned ? decode_zone_recv(slot, sqe) : status::invalid_opcode;
        default:
            return status::invalid_opcode;
    }
}

// Only the types of wire::kSgl* move data; on_command() has matched an in-capsule one against the PDU.
Status TargetQpair::check_data(Slot &slot, const wire::Sgl &sgl, uint64_t needed) const noexcept {
    if (sgl.type != wire::kSglTransport && sgl.type != wire::kSglInCapsule) {
        return status::sgl_type;
    }
    if (sgl.type == wire::kSglInCapsule && !slot.to_device) {
        return status::sgl_type;  // nothing can be returned inside a command capsule
    }
    if (needed > config_.max_io_bytes) {
        return status::invalid_field;
    }
    if (sgl.length != needed) {
        return status::sgl_data_length;
    }
    slot.length = sgl.length;
    return status::ok;
}

Status TargetQpair::decode_rw(Slot &slot, const wire::Sqe &sqe, Op op) noexcept {
    const BlockDeviceInfo &info = slot.ns->device->info();
    Io &io = slot.io;
    io.op = op;
    io.block_count = (sqe.cdw12 & wire::kCdw12NlbMask) + 1;
    slot.to_device = op != Op::read;
    if (io.block_count > (op == Op::append ? info.max_append_blocks : info.max_io_blocks)) {
        return status::invalid_field;
    }
    if (const Status bad = check_data(slot, sqe.sgl, uint64_t{io.block_count} * info.block_bytes); bad != status::ok) {
        return bad;
    }
    // Of an append only the zone is known beforehand: the device says whether it fits.
    return out_of_range(info, io.lba, op == Op::append ? 1 : io.block_count) ? status::lba_out_of_range : status::ok;
}

Status TargetQpair::decode_flush(Slot &slot, const wire::Sqe &sqe) noexcept {
    slot.io.op = Op::flush;
    slot.io.lba = 0;
    slot.io.fua = false;
    slot.flush_all = sqe.nsid == wire::kNsidAll;
    set_namespace_of(slot, slot.flush_all ? next_namespace(0) : find_namespace(sqe.nsid));
    if (slot.ns == nullptr) {
        return slot.flush_all ? status::ok : status::invalid_namespace;  // of no namespace at all: nothing to flush
    }
    return config_.flush_alarm && config_.flush_alarm->take() ? status::write_fault : status::ok;
}

Status TargetQpair::decode_dsm(Slot &slot, const wire::Sqe &sqe) noexcept {
    Io &io = slot.io;
    io.op = Op::deallocate;
    io.fua = false;
    const auto cdw10 = static_cast<uint32_t>(sqe.slba);
    const auto cdw11 = static_cast<uint32_t>(sqe.slba >> 32);
    slot.ranges = (cdw10 & 0xFF) + 1;
    slot.to_device = true;
    if (sqe.sgl.type != wire::kSglTransport && sqe.sgl.type != wire::kSglInCapsule) {
        return status::sgl_type;
    }
    // Linux sends room for 256 ranges however many there are.
    if (sqe.sgl.length < slot.ranges * sizeof(wire::DsmRange) ||
        sqe.sgl.length > wire::kDsmRangesMax * sizeof(wire::DsmRange) || sqe.sgl.length % 4 != 0) {
        return status::sgl_data_length;
    }
    slot.length = sqe.sgl.length;
    if ((cdw11 & wire::kCdw11Deallocate) == 0) {
        slot.ranges = 0;  // hints only: nothing to do, but the ranges still travel
    }
    return status::ok;
}

Status TargetQpair::decode_zone_send(Slot &slot, const wire::Sqe &sqe) noexcept {
    Io &io = slot.io;
    io.op = Op::zone_send;
    io.fua = false;
    io.zone_action = static_cast<uint8_t>(sqe.cdw13);
    io.zone_all = (sqe.cdw13 & zns::kCdw13SelectAll) != 0;
    if (io.zone_action == zns::code(zns::ZoneAction::set_descriptor_extension)) {
        return status::invalid_field;  // would carry a zone descriptor extension
    }
    if (!io.zone_all && out_of_range(slot.ns->device->info(), io.lba, 1)) {
        return status::lba_out_of_range;
    }
    return status::ok;
}

Status TargetQpair::decode_zone_recv(Slot &slot, const wire::Sqe &sqe) noexcept {
    Io &io = slot.io;
    io.op = Op::zone_report;
    io.fua = false;
    io.zone_action = static_cast<uint8_t>(sqe.cdw13);
    io.zone_filter = static_cast<uint8_t>(sqe.cdw13 >> zns::kCdw13FilterShift);
    io.zone_all = (sqe.cdw13 & zns::kCdw13Partial) != 0;
    if (io.zone_action > zns::code(zns::ReportAction::extended)) {
        return status::invalid_field;
    }
    if (const Status bad = check_data(slot, sqe.sgl, (uint64_t{sqe.cdw12} + 1) * 4); bad != status::ok) {
        return bad;
    }
    return out_of_range(slot.ns->device->info(), io.lba, 1) ? status::lba_out_of_range : status::ok;
}

Status TargetQpair::decode_fabrics(const wire::Sqe &sqe) noexcept {
    if ((sqe.nsid & 0xFF) != wire::kFabricsDisconnect) {
        return status::invalid_opcode;
    }
    disconnect_ = true;
    return status::ok;
}

// All or nothing: no range is touched when one of them is wrong.
Status TargetQpair::check_dsm(const Slot &slot) const noexcept {
    const BlockDeviceInfo &info = slot.ns->device->info();
    for (uint32_t i = 0; i < slot.ranges; ++i) {
        wire::DsmRange range;
        std::memcpy(&range, static_cast<const uint8_t *>(slot.io.iov->iov_base) + i * sizeof range, sizeof range);
        if (range.block_count > 0 && out_of_range(info, range.lba, range.block_count)) {
            return status::lba_out_of_range;
        }
    }
    return status::ok;
}

// Sets up the next of a command's several Ios; false when there is none.
bool TargetQpair::next_step(Slot &slot) noexcept {
    if (slot.flush_all) {
        // A removed namespace's record outlives its last Io, so nsid can still be read.
        set_namespace_of(slot, next_namespace(slot.ns->nsid));
        return slot.ns != nullptr;
    }
    while (slot.range < slot.ranges) {
        wire::DsmRange range;
        std::memcpy(&range, static_cast<const uint8_t *>(slot.io.iov->iov_base) + slot.range * sizeof range,
                    sizeof range);
        ++slot.range;
        if (range.block_count > 0) {
            slot.io.lba = range.lba;
            slot.io.block_count = range.block_count;
            return true;
        }
    }
    return false;
}

}  // namespace ftl
