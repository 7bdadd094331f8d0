"""Until the real ones are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ParameterError

WRITE, TRIM, READ = 0, 1, 2
BATCH = 1 << 16


@dataclass(frozen=True)
class Requests:
    op: NDArray[np.uint8]
    lba: NDArray[np.uint64]
    blocks: NDArray[np.uint32]
    time_ns: NDArray[np.uint64] | None = None


class Workload:
    def __init__(self, name: str, block_count: int, theta: float | None) -> None:
        self.name = name
        self._count = block_count
        self._theta = theta

    def requests(self, seed: int) -> Iterator[Requests]:
        random = np.random.default_rng(seed)
        op, blocks = np.zeros(BATCH, np.uint8), np.ones(BATCH, np.uint32)
        if self.name == "seq":
            at = 0
            while True:
                yield Requests(op, (np.arange(at, at + BATCH, dtype=np.uint64)) % np.uint64(self._count), blocks)
                at += BATCH
        if self._theta is None:
            while True:
                yield Requests(op, random.integers(0, self._count, BATCH, np.uint64), blocks)
        weights = np.arange(1, self._count + 1) ** -self._theta
        sums = np.cumsum(weights)
        order = random.permutation(self._count).astype(np.uint64)
        while True:
            yield Requests(op, order[np.searchsorted(sums, random.random(BATCH) * sums[-1], side="right")], blocks)


def parse(spec: str, block_count: int) -> Workload:
    kind, _, theta = spec.partition(":")
    if kind not in ("uniform", "zipf", "seq") or (not "0" <= theta < "3" if kind == "zipf" else theta):
        raise ParameterError(f"workload {spec!r}: must be uniform, zipf:THETA or seq")
    return Workload(kind, block_count, float(theta) if kind == "zipf" else None)
