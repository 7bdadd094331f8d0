"""The running checkpoint: copies of the L2P that a device writes while it runs, one turn after the other. After a crash
a load takes the newest whole one, and reads only the bands that were written since (docs/checkpoint.md).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import FtlConf, can_collect_garbage
from ...errors import MediaError
from ...runtime.progress import Progress
from ...runtime.turns import Turns, aside
from ..media.band import BAND_ROW, CLOSED, FAULTED, MOVING, SHIM_STATES
from ..media.blockdev import BlockPort, side_by_side
from ..media.geometry import BLOCK_BYTES, SUPERBLOCK_OPEN_ZONES, Geometry
from ..media.layout import BATCH_HEADER, BATCH_MAGIC, CHECKPOINT_BAND, FORMAT_VERSION, SEQ_MAX, crcs
from ..media.superblock import Superblock
from ..media.zone import EMPTY, FULL, Zone
from .checkpoint_blocks import (
    POINTER,
    SECTION_BANDS,
    SECTION_CRCS,
    SECTION_L2P,
    SECTION_L2P_WIDE,
    SECTION_POINTERS,
    STEP_BLOCKS,
    ZONES_MAX,
    BlockBuilder,
    NotUsableError,
    entries_of,
    has_block,
    per_block,
    verified_runs,
)
from .history import packed
from .pages import NO_PAGES, PageOptions
from .table import empty_table

log = logging.getLogger(__name__)

KEY: Final = "running_checkpoint"
"""Of the superblock's content. A release that does not know it reads all bands."""
BANDS_STEP: Final = 1 << 12
"""Bands whose account is taken at a time."""
STEP_LBAS: Final = 4032
"""A multiple of what a page of any section holds. Copied at once, in some 30 us of the reactor."""
READ_DEPTH: Final = 16
"""Reads at a time: the event loop takes all that have ended in one turn."""
HEADERS_STEP: Final = 512
"""First blocks of zones that are read at a time."""
BY_SIZE_FROM_BLOCKS: Final = 1 << 24
"""Capacity of an FTL, in blocks (64 GiB), from which on it has a running checkpoint unless its user decides
otherwise."""
BY_SIZE_SPARE: Final = 32
"""Of so many spare bands it has at most one then: garbage collection lacks them for good."""
BY_SIZE_COST: Final = 1
"""Percent of what hosts write that it costs at most then."""
_NUMBER_FLAG: Final = 1 << 63
"""No superblock has such a generation, so no block of a turn passes for one of a clean halt's checkpoint."""
_CLOSED_CODES: Final = tuple(SHIM_STATES.index(state) for state in (CLOSED, FAULTED, MOVING))


@dataclass(frozen=True)
class Turn:
    """A whole turn, as a superblock names it."""

    number: int
    """Random; each of its blocks has it."""
    zones: tuple[int, ...]
    """Zone numbers, in the order in which they were written."""
    blocks: int
    with_crcs: bool
    next_seq: int
    """S0: entries in bands that are unchanged are older."""
    block_count: int
    """Of the device."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; from_dict() of it gives an equal turn."""
        return {
            "number": self.number,
            "zones": list(self.zones),
            "blocks": self.blocks,
            "crcs": self.with_crcs,
            "next_seq": self.next_seq,
            "block_count": self.block_count,
        }

    @classmethod
    def from_dict(cls, place: Mapping[str, Any]) -> Turn:
        """Raises NotUsableError."""
        try:
            zones = tuple(int(zone) for zone in place["zones"])
            names = ("number", "blocks", "next_seq", "block_count")
            number, blocks, next_seq, block_count = (int(place[name]) for name in names)
            turn = cls(number, zones, blocks, bool(place["crcs"]), next_seq, block_count)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise NotUsableError(f"its description in the superblock is invalid: {error!r}") from error
        if not (_NUMBER_FLAG <= turn.number < 2 * _NUMBER_FLAG and 1 <= turn.next_seq <= SEQ_MAX):
            raise NotUsableError(f"its description in the superblock is invalid: {dict(place)!r}")
        return turn


# --- how large it is, and where it makes sense


