// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>
#include <variant>

#include "bind/bindings.hpp"
#include "bind/held_buffer.hpp"
#include "ftl/core.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr auto kCoreCloseTimeout = std::chrono::seconds(10);
constexpr auto kCloseInterval = std::chrono::microseconds(50);
constexpr uint32_t kStepsMax = 100'000;
constexpr std::array<const char *, 4> kScrubEnds = {"read", "left", "busy", "bad"};
constexpr std::array<const char *, 8> kBandStates = {"free",   "queued", "open",      "closing",
                                                     "closed", "moving", "resetting", "faulted"};

using Array8 = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;
using Array64 = nb::ndarray<nb::numpy, uint64_t, nb::ndim<1>>;
using Array32 = nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>>;
using Array16 = nb::ndarray<nb::numpy, uint16_t, nb::ndim<1>>;
using GivenCrcs = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T, size_t dimensions>
using Given = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;
using GivenBands = std::variant<Given<uint64_t, 2>, std::vector<std::vector<uint64_t>>>;

[[noreturn]] void raise_blocking(const char *message) {
    PyErr_SetString(PyExc_BlockingIOError, message);
    throw nb::python_error();
}

// On the reactor's thread, without the GIL.
template <typename Fn>
void on_reactor(FtlCore &core, Fn &&fn) {
    const std::shared_ptr<Reactor> reactor = core.state().reactor;
    const nb::gil_scoped_release unlocked;
    reactor->call(std::forward<Fn>(fn));
}

void take_bands(CoreConfig &config, const GivenBands &given) {
    if (const auto *array = std::get_if<Given<uint64_t, 2>>(&given)) {
        config.punits = static_cast<uint32_t>(std::min<size_t>(array->shape(1), kPunitsMax + 1));
        config.zone_starts.assign(array->data(), array->data() + array->size());
        return;
    }
    const auto &bands = std::get<std::vector<std::vector<uint64_t>>>(given);
    size_t punits = 0;
    for (const std::vector<uint64_t> &band : bands) {
        punits = std::max(punits, band.size());
    }
    config.punits = static_cast<uint32_t>(punits);
    for (const std::vector<uint64_t> &band : bands) {
        config.zone_starts.insert(config.zone_starts.end(), band.begin(), band.end());
        config.zone_starts.insert(config.zone_starts.end(), punits - band.size(), kNoZone);
    }
}

layout::Uuid uuid_of(const nb::bytes &bytes) {
    layout::Uuid uuid{};
    if (bytes.size() != uuid.size()) {
        throw std::invalid_argument("a uuid must be 16 bytes");
    }
    std::memcpy(uuid.data(), bytes.data(), uuid.size());
    return uuid;
}

std::shared_ptr<FtlCore> make_core(const std::shared_ptr<Reactor> &reactor, std::shared_ptr<BlockDevice> base,
                                   const nb::bytes &uuid, uint64_t block_count, const GivenBands &bands,
                                   uint64_t zone_size, uint64_t zone_capacity, uint32_t batch_blocks, bool use_append,
                                   bool shared_stream, bool finish_zones, uint32_t write_buffer_blocks,
                                   std::optional<std::string> write_buffer_path, uint32_t reloc_buffer_blocks,
                                   uint32_t max_reloc_qdepth, uint32_t max_active_relocs, uint32_t band_threshold,
                                   uint64_t next_seq, bool verify_reads, bool no_data,
                                   const std::optional<nb::bytes> &media_uuid) {
    CoreConfig config;
    config.uuid = uuid_of(uuid);
    config.media_uuid = media_uuid ? uuid_of(*media_uuid) : config.uuid;
    config.block_count = block_count;
    take_bands(config, bands);
    config.zone_size = zone_size;
    config.zone_capacity = zone_capacity;
    config.batch_blocks = batch_blocks;
    config.use_append = use_append;
    config.shared_stream = shared_stream;
    config.finish_zones = finish_zones;
    config.write_buffer_blocks = write_buffer_blocks;
    config.write_buffer_path = std::move(write_buffer_path);
    config.reloc_buffer_blocks = reloc_buffer_blocks;
    config.max_reloc_qdepth = max_reloc_qdepth;
    config.max_active_relocs = max_active_relocs;
    config.band_threshold = band_threshold;
    config.next_seq = next_seq;
    config.verify_reads = verify_reads && !no_data;
    config.no_data = no_data;
    try {
        // With very many bands it takes its time.
        const nb::gil_scoped_release unlocked;
        auto core = std::make_shared<FtlCore>(reactor, std::move(base), std::move(config));
        reactor->call([&] { core->attach(); });
        return core;
    } catch (const std::system_error &error) {
        PyErr_SetObject(PyExc_OSError, nb::make_tuple(error.code().value(), error.what()).ptr());
        throw nb::python_error();
    }
}

