"""Which band is moved only because it was reset too rarely (Policy.worn())."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

LAG: Final = 16
"""Resets behind the mean of all bands. A smaller lag would level more than any drive needs, and cost more: cold data
that fills a part c of the bands is moved once in about 1.25 x LAG resets of each band, so it takes a part
c / (1.25 x LAG) of all writes: 2 % for 0.4."""
COLD_TURNS: Final = 2


def cold_age(device_blocks: int) -> int:
    """Blocks written since, from which on data is cold: twice what the device holds."""
    return COLD_TURNS * device_blocks


def most_lagging(
    resets: NDArray[np.uint32],
    age: NDArray[np.int64],
    closed: NDArray[np.bool_],
    *,
    cold_age: int,
    lag: int | None = None,
) -> int | None:
    """The closed band that was reset least; of several the oldest. None if none lags behind. Arrays of shape (bands,).

    age: blocks written since the band was opened. Bands younger than cold_age are left alone, because what is in them
    will soon be overwritten, and then they are the first to be written again. lag: LAG by default."""
    bound = float(resets.mean()) - (LAG if lag is None else lag) if len(resets) else -1.0
    if bound < 0 or resets.min() > bound:
        return None
    numbers = np.flatnonzero(closed & (resets <= bound) & (age >= cold_age))
    if not len(numbers):
        return None
    return int(numbers[np.lexsort((-age[numbers], resets[numbers]))[0]])
