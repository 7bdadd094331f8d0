// SPDX-License-Identifier: BSD-3-Clause
// A submission queue entry, and the ranges of a dataset management or copy command, for devices of every kind and size.
// Checks that accepted commands address blocks on the device and transfer the amount of data that they name, and that
// the same entry always decodes to the same command.
#include <limits>

#include "nvme/command_decoder.hpp"
#include "peer.hpp"

namespace {

using namespace ftl;
using namespace ftl::fuzz;

constexpr uint8_t kOpcodes[] = {wire::opcode::flush,
                                wire::opcode::write,
                                wire::opcode::read,
                                wire::opcode::write_zeroes,
                                wire::opcode::write_uncorrectable,
                                wire::opcode::compare,
                                wire::opcode::verify,
                                wire::opcode::copy,
                                wire::opcode::dataset_management,
                                wire::opcode::reservation_register,
                                wire::opcode::reservation_report,
                                wire::opcode::reservation_acquire,
                                wire::opcode::reservation_release,
                                wire::opcode::zone_mgmt_send,
                                wire::opcode::zone_mgmt_recv,
                                wire::opcode::zone_append};
constexpr uint32_t kBlockBytes[] = {512, 4096, 4096 + 8, 4096 + 64, 16384};
constexpr uint64_t kBlockCounts[] = {1, 64, uint64_t{1} << 32, std::numeric_limits<uint64_t>::max()};
constexpr uint32_t kIoBytes[] = {4096, 131072, 1U << 24};
// The number of entries that TargetQpair has for one command of that size.
constexpr uint32_t kReservedMax = 1U << 24;

BlockDeviceInfo device(FuzzedDataProvider &input) {
    BlockDeviceInfo info{};
    info.block_bytes = input.PickValueInArray(kBlockBytes);
    info.block_count = input.ConsumeBool() ? input.PickValueInArray(kBlockCounts)
                                           : input.ConsumeIntegralInRange<uint64_t>(1, uint64_t{1} << 40);
    info.max_io_blocks = input.ConsumeIntegralInRange<uint32_t>(1, 65536);
    info.max_append_blocks = input.ConsumeIntegralInRange<uint32_t>(0, 65536);
    info.zoned = input.ConsumeBool();
    info.compare_write_blocks = input.ConsumeIntegralInRange<uint32_t>(0, 3);
    info.write_uncorrectable = input.ConsumeBool();
    return info;
}

// An entry that is nearly valid, or arbitrary.
wire::Sqe entry(FuzzedDataProvider &input, const BlockDeviceInfo &info) {
    wire::Sqe sqe{};
    const std::vector<uint8_t> raw = input.ConsumeBytes<uint8_t>(sizeof sqe);
    std::memcpy(&sqe, raw.data(), raw.size());
    const uint8_t right = input.ConsumeIntegral<uint8_t>();
    if ((right & 1) != 0) {
        sqe.opcode = input.PickValueInArray(kOpcodes);
    }
    if ((right & 2) != 0) {
        sqe.flags = wire::kFlagsPsdtSgl | (input.ConsumeBool() ? 0 : input.ConsumeIntegralInRange<uint8_t>(0, 3));
    }
    if ((right & 4) != 0) {
        sqe.sgl.type = input.ConsumeBool() ? wire::kSglTransport : wire::kSglInCapsule;
    }
    if ((right & 8) != 0) {
        sqe.slba = info.block_count - input.ConsumeIntegralInRange<uint64_t>(0, 4);
    }
    if ((right & 16) != 0) {
        sqe.cdw12 = input.ConsumeIntegralInRange<uint32_t>(0, 40);
    }
    if ((right & 32) != 0) {
        sqe.sgl.length = ((sqe.cdw12 & wire::kCdw12NlbMask) + 1) * info.block_bytes;
    }
    if ((right & 64) != 0) {
        sqe.sgl.length = static_cast<uint32_t>(((sqe.slba & 0xFF) + 1) * sizeof(wire::DsmRange));
    }
    if ((right & 128) != 0) {
        const auto ranges = input.ConsumeIntegralInRange<uint8_t>(0, 7);
        sqe.opcode = wire::opcode::dataset_management;
        sqe.slba = uint64_t{wire::kCdw11Deallocate} << 32 | ranges;
        sqe.sgl.length = static_cast<uint32_t>((ranges + 1U) * sizeof(wire::DsmRange));
        if (input.ConsumeBool()) {
            sqe.opcode = wire::opcode::copy;
            sqe.slba = input.ConsumeIntegralInRange<uint64_t>(0, 70);
            sqe.cdw12 = ranges;
            sqe.sgl.length = static_cast<uint32_t>((ranges + 1U) * sizeof(wire::CopyRange));
        }
    }
    return sqe;
}

bool on_device(const BlockDeviceInfo &info, uint64_t lba, uint64_t blocks) {
    return lba < info.block_count && blocks <= info.block_count - lba;
}

void check(const wire::Sqe &sqe, const BlockDeviceInfo &info, uint32_t max_io_bytes, const Io &io,
           const DataShape &shape) {
    const uint64_t bytes = uint64_t{io.block_count} * info.block_bytes;
    const uint8_t fuse = sqe.flags & wire::kFlagsFuseMask;
    require(fuse == 0 || io.block_count <= info.compare_write_blocks);
    require(fuse == 0 || (fuse == wire::kFuseFirst && shape.steps == Steps::compare) ||
            (fuse == wire::kFuseSecond && io.op == Op::write));
    if (shape.for_python) {
        const bool report = sqe.opcode == wire::opcode::reservation_report;
        require(report || sqe.opcode == wire::opcode::reservation_register ||
                sqe.opcode == wire::opcode::reservation_acquire || sqe.opcode == wire::opcode::reservation_release);
        require(fuse == 0 && shape.steps == Steps::none && shape.to_device == !report);
        require(sqe.sgl.type == wire::kSglTransport || sqe.sgl.type == wire::kSglInCapsule);
        require(shape.length > 0 && shape.length % 4 == 0);
        require(shape.length <= (report ? max_io_bytes : wire::kReservationDataMax));
        return;
    }
    if (shape.steps != Steps::none) {
        require(io.op == Op::read);
        require(shape.to_device == (shape.steps != Steps::verify));
        if (shape.steps == Steps::copy) {
            require(!info.zoned && shape.ranges <= wire::kCopyRangesMax && on_device(info, io.lba, 1));
            require(shape.length == shape.ranges * sizeof(wire::CopyRange));
        } else {
            require(on_device(info, io.lba, io.block_count) && io.block_count > 0 && bytes <= max_io_bytes);
            require(shape.length == (shape.steps == Steps::compare ? bytes : 0));
        }
        return;
    }
    require(shape.length <= kReservedMax);
    if (shape.length > 0) {
        require(sqe.sgl.type == wire::kSglTransport || sqe.sgl.type == wire::kSglInCapsule);
        require(sqe.sgl.type == wire::kSglTransport || shape.to_device);
        require(shape.length == sqe.sgl.length);
    }
    switch (io.op) {
        case Op::read:
        case Op::write:
            require(on_device(info, io.lba, io.block_count) && io.block_count > 0);
            require(io.block_count <= info.max_io_blocks && shape.length == bytes && bytes <= max_io_bytes);
            require(shape.to_device == (io.op == Op::write));
            break;
        case Op::append:
            require(info.zoned && on_device(info, io.lba, 1) && io.block_count > 0);
            require(io.block_count <= info.max_append_blocks && shape.length == bytes && bytes <= max_io_bytes);
            break;
        case Op::write_uncorrectable:
            require(info.write_uncorrectable && !io.fua);
            [[fallthrough]];
        case Op::write_zeroes:
            require(on_device(info, io.lba, io.block_count) && io.block_count > 0 && shape.length == 0);
            break;
        case Op::zone_send:
            require(info.zoned && (io.zone_all || on_device(info, io.lba, 1)) && shape.length == 0);
            break;
        case Op::zone_report:
            require(info.zoned && on_device(info, io.lba, 1));
            require(shape.length >= 4 && shape.length <= max_io_bytes && !shape.to_device);
            break;
        case Op::flush:
            require(shape.length == 0 && io.lba == 0 && !io.fua);
            break;
        default:
            require(io.op == Op::deallocate && !io.fua && shape.to_device && shape.ranges <= wire::kDsmRangesMax);
            require(shape.length >= shape.ranges * sizeof(wire::DsmRange));
            require(shape.length <= wire::kDsmRangesMax * sizeof(wire::DsmRange));
    }
}

// Checks that each accepted range is on the device, and that all ranges together have no more blocks than the device.
void trim(FuzzedDataProvider &input, const BlockDeviceInfo &info, Io &io, const DataShape &shape) {
    // Exactly as large as the command's data, so that the sanitizer detects reads beyond its end.
    std::vector<uint8_t> data = input.ConsumeBytes<uint8_t>(shape.length);
    data.resize(shape.length);
    for (uint32_t i = 0; i < shape.ranges && input.ConsumeBool(); ++i) {
        wire::DsmRange range{};
        range.lba = input.ConsumeIntegralInRange<uint64_t>(0, 70);
        const uint64_t left = info.block_count > range.lba ? info.block_count - range.lba : 0;
        range.block_count = input.ConsumeBool() ? static_cast<uint32_t>(left) : input.ConsumeIntegral<uint32_t>();
        std::memcpy(data.data() + i * sizeof range, &range, sizeof range);
    }
    iovec iov{data.data(), data.size()};
    io.iov = &iov;
    io.iov_count = 1;
    if (check_ranges(info, io, shape) != status::ok) {
        return;
    }
    uint32_t next = 0;
    uint32_t taken = 0;
    uint64_t blocks = 0;
    while (take_range(io, shape, next)) {
        require(on_device(info, io.lba, io.block_count) && io.block_count > 0);
        blocks += io.block_count;
        require(++taken <= shape.ranges && next <= shape.ranges);
    }
    require(blocks <= info.block_count);
}

// Checks that what an accepted copy reads and writes is on the device.
void copy(FuzzedDataProvider &input, const BlockDeviceInfo &info, Io &io, const DataShape &shape) {
    std::vector<uint8_t> data = input.ConsumeBytes<uint8_t>(shape.length);
    data.resize(shape.length);
    for (uint32_t i = 0; i < shape.ranges && input.ConsumeBool(); ++i) {
        wire::CopyRange range{};
        range.lba = input.ConsumeIntegralInRange<uint64_t>(0, 200);
        range.block_count = input.ConsumeIntegralInRange<uint16_t>(0, 4200);
        std::memcpy(data.data() + i * sizeof range, &range, sizeof range);
    }
    iovec iov{data.data(), data.size()};
    io.iov = &iov;
    io.iov_count = 1;
    if (check_copy(info, io, shape) != status::ok) {
        return;
    }
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < shape.ranges; ++i) {
        const wire::CopyRange range = copy_range_of(data.data(), i);
        require(on_device(info, range.lba, range.block_count + uint64_t{1}));
        blocks += range.block_count + uint64_t{1};
    }
    require(blocks <= wire::kCopyBlocksMax && on_device(info, io.lba, blocks));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzedDataProvider input(data, size);
    const BlockDeviceInfo info = device(input);
    const uint32_t max_io_bytes = input.PickValueInArray(kIoBytes);
    while (input.remaining_bytes() > 0) {
        const wire::Sqe sqe = entry(input, info);
        Io io{};
        // An Io as an earlier command has left it.
        io.block_count = input.ConsumeIntegral<uint16_t>();
        io.zone_all = true;
        DataShape shape{4096, 256, true};
        if (decode_common(sqe, io, shape) != status::ok) {
            continue;
        }
        Io again{};
        DataShape shape_again;
        require(decode_common(sqe, again, shape_again) == status::ok);
        const Status outcome = decode_command(sqe, info, max_io_bytes, io, shape);
        require(decode_command(sqe, info, max_io_bytes, again, shape_again) == outcome);
        if (outcome != status::ok) {
            continue;
        }
        require(io.op == again.op && io.lba == again.lba && io.block_count == again.block_count);
        require(io.fua == again.fua && io.zone_all == again.zone_all && io.zone_action == again.zone_action);
        require(shape.length == shape_again.length && shape.ranges == shape_again.ranges);
        check(sqe, info, max_io_bytes, io, shape);
        if (io.op == Op::deallocate) {
            trim(input, info, io, shape);
        } else if (shape.steps == Steps::copy) {
            copy(input, info, io, shape);
        }
    }
    return 0;
}
