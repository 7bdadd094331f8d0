// SPDX-License-Identifier: BSD-3-Clause
// A band whose media has forged content: headers, records and summaries with wrong fields, under an L2P that points
// anywhere into the band. The fuzzer relocates and resets the band and reads everything. It checks that the sanitizers
// report nothing, that relocation and reset end or the core reports a failure, and that every read completes.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "ftl/core.hpp"
#include "media/media.hpp"
#include "peer.hpp"
#include "reactor/reactor.hpp"

namespace {

using namespace ftl;
using namespace ftl::fuzz;

constexpr uint32_t kZones = 8;
constexpr uint32_t kZoneSize = 64;
constexpr uint32_t kZoneCapacity = 48;
constexpr uint32_t kDataBlocks = kZoneCapacity - layout::summary_blocks(kZoneCapacity);
constexpr uint64_t kLbas = 96;
constexpr uint64_t kBandSeq = 7;
constexpr uint64_t kNextSeq = 1000;
constexpr uint32_t kStepsMax = 20'000;
constexpr uint64_t kStepNs = 1'000'000;

using Block = std::array<uint8_t, kBlockSize>;

constexpr layout::Uuid kUuid = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

template <class Record>
Block as_block(const Record &record) {
    Block block;
    static_assert(sizeof(record) == sizeof(block));
    std::memcpy(block.data(), &record, sizeof(block));
    return block;
}

// Usually a small number, sometimes any number.
template <class T>
T field(FuzzedDataProvider &input, T usual_max) {
    return input.ConsumeIntegral<uint8_t>() < 0xF0 ? input.ConsumeIntegralInRange<T>(0, usual_max)
                                                   : input.ConsumeIntegral<T>();
}

struct ZoneScript {
    std::vector<Block> blocks;
    std::vector<layout::BlockEntry> truth;  // content of a correct summary
};

// Usually as BandWriter would write it. Any field may be changed before the CRC is computed.
void add_header(FuzzedDataProvider &input, ZoneScript &zone) {
    layout::BatchHeader header{};
    const auto room = static_cast<uint32_t>(kDataBlocks - zone.blocks.size() - 1);
    header.magic = layout::kBatchMagic;
    header.version = layout::kVersion;
    header.uuid = kUuid;
    header.band_seq = kBandSeq;
    header.address = zone.blocks.size();
    const uint8_t kind = input.ConsumeIntegralInRange<uint8_t>(1, 4);
    header.kind = kind;
    const uint32_t blocks = kind == 1 ? input.ConsumeIntegralInRange<uint32_t>(0, std::min(room, 20U)) : 0;
    const uint32_t records = kind == 2 ? input.ConsumeIntegralInRange<uint32_t>(0, 8) : 0;
    std::vector<Block> data(blocks);
    header.count = blocks + records;
    for (uint32_t i = 0; i < blocks; ++i) {
        data[i].fill(input.ConsumeIntegral<uint8_t>());
        const uint32_t crc = crc32c(0, data[i].data(), kBlockSize);
        header.blocks[i] = {field<uint64_t>(input, kLbas), field<uint64_t>(input, kNextSeq), crc, 0};
    }
    for (uint32_t i = 0; i < records; ++i) {
        header.records[i] = {field<uint64_t>(input, kLbas), field<uint64_t>(input, kNextSeq),
                             field<uint32_t>(input, 16), field<uint32_t>(input, 2)};
    }
    if (input.ConsumeIntegral<uint8_t>() >= 0xC0) {
        switch (input.ConsumeIntegralInRange<uint8_t>(0, 7)) {
            case 0:
                header.count = input.ConsumeIntegral<uint32_t>();
                break;
            case 1:
                header.kind = input.ConsumeIntegral<uint16_t>();
                break;
            case 2:
                header.address = input.ConsumeIntegral<uint64_t>();
                break;
            case 3:
                header.band_seq = input.ConsumeIntegral<uint64_t>();
                break;
            case 4:
                header.version = input.ConsumeIntegral<uint32_t>();
                break;
            case 5:
                header.punit = input.ConsumeIntegral<uint32_t>();
                break;
            case 6:
                header.band = input.ConsumeIntegral<uint32_t>();
                break;
            default:
                header.magic = layout::kSummaryMagic;
                break;
        }
    }
    Block block = as_block(header);
    header.crc = layout::block_crc(block.data()) ^ (input.ConsumeIntegral<uint8_t>() >= 0xF0 ? 1U : 0U);
    block = as_block(header);
    zone.blocks.push_back(block);
    zone.truth.push_back({layout::kHeaderLba, 0, 0, layout::kHeaderFlag | header.kind});
    for (uint32_t i = 0; i < blocks; ++i) {
        if (input.ConsumeIntegral<uint8_t>() >= 0xF0) {
            data[i][0] ^= 1;
        }
        zone.blocks.push_back(data[i]);
        zone.truth.push_back(header.blocks[i]);
    }
}

void add_summary(FuzzedDataProvider &input, ZoneScript &zone) {
    layout::SummaryBlock summary{};
    summary.magic = layout::kSummaryMagic;
    summary.version = layout::kVersion;
    summary.uuid = kUuid;
    summary.band_seq = kBandSeq;
    summary.count = static_cast<uint32_t>(zone.truth.size());
    std::copy(zone.truth.begin(), zone.truth.end(), summary.entries);
    while (input.remaining_bytes() > 0 && input.ConsumeIntegral<uint8_t>() >= 0x80) {
        layout::BlockEntry &entry = summary.entries[input.ConsumeIntegralInRange<size_t>(0, 60)];
        switch (input.ConsumeIntegralInRange<uint8_t>(0, 6)) {
            case 0:
                entry.lba = field<uint64_t>(input, kLbas);
                break;
            case 1:
                entry.seq = field<uint64_t>(input, kNextSeq);
                break;
            case 2:
                entry.crc = input.ConsumeIntegral<uint32_t>();
                break;
            case 3:
                entry.flags = input.ConsumeBool() ? 0x10002 : input.ConsumeIntegral<uint32_t>();
                break;
            case 4:
                summary.count = input.ConsumeIntegral<uint32_t>();
                break;
            case 5:
                summary.index = input.ConsumeIntegral<uint32_t>();
                break;
            default:
                summary.band_seq = input.ConsumeIntegral<uint64_t>();
                break;
        }
    }
    Block block = as_block(summary);
    summary.crc = layout::block_crc(block.data()) ^ (input.ConsumeIntegral<uint8_t>() >= 0xF0 ? 1U : 0U);
    zone.blocks.push_back(as_block(summary));
}

ZoneScript make_zone(FuzzedDataProvider &input) {
    ZoneScript zone;
    while (zone.blocks.size() < kDataBlocks && input.remaining_bytes() > 0) {
        const uint8_t what = input.ConsumeIntegral<uint8_t>();
        if (what < 0xE0) {
            add_header(input, zone);
        } else if (what < 0xF0) {
            Block garbage;
            garbage.fill(what);
            zone.blocks.push_back(garbage);
            zone.truth.push_back({what, what, what, 0});
        } else {
            break;
        }
    }
    if (zone.blocks.size() == kDataBlocks) {
        add_summary(input, zone);
    }
    return zone;
}

struct Request {
    Io io;
    iovec iov{};
    std::vector<uint8_t> buffer = std::vector<uint8_t>(kBlockSize);
    bool outstanding = false;

