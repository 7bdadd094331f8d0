"""What the torture says of scrubs that find too much."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.torture.scrubbing import Scrubbing

ROTTEN = {(700, 3), (900, 4)}


class FakeScrubs:
    """Of a device: what the last scrub of a band has told, and how many rounds have begun."""

    def __init__(self) -> None:
        self.told: Any = SimpleNamespace(ended=0, end=_shim.ScrubEnd.READ, address=0)
        self.number = 1
        scrub = SimpleNamespace(
            rounds=0, ordered=True, to_dict=lambda: {"round": {"number": self.number}, "last": None}
        )
        core = SimpleNamespace(scrub_status=lambda: self.told)
        self.device: Any = SimpleNamespace(core=core, scrub=scrub, state=None)


@pytest.mark.parametrize(
    ("end", "address", "wrong"),
    [
        (_shim.ScrubEnd.READ, 0, 0),
        (_shim.ScrubEnd.BAD, 700, 0),
        (_shim.ScrubEnd.BAD, 701, 1),
        (_shim.ScrubEnd.LEFT, 0, 0),
        (_shim.ScrubEnd.BUSY, 0, 0),
    ],
)
def test_a_block_that_is_found_bad_and_has_not_rotted_is_wrong_also_where_others_have(
    end: _shim.ScrubEnd, address: int, wrong: int
) -> None:
    scrubs = FakeScrubs()
    watched = Scrubbing(scrubs.device, random.Random(1), ROTTEN)
    assert list(watched.pump()) == []
    scrubs.told = SimpleNamespace(ended=1, end=end, address=address)
    assert [violation.kind for violation in watched.pump()] == ["damaged"] * wrong
    assert list(watched.pump()) == [], "it is said once"


@pytest.mark.parametrize(
    ("rotten", "rounds", "bad", "metadata", "wrong"),
    [
        (0, 3, 0, 0, 0),
        (0, 3, 1, 0, 1),
        (2, 1, 4, 0, 0),
        (2, 1, 5, 0, 1),
        (2, 3, 12, 0, 0),
        (2, 3, 13, 0, 1),
        (2, 3, 0, 1, 1),
    ],
)
def test_more_that_is_found_than_has_rotted_is_wrong(
    rotten: int, rounds: int, bad: int, metadata: int, wrong: int
) -> None:
    scrubs = FakeScrubs()
    watched = Scrubbing(scrubs.device, random.Random(1), set(sorted(ROTTEN)[:rotten]))
    scrubs.number += rounds - 1
    stats: Any = SimpleNamespace(scrub_bad_blocks=bad, scrub_bad_metadata=metadata)
    found = list(watched.alarms(stats))
    assert len(found) == wrong
