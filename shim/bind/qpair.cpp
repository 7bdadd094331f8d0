// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <span>
#include <stdexcept>
#include <utility>

#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "bind/qpair_methods.hpp"
#include "nvme/host_qpair.hpp"
#include "nvme/target_qpair.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using PyTargetQpair = ClosedByPython<TargetQpair>;

void bind_host(nb::module_ &m) {
    const nb::call_guard<nb::gil_scoped_release> unlocked;
    nb::class_<HostQpair, BlockDevice>(m, "HostQpair")
        .def(nb::new_([](std::shared_ptr<Reactor> reactor, int fd, uint32_t queue_depth, uint32_t nsid,
                         bool header_digest, bool data_digest, uint32_t max_h2c_data, uint32_t in_capsule_bytes,
                         uint64_t block_count, uint32_t block_bytes, uint32_t metadata_bytes, uint32_t max_io_bytes,
                         uint32_t max_append_bytes, bool volatile_cache, bool zoned, uint64_t zone_size,
                         uint64_t zone_capacity, uint32_t max_open_zones, uint32_t max_active_zones,
                         uint32_t io_timeout_ms, std::shared_ptr<TlsSession> tls) {
                 HostQpairConfig config;
                 config.queue_depth = queue_depth;
                 config.nsid = nsid;
                 config.header_digest = header_digest;
                 config.data_digest = data_digest;
                 config.max_h2c_data = max_h2c_data;
                 config.in_capsule_bytes = in_capsule_bytes;
                 config.max_io_bytes = max_io_bytes;
                 config.max_append_bytes = max_append_bytes;
                 config.io_timeout_ns = uint64_t{io_timeout_ms} * 1'000'000;
                 config.tls = std::move(tls);
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
                 const nb::gil_scoped_release released;
                 return std::make_shared<HostQpair>(std::move(reactor), fd, config, info);
             }),
             nb::arg("reactor"), nb::arg("fd"), nb::kw_only(), nb::arg("queue_depth"), nb::arg("nsid"),
             nb::arg("header_digest"), nb::arg("data_digest"), nb::arg("max_h2c_data"), nb::arg("in_capsule_bytes"),
             nb::arg("block_count"), nb::arg("block_bytes") = kBlockSize, nb::arg("metadata_bytes") = 0,
             nb::arg("max_io_bytes"), nb::arg("max_append_bytes") = 0, nb::arg("volatile_cache"),
             nb::arg("zoned") = false, nb::arg("zone_size") = 0, nb::arg("zone_capacity") = 0,
             nb::arg("max_open_zones") = 0, nb::arg("max_active_zones") = 0, nb::arg("io_timeout_ms") = 0,
             nb::arg("tls") = nb::none())
        .def_prop_ro("id", &HostQpair::id)
        .def_prop_ro("connected", &HostQpair::connected)
        .def("close", &HostQpair::close, unlocked);
}

void bind_target(nb::module_ &m) {
    Fields<TargetQpairStats>(m, "TargetQpairStats")
        .field("commands", &TargetQpairStats::commands)
        .field("read_blocks", &TargetQpairStats::read_blocks)
        .field("write_blocks", &TargetQpairStats::write_blocks)
        .field("errors", &TargetQpairStats::errors)
        .field("bytes_in", &TargetQpairStats::bytes_in)
        .field("bytes_out", &TargetQpairStats::bytes_out)
        .end();
    nb::class_<FlushAlarm>(m, "FlushAlarm").def(nb::init<>()).def_prop_ro("armed", &FlushAlarm::armed);
    nb::class_<QueuedCommand>(m, "QueuedCommand")
        .def_ro("token", &QueuedCommand::token)
        .def_ro("nsid", &QueuedCommand::nsid)
        .def_ro("opcode", &QueuedCommand::opcode)
        .def_ro("cdw10", &QueuedCommand::cdw10)
        .def_ro("cdw11", &QueuedCommand::cdw11)
        .def_ro("length", &QueuedCommand::length)
        .def_prop_ro("data", [](const QueuedCommand &self) { return nb::bytes(self.data.data(), self.data.size()); });
    nb::class_<PyTargetQpair> bound(m, "TargetQpair");
    bind_qpair_methods(bound);
    bound
        .def(
            "__init__",
            [](PyTargetQpair *self, std::shared_ptr<Reactor> reactor, int fd, uint32_t queue_size, bool header_digest,
               bool data_digest, TargetQpair::Namespaces namespaces, uint32_t max_io_bytes, uint32_t in_capsule_bytes,
               uint32_t max_h2c_data, uint32_t sqhd, bool flow_control, bool success_flag,
               std::shared_ptr<FlushAlarm> flush_alarm, std::shared_ptr<TlsSession> tls, bool reservations,
               const BarPairs &bars) {
                TargetQpairConfig config;
                config.queue_size = queue_size;
                config.header_digest = header_digest;
                config.data_digest = data_digest;
                config.max_io_bytes = max_io_bytes;
                config.in_capsule_bytes = in_capsule_bytes;
                config.max_h2c_data = max_h2c_data;
                config.sqhd = static_cast<uint16_t>(sqhd);
                config.flow_control = flow_control;
                config.success_flag = success_flag;
                config.flush_alarm = std::move(flush_alarm);
                config.tls = std::move(tls);
                config.reservations = reservations;
                const nb::gil_scoped_release released;
                new (self)
                    PyTargetQpair(std::in_place, std::move(reactor), fd, config, std::move(namespaces), bars_of(bars));
            },
            nb::arg("reactor"), nb::arg("fd"), nb::kw_only(), nb::arg("queue_size"), nb::arg("header_digest"),
            nb::arg("data_digest"), nb::arg("namespaces"), nb::arg("max_io_bytes") = 131072,
            nb::arg("in_capsule_bytes") = 8192, nb::arg("max_h2c_data") = 131072, nb::arg("sqhd") = 1,
            nb::arg("flow_control") = true, nb::arg("success_flag") = true, nb::arg("flush_alarm") = nb::none(),
            nb::arg("tls") = nb::none(), nb::arg("reservations") = false, nb::arg("bars") = BarPairs())
        .def("take_command",
             [](PyTargetQpair &self) {
                 const nb::gil_scoped_release released;
                 return self->take_command();
             })
        .def(
            "complete_command",
            [](PyTargetQpair &self, uint64_t token, Status status, const nb::bytes &data) {
                const std::span bytes(static_cast<const uint8_t *>(data.data()), data.size());
                const nb::gil_scoped_release released;
                return self->complete_command(token, status, bytes);
            },
            nb::arg("token"), nb::arg("status"), nb::arg("data") = nb::bytes("", 0));
}

}  // namespace

void bind_qpair(nb::module_ &m) {
    bind_host(m);
    bind_target(m);
}

}  // namespace ftl