    Io &prepare(Op op, uint64_t lba, uint8_t *data) {
        require(!outstanding);
        outstanding = true;
        iov = {data, kBlockSize};
        io = Io{};
        io.op = op;
        io.lba = lba;
        io.block_count = 1;
        io.iov = &iov;
        io.iov_count = 1;
        io.owner = this;
        io.complete = [](Io &done) noexcept {
            auto &self = *static_cast<Request *>(done.owner);
            require(self.outstanding);
            self.outstanding = false;
        };
        return io;
    }
};

class Run {
public:
    Run(FuzzedDataProvider &input, ZoneScript &zone) : reactor_(std::make_shared<Reactor>("fuzz", 0)) {
        MediaConfig media;
        media.kind = MediaConfig::Kind::zoned;
        media.zones = {kZones, kZoneSize, kZoneCapacity, 0, 0};
        base_ = std::make_shared<EmulatedMedia>(reactor_, media);
        Request request;
        for (uint32_t i = 0; i < zone.blocks.size(); ++i) {
            base_->submit(request.prepare(Op::write, i, zone.blocks[i].data()));
            step();
            require(!request.outstanding && request.io.status == status::ok);
        }

        CoreConfig config;
        config.uuid = kUuid;
        config.block_count = kLbas;
        config.punits = 1;
        for (uint64_t band = 0; band < kZones; ++band) {
            config.zone_starts.push_back(band * kZoneSize);
        }
        config.zone_size = kZoneSize;
        config.zone_capacity = kZoneCapacity;
        config.batch_blocks = 16;
        config.write_buffer_blocks = 64;
        config.reloc_buffer_blocks = 64;
        config.next_seq = kNextSeq;
        config.use_append = input.ConsumeBool();
        core_ = std::make_shared<FtlCore>(reactor_, base_, std::move(config));
        core_->attach();
    }
    Run(const Run &) = delete;
    Run &operator=(const Run &) = delete;
    ~Run() {
        core_->close();
        for (uint32_t steps = 0; !core_->detached(); ++steps) {
            require(steps < kStepsMax);
            step();
        }
    }

