// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "bind/bindings.hpp"
#include "bind/os_errors.hpp"
#include "bind/qpair_methods.hpp"
#include "vfio_user/dma_map.hpp"
#include "vfio_user/shared_admin_queue.hpp"
#include "vfio_user/shared_target_qpair.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using PySharedTargetQpair = ClosedByPython<SharedTargetQpair>;
using PySharedAdminQueue = ClosedByPython<SharedAdminQueue>;

void bind_memory(nb::module_ &m) {
    const nb::call_guard<nb::gil_scoped_release> unlocked;
    nb::class_<DmaMap>(m, "DmaMap")
        .def(nb::new_([] { return std::make_shared<DmaMap>(); }))
        .def(
            "map",
            [](DmaMap &self, uint64_t iova, uint64_t size, int fd, uint64_t offset, bool writable) {
                with_os_errors([&] { self.map(iova, size, fd, offset, writable); });
            },
            nb::arg("iova"), nb::arg("size"), nb::arg("fd"), nb::arg("offset"), nb::arg("writable"))
        .def("unmap", &DmaMap::unmap, nb::arg("iova"), nb::arg("size"), unlocked)
        .def("clear", &DmaMap::clear, unlocked)
        .def_prop_ro("region_count", &DmaMap::region_count, unlocked)
        .def_prop_ro("lingering_count", &DmaMap::lingering_count, unlocked)
        .def_prop_ro("broken", &DmaMap::broken);
    m.attr("DMA_REGIONS_MAX") = DmaMap::kRegionsMax;
}

void bind_shared_target(nb::module_ &m) {
    nb::class_<SharedQpairConfig>(m, "SharedQpairConfig")
        .def(
            "__init__",
            [](SharedQpairConfig *self, uint32_t qid, uint64_t sq_iova, uint64_t cq_iova, uint32_t sq_entries,
               uint32_t cq_entries, uint32_t max_io_bytes, std::shared_ptr<FlushAlarm> flush_alarm) {
                new (self) SharedQpairConfig{
                    {qid, sq_iova, cq_iova, sq_entries, cq_entries}, max_io_bytes, std::move(flush_alarm)};
            },
            nb::kw_only(), nb::arg("qid"), nb::arg("sq_iova"), nb::arg("cq_iova"), nb::arg("sq_entries"),
            nb::arg("cq_entries"), nb::arg("max_io_bytes") = 131072, nb::arg("flush_alarm") = nb::none());
    nb::class_<PySharedTargetQpair> bound(m, "SharedTargetQpair");
    bind_qpair_methods(bound);
    bound
        .def(
            "__init__",
            [](PySharedTargetQpair *self, std::shared_ptr<Reactor> reactor, std::shared_ptr<DmaMap> memory, int bar0_fd,
               int record_fd, const SharedQpairConfig &config, NamespaceTable::Devices namespaces,
               const BarPairs &bars) {
                with_os_errors([&] {
                    new (self) PySharedTargetQpair(std::in_place, std::move(reactor), std::move(memory), bar0_fd,
                                                   record_fd, config, std::move(namespaces), bars_of(bars));
                });
            },
            nb::arg("reactor"), nb::arg("memory"), nb::arg("bar0_fd"), nb::arg("record_fd"), nb::arg("config"),
            nb::arg("namespaces"), nb::arg("bars") = BarPairs())
        .def_static("record_bytes", &record_bytes, nb::arg("sq_entries"));
}

void bind_shared_admin(nb::module_ &m) {
    const nb::call_guard<nb::gil_scoped_release> unlocked;
    nb::class_<AdminCommand>(m, "AdminCommand")
        .def_ro("token", &AdminCommand::token)
        .def_prop_ro("sqe", [](const AdminCommand &self) { return nb::bytes(self.sqe.data(), self.sqe.size()); });
    nb::class_<PySharedAdminQueue>(m, "SharedAdminQueue")
        .def(
            "__init__",
            [](PySharedAdminQueue *self, std::shared_ptr<Reactor> reactor, std::shared_ptr<DmaMap> memory, int bar0_fd,
               int record_fd, uint64_t sq_iova, uint64_t cq_iova, uint32_t sq_entries, uint32_t cq_entries) {
                const SharedQueueConfig config{0, sq_iova, cq_iova, sq_entries, cq_entries};
                with_os_errors([&] {
                    new (self) PySharedAdminQueue(std::in_place, std::move(reactor), std::move(memory), bar0_fd,
                                                  record_fd, config);
                });
            },
            nb::arg("reactor"), nb::arg("memory"), nb::arg("bar0_fd"), nb::arg("record_fd"), nb::arg("sq_iova"),
            nb::arg("cq_iova"), nb::arg("sq_entries"), nb::arg("cq_entries"))
        .def_static("record_bytes", &record_bytes, nb::arg("sq_entries"))
        .def_prop_ro("id", [](const PySharedAdminQueue &self) { return self->id(); })
        .def("take",
             [](PySharedAdminQueue &self) {
                 const nb::gil_scoped_release released;
                 return self->take();
             })
        .def(
            "read_data",
            [](PySharedAdminQueue &self, uint64_t token, size_t length) -> std::optional<nb::bytes> {
                std::optional<std::string> data;
                {
                    const nb::gil_scoped_release released;
                    data = self->read_data(token, length);
                }
                return data ? std::optional(nb::bytes(data->data(), data->size())) : std::nullopt;
            },
            nb::arg("token"), nb::arg("length"))
        .def(
            "complete",
            [](PySharedAdminQueue &self, uint64_t token, Status status, uint64_t result, const nb::bytes &data) {
                const std::span bytes(static_cast<const uint8_t *>(data.data()), data.size());
                const nb::gil_scoped_release released;
                return self->complete(token, status, result, bytes);
            },
            nb::arg("token"), nb::arg("status"), nb::arg("result"), nb::arg("data") = nb::bytes("", 0))
        .def("close", [](PySharedAdminQueue &self) { self->close(); }, unlocked);
    m.attr("ADMIN_DATA_BYTES_MAX") = SharedAdminQueue::kDataBytesMax;
}

}  // namespace

void bind_vfio_user(nb::module_ &m) {
    bind_memory(m);
    bind_shared_target(m);
    bind_shared_admin(m);
}

}  // namespace ftl
