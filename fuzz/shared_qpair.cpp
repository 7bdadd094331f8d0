// SPDX-License-Identifier: BSD-3-Clause
// A hostile client at a SharedTargetQpair in front of conventional, metadata-carrying and zoned media. Checks that the
// sanitizers report nothing, and that close() always ends with every Io back from its device, whoever serves the queue.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "media/media.hpp"
#include "peer.hpp"
#include "reactor/reactor.hpp"
#include "vfio_user/dma_map.hpp"
#include "vfio_user/shared_target_qpair.hpp"

namespace {

using namespace ftl;
using namespace ftl::fuzz;

constexpr uint32_t kPage = 4096;
constexpr uint32_t kPages = 24;  // SQ, CQ, data and lists
constexpr uint64_t kBase = 0x7F0000000000;
constexpr uint32_t kActionsMax = 150;

class SharedFile {
public:
    explicit SharedFile(uint64_t bytes) : bytes_(bytes), fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
        require(fd_ >= 0 && ftruncate(fd_, static_cast<off_t>(bytes)) == 0);
    }
    ~SharedFile() { ::close(fd_); }
    SharedFile(const SharedFile &) = delete;
    SharedFile &operator=(const SharedFile &) = delete;
    [[nodiscard]] int fd() const { return fd_; }
    void put(const void *data, size_t bytes, uint64_t offset) {
        if (offset + bytes <= bytes_) {
            require(pwrite(fd_, data, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes));
        }
    }
    void resize(uint64_t bytes) {
        bytes_ = bytes;
        require(ftruncate(fd_, static_cast<off_t>(bytes)) == 0);
    }

private:
    uint64_t bytes_;
    int fd_;
};

std::shared_ptr<BlockDevice> conventional(const std::shared_ptr<Reactor> &reactor, uint32_t metadata_bytes) {
    MediaConfig config;
    config.block_count = 64;
    config.metadata_bytes = metadata_bytes;
    config.volatile_cache = true;
    return std::make_shared<EmulatedMedia>(reactor, config);
}

std::shared_ptr<BlockDevice> zoned(const std::shared_ptr<Reactor> &reactor) {
    MediaConfig config;
    config.kind = MediaConfig::Kind::zoned;
    config.zones = {4, 16, 12, 2, 3};
    config.max_append_blocks = 4;
    return std::make_shared<EmulatedMedia>(reactor, config);
}

uint64_t address(FuzzedDataProvider &input) {
    const uint8_t choice = input.ConsumeIntegral<uint8_t>();
    if (choice < 16) {
        return input.ConsumeIntegral<uint64_t>();
    }
    const uint64_t page = kBase + uint64_t{input.ConsumeIntegralInRange<uint8_t>(0, kPages)} * kPage;
    return choice < 160 ? page : page + input.ConsumeIntegralInRange<uint16_t>(0, kPage - 1) / 4 * 4;
}

wire::Sgl descriptor(FuzzedDataProvider &input) {
    static constexpr uint8_t kTypes[] = {0x00, 0x00, 0x20, 0x30};
    wire::Sgl sgl{};
    sgl.address = address(input);
    sgl.length = input.ConsumeBool() ? input.ConsumeIntegralInRange<uint32_t>(0, 16) * 16
                                     : input.ConsumeIntegralInRange<uint32_t>(0, 3) * kPage;
    sgl.type =
        input.ConsumeIntegral<uint8_t>() < 16 ? input.ConsumeIntegral<uint8_t>() : input.PickValueInArray(kTypes);
    return sgl;
}

