"""Acknowledged writes that may not be on media: in the write buffer file of a daemon that died, or in an nv cache. A
load merges them with media: the newest seq wins (docs/durability.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..media.geometry import BLOCK_BYTES, Geometry
from ..media.superblock import Superblock

HELD_BLOCK: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("crc", "<u4")])
HELD_RECORD: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("block_count", "<u4"), ("flags", "<u4")])
"""flags: ENTRY_FLAG_TRIM or ENTRY_FLAG_LOST."""


class BlockData(Protocol):
    """The content of blocks, by index: an array of (n, 4096), or one block at a time."""

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


@dataclass
class HeldWrites:
    """Its reader has checked it: LBAs are within the device, each block matches its CRC, flags are known."""

    blocks: NDArray[Any] = field(default_factory=lambda: np.empty(0, HELD_BLOCK))
    data: BlockData = field(default_factory=lambda: np.empty((0, BLOCK_BYTES), np.uint8))
    """The content of the blocks."""
    records: NDArray[Any] = field(default_factory=lambda: np.empty(0, HELD_RECORD))
    damaged: dict[int, str] = field(default_factory=dict)
    """seq of a lost record that replaces a damaged block. It is damage if it is newer than media."""
    damage: list[str] = field(default_factory=list)

    @property
    def highest_seq(self) -> int:
        return max((int(part["seq"].max()) for part in (self.blocks, self.records) if len(part)), default=0)


HeldSource = Callable[[Superblock, Geometry], Awaitable["HeldWrites | None"]]
"""Reads the held writes of the FTL with that superblock; None if there are none."""


@dataclass(frozen=True)
class RecoveredBlock:
    lba: int
    seq: int
    crc: int
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class RecoveredRecord:
    lba: int
    block_count: int
    seq: int
    flags: int


Recovered = RecoveredBlock | RecoveredRecord


class HeldIndex:
    """The newest held seq of each LBA, and which held writes are newer than media."""

    def __init__(self, sources: Sequence[HeldWrites], block_count: int) -> None:
        self._sources = [each for each in sources if len(each.blocks) or len(each.records)]
        self.damage = [text for each in sources for text in each.damage]
        self.highest_seq = max((each.highest_seq for each in sources), default=0)
        # One seq for all LBAs if nothing is held, which takes no memory.
        self._seqs = np.zeros(block_count if self._sources else 1, np.uint64)
        for held in self._sources:
            np.maximum.at(self._seqs, held.blocks["lba"].astype(np.int64), held.blocks["seq"])
            for record in held.records:
                part = self._part(record)
                np.maximum(part, record["seq"], out=part)

    def __bool__(self) -> bool:
        return bool(self._sources)

    def _part(self, record: Any) -> NDArray[np.uint64]:
        first = int(record["lba"])
        return self._seqs[first : first + int(record["block_count"])]

    def seqs(self, lba: NDArray[Any]) -> NDArray[np.uint64]:
        """The held seqs of these LBAs."""
        if not self._sources:
            return np.zeros(len(lba), np.uint64)
        return self._seqs[lba.astype(np.int64)]

    def supersede(self, entries: NDArray[np.uint64], seqs: NDArray[np.uint64], nothing: int) -> list[Recovered]:
        """Puts ``nothing`` in place of entries for which a held write is newer. Returns these held writes in ascending
        seq. ``seqs`` are those of the entries."""
        if not self._sources:
            return []
        newer = self._seqs > seqs
        entries[newer] = np.uint64(nothing)
        found: dict[tuple[int, int], Recovered] = {}
        for held in self._sources:
            blocks = held.blocks
            lba = blocks["lba"].astype(np.int64)
            for i in map(int, np.flatnonzero(newer[lba] & (self._seqs[lba] == blocks["seq"]))):
                key = int(blocks["seq"][i]), int(lba[i])
                found.setdefault(key, RecoveredBlock(key[1], key[0], int(blocks["crc"][i]), held.data[i]))
        # After the blocks of all sources: a block that is damaged in one source may be intact in another.
        for held in self._sources:
            for record in held.records:
                first, count, seq = int(record["lba"]), int(record["block_count"]), int(record["seq"])
                if not (newer[first : first + count] & (self._part(record) == record["seq"])).any():
                    continue
                if (seq, first) not in found and seq in held.damaged:
                    self.damage.append(held.damaged[seq])
                found.setdefault((seq, first), RecoveredRecord(first, count, seq, int(record["flags"])))
        return [found[key] for key in sorted(found)]