void close_core(FtlCore &core) {
    const std::shared_ptr<Reactor> reactor = core.state().reactor;
    const nb::gil_scoped_release unlocked;
    const auto until = std::chrono::steady_clock::now() + kCoreCloseTimeout;
    // What the base still holds has to come back before its memory may go.
    for (uint32_t steps = 0;; ++steps) {
        bool detached = false;
        reactor->call([&] {
            core.close();
            detached = core.detached();
        });
        if (detached) {
            return;
        }
        if (std::chrono::steady_clock::now() > until || steps > kStepsMax * 10) {
            throw std::runtime_error("the base has not completed outstanding I/O: close it first");
        }
        if (reactor->running()) {
            std::this_thread::sleep_for(kCloseInterval);
        } else {
            reactor->step();
        }
    }
}

// True: it has let go of the base. For a caller who waits in another way than close_core().
bool begin_close(FtlCore &core) {
    bool detached = false;
    on_reactor(core, [&] {
        core.close();
        detached = core.detached();
    });
    return detached;
}

bool recover_block(FtlCore &core, uint64_t lba, uint64_t seq, uint32_t crc, nb::handle data) {
    const HeldBuffer held(data, false);
    if (held.bytes() != kBlockSize) {
        throw std::invalid_argument("recover_block: data is not one block");
    }
    bool taken = false;
    on_reactor(core, [&] { taken = core.recover_block(lba, seq, crc, static_cast<const uint8_t *>(held.data())); });
    return taken;
}

BandState band_state(std::string_view name) {
    for (size_t i = 0; i < kBandStates.size(); ++i) {
        if (name == kBandStates[i]) {
            return static_cast<BandState>(i);
        }
    }
    throw std::invalid_argument("unknown band state \"" + std::string(name) + "\"");
}

template <typename Array, typename T>
Array owned_array(std::unique_ptr<T[]> values, size_t count) {
    T *data = values.release();
    const nb::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<T *>(memory); });
    return Array(data, {count}, owner);
}

// The rows as bytes: Python views them as records.
Array8 row_bytes(std::unique_ptr<BandRow[]> rows, size_t count) {
    BandRow *data = rows.release();
    const nb::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<BandRow *>(memory); });
    return Array8(reinterpret_cast<uint8_t *>(data), {count * sizeof(BandRow)}, owner);
}

Array8 changed_bands(FtlCore &core, size_t most) {
    most = std::min(most, core.state().bands.size());
    std::unique_ptr<BandRow[]> rows(new BandRow[most]);
    size_t count = 0;
    on_reactor(core, [&] { count = core.take_changed(std::span(rows.get(), most)); });
    return row_bytes(std::move(rows), count);
}

Array8 band_rows(FtlCore &core, uint32_t first, uint32_t count) {
    if (first > core.state().bands.size() || count > core.state().bands.size() - first) {
        throw std::invalid_argument("band_rows: beyond the last band");
    }
    std::unique_ptr<BandRow[]> rows(new BandRow[count]);
    on_reactor(core, [&] {
        for (uint32_t i = 0; i < count; ++i) {
            rows[i] = core.row(first + i);
        }
    });
    return row_bytes(std::move(rows), count);
}

void load_bands(FtlCore &core, uint32_t first, const Given<uint8_t, 1> &states, const Given<uint64_t, 1> &band_seqs,
                const Given<uint64_t, 2> &write_pointers) {
    const size_t count = states.shape(0);
    if (band_seqs.shape(0) != count || write_pointers.shape(0) != count) {
        throw std::invalid_argument("load_bands: states, band_seqs and write_pointers differ in their number of bands");
    }
    if (std::any_of(states.data(), states.data() + count, [](uint8_t state) { return state >= kBandStates.size(); })) {
        throw std::invalid_argument("load_bands: unknown band state");
    }
    const size_t punits = write_pointers.shape(1);
    on_reactor(core, [&] {
        for (size_t i = 0; i < count; ++i) {
            core.load_band(first + static_cast<uint32_t>(i), static_cast<BandState>(states.data()[i]),
                           band_seqs.data()[i], std::span(write_pointers.data() + i * punits, punits));
        }
    });
}

