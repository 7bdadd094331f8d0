"""The blocks of L2P checkpoints: that of a clean halt (checkpoint.py), and running ones (running.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import FtlError
from ..media.geometry import BLOCK_BYTES
from ..media.layout import (
    CHECKPOINT,
    CHECKPOINT_BAND,
    CHECKPOINT_DATA_BYTES,
    CHECKPOINT_MAGIC,
    FORMAT_VERSION,
    crcs,
    new_record,
)

STEP_BLOCKS: Final = 32
"""Blocks built, written or read at a time."""
ZONES_MAX: Final = 64
"""The superblock must have room for the numbers of its zones."""

SECTION_BANDS: Final = 1
SECTION_POINTERS: Final = 2
SECTION_L2P: Final = 3
SECTION_L2P_WIDE: Final = 4
SECTION_CRCS: Final = 5
"""For a device that verifies reads. Software that does not support this flag takes the checkpoint for unusable."""

POINTER: Final = np.dtype("<u4")
DTYPES: Final[dict[int, np.dtype[Any]]] = {
    SECTION_BANDS: CHECKPOINT_BAND,
    SECTION_POINTERS: POINTER,
    SECTION_L2P: np.dtype("<u4"),
    SECTION_L2P_WIDE: np.dtype("<u8"),
    SECTION_CRCS: np.dtype("<u2"),
}
NO_ZONE: Final = (1 << 32) - 1
INVALID: Final = np.uint64(_shim.ADDRESS_INVALID)
TAG_MASK: Final = np.uint64(_shim.LOST_FLAG)
NARROW_TAGS: Final = 0xC0000000
NARROW_PAYLOAD: Final = 0x3FFFFFFF


class NotUsableError(FtlError):
    """The checkpoint can't be used; restore without it. Never leaves restore()."""


class BlockBuilder:
    """Makes the blocks of one checkpoint, in order. generation: what distinguishes it from others."""

    def __init__(self, uuid: UUID, generation: int) -> None:
        self._template = new_record(CHECKPOINT, CHECKPOINT_MAGIC, uuid)
        self._template["generation"] = generation
        self.count = 0
        """Blocks that were sealed."""

    def section(
        self, section: int, entries: NDArray[Any], first: int, needed: NDArray[np.bool_] | None = None
    ) -> Iterator[NDArray[Any]]:
        """All blocks, except for address and CRC, in parts of at most STEP_BLOCKS; some parts may be empty. needed:
        blocks without any such entry are left out."""
        each = per_block(section)
        count = -(-len(entries) // each)
        raw = np.zeros((count, CHECKPOINT_DATA_BYTES), np.uint8)
        size = each * entries.dtype.itemsize
        flat = np.zeros(count * size, np.uint8)
        flat[: entries.nbytes] = np.ascontiguousarray(entries).view(np.uint8).reshape(-1)
        raw[:, :size] = flat.reshape(count, size)
        records = np.repeat(self._template, count)
        records["section"] = section
        records["first"] = np.arange(count, dtype=np.uint64) * np.uint64(each) + np.uint64(first)
        records["count"] = np.minimum(each, len(entries) - np.arange(count) * each)
        records["data"] = raw
        if needed is not None:
            kept = np.zeros(count, bool)
            kept[np.flatnonzero(needed) // each] = True
            records = records[kept]
        for part in range(0, max(1, len(records)), STEP_BLOCKS):
            yield records[part : part + STEP_BLOCKS]

    def seal(self, address: int, records: NDArray[Any]) -> NDArray[np.uint8]:
        """The next blocks, as they are written to this address."""
        records = records.copy()
        records["address"] = np.arange(address, address + len(records), dtype=np.uint64)
        records["index"] = np.arange(self.count, self.count + len(records), dtype=np.uint32)
        blocks = records.view(np.uint8).reshape(len(records), BLOCK_BYTES)
        records["crc"] = crcs(blocks)
        self.count += len(records)
        return blocks


def verified_runs(
    uuid: bytes, generation: int, index: int, address: int, blocks: NDArray[np.uint8]
) -> list[NDArray[Any]]:
    """Blocks of a checkpoint, in runs that follow on each other in one section. Raises NotUsableError unless each is
    what it should be there."""
    records = blocks.view(CHECKPOINT).reshape(-1)
    steps = np.arange(len(records), dtype=np.uint64)
    crc = records["crc"].copy()
    records["crc"] = 0
    whole = (
        (records["magic"] == CHECKPOINT_MAGIC)
        & (records["version"] == FORMAT_VERSION)
        & (blocks[:, 16:32] == np.frombuffer(uuid, np.uint8)).all(axis=1)
        & (records["generation"] == generation)
        & (records["address"] == steps + np.uint64(address))
        & (records["index"] == steps + np.uint64(index))
    )
    if not whole.all() or not np.array_equal(crcs(blocks), crc):
        raise NotUsableError(f"blocks {address} to {address + len(records) - 1} are not all valid blocks of it")
    follows = records["first"][:-1] + records["count"][:-1] == records["first"][1:]
    breaks = np.flatnonzero(~follows | (records["section"][:-1] != records["section"][1:])) + 1
    return np.split(records, breaks)


def entries_of(records: NDArray[Any]) -> tuple[int, int, int, NDArray[Any]]:
    """Of a run: section, number of the first entry, number of entries, and these, by block. Raises NotUsableError if
    the section is unknown, or if a block before the last one has fewer entries than fit into it."""
    section, first = int(records["section"][0]), int(records["first"][0])
    dtype = DTYPES.get(section)
    if dtype is None or (records["count"][:-1] != per_block(section)).any():
        raise NotUsableError(f"it has a wrong or incomplete block of section {section}")
    count = int(records["count"].astype(np.int64).sum())
    entries = records["data"].view(dtype)
    if count > entries.size:
        raise NotUsableError(f"a block exceeds the end of section {section}")
    return section, first, count, entries


def per_block(section: int) -> int:
    return CHECKPOINT_DATA_BYTES // DTYPES[section].itemsize


def has_block(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which LBAs have a block of data on media."""
    there: NDArray[np.bool_] = (entries & TAG_MASK) == 0
    return there


def narrow(entries: NDArray[np.uint64]) -> NDArray[np.uint32]:
    short: NDArray[np.uint32] = (entries >> np.uint64(32)).astype(np.uint32) & np.uint32(NARROW_TAGS)
    short |= (entries & np.uint64(NARROW_PAYLOAD)).astype(np.uint32)
    return short
