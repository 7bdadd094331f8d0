"""_shim.BandColumns: the account of bands in arrays of Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim

BANDS = 40
ROW = np.dtype(_shim.band_row_layout())
FREE, QUEUED, OPEN, CLOSING, CLOSED, MOVING, RESETTING, FAULTED, LASTING, UNKNOWN = range(10)
LISTED = (QUEUED, OPEN, CLOSING, MOVING, RESETTING, FAULTED)
CLASSES = 8
TYPES: dict[str, Any] = {
    "valid": np.int64, "seq": np.int64, "opened_seq": np.int64, "data_seq": np.int64, "capacity": np.int64,
    "written": np.int64, "stream": np.uint8, "unwritten": np.bool_, "state": np.uint8, "closed": np.bool_,
    "faulted": np.bool_,
}  # fmt: skip
KEPT = ("capacity", "state", "closed", "faulted")
"""Of these, take() sets none to what is in a row."""


def arrays_of(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    arrays = {name: rng.integers(0, 3, BANDS).astype(kind) for name, kind in TYPES.items()}
    arrays["state"] = rng.integers(FREE, UNKNOWN, BANDS).astype(np.uint8)
    arrays["closed"] = np.isin(arrays["state"], (CLOSED, FAULTED))
    arrays["faulted"] = arrays["state"] == FAULTED
    return arrays


def counts_of(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """As BandColumns keeps them."""
    state, stream = arrays["state"], arrays["stream"]
    of = {name: np.zeros(CLASSES, np.int64) for name in ("rooms", "queued", "writing")}
    for band in np.flatnonzero(np.isin(state, (QUEUED, OPEN))).tolist():
        of["rooms"][stream[band]] += max(0, arrays["capacity"][band] - arrays["written"][band])
        of["queued"][stream[band]] += state[band] == QUEUED
        of["writing"][stream[band]] += 1
    return {"counts": np.bincount(state, minlength=10).astype(np.int64), **of}


def check(columns: _shim.BandColumns, arrays: dict[str, NDArray[Any]], counts: dict[str, NDArray[np.int64]]) -> None:
    state = arrays["state"]
    assert {name: array.tolist() for name, array in counts.items()} == {
        name: array.tolist() for name, array in counts_of(arrays).items()
    }
    for each in LISTED:
        assert sorted(columns.in_state(each)) == np.flatnonzero(state == each).tolist()
    assert columns.moving_valid() == arrays["valid"][state == MOVING].sum()
    assert columns.resetting_capacity() == arrays["capacity"][state == RESETTING].sum()
    assert (arrays["closed"] == np.isin(state, (CLOSED, FAULTED))).all()
    assert (arrays["faulted"] == (state == FAULTED)).all()


def rows_of(rng: np.random.Generator, count: int) -> NDArray[Any]:
    rows = np.zeros(count, ROW)
    for name in ("seq", "opened_seq", "data_seq", "valid", "written", "stream", "unwritten"):
        rows[name] = rng.integers(0, 3, count)
    rows["faulted_punits"] = rng.choice([0, 0, 0, 1 << 63], count)
    rows["state"] = rng.integers(FREE, LASTING, count)
    rows["band"] = rng.permutation(BANDS)[:count]
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_taken_and_those_are_told_of_that_python_has_to_file(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = arrays_of(rng)
    counts = counts_of(arrays)
    before = {name: array.copy() for name, array in arrays.items()}
    columns = _shim.BandColumns(**arrays, **counts, lasting_state=LASTING)
    check(columns, arrays, counts)
    rows = rows_of(rng, int(rng.integers(0, BANDS + 1)))
    turned = []
    for row in rows:
        band = int(row["band"])
        was, now = int(before["state"][band]), int(row["state"])
        now = LASTING if was == LASTING else now
        was_closed = was in (CLOSED, FAULTED)
        another_seq = row["seq"] != before["seq"][band] and (was_closed or now == FREE)
        emptied = was_closed and (row["valid"] == 0) != (before["valid"][band] == 0)
        known = FREE in (was, now) or was_closed or (now in (CLOSED, FAULTED) and row["valid"] == 0)
        if row["faulted_punits"] or another_seq or emptied or (now != was and known):
            turned.append((band, now, int(row["faulted_punits"])))
        elif now != was:
            before["state"][band] = now
    assert columns.take(rows.view(np.uint8)) == turned
    for name in TYPES:
        if name not in KEPT:
            before[name][rows["band"]] = rows[name]
        if name not in ("closed", "faulted"):
            assert arrays[name].tolist() == before[name].tolist(), name
    check(columns, arrays, counts)
    for band, now, _ in turned:
        assert columns.file(band, now) == before["state"][band]
    assert all(arrays["state"][band] == now for band, now, _ in turned)
    check(columns, arrays, counts)


def test_bands_are_filed_by_state() -> None:
    rng = np.random.default_rng(3)
    arrays = arrays_of(rng)
    counts = counts_of(arrays)
    columns = _shim.BandColumns(**arrays, **counts, lasting_state=LASTING)
    for _ in range(500):
        band, now = int(rng.integers(BANDS)), int(rng.integers(10))
        was = arrays["state"][band]
        assert columns.file(band, now) == was
        assert arrays["state"][band] == now
        check(columns, arrays, counts)
    for band, now in ((BANDS, OPEN), (0, 10)):
        with pytest.raises(ValueError, match="no such band or state"):
            columns.file(band, now)
    for state in (FREE, CLOSED, LASTING, 200):
        with pytest.raises(ValueError, match="not listed"):
            columns.in_state(state)


def test_rows_that_are_none_change_nothing() -> None:
    rng = np.random.default_rng(1)
    arrays = arrays_of(rng)
    before = {name: array.copy() for name, array in arrays.items()}
    columns = _shim.BandColumns(**arrays, **counts_of(arrays), lasting_state=LASTING)
    rows = rows_of(rng, 3)
    with pytest.raises(ValueError, match="no whole rows"):
        columns.take(rows.view(np.uint8)[:-1])
    rows["band"][2] = BANDS
    with pytest.raises(ValueError, match="beyond the last band"):
        columns.take(rows.view(np.uint8))
    for name, value in (("state", 10), ("stream", CLASSES)):
        rows = rows_of(rng, 3)
        rows[name][2] = value
        with pytest.raises(ValueError, match="no state or no class"):
            columns.take(rows.view(np.uint8))
    assert all((arrays[name] == before[name]).all() for name in TYPES)
    counts = counts_of(arrays)
    with pytest.raises(ValueError, match="one count for each state"):
        _shim.BandColumns(**arrays, **{**counts, "rooms": counts["counts"]}, lasting_state=LASTING)
    arrays["closed"] = arrays["closed"][1:].copy()
    with pytest.raises(ValueError, match="of one length"):
        _shim.BandColumns(**arrays, **counts, lasting_state=LASTING)
    arrays["closed"] = before["closed"].astype(np.int64)
    with pytest.raises(TypeError):
        _shim.BandColumns(**arrays, **counts_of(arrays), lasting_state=LASTING)


@pytest.mark.parametrize("room", [-5, 0, 1, 2, 1 << 40])
def test_only_closed_bands_with_data_for_which_there_is_room_are_movable(room: int) -> None:
    rng = np.random.default_rng(room % 97)
    arrays = arrays_of(rng)
    columns = _shim.BandColumns(**arrays, **counts_of(arrays), lasting_state=LASTING)
    most = rng.integers(-1, 3, BANDS)
    allowed = rng.integers(0, 2, BANDS).astype(bool)
    valid = arrays["valid"]
    expected = arrays["closed"] & (valid > 0) & (valid <= room) & (valid <= most)
    assert columns.movable(most, room, allowed) == expected.sum()
    assert (allowed == expected).all()
    with pytest.raises(ValueError, match="of one length"):
        columns.movable(most[1:].copy(), room, allowed)


@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_the_best_band_is_the_first_allowed_one_with_the_greatest_merit(kind: type) -> None:
    rng = np.random.default_rng(9)
    for _ in range(200):
        merit = rng.integers(-3, 4, BANDS).astype(kind)
        allowed = rng.random(BANDS) < rng.random()
        allowed[rng.integers(BANDS)] = True
        number, best = _shim.best_band(merit, allowed)
        assert number == np.flatnonzero(allowed & (merit == merit[allowed].max()))[0]
        assert best == merit[number]
    with pytest.raises(ValueError, match="no band is allowed"):
        _shim.best_band(merit, np.zeros(BANDS, bool))
    with pytest.raises(ValueError, match="of one length"):
        _shim.best_band(merit, allowed[1:].copy())


def test_a_merit_that_is_no_number_is_found_among_the_allowed_bands() -> None:
    allowed = np.array([False, True, True, True])
    merit = np.array([np.nan, np.inf, np.nan, 7.0])
    number, best = _shim.best_band(merit, allowed)
    assert number == 2
    assert best != best
    assert _shim.best_band(np.full(4, -np.inf), allowed) == (1, -np.inf)
