// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "bind/bindings.hpp"
#include "generated/generated_zones.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using GivenLbas = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NumberArray = nb::ndarray<nb::numpy, uint64_t, nb::ndim<1>>;

std::shared_ptr<GeneratedZones> make_generated(const nb::bytes &uuid, uint64_t zone_size, uint64_t zone_capacity,
                                               uint32_t band_count, uint32_t punits, uint64_t block_count,
                                               uint32_t full_bands, uint32_t batches_begun, uint32_t batch_blocks,
                                               uint64_t seed) {
    GeneratedConfig config;
    if (uuid.size() != config.uuid.size()) {
        throw std::invalid_argument("uuid must have 16 bytes");
    }
    std::memcpy(config.uuid.data(), uuid.c_str(), config.uuid.size());
    config.zone_size = zone_size;
    config.zone_capacity = zone_capacity;
    config.band_count = band_count;
    config.punits = punits;
    config.block_count = block_count;
    config.full_bands = full_bands;
    config.batches_begun = batches_begun;
    config.batch_blocks = batch_blocks;
    config.seed = seed;
    return std::make_shared<GeneratedZones>(config);
}

NumberArray array_of(std::unique_ptr<uint64_t[]> values, size_t count) {
    uint64_t *data = values.release();
    const nb::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<uint64_t *>(memory); });
    return NumberArray(data, {count}, owner);
}

std::pair<NumberArray, NumberArray> newest_of(const GeneratedZones &zones, const GivenLbas &lbas) {
    const size_t count = lbas.shape(0);
    auto seqs = std::make_unique<uint64_t[]>(count);
    auto addresses = std::make_unique<uint64_t[]>(count);
    for (size_t i = 0; i < count; ++i) {
        const uint64_t lba = lbas.data()[i];
        if (lba >= zones.config().block_count) {
            throw std::invalid_argument("newest: there is no LBA " + std::to_string(lba));
        }
        const GeneratedZones::Version version = zones.newest(lba);
        seqs[i] = version.seq;
        addresses[i] = version.address;
    }
    return {array_of(std::move(seqs), count), array_of(std::move(addresses), count)};
}

NumberArray band_seqs_of(const GeneratedZones &zones) {
    const size_t count = zones.config().band_count;
    auto seqs = std::make_unique<uint64_t[]>(count);
    for (size_t band = 0; band < count; ++band) {
        seqs[band] = zones.band_seq(static_cast<uint32_t>(band));
    }
    return array_of(std::move(seqs), count);
}

nb::bytes data_of(const GeneratedZones &zones, uint64_t lba, uint64_t seq) {
    char block[kBlockSize];
    zones.data(lba, seq, block);
    return nb::bytes(block, sizeof block);
}

}  // namespace

void bind_generated(nb::module_ &m) {
    nb::class_<GeneratedZones>(m, "GeneratedZones")
        .def(nb::new_(&make_generated), nb::arg("uuid"), nb::kw_only(), nb::arg("zone_size"), nb::arg("zone_capacity"),
             nb::arg("band_count"), nb::arg("punits"), nb::arg("block_count"), nb::arg("full_bands"),
             nb::arg("batches_begun") = 0, nb::arg("batch_blocks") = GeneratedConfig{}.batch_blocks,
             nb::arg("seed") = GeneratedConfig{}.seed)
        .def("newest", &newest_of, nb::arg("lbas"))
        .def("band_seqs", &band_seqs_of)
        .def("data", &data_of, nb::arg("lba"), nb::arg("seq"))
        .def_prop_ro("slots", &GeneratedZones::slots)
        .def_prop_ro("cpu_ns", &GeneratedZones::cpu_ns)
        .def_prop_ro("blocks_made", &GeneratedZones::blocks_made);
}

}  // namespace ftl
