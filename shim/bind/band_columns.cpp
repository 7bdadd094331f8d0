// SPDX-License-Identifier: BSD-3-Clause
// Takes rows of bands into the arrays that Python keeps of all bands (ftl/media/band.py). With a few hundred rows for
// each decision, numpy would need most of the decision's time for it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "bind/bindings.hpp"
#include "ftl/core.hpp"
#include "ftl/placement.hpp"

namespace nb = nanobind;

namespace ftl {
namespace {

template <typename T>
using Column = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Limits = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kStates = 10;  // with those that only Python has
constexpr uint8_t code(BandState state) {
    return static_cast<uint8_t>(state);
}

// Numbers of bands, in no certain order.
class BandSet {
public:
    explicit BandSet(size_t bands) : place_(bands) {}
    void add(uint32_t band) {
        place_[band] = static_cast<uint32_t>(bands_.size());
        bands_.push_back(band);
    }
    void remove(uint32_t band) noexcept {
        const uint32_t last = bands_.back();
        bands_[place_[band]] = last;
        place_[last] = place_[band];
        bands_.pop_back();
    }
    [[nodiscard]] const std::vector<uint32_t> &bands() const noexcept { return bands_; }

private:
    std::vector<uint32_t> bands_;
    std::vector<uint32_t> place_;
};

class BandColumns {
public:
    BandColumns(Column<int64_t> valid, Column<int64_t> seq, Column<int64_t> opened_seq, Column<int64_t> data_seq,
                Column<int64_t> capacity, Column<int64_t> written, Column<uint8_t> stream, Column<bool> unwritten,
                Column<uint8_t> state, Column<bool> closed, Column<bool> faulted, Column<int64_t> counts,
                Column<int64_t> rooms, Column<int64_t> queued, Column<int64_t> writing, uint8_t lasting_state)
        : valid_(std::move(valid)),
          seq_(std::move(seq)),
          opened_seq_(std::move(opened_seq)),
          data_seq_(std::move(data_seq)),
          capacity_(std::move(capacity)),
          written_(std::move(written)),
          stream_(std::move(stream)),
          unwritten_(std::move(unwritten)),
          state_(std::move(state)),
          closed_(std::move(closed)),
          faulted_(std::move(faulted)),
          counts_(std::move(counts)),
          rooms_(std::move(rooms)),
          queued_(std::move(queued)),
          writing_(std::move(writing)),
          lasting_state_(lasting_state),
          few_{few(), few(), few(), few(), few(), few(), few(), few()} {
        for (const size_t length :
             {seq_.shape(0), opened_seq_.shape(0), data_seq_.shape(0), capacity_.shape(0), written_.shape(0),
              stream_.shape(0), unwritten_.shape(0), state_.shape(0), closed_.shape(0), faulted_.shape(0)}) {
            if (length != valid_.shape(0)) {
                throw std::invalid_argument("BandColumns: the arrays must be of one length");
            }
        }
        if (counts_.shape(0) != kStates || rooms_.shape(0) != kClassesMax || queued_.shape(0) != kClassesMax ||
            writing_.shape(0) != kClassesMax) {
            throw std::invalid_argument("BandColumns: one count for each state, and for each class, is needed");
        }
        for (uint32_t band = 0; band < valid_.shape(0); ++band) {
            enter(band, state_(band));
        }
        add_up();
    }

