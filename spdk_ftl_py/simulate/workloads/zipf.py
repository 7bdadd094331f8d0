"""Numbers with Zipf's distribution: P(k) is proportional to 1 / k**theta for k = 1 to count."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ParameterError

THETA_MAX: Final = 4.0


class Zipf:
    """Exact, without a table, for each theta from 0 to THETA_MAX: rejection-inversion (W. Hörmann and G. Derflinger,
    "Rejection-inversion to generate variates from monotone discrete distributions", ACM TOMACS 6 (3), 1996).

    The area under x**-theta is inverted, and the number next to the result is taken unless the result lies in the part
    of that number's area which is more than the number's probability.

    Raises ParameterError for another theta.
    """

    def __init__(self, theta: float, count: int) -> None:
        if not 0 <= theta <= THETA_MAX:
            raise ParameterError(f"theta {theta:g}: must be 0 to {THETA_MAX:g}")
        self.theta = theta
        self.count = count
        self._low, self._high = (float(end) for end in self._area(np.array([1.5, count + 0.5])))
        self._low -= 1.0
        second = self._area(np.array([2.5])) - 2.0**-theta
        self._surely = float(2.0 - self._inverse(second)[0])

    def ranks(self, rng: np.random.Generator, size: int) -> NDArray[np.uint64]:
        """size of them, from 0, the most frequent one, on."""
        got: list[NDArray[np.uint64]] = []
        missing = size
        while missing:
            tried = self._tried(rng, missing + missing // 16 + 16)[:missing]
            got.append(tried)
            missing -= len(tried)
        return got[0] if len(got) == 1 else np.concatenate(got)

    def _tried(self, rng: np.random.Generator, size: int) -> NDArray[np.uint64]:
        area = rng.random(size)
        area *= self._low - self._high
        area += self._high
        exact = self._inverse(area)
        number = np.rint(exact)
        np.clip(number, 1, self.count, out=number)
        accepted = number - exact <= self._surely
        doubtful = np.flatnonzero(~accepted)
        candidates = number[doubtful]
        accepted[doubtful] = area[doubtful] >= self._area(candidates + 0.5) - candidates**-self.theta
        return (number[accepted] - 1).astype(np.uint64)

    def _area(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The integral of x**-theta, but for a constant."""
        log = np.log(x)
        rest = 1.0 - self.theta
        return log if rest == 0 else np.asarray(np.expm1(rest * log) / rest)

    def _inverse(self, area: NDArray[np.float64]) -> NDArray[np.float64]:
        rest = 1.0 - self.theta
        if rest == 0:
            return np.asarray(np.exp(area))
        # Rounding must not take it below -1.
        return np.asarray(np.exp(np.log1p(np.maximum(area * rest, -1 + 1e-16)) / rest))
