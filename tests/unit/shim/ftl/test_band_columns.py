"""_shim.BandColumns: the account of bands in arrays of Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim

BANDS = 40
ROW = np.dtype(_shim.band_row_layout())
FREE, OPEN, CLOSED = int(_shim.BandState.FREE), int(_shim.BandState.OPEN), int(_shim.BandState.CLOSED)
LASTING = 8
TYPES: dict[str, Any] = {
    "valid": np.int64, "seq": np.int64, "opened_seq": np.int64, "data_seq": np.int64, "written": np.int64,
    "stream": np.uint8, "unwritten": np.bool_, "state": np.uint8, "closed": np.bool_,
}  # fmt: skip


def arrays_of(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    arrays = {name: rng.integers(0, 3, BANDS).astype(kind) for name, kind in TYPES.items()}
    arrays["state"] = rng.choice([FREE, OPEN, CLOSED, LASTING], BANDS).astype(np.uint8)
    arrays["closed"] = arrays["state"] == CLOSED
    return arrays


def rows_of(rng: np.random.Generator, count: int) -> NDArray[Any]:
    rows = np.zeros(count, ROW)
    for name in ("seq", "opened_seq", "data_seq", "valid", "written", "stream", "unwritten"):
        rows[name] = rng.integers(0, 3, count)
    rows["faulted_punits"] = rng.choice([0, 0, 0, 1 << 63], count)
    rows["state"] = rng.choice([FREE, OPEN, CLOSED], count)
    rows["band"] = rng.permutation(BANDS)[:count]
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_taken_and_those_are_told_of_whose_place_may_be_another_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = arrays_of(rng)
    before = {name: array.copy() for name, array in arrays.items()}
    columns = _shim.BandColumns(**arrays, lasting_state=LASTING)
    rows = rows_of(rng, int(rng.integers(0, BANDS + 1)))
    turned = []
    for row in rows:
        band = int(row["band"])
        was, now = int(before["state"][band]), int(row["state"])
        now = LASTING if was == LASTING else now
        another_seq = row["seq"] != before["seq"][band] and (was == CLOSED or now == FREE)
        emptied = was == CLOSED and (row["valid"] == 0) != (before["valid"][band] == 0)
        if now != was or row["faulted_punits"] or another_seq or emptied:
            turned.append((band, now, int(row["faulted_punits"])))
    assert columns.take(rows.view(np.uint8)) == turned
    for name in TYPES:
        if name not in ("state", "closed"):
            before[name][rows["band"]] = rows[name]
        assert arrays[name].tolist() == before[name].tolist(), name


def test_rows_that_are_none_change_nothing() -> None:
    rng = np.random.default_rng(1)
    arrays = arrays_of(rng)
    before = {name: array.copy() for name, array in arrays.items()}
    columns = _shim.BandColumns(**arrays, lasting_state=LASTING)
    rows = rows_of(rng, 3)
    with pytest.raises(ValueError, match="no whole rows"):
        columns.take(rows.view(np.uint8)[:-1])
    rows["band"][2] = BANDS
    with pytest.raises(ValueError, match="beyond the last band"):
        columns.take(rows.view(np.uint8))
    assert all((arrays[name] == before[name]).all() for name in TYPES)
    arrays["closed"] = arrays["closed"][1:].copy()
    with pytest.raises(ValueError, match="of one length"):
        _shim.BandColumns(**arrays, lasting_state=LASTING)
    arrays["closed"] = before["closed"].astype(np.int64)
    with pytest.raises(TypeError):
        _shim.BandColumns(**arrays, lasting_state=LASTING)


@pytest.mark.parametrize("room", [-5, 0, 1, 2, 1 << 40])
def test_only_closed_bands_with_data_for_which_there_is_room_are_movable(room: int) -> None:
    rng = np.random.default_rng(room % 97)
    arrays = arrays_of(rng)
    columns = _shim.BandColumns(**arrays, lasting_state=LASTING)
    most = rng.integers(-1, 3, BANDS)
    allowed = rng.integers(0, 2, BANDS).astype(bool)
    valid = arrays["valid"]
    expected = arrays["closed"] & (valid > 0) & (valid <= room) & (valid <= most)
    assert columns.movable(most, room, allowed) == expected.sum()
    assert (allowed == expected).all()
    with pytest.raises(ValueError, match="of one length"):
        columns.movable(most[1:].copy(), room, allowed)
