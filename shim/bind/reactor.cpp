// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <map>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/crc32c.hpp"
#include "bind/bindings.hpp"
#include "bind/fields.hpp"
#include "bind/held_buffer.hpp"
#include "nvme/tls_session.hpp"
#include "nvme/zns.hpp"
#include "reactor/error_class.hpp"
#include "reactor/io_port.hpp"
#include "reactor/reactor.hpp"
#include "reactor/read_list.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr auto kReactorCloseTimeout = std::chrono::seconds(30);
constexpr uint32_t kPortDepthMax = 4096;

// Content of an io_done event that was dropped.
struct Completion {
    uint64_t ticket;
    Status status;
    uint64_t result;
};

bool fills_buffer(Op op) {
    return op == Op::read || op == Op::zone_report;
}
bool carries_data(Op op) {
    return op == Op::read || op == Op::write || op == Op::append || op == Op::zone_report || op == Op::compare_write;
}

// Waits until idle(), then removes the poller from its reactor.
template <typename Port>
void close_port(Reactor &reactor, const Port &port) {
    const nb::gil_scoped_release unlocked;
    const auto until = std::chrono::steady_clock::now() + kReactorCloseTimeout;
    while (!port.idle()) {
        if (std::chrono::steady_clock::now() > until) {
            throw std::runtime_error("outstanding I/O did not complete: the device does not answer");
        }
        if (reactor.running()) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
        } else {
            reactor.step();
        }
    }
    reactor.call([&] { reactor.remove(port.id()); });
}

void check_depth(uint32_t depth) {
    if (depth == 0 || depth > kPortDepthMax) {
        throw std::invalid_argument("depth must be within 1.." + std::to_string(kPortDepthMax));
    }
}

// An IoPort for Python: holds the buffers in flight, and close() waits.
class PyIoPort {
public:
    PyIoPort(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device, uint32_t depth)
        : reactor_(std::move(reactor)) {
        check_depth(depth);
        buffers_.resize(depth);
        port_ = std::make_shared<IoPort>(*reactor_, std::move(device), depth);
        reactor_->call([&] { port_->set_id(reactor_->add(port_)); });
    }

    PyIoPort(const PyIoPort &) = delete;
    PyIoPort &operator=(const PyIoPort &) = delete;
    ~PyIoPort() {
        try {
            close();
        } catch (...) {
            // The device may still write into the buffers, so leak them rather than free them.
            [[maybe_unused]] const auto *leaked = new std::vector<HeldBuffer>(std::move(buffers_));
        }
    }

    [[nodiscard]] uint32_t id() const { return port().id(); }

    uint64_t submit(Op op, uint64_t lba, uint32_t block_count, nb::object buffer, uint8_t zone_action,
                    uint8_t zone_filter, bool zone_all, bool fua) {
        IoPort &port = this->port();
        reap();
        IoRequest request;
        request.op = op;
        request.lba = lba;
        request.block_count = block_count;
        request.zone_action = zone_action;
        request.zone_filter = zone_filter;
        request.zone_all = zone_all;
        request.fua = fua;
        HeldBuffer held;
        if (carries_data(request.op)) {
            if (buffer.is_none()) {
                throw std::invalid_argument("this op needs a buffer");
            }
            held = HeldBuffer(buffer, fills_buffer(request.op));
            const size_t needed = request.op == Op::zone_report
                                      ? sizeof(zns::ReportHeader)
                                      : size_t{block_count} * port.device().info().block_bytes *
                                            (request.op == Op::compare_write ? 2 : 1);
            if (held.bytes() < needed || needed == 0) {
                throw std::invalid_argument("buffer of " + std::to_string(held.bytes()) + " bytes, " +
                                            std::to_string(needed) + " needed (at least 1)");
            }
            request.data = held.data();
            request.bytes = request.op == Op::zone_report ? held.bytes() & ~size_t{3} : needed;
        }
        const std::optional<uint64_t> ticket = port.submit(request);
        if (!ticket) {
            PyErr_SetString(PyExc_BlockingIOError, "every slot of this IoPort is in use: wait for a completion");
            throw nb::python_error();
        }
        // The slot was free, so its place in buffers_ is unused. The GIL delays the reader of the event.
        buffers_[port.slot_of(*ticket)] = std::move(held);
        return *ticket;
    }

    std::vector<Completion> take_untold() {
        std::vector<Completion> completions;
        port().take_untold(
            [&](uint64_t ticket, Status status, uint64_t result) { completions.push_back({ticket, status, result}); });
        return completions;
    }

    void close() {
        if (!port_) {
            return;
        }
        close_port(*reactor_, *port_);
        take_untold();
        reap();
        port_.reset();
    }

private:
    [[nodiscard]] IoPort &port() const {
        if (!port_) {
            throw std::runtime_error("this IoPort is closed");
        }
        return *port_;
    }
    void reap() {
        port_->reap([&](uint32_t slot) { buffers_[slot].release(); });
    }

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<IoPort> port_;
    std::vector<HeldBuffer> buffers_;
};