wire::Sqe command(FuzzedDataProvider &input) {
    static constexpr uint8_t kOpcodes[] = {wire::opcode::flush,          wire::opcode::write,
                                           wire::opcode::read,           wire::opcode::write_zeroes,
                                           wire::opcode::compare,        wire::opcode::dataset_management,
                                           wire::opcode::zone_mgmt_send, wire::opcode::zone_mgmt_recv,
                                           wire::opcode::zone_append,    wire::opcode::write_uncorrectable};
    wire::Sqe sqe{};
    const uint8_t choices = input.ConsumeIntegral<uint8_t>();
    sqe.opcode = (choices & 1) != 0 ? input.ConsumeIntegral<uint8_t>() : input.PickValueInArray(kOpcodes);
    const bool sgl = (choices & 2) != 0;
    sqe.flags = (choices & 4) != 0 ? input.ConsumeIntegral<uint8_t>() : sgl ? wire::kFlagsPsdtSgl : uint8_t{0};
    sqe.cid = input.ConsumeIntegral<uint16_t>();
    sqe.nsid = (choices & 8) != 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegralInRange<uint32_t>(1, 3);
    sqe.slba = (choices & 16) != 0 ? input.ConsumeIntegral<uint64_t>() : input.ConsumeIntegralInRange<uint64_t>(0, 80);
    sqe.cdw12 = (choices & 32) != 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegralInRange<uint32_t>(0, 9);
    sqe.cdw13 = (choices & 64) != 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegralInRange<uint32_t>(0, 6);
    if (sgl) {
        sqe.sgl = descriptor(input);
    } else {
        const std::array<uint64_t, 2> prps{address(input), address(input)};
        std::memcpy(&sqe.sgl, prps.data(), sizeof sqe.sgl);
    }
    return sqe;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzedDataProvider input(data, size);
    const uint8_t options = input.ConsumeIntegral<uint8_t>();
    SharedQpairConfig config;
    config.queue.sq_iova = kBase;
    config.queue.cq_iova = kBase + kPage;
    config.queue.sq_entries = (options & 1) != 0 ? 64 : 5;
    config.queue.cq_entries = (options & 2) != 0 ? 200 : 3;
    config.max_io_bytes = (options & 4) != 0 ? 8192 : 131072;

    const auto reactor = std::make_shared<Reactor>("fuzz", 0);
    SharedFile client(uint64_t{kPages} * kPage);
    SharedFile bar0(SharedQueue::kBarBytes);
    SharedFile record(record_bytes(config.queue.sq_entries));
    const auto memory = std::make_shared<DmaMap>();
    memory->map(kBase, uint64_t{kPages} * kPage, client.fd(), 0, true);
    const NamespaceTable::Devices devices{
        {1, conventional(reactor, 0)}, {2, conventional(reactor, 64)}, {3, zoned(reactor)}};
    const auto open = [&] {
        return std::make_unique<SharedTargetQpair>(reactor, memory, bar0.fd(), record.fd(), config, devices);
    };
    auto qpair = open();
    uint64_t now_ns = 1;
    uint32_t tail = 0;
    const auto step = [&](uint32_t times) {
        for (uint32_t i = 0; i < times; ++i) {
            reactor->set_now(now_ns += 1000);
            reactor->step();
        }
    };
    const auto ring = [&](uint32_t number, uint32_t value) {
        bar0.put(&value, sizeof value, SharedQueue::kDoorbellsOffset + 8 * config.queue.qid + 4 * number);
    };

    for (uint32_t action = 0; action < kActionsMax && input.remaining_bytes() > 0; ++action) {
        switch (input.ConsumeIntegralInRange<uint8_t>(0, 9)) {
            case 0:
            case 1:
            case 2: {
                const wire::Sqe sqe = command(input);
                client.put(&sqe, sizeof sqe, uint64_t{tail} * sizeof sqe);
                tail = (tail + 1) % config.queue.sq_entries;
                ring(0, tail);
                break;
            }
            case 3: {
                // A list of PRPs, or a segment of descriptors.
                std::array<uint8_t, 256> list;
                const bool sgl = input.ConsumeBool();
                for (size_t at = 0; at < list.size(); at += 16) {
                    const wire::Sgl entry = descriptor(input);
                    const std::array<uint64_t, 2> prps{address(input) & ~uint64_t{kPage - 1}, address(input)};
                    std::memcpy(list.data() + at, sgl ? static_cast<const void *>(&entry) : prps.data(), 16);
                }
                const auto page = input.ConsumeIntegralInRange<uint32_t>(2, kPages - 1);
                client.put(list.data(), list.size(), uint64_t{page} * kPage + (input.ConsumeBool() ? 0 : kPage - 256));
                break;
            }
            case 4: {
                // What the client has taken, perhaps.
                ring(1, input.ConsumeIntegralInRange<uint32_t>(0, config.queue.cq_entries - 1));
                break;
            }
            case 5:
            case 6: {
                step(input.ConsumeIntegralInRange<uint32_t>(1, 4));
                break;
            }
            case 7: {
                // Another process goes on from the record, unless the queue is no longer mapped, or not there.
                qpair->close();
                require(qpair->drained());
                try {
                    qpair = open();
                } catch (const std::invalid_argument &) {
                }
                break;
            }
            case 8: {
                const uint64_t iova = kBase + uint64_t{input.ConsumeIntegralInRange<uint32_t>(0, 40)} * kPage;
                try {
                    if (input.ConsumeBool()) {
                        memory->unmap(kBase, uint64_t{kPages} * kPage);
                    }
                    memory->map(iova, uint64_t{input.ConsumeIntegralInRange<uint32_t>(1, kPages)} * kPage, client.fd(),
                                0, input.ConsumeBool());
                } catch (const std::invalid_argument &) {
                }
                break;
            }
            default: {
                const uint8_t rare = input.ConsumeIntegral<uint8_t>();
                if (rare < 8) {
                    ring(rare % 2, input.ConsumeIntegral<uint32_t>());
                } else if (rare < 16) {
                    client.resize(uint64_t{input.ConsumeIntegralInRange<uint32_t>(0, kPages)} * kPage);
                } else if (rare < 64) {
                    qpair->set_namespace(input.ConsumeIntegralInRange<uint32_t>(1, 4), nullptr);
                } else if (rare < 128) {
                    qpair->set_bars(input.ConsumeIntegralInRange<uint32_t>(0, 3),
                                    {status::ok, status::reservation_conflict});
                } else if (rare < 192) {
                    qpair->abort_io(input.ConsumeIntegralInRange<uint32_t>(0, 3));
                } else {
                    const std::vector<uint8_t> noise = payload(input, 128);
                    client.put(noise.data(), noise.size(),
                               input.ConsumeIntegralInRange<uint32_t>(0, kPages * kPage - 128));
                }
                break;
            }
        }
    }
    step(4);
    qpair->close();
    require(qpair->drained());
    (void)reactor->events();
    return 0;
}
