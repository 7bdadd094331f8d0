// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "bind/bindings.hpp"
#include "bind/make_device.hpp"
#include "generated/generated_zones.hpp"
#include "media/media.hpp"
#include "media/zoned_overlay.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr uint64_t kNsPerUs = 1000;

std::shared_ptr<EmulatedMedia> make_media(const std::shared_ptr<Reactor> &reactor, const MediaConfig &config) {
    try {
        return make_device<EmulatedMedia>(reactor, config);
    } catch (const std::system_error &error) {
        errno = error.code().value();
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.what());
        throw nb::python_error();
    }
}

std::shared_ptr<EmulatedMedia> conventional(const std::shared_ptr<Reactor> &reactor, uint64_t block_count,
                                            uint32_t block_bytes, uint32_t metadata_bytes,
                                            const std::optional<std::string> &path, bool volatile_cache,
                                            uint32_t max_io_blocks, uint64_t hidden_blocks) {
    MediaConfig config;
    config.block_count = block_count + hidden_blocks;
    config.hidden_blocks = hidden_blocks;
    config.data_bytes = block_bytes;
    config.metadata_bytes = metadata_bytes;
    config.path = path.value_or("");
    config.volatile_cache = volatile_cache;
    config.max_io_blocks = max_io_blocks;
    return make_media(reactor, config);
}

std::shared_ptr<EmulatedMedia> null_media(const std::shared_ptr<Reactor> &reactor, uint64_t block_count,
                                          uint32_t block_bytes, uint32_t metadata_bytes) {
    MediaConfig config;
    config.kind = MediaConfig::Kind::null;
    config.block_count = block_count;
    config.data_bytes = block_bytes;
    config.metadata_bytes = metadata_bytes;
    return make_media(reactor, config);
}

std::shared_ptr<EmulatedMedia> zoned_media(const std::shared_ptr<Reactor> &reactor, uint32_t zone_count,
                                           uint64_t zone_size, uint64_t zone_capacity, uint32_t block_bytes,
                                           uint32_t max_open_zones, uint32_t max_active_zones,
                                           uint32_t max_append_blocks, uint32_t max_io_blocks,
                                           const std::optional<std::string> &path, bool volatile_cache,
                                           uint32_t hidden_zones) {
    MediaConfig config;
    config.kind = MediaConfig::Kind::zoned;
    config.hidden_blocks = hidden_zones * zone_size;
    config.zones = {zone_count + hidden_zones, zone_size, zone_capacity, max_open_zones, max_active_zones};
    config.data_bytes = block_bytes;
    config.max_append_blocks = max_append_blocks;
    config.max_io_blocks = max_io_blocks;
    config.path = path.value_or("");
    config.volatile_cache = volatile_cache;
    return make_media(reactor, config);
}

void set_zone_state(EmulatedMedia &media, uint32_t zone, const std::string &state) {
    for (const ZoneState known : {ZoneState::read_only, ZoneState::offline, ZoneState::full}) {
        if (state == zone_state_name(known)) {
            media.set_zone_state(zone, known);
            return;
        }
    }
    throw std::invalid_argument("zone state '" + state + "' must be 'read_only', 'offline' or 'full'");
}

// A list of MediaZone, which is a named tuple.
nb::list zones_of(EmulatedMedia &media, const nb::object &media_zone) {
    std::vector<EmulatedMedia::Zone> zones;
    {
        const nb::gil_scoped_release unlocked;
        zones = media.zones();
    }
    nb::list list;
    for (const EmulatedMedia::Zone &zone : zones) {
        list.append(media_zone(zone.start, zone_state_name(zone.state), zone.write_pointer));
    }
    return list;
}

uint32_t inject_fault(EmulatedMedia &media, std::optional<Op> op, uint64_t lba, uint64_t block_count, uint32_t status,
                      uint64_t latency_us, uint64_t skip, uint64_t times, bool do_not_retry, bool takes_effect,
                      bool drops_cache, bool flip) {
    if (status > 0x7FF) {
        throw std::invalid_argument("status must be SCT << 8 | SC, at most 0x7ff");
    }
    if (latency_us > ~uint64_t{0} / kNsPerUs / 2) {
        throw std::invalid_argument("latency_us is out of range");
    }
    Fault fault;
    fault.op = op;
    fault.lba = lba;
    fault.block_count = block_count;
    fault.status = static_cast<Status>(status);
    fault.do_not_retry = do_not_retry;
    fault.takes_effect = takes_effect;
    fault.drops_cache = drops_cache;
    fault.latency_ns = latency_us * kNsPerUs;
    fault.flip = flip;
    fault.skip = skip;
    fault.times = times;
    fault.for_ever = times == 0;
    return media.inject_fault(fault);
}

