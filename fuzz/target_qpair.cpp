// SPDX-License-Identifier: BSD-3-Clause
// A hostile host at a TargetQpair in front of conventional, metadata-carrying and zoned media, and of a device that
// takes fused pairs. Checks that the
// sanitizers report nothing, and that close() always ends with every Io back from its device.
#include <memory>

#include "media/media.hpp"
#include "nvme/target_qpair.hpp"
#include "peer.hpp"
#include "reactor/device_poller.hpp"
#include "reactor/io_list.hpp"
#include "reactor/reactor.hpp"

namespace {

using namespace ftl;
using namespace ftl::fuzz;

constexpr uint32_t kSteps = 4;
constexpr uint32_t kActionsMax = 200;
constexpr uint32_t kInCapsuleSentMax = 9000;

std::shared_ptr<EmulatedMedia> conventional(const std::shared_ptr<Reactor> &reactor, uint32_t metadata_bytes) {
    MediaConfig config;
    config.block_count = 64;
    config.metadata_bytes = metadata_bytes;
    config.volatile_cache = true;
    return std::make_shared<EmulatedMedia>(reactor, config);
}

std::shared_ptr<EmulatedMedia> zoned(const std::shared_ptr<Reactor> &reactor) {
    MediaConfig config;
    config.kind = MediaConfig::Kind::zoned;
    config.zones = {4, 16, 12, 2, 3};
    config.max_append_blocks = 4;
    return std::make_shared<EmulatedMedia>(reactor, config);
}

// Takes every command, with one of three answers, some polls later.
class PairDevice final : public BlockDevice {
public:
    explicit PairDevice(const std::shared_ptr<Reactor> &reactor) : registration_(reactor, *this) {
        info_.block_count = 64;
        info_.compare_write_blocks = 1;
        info_.write_uncorrectable = true;
    }
    [[nodiscard]] const BlockDeviceInfo &info() const noexcept override { return info_; }
    void submit(Io &io) noexcept override { ios_.push(io); }
    uint32_t poll(uint64_t now_ns) noexcept override {
        if (ios_.empty() || now_ns % 3000 == 0) {
            return 0;
        }
        Io &io = *ios_.pop();
        const uint64_t answer = io.lba % 3;
        io.status = answer == 0 ? status::ok : answer == 1 ? status::compare_failure : status::write_fault;
        io.compared = answer != 1;
        io.complete(io);
        return 1;
    }
    [[nodiscard]] uint64_t deadline_ns() const noexcept { return ~uint64_t{0}; }

private:
    BlockDeviceInfo info_;
    IoList ios_;
    PollerRegistration registration_;
};

wire::Sqe command(FuzzedDataProvider &input) {
    static constexpr uint8_t kOpcodes[] = {wire::opcode::flush,
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
                                           wire::opcode::zone_append,
                                           wire::opcode::fabrics};
    static constexpr uint8_t kSglTypes[] = {wire::kSglTransport, wire::kSglInCapsule};
    wire::Sqe sqe{};
    const uint8_t choices = input.ConsumeIntegral<uint8_t>();
    sqe.opcode = (choices & 1) != 0 ? input.ConsumeIntegral<uint8_t>() : input.PickValueInArray(kOpcodes);
    sqe.flags = (choices & 2) != 0 ? input.ConsumeIntegral<uint8_t>() : wire::kFlagsPsdtSgl;
    sqe.cid = input.ConsumeIntegralInRange<uint16_t>(0, 7);
    sqe.nsid = (choices & 4) != 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegralInRange<uint32_t>(1, 4);
    sqe.slba = (choices & 8) != 0 ? input.ConsumeIntegral<uint64_t>() : input.ConsumeIntegralInRange<uint64_t>(0, 80);
    sqe.cdw12 = (choices & 16) != 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegralInRange<uint32_t>(0, 20);
    sqe.cdw13 = (choices & 32) != 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegralInRange<uint32_t>(0, 6);
    const uint32_t block_bytes = sqe.nsid == 2 ? 4096 + 64 : 4096;
    sqe.sgl.length =
        (choices & 64) != 0 ? input.ConsumeIntegral<uint32_t>() : ((sqe.cdw12 & wire::kCdw12NlbMask) + 1) * block_bytes;
    if (sqe.opcode == wire::opcode::copy && (choices & 64) == 0) {
        sqe.sgl.length = ((sqe.cdw12 & 0xFF) + 1) * static_cast<uint32_t>(sizeof(wire::CopyRange));
    }
    sqe.sgl.type = (choices & 128) != 0 ? input.ConsumeIntegral<uint8_t>() : input.PickValueInArray(kSglTypes);
    return sqe;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzedDataProvider input(data, size);
    TargetQpairConfig config;
    const uint8_t options = input.ConsumeIntegral<uint8_t>();
    config.header_digest = (options & 1) != 0;
    config.data_digest = (options & 2) != 0;
    config.flow_control = (options & 4) != 0;
    config.success_flag = (options & 8) != 0;
    config.queue_size = (options & 16) != 0 ? 2 : 8;
    config.max_io_bytes = (options & 32) != 0 ? 8192 : 131072;
    config.in_capsule_bytes = (options & 64) != 0 ? 4096 : 8192;
    config.max_h2c_data = (options & 128) != 0 ? 4096 : 65536;
    config.reservations = true;

    const auto reactor = std::make_shared<Reactor>("fuzz", 0);
    SocketPair sockets;
    const auto qpair =
        std::make_shared<TargetQpair>(reactor, sockets.qpair_fd(), config,
                                      TargetQpair::Namespaces{{1, conventional(reactor, 0)},
                                                              {2, conventional(reactor, 64)},
                                                              {3, zoned(reactor)},
                                                              {4, std::make_shared<PairDevice>(reactor)}});
    uint64_t now_ns = 1;
    const auto step = [&](uint32_t times) {
        for (uint32_t i = 0; i < times; ++i) {
            reactor->set_now(now_ns += 1000);
            reactor->step();
        }
    };

    for (uint32_t action = 0; action < kActionsMax && input.remaining_bytes() > 0; ++action) {
        switch (input.ConsumeIntegralInRange<uint8_t>(0, 10)) {
            case 0: {
                sockets.send(input.ConsumeBytes<uint8_t>(input.ConsumeIntegralInRange<size_t>(0, 300)));
                break;
            }
            case 10: {
                // A pair that is nearly right.
                const auto lba = input.ConsumeIntegralInRange<uint64_t>(0, 63);
                for (const bool first : {true, false}) {
                    if (input.ConsumeIntegralInRange<uint8_t>(0, 7) == 0) {
                        continue;
                    }
                    wire::CapsuleCmd pdu{};
                    pdu.ch.type = wire::PduType::capsule_cmd;
                    pdu.sqe.opcode = first ? wire::opcode::compare : wire::opcode::write;
                    pdu.sqe.flags = wire::kFlagsPsdtSgl | (first ? wire::kFuseFirst : wire::kFuseSecond);
                    pdu.sqe.cid = input.ConsumeIntegralInRange<uint16_t>(0, 7);
                    pdu.sqe.nsid = input.ConsumeIntegralInRange<uint8_t>(0, 7) == 0 ? 1 : 4;
                    pdu.sqe.slba = lba;
                    pdu.sqe.sgl.length = 4096;
                    pdu.sqe.sgl.type = input.ConsumeBool() ? wire::kSglInCapsule : wire::kSglTransport;
                    std::vector<uint8_t> in_capsule;
                    if (pdu.sqe.sgl.type == wire::kSglInCapsule) {
                        in_capsule = payload(input, 4096);
                    }
                    sockets.send(
                        frame(input, bytes_of(pdu), std::move(in_capsule), config.header_digest, config.data_digest));
                }
                break;
            }
            case 1:
            case 2:
            case 3:
            case 4: {
                wire::CapsuleCmd pdu{};
                pdu.ch.type = wire::PduType::capsule_cmd;
                pdu.sqe = command(input);
                std::vector<uint8_t> in_capsule;
                if (pdu.sqe.sgl.type == wire::kSglInCapsule) {
                    in_capsule = payload(input, std::min(pdu.sqe.sgl.length, kInCapsuleSentMax));
                }
                sockets.send(
                    frame(input, bytes_of(pdu), std::move(in_capsule), config.header_digest, config.data_digest));
                break;
            }
            case 5:
            case 6: {
                wire::H2cData pdu{};
                pdu.ch.type = wire::PduType::h2c_data;
                pdu.ch.flags = input.ConsumeBool() ? wire::flag::last_pdu : uint8_t{0};
                pdu.cccid = input.ConsumeIntegralInRange<uint16_t>(0, 7);
                pdu.ttag = input.ConsumeIntegralInRange<uint16_t>(0, 8);
                pdu.datao = input.ConsumeBool() ? 0 : input.ConsumeIntegral<uint32_t>();
                std::vector<uint8_t> sent(input.ConsumeIntegralInRange<size_t>(0, 16) * 1024, 0xA5);
                pdu.datal =
                    input.ConsumeBool() ? static_cast<uint32_t>(sent.size()) : input.ConsumeIntegral<uint32_t>();
                sockets.send(frame(input, bytes_of(pdu), std::move(sent), config.header_digest, config.data_digest));
                break;
            }
            case 7: {
                step(input.ConsumeIntegralInRange<uint32_t>(1, kSteps));
                break;
            }
            case 8: {
                sockets.drain();
                break;
            }
            default: {
                const uint8_t rare = input.ConsumeIntegral<uint8_t>();
                if (rare < 32) {
                    sockets.shut_write();
                } else if (rare < 64) {
                    sockets.shut();
                } else if (rare < 128) {
                    qpair->set_namespace(input.ConsumeIntegralInRange<uint32_t>(1, 4), nullptr);
                } else if (rare < 192) {
                    if (const auto taken = qpair->take_command()) {
                        const std::vector<uint8_t> answer(input.ConsumeIntegralInRange<size_t>(0, 200), 0x5A);
                        (void)qpair->complete_command(taken->token, rare < 160 ? 0 : status::reservation_conflict,
                                                      answer);
                    }
                } else if (rare < 208) {
                    qpair->set_bars(input.ConsumeIntegralInRange<uint32_t>(0, 4),
                                    {status::ok, status::reservation_conflict});
                } else if (rare < 216) {
                    qpair->abort_io(input.ConsumeIntegralInRange<uint32_t>(0, 4));
                } else {
                    step(1);
                    sockets.drain();
                }
                break;
            }
        }
    }
    step(kSteps);
    qpair->close();
    (void)reactor->events();
    return 0;
}
