"""Time in a simulation: it advances with what is written to media."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

BLOCKS_PER_S_MIN: Final = 400_000
"""What the simulated media write in a second, at least."""
BANDS_PER_S: Final = 12.5
"""The same, of large bands: then timers of some milliseconds come several times in each band, but not more often."""


class _Call:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        self.call = None


class MediaTurns:
    """As ftl/gc/seam.py's Turns."""

    def __init__(self, band_blocks: int) -> None:
        self.blocks_per_s = max(BLOCKS_PER_S_MIN, band_blocks * BANDS_PER_S)
        self._now = 0.0
        self._soon: list[_Call] = []
        self._later: list[tuple[float, int, _Call]] = []
        self._serial = count()

    # --- for the band manager

    def time(self) -> float:
        return self._now

    def soon(self, call: Callable[[], object]) -> _Call:
        made = _Call(call)
        self._soon.append(made)
        return made

    def later(self, delay_s: float, call: Callable[[], object]) -> _Call:
        made = _Call(call)
        heapq.heappush(self._later, (self._now + delay_s, next(self._serial), made))
        return made

    def at_beat(self, period_s: float, call: Callable[[], object]) -> _Call:
        return self.later(period_s, call)

    # --- for the simulation

    def blocks_left(self) -> int:
        """What can be written until the next timer ends; at least 1."""
        self._drop_cancelled()
        if not self._later:
            return 1 << 62
        return max(1, int((self._later[0][0] - self._now) * self.blocks_per_s) + 1)

    def wrote(self, blocks: int) -> None:
        """Time goes by, and what is due is called."""
        self._now += blocks / self.blocks_per_s
        if self._soon or (self._later and self._later[0][0] <= self._now):
            self._run()

    def skip(self) -> bool:
        """Nothing is written until the next timer ends. False: there is none."""
        self._drop_cancelled()
        if not self._later:
            return False
        self._now = max(self._now, self._later[0][0])
        self._run()
        return True

    def _drop_cancelled(self) -> None:
        while self._later and self._later[0][2].call is None:
            heapq.heappop(self._later)

    def _run(self) -> None:
        self._drop_cancelled()
        while self._later and self._later[0][0] <= self._now:
            self._soon.append(heapq.heappop(self._later)[2])
            self._drop_cancelled()
        while self._soon:
            now, self._soon = self._soon, []
            for each in now:
                if each.call is not None:
                    each.call()
