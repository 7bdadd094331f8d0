// SPDX-License-Identifier: BSD-3-Clause
// State of an FtlCore for Python: its bands, its counters and the L2P.
#include "bind/core_account.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bind/band_rows.hpp"
#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "bind/on_reactor.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using Array16 = nb::ndarray<nb::numpy, uint16_t, nb::ndim<1>>;
using Array32 = nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>>;
using Array64 = nb::ndarray<nb::numpy, uint64_t, nb::ndim<1>>;

// A band with its zones.
struct BandInfo {
    BandState state;
    uint64_t seq;
    uint64_t references;
    uint32_t valid, written, stream, readers;
    bool unreadable;
    std::vector<uint32_t> write_pointers;
    std::vector<uint32_t> faulted_punits;
};

// The counters, and what the core holds now.
struct CoreStatsNow : CoreStats {
    uint64_t write_buffer_used = 0;
    uint64_t write_buffer_landed = 0;
    uint64_t write_buffer_reserved = 0;
    uint64_t write_buffer_blocks = 0;
    uint64_t next_seq = 0;
    uint64_t mapped_blocks = 0;
};

struct NvCacheStatsNow : NvCacheStats {
    NvCache::State state = NvCache::State::active;
    bool vss = false;
    uint64_t generation = 0;
    uint64_t lap = 0;
    uint64_t position = 0;
    uint64_t ring_blocks = 0;
    uint64_t used_blocks = 0;
};

struct ScrubStatus {
    bool under_way = false;
    uint64_t ended = 0;
    std::optional<uint32_t> band;
    ScrubEnd end = ScrubEnd::read;
    bool slow = false;
    Status status = status::ok;
    uint64_t address = 0;
};

template <typename Array, typename T>
Array owned_array(std::unique_ptr<T[]> values, size_t count) {
    T *data = values.release();
    const nb::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<T *>(memory); });
    return Array(data, {count}, owner);
}

