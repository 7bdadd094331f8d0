"""One round of the scrub: its progress and results, as the superblock stores them, and its pace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

DAY_S: Final = 86_400
ROUND_PART: Final = 0.5
"""A round begins after this part of scrub_days. A block that the last round read first may be the last one that this
round reads."""
PLANNED_PART: Final = 0.8
"""A round is planned to take this part of the time until the next round begins."""
FLOOR_BLOCKS_PER_S: Final = 256
"""The minimum pace, 1 MiB a second. It costs hosts little, and small devices are done soon."""
CATCH_UP_PART: Final = 0.02
"""The maximum pace reads a whole round in this part of scrub_days. A round runs at it when it is late because the
device was off."""
SEQ_MAX: Final = (1 << 64) - 1
_LAST_S: Final = 253_402_300_799
"""The last second that a date can express."""
_FOUND: Final = ("read_blocks", "bad_blocks", "bad_metadata", "slow_bands", "relocated_bands", "unread_bands")


@dataclass
class Round:
    """One round, from beginning to end, as the superblock stores it."""

    number: int
    began_s: int
    """Unix time."""
    end_seq: int
    """Bands with this or a greater seq are newer than the round."""
    position: int = 0
    """Bands with this or a smaller seq are done."""
    ordered: bool = False
    read_blocks: int = 0
    bad_blocks: int = 0
    bad_metadata: int = 0
    slow_bands: int = 0
    relocated_bands: int = 0
    """Bands that are relocated because of a scrub result."""
    unread_bands: int = 0
    """Bands that the scrub skipped because they were to be relocated, and that can no longer be relocated."""
    ended_s: int = 0
    """0: in progress."""

    def add(self, now: Mapping[str, int], before: Mapping[str, int]) -> None:
        """Adds what the shim has counted between the two samples."""
        self.read_blocks += now["scrub_read_blocks"] - before["scrub_read_blocks"]
        self.bad_blocks += now["scrub_bad_blocks"] - before["scrub_bad_blocks"]
        self.bad_metadata += now["scrub_bad_metadata"] - before["scrub_bad_metadata"]

    def describe(self) -> dict[str, Any]:
        """A summary of the round, as JSON-able values."""
        found = {name: getattr(self, name) for name in _FOUND}
        ended = {"ended": iso(self.ended_s)} if self.ended_s else {}
        return {"round": self.number, "ordered": self.ordered, "began": iso(self.began_s), **ended, **found}

    @classmethod
    def parse(cls, value: Any) -> Round | None:
        """Reads a round from the superblock. Returns None if value is not a round, such as an empty value."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names or not isinstance(value["ordered"], bool):
            return None
        numbers = [number for name, number in value.items() if name != "ordered"]
        if not all(type(number) is int and 0 <= number <= SEQ_MAX for number in numbers):
            return None
        return cls(**value)


def pace(read_blocks: int, remaining: int, period_s: float, spent_s: float) -> int:
    """Returns the pace in blocks a second. read_blocks, remaining: of the round. spent_s: the part of period_s that has
    passed."""
    most = (read_blocks + remaining) / (period_s * CATCH_UP_PART)
    left_s = period_s * ROUND_PART * PLANNED_PART - spent_s
    wanted = min(most, remaining / left_s) if left_s > 0 else most
    return max(FLOOR_BLOCKS_PER_S, int(wanted) + 1)


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, _LAST_S), timezone.utc).isoformat(timespec="seconds")
