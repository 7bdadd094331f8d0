"""The layout of the nv cache (docs/media-layout.md, "nv cache") as numpy dtypes: its header, built and parsed. The shim
writes the ring (shim/ftl/nv_cache.hpp); nv_cache.py reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np

from ..media.geometry import BLOCK_BYTES
from ..media.layout import ENTRY, Block, new_record, parse_record, seal

HEADER_MAGIC: Final = b"FTLNVCAC"
BATCH_MAGIC: Final = b"FTLNVBAT"
HEADER_BLOCKS: Final = 2
ID_BYTES: Final = 16
MODE_VSS, MODE_NON_VSS = 1, 2
FLAG_CLEAN: Final = 1
BATCH_BLOCKS_MAX: Final = 168

METADATA_BYTES_MIN: Final = 8
METADATA_BYTES_WIDE: Final = 16
"""Metadata of at least this size has room for all bits of an LBA."""
LBA_BITS: Final = 30

HEADER: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("crc", "<u4"),
        ("uuid", "V16"),
        ("id", "V16"),
        ("generation", "<u8"),
        ("block_count", "<u8"),
        ("lap", "<u8"),
        ("current_address", "<u8"),
        ("mode", "<u4"),
        ("phase", "<u4"),
        ("flags", "<u4"),
        ("metadata_bytes", "<u4"),
        ("zero", "V4000"),
    ]
)
BATCH: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("crc", "<u4"),
        ("id", "V16"),
        ("position", "<u8"),
        ("count", "<u4"),
        ("phase", "<u4"),
        ("entries", ENTRY, BATCH_BLOCKS_MAX),
        ("zero", "V16"),
    ]
)
METADATA: Final = np.dtype([("crc", "<u4"), ("phase_lba", "<u4")])
SALT: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("id", "V16")])
assert HEADER.itemsize == BATCH.itemsize == BLOCK_BYTES
assert SALT.itemsize == 32


def phase_of(lap: int) -> int:
    """0: as a scrub leaves it."""
    return 1 + lap % 3


@dataclass(frozen=True)
class CacheHeader:
    uuid: UUID
    id: bytes
    """Random, new with every scrub, so that blocks of an earlier life, or blocks that a host makes up, are not
    valid."""
    generation: int
    block_count: int
    """The size of the cache bdev."""
    metadata_bytes: int
    lap: int = 0
    current_address: int = 0
    clean: bool = False

    @property
    def ring_blocks(self) -> int:
        return self.block_count - HEADER_BLOCKS

    @property
    def vss(self) -> bool:
        return self.metadata_bytes > 0

    @property
    def position(self) -> int:
        """The next position to write, counted over all laps; only valid in a clean header."""
        return self.lap * self.ring_blocks + self.current_address - HEADER_BLOCKS

    def build(self) -> bytes:
        """The header as a block, with its metadata."""
        record = new_record(HEADER, HEADER_MAGIC, self.uuid)
        record["id"] = np.void(self.id)
        for name in ("generation", "block_count", "lap", "current_address", "metadata_bytes"):
            record[name] = getattr(self, name)
        record["mode"] = MODE_VSS if self.vss else MODE_NON_VSS
        record["phase"] = phase_of(self.lap)
        record["flags"] = FLAG_CLEAN if self.clean else 0
        return seal(record).tobytes() + bytes(self.metadata_bytes)

    @classmethod
    def parse(cls, block: Block) -> CacheHeader | None:
        """None if the block is not a valid header. Raises UnsupportedError for another format version."""
        record: Any = parse_record(block, HEADER, HEADER_MAGIC, None, "the header of the nv cache")
        if record is None:
            return None
        header = cls(
            uuid=UUID(bytes=bytes(record["uuid"])),
            id=bytes(record["id"]),
            generation=int(record["generation"]),
            block_count=int(record["block_count"]),
            metadata_bytes=int(record["metadata_bytes"]),
            lap=int(record["lap"]),
            current_address=int(record["current_address"]),
            clean=bool(int(record["flags"]) & FLAG_CLEAN),
        )
        mode = MODE_VSS if header.vss else MODE_NON_VSS
        sensible = (
            header.ring_blocks >= 2
            and int(record["mode"]) == mode
            and int(record["phase"]) == phase_of(header.lap)
            and (not header.clean or HEADER_BLOCKS <= header.current_address < header.block_count)
        )
        return header if sensible else None
