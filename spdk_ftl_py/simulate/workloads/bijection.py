"""A fixed permutation of the numbers 0 to count - 1 that needs no table: neighbours come to lie anywhere."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Odd, so that multiplication by them permutes the numbers of any number of bits. The golden ratio, and the constants of
# MurmurHash3's finalizer.
_FACTORS: Final = (0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


class Bijection:
    """key: another permutation for each."""

    def __init__(self, count: int, key: int = 0) -> None:
        self.count = count
        bits = max(1, (count - 1).bit_length())
        self._mask = np.uint64((1 << bits) - 1)
        self._shift = np.uint64(max(1, bits // 2))
        self._key = np.uint64(key & ((1 << bits) - 1))
        self._factors = [np.uint64(factor & ((1 << bits) - 1) | 1) for factor in _FACTORS]

    def __call__(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Raises no error for a number that is too large; what it returns then means nothing."""
        if self.count <= 1:
            return np.zeros_like(numbers)
        image = self._mixed(numbers)
        # The permutation is one of the next power of two. Whoever leaves the range goes on until it is back, which
        # keeps it a permutation.
        outside = np.flatnonzero(image >= self.count)
        while outside.size:
            again = self._mixed(image[outside])
            image[outside] = again
            outside = outside[again >= self.count]
        return image

    def _mixed(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        image: NDArray[np.uint64] = numbers ^ self._key
        for factor in self._factors:
            image *= factor
            image &= self._mask
            image ^= image >> self._shift
        return image
