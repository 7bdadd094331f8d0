// SPDX-License-Identifier: BSD-3-Clause
#include "ftl/restored_l2p.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bind/bindings.hpp"
#include "ftl/summary.hpp"
#include "ftl/trims.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

template <typename T>
using GivenValues = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using GivenRows = nb::ndarray<const uint8_t, nb::shape<-1, sizeof(layout::BlockEntry)>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Array<T> owned(std::unique_ptr<T[]> values, size_t count) {
    T *data = values.release();
    const nb::capsule owner(data, [](void *memory) noexcept { delete[] static_cast<T *>(memory); });
    return Array<T>(data, {count}, owner);
}

template <typename T>
Array<T> copied(const std::vector<T> &values) {
    std::unique_ptr<T[]> data(new T[values.size()]);
    std::copy(values.begin(), values.end(), data.get());
    return owned(std::move(data), values.size());
}

template <typename T>
std::span<const T> span_of(const GivenValues<T> &given) {
    return {given.data(), given.shape(0)};
}

std::span<const layout::BlockEntry> rows_of(const GivenRows &given) {
    static_assert(alignof(layout::BlockEntry) == 1);
    return {reinterpret_cast<const layout::BlockEntry *>(given.data()), given.shape(0)};
}

void check_same(size_t length, size_t other, const char *what) {
    if (length != other) {
        throw std::invalid_argument(std::string(what) + ": arrays of different lengths");
    }
}

// zone_size 0: a base without zones.
ZoneAddresses addresses_of(uint64_t base_block_count, uint64_t zone_size, uint64_t zone_capacity) {
    return zone_size == 0 ? ZoneAddresses(base_block_count) : ZoneAddresses(base_block_count, zone_size, zone_capacity);
}

void check_seqs(const RestoredL2p &l2p, const char *what) {
    if (!l2p.has_seqs()) {
        throw std::invalid_argument(std::string(what) + ": the seqs were dropped");
    }
}

void check_lbas(const RestoredL2p &l2p, std::span<const uint64_t> lbas, const char *what) {
    if (std::any_of(lbas.begin(), lbas.end(), [&](uint64_t lba) { return lba >= l2p.block_count(); })) {
        throw std::out_of_range(std::string(what) + ": beyond the last LBA");
    }
}

void check_range(const RestoredL2p &l2p, uint64_t first, uint64_t count, const char *what) {
    if (first > l2p.block_count() || count > l2p.block_count() - first) {
        throw std::out_of_range(std::string(what) + ": beyond the last LBA");
    }
}

// Runs fn while nobody else uses the table. Where the GIL is released, that must be done before: who waits for the
// table may have it. Throws PageFileError.
template <typename Fn>
auto alone(const RestoredL2p &l2p, Fn fn) {
    const std::unique_lock<std::mutex> lock = l2p.lock();
    if constexpr (std::is_void_v<decltype(fn())>) {
        fn();
        l2p.check_pages();
    } else {
        auto result = fn();
        l2p.check_pages();
        return result;
    }
}

nb::tuple add(RestoredL2p &l2p, const GivenRows &rows, const GivenValues<uint64_t> &addresses, bool all_doubtful) {
    check_same(rows.shape(0), addresses.shape(0), "add");
    check_seqs(l2p, "add");
    RestoredL2p::Added added;
    {
        const nb::gil_scoped_release other_threads_run;
        added = alone(l2p, [&] { return l2p.add(rows_of(rows), span_of(addresses), all_doubtful); });
    }
    return nb::make_tuple(copied(added.doubtful), added.blocks, added.seq_sum);
}

void merge(RestoredL2p &l2p, const GivenRows &rows, const GivenValues<uint64_t> &addresses) {
    check_same(rows.shape(0), addresses.shape(0), "merge");
    check_seqs(l2p, "merge");
    const nb::gil_scoped_release other_threads_run;
    alone(l2p, [&] { l2p.merge(rows_of(rows), span_of(addresses)); });
}