def turn_blocks(geometry: Geometry, *, with_crcs: bool) -> int:
    """Blocks of a turn, at most."""
    lengths = {
        SECTION_BANDS: geometry.band_count,
        SECTION_POINTERS: geometry.band_count * geometry.punits,
        _l2p_section(geometry): geometry.block_count,
    }
    if with_crcs:
        lengths[SECTION_CRCS] = geometry.block_count
    return sum(-(-length // per_block(section)) for section, length in lengths.items())


def turn_bands(geometry: Geometry, *, with_crcs: bool) -> int:
    """Bands that a turn takes if none of their zones is missing."""
    zones = -(-turn_blocks(geometry, with_crcs=with_crcs) // geometry.zone_capacity)
    return -(-zones // geometry.punits)


def percent_by_size(geometry: Geometry, conf: FtlConf, *, emulated: bool) -> int:
    """The setting of a new FTL whose user has not decided: on if a load without a checkpoint would take more than some
    256 MiB beside the L2P, and a second of CPU, and if the device can have one. conf: with all thresholds."""
    if geometry.block_count < BY_SIZE_FROM_BLOCKS:
        return 0
    start_bands = max(limit.thld or 0 for limit in conf.limits.values())
    if why_not(geometry, conf, start_bands, emulated=emulated) is not None:
        return 0
    if turn_bands(geometry, with_crcs=conf.verify_reads) * BY_SIZE_SPARE > geometry.spare_bands:
        return 0
    blocks = turn_blocks(geometry, with_crcs=conf.verify_reads)
    return min(100, -(-100 * 100 * blocks // (BY_SIZE_COST * geometry.block_count)))


def why_not(geometry: Geometry, conf: FtlConf, start_bands: int, *, emulated: bool) -> str | None:
    """Why a device can't have a running checkpoint; None if it can. start_bands: free bands from which on bands are
    moved."""
    if emulated:
        return "emulated zones keep old headers over a reset, so nothing shows which bands have changed"
    limit = geometry.open_zones_limit
    streams = 2 if geometry.shared_stream else max(2, geometry.classes_max) + 1
    needed = streams * geometry.punits + SUPERBLOCK_OPEN_ZONES + 1
    if limit and needed > limit:
        return f"the base allows {limit} active zones, but it takes {needed} with one for the checkpoint"
    zones = -(-turn_blocks(geometry, with_crcs=conf.verify_reads) // geometry.zone_capacity)
    if zones > ZONES_MAX:
        return f"it needs {zones} zones, but the superblock can name {ZONES_MAX} at most"
    held = 2 * turn_bands(geometry, with_crcs=conf.verify_reads)
    if geometry.band_count <= held:
        return f"it needs {held} bands, but there are {geometry.band_count}"
    rest = dataclasses.replace(geometry, bands=geometry.bands[:-held])
    if not can_collect_garbage(rest) or rest.spare_bands - rest.open_bands <= start_bands:
        return f"it needs {held} of {geometry.spare_bands} spare bands, and the others are not enough"
    return None


def _is_wide(geometry: Geometry) -> bool:
    return geometry.checkpoint_entry_bytes != 4


def _l2p_section(geometry: Geometry) -> int:
    return SECTION_L2P_WIDE if _is_wide(geometry) else SECTION_L2P


# --- writing


class TurnWriter:
    """Writes one turn, step by step. Nothing counts before a superblock names what turn() returns."""

    def __init__(
        self,
        port: BlockPort,
        geometry: Geometry,
        uuid: UUID,
        core: _shim.FtlCore,
        *,
        with_crcs: bool,
        next_zone: Callable[[], Awaitable[int]],
    ) -> None:
        """next_zone: gives the number of an empty zone that is of no other use."""
        self._port = port
        self._geometry = geometry
        self._core = core
        self._with_crcs = with_crcs
        self._next_zone = next_zone
        self._number = secrets.randbits(63) | _NUMBER_FLAG
        self._uuid = uuid.bytes
        self._builder = BlockBuilder(uuid, self._number)
        self.blocks = 0
        """That were written."""
        self._zones: list[int] = []
        self._offset = geometry.zone_capacity
        self._next_seq = 0
        self._next_lba = 0
        self._io_blocks = max(1, min(STEP_BLOCKS, port.device.max_io_blocks))

    @property
    def part_done(self) -> float:
        return self._next_lba / self._geometry.block_count

    async def begin(self) -> None:
        """T0. Raises FtlError if the base refuses a write; like step() and end()."""
        geometry, turns = self._geometry, Turns()
        parts, pointers = [], []
        for first in range(0, geometry.band_count, BANDS_STEP):
            count = min(BANDS_STEP, geometry.band_count - first)
            # In this order: a band that is closed now is written no more before its reset.
            parts.append(self._core.band_rows(first, count).view(BAND_ROW))
            pointers.append(self._core.zone_pointers(first, count))
            await turns()
        account = np.concatenate(parts)
        # Only after the bands: what is in a closed one is older. Before the first page: no page is older.
        self._next_seq = self._core.part_seqs()
        bands = np.zeros(len(account), CHECKPOINT_BAND)
        # While records settle, the L2P names their old place, or none.
        whole = np.isin(account["state"], _CLOSED_CODES) & (account["settling"] == 0)
        bands["seq"] = np.where(whole, account["seq"], np.uint64(0))
        bands["faulted"] = (account["state"] == SHIM_STATES.index(FAULTED)) | (account["faulted_punits"] != 0)
        bands["history"] = packed(account, self._next_seq)
        for section, entries in ((SECTION_BANDS, bands), (SECTION_POINTERS, np.concatenate(pointers).astype(POINTER))):
            for records in self._builder.section(section, entries, 0):
                await turns()
                await self._write(records)

    async def step(self) -> bool:
        """Writes the next pages. False: these were the last."""
        first = self._next_lba
        count = min(STEP_LBAS, self._geometry.block_count - first)
        # CRCs may be newer than the entries: then these do not count in the end (docs/checkpoint.md). What is only in
        # the write buffer has no entry.
        pages = _shim.checkpoint_pages(
            self._core,
            first,
            count,
            media_end=self._geometry.zone_count * self._geometry.zone_size,
            uuid=self._uuid,
            generation=self._number,
            wide=_is_wide(self._geometry),
        )
        await self._write_blocks(pages)
        self._next_lba = first + count
        return self._next_lba < self._geometry.block_count

    async def end(self) -> None:
        """Call it in the end, whatever has become of the turn: its last zone is active no longer."""
        whole = self._geometry.zone_capacity
        if self._zones and (self._offset < whole or self._geometry.finish_zones):
            self._offset = whole
            await self._port.zone_action(_shim.ZoneAction.FINISH, self._geometry.zone_start(self._zones[-1]))

    def turn(self) -> Turn:
        """When everything accepted before this call is durable, after the last step."""
        return Turn(
            self._number,
            tuple(self._zones),
            self.blocks,
            self._with_crcs,
            self._next_seq,
            self._geometry.block_count,
        )

    async def _write(self, records: NDArray[Any]) -> None:
        await self._write_blocks(np.ascontiguousarray(records).view(np.uint8).reshape(len(records), BLOCK_BYTES))

    async def _write_blocks(self, blocks: NDArray[np.uint8]) -> None:
        """They are sealed where they are."""
        whole = self._geometry.zone_capacity
        done = 0
        while done < len(blocks):
            if self._offset == whole:
                if self._geometry.finish_zones:
                    await self.end()
                self._zones.append(await self._next_zone())
                self._offset = 0
            count = min(self._io_blocks, len(blocks) - done, whole - self._offset)
            address = self._geometry.zone_start(self._zones[-1]) + self._offset
            part = blocks[done : done + count]
            _shim.seal_pages(part, address, self.blocks)
            await self._port.write(address, part)
            self.blocks += count
            self._offset += count
            done += count


# --- reading


@dataclass
class RunningCheckpoint:
    """What a load begins with: the entries in unchanged bands, and these bands."""

    turn: Turn
    table: _shim.RestoredL2p
    seqs: dict[int, int]
    """The band seq of each unchanged band."""
    pointers: NDArray[np.uint32]
    """(bands, punits): blocks that were written at T0."""
    history: NDArray[np.uint32]
    """Of each band, as history.unpacked() takes it."""
    highest_band_seq: int
    faulted: frozenset[int]
    """Bands that were faulted at T0, or had a failed zone."""
    bands: frozenset[int]
    """Those that hold the turn."""


async def read(
    port: BlockPort,
    geometry: Geometry,
    superblock: Superblock,
    zones: Sequence[Zone],
    *,
    need_crcs: bool,
    progress: Progress | None = None,
    pages: PageOptions = NO_PAGES,
) -> RunningCheckpoint | None:
    """As verify(), but returns None, and logs the reason, if the turn can't be used."""
    try:
        return await verify(port, geometry, superblock, zones, need_crcs=need_crcs, progress=progress, pages=pages)
    except NotUsableError as error:
        log.warning("%s: not using its running checkpoint: %s", port.name, error.message)
    except MediaError as error:
        if _shim.base_gone(error.status):
            raise
        log.warning("%s: not using its running checkpoint: %s", port.name, error.message)
    return None


async def verify(
    port: BlockPort,
    geometry: Geometry,
    superblock: Superblock,
    zones: Sequence[Zone],
    *,
    need_crcs: bool,
    progress: Progress | None = None,
    pages: PageOptions = NO_PAGES,
) -> RunningCheckpoint | None:
    """The turn that the superblock, the newest one, names; None if it names none. Not for emulated zones. Raises
    NotUsableError if it can't be used, MediaError if it can't be read."""
    place = superblock.content.get(KEY)
    if not isinstance(place, Mapping):
        return None
    turn = Turn.from_dict(place)
    if need_crcs and not turn.with_crcs:
        raise NotUsableError("it has no CRCs, but the FTL needs them to verify reads")
    reader = await aside(len(zones), lambda: _Reader(port, geometry, superblock, turn, zones, pages))
    return await reader.run(progress or (lambda step, part: None))


class _Reader:
    def __init__(
        self,
        port: BlockPort,
        geometry: Geometry,
        superblock: Superblock,
        turn: Turn,
        zones: Sequence[Zone],
        pages: PageOptions,
    ) -> None:
        self._port = port
        self._geometry = geometry
        self._uuid = superblock.media_uuid.bytes
        self._turn = turn
        self._zones = zones
        places = {zone: number for number, band in enumerate(geometry.bands) for zone in band if zone is not None}
        capacity = geometry.zone_capacity
        if (
            not places.keys() >= set(turn.zones)
            or len(set(turn.zones)) != len(turn.zones)
            or not len(turn.zones) * capacity - capacity < turn.blocks <= len(turn.zones) * capacity
        ):
            raise NotUsableError(f"its description in the superblock is invalid: {turn.to_dict()!r}")
        if turn.block_count != geometry.block_count:
            raise NotUsableError(f"the FTL had {turn.block_count} blocks then")
        self._held = frozenset(places[zone] for zone in turn.zones)
        self._bands = np.zeros(geometry.band_count, CHECKPOINT_BAND)
        self._pointers = np.zeros(geometry.band_count * geometry.punits, POINTER)
        self._unchanged = np.zeros(geometry.zone_count, bool)
        """Zones that entries may point to."""
        self._seen = {SECTION_BANDS: 0, SECTION_POINTERS: 0}
        try:
            self._table = empty_table(
                geometry, port.device.block_count, pages, with_crcs=turn.with_crcs, many_seqs=False
            )
        except MemoryError as error:
            # The load without it says so, and what it needs.
            raise NotUsableError(f"there is not enough memory for {geometry.block_count} blocks") from error
        self._has_crc = np.zeros(-(-geometry.block_count // per_block(SECTION_CRCS)) if turn.with_crcs else 0, bool)

    async def run(self, report: Progress) -> RunningCheckpoint:
        head = sum(
            -(-length // per_block(section))
            for section, length in ((SECTION_BANDS, len(self._bands)), (SECTION_POINTERS, len(self._pointers)))
        )
        if self._turn.blocks < head:
            raise NotUsableError("it lacks bands")
        step = max(1, min(STEP_BLOCKS, self._port.device.max_io_blocks))
        done = 0

        async def head_part(item: tuple[int, int, int]) -> None:
            index, address, count = item
            blocks = await self._port.read(address, count)
            for run in verified_runs(self._uuid, self._turn.number, index, address, blocks):
                section, first, count, entries = entries_of(run)
                self._take_run(section, first, entries.reshape(-1)[:count])

        async def pages(item: tuple[int, int, int]) -> None:
            nonlocal done
            index, address, count = item
            self._take_pages(index, address, await self._port.read(address, count))
            done += count
            report("checkpoint", done / self._turn.blocks)

        await side_by_side(head_part, self._parts(0, head, step))
        if self._seen != {SECTION_BANDS: len(self._bands), SECTION_POINTERS: len(self._pointers)}:
            raise NotUsableError("it lacks bands")
        seqs = await self._find_unchanged()
        await side_by_side(pages, self._parts(head, self._turn.blocks, step), depth=READ_DEPTH)
        await aside(len(self._has_crc), self._check_crcs)
        self._table.assume(max(1, self._turn.next_seq - 1))
        return RunningCheckpoint(
            turn=self._turn,
            table=self._table,
            seqs=seqs,
            pointers=self._pointers.reshape(self._geometry.band_count, self._geometry.punits),
            history=self._bands["history"],
            highest_band_seq=int(self._bands["seq"].max(initial=0)),
            faulted=frozenset(np.flatnonzero(self._bands["faulted"]).tolist()),
            bands=self._held,
        )

    def _parts(self, first: int, end: int, step: int) -> list[tuple[int, int, int]]:
        """(index, address, count) of its blocks."""
        capacity = self._geometry.zone_capacity
        parts = []
        index = first
        while index < end:
            number, offset = divmod(index, capacity)
            count = min(step, end - index, capacity - offset)
            parts.append((index, self._geometry.zone_start(self._turn.zones[number]) + offset, count))
            index += count
        return parts

    # --- bands

    async def _find_unchanged(self) -> dict[int, int]:
        """Which bands are as they were at T0, with their seqs: each of their zones that is not empty is full, and
        begins with a header of the same use of the band."""
        candidates = await aside(len(self._zones), self._candidates)
        whole: dict[int, bool] = {}
        for first in range(0, len(candidates), HEADERS_STEP):
            part = candidates[first : first + HEADERS_STEP]
            blocks = await self._first_blocks([self._geometry.zone_start(zone) for _, _, zone in part])
            good = await aside(len(part), functools.partial(self._are_headers, part, blocks))
            for (number, _, _), is_good in zip(part, good.tolist(), strict=True):
                whole[number] = whole.get(number, True) and is_good
        found = {number: int(self._bands["seq"][number]) for number, is_whole in whole.items() if is_whole}
        self._unchanged[[zone for number, _, zone in candidates if number in found]] = True
        return found

    def _candidates(self) -> list[tuple[int, int, int]]:
        """(band, punit, zone) of all zones that are not empty, of bands that were closed at T0 and may be unchanged."""
        found = []
        for number in np.flatnonzero(self._bands["seq"]).tolist():
            if number in self._held:
                continue
            there = [
                (number, punit, zone)
                for punit, zone in enumerate(self._geometry.bands[number])
                if zone is not None and self._zones[zone].state != EMPTY
            ]
            # A load reads what can still be written, or what is damaged.
            if all(self._zones[zone].state == FULL for _, _, zone in there):
                found += there
        return found

    async def _first_blocks(self, starts: list[int]) -> NDArray[np.uint8]:
        blocks = await self._port.read_each(starts)
        if blocks is not None:
            return blocks[:, 0, :]
        # One of them can't be read. Its band is read, which finds out what that means.
        each = [(await self._port.read_what_can_be(start, 1))[0] for start in starts]
        return np.concatenate(each)

    def _are_headers(self, part: list[tuple[int, int, int]], blocks: NDArray[np.uint8]) -> NDArray[np.bool_]:
        records = np.ascontiguousarray(blocks).view(BATCH_HEADER).reshape(-1)
        crc = records["crc"].copy()
        records["crc"] = 0
        numbers = np.array([number for number, _, _ in part], np.int64)
        good: NDArray[np.bool_] = (
            (records["magic"] == BATCH_MAGIC)
            & (records["version"] == FORMAT_VERSION)
            & (np.ascontiguousarray(blocks[:, 16:32]) == np.frombuffer(self._uuid, np.uint8)).all(axis=1)
            & (records["band_seq"] == self._bands["seq"][numbers])
            & (records["band"] == numbers)
            & (records["punit"] == np.array([punit for _, punit, _ in part]))
            & (crcs(np.ascontiguousarray(blocks)) == crc)
        )
        return good

    # --- entries

    def _take_run(self, section: int, first: int, entries: NDArray[Any]) -> None:
        into: NDArray[Any] | None = {SECTION_BANDS: self._bands, SECTION_POINTERS: self._pointers}.get(section)
        if into is None or first + len(entries) > len(into):
            raise NotUsableError(f"it has a wrong block of section {section}")
        self._seen[section] += len(entries)
        into[first : first + len(entries)] = entries

    def _take_pages(self, index: int, address: int, blocks: NDArray[np.uint8]) -> None:
        whole = _shim.take_pages(
            self._table,
            blocks,
            uuid=self._uuid,
            generation=self._turn.number,
            wide=_is_wide(self._geometry),
            address=address,
            index=index,
            zone_size=self._geometry.zone_size,
            zones=self._unchanged,
            has_crcs=self._has_crc,
        )
        if not whole:
            raise NotUsableError(f"blocks {address} to {address + len(blocks) - 1} are not all valid blocks of it")

    def _check_crcs(self) -> None:
        each = per_block(SECTION_CRCS)
        for block in np.flatnonzero(~self._has_crc).tolist():
            count = min(each, self._geometry.block_count - block * each)
            if has_block(self._table.l2p(block * each, count)).any():
                raise NotUsableError("it lacks CRCs")