    // (band, state, failed punits) of each band that Python has to file. Others in another state are filed.
    std::vector<std::tuple<uint32_t, uint8_t, uint64_t>> take(const Rows &bytes) {
        if (bytes.shape(0) % sizeof(BandRow) != 0) {
            throw std::invalid_argument("BandColumns: these are no whole rows");
        }
        const size_t count = bytes.shape(0) / sizeof(BandRow);
        const size_t bands = valid_.shape(0);
        const uint8_t *const first = bytes.data();
        for (size_t i = 0; i < count; ++i) {
            const BandRow row = row_at(first, i);
            if (row.band >= bands) {
                throw std::invalid_argument("BandColumns: a row is beyond the last band");
            }
            if (row.state >= kStates || row.stream >= kClassesMax) {
                throw std::invalid_argument("BandColumns: a row has no state or no class that there is");
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
                if (row.faulted_punits != 0 || !is_simple(state[band], now, row.valid)) {
                    turned.emplace_back(band, now, row.faulted_punits);
                } else {
                    move(band, now);
                }
            }
            valid[band] = row.valid;
            seq[band] = static_cast<int64_t>(row.seq);
            opened_seq[band] = static_cast<int64_t>(row.opened_seq);
            data_seq[band] = static_cast<int64_t>(row.data_seq);
            written[band] = row.written;
            stream[band] = row.stream;
            unwritten[band] = row.unwritten != 0;
        }
        add_up();
        return turned;
    }

    // Puts the band among those of its new state. Returns the state before.
    uint8_t file(uint32_t band, uint8_t now) {
        if (band >= valid_.shape(0) || now >= kStates) {
            throw std::invalid_argument("BandColumns: there is no such band or state");
        }
        const uint8_t before = state_(band);
        move(band, now);
        if (is_written(before) || is_written(now)) {
            add_up();
        }
        return before;
    }

    // The bands in a state in which only few bands are; in no certain order.
    [[nodiscard]] const std::vector<uint32_t> &in_state(uint8_t state) const {
        if (state >= kFewStates || !is_few(state)) {
            throw std::invalid_argument("BandColumns: the bands in this state are not listed");
        }
        return few_[state].bands();
    }
    [[nodiscard]] int64_t moving_valid() const noexcept { return sum(valid_, BandState::moving); }
    [[nodiscard]] int64_t resetting_capacity() const noexcept { return sum(capacity_, BandState::resetting); }

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
    static constexpr size_t kFewStates = code(BandState::faulted) + 1;

    static constexpr bool is_few(uint8_t state) noexcept {
        return state < kFewStates && state != code(BandState::free) && state != code(BandState::closed);
    }
    static constexpr bool is_written(uint8_t state) noexcept {
        return state == code(BandState::queued) || state == code(BandState::open);
    }
    static constexpr bool is_closed(uint8_t state) noexcept {
        return state == code(BandState::closed) || state == code(BandState::faulted);
    }
    // Python keeps nothing that depends on such a change.
    static constexpr bool is_simple(uint8_t before, uint8_t now, uint32_t valid) noexcept {
        return before != code(BandState::free) && now != code(BandState::free) && !is_closed(before) &&
               (!is_closed(now) || valid > 0);
    }
    [[nodiscard]] BandSet few() const { return BandSet(valid_.shape(0)); }
    [[nodiscard]] int64_t sum(const Column<int64_t> &column, BandState state) const noexcept {
        int64_t all = 0;
        for (const uint32_t band : few_[code(state)].bands()) {
            all += column(band);
        }
        return all;
    }
    void enter(uint32_t band, uint8_t state) {
        if (is_few(state)) {
            few_[state].add(band);
        }
    }
    void move(uint32_t band, uint8_t now) {
        const uint8_t before = state_(band);
        if (before == now) {
            return;
        }
        enter(band, now);
        if (is_few(before)) {
            few_[before].remove(band);
        }
        --counts_(before);
        ++counts_(now);
        state_(band) = now;
        closed_(band) = is_closed(now);
        faulted_(band) = now == code(BandState::faulted);
    }
    // Of each class, the bands that are written or will be next.
    void add_up() noexcept {
        std::fill_n(rooms_.data(), kClassesMax, 0);
        std::fill_n(queued_.data(), kClassesMax, 0);
        std::fill_n(writing_.data(), kClassesMax, 0);
        for (const BandState state : {BandState::queued, BandState::open}) {
            for (const uint32_t band : few_[code(state)].bands()) {
                const uint8_t stream = stream_(band) % kClassesMax;
                rooms_(stream) += std::max<int64_t>(0, capacity_(band) - written_(band));
                queued_(stream) += state == BandState::queued ? 1 : 0;
                ++writing_(stream);
            }
        }
    }
    static BandRow row_at(const uint8_t *first, size_t i) noexcept {
        BandRow row;
        std::memcpy(&row, first + i * sizeof(BandRow), sizeof(BandRow));
        return row;
    }

