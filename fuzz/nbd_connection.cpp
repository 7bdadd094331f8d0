// SPDX-License-Identifier: BSD-3-Clause
// A hostile client at an NbdConnection in front of emulated media. Checks that the sanitizers report nothing, and
// that close() always ends with every Io back from its device.
#include <algorithm>
#include <memory>

#include "media/media.hpp"
#include "nbd/nbd_connection.hpp"
#include "peer.hpp"
#include "reactor/reactor.hpp"

namespace {

using namespace ftl;
using namespace ftl::fuzz;

constexpr uint32_t kSteps = 4;
constexpr uint32_t kActionsMax = 200;
constexpr uint64_t kBlocks = 64;
constexpr uint32_t kSentMax = 9000;

nbd::Request request(FuzzedDataProvider &input, uint32_t block_bytes) {
    static constexpr uint16_t kTypes[] = {nbd::command::read, nbd::command::write, nbd::command::flush,
                                          nbd::command::trim, nbd::command::write_zeroes};
    static constexpr uint16_t kFlags[] = {0, nbd::command_flag::fua, nbd::command_flag::no_hole,
                                          nbd::command_flag::fast_zero, nbd::command_flag::dont_fragment};
    nbd::Request made{};
    const uint8_t choices = input.ConsumeIntegral<uint8_t>();
    const bool rare = input.ConsumeIntegral<uint8_t>() < 8;
    made.magic.set(rare ? input.ConsumeIntegral<uint32_t>() : nbd::kRequestMagic);
    made.type.set((choices & 1) != 0 ? input.ConsumeIntegral<uint16_t>() : input.PickValueInArray(kTypes));
    made.flags.set((choices & 2) != 0 ? input.ConsumeIntegral<uint16_t>() : input.PickValueInArray(kFlags));
    made.cookie = input.ConsumeIntegral<uint8_t>();
    made.offset.set((choices & 4) != 0 ? input.ConsumeIntegral<uint64_t>()
                                       : input.ConsumeIntegralInRange<uint64_t>(0, kBlocks) * block_bytes);
    made.length.set((choices & 8) != 0 ? input.ConsumeIntegral<uint32_t>()
                                       : input.ConsumeIntegralInRange<uint32_t>(0, 20) * block_bytes);
    if (made.type.get() == nbd::command::flush && (choices & 16) == 0) {
        made.flags.set(0);
        made.offset.set(0);
        made.length.set(0);
    }
    return made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzedDataProvider input(data, size);
    const uint8_t options = input.ConsumeIntegral<uint8_t>();
    MediaConfig media_config;
    media_config.block_count = kBlocks;
    media_config.data_bytes = (options & 64) != 0 ? 512 : kBlockSize;
    media_config.volatile_cache = true;
    media_config.max_io_blocks = (options & 32) != 0 ? 3 : 256;
    NbdConnectionConfig config;
    config.block_count = (options & 128) != 0 ? kBlocks / 2 : kBlocks;
    config.read_only = (options & 1) != 0;
    config.structured_replies = (options & 2) != 0;
    config.trim = (options & 4) == 0;
    config.write_zeroes = (options & 8) == 0;
    config.fast_zero = (options & 16) == 0;

    const auto reactor = std::make_shared<Reactor>("fuzz", 0);
    SocketPair sockets;
    const auto media = std::make_shared<EmulatedMedia>(reactor, media_config);
    const auto connection = std::make_shared<NbdConnection>(reactor, sockets.qpair_fd(), config, media);
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
            case 2:
            case 3:
            case 4:
            case 5:
            case 6: {
                const nbd::Request made = request(input, media_config.data_bytes);
                std::vector<uint8_t> bytes = bytes_of(made);
                if (made.type.get() == nbd::command::write) {
                    const uint32_t whole = made.length.get();
                    // Mostly all of the data, sometimes too little, so that later requests are taken for data.
                    const uint32_t sent = input.ConsumeBool() ? whole : whole / 2;
                    const auto more = payload(input, std::min(sent, std::max(kSentMax, 20 * media_config.data_bytes)));
                    bytes.insert(bytes.end(), more.begin(), more.end());
                }
                sockets.send(bytes);
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
                if (rare < 16) {
                    sockets.shut_write();
                } else if (rare < 32) {
                    sockets.shut();
                } else if (rare < 40) {
                    connection->disconnect();
                } else if (rare < 60) {
                    now_ns += NbdConnection::kLingerNs;
                } else {
                    step(1);
                    sockets.drain();
                }
                break;
            }
        }
    }
    step(kSteps);
    connection->close();
    require(connection->drained());
    const NbdConnectionStats stats = connection->stats();
    require(stats.errors <= stats.requests);
    (void)reactor->events();
    return 0;
}
