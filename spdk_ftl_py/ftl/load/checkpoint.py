"""The L2P checkpoint. A clean halt writes it, so that the next load does not have to read the records of all bands.

It is in bands that are free. The clean superblock names it, and the next superblock makes it stale
(docs/media-layout.md). If any part of it is not valid, the load restores without it.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import FlushDoubtError, FtlError, MediaError
from ...runtime.progress import Progress
from ...runtime.turns import Turns, aside
from ..media.band import BAND_ROW, FAULTED, FREE, QUEUED, SHIM_STATES
from ..media.blockdev import BlockPort, side_by_side
from ..media.geometry import BLOCK_BYTES, Geometry
from ..media.layout import CHECKPOINT_BAND
from ..media.superblock import Superblock
from ..media.zone import ACTIVE_STATES, EMPTY, OFFLINE, Zone
from .checkpoint_blocks import (
    INVALID,
    NO_ZONE,
    POINTER,
    SECTION_BANDS,
    SECTION_CRCS,
    SECTION_L2P,
    SECTION_L2P_WIDE,
    SECTION_POINTERS,
    STEP_BLOCKS,
    TAG_MASK,
    ZONES_MAX,
    BlockBuilder,
    NotUsableError,
    entries_of,
    has_block,
    narrow,
    per_block,
    verified_runs,
)
from .history import packed
from .pages import NO_PAGES, PageOptions
from .table import empty_table

log = logging.getLogger(__name__)

PART_BLOCKS: Final = 512
"""Blocks that are read and taken together: half a million entries of 4 bytes, some 2 ms."""
PARTS_AT_A_TIME: Final = 3
"""One is taken while the next is read, and one waits."""
ITEM_ENTRIES: Final = 256
"""Entries that are taken in about 1 us."""
BANDS_STEP: Final = 1 << 12
"""Bands whose account is taken at a time."""


@dataclass
class Checkpoint:
    """The content of a valid checkpoint."""

    band_seqs: list[int]
    faulted: list[bool]
    history: NDArray[np.uint32]
    """As history.unpacked() takes it."""
    table: _shim.RestoredL2p
    """Without seqs. With the CRC of each LBA's block, cut (layout.cut_crcs()), if the device verified reads."""
    counts: _shim.L2pCounts
    """Of the table."""
    zones: list[int]
    """Numbers of the zones that it is in."""


# --- writing