// Layout of BandRow for numpy.dtype(): name and format of each field.
std::vector<std::pair<const char *, const char *>> band_row_layout() {
    static_assert(offsetof(BandRow, seq) == 0 && offsetof(BandRow, faulted_punits) == 8);
    static_assert(offsetof(BandRow, opened_seq) == 16 && offsetof(BandRow, data_seq) == 24);
    static_assert(offsetof(BandRow, band) == 32 && offsetof(BandRow, valid) == 36 && offsetof(BandRow, written) == 40);
    static_assert(offsetof(BandRow, state) == 44 && offsetof(BandRow, stream) == 45);
    static_assert(offsetof(BandRow, unreadable) == 46 && offsetof(BandRow, unwritten) == 47);
    static_assert(offsetof(BandRow, settling) == 48 && sizeof(BandRow) == 56);
    return {{"seq", "<u8"},   {"faulted_punits", "<u8"}, {"opened_seq", "<u8"}, {"data_seq", "<u8"},
            {"band", "<u4"},  {"valid", "<u4"},          {"written", "<u4"},    {"state", "u1"},
            {"stream", "u1"}, {"unreadable", "u1"},      {"unwritten", "u1"},   {"settling", "<u8"}};
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

// Of each zone of these bands, by band and punit: the blocks that are known to be on media.
Array32 zone_pointers_of(FtlCore &core, uint32_t first, uint32_t count) {
    const CoreState &state = core.state();
    if (first > state.bands.size() || count > state.bands.size() - first) {
        throw std::invalid_argument("zone_pointers: beyond the last band");
    }
    const size_t zones = size_t{count} * state.punits;
    std::unique_ptr<uint32_t[]> pointers(new uint32_t[zones]);
    on_reactor(core, [&] {
        for (size_t i = 0; i < zones; ++i) {
            pointers[i] = state.zones[size_t{first} * state.punits + i].write_pointer;
        }
    });
    return owned_array<Array32>(std::move(pointers), zones);
}

std::vector<BandInfo> bands_of(FtlCore &core) {
    CoreState &state = core.state();
    std::vector<BandInfo> infos;
    on_reactor(core, [&] {
        for (uint32_t number = 0; number < state.bands.size(); ++number) {
            const Band &band = state.bands[number];
            BandInfo info{band.state,
                          band.seq,
                          band.references,
                          core.valid_count(number),
                          band.written + band.given_up,
                          band.stream,
                          band.readers,
                          band.unreadable,
                          {},
                          {}};
            for (uint32_t punit = 0; punit < state.punits; ++punit) {
                const Zone &zone = state.zones[size_t{number} * state.punits + punit];
                info.write_pointers.push_back(zone.write_pointer);
                if (zone.faulted) {
                    info.faulted_punits.push_back(punit);
                }
            }
            infos.push_back(std::move(info));
        }
    });
    return infos;
}

CoreStatsNow stats_of(FtlCore &core) {
    CoreState &state = core.state();
    CoreStatsNow now;
    on_reactor(core, [&] {
        static_cast<CoreStats &>(now) = state.stats;
        now.write_buffer_landed = state.buffer.landed.count + state.buffer.flushing.count;
        now.write_buffer_reserved = state.buffer.reserved;
        now.write_buffer_used =
            state.buffer.slot_count - state.buffer.free.count() - now.write_buffer_reserved - now.write_buffer_landed;
        now.write_buffer_blocks = state.buffer.slot_count;
        now.next_seq = state.next_seq;
        now.mapped_blocks = state.mapped;
    });
    return now;
}

ScrubStatus scrub_status_of(FtlCore &core) {
    bool under_way = false;
    ScrubResult result;
    on_reactor(core, [&] {
        under_way = core.movers().scrubbing();
        result = core.movers().scrub_result();
    });
    return {under_way,     result.number, result.band == kNoBand ? std::nullopt : std::optional(result.band),
            result.end,    result.slow,   result.status,
            result.address};
}

std::optional<NvCacheStatsNow> cache_stats_of(FtlCore &core) {
    std::optional<NvCacheStatsNow> now;
    on_reactor(core, [&] {
        if (const NvCache *cache = core.cache()) {
            now.emplace();
            static_cast<NvCacheStats &>(*now) = cache->stats();
            now->state = cache->state();
            now->vss = cache->vss();
            now->generation = cache->generation();
            now->lap = cache->lap();
            now->position = cache->position();
            now->ring_blocks = cache->ring_blocks();
            now->used_blocks = cache->used_blocks();
        }
    });
    return now;
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
        core.check_pages();
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
            entries[i] = crcs.peek(first_lba + i);
        }
        core.check_pages();
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

void bind_core_account(nb::module_ &m) {
    m.def("band_row_layout", &band_row_layout);
    Fields<BandInfo>(m, "BandInfo")
        .field("state", &BandInfo::state)
        .field("seq", &BandInfo::seq)
        .field("valid", &BandInfo::valid)
        .field("references", &BandInfo::references)
        .field("written", &BandInfo::written)
        .field("stream", &BandInfo::stream)
        .field("readers", &BandInfo::readers)
        .field("unreadable", &BandInfo::unreadable)
        .field("write_pointers", &BandInfo::write_pointers)
        .field("faulted_punits", &BandInfo::faulted_punits)
        .end();
    Fields<CoreStatsNow>(m, "CoreStats")
        .field("user_reads", &CoreStats::user_reads)
        .field("user_writes", &CoreStats::user_writes)
        .field("user_read_blocks", &CoreStats::user_read_blocks)
        .field("user_written_blocks", &CoreStats::user_written_blocks)
        .field("user_trimmed_blocks", &CoreStats::user_trimmed_blocks)
        .field("media_written_blocks", &CoreStats::media_written_blocks)
        .field("media_header_blocks", &CoreStats::media_header_blocks)
        .field("media_summary_blocks", &CoreStats::media_summary_blocks)
        .field("media_user_blocks", &CoreStats::media_user_blocks)
        .field("media_reloc_blocks", &CoreStats::media_reloc_blocks)
        .field("media_trim_blocks", &CoreStats::media_trim_blocks)
        .field("reloc_moved_blocks", &CoreStats::reloc_moved_blocks)
        .field("reloc_read_blocks", &CoreStats::reloc_read_blocks)
        .field("reloc_reads", &CoreStats::reloc_reads)
        .field("reloc_batches", &CoreStats::reloc_batches)
        .field("lost_blocks", &CoreStats::lost_blocks)
        .field("flushes", &CoreStats::flushes)
        .field("base_flushes", &CoreStats::base_flushes)
        .field("zone_resets", &CoreStats::zone_resets)
        .field("crc_errors", &CoreStats::crc_errors)
        .field("user_crc_errors", &CoreStats::user_crc_errors)
        .field("reads_repeated", &CoreStats::reads_repeated)
        .field("reads_rescued", &CoreStats::reads_rescued)
        .field("unreadable_blocks", &CoreStats::unreadable_blocks)
        .field("read_errors", &CoreStats::read_errors)
        .field("write_errors", &CoreStats::write_errors)
        .field("zones_finished", &CoreStats::zones_finished)
        .field("write_buffer_used", &CoreStatsNow::write_buffer_used)
        .field("write_buffer_landed", &CoreStatsNow::write_buffer_landed)
        .field("write_buffer_reserved", &CoreStatsNow::write_buffer_reserved)
        .field("write_buffer_blocks", &CoreStatsNow::write_buffer_blocks)
        .field("busy_answers", &CoreStats::busy_answers)
        .field("scrub_reads", &CoreStats::scrub_reads)
        .field("scrub_read_blocks", &CoreStats::scrub_read_blocks)
        .field("scrub_bad_blocks", &CoreStats::scrub_bad_blocks)
        .field("scrub_bad_metadata", &CoreStats::scrub_bad_metadata)
        .field("scrub_slow_reads", &CoreStats::scrub_slow_reads)
        .field("throttled_ns", &CoreStats::throttled_ns)
        .field("l2p_page_reads", &CoreStats::l2p_page_reads)
        .field("l2p_page_writes", &CoreStats::l2p_page_writes)
        .field("l2p_page_waits", &CoreStats::l2p_page_waits)
        .field("next_seq", &CoreStatsNow::next_seq)
        .field("mapped_blocks", &CoreStatsNow::mapped_blocks)
        .field("batches", &CoreStats::batches)
        .field("short_batches", &CoreStats::short_batches)
        .end();
    Fields<NvCacheStatsNow>(m, "NvCacheStats")
        .field("state", &NvCacheStatsNow::state)
        .field("vss", &NvCacheStatsNow::vss)
        .field("generation", &NvCacheStatsNow::generation)
        .field("lap", &NvCacheStatsNow::lap)
        .field("position", &NvCacheStatsNow::position)
        .field("ring_blocks", &NvCacheStatsNow::ring_blocks)
        .field("used_blocks", &NvCacheStatsNow::used_blocks)
        .field("write_ios", &NvCacheStats::write_ios)
        .field("written_blocks", &NvCacheStats::written_blocks)
        .field("metadata_blocks", &NvCacheStats::metadata_blocks)
        .field("header_writes", &NvCacheStats::header_writes)
        .field("flushes", &NvCacheStats::flushes)
        .field("write_errors", &NvCacheStats::write_errors)
        .field("busy_answers", &NvCacheStats::busy_answers)
        .field("ring_waits", &NvCacheStats::ring_waits)
        .end();
    Fields<ScrubStatus>(m, "ScrubStatus")
        .field("under_way", &ScrubStatus::under_way)
        .field("ended", &ScrubStatus::ended)
        .field("band", &ScrubStatus::band)
        .field("end", &ScrubStatus::end)
        .field("slow", &ScrubStatus::slow)
        .field("status", &ScrubStatus::status)
        .field("address", &ScrubStatus::address)
        .end();
}

void def_core_account(nb::class_<FtlCore, BlockDevice> &core) {
    core.def("l2p", &l2p_of, nb::arg("first_lba"), nb::arg("count"))
        .def_prop_ro("pages_lost", [](FtlCore &self) { return self.state().pages_broken(); })
        .def("crcs", &crcs_of, nb::arg("first_lba"), nb::arg("count"))
        .def("valid_counts", &valid_counts_of)
        .def("bands", &bands_of)
        .def("changed_bands", &changed_bands, nb::arg("most"))
        .def("zone_pointers", &zone_pointers_of, nb::arg("first"), nb::arg("count"))
        .def("band_rows", &band_rows, nb::arg("first"), nb::arg("count"))
        .def("part_seqs",
             [](FtlCore &self) {
                 uint64_t seq = 0;
                 on_reactor(self, [&] { seq = self.part_seqs(); });
                 return seq;
             })
        .def("stats", &stats_of)
        .def_prop_ro("troubles", [](FtlCore &self) { return self.state().troubles.load(std::memory_order_relaxed); })
        .def_prop_ro("band_changes", [](FtlCore &self) { return self.state().bands.changes(); })
        .def("scrub_status", &scrub_status_of)
        .def("cache_stats", &cache_stats_of)
        .def_prop_ro("failure",
                     [](FtlCore &self) {
                         Status failed = status::ok;
                         on_reactor(self, [&] { failed = self.state().failed; });
                         return failed;
                     })
        .def_prop_ro("next_seq", [](FtlCore &self) {
            uint64_t seq = 0;
            on_reactor(self, [&] { seq = self.state().next_seq; });
            return seq;
        });
}

}  // namespace ftl
