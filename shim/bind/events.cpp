// SPDX-License-Identifier: BSD-3-Clause
// Event: each kind has its own named fields, as kEventFields defines them (shim/reactor/event.hpp).
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "bind/bindings.hpp"
#include "nvme/pdu_stream.hpp"
#include "reactor/event.hpp"
#include "vfio_user/shared_queue.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr size_t kKinds = static_cast<size_t>(EventKind::overflow) + 1;

// Maps a field name to one of an event's numbers, for each kind. Null: the kind has no such field.
class NamedField {
public:
    explicit NamedField(const char *name) : name_(name) {
        for (const EventField &field : kEventFields) {
            if (std::string_view(field.name) == name) {
                by_kind_[static_cast<size_t>(field.kind)] = field.number;
            }
        }
    }
    [[nodiscard]] const char *name() const noexcept { return name_; }
    uint64_t operator()(const Event &event) const {
        uint64_t Event::*const number = by_kind_[static_cast<size_t>(event.kind)];
        if (number == nullptr) {
            const nb::object kind = nb::cast(event.kind);
            PyErr_Format(PyExc_AttributeError, "an event of kind %S has no field '%s'", kind.ptr(), name_);
            throw nb::python_error();
        }
        return event.*number;
    }

private:
    const char *name_;
    std::array<uint64_t Event::*, kKinds> by_kind_{};
};

std::string describe(const Event &event) {
    std::string text = "Event(" + nb::cast<std::string>(nb::str(nb::cast(event.kind)));
    text += ", source=" + std::to_string(event.source);
    for (const EventField &field : kEventFields) {
        if (field.kind == event.kind) {
            text += std::string(", ") + field.name + "=" + std::to_string(event.*field.number);
        }
    }
    return text + ")";
}

std::optional<uint64_t> unless_all_ones(uint64_t value) {
    return value == ~uint64_t{0} ? std::nullopt : std::optional(value);
}

}  // namespace

void bind_events(nb::module_ &m) {
    nb::class_<Event> event(m, "Event");
    event.def_ro("kind", &Event::kind).def_ro("source", &Event::source).def("__repr__", &describe);
    for (const char *name :
         {"ticket", "status", "result", "detail", "stream", "band", "moved_blocks", "lost_blocks", "punit", "lba",
          "address", "done_blocks", "errors", "failures", "member", "first_newer_source"}) {
        event.def_prop_ro(name, [field = NamedField(name)](const Event &self) { return field(self); });
    }
    event
        .def_prop_ro("reason",
                     [field = NamedField("reason")](const Event &self) { return static_cast<QpairClose>(field(self)); })
        .def_prop_ro("fault",
                     [field = NamedField("fault")](const Event &self) { return static_cast<SharedFault>(field(self)); })
        .def_prop_ro("by_flush", [field = NamedField("by_flush")](const Event &self) { return field(self) != 0; })
        .def_prop_ro("filling_band",
                     [field = NamedField("filling_band")](const Event &self) { return unless_all_ones(field(self)); })
        .def_prop_ro("failed_punit",
                     [field = NamedField("failed_punit")](const Event &self) { return unless_all_ones(field(self)); });
}

}  // namespace ftl
