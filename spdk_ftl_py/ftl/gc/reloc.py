"""Which band to relocate next. The policy says what is best; ``choose()`` says what is allowed.

Invariants, whatever the policy (docs/ftl.md):
- a band is moved only if that frees more than the move itself can waste, so free space never shrinks;
- a move begins only if everything that all moves still have to copy fits into what relocation can certainly write, so
  every move can end.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...conf import FtlConf, classes_allowed, least_gain_blocks
from ..media.band import Bands
from ..media.geometry import Geometry
from ..policy.guard import Guard
from ..policy.interface import BandTable, Reclaimed, Surroundings
from ..policy.limits import Limits


def surroundings(geometry: Geometry, conf: FtlConf) -> Surroundings:
    """conf: with all its thresholds set."""
    return Surroundings(
        band_count=geometry.band_count,
        band_blocks=geometry.band_blocks,
        block_count=geometry.block_count,
        classes_max=classes_allowed(geometry, geometry.classes_max, Limits(conf).start_bands),
    )


class _Table(BandTable):
    """Ages are calculated when they are asked for: many a policy looks at none. What table() does not make (a copy by
    dataclasses.replace()) has them from the start."""

    @cached_property
    def age(self) -> NDArray[np.int64]:
        next_seq, opened_seq, _ = self.__dict__["_seqs"]
        return _at_least_one(next_seq - opened_seq)

    @cached_property
    def data_age(self) -> NDArray[np.int64]:
        next_seq, _, data_seq = self.__dict__["_seqs"]
        return _at_least_one(next_seq - data_seq)


def _at_least_one(ages: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.maximum(ages, 1, out=ages)


def table(bands: Bands, next_seq: int) -> BandTable:
    """What policies see of the bands: of the arrays of Bands no copies. next_seq: of the core."""
    made = _Table.__new__(_Table)
    made.__dict__.update(bands.to_look_at, _seqs=(next_seq, bands.opened_seq, bands.data_seq))
    return made


def reclaimed(bands: Bands, number: int, next_seq: int) -> Reclaimed:
    age = max(1, next_seq - int(bands.opened_seq[number]))
    valid, capacity = int(bands.valid[number]), int(bands.capacity[number])
    return Reclaimed(number, int(bands.streams[number]), age, valid, capacity)


class Selector:
    """choose() with a policy and the thresholds of a conf."""

    def __init__(self, conf: FtlConf, punits: int, guard: Guard) -> None:
        self.guard = guard
        self._invalid_thld = conf.invalid_thld
        self.least_gain = least_gain_blocks(punits)
        self.merit = 0.0
        """Of the band that was chosen last."""
        self._most_valid: dict[bool, NDArray[np.int64]] = {}
        """By urgent: the valid blocks of each band that its move gains enough with."""
        self._found_for: tuple[Bands, int, int] | None = None
        """The bands, Bands.measured and least_gain then."""
        self._allowed = np.empty(0, bool)

    def choose(
        self, bands: Bands, *, room: int, next_seq: int, urgent: bool, endangered_only: bool = False
    ) -> int | None:
        """The number of the next victim, or None. room: blocks that relocation can certainly write, besides what active
        moves still need. Of equal bands the first one is chosen.

        Bands with failed zones (or with a zone whose reset the base recommends) come first, whatever they gain, because
        their data is in danger. But if such a move would take the last room without giving it back, others are moved
        first, to gain room. endangered_only: no other bands.

        Looks at all bands: less than 1 ms for 65,536, which is little compared to the move itself.
        """
        any_endangered = bands.any_endangered()
        if endangered_only and not any_endangered:
            return None
        most_valid = self._most_valid_of(bands, urgent=urgent)
        room -= self.least_gain
        if any_endangered:
            endangered = bands.endangered & (bands.valid > 0) & (bands.valid <= room - bands.whole_capacity)
            if endangered.any():
                return self._best(bands, endangered, next_seq)
        # In the same memory each time: with many bands, new memory takes longer than the calculation.
        allowed = self._allowed
        count = bands.movable(most_valid, room, allowed)
        if endangered_only:
            allowed &= bands.endangered
            count = int(np.count_nonzero(allowed))
        return self._best(bands, allowed, next_seq) if count else None

    def _most_valid_of(self, bands: Bands, *, urgent: bool) -> NDArray[np.int64]:
        if self._found_for != (bands, bands.measured, self.least_gain):
            self._found_for = (bands, bands.measured, self.least_gain)
            most = bands.capacity_to_come - self.least_gain
            # (capacity_to_come - valid) * 100 >= capacity * invalid_thld
            worth = (100 * bands.capacity_to_come - self._invalid_thld * bands.capacity) // 100
            self._most_valid = {True: most, False: np.minimum(most, worth)}
            self._allowed = np.empty(len(bands), bool)
        return self._most_valid[urgent]

    def _best(self, bands: Bands, allowed: NDArray[np.bool_], next_seq: int) -> int:
        number, self.merit = self.guard.best(table(bands, next_seq), allowed)
        return number
