"""Checks that a device keeps what is written to it. bdev_null, and bdevs built on it, do not; an FTL on them would lose
everything with the first relocation."""

from __future__ import annotations

import os
from typing import Final

from ...errors import UnsupportedError
from .blockdev import BlockPort

PROBE_BLOCKS: Final = 4
"""More than one block: a target may read into the memory of the last write, and null bdevs leave it unchanged."""


class DataNotKeptError(UnsupportedError):
    """The device completes writes with success, but returns other data."""


async def require_retention(port: BlockPort, first: int, *, what: str, remedy: str) -> None:
    """Writes random blocks from block ``first`` on, which in a sequential zone is its write pointer, and reads them
    back, the last one first. The old content is lost, and the random blocks stay.

    Raises DataNotKeptError, which names the fault and the remedy, and MediaError.
    """
    written = [os.urandom(port.block_bytes) for _ in range(PROBE_BLOCKS)]
    for i, block in enumerate(written):
        await port.write(first + i, block)
    await port.flush()
    for i in reversed(range(PROBE_BLOCKS)):
        found = (await port.read(first + i, 1)).tobytes()
        if found != written[i]:
            raise DataNotKeptError(
                f"{what} does not keep what is written to it: a write of block {first + i} succeeded, but the block "
                f"reads back as {_describe(found)}: {remedy}"
            )


def _describe(block: bytes) -> str:
    if not any(block):
        return "zeroes"
    return f"something else ({block[:8].hex()}…)"