async def write(
    port: BlockPort,
    geometry: Geometry,
    uuid: UUID,
    generation: int,
    core: _shim.FtlCore,
    *,
    with_crcs: bool,
    refused: Sequence[int] = (),
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Writes the checkpoint of a closed core, durably. Returns its description for superblock ``generation``.

    Returns None if there is no room, if the base refuses it, or if something is not on media. with_crcs: the core keeps
    CRCs. refused: bands that must not be written. progress: may raise FtlError, which ends it. Raises MediaError
    only if the base is gone, or if a flush leaves in doubt what the base's cache has lost (FlushDoubtError).
    """
    place = None
    writer = _Writer(port, geometry, uuid, generation, core, with_crcs)
    try:
        zones = await port.zones()
        place = await writer.run(zones, frozenset(refused), progress or (lambda step, part: None))
    except NotUsableError as error:
        log.info("%s: halted without L2P checkpoint: %s", port.name, error.message)
    except _shim.PageFileError as error:
        log.warning("%s: halted without L2P checkpoint: %s", port.name, error.strerror)
    except FlushDoubtError:
        raise
    except FtlError as error:
        if _shim.base_gone(getattr(error, "status", 0)):
            raise
        log.warning("%s: halted without L2P checkpoint: %s", port.name, error.message)
    try:
        await writer.finish()
    except MediaError as error:
        if _shim.base_gone(error.status):
            raise
        # The superblock may do without.
        log.warning("%s: the zone of the L2P checkpoint stays active: %s", port.name, error.message)
    return place


class _Writer:
    def __init__(
        self, port: BlockPort, geometry: Geometry, uuid: UUID, generation: int, core: _shim.FtlCore, with_crcs: bool
    ) -> None:
        self._port = port
        self._geometry = geometry
        self._builder = BlockBuilder(uuid, generation)
        self._core = core
        self._with_crcs = with_crcs
        self._flush_starts = isinstance(port.device, _shim.ZonedOverlay)
        """A loss of power may take the first block of an emulated zone alone, and what is left of its earlier life
        would count again, cut up."""
        self._to_finish: int | None = None
        """A zone that is partly written, and may not stay active."""

    async def run(self, zones: Sequence[Zone], refused: frozenset[int], report: Progress) -> dict[str, Any]:
        turns = Turns()
        parts = []
        for first in range(0, self._geometry.band_count, BANDS_STEP):
            count = min(BANDS_STEP, self._geometry.band_count - first)
            parts.append(self._core.band_rows(first, count).view(BAND_ROW))
            await turns()
        account = np.concatenate(parts)
        pointers = await aside(len(zones), functools.partial(_pointers, self._geometry, zones))
        room = iter(self._room(zones, account, refused))
        free: list[int] = []
        step = max(1, min(STEP_BLOCKS, self._port.device.max_io_blocks))
        blocks_most = self._blocks_most()
        zones_most = -(-blocks_most // self._geometry.zone_capacity)
        if zones_most > ZONES_MAX:
            raise NotUsableError(f"it may need {zones_most} zones, but the superblock can name {ZONES_MAX} at most")
        most_active = self._port.device.max_active_zones
        active = sum(zone.state in ACTIVE_STATES for zone in zones)
        if most_active and active >= most_active:
            raise NotUsableError(f"{active} zones are active, and no more can be")
        # The superblock may have to begin its other zone.
        scarce = most_active and active + 2 > most_active
        offset = self._geometry.zone_capacity
        for records in self._records(pointers, account):
            # LBAs that were never written have no records, but there may be very many of them.
            await turns()
            report("checkpoint", min(1.0, self._builder.count / blocks_most))
            done = 0
            while done < len(records):
                if offset == self._geometry.zone_capacity:
                    zone = next(room, None)
                    if zone is None:
                        raise NotUsableError("no free band has room")
                    await self.finish()
                    free.append(zone)
                    offset = 0
                    self._to_finish = zone if scarce or self._geometry.finish_zones else None
                starts = offset == 0 and self._flush_starts
                count = 1 if starts else min(step, len(records) - done, self._geometry.zone_capacity - offset)
                await self._write(self._geometry.zone_start(free[-1]) + offset, records[done : done + count])
                if starts:
                    await self._port.flush()
                done += count
                offset += count
                # The capacity of this zone may be greater than the common one.
                if offset == self._geometry.zone_capacity and not self._geometry.finish_zones:
                    self._to_finish = None
                report("checkpoint", min(1.0, self._builder.count / blocks_most))
        await self._port.flush()
        report("checkpoint", 1.0)
        return {"zones": free, "blocks": self._builder.count, "crcs": self._with_crcs}

    async def finish(self) -> None:
        """Call it in the end, whatever has become of the checkpoint. Raises MediaError."""
        if self._to_finish is not None:
            start, self._to_finish = self._geometry.zone_start(self._to_finish), None
            await self._port.zone_action(_shim.ZoneAction.FINISH, start)

    def _blocks_most(self) -> int:
        lengths = {
            SECTION_BANDS: self._geometry.band_count,
            SECTION_POINTERS: self._geometry.band_count * self._geometry.punits,
            self._l2p_section: self._geometry.block_count,
        }
        if self._with_crcs:
            lengths[SECTION_CRCS] = self._geometry.block_count
        return sum(-(-length // per_block(section)) for section, length in lengths.items())

    @property
    def _l2p_section(self) -> int:
        return SECTION_L2P if self._geometry.checkpoint_entry_bytes == 4 else SECTION_L2P_WIDE

    def _room(self, zones: Sequence[Zone], account: NDArray[Any], refused: frozenset[int]) -> Iterator[int]:
        """Zones that may hold it: those of free bands; the band that would be opened last comes first."""
        free = np.isin(account["state"], [SHIM_STATES.index(state) for state in (FREE, QUEUED)])
        free[sorted(refused)] = False
        numbers = np.flatnonzero(free)
        for number in numbers[np.lexsort((numbers, account["seq"][numbers]))][::-1]:
            band_zones = [zone for zone in self._geometry.bands[number] if zone is not None]
            if all(zones[zone].state == EMPTY for zone in band_zones):
                yield from band_zones

    def _records(self, pointers: NDArray[np.uint32], account: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """All blocks, except for address and CRC, in parts of at most STEP_BLOCKS; some parts may be empty."""
        bands = np.zeros(len(account), CHECKPOINT_BAND)
        bands["seq"] = account["seq"]
        bands["faulted"] = (account["state"] == SHIM_STATES.index(FAULTED)) | (account["faulted_punits"] != 0)
        bands["history"] = packed(account, self._core.next_seq)
        yield from self._builder.section(SECTION_BANDS, bands, 0)
        yield from self._builder.section(SECTION_POINTERS, pointers, 0)
        section = self._l2p_section
        step = per_block(section) * STEP_BLOCKS
        for first in range(0, self._geometry.block_count, step):
            entries = self._core.l2p(first, min(step, self._geometry.block_count - first))
            if not self._on_media(entries):
                raise NotUsableError("some accepted writes are not on media")
            # Blocks with only LBAs that were never written are left out.
            mapped = entries != INVALID
            yield from self._builder.section(
                section, narrow(entries) if section == SECTION_L2P else entries, first, mapped
            )
        if self._with_crcs:
            yield from self._crc_records()

    def _crc_records(self) -> Iterator[NDArray[Any]]:
        step = per_block(SECTION_CRCS) * STEP_BLOCKS
        for first in range(0, self._geometry.block_count, step):
            count = min(step, self._geometry.block_count - first)
            there = has_block(self._core.l2p(first, count))
            crcs = np.where(there, self._core.crcs(first, count), np.uint16(0))
            yield from self._builder.section(SECTION_CRCS, crcs, first, there)

    def _on_media(self, entries: NDArray[np.uint64]) -> bool:
        mapped = entries[entries != INVALID]
        end = np.uint64(self._geometry.zone_count * self._geometry.zone_size)
        # Records that are not on media have addresses after the last one.
        in_buffer = (mapped & TAG_MASK) == np.uint64(_shim.SLOT_FLAG)
        return not (in_buffer | ((mapped & ~TAG_MASK) >= end)).any()

    async def _write(self, address: int, records: NDArray[Any]) -> None:
        await self._port.write(address, self._builder.seal(address, records))


# --- reading


async def read(
    port: BlockPort,
    geometry: Geometry,
    superblock: Superblock,
    zones: Sequence[Zone],
    *,
    sequential: bool,
    need_crcs: bool,
    progress: Progress | None = None,
    pages: PageOptions = NO_PAGES,
) -> Checkpoint | None:
    """As verify(), but returns None, and logs the reason, if the checkpoint can't be used. A checkpoint without CRCs
    (of an older release, or of a device that did not verify reads) can't be used by a device that verifies reads."""
    try:
        place = superblock.content.get("checkpoint")
        if need_crcs and isinstance(place, dict) and not place.get("crcs"):
            raise NotUsableError("it has no CRCs, but the FTL needs them to verify reads")
        return await verify(port, geometry, superblock, zones, sequential=sequential, progress=progress, pages=pages)
    except NotUsableError as error:
        log.warning("%s: not using its L2P checkpoint: %s", port.name, error.message)
    except MediaError as error:
        if _shim.base_gone(error.status):
            raise
        log.warning("%s: not using its L2P checkpoint: %s", port.name, error.message)
    return None


async def verify(
    port: BlockPort,
    geometry: Geometry,
    superblock: Superblock,
    zones: Sequence[Zone],
    *,
    sequential: bool,
    progress: Progress | None = None,
    pages: PageOptions = NO_PAGES,
) -> Checkpoint | None:
    """The checkpoint that the newest superblock names; None if that superblock is not clean or names none. Raises
    NotUsableError if any part of it is not valid, MediaError if the base does not answer.

    sequential: zone reports show how far zones are written, and must match the checkpoint.
    """
    place = superblock.content.get("checkpoint")
    if not superblock.clean or place is None:
        return None
    reader = await aside(len(zones), lambda: _Reader(port, geometry, superblock, place, pages))
    return await reader.run(zones, sequential, progress or (lambda step, part: None))


class _Reader:
    def __init__(
        self, port: BlockPort, geometry: Geometry, superblock: Superblock, place: Any, pages: PageOptions
    ) -> None:
        self._port = port
        self._geometry = geometry
        self._generation = superblock.generation
        self._uuid = superblock.media_uuid.bytes
        in_bands = {zone for band in geometry.bands for zone in band if zone is not None}
        capacity = geometry.zone_capacity
        try:
            self._zones = [int(zone) for zone in place["zones"]]
            self._block_count = int(place["blocks"])
            with_crcs = bool(place.get("crcs", False))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise NotUsableError(f"its description in the superblock is invalid: {error!r}") from error
        if (
            not in_bands.issuperset(self._zones)
            or len(set(self._zones)) != len(self._zones)
            or not len(self._zones) * capacity - capacity < self._block_count <= len(self._zones) * capacity
        ):
            raise NotUsableError(f"its description in the superblock is invalid: {place!r}")
        # Zones that an entry may point to.
        self._known_zone = np.zeros(geometry.zone_count, bool)
        self._known_zone[list(in_bands - set(self._zones))] = True
        self._bands = np.zeros(geometry.band_count, CHECKPOINT_BAND)
        self._pointers = np.full(geometry.band_count * geometry.punits, NO_ZONE, POINTER)
        try:
            self._table = empty_table(geometry, port.device.block_count, pages, with_crcs=with_crcs, with_seqs=False)
        except MemoryError as error:
            # The load without a checkpoint says so, and what it needs.
            raise NotUsableError(f"there is not enough memory for {geometry.block_count} blocks") from error
        self._one_at_a_time = asyncio.Lock()
        self._has_crc = np.zeros(-(-geometry.block_count // per_block(SECTION_CRCS)) if with_crcs else 0, bool)
        self._seen = {SECTION_BANDS: 0, SECTION_POINTERS: 0}

    async def run(self, zones: Sequence[Zone], sequential: bool, report: Progress) -> Checkpoint:
        step = max(1, min(STEP_BLOCKS, self._port.device.max_io_blocks))
        work = list(self._parts(step))
        items = self._geometry.block_count // ITEM_ENTRIES
        done = itertools.count(1)

        async def one(part: tuple[int, int, int]) -> None:
            index, address, count = part
            blocks = await self._blocks(address, count, step)
            async with self._one_at_a_time:
                # However small the part, or the parts together would hold up the loop.
                await aside(items, lambda: self._take(index, address, blocks))
            report("checkpoint", next(done) / len(work))

        await side_by_side(one, work, depth=PARTS_AT_A_TIME)
        if self._seen != {SECTION_BANDS: len(self._bands), SECTION_POINTERS: len(self._pointers)}:
            raise NotUsableError("it lacks bands")
        counts = await aside(items, self._counts)
        await aside(len(zones) + len(self._has_crc), lambda: self._check_whole(zones, sequential))
        return Checkpoint(
            band_seqs=self._bands["seq"].tolist(),
            faulted=(self._bands["faulted"] != 0).tolist(),
            history=self._bands["history"],
            table=self._table,
            counts=counts,
            zones=self._zones,
        )

    def _parts(self, step: int) -> Iterator[tuple[int, int, int]]:
        """Index, address and length of parts, each of whole reads of ``step`` blocks, or of one that is shorter."""
        capacity = self._geometry.zone_capacity
        most = max(1, PART_BLOCKS // step) * step
        for number, zone in enumerate(self._zones):
            end = min(capacity, self._block_count - number * capacity)
            whole = end // step * step
            ranges = [(first, min(first + most, whole)) for first in range(0, whole, most)]
            for first, last in [*ranges, *([(whole, end)] if whole < end else [])]:
                yield number * capacity + first, self._geometry.zone_start(zone) + first, last - first

    async def _blocks(self, address: int, count: int, step: int) -> NDArray[np.uint8]:
        if count > step:
            blocks = await self._port.read_each(range(address, address + count, step), step)
            if blocks is not None:
                return blocks.reshape(count, BLOCK_BYTES)
        # If some could not be read: again, with patience, and a message that says why.
        return await self._port.read(address, count)

    def _take(self, index: int, address: int, blocks: NDArray[np.uint8]) -> None:
        for run in verified_runs(self._uuid, self._generation, index, address, blocks):
            self._take_run(run)

    def _take_run(self, records: NDArray[Any]) -> None:
        """Consecutive blocks of one section."""
        section, first, count, entries = entries_of(records)
        length = {SECTION_BANDS: len(self._bands), SECTION_POINTERS: len(self._pointers)}.get(
            section, self._geometry.block_count
        )
        if section == SECTION_CRCS:
            each = per_block(section)
            whole = first % each == 0 and ((first + count) % each == 0 or first + count == length)
            if not self._table.has_crcs or not whole:
                raise NotUsableError("it has unexpected CRCs, or lacks some")
        if first + count > length:
            raise NotUsableError(f"a block exceeds the end of section {section}")
        if section in self._seen:
            self._seen[section] += count
            into = {SECTION_BANDS: self._bands, SECTION_POINTERS: self._pointers}[section]
            into[first : first + count] = entries.reshape(-1)[:count]
        elif section == SECTION_CRCS:
            self._has_crc[first // per_block(section) : -(-(first + count) // per_block(section))] = True
            self._table.put_crcs(first, entries, count)
        else:
            self._table.put_range(first, entries, count)

    def _counts(self) -> _shim.L2pCounts:
        """What the table has in force, and that all of it is in zones that may hold data."""
        try:
            counts = self._table.count(self._geometry.zone_size, self._geometry.zone_count)
        except IndexError as error:
            raise NotUsableError(str(error)) from error
        except MemoryError as error:
            raise NotUsableError(f"there is not enough memory for {self._geometry.block_count} blocks") from error
        if ((counts.blocks + counts.records)[~self._known_zone] > 0).any():
            raise NotUsableError("an entry points to a zone that is not in a band")
        return counts

    def _check_whole(self, zones: Sequence[Zone], sequential: bool) -> None:
        each = per_block(SECTION_CRCS)
        for block in np.flatnonzero(~self._has_crc).tolist():
            count = min(each, self._geometry.block_count - block * each)
            if has_block(self._table.l2p(block * each, count)).any():
                raise NotUsableError("it lacks CRCs")
        self._check_zones(zones, sequential)

    def _check_zones(self, zones: Sequence[Zone], sequential: bool) -> None:
        """Checks that nobody has written to the device since, and that none of its zones has lost data."""
        now = _pointers(self._geometry, zones)
        places = [zone for band in self._geometry.bands for zone in band]
        for zone, was, written in zip(places, self._pointers, now, strict=True):
            if zone is None or zone in self._zones:
                continue
            if zones[zone].state == OFFLINE:
                raise NotUsableError(f"zone {zone} is offline")
            # The device does not report the write pointer of a read-only zone.
            if sequential and zones[zone].usable and was != written:
                raise NotUsableError(f"zone {zone} is written up to {written}, but was up to {was}")


# --- numbers


def _pointers(geometry: Geometry, zones: Sequence[Zone]) -> NDArray[np.uint32]:
    """Blocks written of every zone of the bands, by band and punit."""
    places = (zone for band in geometry.bands for zone in band)
    return np.array([NO_ZONE if zone is None else zones[zone].written for zone in places], POINTER)
