"""What a workload is: batches of requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES: Final = 4096
WRITE: Final = 0
TRIM: Final = 1
READ: Final = 2

BATCH: Final = 1 << 16
"""Requests in a batch, at most."""
BATCH_BLOCKS: Final = 1 << 22
"""Blocks in a batch, at most: what a simulator that lists them needs memory for. A longer request comes in parts."""
BLOCK_COUNT_MAX: Final = 1 << 52


@dataclass(frozen=True)
class Requests:
    """A batch, in the order of the requests. All arrays have the shape (requests,).

    Each request has at least one block, and ends at the device's end at the latest.
    """

    op: NDArray[np.uint8]
    """WRITE, TRIM or READ."""
    lba: NDArray[np.uint64]
    blocks: NDArray[np.uint32]
    time_ns: NDArray[np.uint64] | None
    """Since the first request of the trace; never falls. None if the workload has no times."""

    def __len__(self) -> int:
        return len(self.lba)


class Workload(Protocol):
    """What hosts do."""

    name: str
    """As parse() takes it."""

    def requests(self, seed: int) -> Iterator[Requests]:
        """All over again with each call. A synthetic workload never ends, and the same seed gives the same requests. A
        trace ends, and has no use for the seed.

        Raises TraceError for a file that can't be read, or is not what it should be.
        """
        ...
