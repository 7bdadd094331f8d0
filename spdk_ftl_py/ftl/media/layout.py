"""The media layout of docs/media-layout.md as numpy dtypes: building, parsing and verifying its blocks.

The shim writes batches and summaries (shim/ftl/layout.hpp); this side reads them, and writes superblocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import UnsupportedError
from .geometry import BLOCK_BYTES, SUMMARY_ENTRIES

FORMAT_VERSION: Final = 2
HIDDEN_UUID_VERSION: Final = 3
"""Of a superblock whose records have another uuid than the FTL."""
BATCH_MAGIC: Final = b"FTLBATCH"
SUMMARY_MAGIC: Final = b"FTLSUMRY"
SUPERBLOCK_MAGIC: Final = b"FTLSUPER"
SUPERBLOCK_PART_MAGIC: Final = b"FTLSUPRT"
CHECKPOINT_MAGIC: Final = b"FTLCHKPT"

BATCH_DATA_BLOCKS_MAX: Final = 127
TRIM_RECORDS_MAX: Final = 168

KIND_DATA: Final = 1
KIND_TRIM: Final = 2
KIND_PAD: Final = 3

ENTRY_FLAG_TRIM: Final = 1
ENTRY_FLAG_LOST: Final = 2
SUMMARY_FLAG_HEADER: Final = 0x10000
SEQ_MAX: Final = 1 << 62
"""The limit of seqs and band seqs, which no device reaches. A core never writes a greater one, and accepting one would
use up the seqs that are left."""

ENTRY: Final = np.dtype([("lba", "<u8"), ("seq", "<u8"), ("crc", "<u4"), ("flags", "<u4")])
"""In a trim record ``crc`` is the count of blocks."""

_COMMON: Final[list[Any]] = [("magic", "S8"), ("version", "<u4"), ("crc", "<u4"), ("uuid", "V16")]
BATCH_HEADER: Final = np.dtype(
    [
        *_COMMON,
        ("band_seq", "<u8"),
        ("address", "<u8"),
        ("count", "<u4"),
        ("kind", "<u2"),
        ("stream", "<u2"),
        ("band", "<u4"),
        ("punit", "<u4"),
        ("entries", ENTRY, SUMMARY_ENTRIES),
    ]
)
SUMMARY: Final = np.dtype(
    [
        *_COMMON,
        ("band_seq", "<u8"),
        ("index", "<u4"),
        ("count", "<u4"),
        ("band", "<u4"),
        ("punit", "<u4"),
        ("zero", "<u8"),
        ("entries", ENTRY, SUMMARY_ENTRIES),
    ]
)
SUPERBLOCK: Final = np.dtype(
    [
        *_COMMON,
        ("generation", "<u8"),
        ("length", "<u4"),
        ("flags", "<u4"),
        ("part", "<u4"),
        ("part_count", "<u4"),
        ("zero", "V8"),
        ("json", "V4032"),
    ]
)
CHECKPOINT_DATA_BYTES: Final = 4032
CHECKPOINT: Final = np.dtype(
    [
        *_COMMON,
        ("generation", "<u8"),
        ("address", "<u8"),
        ("first", "<u8"),
        ("index", "<u4"),
        ("section", "<u2"),
        ("count", "<u2"),
        ("data", "u1", CHECKPOINT_DATA_BYTES),
    ]
)
CHECKPOINT_BAND: Final = np.dtype([("seq", "<u8"), ("faulted", "<u4"), ("history", "<u4")])
assert BATCH_HEADER.itemsize == SUMMARY.itemsize == SUPERBLOCK.itemsize == CHECKPOINT.itemsize == BLOCK_BYTES

_CRC_OFFSET: Final = 12

Block = NDArray[np.uint8]


@dataclass(frozen=True)
class BatchHeader:
    """One valid header block. ``entries`` is a structured array of dtype ENTRY, one for each data block or trim
    record."""

    band: int
    punit: int
    band_seq: int
    address: int
    kind: int
    stream: int
    entries: NDArray[Any]

    @property
    def block_count(self) -> int:
        """Blocks of the batch on media, including the header."""
        return 1 + (len(self.entries) if self.kind == KIND_DATA else 0)


@dataclass(frozen=True)
class SummaryBlock:
    band: int
    punit: int
    band_seq: int
    index: int
    entries: NDArray[Any]


def block_crc(block: Block) -> int:
    """CRC32C of a metadata block; its CRC field counts as zero."""
    raw = block.tobytes()
    crc = _shim.crc32c(raw[:_CRC_OFFSET])
    crc = _shim.crc32c(bytes(4), crc)
    return _shim.crc32c(raw[_CRC_OFFSET + 4 :], crc)


def seal(record: NDArray[Any]) -> Block:
    """Sets a header record's CRC and returns it as a block."""
    block = np.frombuffer(bytearray(record.tobytes()), np.uint8)
    block[_CRC_OFFSET : _CRC_OFFSET + 4] = np.frombuffer(block_crc(block).to_bytes(4, "little"), np.uint8)
    return block