void hold(RestoredL2p &l2p, const GivenValues<uint64_t> &firsts, const GivenValues<uint64_t> &counts) {
    check_same(firsts.shape(0), counts.shape(0), "hold");
    for (size_t i = 0; i < firsts.shape(0); ++i) {
        l2p.hold(firsts.data()[i], counts.data()[i]);
    }
}

void apply_records(RestoredL2p &l2p, const GivenValues<uint64_t> &firsts, const GivenValues<uint64_t> &counts,
                   const GivenValues<uint64_t> &seqs, const GivenValues<uint64_t> &entries) {
    check_same(firsts.shape(0), counts.shape(0), "apply_records");
    check_same(firsts.shape(0), seqs.shape(0), "apply_records");
    check_same(firsts.shape(0), entries.shape(0), "apply_records");
    const nb::gil_scoped_release other_threads_run;
    alone(l2p, [&] {
        for (size_t i = 0; i < firsts.shape(0); ++i) {
            l2p.apply_record(firsts.data()[i], counts.data()[i], seqs.data()[i], entries.data()[i]);
        }
    });
}

Array<uint64_t> supersede(RestoredL2p &l2p, const GivenValues<uint64_t> &firsts, const GivenValues<uint64_t> &counts,
                          const GivenValues<uint64_t> &seqs) {
    check_same(firsts.shape(0), counts.shape(0), "supersede");
    check_same(firsts.shape(0), seqs.shape(0), "supersede");
    std::unique_ptr<uint64_t[]> older(new uint64_t[firsts.shape(0)]);
    {
        const nb::gil_scoped_release other_threads_run;
        alone(l2p, [&] {
            for (size_t i = 0; i < firsts.shape(0); ++i) {
                older[i] = l2p.supersede(firsts.data()[i], counts.data()[i], seqs.data()[i]);
            }
        });
    }
    return owned(std::move(older), firsts.shape(0));
}

Array<uint8_t> copies(const RestoredL2p &l2p) {
    const std::vector<RestoredL2p::Copy> &all = l2p.copies();
    const size_t bytes = all.size() * sizeof(RestoredL2p::Copy);
    std::unique_ptr<uint8_t[]> data(new uint8_t[bytes]);
    if (bytes > 0) {
        std::memcpy(data.get(), all.data(), bytes);
    }
    return owned(std::move(data), bytes);
}

template <typename Value>
Array<uint64_t> each(const RestoredL2p &l2p, const GivenValues<uint64_t> &lbas, const char *what, Value value) {
    check_lbas(l2p, span_of(lbas), what);
    std::unique_ptr<uint64_t[]> values(new uint64_t[lbas.shape(0)]);
    alone(l2p, [&] { std::transform(lbas.data(), lbas.data() + lbas.shape(0), values.get(), value); });
    return owned(std::move(values), lbas.shape(0));
}

void put(RestoredL2p &l2p, const GivenValues<uint64_t> &lbas, const GivenValues<uint64_t> &entries,
         const std::optional<GivenValues<uint64_t>> &seqs, const std::optional<GivenValues<uint16_t>> &crcs) {
    check_same(lbas.shape(0), entries.shape(0), "put");
    check_same(lbas.shape(0), seqs ? seqs->shape(0) : lbas.shape(0), "put");
    check_same(lbas.shape(0), crcs ? crcs->shape(0) : lbas.shape(0), "put");
    check_lbas(l2p, span_of(lbas), "put");
    alone(l2p, [&] {
        for (size_t i = 0; i < lbas.shape(0); ++i) {
            const uint64_t lba = lbas.data()[i];
            l2p.put(lba, entries.data()[i]);
            if (seqs) {
                l2p.put_seq(lba, seqs->data()[i]);
            }
            if (crcs) {
                l2p.put_crc(lba, crcs->data()[i]);
            }
        }
    });
}

// Rows of entries, of which the last one may be shorter: `count` entries in all.
template <typename T>
using GivenParts = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;

template <typename T, typename Put>
void put_parts(uint64_t first, const GivenParts<T> &parts, uint64_t count, const char *what, Put put) {
    const uint64_t length = parts.shape(1);
    if (parts.stride(1) != 1 || count > parts.shape(0) * length) {
        throw std::invalid_argument(std::string(what) + ": more entries than there are, or apart");
    }
    const nb::gil_scoped_release other_threads_run;
    for (uint64_t done = 0; done < count; done += length) {
        const T *row = parts.data() + static_cast<int64_t>(done / length) * parts.stride(0);
        put(first + done, std::span<const T>(row, std::min(length, count - done)));
    }
}