    void load(FuzzedDataProvider &input, const ZoneScript &zone) {
        const bool whole = zone.blocks.size() == kZoneCapacity;
        const std::array<uint64_t, 1> pointers = {zone.blocks.size()};
        core_->load_band(0, whole ? BandState::closed : BandState::faulted, kBandSeq, pointers);
        std::vector<uint64_t> entries(kLbas, L2p::kInvalid);
        for (uint64_t offset = 0; offset < zone.truth.size(); ++offset) {
            if (zone.truth[offset].lba < kLbas) {
                entries[zone.truth[offset].lba] = offset;
            }
        }
        while (input.remaining_bytes() > 0) {
            static constexpr uint64_t kFlags[] = {0, L2p::kTrimFlag, L2p::kLostFlag};
            const auto lba = input.ConsumeIntegralInRange<uint64_t>(0, kLbas - 1);
            entries[lba] = input.PickValueInArray(kFlags) | input.ConsumeIntegralInRange<uint64_t>(0, kZoneSize - 1);
        }
        const std::vector<uint16_t> crcs(entries.size());
        core_->load_l2p(0, entries.data(), crcs.data(), entries.size());
    }

    // Relocates and resets band 0.
    void relocate() {
        open(kStreamReloc);
        open(kStreamUser);
        require(core_->start_move(0));
        for (uint32_t steps = 0; steps < kStepsMax && !reset_ && !failed_ && !starved_; ++steps) {
            step();
            for (const Event &event : reactor_->events()) {
                take(event);
            }
        }
        require(reset_ || failed_ || starved_);
    }

    void read_everything() {
        std::vector<Request> requests(kLbas);
        for (uint64_t lba = 0; lba < kLbas; ++lba) {
            core_->submit(requests[lba].prepare(Op::read, lba, requests[lba].buffer.data()));
        }
        const auto outstanding = [](const Request &request) { return request.outstanding; };
        for (uint32_t steps = 0; std::any_of(requests.begin(), requests.end(), outstanding); ++steps) {
            require(steps < kStepsMax);
            step();
        }
    }

private:
    void step() {
        reactor_->set_now(now_ns_ += kStepNs);
        reactor_->step();
    }
    void open(uint32_t stream) {
        if (next_band_ == kZones) {
            starved_ = true;
        } else if (core_->open_band(stream, next_band_, kBandSeq + next_band_)) {
            ++next_band_;
        }
    }
    void take(const Event &event) {
        switch (event.kind) {
            case EventKind::band_next_needed:
                open(static_cast<uint32_t>(event.a));
                break;
            case EventKind::move_done:
                core_->reset_band(0);
                break;
            case EventKind::band_reset_done:
                reset_ = true;
                break;
            case EventKind::core_failed:
                failed_ = true;
                break;
            default:
                break;
        }
    }

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<EmulatedMedia> base_;
    std::shared_ptr<FtlCore> core_;
    uint64_t now_ns_ = 1;
    uint32_t next_band_ = 1;
    bool reset_ = false;
    bool failed_ = false;
    bool starved_ = false;  // the claimed content of the band did not fit into all other bands
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzedDataProvider input(data, size);
    ZoneScript zone = make_zone(input);
    if (zone.blocks.empty()) {
        return 0;
    }
    Run run(input, zone);
    run.load(input, zone);
    run.read_everything();
    run.relocate();
    run.read_everything();
    return 0;
}
