// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bind/band_rows.hpp"
#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "bind/placement_of.hpp"
#include "sim/sim_core.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

template <typename T>
using Given = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
std::span<const T> span_of(const std::optional<Given<T>> &given) {
    return given ? std::span<const T>(given->data(), given->shape(0)) : std::span<const T>();
}

std::pair<size_t, SimStop> run(SimCore &core, const Given<uint64_t> &lbas, const std::optional<Given<uint32_t>> &blocks,
                               const std::optional<Given<uint8_t>> &ops, std::optional<uint64_t> media_blocks) {
    const std::span all(lbas.data(), lbas.shape(0));
    const std::span<const uint32_t> lengths = span_of(blocks);
    const std::span<const uint8_t> kinds = span_of(ops);
    size_t done = 0;
    const nb::gil_scoped_release other_threads_run;
    const SimStop stop = core.run(kinds, all, lengths, media_blocks.value_or(SimCore::kNoLimit), done);
    return {done, stop};
}

Array8 changed_bands(SimCore &core, size_t most) {
    most = std::min(most, core.band_count());
    std::unique_ptr<BandRow[]> rows(new BandRow[most]);
    const size_t count = core.take_changed(std::span(rows.get(), most));
    return row_bytes(std::move(rows), count);
}

Array8 band_rows(SimCore &core, uint32_t first, uint32_t count) {
    if (first > core.band_count() || count > core.band_count() - first) {
        throw std::invalid_argument("band_rows: beyond the last band");
    }
    std::unique_ptr<BandRow[]> rows(new BandRow[count]);
    for (uint32_t i = 0; i < count; ++i) {
        rows[i] = core.row(first + i);
    }
    return row_bytes(std::move(rows), count);
}

Array<uint64_t> copied(const std::vector<uint64_t> &values) {
    auto *data = new uint64_t[values.size()];
    std::copy(values.begin(), values.end(), data);
    const nb::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<uint64_t *>(memory); });
    return Array<uint64_t>(data, {values.size()}, owner);
}

void set_placement(SimCore &core, uint32_t classes, uint32_t user_classes, const GivenAges &user, uint32_t unwritten,
                   const std::vector<GivenAges> &relocated, const std::optional<GivenRegions> &regions,
                   uint64_t region_blocks) {
    core.set_placement(placement_of(classes, user_classes, user, unwritten, relocated, regions, region_blocks));
}

std::vector<std::pair<EventKind, uint32_t>> take_events(SimCore &core) {
    std::vector<std::pair<EventKind, uint32_t>> events;
    for (const SimEvent &event : core.take_events()) {
        events.emplace_back(event.kind, event.number);
    }
    return events;
}

[[noreturn]] void raise_blocking(const char *what) {
    PyErr_SetString(PyExc_BlockingIOError, what);
    throw nb::python_error();
}

}  // namespace

void bind_sim(nb::module_ &m) {
    nb::enum_<SimStop>(m, "SimStop", nb::is_arithmetic())
        .value("DONE", SimStop::done)
        .value("DECISION", SimStop::decision)
        .value("TIMER", SimStop::timer)
        .value("BLOCKED", SimStop::blocked);
    Fields<SimStats>(m, "SimStats")
        .field("user_written_blocks", &SimStats::user_written_blocks)
        .field("user_trimmed_blocks", &SimStats::user_trimmed_blocks)
        .field("media_written_blocks", &SimStats::media_written_blocks)
        .field("reloc_moved_blocks", &SimStats::reloc_moved_blocks)
        .field("zone_resets", &SimStats::zone_resets)
        .field("write_buffer_used", &SimStats::write_buffer_used)
        .field("busy_answers", &SimStats::busy_answers)
        .field("mapped_blocks", &SimStats::mapped_blocks)
        .field("scanned_blocks", &SimStats::scanned_blocks)
        .field("next_seq", &SimStats::next_seq)
        .field("stall_blocks_max", &SimStats::stall_blocks_max)
        .field("stalls", &SimStats::stalls)
        .end();
    nb::class_<SimCore>(m, "SimCore")
        .def(
            "__init__",
            [](SimCore *self, uint64_t block_count, uint32_t band_count, uint32_t band_blocks,
               uint32_t max_active_relocs, uint32_t band_threshold, bool shared_stream, uint32_t reaction_blocks) {
                new (self) SimCore(SimConfig{block_count, band_count, band_blocks, max_active_relocs, band_threshold,
                                             shared_stream, reaction_blocks});
            },
            nb::kw_only(), nb::arg("block_count"), nb::arg("band_count"), nb::arg("band_blocks"),
            nb::arg("max_active_relocs") = SimConfig{}.max_active_relocs,
            nb::arg("band_threshold") = SimConfig{}.band_threshold, nb::arg("shared_stream") = false,
            nb::arg("reaction_blocks") = 0)
        .def("run", &run, nb::arg("lbas"), nb::arg("blocks") = nb::none(), nb::arg("ops") = nb::none(), nb::kw_only(),
             nb::arg("media_blocks") = nb::none())
        .def("take_events", &take_events)
        .def(
            "open_band",
            [](SimCore &core, uint32_t stream, uint32_t band, uint64_t band_seq) {
                if (!core.open_band(stream, band, band_seq)) {
                    raise_blocking("open_band: a band is already queued for this stream");
                }
            },
            nb::arg("stream"), nb::arg("band"), nb::arg("band_seq"))
        .def(
            "take_queued",
            [](SimCore &core, uint32_t stream) {
                const uint32_t band = core.take_queued(stream);
                return band == kNoBand ? std::nullopt : std::optional<uint32_t>{band};
            },
            nb::arg("stream"))
        .def(
            "close_zone", [](SimCore &core, uint32_t band, uint32_t) { return core.close_band(band); }, nb::arg("band"),
            nb::arg("punit"))
        .def(
            "start_move",
            [](SimCore &core, uint32_t band) {
                if (!core.start_move(band)) {
                    raise_blocking("start_move: max_active_relocs bands are already being moved");
                }
            },
            nb::arg("band"))
        .def("reset_bands", &SimCore::reset_bands, nb::arg("bands"))
        .def(
            "set_pace",
            [](SimCore &core, uint32_t user_percent, std::optional<uint32_t> reloc_per_thousand) {
                core.set_pace(user_percent, reloc_per_thousand.value_or(Throttle::kUnpaced));
            },
            nb::arg("user_percent"), nb::arg("reloc_per_thousand").none() = nb::none())
        .def("set_placement", &set_placement, nb::kw_only(), nb::arg("classes"), nb::arg("user_classes"),
             nb::arg("user"), nb::arg("unwritten"), nb::arg("relocated"), nb::arg("regions").none() = nb::none(),
             nb::arg("region_blocks") = 1)
        .def("asking", &SimCore::asking)
        .def("changed_bands", &changed_bands, nb::arg("most"))
        .def("band_rows", &band_rows, nb::arg("first"), nb::arg("count"))
        .def_prop_ro("band_changes", &SimCore::changes)
        .def("stats", &SimCore::stats)
        .def("forget_stalls", &SimCore::forget_stalls)
        .def("data_seqs", [](SimCore &core) { return copied(core.data_seqs()); })
        .def("opened_seqs", [](SimCore &core) { return copied(core.opened_seqs()); })
        .def_prop_ro("next_seq", &SimCore::next_seq)
        .def_prop_ro("media_written_blocks", &SimCore::media_written_blocks)
        .def_prop_ro("memory_bytes", &SimCore::memory_bytes);
}

}  // namespace ftl
