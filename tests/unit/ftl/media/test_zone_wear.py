"""Counts of resets: what the superblock takes of them, and what is made of what it holds."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdk_ftl_py.ftl.media.superblock import Superblock
from spdk_ftl_py.ftl.media.zone_wear import ZoneWear
from unit.ftl.media.media_rig import UUID_A


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=300))
def test_what_is_stored_comes_back(counts: list[int]) -> None:
    wear = ZoneWear(len(counts))
    wear.counts[:] = counts
    stored = json.loads(json.dumps(wear.to_dict()))
    assert ZoneWear(len(counts), stored).counts.tolist() == counts
    # As after a growth of the base.
    assert ZoneWear(len(counts) + 3, stored).counts.tolist() == [*counts, 0, 0, 0]


def test_each_reset_counts_up_to_the_largest_number() -> None:
    wear = ZoneWear(4)
    wear.counts[3] = (1 << 32) - 2
    for _ in range(3):
        wear.add([1, 3])
    wear.add_counted({0: 7, 3: 5})
    wear.add([])
    assert wear.counts.tolist() == [7, 3, 0, (1 << 32) - 1]
    assert wear.unsaved == 3 * 2 + 12
    wear.to_dict()
    assert wear.unsaved == 0


@pytest.mark.parametrize(
    "stored",
    [
        7,
        [],
        {},
        {"resets": 3},
        {"resets": "no base64"},
        {"resets": "AAAA"},
        {"least": "many"},
        {"least": -1},
        {"least": 1 << 40},
        ZoneWear(5).to_dict(),
        {"resets": ZoneWear(1 << 20).to_dict()["resets"]},
    ],
    ids=str,
)
def test_nonsense_counts_as_zero_and_is_logged(stored: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert ZoneWear(4, stored).counts.tolist() == [0] * 4
    assert "counts of zone resets are invalid" in caplog.text


def test_an_older_superblock_has_none(caplog: pytest.LogCaptureFixture) -> None:
    assert ZoneWear(4, None).counts.tolist() == [0] * 4
    assert caplog.text == ""


def test_the_short_form_is_never_too_high() -> None:
    wear = ZoneWear(3)
    wear.counts[:] = [9, 5, 7]
    assert ZoneWear(4, wear.to_short_dict()).counts.tolist() == [5] * 4
    assert ZoneWear(0).to_short_dict() == {"least": 0}


def test_tens_of_thousands_of_zones_take_a_few_blocks() -> None:
    zones = 40_000
    rng = np.random.default_rng(1)
    wear = ZoneWear(zones)
    wear.counts[:] = rng.integers(5_000, 5_200, zones)
    blocks = Superblock(UUID_A, 7, True, {"wear": wear.to_dict()}).build().reshape(-1, 4096)
    assert len(blocks) <= 12
    small = ZoneWear(904)
    small.counts[:] = rng.integers(100, 140, 904)
    assert len(json.dumps(small.to_dict())) < 1100
