"""The policies without a placement of their own. docs/policies.md says what each is good for."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .interface import BandTable, Policy, Surroundings

PERCENT_MAX: Final = 1000


class Weighing(Policy):
    """With memory for its calculations: for very many bands, new memory would take longer than they do."""

    _gain = _cost = np.empty(0, np.int64)
    _merit = np.empty(0)

    def gain(self, bands: BandTable) -> NDArray[np.int64]:
        """The blocks that relocating each band gains, until the next call. Never negative: a band of which zones failed
        may hold more than its capacity."""
        if len(self._gain) != len(bands.valid):
            self._gain, self._cost = np.empty(len(bands.valid), np.int64), np.empty(len(bands.valid), np.int64)
            self._merit = np.empty(len(bands.valid))
        np.subtract(bands.capacity, bands.valid, out=self._gain)
        return np.maximum(self._gain, 0, out=self._gain)


class Greedy(Weighing):
    """Prefers the band with the most to gain. Best if all blocks are equally likely to be overwritten."""

    name = "greedy"

    def merit(self, bands: BandTable) -> NDArray[Any]:
        return self.gain(bands)


class Seed(Weighing):
    """The seed's merit, invalid / (valid + 1) x age: data that stayed valid for long will stay valid, while young data
    may still be overwritten."""

    name = "seed"

    def merit(self, bands: BandTable) -> NDArray[Any]:
        gain = self.gain(bands)
        merit = np.divide(gain, np.add(bands.valid, 1, out=self._cost), out=self._merit)
        merit *= bands.age
        return merit


class CostBenefit(Weighing):
    """(1 - u) x age / (1 + u), with u the part that is valid: Rosenblum and Ousterhout, "The Design and Implementation
    of a Log-Structured File System", 1992. A move reads 1 and writes u, and gains 1 - u.

    age: of the "band", or of its "data". The paper has that of the youngest block, which nobody knows here. The average
    age of data prefers cold bands that are nearly full, and costs a quarter more writes, or a third if some data is hot
    (256 bands of 64 blocks, 20 % reserve, uniform and zipf:0.99)."""

    name = "cost_benefit"

    def __init__(self, surroundings: Surroundings, age: str = "band") -> None:
        super().__init__(surroundings)
        if age not in ("band", "data"):
            raise ValueError(f"age = {age}: must be band or data")
        self.of_data = age == "data"

    def merit(self, bands: BandTable) -> NDArray[Any]:
        gain = self.gain(bands)
        cost = np.add(bands.capacity, bands.valid, out=self._cost)
        cost += 1
        merit = np.divide(gain, cost, out=self._merit)
        merit *= bands.data_age if self.of_data else bands.age
        return merit


class AgeThreshold(Weighing):
    """Greedy among the bands that were opened at least ``percent`` percent of the capacity ago, counted in blocks that
    hosts wrote; among the younger ones if no older one can be moved. What hosts overwrite soon gets its time for it."""

    name = "age_threshold"

    def __init__(self, surroundings: Surroundings, percent: int = 10) -> None:
        super().__init__(surroundings)
        if not isinstance(percent, int) or not 0 <= percent <= PERCENT_MAX:
            raise ValueError(f"percent = {percent}: must be 0 to {PERCENT_MAX} (of the capacity)")
        self.least_age = surroundings.block_count * percent // 100

    def merit(self, bands: BandTable) -> NDArray[Any]:
        merit = self.gain(bands)
        merit[bands.age >= self.least_age] += self.surroundings.band_blocks + 1
        return merit


class DChoices(Weighing):
    """The band with the most to gain of ``d`` random ones; of all, if none of these can be moved. Van Houdt, "A mean
    field model for a class of garbage collection algorithms in flash-based solid state drives", 2013: with d around 10
    it is close to greedy, and it is better than greedy if some data is hot."""

    name = "d_choices"

    def __init__(self, surroundings: Surroundings, d: int = 10, seed: int = 0) -> None:
        super().__init__(surroundings)
        if not isinstance(d, int) or d < 1:
            raise ValueError(f"d = {d}: must be a whole number, 1 or more")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed = {seed}: must be a whole number, 0 or more")
        self.d = d
        self._random = np.random.default_rng(seed)

    def merit(self, bands: BandTable) -> NDArray[Any]:
        merit = self.gain(bands)
        closed = np.flatnonzero(bands.closed)
        if len(closed):
            drawn = self._random.integers(len(closed), size=min(self.d, len(closed)))
            merit[closed[np.unique(drawn)]] += self.surroundings.band_blocks + 1
        return merit
