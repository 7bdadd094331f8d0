"""A round of the scrub: how far it is and what it has found, as a superblock has it, and how fast it has to go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

DAY_S: Final = 86_400
ROUND_PART: Final = 0.5
"""A round begins after this part of scrub_days: what the last round read first, this one may read last."""
PLANNED_PART: Final = 0.8
"""A round takes this part of the time until the next round begins."""
FLOOR_BLOCKS_PER_S: Final = 256
"""The minimum pace, 1 MiB a second: it does not hurt, and small devices are done soon."""
CATCH_UP_PART: Final = 0.02
"""The maximum pace reads a whole round in this part of scrub_days; for a round that is late because the device was
off."""
SEQ_MAX: Final = (1 << 64) - 1
_LAST_S: Final = 253_402_300_799
"""The last second that has a date."""
_FOUND: Final = ("read_blocks", "bad_blocks", "bad_metadata", "slow_bands", "relocated_bands", "unread_bands")


@dataclass
class Round:
    """One round, from its beginning to its end, as in the superblock."""

    number: int
    began_s: int
    """Unix time."""
    end_seq: int
    """Bands with this seq or a greater one are newer than the round."""
    position: int = 0
    """Bands with this seq or a smaller one are done."""
    ordered: bool = False
    read_blocks: int = 0
    bad_blocks: int = 0
    bad_metadata: int = 0
    slow_bands: int = 0
    relocated_bands: int = 0
    """Bands that are moved because of what the scrub found."""
    unread_bands: int = 0
    """Bands that were skipped because they were to be moved, and can't be moved any more."""
    ended_s: int = 0
    """0: in progress."""

    def add(self, now: Mapping[str, int], before: Mapping[str, int]) -> None:
        """What the shim has counted between the two."""
        self.read_blocks += now["scrub_read_blocks"] - before["scrub_read_blocks"]
        self.bad_blocks += now["scrub_bad_blocks"] - before["scrub_bad_blocks"]
        self.bad_metadata += now["scrub_bad_metadata"] - before["scrub_bad_metadata"]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        found = {name: getattr(self, name) for name in _FOUND}
        ended = {"ended": iso(self.ended_s)} if self.ended_s else {}
        return {"round": self.number, "ordered": self.ordered, "began": iso(self.began_s), **ended, **found}

    @classmethod
    def parse(cls, value: Any) -> Round | None:
        """None for an empty value."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names or not isinstance(value["ordered"], bool):
            return None
        numbers = [number for name, number in value.items() if name != "ordered"]
        if not all(type(number) is int and 0 <= number <= SEQ_MAX for number in numbers):
            return None
        return cls(**value)


def pace(read_blocks: int, remaining: int, period_s: float, spent_s: float) -> int:
    """Blocks a second. read_blocks, remaining: of the round. spent_s: of its period."""
    most = (read_blocks + remaining) / (period_s * CATCH_UP_PART)
    left_s = period_s * ROUND_PART * PLANNED_PART - spent_s
    wanted = min(most, remaining / left_s) if left_s > 0 else most
    return max(FLOOR_BLOCKS_PER_S, int(wanted) + 1)


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, _LAST_S), timezone.utc).isoformat(timespec="seconds")
