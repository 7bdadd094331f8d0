"""From bytes on the traced device to blocks of the simulated one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import TraceError
from .base import BLOCK_BYTES, TRIM

FITS: Final = ("refuse", "fold", "scale", "pack")
EXTENT_BLOCKS: Final = 256
"""1 MiB: what ``pack`` moves together."""

Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class Ranges:
    """Requests as ranges of blocks. All arrays have the shape (requests,)."""

    op: NDArray[np.uint8]
    first: Numbers
    blocks: Numbers
    time_ns: Numbers | None

    def __len__(self) -> int:
        return len(self.first)

    def at(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Ranges:
        """Some of them, which may be repeated."""
        time_ns = None if self.time_ns is None else self.time_ns[which]
        return Ranges(self.op[which], self.first[which], self.blocks[which], time_ns)

    def moved(self, first: Numbers, blocks: Numbers) -> Ranges:
        """The same requests elsewhere."""
        return Ranges(self.op, first, blocks, self.time_ns)


def in_blocks(op: NDArray[np.uint8], offset: Numbers, size: Numbers, time_ns: Numbers | None) -> Ranges:
    """Writes and reads grow outwards to whole blocks. Trims shrink, since a block that is trimmed in part is
    not trimmed. A trim that covers no whole block has 0 blocks then."""
    end = offset + size
    up = np.uint64(BLOCK_BYTES - 1)
    block = np.uint64(BLOCK_BYTES)
    trims = op == TRIM
    first = np.where(trims, (offset + up) // block, offset // block)
    last = np.where(trims, end // block, (end + up) // block)
    return Ranges(op, first, np.where(last > first, last - first, np.uint64(0)), time_ns)


class Fit(Protocol):
    """What becomes of addresses that the simulated device may not have."""

    def place(self, ranges: Ranges) -> Ranges:
        """All ranges, in order, within the device; some of them in parts. Raises OutsideError."""
        ...


class OutsideError(TraceError):
    """number: of the first range that has no place."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Refuse:
    """As they are."""

    def __init__(self, block_count: int) -> None:
        self._block_count = block_count

    def place(self, ranges: Ranges) -> Ranges:
        """See Fit."""
        _within(ranges, self._block_count, "fit=fold, fit=scale or fit=pack takes it to where there are some")
        return ranges


class Fold:
    """Modulo the device."""

    def __init__(self, block_count: int) -> None:
        self._block_count = np.uint64(block_count)

    def place(self, ranges: Ranges) -> Ranges:
        """See Fit. A range that is longer than the device is cut to its length."""
        count = self._block_count
        first = ranges.first % count
        blocks = np.minimum(ranges.blocks, count)
        over = first + blocks > count
        if not over.any():
            return ranges.moved(first, blocks)
        parts = np.repeat(np.arange(len(ranges)), 1 + over)
        rests = np.zeros(len(parts), np.bool_)
        rests[1:] = parts[1:] == parts[:-1]
        first, blocks, over = first[parts], blocks[parts], over[parts]
        room = count - first
        new_blocks = np.where(rests, blocks - np.minimum(room, blocks), np.where(over, room, blocks))
        return ranges.at(parts).moved(np.where(rests, np.uint64(0), first), new_blocks)


class Scale:
    """Beginnings in proportion; lengths stay.

    span: blocks of the traced device.
    """

    def __init__(self, block_count: int, span: int) -> None:
        self._block_count = block_count
        self._span = span

    def place(self, ranges: Ranges) -> Ranges:
        """See Fit. A range that would reach over the end lies at the end."""
        _within(ranges, self._span, "set span= to the bytes of the traced device")
        blocks = np.minimum(ranges.blocks, np.uint64(self._block_count))
        first = (ranges.first * (self._block_count / self._span)).astype(np.uint64)
        return ranges.moved(np.minimum(first, np.uint64(self._block_count) - blocks), blocks)


class Pack:
    """Extents of 1 MiB, in the order in which they are touched first: the device is as full as the trace makes it."""

    def __init__(self, block_count: int) -> None:
        self._extent_count = block_count // EXTENT_BLOCKS
        self._extents: dict[int, int] = {}

    def place(self, ranges: Ranges) -> Ranges:
        """See Fit. A range becomes a part for each extent."""
        size = np.uint64(EXTENT_BLOCKS)
        start, last = ranges.first // size, (ranges.first + ranges.blocks - np.uint64(1)) // size
        counts = (last - start + np.uint64(1)).astype(np.int64)
        parts = np.repeat(np.arange(len(ranges)), counts)
        number = np.arange(len(parts)) - np.repeat(np.cumsum(counts) - counts, counts)
        extent = start[parts] + number.astype(np.uint64)
        begin = np.maximum(ranges.first[parts], extent * size)
        end = np.minimum(ranges.first[parts] + ranges.blocks[parts], (extent + np.uint64(1)) * size)
        first = self._places(extent, parts) * size + begin % size
        return ranges.at(parts).moved(first, end - begin)

    def _places(self, extent: Numbers, parts: NDArray[np.int64]) -> Numbers:
        distinct, earliest, back = np.unique(extent, return_index=True, return_inverse=True)
        places = np.empty(len(distinct), np.uint64)
        known = self._extents
        for each in np.argsort(earliest):
            name = int(distinct[each])
            place = known.get(name)
            if place is None:
                place = len(known)
                if place >= self._extent_count:
                    raise OutsideError(
                        f"the trace touches more than the {self._extent_count} MiB that the device has: simulate a "
                        "larger one",
                        int(parts[earliest[each]]),
                    )
                known[name] = place
            places[each] = place
        return np.asarray(places[back])


def _within(ranges: Ranges, block_count: int, remedy: str) -> None:
    end = ranges.first + ranges.blocks
    outside = end > block_count
    if outside.any():
        number = int(np.argmax(outside))
        raise OutsideError(
            f"blocks {ranges.first[number]} to {end[number] - np.uint64(1)} of {block_count}: {remedy}", number
        )
