"""Repeats of one measurement, and what can be said of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """The median of repeats, and how far they spread: the lowest and the highest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """values: at least one."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def spread(self) -> float:
        """Half the range, relative to the median. 0 for a median of 0."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0

    def apart(self, other: Sample) -> bool:
        """Whether all repeats of one are above all of the other.

        If nothing has changed, that happens by chance in 1 of 126 cases with five repeats each, and in 1 of 10 with
        three: 2 / C(2n, n).
        """
        return self.low > other.high or self.high < other.low


def ratios(values: Sequence[float], of: Sequence[float]) -> Sample:
    """Of neighbours: the first to the first, and so on. What disturbs the machine for longer than two windows disturbs
    both of a pair."""
    return Sample.of([value / other if other else 0.0 for value, other in zip(values, of, strict=True)])
