"""Which band to relocate next. The policy says what is best; ``choose()`` says what is allowed.

Invariants, whatever the policy (docs/ftl.md):
- a band is moved only if that frees more than the move itself can waste, so free space never shrinks;
- a move begins only if everything that all moves still have to copy fits into what relocation can certainly write, so
  every move can end.
"""

from __future__ import annotations

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


def table(bands: Bands, next_seq: int) -> BandTable:
    """What policies see of the bands: of the arrays of Bands no copies. next_seq: of the core."""
    age = next_seq - bands.opened_seq
    data_age = next_seq - bands.data_seq
    return BandTable(
        age=np.maximum(age, 1, out=age),
        data_age=np.maximum(data_age, 1, out=data_age),
        **bands.to_look_at,
    )


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
        self._gain = self._least = np.empty(0, np.int64)
        self.merit = 0.0
        """Of the band that was chosen last."""

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
        allowed = bands.closed & (bands.valid > 0) & (bands.valid <= room - self.least_gain)
        if bands.any_endangered():
            endangered = allowed & bands.endangered
            if endangered_only:
                allowed = endangered.copy()
            if endangered.any():
                endangered &= bands.valid <= room - self.least_gain - bands.whole_capacity
            if endangered.any():
                return self._best(bands, endangered, next_seq)
        elif endangered_only:
            return None
        # In place, as in the shipped policies: with many bands, new memory takes longer than the calculation.
        if len(self._gain) != len(bands):
            self._gain, self._least = np.empty(len(bands), np.int64), np.empty(len(bands), np.int64)
        gain = np.subtract(bands.capacity_to_come, bands.valid, out=self._gain)
        allowed &= gain >= self.least_gain
        if not urgent:
            gain *= 100
            allowed &= gain >= np.multiply(bands.capacity, self._invalid_thld, out=self._least)
        return self._best(bands, allowed, next_seq)

    def _best(self, bands: Bands, allowed: NDArray[np.bool_], next_seq: int) -> int | None:
        if not allowed.any():
            return None
        number, self.merit = self.guard.best(table(bands, next_seq), allowed)
        return number