nb::list list_bands(FtlCore &core) {
    struct Row {
        BandState state;
        uint64_t seq;
        uint64_t references;
        uint32_t valid, written, stream, readers;
        bool unreadable;
    };
    CoreState &state = core.state();
    std::vector<Row> rows;
    std::vector<Zone> zones;
    on_reactor(core, [&] {
        for (uint32_t number = 0; number < state.bands.size(); ++number) {
            const Band &band = state.bands[number];
            rows.push_back({band.state, band.seq, band.references, core.valid_count(number),
                            band.written + band.given_up, band.stream, band.readers, band.unreadable});
        }
        zones = state.zones;
    });
    nb::list list;
    for (size_t number = 0; number < rows.size(); ++number) {
        const Row &row = rows[number];
        nb::list write_pointers;
        nb::list faulted;
        for (size_t punit = 0; punit < state.punits; ++punit) {
            const Zone &zone = zones[number * state.punits + punit];
            write_pointers.append(zone.write_pointer);
            if (zone.faulted) {
                faulted.append(punit);
            }
        }
        nb::dict entry;
        entry["state"] = kBandStates[static_cast<size_t>(row.state)];
        entry["seq"] = row.seq;
        entry["valid"] = row.valid;
        entry["references"] = row.references;
        entry["written"] = row.written;
        entry["stream"] = row.stream;
        entry["readers"] = row.readers;
        entry["unreadable"] = row.unreadable;
        entry["write_pointers"] = write_pointers;
        entry["faulted_punits"] = faulted;
        list.append(entry);
    }
    return list;
}

nb::dict stats_of(FtlCore &core) {
    CoreState &state = core.state();
    CoreStats stats;
    uint64_t used = 0;
    uint64_t landed = 0;
    uint64_t next_seq = 0;
    on_reactor(core, [&] {
        stats = state.stats;
        landed = state.buffer.landed.count + state.buffer.flushing.count;
        used = state.buffer.slot_count - state.buffer.free.count() - landed;
        next_seq = state.next_seq;
    });
    nb::dict dict;
    dict["user_reads"] = stats.user_reads;
    dict["user_writes"] = stats.user_writes;
    dict["user_read_blocks"] = stats.user_read_blocks;
    dict["user_written_blocks"] = stats.user_written_blocks;
    dict["user_trimmed_blocks"] = stats.user_trimmed_blocks;
    dict["media_written_blocks"] = stats.media_written_blocks;
    dict["media_header_blocks"] = stats.media_header_blocks;
    dict["media_summary_blocks"] = stats.media_summary_blocks;
    dict["media_user_blocks"] = stats.media_user_blocks;
    dict["media_reloc_blocks"] = stats.media_reloc_blocks;
    dict["media_trim_blocks"] = stats.media_trim_blocks;
    dict["reloc_moved_blocks"] = stats.reloc_moved_blocks;
    dict["reloc_read_blocks"] = stats.reloc_read_blocks;
    dict["reloc_reads"] = stats.reloc_reads;
    dict["reloc_batches"] = stats.reloc_batches;
    dict["lost_blocks"] = stats.lost_blocks;
    dict["flushes"] = stats.flushes;
    dict["base_flushes"] = stats.base_flushes;
    dict["zone_resets"] = stats.zone_resets;
    dict["crc_errors"] = stats.crc_errors;
    dict["user_crc_errors"] = stats.user_crc_errors;
    dict["reads_repeated"] = stats.reads_repeated;
    dict["reads_rescued"] = stats.reads_rescued;
    dict["unreadable_blocks"] = stats.unreadable_blocks;
    dict["read_errors"] = stats.read_errors;
    dict["write_errors"] = stats.write_errors;
    dict["zones_finished"] = stats.zones_finished;
    dict["write_buffer_used"] = used;
    dict["write_buffer_landed"] = landed;
    dict["write_buffer_blocks"] = state.buffer.slot_count;
    dict["busy_answers"] = stats.busy_answers;
    dict["scrub_reads"] = stats.scrub_reads;
    dict["scrub_read_blocks"] = stats.scrub_read_blocks;
    dict["scrub_bad_blocks"] = stats.scrub_bad_blocks;
    dict["scrub_bad_metadata"] = stats.scrub_bad_metadata;
    dict["scrub_slow_reads"] = stats.scrub_slow_reads;
    dict["throttled_ns"] = stats.throttled_ns;
    dict["next_seq"] = next_seq;
    dict["batches"] = stats.batches;
    dict["short_batches"] = stats.short_batches;
    return dict;
}