std::shared_ptr<ZonedOverlay> overlay(const std::shared_ptr<Reactor> &reactor, std::shared_ptr<BlockDevice> base,
                                      uint64_t zone_capacity, uint32_t max_open_zones, const std::string &initial_state,
                                      bool zone_commands) {
    const bool full = initial_state == zone_state_name(ZoneState::full);
    if (!full && initial_state != zone_state_name(ZoneState::empty)) {
        throw std::invalid_argument("initial_state '" + initial_state + "' must be 'empty' or 'full'");
    }
    return make_device<ZonedOverlay>(reactor, std::move(base), zone_capacity, max_open_zones, full, zone_commands);
}

}  // namespace

void bind_media(nb::module_ &m) {
    using unlocked = nb::call_guard<nb::gil_scoped_release>;
    const nb::object named_tuple = nb::module_::import_("collections").attr("namedtuple");
    const nb::object media_zone = named_tuple("MediaZone", nb::make_tuple("start", "state", "write_pointer"),
                                              nb::arg("module") = m.attr("__name__"));
    m.attr("MediaZone") = media_zone;
    nb::class_<EmulatedMedia, BlockDevice>(m, "EmulatedMedia")
        .def_static("conventional", &conventional, nb::arg("reactor"), nb::arg("block_count"), nb::kw_only(),
                    nb::arg("block_bytes") = kBlockSize, nb::arg("metadata_bytes") = 0, nb::arg("path") = nb::none(),
                    nb::arg("volatile_cache") = false, nb::arg("max_io_blocks") = 256, nb::arg("hidden_blocks") = 0)
        .def_static("null", &null_media, nb::arg("reactor"), nb::arg("block_count"), nb::kw_only(),
                    nb::arg("block_bytes") = kBlockSize, nb::arg("metadata_bytes") = 0)
        .def_static("zns", &zoned_media, nb::arg("reactor"), nb::arg("zone_count"), nb::arg("zone_size"),
                    nb::arg("zone_capacity"), nb::kw_only(), nb::arg("block_bytes") = kBlockSize,
                    nb::arg("max_open_zones") = 0, nb::arg("max_active_zones") = 0, nb::arg("max_append_blocks") = 32,
                    nb::arg("max_io_blocks") = 256, nb::arg("path") = nb::none(), nb::arg("volatile_cache") = true,
                    nb::arg("hidden_zones") = 0)
        .def("set_zone_state", &set_zone_state, nb::arg("zone"), nb::arg("state"), unlocked())
        .def("recommend", &EmulatedMedia::recommend, nb::arg("zone"), nb::kw_only(), nb::arg("finish") = false,
             nb::arg("reset") = false, unlocked())
        .def("zone_states", [media_zone](EmulatedMedia &media) { return zones_of(media, media_zone); })
        .def("inject_fault", &inject_fault, nb::kw_only(), nb::arg("op") = nb::none(), nb::arg("lba") = 0,
             nb::arg("block_count") = 0, nb::arg("status") = 0, nb::arg("latency_us") = 0, nb::arg("skip") = 0,
             nb::arg("times") = 0, nb::arg("do_not_retry") = false, nb::arg("takes_effect") = false,
             nb::arg("drops_cache") = false, nb::arg("flip") = false, unlocked())
        .def("clear_faults", &EmulatedMedia::clear_faults, nb::arg("fault_id") = nb::none(), unlocked())
        .def("rot", &EmulatedMedia::rot, nb::arg("lba"), nb::arg("bit"), unlocked())
        .def(
            "hold",
            [](EmulatedMedia &media, std::shared_ptr<GeneratedZones> content) { media.hold(std::move(content)); },
            nb::arg("content"), unlocked())
        .def("power_cut", &EmulatedMedia::power_cut, nb::arg("seed"), unlocked())
        .def("power_on", &EmulatedMedia::power_on, unlocked())
        .def("grow", &EmulatedMedia::grow, unlocked())
        .def("resize", &EmulatedMedia::resize, nb::arg("block_count"), unlocked())
        .def("set_schedule", &EmulatedMedia::set_schedule, nb::arg("seed").none(), unlocked())
        .def_prop_ro("flushes_at_once", &EmulatedMedia::flushes_at_once, unlocked())
        .def_prop_ro("operations", &EmulatedMedia::operations, unlocked())
        .def("cut_power_at", &EmulatedMedia::cut_power_at, nb::arg("operation"), nb::arg("seed"), unlocked());

    nb::class_<ZonedOverlay, BlockDevice>(m, "ZonedOverlay")
        .def(nb::new_(&overlay), nb::arg("reactor"), nb::arg("base"), nb::kw_only(), nb::arg("zone_capacity"),
             nb::arg("max_open_zones") = 0, nb::arg("initial_state") = "empty", nb::arg("zone_commands") = true)
        .def_prop_ro("base", &ZonedOverlay::base);
}

}  // namespace ftl