// A ReadList with the buffer that it fills.
class PyReadList {
public:
    PyReadList(std::shared_ptr<Reactor> reactor, std::shared_ptr<BlockDevice> device, uint32_t depth)
        : reactor_(std::move(reactor)) {
        check_depth(depth);
        list_ = std::make_shared<ReadList>(*reactor_, std::move(device), depth);
        reactor_->call([&] { list_->set_id(reactor_->add(list_)); });
    }

    PyReadList(const PyReadList &) = delete;
    PyReadList &operator=(const PyReadList &) = delete;
    ~PyReadList() {
        try {
            close();
        } catch (...) {
            // The device may still write into the buffer, so leak it rather than free it.
            [[maybe_unused]] const auto *leaked = new HeldBuffer(std::move(rows_));
        }
    }

    [[nodiscard]] uint32_t id() const { return list().id(); }

    void start(std::vector<uint64_t> addresses, uint32_t block_count, nb::object rows) {
        ReadList &list = this->list();
        if (!list.idle()) {
            PyErr_SetString(PyExc_BlockingIOError, "this ReadList is reading: wait for its event");
            throw nb::python_error();
        }
        HeldBuffer held(rows, true);
        const uint64_t row_bytes = uint64_t{block_count} * list.device().info().block_bytes;
        if (addresses.empty() || row_bytes == 0 || held.bytes() / row_bytes < addresses.size()) {
            throw std::invalid_argument("rows must have room for block_count blocks, at least 1, of each address");
        }
        rows_ = std::move(held);
        list.start(std::move(addresses), block_count, static_cast<uint8_t *>(rows_.data()));
    }

    // Returns the status of a list whose event was dropped.
    std::optional<uint32_t> take_untold() {
        ReadList &list = this->list();
        return list.take_untold() ? std::optional<uint32_t>(static_cast<uint32_t>(list.status())) : std::nullopt;
    }

    // Releases the buffer of a list that is done.
    void release() {
        if (list().idle()) {
            rows_.release();
        }
    }

    void close() {
        if (list_) {
            close_port(*reactor_, *list_);
            rows_.release();
            list_.reset();
        }
    }

private:
    [[nodiscard]] ReadList &list() const {
        if (!list_) {
            throw std::runtime_error("this ReadList is closed");
        }
        return *list_;
    }

    std::shared_ptr<Reactor> reactor_;
    std::shared_ptr<ReadList> list_;
    HeldBuffer rows_;
};

std::map<std::string, std::string> build_info() {
    std::string sanitizers = "none";
#if defined(__SANITIZE_ADDRESS__)
    sanitizers = "address,undefined";
#endif
    return {{"compiler", __VERSION__},
            {"sanitizers", sanitizers},
            {"crc", crc32c_implementation()},
            {"tls", TlsSession::library()}};
}

// `crcs`: on entry, the CRC of the data before each row; on return, the CRC including the row.
void crc32c_rows(const nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> &rows, size_t row_bytes,
                 const nb::ndarray<uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> &crcs) {
    if (row_bytes > rows.shape(1) || crcs.shape(0) != rows.shape(0)) {
        throw std::invalid_argument("crc32c_rows: rows are too short, or their number differs from that of crcs");
    }
    const uint8_t *row = rows.data();
    uint32_t *crc = crcs.data();
    const size_t count = rows.shape(0);
    const size_t stride = rows.shape(1);
    const nb::gil_scoped_release unlocked;
    for (size_t i = 0; i < count; ++i, row += stride) {
        crc[i] = crc32c(crc[i], row, row_bytes);
    }
}

uint32_t crc32c_of(nb::handle data, uint32_t seed) {
    const HeldBuffer held(data, false);
    const nb::gil_scoped_release unlocked;
    return crc32c(seed, held.data(), held.bytes());
}

void bind_errors(nb::module_ &m) {
    m.def(
        "error_class",
        [](uint32_t status, bool do_not_retry, Op op) {
            return error_class(op, static_cast<Status>(status), do_not_retry);
        },
        nb::arg("status"), nb::arg("do_not_retry") = false, nb::arg("op") = Op::read);
    m.def("base_gone", [](uint32_t status) { return base_gone(static_cast<Status>(status)); }, nb::arg("status"));
    m.def(
        "perhaps_media", [](uint32_t status) { return perhaps_media(static_cast<Status>(status)); }, nb::arg("status"));
    m.def("limits_zones", [](uint32_t status) { return limits_zones(static_cast<Status>(status)); }, nb::arg("status"));
    m.attr("BUSY_DELAY_MIN_NS") = kBusyDelayMinNs;
    m.attr("BUSY_DELAY_MAX_NS") = kBusyDelayMaxNs;
    m.attr("BUSY_DELAY_GROWTH") = kBusyDelayGrowth;
    m.attr("BUSY_PATIENCE_NS") = kBusyPatienceNs;
    m.attr("BUSY_PATIENCE_LEFT_NS") = kBusyPatienceLeftNs;
    m.attr("ZONES_PATIENCE_NS") = kZonesPatienceNs;
    m.attr("BUSY_READ_PATIENCE_NS") = kBusyReadPatienceNs;
}