template <typename T>
void put_range(RestoredL2p &l2p, uint64_t first, const GivenParts<T> &parts, uint64_t count) {
    put_parts(first, parts, count, "put_range",
              [&](uint64_t lba, std::span<const T> entries) { alone(l2p, [&] { l2p.put_range(lba, entries); }); });
}

void put_crcs(RestoredL2p &l2p, uint64_t first, const GivenParts<uint16_t> &parts, uint64_t count) {
    put_parts(first, parts, count, "put_crcs",
              [&](uint64_t lba, std::span<const uint16_t> crcs) { alone(l2p, [&] { l2p.put_crcs(lba, crcs); }); });
}

template <typename T, typename Value>
Array<T> range(const RestoredL2p &l2p, uint64_t first, uint64_t count, const char *what, Value value) {
    check_range(l2p, first, count, what);
    std::unique_ptr<T[]> values(new T[count]);
    alone(l2p, [&] {
        for (uint64_t i = 0; i < count; ++i) {
            values[i] = value(first + i);
        }
    });
    return owned(std::move(values), count);
}

RestoredL2p::Counts count(const RestoredL2p &l2p, uint64_t zone_size, uint64_t zone_count, uint32_t chunk_blocks) {
    if (zone_size == 0) {
        throw std::invalid_argument("count: zones without blocks");
    }
    if (!std::has_single_bit(chunk_blocks) || chunk_blocks > Trims::kChunkBlocks) {
        throw std::invalid_argument("count: trim_chunk must be a power of two within 1..128");
    }
    const nb::gil_scoped_release other_threads_run;
    return alone(l2p, [&] { return l2p.count(zone_size, zone_count, chunk_blocks); });
}

// A summary, and the array that its blocks are in.
class BoundSummary {
public:
    using Blocks = nb::ndarray<const uint8_t, nb::shape<-1, kBlockSize>, nb::c_contig, nb::device::cpu>;

    BoundSummary(Summary summary, Blocks blocks) : summary_(std::move(summary)), blocks_(std::move(blocks)) {}

    static std::optional<BoundSummary> of(const Blocks &blocks, const nb::bytes &uuid, uint32_t band, uint32_t punit) {
        static_assert(alignof(layout::SummaryBlock) == 1);
        layout::Uuid id;
        if (uuid.size() != id.size()) {
            throw std::invalid_argument("Summary.of: a uuid has 16 bytes");
        }
        std::memcpy(id.data(), uuid.c_str(), id.size());
        const std::span all(reinterpret_cast<const layout::SummaryBlock *>(blocks.data()), blocks.shape(0));
        std::optional<Summary> summary;
        {
            const nb::gil_scoped_release other_threads_run;
            summary = Summary::of(all, id, band, punit);
        }
        return summary ? std::optional(BoundSummary(std::move(*summary), blocks)) : std::nullopt;
    }

    [[nodiscard]] const Summary &get() const noexcept { return summary_; }

    [[nodiscard]] Array<uint8_t> rows(const GivenValues<uint32_t> &numbers) const {
        const size_t count = numbers.shape(0);
        constexpr size_t bytes = sizeof(layout::BlockEntry);
        std::unique_ptr<uint8_t[]> data(new uint8_t[count * bytes]);
        for (size_t i = 0; i < count; ++i) {
            const uint32_t number = numbers.data()[i];
            if (number >= summary_.row_count()) {
                throw std::out_of_range("Summary.rows: behind the last row");
            }
            std::memcpy(data.get() + i * bytes, &summary_.row(number), bytes);
        }
        return owned(std::move(data), count * bytes);
    }

private:
    Summary summary_;
    Blocks blocks_;
};