nb::dict scrub_status_of(FtlCore &core) {
    bool under_way = false;
    ScrubResult result;
    on_reactor(core, [&] {
        under_way = core.movers().scrubbing();
        result = core.movers().scrub_result();
    });
    nb::dict dict;
    dict["under_way"] = under_way;
    dict["ended"] = result.number;
    dict["band"] = result.band == kNoBand ? nb::object(nb::none()) : nb::object(nb::int_(result.band));
    dict["end"] = kScrubEnds[static_cast<size_t>(result.end)];
    dict["slow"] = result.slow;
    dict["status"] = result.status;
    dict["address"] = result.address;
    return dict;
}

void use_cache(FtlCore &core, std::shared_ptr<BlockDevice> device, const nb::bytes &id, uint64_t generation,
               uint64_t lap, uint64_t position, uint32_t request_blocks, uint32_t request_count) {
    NvCacheConfig config;
    if (id.size() != config.id.size()) {
        throw std::invalid_argument("id must be 16 bytes");
    }
    std::memcpy(config.id.data(), id.data(), config.id.size());
    config.generation = generation;
    config.lap = lap;
    config.position = position;
    config.request_blocks = request_blocks;
    config.request_count = request_count;
    on_reactor(core, [&] { core.use_cache(std::move(device), config); });
}

nb::object cache_stats_of(FtlCore &core) {
    struct Row {
        NvCacheStats stats;
        uint64_t state, vss, generation, lap, position, ring_blocks, used_blocks;
    };
    std::optional<Row> row;
    on_reactor(core, [&] {
        if (const NvCache *cache = core.cache()) {
            row = Row{cache->stats(),       static_cast<uint64_t>(cache->state()),
                      cache->vss(),         cache->generation(),
                      cache->lap(),         cache->position(),
                      cache->ring_blocks(), cache->used_blocks()};
        }
    });
    if (!row) {
        return nb::none();
    }
    nb::dict dict;
    dict["state"] = row->state;
    dict["vss"] = row->vss;
    dict["generation"] = row->generation;
    dict["lap"] = row->lap;
    dict["position"] = row->position;
    dict["ring_blocks"] = row->ring_blocks;
    dict["used_blocks"] = row->used_blocks;
    dict["write_ios"] = row->stats.write_ios;
    dict["written_blocks"] = row->stats.written_blocks;
    dict["metadata_blocks"] = row->stats.metadata_blocks;
    dict["header_writes"] = row->stats.header_writes;
    dict["flushes"] = row->stats.flushes;
    dict["write_errors"] = row->stats.write_errors;
    dict["busy_answers"] = row->stats.busy_answers;
    dict["ring_waits"] = row->stats.ring_waits;
    return dict;
}

Array64 l2p_of(FtlCore &core, uint64_t first_lba, uint64_t count) {
    const uint64_t block_count = core.info().block_count;
    if (first_lba > block_count || count > block_count - first_lba) {
        throw std::invalid_argument("l2p: beyond the last LBA");
    }
    std::unique_ptr<uint64_t[]> entries(new uint64_t[count]);
    on_reactor(core, [&] {
        for (uint64_t i = 0; i < count; ++i) {
            entries[i] = core.l2p(first_lba + i);
        }
    });
    return owned_array<Array64>(std::move(entries), count);
}

Array16 crcs_of(FtlCore &core, uint64_t first_lba, uint64_t count) {
    const uint64_t block_count = core.info().block_count;
    if (first_lba > block_count || count > block_count - first_lba) {
        throw std::invalid_argument("crcs: beyond the last LBA");
    }
    const BlockCrcs &crcs = core.state().crcs;
    if (!crcs.kept()) {
        throw std::invalid_argument("crcs: the core does not verify reads, so it keeps no CRCs");
    }
    std::unique_ptr<uint16_t[]> entries(new uint16_t[count]);
    on_reactor(core, [&] {
        for (uint64_t i = 0; i < count; ++i) {
            entries[i] = crcs.get(first_lba + i);
        }
    });
    return owned_array<Array16>(std::move(entries), count);
}

