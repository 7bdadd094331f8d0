"""Bands as Python sees them: the shim's states, which zones they have, which of those went bad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .geometry import Geometry

FREE: Final = "free"
QUEUED: Final = "queued"
OPEN: Final = "open"
CLOSING: Final = "closing"
CLOSED: Final = "closed"
MOVING: Final = "moving"
RESETTING: Final = "resetting"
FAULTED: Final = "faulted"
RETIRED: Final = "retired"
"""Ours alone: no zone left; the shim knows it as free and is never asked to open it."""

BEING_WRITTEN: Final = frozenset({QUEUED, OPEN, CLOSING})


@dataclass
class Band:
    index: int
    zones: list[int | None]
    """Zone numbers by punit; None where one is missing."""
    zone_blocks: int
    state: str = FREE
    seq: int = 0
    stream: int = 0
    valid: int = 0
    written: int = 0
    bad_punits: set[int] = field(default_factory=set)
    """Zones that are not to be written again; replaced once the band is free."""
    relocate: bool = False
    """It is to be emptied, whatever that gains: the base would like a zone of it to be reset."""

    @property
    def capacity(self) -> int:
        """Blocks of data it holds when written in full batches to all zones it has."""
        return self.zone_blocks * sum(1 for zone in self.zones if zone is not None)

    @property
    def capacity_to_come(self) -> int:
        """The same once it was reset, if there is no spare for its bad zones."""
        bad = sum(1 for punit in self.bad_punits if self.zones[punit] is not None)
        return self.capacity - self.zone_blocks * bad

    @property
    def endangered(self) -> bool:
        """Moved first of all, whatever that gains."""
        return self.state == FAULTED or (self.state == CLOSED and (bool(self.bad_punits) or self.relocate))

    @property
    def invalid(self) -> int:
        """Blocks that relocating it gains: also what headers of short batches took."""
        return max(0, self.capacity - self.valid)

    @property
    def room(self) -> int:
        """Blocks of data that can still be written to it, cautiously."""
        return max(0, self.capacity - self.written)


class Bands:
    """All of them, refreshed from the shim's own account before each decision."""

    def __init__(self, geometry: Geometry) -> None:
        self._bands = [Band(index, list(zones), geometry.zone_blocks) for index, zones in enumerate(geometry.bands)]

    def __getitem__(self, index: int) -> Band:
        return self._bands[index]

    def __iter__(self) -> Iterator[Band]:
        return iter(self._bands)

    def __len__(self) -> int:
        return len(self._bands)

    def refresh(self, account: Sequence[dict[str, Any]]) -> None:
        """account: what FtlCore.bands() returns."""
        for band, now in zip(self._bands, account, strict=True):
            band.seq = now["seq"]
            band.stream = now["stream"]
            band.valid = now["valid"]
            band.written = now["written"]
            # A zone that failed is cleared of it by a reset, but we don't trust it again.
            band.bad_punits.update(now["faulted_punits"])
            if band.state != RETIRED:
                band.state = now["state"]

    def retire_empty(self) -> None:
        """After a load: bands that have lost all their zones."""
        for band in self._bands:
            if band.capacity == 0:
                band.state = RETIRED

    def in_state(self, *states: str) -> list[Band]:
        return [band for band in self._bands if band.state in states]

    def free(self) -> list[Band]:
        """Ready to be opened, the one that rested longest first."""
        return sorted(
            (b for b in self._bands if b.state == FREE and not b.bad_punits), key=lambda band: (band.seq, band.index)
        )

    def count(self, states: Iterable[str]) -> int:
        wanted = frozenset(states)
        return sum(1 for band in self._bands if band.state in wanted)
