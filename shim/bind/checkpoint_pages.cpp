// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/checkpoint_pages.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "bind/bindings.hpp"
#include "bind/on_reactor.hpp"
#include "ftl/core.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using Blocks = nb::ndarray<nb::numpy, uint8_t, nb::shape<-1, kBlockSize>>;
using WritableBlocks = nb::ndarray<uint8_t, nb::shape<-1, kBlockSize>, nb::c_contig, nb::device::cpu>;
using GivenBlocks = nb::ndarray<const uint8_t, nb::shape<-1, kBlockSize>, nb::c_contig, nb::device::cpu>;

static_assert(alignof(CheckpointBlock) == 1);

PagesOf pages_of(const nb::bytes &uuid, uint64_t generation, bool wide) {
    PagesOf of;
    if (uuid.size() != of.uuid.size()) {
        throw std::invalid_argument("a uuid has 16 bytes");
    }
    std::memcpy(of.uuid.data(), uuid.c_str(), of.uuid.size());
    of.generation = generation;
    of.wide = wide;
    return of;
}

// A part of the core's L2P as pages; with its CRCs if it keeps them.
Blocks checkpoint_pages(FtlCore &core, uint64_t first_lba, uint64_t count, uint64_t media_end, const nb::bytes &uuid,
                        uint64_t generation, bool wide) {
    const uint64_t block_count = core.info().block_count;
    if (first_lba > block_count || count > block_count - first_lba) {
        throw std::invalid_argument("checkpoint_pages: beyond the last LBA");
    }
    if (first_lba % entries_in(Section::crcs) != 0) {
        throw std::invalid_argument("checkpoint_pages: no page begins with the first LBA");
    }
    const PagesOf of = pages_of(uuid, generation, wide);
    const BlockCrcs &all_crcs = core.state().crcs;
    std::vector<uint64_t> entries(count);
    std::vector<uint16_t> crcs(all_crcs.kept() ? count : 0);
    on_reactor(core, [&] {
        for (uint64_t i = 0; i < count; ++i) {
            entries[i] = core.l2p(first_lba + i);
        }
        for (uint64_t i = 0; i < crcs.size(); ++i) {
            crcs[i] = all_crcs.peek(first_lba + i);
        }
        core.check_pages();
    });
    std::unique_ptr<uint8_t[]> data;
    size_t pages = 0;
    {
        const nb::gil_scoped_release other_threads_run;
        const std::vector<CheckpointBlock> made = make_pages(of, first_lba, entries, crcs, media_end);
        pages = made.size();
        data.reset(new uint8_t[pages * kBlockSize]);
        if (pages > 0) {
            std::memcpy(data.get(), made.data(), pages * kBlockSize);
        }
    }
    uint8_t *bytes = data.release();
    const nb::capsule owner(bytes, [](void *memory) noexcept { delete[] static_cast<uint8_t *>(memory); });
    return Blocks(bytes, {pages, kBlockSize}, owner);
}

void seal(const WritableBlocks &blocks, uint64_t address, uint32_t index) {
    seal_pages({reinterpret_cast<CheckpointBlock *>(blocks.data()), blocks.shape(0)}, address, index);
}

bool take(RestoredL2p &l2p, const GivenBlocks &blocks, const nb::bytes &uuid, uint64_t generation, bool wide,
          uint64_t address, uint32_t index, uint64_t zone_size,
          const nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu> &zones,
          const nb::ndarray<bool, nb::ndim<1>, nb::c_contig, nb::device::cpu> &has_crcs) {
    if (zone_size == 0) {
        throw std::invalid_argument("take_pages: zones without blocks");
    }
    const PagesOf of = pages_of(uuid, generation, wide);
    const PagesAt at{address, index, zone_size, {zones.data(), zones.shape(0)}};
    const nb::gil_scoped_release other_threads_run;
    const std::unique_lock<std::mutex> alone = l2p.lock();
    const bool whole =
        take_pages(l2p, of, at, {reinterpret_cast<const CheckpointBlock *>(blocks.data()), blocks.shape(0)},
                   {has_crcs.data(), has_crcs.shape(0)});
    l2p.check_pages();
    return whole;
}

}  // namespace

void bind_checkpoint_pages(nb::module_ &m) {
    m.def("checkpoint_pages", &checkpoint_pages, nb::arg("core"), nb::arg("first_lba"), nb::arg("count"), nb::kw_only(),
          nb::arg("media_end"), nb::arg("uuid"), nb::arg("generation"), nb::arg("wide"));
    m.def("seal_pages", &seal, nb::arg("blocks"), nb::arg("address"), nb::arg("index"));
    m.def("take_pages", &take, nb::arg("l2p"), nb::arg("blocks"), nb::kw_only(), nb::arg("uuid"), nb::arg("generation"),
          nb::arg("wide"), nb::arg("address"), nb::arg("index"), nb::arg("zone_size"), nb::arg("zones"),
          nb::arg("has_crcs"));
}

}  // namespace ftl
