// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "base/page_memory.hpp"
#include "base/shared_memory.hpp"
#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "bind/make_device.hpp"
#include "vfio_user/host_queue.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

uint32_t within(const SharedQueueMemory &memory, uint32_t slot) {
    if (slot >= memory.depth()) {
        throw std::out_of_range("the queue has no such slot");
    }
    return slot;
}

void bind_shared_memory(nb::module_ &m) {
    nb::class_<SharedRange>(m, "SharedRange")
        .def_ro("fd", &SharedRange::fd)
        .def_ro("offset", &SharedRange::offset)
        .def_ro("bytes", &SharedRange::bytes)
        .def_prop_ro("receives", [](const SharedRange &self) { return self.sharing == Sharing::receives; })
        .def_prop_ro("gone", [](const SharedRange &self) { return self.gone.load(); });
    nb::class_<PageMemory>(m, "SharedPages")
        .def(nb::new_([](uint64_t bytes, bool receives) {
                 return std::make_unique<PageMemory>(
                     PageMemory::shared(bytes, receives ? Sharing::receives : Sharing::sends));
             }),
             nb::arg("bytes"), nb::arg("receives"))
        .def_prop_ro(
            "array",
            [](PageMemory &self) {
                const size_t shape[1] = {static_cast<size_t>(self.bytes())};
                return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(self.data(), 1, shape, nb::handle());
            },
            nb::rv_policy::reference_internal);
    nb::class_<MappedRanges>(m, "MappedRanges")
        .def(nb::init<>())
        .def("add", &MappedRanges::add, nb::arg("range"), nb::arg("iova"))
        .def_prop_ro("full", &MappedRanges::full);
    nb::class_<SharedQueueMemory>(m, "SharedQueueMemory")
        .def(nb::init<uint32_t, uint32_t>(), nb::arg("queue_depth"), nb::arg("max_io_bytes"))
        .def_prop_ro("fd", &SharedQueueMemory::fd)
        .def_prop_ro("bytes", &SharedQueueMemory::bytes)
        .def_prop_ro("entries", &SharedQueueMemory::entries)
        .def_prop_ro("sq_offset", &SharedQueueMemory::sq_offset)
        .def_prop_ro("cq_offset", &SharedQueueMemory::cq_offset)
        .def("buffer_offset",
             [](const SharedQueueMemory &self, uint32_t slot) { return self.buffer_offset(within(self, slot)); });
    nb::class_<Doorbells>(m, "Doorbells")
        .def(nb::init<int, uint64_t, uint64_t>(), nb::arg("fd"), nb::arg("offset"), nb::arg("bytes"))
        .def_prop_ro("bytes", &Doorbells::bytes)
        .def_prop_ro("broken", &Doorbells::broken)
        .def(
            "ring",
            [](const Doorbells &self, uint64_t at, uint32_t value) {
                if (at % 4 != 0 || at >= self.bytes()) {
                    throw std::out_of_range("there is no such doorbell");
                }
                self.ring(at, value);
            },
            nb::arg("at"), nb::arg("value"));
}

}  // namespace

void bind_shared_host(nb::module_ &m) {
    bind_shared_memory(m);
    const nb::call_guard<nb::gil_scoped_release> unlocked;
    Fields<SharedHostQpairStats>(m, "SharedHostQpairStats")
        .field("commands", &SharedHostQpairStats::commands)
        .field("direct_bytes", &SharedHostQpairStats::direct_bytes)
        .field("bounced_bytes", &SharedHostQpairStats::bounced_bytes)
        .end();
    nb::class_<SharedHostQpair, BlockDevice>(m, "SharedHostQpair")
        .def(nb::new_([](std::shared_ptr<Reactor> reactor, std::shared_ptr<SharedQueueMemory> memory,
                         std::shared_ptr<MappedRanges> ranges, std::shared_ptr<Doorbells> doorbells, uint32_t nsid,
                         uint64_t memory_iova, uint64_t sq_doorbell, uint64_t cq_doorbell, uint32_t used_entries,
                         uint64_t block_count, uint32_t block_bytes, uint32_t metadata_bytes, uint32_t max_append_bytes,
                         bool volatile_cache, bool zoned, uint64_t zone_size, uint64_t zone_capacity,
                         uint32_t max_open_zones, uint32_t max_active_zones, uint32_t io_timeout_ms) {
                 SharedHostQpairConfig config;
                 config.nsid = nsid;
                 config.memory_iova = memory_iova;
                 config.sq_doorbell = sq_doorbell;
                 config.cq_doorbell = cq_doorbell;
                 config.used_entries = used_entries;
                 config.max_append_bytes = max_append_bytes;
                 config.io_timeout_ns = uint64_t{io_timeout_ms} * 1'000'000;
                 BlockDeviceInfo info;
                 info.block_count = block_count;
                 info.block_bytes = block_bytes + metadata_bytes;
                 info.metadata_bytes = metadata_bytes;
                 info.volatile_cache = volatile_cache;
                 info.zoned = zoned;
                 info.zone_size = zone_size;
                 info.zone_capacity = zone_capacity;
                 info.max_open_zones = max_open_zones;
                 info.max_active_zones = max_active_zones;
                 return make_device<SharedHostQpair>(std::move(reactor), std::move(memory), std::move(ranges),
                                                     std::move(doorbells), config, info);
             }),
             nb::arg("reactor"), nb::arg("memory"), nb::arg("ranges"), nb::arg("doorbells"), nb::kw_only(),
             nb::arg("nsid"), nb::arg("memory_iova"), nb::arg("sq_doorbell"), nb::arg("cq_doorbell"),
             nb::arg("used_entries") = 0, nb::arg("block_count"), nb::arg("block_bytes") = kBlockSize,
             nb::arg("metadata_bytes") = 0, nb::arg("max_append_bytes") = 0, nb::arg("volatile_cache"),
             nb::arg("zoned") = false, nb::arg("zone_size") = 0, nb::arg("zone_capacity") = 0,
             nb::arg("max_open_zones") = 0, nb::arg("max_active_zones") = 0, nb::arg("io_timeout_ms") = 0)
        .def_prop_ro("id", &SharedHostQpair::id)
        .def_prop_ro("connected", &SharedHostQpair::connected)
        .def("take_wanted",
             [](SharedHostQpair &self) {
                 const void *wanted = nullptr;
                 {
                     const nb::gil_scoped_release released;
                     wanted = self.take_wanted();
                 }
                 return wanted == nullptr ? nullptr : shared_memory::find(wanted);
             })
        .def_prop_ro("stats", [](const SharedHostQpair &self) { return SharedHostQpairStats(self.stats()); })
        .def("close", &SharedHostQpair::close, unlocked);
}

}  // namespace ftl
