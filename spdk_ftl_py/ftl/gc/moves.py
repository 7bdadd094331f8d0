"""Which bands are being moved, and why each of them was chosen."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..media.band import MOVING, Bands
from ..policy.pacing import MoveSize

ENDANGERED: Final = "endangered"
"""A zone of the band has failed, or the base recommends a reset of one."""
URGENT: Final = "urgent"
"""So few bands are free that any gain justifies the move."""
THRESHOLD: Final = "threshold"
"""Enough of the band is invalid (conf invalid_thld)."""
WORN: Final = "worn"
"""The band was reset too rarely. The move need not gain anything."""


class Move(NamedTuple):
    """A band, as it was when it was chosen. Lengths are in blocks; age: bands opened since."""

    band: int
    why: str
    valid: int
    invalid: int
    age: int
    merit: float


class Moves:
    """The moves in progress."""

    def __init__(self) -> None:
        self._moves: dict[int, Move] = {}
        self._line: list[MoveSize] = []
        self._worn: list[bool] = []
        self._endangered = False
        self._found_at = -1
        """Bands.moving_changes when these were found."""

    def began(
        self, bands: Bands, number: int, merit: float, *, next_band_seq: int, urgent: bool, worn: bool = False
    ) -> None:
        """The band was chosen for its merit, or (worn) to level wear; call it before the state of the band changes."""
        moving = bands.moving()
        self._moves = {each: move for each, move in self._moves.items() if each in moving}
        why = WORN if worn else ENDANGERED if bands.is_endangered(number) else URGENT if urgent else THRESHOLD
        valid, capacity = bands.one.valid[number], bands.one.capacity[number]
        age = max(1, next_band_seq - bands.one.seq[number])
        self._moves[number] = Move(number, why, valid, max(0, capacity - valid), age, merit)
        self._found_at = -1

    def in_line(self, bands: Bands) -> list[MoveSize]:
        """In the order in which they began."""
        if self._found_at != bands.moving_changes:
            self._find(bands)
        return self._line

    def worn(self, bands: Bands) -> list[bool]:
        """Of each move in line, whether it levels wear."""
        if self._found_at != bands.moving_changes:
            self._find(bands)
        return self._worn

    def _find(self, bands: Bands) -> None:
        moving = bands.moving()
        moves = [move for number, move in self._moves.items() if number in moving]
        valid, capacity = bands.one.valid, bands.one.capacity_to_come
        self._line = [MoveSize(move.valid, valid[move.band], capacity[move.band]) for move in moves]
        self._worn = [move.why == WORN for move in moves]
        self._endangered = ENDANGERED in [move.why for move in moves]
        self._found_at = bands.moving_changes

    def endangered(self, bands: Bands) -> bool:
        """Whether a band is moved because its data is in danger."""
        if self._found_at != bands.moving_changes:
            self._find(bands)
        return self._endangered

    def tell(self, bands: Bands) -> list[dict[str, Any]]:
        """JSON-able, for bdev_ftl_get_stats; left_blocks: what is still in force in the band."""
        moving = {band.index: band.valid for band in bands.in_state(MOVING)}
        return [
            {
                "band": move.band,
                "why": move.why,
                "valid_blocks": move.valid,
                "invalid_blocks": move.invalid,
                "left_blocks": moving[move.band],
                "age": move.age,
                "merit": round(move.merit, 3),
            }
            for move in self._moves.values()
            if move.band in moving
        ]
