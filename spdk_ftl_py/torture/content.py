"""Blocks that identify themselves. All 4 KiB hold a pattern made of the LBA, the version and the device's nonce."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

WORDS: Final = 512
GARBAGE: Final = -1
_RAMP: Final = np.arange(WORDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
_LBA_FACTOR: Final = np.uint64(0xBF58476D1CE4E5B9)
_VERSION_FACTOR: Final = np.uint64(0x94D049BB133111EB)

Blocks = NDArray[np.uint8]


class Content:
    """The content of one device. The nonce distinguishes its blocks from those of other devices."""

    def __init__(self, nonce: int) -> None:
        self._nonce = np.uint64(nonce)

    def make(self, lba: int, block_count: int, version: int) -> Blocks:
        """Returns (block_count, 4096) bytes; version >= 1."""
        lbas = np.arange(lba, lba + block_count, dtype=np.uint64)
        return self._words(lbas, np.full(block_count, version, np.uint64)).view(np.uint8)

    def versions(self, lba: int, data: Blocks) -> list[int]:
        """The version of each block that was read from lba on: 0 for zeroes, GARBAGE for anything that is not a whole
        version written to that LBA."""
        words = data.reshape(-1, WORDS * 8).view(np.uint64)
        lbas = np.arange(lba, lba + len(words), dtype=np.uint64)
        version = words[:, 1].copy()
        right = (words == self._words(lbas, version)).all(axis=1) & (version > 0) & (version < 1 << 62)
        found = np.where(right, version, 0).astype(np.int64)
        for i in np.flatnonzero(~right):
            if words[i].any():
                found[i] = GARBAGE
        return [int(each) for each in found]

    def describe(self, lba: int, block: Blocks) -> str:
        """Describes what is wrong with a block that is garbage."""
        words = block.reshape(-1).view(np.uint64)
        there = int(words[0])
        if words[2] != self._nonce:
            return f"not a block of this device (begins {block.reshape(-1)[:16].tobytes().hex()})"
        expected = self._words(words[:1], words[1:2])[0]
        wrong = int((words != expected).sum())
        if wrong:
            return f"LBA {there} version {int(words[1])}, {wrong} of its {WORDS} words wrong"
        return f"a block of LBA {there}, version {int(words[1])}"

    def _words(self, lbas: NDArray[np.uint64], versions: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mixed = lbas * _LBA_FACTOR + versions * _VERSION_FACTOR + self._nonce
        words: NDArray[np.uint64] = np.add.outer(mixed, _RAMP)
        words[:, 0], words[:, 1], words[:, 2] = lbas, versions, self._nonce
        return words
