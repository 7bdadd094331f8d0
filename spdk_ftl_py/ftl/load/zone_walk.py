"""Reads what one zone of a band records about itself: its summary, or its headers one by one if it has none
(docs/restore.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...runtime.turns import Turns, aside
from ..media.blockdev import BlockPort
from ..media.geometry import BLOCK_BYTES, SUMMARY_ENTRIES, Geometry
from ..media.layout import (
    BATCH_DATA_BLOCKS_MAX,
    BATCH_MAGIC,
    CHECKPOINT_MAGIC,
    ENTRY,
    KIND_DATA,
    KIND_TRIM,
    SUMMARY_FLAG_HEADER,
    SUMMARY_MAGIC,
    BatchHeader,
    is_checkpoint_block,
    parse_batch_header,
    parse_summary,
    parse_summary_block,
    summary_entries,
)

WALKED_ROWS: Final = 2
"""Rows of a walked zone that are taken in about 1 us, with some to spare: the walks of many zones may end together."""
ITEM_ROWS: Final = 256
"""Rows of a summary that are checked in about 1 us."""
GAP_READ_BLOCKS: Final = 64
"""Blocks read at first after a damaged header, to find the next one."""
BLANK_BLOCKS: Final = 2 * (BATCH_DATA_BLOCKS_MAX + 1)
"""Wherever so many blocks in a row were written, two of them are headers."""
GAP_READ_BLOCKS_LATER: Final = BLANK_BLOCKS - GAP_READ_BLOCKS
BLANK_PROBES: Final = 32
"""Blocks read behind them, to see whether something in the middle of the zone was lost."""
AHEAD_BLOCKS: Final = 64
"""Blocks read at a time where batches are short."""
AHEAD_AFTER: Final = 32
"""Reading ahead begins after so many headers in a zone."""
SUMMARY_READ_BLOCKS: Final = 16
"""A longer summary is read only if its last or first block looks written."""
_MAGIC: Final = np.frombuffer(BATCH_MAGIC, np.uint8)
_SUMMARY_MAGIC: Final = np.frombuffer(SUMMARY_MAGIC, np.uint8)
_CHECKPOINT_MAGIC: Final = np.frombuffer(CHECKPOINT_MAGIC, np.uint8)
_ENTRY_BYTES: Final = np.dtype((np.void, ENTRY.itemsize))
_ALL_BITS: Final = (1 << 64) - 1
_KIND_MASK: Final = SUMMARY_FLAG_HEADER - 1


@dataclass(slots=True)
class ZoneContent:
    """The content of one zone. Without records of this FTL, band_seq is 0."""

    band: int
    punit: int
    start: int
    written: int
    """Blocks up to the write pointer, in the part that is used."""
    end: int = 0
    """For a walked zone: blocks up to the end of the last batch. Nothing after it is valid, however full the zone
    is."""
    band_seq: int = 0
    walked: bool = False
    """It has no (valid) summary."""
    unreadable: bool = False
    """Something could not be read that says what it has. A later load may be able to."""
    read_to_end: bool = False
    """A walked zone that was read from its first header to the end. Whatever part of a summary of what was found comes
    to be on media, a walk finds the same."""
    summary: _shim.Summary | None = None
    """If it is whole, it describes the data blocks, and ``addresses`` and ``entries`` are empty."""
    addresses: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    entries: NDArray[Any] = field(default_factory=lambda: np.empty(0, ENTRY))
    """The entries of the data blocks at ``addresses``."""
    torn_from: int = 0
    """Blocks from this address on belong to the last batch of a walked zone, which may have been cut off."""
    records: list[tuple[int, NDArray[Any]]] = field(default_factory=list)
    """Addresses of headers, with their trim and lost records."""
    highest_seq: int = 0
    highest_band_seq: int = 0
    """Including headers of an earlier life of the zone."""
    checkpoint: bool = False
    """The zone holds blocks of an L2P checkpoint, used or stale, and nothing valid."""
    damage: list[str] = field(default_factory=list)

    def data_blocks(self) -> tuple[NDArray[np.uint64], NDArray[Any]]:
        """Addresses and entries of the data blocks."""
        if self.summary is None:
            return self.addresses, self.entries
        entries = summary_entries(self.summary)
        offsets = np.flatnonzero((entries["flags"] & SUMMARY_FLAG_HEADER) == 0)
        return offsets.astype(np.uint64) + np.uint64(self.start), entries[offsets]


class _Ahead:
    """Reads a zone in order, ahead if asked to, and keeps what was read ahead."""

    def __init__(self, port: BlockPort, start: int, end: int) -> None:
        self._port = port
        self._start = start
        self._end = end
        self._first = 0
        self._blocks = np.empty((0, port.block_bytes), np.uint8)
        self._readable = np.empty(0, bool)

    async def read(self, offset: int, count: int, ahead: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """At least one block, at most count, and which of them can be read."""
        at = offset - self._first
        if not 0 <= at < len(self._blocks):
            most = min(max(count, ahead), self._end - offset)
            blocks, readable = await self._port.read_what_can_be(self._start + offset, most)
            if most <= count:
                return blocks, readable
            self._first, self._blocks, self._readable, at = offset, blocks, readable, 0
        return self._blocks[at : at + count], self._readable[at : at + count]


class ZoneReader:
    """Reads the zones of one device. A block that can't be read counts as damaged; MediaError is raised if the base is
    gone."""

    def __init__(
        self, port: BlockPort, geometry: Geometry, uuid: UUID, *, sequential: bool, use_append: bool = False
    ) -> None:
        """sequential: a loss of power always loses what was written to a zone last. This is not true for emulated
        zones: there a hole is not damage. use_append: headers do not contain their address."""
        self._port = port
        self._use_append = use_append
        self._uuid = uuid
        self._sequential = sequential
        self._data_blocks = geometry.data_blocks
        self._summary_blocks = geometry.summary_blocks
        self._capacity = geometry.zone_capacity

    async def read_zone(self, band: int, punit: int, start: int, written: int, *, full: bool) -> ZoneContent:
        """full: the zone is full, which does not say how far it was written, because it may have been finished."""
        zone = ZoneContent(band, punit, start, written, torn_from=start + written)
        if written == 0:
            return zone
        first_blocks, readable = await self._port.read_what_can_be(start, 1)
        first_block = first_blocks[0]
        zone.unreadable = not readable[0]
        if is_checkpoint_block(first_block, self._uuid, start):
            # The band was free when this was written: blocks after it belong to an earlier life.
            zone.checkpoint = True
            return zone
        if full and not self._sequential and readable[0] and not first_block.any() and (await self.blank([start]))[0]:
            # As load() sorts them out in lists: each load has to see the same zones as empty. Else the next one could
            # take rows, from what is left of a summary, whose seqs were given again since.
            return zone
        whole: _shim.Summary | None = None
        summary: NDArray[Any] | None = None
        known = np.zeros(self._data_blocks, bool)
        if written >= self._capacity:
            whole, summary = await self._summary(zone, known)
        # Nothing in the place of the summary: the zone was not written to its end.
        short = full and self._sequential and written >= self._capacity and whole is None and summary is None
        first = self._header(zone, first_block, start)
        if first is not None and first.band_seq != zone.band_seq:
            # A summary of an earlier life of the zone, or none.
            zone.band_seq = first.band_seq
            whole = None
            known[:] = False
        bad = first is None and (first_block.any() or not readable[0])
        if whole is not None and bad and not self._sequential and await self._has_later_life(zone):
            # It was the first header of that life.
            whole = None
            known[:] = False
        if full and not self._sequential and zone.band_seq == 0 and readable[0] and not first_block.any():
            # An emulated zone is always full. The first block of this one was never written, or was not flushed, so
            # nothing after it was.
            return zone
        if whole is not None:
            await self._use_summary(zone, whole)
        else:
            await self._walk(zone, min(written, self._data_blocks), full, summary, known, short=short)
        zone.highest_band_seq = max(zone.highest_band_seq, zone.band_seq)
        if len(zone.entries):
            zone.highest_seq = max(zone.highest_seq, int(zone.entries["seq"].max()))
        for _, entries in zone.records:
            if len(entries):
                zone.highest_seq = max(zone.highest_seq, int(entries["seq"].max()))
        return zone

    async def _has_later_life(self, zone: ZoneContent) -> bool:
        """Whether the zone has headers of a later life than that of its summary."""
        found = ZoneContent(zone.band, zone.punit, zone.start, zone.written, band_seq=zone.band_seq)
        nothing = np.zeros(self._data_blocks, bool)
        await self._walk(found, self._data_blocks, True, None, nothing, short=False)
        zone.unreadable |= found.unreadable
        return found.band_seq > zone.band_seq

    @property
    def knows_blank(self) -> bool:
        """Full zones may be blank. There may be very many emulated zones, on a large device with small zones."""
        return not self._sequential

    async def blank(self, starts: Sequence[int]) -> NDArray[np.bool_]:
        """Which of these full zones, in order of their start, are empty for read_zone(), judged by their first block,
        and the first and the last block of their summary. None of them if these can't be read. If two zones are
        neighbours, the end of the one and the first block of the next are one read."""
        first = np.asarray(starts, np.uint64)
        last = first + np.uint64(self._capacity - 1)
        summary = np.arange(len(first) if self._summary_blocks > 1 else 0)
        both = np.flatnonzero(last[:-1] + np.uint64(1) == first[1:])
        first_alone = np.setdiff1d(np.arange(len(first)), both + 1, assume_unique=True)
        last_alone = np.setdiff1d(np.arange(len(first)), both, assume_unique=True)
        written = np.zeros(len(first), bool)
        for addresses, zones in (
            (last[both], (both, both + 1)),
            (first[first_alone], (first_alone,)),
            (last[last_alone], (last_alone,)),
            (first[summary] + np.uint64(self._data_blocks), (summary,)),
        ):
            data = await self._port.read_each(addresses.tolist(), len(zones))
            if data is None:
                return np.zeros(len(first), bool)
            something: NDArray[np.bool_] = np.any(data.view(np.uint64), axis=2)
            for column, indices in enumerate(zones):
                written[indices] |= something[:, column]
        return ~written

    async def blocks(self, address: int, count: int) -> NDArray[np.uint8]:
        """(count, 4096) bytes; zeroes for blocks that can't be read."""
        return (await self.blocks_read(address, count))[0]

    async def blocks_read(self, address: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """As blocks(), and which of them can be read."""
        return await self._port.read_what_can_be(address, count)

    async def _summary(
        self, zone: ZoneContent, known: NDArray[np.bool_]
    ) -> tuple[_shim.Summary | None, NDArray[Any] | None]:
        """The summary if it is whole; else the entries of the data area, and ``known`` tells which of them come from
        valid summary blocks. Neither if the first and the last block of the summary look as if they were never
        written."""
        first, count = zone.start + self._data_blocks, self._summary_blocks
        if self._sequential and count > SUMMARY_READ_BLOCKS:
            # Zones that were finished early have none, and this is the larger part of what is read of them.
            ends = [await self._port.read_what_can_be(address, 1) for address in (first + count - 1, first)]
            if all(_blank(*end) for end in ends):
                return None, None
        blocks, readable = await self._port.read_what_can_be(first, count)
        zone.unreadable |= not readable.all()
        if self._sequential and _blank(blocks[[0, -1]], readable[[0, -1]]):
            return None, None
        if not (blocks[:, : len(_SUMMARY_MAGIC)] == _SUMMARY_MAGIC).any():
            # A load may have very many of these.
            return None, np.empty(0, ENTRY)
        whole = await aside(
            self._data_blocks // ITEM_ROWS,
            lambda: parse_summary(blocks, self._uuid, band=zone.band, punit=zone.punit),
        )
        if whole is not None and whole.row_count == self._data_blocks:
            zone.band_seq = whole.band_seq
            return whole, None
        entries = np.zeros(self._data_blocks, ENTRY)
        turns = Turns()
        for index, block in enumerate(blocks):
            await turns()
            part = parse_summary_block(block, self._uuid)
            if part is None or (part.band, part.punit, part.index) != (zone.band, zone.punit, index):
                continue
            if part.band_seq < zone.band_seq:
                continue
            if part.band_seq > zone.band_seq:
                known[:] = False
                zone.band_seq = part.band_seq
            first = index * SUMMARY_ENTRIES
            count = min(len(part.entries), self._data_blocks - first)
            entries[first : first + count] = part.entries[:count]
            known[first : first + count] = True
        return None, entries

    async def _use_summary(self, zone: ZoneContent, summary: _shim.Summary) -> None:
        zone.summary, zone.highest_seq = summary, summary.highest_seq
        for offset in summary.record_headers:
            await self._read_records(zone, zone.start + offset)

    async def _use_entries(self, zone: ZoneContent, summary: NDArray[Any], offsets: NDArray[Any]) -> None:
        """Takes the summary entries at these offsets; reads headers of records for them."""
        is_header = (summary["flags"][offsets] & SUMMARY_FLAG_HEADER) != 0
        data = offsets[~is_header]
        zone.addresses = np.concatenate([zone.addresses, (data + zone.start).astype(np.uint64)])
        # As bytes: many times faster than field by field.
        chosen = summary.view(_ENTRY_BYTES)[data].view(ENTRY)
        zone.entries = np.concatenate([zone.entries, chosen]) if len(zone.entries) else chosen
        for offset in map(int, offsets[is_header]):
            if int(summary["flags"][offset]) & _KIND_MASK != KIND_TRIM:
                continue
            await self._read_records(zone, zone.start + offset)

    async def _read_records(self, zone: ZoneContent, address: int) -> None:
        blocks, readable = await self.blocks_read(address, 1)
        zone.unreadable |= not readable[0]
        header = self._header(zone, blocks[0], address)
        if header is not None and header.band_seq == zone.band_seq and header.kind == KIND_TRIM:
            zone.records.append((address, header.entries))
        elif self._sequential:
            zone.damage.append(
                f"block {address} (band {zone.band}): a header of trim records is damaged: its trims and lost blocks "
                "are unknown"
            )

    def _header(self, zone: ZoneContent, block: NDArray[np.uint8], address: int) -> BatchHeader | None:
        header = self.header_at(zone, block, address)
        if header is None:
            return None
        zone.highest_band_seq = max(zone.highest_band_seq, header.band_seq)
        return header

    def header_at(self, zone: ZoneContent, block: NDArray[np.uint8], address: int) -> BatchHeader | None:
        """A header of any life of the zone. A walk also reads data of hosts, but these don't know the uuid."""
        header = self.header_in_place(block, address)
        return header if header is not None and (header.band, header.punit) == (zone.band, zone.punit) else None

    def header_in_place(self, block: NDArray[np.uint8], address: int) -> BatchHeader | None:
        """As header_at(), for any zone."""
        header = parse_batch_header(block, self._uuid)
        return header if header is not None and header.address == (0 if self._use_append else address) else None

    async def _walk(
        self,
        zone: ZoneContent,
        end: int,
        full: bool,
        summary: NDArray[Any] | None,
        known: NDArray[np.bool_],
        *,
        short: bool,
    ) -> None:
        """short: the zone may have been written to any block before ``end``."""
        zone.walked = True
        headers: list[tuple[int, BatchHeader]] = []
        gaps: list[tuple[int, int]] = []
        gap: int | None = None
        offset = 0
        ahead = _Ahead(self._port, zone.start, end)
        step, blank_count = GAP_READ_BLOCKS, 0
        while offset < end:
            if gap is None:
                runs = len(headers) >= AHEAD_AFTER and headers[-1][1].block_count <= AHEAD_BLOCKS // 2
                blocks, readable = await ahead.read(offset, 1, AHEAD_BLOCKS if runs else 1)
            else:
                blocks, readable = await ahead.read(offset, min(step, end - offset))
                step = GAP_READ_BLOCKS_LATER
            zone.unreadable |= not readable.all()
            blank = short and _blank(blocks, readable)
            found = None if blank else self._first_header(zone, blocks, offset)
            if found is None:
                if gap is None and headers and await self._overtaken(zone, *headers[-1], blocks[0], end):
                    break
                if not headers and not blank:
                    zone.checkpoint |= self._any_checkpoint(blocks, zone.start + offset)
                gap = offset if gap is None else gap
                offset += len(blocks)
                blank_count = blank_count + len(blocks) if blank else 0
                if blank_count >= BLANK_BLOCKS:
                    if await self._blank_behind(zone.start, offset, end, offset - gap):
                        break
                    short = False
                continue
            step, blank_count = GAP_READ_BLOCKS, 0
            at, header = found
            if header.band_seq > zone.band_seq:
                # Blocks before it belong to an earlier life.
                headers.clear()
                gaps.clear()
                known[:] = False
                gap = 0 if at else None
                zone.band_seq = header.band_seq
            if gap is not None:
                gaps.append((gap, at))
                gap = None
            headers.append((at, header))
            offset = at + header.block_count
        if gap is not None and (known.any() or (headers and not full)):
            gaps.append((gap, end))
        # A reset waits for a flush only if something was written.
        last = 1 if not headers else headers[-1][0] + headers[-1][1].block_count
        zone.end = zone.written if known.any() else min(last, end)
        rows = sum(header.block_count for _, header in headers)
        await aside(rows // WALKED_ROWS, lambda: _take_headers(zone, headers))
        for first, last in gaps:
            await self._fill_gap(zone, first, last, summary, known)
        zone.checkpoint &= not headers
        # If a part of a gap is known, another part of a summary would let a load take it.
        settled = all(known[first:last].all() or not known[first:last].any() for first, last in gaps)
        # Behind a first header of an earlier life, a load does not use a summary.
        begun = bool(headers) and headers[0][0] == 0
        whole = full and end == self._data_blocks and last <= end
        zone.read_to_end = whole and begun and settled and not zone.unreadable
        if not headers and not full and not known.any() and self._sequential and not zone.checkpoint:
            zone.damage.append(f"blocks {zone.start} to {zone.start + end - 1} (band {zone.band}): no header is valid")

    async def _blank_behind(self, start: int, offset: int, end: int, length: int) -> bool:
        """Whether blocks from this offset of a zone on look as if they were never written either, to be sure that
        nothing in the middle was lost: in places that lie the less dense the longer what looks blank is, which has
        ``length`` so far."""
        if offset >= end:
            return True
        distances = np.geomspace(length, length + end - 1 - offset, BLANK_PROBES)
        places = np.unique(distances.astype(np.int64)) + (start + offset - length)
        blocks = await self._port.read_each(places.tolist())
        return blocks is not None and _blank(blocks[:, 0], np.ones(len(blocks), bool))

    async def _overtaken(
        self, zone: ZoneContent, at: int, header: BatchHeader, behind: NDArray[np.uint8], end: int
    ) -> bool:
        """The batch at offset ``at``, without a header after it: whether the drive lost its end, or lost everything
        after it with a volatile cache, and data in flight was then appended there. The writer gave the zone up, so data
        that it appended there is not valid, and nothing else follows."""
        if not (self._use_append and self._sequential):
            return False
        if self._is_summary(zone, behind):
            return True
        if header.kind != KIND_DATA:
            return False
        blocks = await self.blocks(zone.start + at + 1, min(header.block_count - 1, end - at - 1))
        for offset, (block, entry) in enumerate(zip(blocks, header.entries, strict=False), at + 1):
            if _shim.crc32c(memoryview(block)) != int(entry["crc"]):
                # A host can't fake this with a header in its own data: that data matches its CRC.
                other = self.header_at(zone, block, zone.start + offset)
                if (other is not None and other.band_seq == zone.band_seq) or self._is_summary(zone, block):
                    return True
        return False

    def _is_summary(self, zone: ZoneContent, block: NDArray[np.uint8]) -> bool:
        part = parse_summary_block(block, self._uuid)
        return part is not None and (part.band, part.punit, part.band_seq) == (zone.band, zone.punit, zone.band_seq)

    def _first_header(
        self, zone: ZoneContent, blocks: NDArray[np.uint8], offset: int
    ) -> tuple[int, BatchHeader] | None:
        for i in map(int, np.flatnonzero((blocks[:, : len(_MAGIC)] == _MAGIC).all(axis=1))):
            header = self._header(zone, blocks[i], zone.start + offset + i)
            if header is not None and header.band_seq >= zone.band_seq:
                return offset + i, header
        return None

    def _any_checkpoint(self, blocks: NDArray[np.uint8], address: int) -> bool:
        """If the first block of a checkpoint is damaged, other blocks show what the zone is."""
        marked = np.flatnonzero((blocks[:, : len(_CHECKPOINT_MAGIC)] == _CHECKPOINT_MAGIC).all(axis=1))
        return any(is_checkpoint_block(blocks[i], self._uuid, address + i) for i in map(int, marked))

    async def _fill_gap(
        self, zone: ZoneContent, first: int, last: int, summary: NDArray[Any] | None, known: NDArray[np.bool_]
    ) -> None:
        """Blocks without a header, which a summary that is damaged elsewhere may describe."""
        if summary is not None and known[first:last].all():
            await self._use_entries(zone, summary, np.arange(first, last))
        elif self._sequential:
            zone.damage.append(
                f"blocks {zone.start + first} to {zone.start + last - 1} (band {zone.band}): a batch header is "
                f"damaged: the content of the {last - first} blocks is unknown"
            )


def _take_headers(zone: ZoneContent, headers: list[tuple[int, BatchHeader]]) -> None:
    addresses = [zone.addresses]
    # As bytes: many times faster than field by field.
    entries = [zone.entries.view(_ENTRY_BYTES)]
    for at, header in headers:
        if header.kind == KIND_DATA:
            addresses.append(np.arange(at + 1, at + header.block_count, dtype=np.uint64) + np.uint64(zone.start))
            entries.append(header.entries.view(_ENTRY_BYTES))
        elif header.kind == KIND_TRIM:
            zone.records.append((zone.start + at, header.entries))
        # Also a padded batch: if there is padding, the data before it is complete.
        zone.torn_from = zone.start + at
    every_address, every_entry = np.concatenate(addresses), np.concatenate(entries).view(ENTRY)
    if len(every_entry):
        zone.highest_seq = int(every_entry["seq"].max())
    # The header describes blocks after the write pointer, which were never written.
    below = every_address < zone.start + zone.written
    zone.addresses, zone.entries = every_address[below], every_entry[below]


def _blank(blocks: NDArray[np.uint8], readable: NDArray[np.bool_]) -> bool:
    """Whether all of them can be read, and are what drives return for blocks that were never written: all bits 0, or
    all bits 1."""
    data = np.ascontiguousarray(blocks[:, :BLOCK_BYTES]).view(np.uint64)
    first = int(data[0, 0])
    return first in (0, _ALL_BITS) and bool(readable.all()) and bool((data == first).all())