def parse_record(
    block: Block,
    dtype: np.dtype[Any],
    magic: bytes,
    uuid: UUID | None,
    what: str | None = None,
    versions: Sequence[int] = (FORMAT_VERSION,),
) -> Any | None:
    """The record in a block, or None if the block is not one of this kind, or is damaged. With another version it
    raises UnsupportedError if ``what`` names the record. Otherwise it returns None: hosts' data may be there, and only
    the superblock says which version an FTL has."""
    record = np.frombuffer(block.tobytes(), dtype)[0]
    if record["magic"] != magic or (uuid is not None and bytes(record["uuid"]) != uuid.bytes):
        return None
    if int(record["crc"]) != block_crc(block):
        return None
    version = int(record["version"])
    if version not in versions and what is None:
        return None
    if version not in versions:
        raise UnsupportedError(
            f"{what} has media format version {version}, but this software supports "
            f"{' and '.join(map(str, versions))}: use the release that wrote it"
        )
    return record


def parse_batch_header(block: Block, uuid: UUID) -> BatchHeader | None:
    """None if the block is not a valid batch header of this device: a walk ends there."""
    record = parse_record(block, BATCH_HEADER, BATCH_MAGIC, uuid)
    if record is None:
        return None
    kind, count = int(record["kind"]), int(record["count"])
    most = {KIND_DATA: BATCH_DATA_BLOCKS_MAX, KIND_TRIM: TRIM_RECORDS_MAX, KIND_PAD: 0}.get(kind)
    if most is None or count > most or int(record["band_seq"]) > SEQ_MAX:
        return None
    if (record["entries"]["seq"][:count] > SEQ_MAX).any():
        return None
    return BatchHeader(
        band=int(record["band"]),
        punit=int(record["punit"]),
        band_seq=int(record["band_seq"]),
        address=int(record["address"]),
        kind=kind,
        stream=int(record["stream"]),
        entries=record["entries"][:count],
    )


def build_batch_header(
    uuid: UUID,
    *,
    band: int,
    punit: int,
    band_seq: int,
    address: int,
    kind: int,
    stream: int,
    entries: NDArray[Any],
) -> Block:
    record = new_record(BATCH_HEADER, BATCH_MAGIC, uuid)
    record["band_seq"] = band_seq
    record["address"] = address
    record["count"] = len(entries)
    record["kind"] = kind
    record["stream"] = stream
    record["band"] = band
    record["punit"] = punit
    record["entries"][0, : len(entries)] = entries
    return seal(record)


def parse_summary_block(block: Block, uuid: UUID) -> SummaryBlock | None:
    """None if the block is not a valid summary block of this device."""
    record = parse_record(block, SUMMARY, SUMMARY_MAGIC, uuid)
    if record is None or int(record["count"]) > SUMMARY_ENTRIES or int(record["band_seq"]) > SEQ_MAX:
        return None
    if (record["entries"]["seq"][: int(record["count"])] > SEQ_MAX).any():
        return None
    return SummaryBlock(
        band=int(record["band"]),
        punit=int(record["punit"]),
        band_seq=int(record["band_seq"]),
        index=int(record["index"]),
        entries=record["entries"][: int(record["count"])],
    )


def parse_summary(blocks: NDArray[np.uint8], uuid: UUID, *, band: int, punit: int) -> _shim.Summary | None:
    """None if any block of the zone's summary is missing, damaged or of another band."""
    return _shim.Summary.of(np.ascontiguousarray(blocks[:, :BLOCK_BYTES]), uuid.bytes, band, punit)


def summary_entries(summary: _shim.Summary) -> NDArray[Any]:
    """All rows, as ENTRY: row i is for offset i of the zone."""
    return summary.rows(np.arange(summary.row_count, dtype=np.uint32)).view(ENTRY)


def crcs(blocks: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """CRC32C of each block; the CRC field of a metadata block must be zero."""
    found = np.zeros(len(blocks), np.uint32)
    _shim.crc32c_rows(blocks, BLOCK_BYTES, found)
    return found


def cut_crcs(crcs: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """As the shim keeps them in memory to verify reads (shim/ftl/block_crcs.hpp)."""
    cut: NDArray[np.uint16] = (crcs ^ (crcs >> np.uint32(16))).astype(np.uint16)
    return cut


def is_checkpoint_block(block: Block, uuid: UUID, address: int) -> bool:
    """Whether this is a valid block of an L2P checkpoint of this device, written to that address."""
    record = parse_record(block, CHECKPOINT, CHECKPOINT_MAGIC, uuid)
    return record is not None and int(record["address"]) == address


def new_record(dtype: np.dtype[Any], magic: bytes, uuid: UUID) -> NDArray[Any]:
    record = np.zeros(1, dtype)
    record["magic"] = magic
    record["version"] = FORMAT_VERSION
    record["uuid"] = np.void(uuid.bytes)
    return record
