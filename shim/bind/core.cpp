// SPDX-License-Identifier: BSD-3-Clause
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bind/bindings.hpp"
#include "bind/core_account.hpp"
#include "bind/held_buffer.hpp"
#include "bind/on_reactor.hpp"
#include "bind/os_errors.hpp"
#include "bind/placement_of.hpp"
#include "ftl/core.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

constexpr auto kCoreCloseTimeout = std::chrono::seconds(10);
constexpr auto kCloseInterval = std::chrono::microseconds(50);
constexpr uint32_t kStepsMax = 100'000;

using GivenCrcs = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T, size_t dimensions>
using Given = nb::ndarray<const T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

[[noreturn]] void raise_blocking(const char *message) {
    PyErr_SetString(PyExc_BlockingIOError, message);
    throw nb::python_error();
}

std::shared_ptr<FtlCore> make_core(const std::shared_ptr<Reactor> &reactor, std::shared_ptr<BlockDevice> base,
                                   const CoreConfig &config) {
    // This takes a while if there are very many bands.
    return with_os_errors([&] {
        auto core = std::make_shared<FtlCore>(reactor, std::move(base), config);
        reactor->call([&] { core->attach(); });
        return core;
    });
}

void close_core(FtlCore &core) {
    const std::shared_ptr<Reactor> reactor = core.state().reactor;
    const nb::gil_scoped_release unlocked;
    const auto until = std::chrono::steady_clock::now() + kCoreCloseTimeout;
    // Outstanding I/O must come back from the base before its memory may be freed.
    for (uint32_t steps = 0;; ++steps) {
        bool detached = false;
        reactor->call([&] {
            core.close();
            detached = core.detached();
        });
        if (detached) {
            return;
        }
        if (std::chrono::steady_clock::now() > until || steps > kStepsMax * 10) {
            throw std::runtime_error("the base has not completed outstanding I/O: close it first");
        }
        if (reactor->running()) {
            std::this_thread::sleep_for(kCloseInterval);
        } else {
            reactor->step();
        }
    }
}

// True: the core has released the base. For callers that do not wait with close_core().
bool begin_close(FtlCore &core) {
    bool detached = false;
    on_reactor(core, [&] {
        core.close();
        detached = core.detached();
    });
    return detached;
}

bool recover_block(FtlCore &core, uint64_t lba, uint64_t seq, uint32_t crc, nb::handle data) {
    const HeldBuffer held(data, false);
    if (held.bytes() != kBlockSize) {
        throw std::invalid_argument("recover_block: data is not one block");
    }
    bool taken = false;
    on_reactor(core, [&] { taken = core.recover_block(lba, seq, crc, static_cast<const uint8_t *>(held.data())); });
    return taken;
}

void set_placement(FtlCore &core, uint32_t classes, uint32_t user_classes, const GivenAges &user, uint32_t unwritten,
                   const std::vector<GivenAges> &relocated, const std::optional<GivenRegions> &regions,
                   uint64_t region_blocks) {
    Placement placement = placement_of(classes, user_classes, user, unwritten, relocated, regions, region_blocks);
    on_reactor(core, [&] { core.set_placement(placement); });
}

std::vector<uint32_t> asking(FtlCore &core) {
    uint32_t marks = 0;
    on_reactor(core, [&] { marks = core.asking(); });
    std::vector<uint32_t> classes;
    for (uint32_t each = 0; each < kClassesMax; ++each) {
        if ((marks >> each & 1) != 0) {
            classes.push_back(each);
        }
    }
    return classes;
}

void load_history(FtlCore &core, uint32_t first, const Given<uint8_t, 1> &classes, const Given<uint64_t, 1> &opened,
                  const Given<uint64_t, 1> &data) {
    const size_t count = classes.shape(0);
    if (opened.shape(0) != count || data.shape(0) != count) {
        throw std::invalid_argument("load_history: classes and seqs differ in their number of bands");
    }
    on_reactor(core, [&] {
        for (size_t i = 0; i < count; ++i) {
            core.load_history(first + static_cast<uint32_t>(i), classes.data()[i], opened.data()[i], data.data()[i]);
        }
    });
}

