// SPDX-License-Identifier: BSD-3-Clause
// A hostile controller at the other end of a HostQpair, with commands of every kind outstanding. Checks that the
// sanitizers report nothing, and that every Io completes exactly once, at the latest when the qpair is closed.
#include <array>
#include <memory>

#include "nvme/host_qpair.hpp"
#include "peer.hpp"
#include "reactor/reactor.hpp"

namespace {

using namespace ftl;
using namespace ftl::fuzz;

constexpr uint32_t kIos = 16;
constexpr uint32_t kBlocksMax = 8;
constexpr uint32_t kSteps = 4;
constexpr uint32_t kActionsMax = 200;

struct Command {
    Io io;
    std::array<iovec, 2> iov{};
    std::vector<uint8_t> buffer;
    bool outstanding = false;
};

void completed(Io &io) noexcept {
    auto &command = *static_cast<Command *>(io.owner);
    require(command.outstanding);
    command.outstanding = false;
}

void submit(FuzzedDataProvider &input, HostQpair &qpair, Command &command) {
    static constexpr Op kOps[] = {Op::read,         Op::write,      Op::append,    Op::flush,
                                  Op::write_zeroes, Op::deallocate, Op::zone_send, Op::zone_report};
    command.io = Io{};
    Io &io = command.io;
    io.op = input.PickValueInArray(kOps);
    io.lba = input.ConsumeIntegralInRange<uint64_t>(0, 63);
    const bool blocks = io.op != Op::flush && io.op != Op::zone_send && io.op != Op::zone_report;
    io.block_count = blocks ? input.ConsumeIntegralInRange<uint32_t>(1, kBlocksMax) : 0;
    const bool data = io.op == Op::read || io.op == Op::write || io.op == Op::append || io.op == Op::zone_report;
    if (data) {
        // A heap block of the exact size, in two pieces, so that the sanitizer detects an access beyond its end.
        command.buffer.assign(io.op == Op::zone_report ? 256 : size_t{io.block_count} * kBlockSize, 0x11);
        command.buffer.shrink_to_fit();
        const size_t first = input.ConsumeIntegralInRange<size_t>(0, command.buffer.size() / 4) * 4;
        command.iov = {iovec{command.buffer.data(), first},
                       iovec{command.buffer.data() + first, command.buffer.size() - first}};
        io.iov = command.iov.data();
        io.iov_count = 2;
    }
    io.fua = input.ConsumeBool();
    io.complete = completed;
    io.owner = &command;
    command.outstanding = true;
    qpair.submit(io);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzedDataProvider input(data, size);
    HostQpairConfig config;
    const uint8_t options = input.ConsumeIntegral<uint8_t>();
    config.header_digest = (options & 1) != 0;
    config.data_digest = (options & 2) != 0;
    config.queue_depth = (options & 4) != 0 ? 2 : 8;
    config.max_h2c_data = (options & 8) != 0 ? 4096 : 65536;
    config.in_capsule_bytes = (options & 16) != 0 ? 0 : 4096;
    config.max_append_bytes = 16384;
    BlockDeviceInfo info;
    info.block_count = 64;
    info.zoned = true;
    info.zone_size = 16;
    info.zone_capacity = 12;

    const auto reactor = std::make_shared<Reactor>("fuzz", 0);
    SocketPair sockets;
    const auto qpair = std::make_shared<HostQpair>(reactor, sockets.qpair_fd(), config, info);
    std::array<Command, kIos> commands;
    uint64_t now_ns = 1;
    const auto step = [&](uint32_t times) {
        for (uint32_t i = 0; i < times; ++i) {
            reactor->set_now(now_ns += 1000);
            reactor->step();
        }
    };

    for (uint32_t action = 0; action < kActionsMax && input.remaining_bytes() > 0; ++action) {
        switch (input.ConsumeIntegralInRange<uint8_t>(0, 9)) {
            case 0: {
                sockets.send(input.ConsumeBytes<uint8_t>(input.ConsumeIntegralInRange<size_t>(0, 300)));
                break;
            }
            case 1:
            case 2: {
                Command &command = commands[input.ConsumeIntegralInRange<size_t>(0, kIos - 1)];
                if (!command.outstanding) {
                    submit(input, *qpair, command);
                }
                break;
            }
            case 3:
            case 4: {
                wire::CapsuleResp pdu{};
                pdu.ch.type = wire::PduType::capsule_resp;
                pdu.cqe.cid = input.ConsumeIntegralInRange<uint16_t>(0, 8);
                pdu.cqe.status = input.ConsumeBool() ? input.ConsumeIntegral<uint16_t>() : uint16_t{0};
                pdu.cqe.result = input.ConsumeIntegralInRange<uint64_t>(0, 63);
                sockets.send(frame(input, bytes_of(pdu), {}, config.header_digest, false));
                break;
            }
            case 5: {
                wire::R2t pdu{};
                pdu.ch.type = wire::PduType::r2t;
                pdu.cccid = input.ConsumeIntegralInRange<uint16_t>(0, 8);
                pdu.ttag = input.ConsumeIntegral<uint16_t>();
                pdu.r2to = input.ConsumeIntegralInRange<uint32_t>(0, 2) * kBlockSize;
                pdu.r2tl = input.ConsumeBool() ? input.ConsumeIntegralInRange<uint32_t>(0, 8) * kBlockSize
                                               : input.ConsumeIntegral<uint32_t>();
                sockets.send(frame(input, bytes_of(pdu), {}, config.header_digest, false));
                break;
            }
            case 6: {
                wire::C2hData pdu{};
                pdu.ch.type = wire::PduType::c2h_data;
                pdu.ch.flags = input.ConsumeIntegral<uint8_t>() & (wire::flag::last_pdu | wire::flag::success);
                pdu.cccid = input.ConsumeIntegralInRange<uint16_t>(0, 8);
                pdu.datao = input.ConsumeIntegralInRange<uint32_t>(0, 3) * kBlockSize;
                std::vector<uint8_t> sent(input.ConsumeIntegralInRange<size_t>(0, 8) * kBlockSize, 0xA5);
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
    step(kSteps);
    for (const Command &command : commands) {
        require(!command.outstanding);
    }
    (void)reactor->events();
    return 0;
}
