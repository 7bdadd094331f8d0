"""Acknowledged writes that may not be on media: in the write buffer file of a daemon that died, or in an nv cache. A
load merges them with media: the newest seq wins (docs/durability.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ... import _shim
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

_ITEM: Final = np.dtype(
    [("lba", "<u8"), ("seq", "<u8"), ("block_count", "<u8"), ("is_record", "?"), ("source", "<u4"), ("row", "<u4")]
)


class HeldIndex:
    """The newest held seq of each LBA, and which held writes are newer than media."""

    def __init__(self, sources: Sequence[HeldWrites], block_count: int) -> None:
        self._sources = sources
        self.damage = [text for each in sources for text in each.damage]
        self.highest_seq = max((each.highest_seq for each in sources), default=0)
        items = [_items(number, held, is_record) for number, held in enumerate(sources) for is_record in (False, True)]
        every = np.concatenate([np.empty(0, _ITEM), *items])
        # The newest first. A block that is damaged in one source may be intact in another: blocks before records.
        self._items = every[np.lexsort((every["is_record"], ~every["seq"]))]
        lba, counts = (np.ascontiguousarray(self._items[name]) for name in ("lba", "block_count"))
        if self._items["is_record"].any():
            item, first, count = _shim.uncovered_parts(lba, counts, block_count)
            order = np.argsort(first)
            self._item, self._first, self._count = item[order].astype(np.intp), first[order], count[order]
        else:
            # An nv cache may hold very many blocks, and no records.
            self._first, self._item = np.unique(lba, return_index=True)
            self._count = np.ones(len(self._first), np.uint64)
        self._seq: NDArray[np.uint64] = np.ascontiguousarray(self._items["seq"][self._item])

    def __bool__(self) -> bool:
        return bool(len(self._items))

    def mark(self, l2p: _shim.RestoredL2p) -> None:
        """Marks the held LBAs."""
        if self:
            l2p.hold(self._first, self._count)

    def seqs(self, lba: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The held seqs of these LBAs; 0 where nothing is held."""
        if not self:
            return np.zeros(len(lba), np.uint64)
        part = np.searchsorted(self._first, lba, side="right").astype(np.intp) - 1
        inside = (part >= 0) & (lba - self._first[part] < self._count[part])
        return np.where(inside, self._seq[part], np.uint64(0))

    def supersede(self, l2p: _shim.RestoredL2p) -> list[Recovered]:
        """Drops the entries for which a held write is newer. Returns these held writes in ascending seq."""
        if not self:
            return []
        newer = l2p.supersede(self._first, self._count, self._seq) > 0
        found: dict[tuple[int, int], Recovered] = {}
        # In the order of items: blocks before records of the same seq.
        for number in np.unique(self._item[newer]).tolist():
            item = self._items[number]
            held, row = self._sources[int(item["source"])], int(item["row"])
            lba, seq = int(item["lba"]), int(item["seq"])
            if not item["is_record"]:
                found.setdefault((seq, lba), RecoveredBlock(lba, seq, int(held.blocks["crc"][row]), held.data[row]))
                continue
            if (seq, lba) not in found and seq in held.damaged:
                self.damage.append(held.damaged[seq])
            record = RecoveredRecord(lba, int(item["block_count"]), seq, int(held.records["flags"][row]))
            found.setdefault((seq, lba), record)
        return [found[key] for key in sorted(found)]


def _items(source: int, held: HeldWrites, is_record: bool) -> NDArray[Any]:
    rows = held.records if is_record else held.blocks
    items = np.zeros(len(rows), _ITEM)
    items["lba"], items["seq"] = rows["lba"], rows["seq"]
    items["block_count"] = rows["block_count"] if is_record else 1
    items["is_record"], items["source"], items["row"] = is_record, source, np.arange(len(rows))
    return items
