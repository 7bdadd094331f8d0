// SPDX-License-Identifier: BSD-3-Clause
// Devices on devices: Meter, Split, Delay, ErrorInjector, Striped, Mirror.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "bind/make_device.hpp"
#include "virtual/delay.hpp"
#include "virtual/error_injector.hpp"
#include "virtual/meter.hpp"
#include "virtual/mirror.hpp"
#include "virtual/split.hpp"
#include "virtual/striped.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

using Base = std::shared_ptr<BlockDevice>;
using OnReactor = std::shared_ptr<Reactor>;

constexpr uint64_t kNsInUs = 1000;
constexpr uint64_t kLatencyUsMax = ~uint64_t{0} / kNsInUs / 4;  // so that a time with it added does not overflow
constexpr uint32_t kStatusMax = 0x7FF;

// The position of `name` among `names`.
template <size_t N>
size_t position(const char *what, const std::string &name, const std::array<const char *, N> &names) {
    for (size_t i = 0; i < N; ++i) {
        if (name == names[i]) {
            return i;
        }
    }
    throw std::invalid_argument(std::string(what) + " '" + name + "' is not known");
}

constexpr std::array kResets{"none", "maxmin", "error", "all"};
constexpr std::array kLatencies{"avg_read", "p99_read", "avg_write", "p99_write"};
constexpr std::array kInjections{"failure", "nvme_failure", "nomem", "pending", "corrupt"};

uint64_t latency_ns(uint64_t latency_us) {
    if (latency_us > kLatencyUsMax) {
        throw std::invalid_argument("a latency is out of range");
    }
    return latency_us * kNsInUs;
}

std::shared_ptr<Meter> meter(const OnReactor &reactor, const Base &base) {
    return make_device<Meter>(reactor, base);
}

std::shared_ptr<Split> split(const OnReactor &reactor, const Base &base, uint64_t offset, uint64_t block_count) {
    return make_device<Split>(reactor, base, offset, block_count);
}

std::shared_ptr<Delay> delay(const OnReactor &reactor, const Base &base, uint64_t avg_read_us, uint64_t p99_read_us,
                             uint64_t avg_write_us, uint64_t p99_write_us) {
    const Delay::Latencies latencies = {latency_ns(avg_read_us), latency_ns(p99_read_us), latency_ns(avg_write_us),
                                        latency_ns(p99_write_us)};
    return make_device<Delay>(reactor, base, latencies);
}

std::shared_ptr<ErrorInjector> error_injector(const OnReactor &reactor, const Base &base) {
    return make_device<ErrorInjector>(reactor, base);
}

std::shared_ptr<Striped> striped(const OnReactor &reactor, const Members &members, const std::vector<uint64_t> &lengths,
                                 uint64_t strip_blocks) {
    return make_device<Striped>(reactor, members, lengths, strip_blocks);
}

std::shared_ptr<Mirror> mirror(const OnReactor &reactor, const Members &members, uint64_t block_count) {
    return make_device<Mirror>(reactor, members, block_count);
}

void inject(ErrorInjector &injector, std::optional<Op> op, const std::string &kind, uint32_t times,
            uint64_t queue_depth, uint32_t status, uint64_t corrupt_offset, uint8_t corrupt_value) {
    if (status > kStatusMax) {
        throw std::invalid_argument("status must be SCT << 8 | SC, at most 0x7ff");
    }
    Injection injection;
    injection.kind = static_cast<Injection::Kind>(position("kind", kind, kInjections));
    injection.times = times;
    injection.queue_depth = queue_depth;
    injection.status = static_cast<Status>(status);
    injection.corrupt_offset = corrupt_offset;
    injection.corrupt_value = corrupt_value;
    injector.inject(op, injection);
}

}  // namespace

void bind_virtual(nb::module_ &m) {
    using unlocked = nb::call_guard<nb::gil_scoped_release>;

    Fields<MeterCount>(m, "MeterCount")
        .field("operations", &MeterCount::operations)
        .field("bytes", &MeterCount::bytes)
        .field("latency_ns", &MeterCount::latency_ns)
        .field("latency_ns_max", &MeterCount::latency_ns_max)
        .field("latency_ns_min", &MeterCount::latency_ns_min)
        .end();
    Fields<MeterStats>(m, "MeterStats")
        .field("read", &MeterStats::read)
        .field("write", &MeterStats::write)
        .field("unmap", &MeterStats::unmap)
        .field("failed", &MeterStats::failed)
        .field("aborted", &MeterStats::aborted)
        .field("nvme_error", &MeterStats::nvme_error)
        .end();
    nb::class_<Meter, BlockDevice>(m, "Meter")
        .def(nb::new_(&meter), nb::arg("reactor"), nb::arg("base"))
        .def(
            "stats",
            [](Meter &device, const std::string &reset) {
                const auto mode = static_cast<Meter::Reset>(position("reset", reset, kResets));
                const nb::gil_scoped_release released;
                return device.stats(mode);
            },
            nb::arg("reset") = "none")
        .def("resize", &Meter::resize, nb::arg("block_count"), unlocked());

    nb::class_<Split, BlockDevice>(m, "Split")
        .def(nb::new_(&split), nb::arg("reactor"), nb::arg("base"), nb::kw_only(), nb::arg("offset"),
             nb::arg("block_count"));

    nb::class_<Delay, BlockDevice>(m, "Delay")
        .def(nb::new_(&delay), nb::arg("reactor"), nb::arg("base"), nb::kw_only(), nb::arg("avg_read_us"),
             nb::arg("p99_read_us"), nb::arg("avg_write_us"), nb::arg("p99_write_us"))
        .def(
            "set_latency",
            [](Delay &device, const std::string &kind, uint64_t latency_us) {
                const auto which = static_cast<Delay::Kind>(position("kind", kind, kLatencies));
                device.set_latency(which, latency_ns(latency_us));
            },
            nb::arg("kind"), nb::arg("latency_us"), unlocked());

    nb::class_<ErrorInjector, BlockDevice>(m, "ErrorInjector")
        .def(nb::new_(&error_injector), nb::arg("reactor"), nb::arg("base"))
        .def("inject", &inject, nb::arg("op").none(), nb::arg("kind"), nb::arg("times"), nb::kw_only(),
             nb::arg("queue_depth") = 0, nb::arg("status") = 0, nb::arg("corrupt_offset") = 0,
             nb::arg("corrupt_value") = 0, unlocked())
        .def("clear", &ErrorInjector::clear, unlocked())
        .def("resume_pending", &ErrorInjector::resume_pending, unlocked())
        .def("abort_pending", &ErrorInjector::abort_pending, unlocked());

    nb::class_<Striped, BlockDevice>(m, "Striped")
        .def(nb::new_(&striped), nb::arg("reactor"), nb::arg("members"), nb::arg("lengths"), nb::arg("strip_blocks"))
        .def("resize", &Striped::resize, nb::arg("length"), unlocked());

    nb::class_<Mirror, BlockDevice>(m, "Mirror")
        .def(nb::new_(&mirror), nb::arg("reactor"), nb::arg("members"), nb::arg("block_count"))
        .def_prop_ro("id", &Mirror::id)
        .def("resize", &Mirror::resize, nb::arg("block_count"), unlocked())
        .def("remove", &Mirror::remove, nb::arg("member"), unlocked())
        .def("gone", &Mirror::gone, unlocked())
        .def("release", &Mirror::release, unlocked());
}

}  // namespace ftl