    Column<int64_t> valid_;
    Column<int64_t> seq_;
    Column<int64_t> opened_seq_;
    Column<int64_t> data_seq_;
    Column<int64_t> capacity_;
    Column<int64_t> written_;
    Column<uint8_t> stream_;
    Column<bool> unwritten_;
    Column<uint8_t> state_;
    Column<bool> closed_;
    Column<bool> faulted_;
    Column<int64_t> counts_;   // of bands, by state
    Column<int64_t> rooms_;    // by class, like the next ones
    Column<int64_t> queued_;   // bands
    Column<int64_t> writing_;  // bands, with the queued ones
    uint8_t lasting_state_;
    std::array<BandSet, kFewStates> few_;  // by state, the bands in it if is_few()
};

// The allowed band with the greatest merit, of equal ones the first, and that merit. If the merit of an allowed band is
// not a number, it is that band.
template <typename T>
std::pair<size_t, double> best_band(
    const nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu> &merits,
    const nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu> &alloweds) {
    const size_t count = merits.shape(0);
    if (alloweds.shape(0) != count) {
        throw std::invalid_argument("best_band: the arrays must be of one length");
    }
    const T *const merit = merits.data();
    const bool *const allowed = alloweds.data();
    size_t best = count;
    for (size_t band = 0; band < count; ++band) {
        if (!allowed[band]) {
            continue;
        }
        if constexpr (std::is_floating_point_v<T>) {
            if (std::isnan(merit[band])) {
                return {band, merit[band]};
            }
        }
        if (best == count || merit[band] > merit[best]) {
            best = band;
        }
    }
    if (best == count) {
        throw std::invalid_argument("best_band: no band is allowed");
    }
    return {best, static_cast<double>(merit[best])};
}

}  // namespace

void bind_band_columns(nb::module_ &m) {
    nb::class_<BandColumns>(m, "BandColumns")
        .def(nb::init<Column<int64_t>, Column<int64_t>, Column<int64_t>, Column<int64_t>, Column<int64_t>,
                      Column<int64_t>, Column<uint8_t>, Column<bool>, Column<uint8_t>, Column<bool>, Column<bool>,
                      Column<int64_t>, Column<int64_t>, Column<int64_t>, Column<int64_t>, uint8_t>(),
             nb::kw_only(), nb::arg("valid").noconvert(), nb::arg("seq").noconvert(), nb::arg("opened_seq").noconvert(),
             nb::arg("data_seq").noconvert(), nb::arg("capacity").noconvert(), nb::arg("written").noconvert(),
             nb::arg("stream").noconvert(), nb::arg("unwritten").noconvert(), nb::arg("state").noconvert(),
             nb::arg("closed").noconvert(), nb::arg("faulted").noconvert(), nb::arg("counts").noconvert(),
             nb::arg("rooms").noconvert(), nb::arg("queued").noconvert(), nb::arg("writing").noconvert(),
             nb::arg("lasting_state"))
        .def("take", &BandColumns::take, nb::arg("rows").noconvert())
        .def("movable", &BandColumns::movable, nb::arg("most_valid").noconvert(), nb::arg("room"),
             nb::arg("allowed").noconvert())
        .def("file", &BandColumns::file, nb::arg("band"), nb::arg("state"))
        .def("in_state", &BandColumns::in_state, nb::arg("state"))
        .def("moving_valid", &BandColumns::moving_valid)
        .def("resetting_capacity", &BandColumns::resetting_capacity);
    m.def("best_band", &best_band<double>, nb::arg("merit").noconvert(), nb::arg("allowed").noconvert());
    m.def("best_band", &best_band<int64_t>, nb::arg("merit").noconvert(), nb::arg("allowed").noconvert());
}

}  // namespace ftl