Array32 valid_counts_of(FtlCore &core) {
    const size_t count = core.state().bands.size();
    std::unique_ptr<uint32_t[]> valid(new uint32_t[count]);
    on_reactor(core, [&] {
        for (uint32_t band = 0; band < count; ++band) {
            valid[band] = core.valid_count(band);
        }
    });
    return owned_array<Array32>(std::move(valid), count);
}

}  // namespace

void bind_core(nb::module_ &m) {
    m.attr("STREAM_USER") = kStreamUser;
    m.attr("STREAM_RELOC") = kStreamReloc;
    m.attr("ADDRESS_INVALID") = L2p::kInvalid;
    m.attr("SLOT_FLAG") = L2p::kSlotFlag;
    m.attr("TRIM_FLAG") = L2p::kTrimFlag;
    m.attr("LOST_FLAG") = L2p::kLostFlag;

    nb::class_<FtlCore, BlockDevice>(m, "FtlCore")
        .def(nb::new_(&make_core), nb::arg("reactor"), nb::arg("base"), nb::kw_only(), nb::arg("uuid"),
             nb::arg("block_count"), nb::arg("bands"), nb::arg("zone_size"), nb::arg("zone_capacity"),
             nb::arg("batch_blocks") = 128, nb::arg("use_append") = false, nb::arg("shared_stream") = false,
             nb::arg("finish_zones") = false, nb::arg("write_buffer_blocks") = 1536,
             nb::arg("write_buffer_path") = nb::none(), nb::arg("reloc_buffer_blocks") = 512,
             nb::arg("max_reloc_qdepth") = 32, nb::arg("max_active_relocs") = 3, nb::arg("band_threshold") = 90,
             nb::arg("next_seq") = 1, nb::arg("verify_reads") = true, nb::arg("no_data") = false,
             nb::arg("media_uuid") = nb::none())
        .def_prop_ro("id", &FtlCore::id)
        .def(
            "open_band",
            [](FtlCore &core, uint32_t stream, uint32_t band, uint64_t band_seq) {
                bool queued = false;
                on_reactor(core, [&] { queued = core.open_band(stream, band, band_seq); });
                if (!queued) {
                    raise_blocking("open_band: a band is already queued for this stream");
                }
            },
            nb::arg("stream"), nb::arg("band"), nb::arg("band_seq"))
        .def(
            "take_queued",
            [](FtlCore &core, uint32_t stream) {
                uint32_t band = kNoBand;
                on_reactor(core, [&] { band = core.take_queued(stream); });
                return band == kNoBand ? std::nullopt : std::optional<uint32_t>{band};
            },
            nb::arg("stream"))
        .def(
            "start_move",
            [](FtlCore &core, uint32_t band) {
                bool started = false;
                on_reactor(core, [&] { started = core.start_move(band); });
                if (!started) {
                    raise_blocking("start_move: max_active_relocs bands are already being moved");
                }
            },
            nb::arg("band"))
        .def(
            "start_scrub",
            [](FtlCore &core, uint32_t band, bool stays) {
                bool started = false;
                on_reactor(core, [&] { started = core.start_scrub(band, stays); });
                if (!started) {
                    raise_blocking("start_scrub: a band is already being read");
                }
            },
            nb::arg("band"), nb::arg("stays") = false)
        .def(
            "set_scrub_rate",
            [](FtlCore &core, uint32_t rate) { on_reactor(core, [&] { core.set_scrub_rate(rate); }); },
            nb::arg("blocks_per_s"))
        .def("stop_scrub", [](FtlCore &core) { on_reactor(core, [&] { core.stop_scrub(); }); })
        .def("scrub_status", &scrub_status_of)
        .def(
            "reset_band", [](FtlCore &core, uint32_t band) { on_reactor(core, [&] { core.reset_band(band); }); },
            nb::arg("band"))
        .def(
            "reset_bands",
            [](FtlCore &core, const std::vector<uint32_t> &bands) {
                std::vector<uint32_t> refused;
                on_reactor(core, [&] { refused = core.reset_bands(bands); });
                return refused;
            },
            nb::arg("bands"))
        .def(
            "replace_zone",
            [](FtlCore &core, uint32_t band, uint32_t punit, std::optional<uint64_t> zone_start) {
                on_reactor(core, [&] { core.replace_zone(band, punit, zone_start.value_or(kNoZone)); });
            },
            nb::arg("band"), nb::arg("punit"), nb::arg("zone_start").none())
        .def(
            "fault_zone",
            [](FtlCore &core, uint32_t band, uint32_t punit, Status status) {
                bool faulted = false;
                on_reactor(core, [&] { faulted = core.fault_zone(band, punit, status); });
                return faulted;
            },
            nb::arg("band"), nb::arg("punit"), nb::arg("status"))
        .def(
            "close_zone",
            [](FtlCore &core, uint32_t band, uint32_t punit) {
                bool closing = false;
                on_reactor(core, [&] { closing = core.close_zone(band, punit); });
                return closing;
            },
            nb::arg("band"), nb::arg("punit"))
        .def(
            "set_user_share",
            [](FtlCore &core, uint32_t percent) { on_reactor(core, [&] { core.set_user_share(percent); }); },
            nb::arg("percent"))
        .def(
            "fail_writes", [](FtlCore &core, Status status) { on_reactor(core, [&] { core.fail_writes(status); }); },
            nb::arg("status"))
        .def("refuse_writes", [](FtlCore &core) { on_reactor(core, [&] { core.refuse_writes(); }); })
        .def("drain",
             [](FtlCore &core) {
                 uint64_t ticket = 0;
                 on_reactor(core, [&] { ticket = core.drain(); });
                 return ticket;
             })
        .def(
            "fail", [](FtlCore &core, Status status) { on_reactor(core, [&] { core.fail(status); }); },
            nb::arg("status"))
        .def("begin_close", &begin_close)
        .def("close", &close_core)
        .def(
            "load_band",
            [](FtlCore &core, uint32_t band, const std::string &state, uint64_t band_seq,
               const std::vector<uint64_t> &write_pointers) {
                on_reactor(core, [&] { core.load_band(band, band_state(state), band_seq, write_pointers); });
            },
            nb::arg("band"), nb::arg("state"), nb::arg("band_seq"), nb::arg("write_pointers"))
        .def("load_bands", &load_bands, nb::arg("first"), nb::arg("states"), nb::arg("band_seqs"),
             nb::arg("write_pointers"))
        .def(
            "load_l2p",
            [](FtlCore &core, uint64_t first_lba,
               const nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> &addresses,
               const std::optional<GivenCrcs> &crcs) {
                if (crcs && crcs->shape(0) != addresses.shape(0)) {
                    throw std::invalid_argument("load_l2p: the number of CRCs differs from the number of addresses");
                }
                const uint16_t *given = crcs ? crcs->data() : nullptr;
                on_reactor(core, [&] { core.load_l2p(first_lba, addresses.data(), given, addresses.shape(0)); });
            },
            nb::arg("first_lba"), nb::arg("addresses"), nb::arg("crcs") = nb::none())
        .def("recover_block", &recover_block, nb::arg("lba"), nb::arg("seq"), nb::arg("crc"), nb::arg("data"))
        .def(
            "recover_record",
            [](FtlCore &core, uint64_t lba, uint32_t block_count, uint64_t seq, uint32_t flags) {
                bool taken = false;
                on_reactor(core, [&] { taken = core.recover_record(lba, block_count, seq, flags); });
                return taken;
            },
            nb::arg("lba"), nb::arg("block_count"), nb::arg("seq"), nb::arg("flags"))
        .def("use_cache", &use_cache, nb::arg("device"), nb::kw_only(), nb::arg("id"), nb::arg("generation"),
             nb::arg("lap"), nb::arg("position") = 0, nb::arg("request_blocks") = 16, nb::arg("request_count") = 2048)
        .def("forget_cache", [](FtlCore &core) { on_reactor(core, [&] { core.forget_cache(); }); })
        .def("cache_stats", &cache_stats_of)
        .def("l2p", &l2p_of, nb::arg("first_lba"), nb::arg("count"))
        .def("crcs", &crcs_of, nb::arg("first_lba"), nb::arg("count"))
        .def("valid_counts", &valid_counts_of)
        .def("bands", &list_bands)
        .def("changed_bands", &changed_bands, nb::arg("most"))
        .def("band_rows", &band_rows, nb::arg("first"), nb::arg("count"))
        .def("stats", &stats_of)
        .def_prop_ro("failure",
                     [](FtlCore &core) {
                         Status failed = status::ok;
                         on_reactor(core, [&] { failed = core.state().failed; });
                         return failed;
                     })
        .def_prop_ro("next_seq", [](FtlCore &core) {
            uint64_t seq = 0;
            on_reactor(core, [&] { seq = core.state().next_seq; });
            return seq;
        });
}

}  // namespace ftl