void bind_block_device(nb::module_ &m) {
    nb::class_<BlockDevice>(m, "BlockDevice")
        .def_prop_ro("block_count", [](const BlockDevice &device) { return device.info().block_count; })
        .def_prop_ro("block_bytes", [](const BlockDevice &device) { return device.info().block_bytes; })
        .def_prop_ro("metadata_bytes", [](const BlockDevice &device) { return device.info().metadata_bytes; })
        .def_prop_ro("max_io_blocks", [](const BlockDevice &device) { return device.info().max_io_blocks; })
        .def_prop_ro("max_append_blocks", [](const BlockDevice &device) { return device.info().max_append_blocks; })
        .def_prop_ro("volatile_cache", [](const BlockDevice &device) { return device.info().volatile_cache; })
        .def_prop_ro("deallocated_reads_zeroes",
                     [](const BlockDevice &device) { return device.info().deallocated_reads_zeroes; })
        .def_prop_ro("compare_write_blocks",
                     [](const BlockDevice &device) { return device.info().compare_write_blocks; })
        .def_prop_ro("write_uncorrectable", [](const BlockDevice &device) { return device.info().write_uncorrectable; })
        .def_prop_ro("thin", [](const BlockDevice &device) { return device.info().thin; })
        .def("allocated_blocks", &BlockDevice::allocated_blocks, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("zoned", [](const BlockDevice &device) { return device.info().zoned; })
        .def_prop_ro("zone_size", [](const BlockDevice &device) { return device.info().zone_size; })
        .def_prop_ro("zone_capacity", [](const BlockDevice &device) { return device.info().zone_capacity; })
        .def_prop_ro("max_open_zones", [](const BlockDevice &device) { return device.info().max_open_zones; })
        .def_prop_ro("max_active_zones", [](const BlockDevice &device) { return device.info().max_active_zones; });
}

}  // namespace

void bind_reactor(nb::module_ &m) {
    m.def("crc32c", &crc32c_of, nb::arg("data"), nb::arg("seed") = 0);
    m.def("crc32c_rows", &crc32c_rows, nb::arg("rows"), nb::arg("row_bytes"), nb::arg("crcs"));
    m.def("build_info", &build_info);
    bind_errors(m);

    const nb::call_guard<nb::gil_scoped_release> unlocked;
    nb::class_<Reactor>(m, "Reactor")
        .def(nb::new_(
                 [](const std::string &name, uint32_t spin_us) { return std::make_shared<Reactor>(name, spin_us); }),
             nb::arg("name"), nb::arg("spin_us") = 20)
        .def("start", &Reactor::start, nb::arg("cpu") = -1, unlocked)
        .def("stop", &Reactor::stop, unlocked)
        .def(
            "step",
            [](Reactor &reactor, std::optional<uint64_t> now_ns) {
                if (now_ns) {
                    reactor.set_now(*now_ns);
                }
                return reactor.step();
            },
            nb::arg("now_ns") = nb::none(), unlocked)
        .def_prop_ro("running", &Reactor::running)
        .def_prop_ro("busy_ns", &Reactor::busy_ns)
        .def_prop_ro("idle_ns", &Reactor::idle_ns)
        .def_prop_ro("rounds", &Reactor::rounds)
        .def("wake", &Reactor::wake)
        .def_prop_ro("event_fd", &Reactor::event_fd)
        .def("events", &Reactor::events, unlocked);

    bind_block_device(m);

    Fields<Completion>(m, "Completion")
        .field("ticket", &Completion::ticket)
        .field("status", &Completion::status)
        .field("result", &Completion::result)
        .end();
    nb::class_<PyIoPort>(m, "IoPort")
        .def(nb::init<std::shared_ptr<Reactor>, std::shared_ptr<BlockDevice>, uint32_t>(), nb::arg("reactor"),
             nb::arg("device"), nb::arg("depth") = 128)
        .def_prop_ro("id", &PyIoPort::id)
        .def("submit", &PyIoPort::submit, nb::arg("op"), nb::arg("lba") = 0, nb::arg("block_count") = 0,
             nb::arg("buffer") = nb::none(), nb::kw_only(), nb::arg("zone_action") = 0, nb::arg("zone_filter") = 0,
             nb::arg("zone_all") = false, nb::arg("fua") = false)
        .def("take_untold", &PyIoPort::take_untold)
        .def("close", &PyIoPort::close);

    nb::class_<PyReadList>(m, "ReadList")
        .def(nb::init<std::shared_ptr<Reactor>, std::shared_ptr<BlockDevice>, uint32_t>(), nb::arg("reactor"),
             nb::arg("device"), nb::arg("depth") = 128)
        .def_prop_ro("id", &PyReadList::id)
        .def("start", &PyReadList::start, nb::arg("addresses"), nb::arg("block_count"), nb::arg("rows"))
        .def("take_untold", &PyReadList::take_untold)
        .def("release", &PyReadList::release)
        .def("close", &PyReadList::close);
}

}  // namespace ftl
