// SPDX-License-Identifier: BSD-3-Clause
// Takes rows of bands into the arrays that Python keeps of all bands (ftl/media/band.py). With a few hundred rows for
// each decision, numpy would need most of the decision's time for it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bind/bindings.hpp"
#include "ftl/core.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

template <typename T>
using Column = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Limits = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

class BandColumns {
public:
    BandColumns(Column<int64_t> valid, Column<int64_t> seq, Column<int64_t> opened_seq, Column<int64_t> data_seq,
                Column<int64_t> written, Column<uint8_t> stream, Column<bool> unwritten, Column<uint8_t> state,
                Column<bool> closed, uint8_t lasting_state)
        : valid_(std::move(valid)),
          seq_(std::move(seq)),
          opened_seq_(std::move(opened_seq)),
          data_seq_(std::move(data_seq)),
          written_(std::move(written)),
          stream_(std::move(stream)),
          unwritten_(std::move(unwritten)),
          state_(std::move(state)),
          closed_(std::move(closed)),
          lasting_state_(lasting_state) {
        for (const size_t length : {seq_.shape(0), opened_seq_.shape(0), data_seq_.shape(0), written_.shape(0),
                                    stream_.shape(0), unwritten_.shape(0), state_.shape(0), closed_.shape(0)}) {
            if (length != valid_.shape(0)) {
                throw std::invalid_argument("BandColumns: the arrays must be of one length");
            }
        }
    }

    // (band, state, failed punits) of each band whose place among the others may be another one now.
    std::vector<std::tuple<uint32_t, uint8_t, uint64_t>> take(const Rows &bytes) {
        if (bytes.shape(0) % sizeof(BandRow) != 0) {
            throw std::invalid_argument("BandColumns: these are no whole rows");
        }
        const size_t count = bytes.shape(0) / sizeof(BandRow);
        const size_t bands = valid_.shape(0);
        const uint8_t *const first = bytes.data();
        for (size_t i = 0; i < count; ++i) {
            if (row_at(first, i).band >= bands) {
                throw std::invalid_argument("BandColumns: a row is beyond the last band");
            }
        }
        std::vector<std::tuple<uint32_t, uint8_t, uint64_t>> turned;
        // Pointers of its own: the compiler can't know that writing to one array does not move another.
        int64_t *const valid = valid_.data();
        int64_t *const seq = seq_.data();
        int64_t *const opened_seq = opened_seq_.data();
        int64_t *const data_seq = data_seq_.data();
        int64_t *const written = written_.data();
        uint8_t *const stream = stream_.data();
        bool *const unwritten = unwritten_.data();
        const uint8_t *const state = state_.data();
        const bool *const closed = closed_.data();
        for (size_t i = 0; i < count; ++i) {
            const BandRow row = row_at(first, i);
            const uint32_t band = row.band;
            const uint8_t now = state[band] == lasting_state_ ? lasting_state_ : row.state;
            // Of bands in another state nothing depends on the seq or on what is valid.
            const bool may_rest = closed[band] || now == static_cast<uint8_t>(BandState::free);
            if (now != state[band] || row.faulted_punits != 0 ||
                (may_rest && static_cast<int64_t>(row.seq) != seq[band]) ||
                (closed[band] && (row.valid == 0) != (valid[band] == 0))) {
                turned.emplace_back(band, now, row.faulted_punits);
            }
            valid[band] = row.valid;
            seq[band] = static_cast<int64_t>(row.seq);
            opened_seq[band] = static_cast<int64_t>(row.opened_seq);
            data_seq[band] = static_cast<int64_t>(row.data_seq);
            written[band] = row.written;
            stream[band] = row.stream;
            unwritten[band] = row.unwritten != 0;
        }
        return turned;
    }

    // Which bands a move may empty: closed, something in force in them, but no more than room and most_valid[band].
    // Returns how many.
    size_t movable(const Limits &most_valid, int64_t room, const Column<bool> &allowed) const {
        const size_t bands = valid_.shape(0);
        if (most_valid.shape(0) != bands || allowed.shape(0) != bands) {
            throw std::invalid_argument("BandColumns: the arrays must be of one length");
        }
        const int64_t *const valid = valid_.data();
        const bool *const closed = closed_.data();
        const int64_t *const most = most_valid.data();
        bool *const result = allowed.data();
        size_t count = 0;
        for (size_t band = 0; band < bands; ++band) {
            const bool few_enough = valid[band] <= std::min(most[band], room);
            result[band] = closed[band] && valid[band] > 0 && few_enough;
            count += result[band] ? 1 : 0;
        }
        return count;
    }

private:
    static BandRow row_at(const uint8_t *first, size_t i) noexcept {
        BandRow row;
        std::memcpy(&row, first + i * sizeof(BandRow), sizeof(BandRow));
        return row;
    }

    Column<int64_t> valid_;
    Column<int64_t> seq_;
    Column<int64_t> opened_seq_;
    Column<int64_t> data_seq_;
    Column<int64_t> written_;
    Column<uint8_t> stream_;
    Column<bool> unwritten_;
    Column<uint8_t> state_;
    Column<bool> closed_;
    uint8_t lasting_state_;
};

}  // namespace

void bind_band_columns(nb::module_ &m) {
    nb::class_<BandColumns>(m, "BandColumns")
        .def(nb::init<Column<int64_t>, Column<int64_t>, Column<int64_t>, Column<int64_t>, Column<int64_t>,
                      Column<uint8_t>, Column<bool>, Column<uint8_t>, Column<bool>, uint8_t>(),
             nb::kw_only(), nb::arg("valid").noconvert(), nb::arg("seq").noconvert(), nb::arg("opened_seq").noconvert(),
             nb::arg("data_seq").noconvert(), nb::arg("written").noconvert(), nb::arg("stream").noconvert(),
             nb::arg("unwritten").noconvert(), nb::arg("state").noconvert(), nb::arg("closed").noconvert(),
             nb::arg("lasting_state"))
        .def("take", &BandColumns::take, nb::arg("rows").noconvert())
        .def("movable", &BandColumns::movable, nb::arg("most_valid").noconvert(), nb::arg("room"),
             nb::arg("allowed").noconvert());
}

}  // namespace ftl