void load_bands(FtlCore &core, uint32_t first, const Given<uint8_t, 1> &states, const Given<uint64_t, 1> &band_seqs,
                const Given<uint64_t, 2> &write_pointers) {
    const size_t count = states.shape(0);
    if (band_seqs.shape(0) != count || write_pointers.shape(0) != count) {
        throw std::invalid_argument("load_bands: states, band_seqs and write_pointers differ in their number of bands");
    }
    if (std::any_of(states.data(), states.data() + count,
                    [](uint8_t state) { return state > static_cast<uint8_t>(BandState::faulted); })) {
        throw std::invalid_argument("load_bands: unknown band state");
    }
    const size_t punits = write_pointers.shape(1);
    on_reactor(core, [&] {
        for (size_t i = 0; i < count; ++i) {
            core.load_band(first + static_cast<uint32_t>(i), static_cast<BandState>(states.data()[i]),
                           band_seqs.data()[i], std::span(write_pointers.data() + i * punits, punits));
        }
    });
}

}  // namespace

void bind_core(nb::module_ &m) {
    nb::class_<FtlCore, BlockDevice> bound(m, "FtlCore");
    bound.def(nb::new_(&make_core), nb::arg("reactor"), nb::arg("base"), nb::arg("config"))
        .def_prop_ro("id", &FtlCore::id)
        .def(
            "open_band",
            [](FtlCore &core, uint32_t stream, uint32_t band, uint64_t band_seq) {
                bool queued = false;
                on_reactor(core, [&] { queued = core.open_band(stream, band, band_seq); });
                if (!queued) {
                    raise_blocking("open_band: a band is already queued for this stream");
                }
            },
            nb::arg("stream"), nb::arg("band"), nb::arg("band_seq"))
        .def(
            "take_queued",
            [](FtlCore &core, uint32_t stream) {
                uint32_t band = kNoBand;
                on_reactor(core, [&] { band = core.take_queued(stream); });
                return band == kNoBand ? std::nullopt : std::optional<uint32_t>{band};
            },
            nb::arg("stream"))
        .def("set_placement", &set_placement, nb::kw_only(), nb::arg("classes"), nb::arg("user_classes"),
             nb::arg("user"), nb::arg("unwritten"), nb::arg("relocated"), nb::arg("regions").none() = nb::none(),
             nb::arg("region_blocks") = 1)
        .def("asking", &asking)
        .def(
            "start_move",
            [](FtlCore &core, uint32_t band) {
                bool started = false;
                on_reactor(core, [&] { started = core.start_move(band); });
                if (!started) {
                    raise_blocking("start_move: max_active_relocs bands are already being moved");
                }
            },
            nb::arg("band"))
        .def(
            "start_scrub",
            [](FtlCore &core, uint32_t band, bool stays) {
                bool started = false;
                on_reactor(core, [&] { started = core.start_scrub(band, stays); });
                if (!started) {
                    raise_blocking("start_scrub: a band is already being read");
                }
            },
            nb::arg("band"), nb::arg("stays") = false)
        .def(
            "set_scrub_rate",
            [](FtlCore &core, uint32_t rate) { on_reactor(core, [&] { core.set_scrub_rate(rate); }); },
            nb::arg("blocks_per_s"))
        .def("stop_scrub", [](FtlCore &core) { on_reactor(core, [&] { core.stop_scrub(); }); })
        .def(
            "reset_band", [](FtlCore &core, uint32_t band) { on_reactor(core, [&] { core.reset_band(band); }); },
            nb::arg("band"))
        .def(
            "reset_bands",
            [](FtlCore &core, const std::vector<uint32_t> &bands) {
                std::vector<uint32_t> refused;
                on_reactor(core, [&] { refused = core.reset_bands(bands); });
                return refused;
            },
            nb::arg("bands"))
        .def(
            "replace_zone",
            [](FtlCore &core, uint32_t band, uint32_t punit, std::optional<uint64_t> zone_start) {
                on_reactor(core, [&] { core.replace_zone(band, punit, zone_start.value_or(kNoZone)); });
            },
            nb::arg("band"), nb::arg("punit"), nb::arg("zone_start").none())
        .def(
            "fault_zone",
            [](FtlCore &core, uint32_t band, uint32_t punit, Status status) {
                bool faulted = false;
                on_reactor(core, [&] { faulted = core.fault_zone(band, punit, status); });
                return faulted;
            },
            nb::arg("band"), nb::arg("punit"), nb::arg("status"))
        .def(
            "close_zone",
            [](FtlCore &core, uint32_t band, uint32_t punit) {
                bool closing = false;
                on_reactor(core, [&] { closing = core.close_zone(band, punit); });
                return closing;
            },
            nb::arg("band"), nb::arg("punit"))
        .def(
            "set_pace",
            [](FtlCore &core, uint32_t user_percent, std::optional<uint32_t> reloc_per_thousand) {
                on_reactor(core, [&] { core.set_pace(user_percent, reloc_per_thousand.value_or(Throttle::kUnpaced)); });
            },
            nb::arg("user_percent"), nb::arg("reloc_per_thousand").none() = nb::none())
        .def(
            "fail_writes", [](FtlCore &core, Status status) { on_reactor(core, [&] { core.fail_writes(status); }); },
            nb::arg("status"))
        .def("refuse_writes", [](FtlCore &core) { on_reactor(core, [&] { core.refuse_writes(); }); })
        .def("drain",
             [](FtlCore &core) {
                 uint64_t ticket = 0;
                 on_reactor(core, [&] { ticket = core.drain(); });
                 return ticket;
             })
        .def("flush_base",
             [](FtlCore &core) {
                 uint64_t ticket = 0;
                 on_reactor(core, [&] { ticket = core.flush_base(); });
                 return ticket;
             })
        .def(
            "fail", [](FtlCore &core, Status status) { on_reactor(core, [&] { core.fail(status); }); },
            nb::arg("status"))
        .def("begin_close", &begin_close)
        .def("close", &close_core)
        .def(
            "load_band",
            [](FtlCore &core, uint32_t band, BandState state, uint64_t band_seq,
               const std::vector<uint64_t> &write_pointers) {
                on_reactor(core, [&] { core.load_band(band, state, band_seq, write_pointers); });
            },
            nb::arg("band"), nb::arg("state"), nb::arg("band_seq"), nb::arg("write_pointers"))
        .def("load_bands", &load_bands, nb::arg("first"), nb::arg("states"), nb::arg("band_seqs"),
             nb::arg("write_pointers"))
        .def("load_history", &load_history, nb::arg("first"), nb::arg("classes"), nb::arg("opened_seqs"),
             nb::arg("data_seqs"))
        .def(
            "load_l2p",
            [](FtlCore &core, uint64_t first_lba,
               const nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> &addresses,
               const std::optional<GivenCrcs> &crcs) {
                if (crcs && crcs->shape(0) != addresses.shape(0)) {
                    throw std::invalid_argument("load_l2p: the number of CRCs differs from the number of addresses");
                }
                const uint16_t *given = crcs ? crcs->data() : nullptr;
                on_reactor(core, [&] { core.load_l2p(first_lba, addresses.data(), given, addresses.shape(0)); });
            },
            nb::arg("first_lba"), nb::arg("addresses"), nb::arg("crcs") = nb::none())
        .def(
            "take_l2p",
            [](FtlCore &core, RestoredL2p &table, RestoredL2p::Counts &counts) {
                on_reactor(core, [&] { core.take_l2p(table, counts); });
            },
            nb::arg("table"), nb::arg("counts"))
        .def("recover_block", &recover_block, nb::arg("lba"), nb::arg("seq"), nb::arg("crc"), nb::arg("data"))
        .def(
            "recover_record",
            [](FtlCore &core, uint64_t lba, uint32_t block_count, uint64_t seq, uint32_t flags) {
                bool taken = false;
                on_reactor(core, [&] { taken = core.recover_record(lba, block_count, seq, flags); });
                return taken;
            },
            nb::arg("lba"), nb::arg("block_count"), nb::arg("seq"), nb::arg("flags"))
        .def(
            "use_cache",
            [](FtlCore &core, std::shared_ptr<BlockDevice> device, const NvCacheConfig &config) {
                on_reactor(core, [&] { core.use_cache(std::move(device), config); });
            },
            nb::arg("device"), nb::arg("config"))
        .def("forget_cache", [](FtlCore &core) { on_reactor(core, [&] { core.forget_cache(); }); });
    def_core_account(bound);
}

}  // namespace ftl
