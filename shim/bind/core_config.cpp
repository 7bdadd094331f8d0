// SPDX-License-Identifier: BSD-3-Clause
// Configuration of an FtlCore and of its nv cache.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bind/bindings.hpp"
#include "ftl/core_state.hpp"
#include "ftl/nv_cache.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using BandArray = nb::ndarray<const uint64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using GivenBands = std::variant<BandArray, std::vector<std::vector<uint64_t>>>;

void take_bands(CoreConfig &config, const GivenBands &given) {
    if (const auto *array = std::get_if<BandArray>(&given)) {
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

std::array<uint8_t, 16> id_of(const nb::bytes &bytes, const char *name) {
    std::array<uint8_t, 16> id{};
    if (bytes.size() != id.size()) {
        throw std::invalid_argument(std::string(name) + " must be 16 bytes");
    }
    std::memcpy(id.data(), bytes.data(), id.size());
    return id;
}

void make_core_config(CoreConfig *self, const nb::bytes &uuid, uint64_t block_count, const GivenBands &bands,
                      uint64_t zone_size, uint64_t zone_capacity, uint32_t batch_blocks, bool use_append,
                      bool shared_stream, uint8_t classes_max, bool finish_zones, uint32_t write_buffer_blocks,
                      std::optional<std::string> write_buffer_path, uint32_t reloc_buffer_blocks,
                      uint32_t max_reloc_qdepth, uint32_t max_active_relocs, uint32_t band_threshold, uint64_t next_seq,
                      bool verify_reads, bool no_data, const std::optional<nb::bytes> &media_uuid, uint32_t trim_chunk,
                      uint32_t trim_step, std::optional<std::string> page_folder, uint64_t page_memory,
                      uint32_t page_bytes, bool page_threads, bool flush_zone_starts) {
    CoreConfig config;
    config.uuid = id_of(uuid, "uuid");
    config.media_uuid = media_uuid ? id_of(*media_uuid, "media_uuid") : config.uuid;
    config.block_count = block_count;
    take_bands(config, bands);
    config.zone_size = zone_size;
    config.zone_capacity = zone_capacity;
    config.batch_blocks = batch_blocks;
    config.use_append = use_append;
    config.shared_stream = shared_stream;
    config.classes_max = classes_max;
    config.finish_zones = finish_zones;
    config.flush_zone_starts = flush_zone_starts;
    config.write_buffer_blocks = write_buffer_blocks;
    config.write_buffer_path = std::move(write_buffer_path);
    config.reloc_buffer_blocks = reloc_buffer_blocks;
    config.max_reloc_qdepth = max_reloc_qdepth;
    config.max_active_relocs = max_active_relocs;
    config.band_threshold = band_threshold;
    config.next_seq = next_seq;
    config.verify_reads = verify_reads && !no_data;
    config.no_data = no_data;
    config.trim_chunk = trim_chunk;
    config.trim_step = trim_step;
    config.paging = Paging{std::move(page_folder).value_or(""), page_memory, 0, page_bytes, page_threads};
    new (self) CoreConfig(std::move(config));
}

void make_cache_config(NvCacheConfig *self, const nb::bytes &id, uint64_t generation, uint64_t lap, uint64_t position,
                       uint32_t request_blocks, uint32_t request_count) {
    new (self) NvCacheConfig{id_of(id, "id"), generation, lap, position, request_blocks, request_count};
}

}  // namespace

void bind_core_config(nb::module_ &m) {
    const CoreConfig usual;
    nb::class_<CoreConfig>(m, "CoreConfig")
        .def("__init__", &make_core_config, nb::kw_only(), nb::arg("uuid"), nb::arg("block_count"), nb::arg("bands"),
             nb::arg("zone_size"), nb::arg("zone_capacity"), nb::arg("batch_blocks") = usual.batch_blocks,
             nb::arg("use_append") = usual.use_append, nb::arg("shared_stream") = usual.shared_stream,
             nb::arg("classes_max") = usual.classes_max, nb::arg("finish_zones") = usual.finish_zones,
             nb::arg("write_buffer_blocks") = usual.write_buffer_blocks, nb::arg("write_buffer_path") = nb::none(),
             nb::arg("reloc_buffer_blocks") = usual.reloc_buffer_blocks,
             nb::arg("max_reloc_qdepth") = usual.max_reloc_qdepth,
             nb::arg("max_active_relocs") = usual.max_active_relocs, nb::arg("band_threshold") = usual.band_threshold,
             nb::arg("next_seq") = usual.next_seq, nb::arg("verify_reads") = usual.verify_reads,
             nb::arg("no_data") = usual.no_data, nb::arg("media_uuid") = nb::none(),
             nb::arg("trim_chunk") = usual.trim_chunk, nb::arg("trim_step") = usual.trim_step,
             nb::arg("page_folder") = nb::none(), nb::arg("page_memory") = 0, nb::arg("page_bytes") = 4096,
             nb::arg("page_threads") = true, nb::arg("flush_zone_starts") = usual.flush_zone_starts)
        .def_ro("block_count", &CoreConfig::block_count)
        .def_ro("punits", &CoreConfig::punits)
        .def_ro("zone_size", &CoreConfig::zone_size)
        .def_ro("zone_capacity", &CoreConfig::zone_capacity)
        .def_ro("batch_blocks", &CoreConfig::batch_blocks)
        .def_ro("use_append", &CoreConfig::use_append)
        .def_ro("shared_stream", &CoreConfig::shared_stream)
        .def_ro("classes_max", &CoreConfig::classes_max)
        .def_ro("finish_zones", &CoreConfig::finish_zones)
        .def_ro("flush_zone_starts", &CoreConfig::flush_zone_starts)
        .def_ro("write_buffer_blocks", &CoreConfig::write_buffer_blocks)
        .def_ro("write_buffer_path", &CoreConfig::write_buffer_path)
        .def_ro("reloc_buffer_blocks", &CoreConfig::reloc_buffer_blocks)
        .def_ro("max_reloc_qdepth", &CoreConfig::max_reloc_qdepth)
        .def_ro("max_active_relocs", &CoreConfig::max_active_relocs)
        .def_ro("band_threshold", &CoreConfig::band_threshold)
        .def_ro("next_seq", &CoreConfig::next_seq)
        .def_ro("verify_reads", &CoreConfig::verify_reads)
        .def_ro("no_data", &CoreConfig::no_data)
        .def_ro("trim_chunk", &CoreConfig::trim_chunk)
        .def_ro("trim_step", &CoreConfig::trim_step);

    const NvCacheConfig usual_cache;
    nb::class_<NvCacheConfig>(m, "NvCacheConfig")
        .def("__init__", &make_cache_config, nb::kw_only(), nb::arg("id"), nb::arg("generation"), nb::arg("lap"),
             nb::arg("position") = usual_cache.position, nb::arg("request_blocks") = usual_cache.request_blocks,
             nb::arg("request_count") = usual_cache.request_count)
        .def_ro("generation", &NvCacheConfig::generation)
        .def_ro("lap", &NvCacheConfig::lap)
        .def_ro("position", &NvCacheConfig::position)
        .def_ro("request_blocks", &NvCacheConfig::request_blocks)
        .def_ro("request_count", &NvCacheConfig::request_count);
}

}  // namespace ftl