nb::tuple add_summary(RestoredL2p &l2p, const BoundSummary &summary, uint64_t start, bool all_doubtful) {
    check_seqs(l2p, "add_summary");
    RestoredL2p::Added added;
    {
        const nb::gil_scoped_release other_threads_run;
        added = alone(l2p, [&] { return l2p.add(summary.get(), start, all_doubtful); });
    }
    return nb::make_tuple(copied(added.doubtful), added.blocks, added.seq_sum);
}

nb::tuple parts_not_covered(const GivenValues<uint64_t> &firsts, const GivenValues<uint64_t> &counts, uint64_t end) {
    check_same(firsts.shape(0), counts.shape(0), "uncovered_parts");
    std::vector<uint64_t> ranges, first, count;
    {
        const nb::gil_scoped_release other_threads_run;
        for (const RangePart &part : uncovered_parts(span_of(firsts), span_of(counts), end)) {
            ranges.push_back(part.range);
            first.push_back(part.first);
            count.push_back(part.count);
        }
    }
    return nb::make_tuple(copied(ranges), copied(first), copied(count));
}

}  // namespace

void bind_restored_l2p(nb::module_ &m) {
    PyObject *const page_error = PyErr_NewException("spdk_ftl_py._shim.PageFileError", PyExc_OSError, nullptr);
    m.attr("PageFileError") = nb::borrow(page_error);
    const auto translate = [](const std::exception_ptr &thrown, void *type) {
        try {
            std::rethrow_exception(thrown);
        } catch (const PageFileError &error) {
            const std::string what = std::string(error.what()) + " (" + std::strerror(error.error()) + ")";
            PyErr_SetObject(static_cast<PyObject *>(type), nb::make_tuple(error.error(), what, error.folder()).ptr());
        }
    };
    nb::register_exception_translator(translate, page_error);
    m.def("fail_l2p_pages", &PagedMemory::fail_io, nb::arg("fails"));
    m.def("limit_narrow_l2p", &L2p::limit_narrow, nb::arg("blocks") = L2p::kNarrowBlocksMax);
    m.def(
        "l2p_entry_bytes",
        [](uint64_t base_block_count, uint64_t zone_size, uint64_t zone_capacity) {
            return L2p::entry_bytes(L2p::form_for(addresses_of(base_block_count, zone_size, zone_capacity)));
        },
        nb::arg("base_block_count"), nb::arg("zone_size"), nb::arg("zone_capacity"));
    m.def("uncovered_parts", &parts_not_covered, nb::arg("firsts"), nb::arg("counts"), nb::arg("end"));
    nb::class_<BoundSummary>(m, "Summary")
        .def_static("of", &BoundSummary::of, nb::arg("blocks"), nb::arg("uuid"), nb::arg("band"), nb::arg("punit"))
        .def("rows", &BoundSummary::rows, nb::arg("numbers"))
        .def_prop_ro("row_count", [](const BoundSummary &summary) { return summary.get().row_count(); })
        .def_prop_ro("band_seq", [](const BoundSummary &summary) { return summary.get().band_seq(); })
        .def_prop_ro("highest_seq", [](const BoundSummary &summary) { return summary.get().highest_seq(); })
        .def_prop_ro("record_headers", [](const BoundSummary &summary) { return summary.get().record_headers(); });
    nb::class_<RestoredL2p::Counts>(m, "L2pCounts")
        .def_prop_ro(
            "blocks", [](const RestoredL2p::Counts &counts) { return copied(counts.blocks); }, nb::rv_policy::move)
        .def_prop_ro(
            "records", [](const RestoredL2p::Counts &counts) { return copied(counts.records); }, nb::rv_policy::move)
        .def_ro("known", &RestoredL2p::Counts::known)
        .def_ro("content", &RestoredL2p::Counts::content);
    nb::class_<RestoredL2p>(m, "RestoredL2p")
        .def(
            "__init__",
            [](RestoredL2p *table, uint64_t block_count, uint64_t base_block_count, uint64_t zone_size,
               uint64_t zone_capacity, bool with_crcs, bool with_seqs, bool many_seqs,
               const std::optional<std::string> &page_folder, uint64_t page_memory, uint32_t page_bytes,
               bool page_threads) {
                const ZoneAddresses base = addresses_of(base_block_count, zone_size, zone_capacity);
                new (table) RestoredL2p(block_count, base, with_crcs, with_seqs, many_seqs,
                                        Paging{page_folder.value_or(""), page_memory, 0, page_bytes, page_threads});
            },
            nb::arg("block_count"), nb::arg("base_block_count"), nb::kw_only(), nb::arg("zone_size") = 0,
            nb::arg("zone_capacity") = 0, nb::arg("with_crcs") = false, nb::arg("with_seqs") = true,
            nb::arg("many_seqs") = true, nb::arg("page_folder") = nb::none(), nb::arg("page_memory") = 0,
            nb::arg("page_bytes") = 4096, nb::arg("page_threads") = true)
        .def("assume", &RestoredL2p::assume, nb::arg("seq"))
        .def("add", &add, nb::arg("rows"), nb::arg("addresses"), nb::kw_only(), nb::arg("all_doubtful"))
        .def("add_summary", &add_summary, nb::arg("summary"), nb::arg("start"), nb::kw_only(), nb::arg("all_doubtful"))
        .def("merge", &merge, nb::arg("rows"), nb::arg("addresses"))
        .def("hold", &hold, nb::arg("firsts"), nb::arg("counts"))
        .def("apply_records", &apply_records, nb::arg("firsts"), nb::arg("counts"), nb::arg("seqs"), nb::arg("entries"))
        .def("supersede", &supersede, nb::arg("firsts"), nb::arg("counts"), nb::arg("seqs"))
        .def("copies", &copies)
        .def(
            "entries_of",
            [](const RestoredL2p &l2p, const GivenValues<uint64_t> &lbas) {
                return each(l2p, lbas, "entries_of", [&](uint64_t lba) { return l2p.entry(lba); });
            },
            nb::arg("lbas"))
        .def(
            "seqs_of",
            [](const RestoredL2p &l2p, const GivenValues<uint64_t> &lbas) {
                return each(l2p, lbas, "seqs_of", [&](uint64_t lba) { return l2p.seq(lba); });
            },
            nb::arg("lbas"))
        .def("put", &put, nb::arg("lbas"), nb::arg("entries"), nb::kw_only(), nb::arg("seqs") = nb::none(),
             nb::arg("crcs") = nb::none())
        .def("put_range", &put_range<uint32_t>, nb::arg("first"), nb::arg("entries"), nb::arg("count"))
        .def("put_range", &put_range<uint64_t>, nb::arg("first"), nb::arg("entries"), nb::arg("count"))
        .def("put_crcs", &put_crcs, nb::arg("first"), nb::arg("crcs"), nb::arg("count"))
        .def(
            "l2p",
            [](const RestoredL2p &l2p, uint64_t first, uint64_t count) {
                return range<uint64_t>(l2p, first, count, "l2p", [&](uint64_t lba) { return l2p.peek(lba); });
            },
            nb::arg("first"), nb::arg("count"))
        .def(
            "crcs",
            [](const RestoredL2p &l2p, uint64_t first, uint64_t count) {
                return range<uint16_t>(l2p, first, count, "crcs", [&](uint64_t lba) { return l2p.peek_crc(lba); });
            },
            nb::arg("first"), nb::arg("count"))
        .def("count", &count, nb::arg("zone_size"), nb::arg("zone_count"), nb::kw_only(),
             nb::arg("trim_chunk") = Trims::kChunkBlocks)
        .def(
            "grown",
            [](const RestoredL2p &table, uint64_t block_count, uint64_t base_block_count, uint64_t zone_size,
               uint64_t zone_capacity) {
                const nb::gil_scoped_release released;
                return alone(table, [&] {
                    return table.grown(block_count, addresses_of(base_block_count, zone_size, zone_capacity));
                });
            },
            nb::arg("block_count"), nb::arg("base_block_count"), nb::kw_only(), nb::arg("zone_size") = 0,
            nb::arg("zone_capacity") = 0)
        .def("drop_seqs", &RestoredL2p::drop_seqs, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("block_count", &RestoredL2p::block_count)
        .def_prop_ro("has_crcs", &RestoredL2p::has_crcs);
}

}  // namespace ftl
