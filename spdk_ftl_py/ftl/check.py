"""The checker: reads and verifies everything that an FTL has on its base, and writes nothing.

A load (restore.py) finds only part of what may be wrong, because it trusts a valid summary. The checker reads every
block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from .. import _shim
from ..errors import MediaError, NotFoundError
from ..runtime.progress import Progress
from ..runtime.reactor import ReactorLoop
from .load import checkpoint as checkpoints
from .load import running
from .load.checkpoint import Checkpoint
from .load.checkpoint_blocks import NotUsableError
from .load.restore import restore
from .load.restored import Restored
from .load.zone_walk import ZoneContent, ZoneReader
from .media import superblock as superblocks
from .media.blockdev import BlockPort, side_by_side
from .media.geometry import SUPERBLOCK_ZONES, Geometry
from .media.layout import Block, cut_crcs, parse_summary_block
from .media.superblock import SEARCH_BLOCKS, Superblock, part_of
from .media.zone import EMPTY, FULL, OFFLINE, UNUSABLE_STATES, Zone

READ_BLOCKS: Final = 128
"""Blocks of a zone that are read at once."""
DAMAGE_MAX: Final = 1000
"""Further damage is only counted."""

CHECKPOINT_NONE: Final = "none"
CHECKPOINT_WHOLE: Final = "whole"
CHECKPOINT_BROKEN: Final = "broken"

_DATA, _ZEROES, _LOST = range(3)


class ReadOnlyPort(BlockPort):
    """A BlockPort that refuses every operation that changes something."""

    async def _submit(
        self, op: _shim.Op, lba: int = 0, block_count: int = 0, buffer: Any | None = None, **options: Any
    ) -> int:
        if op not in (_shim.Op.READ, _shim.Op.ZONE_REPORT):
            raise AssertionError(f"the check only reads, but got op {op:#x}")
        return await super()._submit(op, lba, block_count, buffer, **options)


@dataclass
class CheckReport:
    """The result. All counts are in blocks unless named otherwise."""

    name: str
    uuid: UUID
    format_version: int
    generation: int
    clean: bool
    """The FTL was halted cleanly; otherwise a load would recover as after a crash."""
    block_count: int
    zone_count: int
    band_count: int
    superblocks: int = 0
    headers: int = 0
    record_headers: int = 0
    summaries: int = 0
    """Zones with a valid summary."""
    data_blocks: int = 0
    """Blocks that match their CRC, valid or not."""
    mapped_blocks: int = 0
    """LBAs that hold data."""
    lost_blocks: int = 0
    """LBAs that read as an error. This is damage, whenever it was found."""
    torn_blocks: int = 0
    """Blocks that a crash may leave: not valid, and cut off after the flushed ones."""
    checkpoint: str = CHECKPOINT_NONE
    running_checkpoint: str = CHECKPOINT_NONE
    """The one that a load would use."""
    not_looked_at: list[str] = field(default_factory=list)
    """Where else a load would look for newer writes. After a halt nothing there is needed."""
    damage: list[str] = field(default_factory=list)
    damage_count: int = 0

    @property
    def ok(self) -> bool:
        return self.damage_count == 0

    def add(self, text: str) -> None:
        self.damage_count += 1
        if len(self.damage) < DAMAGE_MAX:
            self.damage.append(text)

    def to_dict(self) -> dict[str, Any]:
        return {
            "result": "clean" if self.ok else "damaged",
            "name": self.name,
            "uuid": str(self.uuid),
            "format_version": self.format_version,
            "halted": self.clean,
            "superblock_generation": self.generation,
            "num_blocks": self.block_count,
            "num_zones": self.zone_count,
            "num_bands": self.band_count,
            "superblocks": self.superblocks,
            "batch_headers": self.headers,
            "record_headers": self.record_headers,
            "summaries": self.summaries,
            "data_blocks": self.data_blocks,
            "mapped_blocks": self.mapped_blocks,
            "lost_blocks": self.lost_blocks,
            "torn_blocks": self.torn_blocks,
            "l2p_checkpoint": self.checkpoint,
            "running_checkpoint": self.running_checkpoint,
            "not_looked_at": self.not_looked_at,
            "damage_count": self.damage_count,
            "damage": self.damage,
        }


async def check(
    reactor: ReactorLoop,
    base: _shim.BlockDevice,
    *,
    name: str,
    uuid: UUID | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Reads a zoned device that no FTL runs on; without a uuid, whatever FTL is on it.

    Raises NotFoundError if there is none (with that uuid), UnsupportedError for another format version, GeometryError
    if the device differs from the superblock, MediaError if the device does not answer.
    """
    port = ReadOnlyPort(reactor, base, name=name)
    try:
        return await _Check(port, uuid, progress or (lambda step, part: None)).run()
    finally:
        await port.close()


class _Check:
    def __init__(self, port: BlockPort, uuid: UUID | None, report: Progress) -> None:
        self._port = port
        self._uuid = uuid
        self._progress = report
        self._sequential = not isinstance(port.device, _shim.ZonedOverlay)
        self._result: CheckReport
        self._geometry: Geometry
        self._use_append = False
        self._superblock: Superblock
        self._zones: list[Zone] = []
        self._reader: ZoneReader
        self._checkpoint: Checkpoint | None = None
        self._which = ""
        """The checkpoint whose entries are compared with the bands."""
        self._derived: NDArray[np.uint64]
        self._truth: NDArray[np.uint64]
        self._read_blocks = 0
        self._written_blocks = 0

    async def run(self) -> CheckReport:
        self._zones = await self._port.zones(lambda part: self._progress("zone report", part))
        found = await superblocks.find(self._port, self._zones, self._uuid)
        if found is None:
            wanted = "" if self._uuid is None else f" with uuid {self._uuid}"
            raise NotFoundError(f"{self._port.name} holds no FTL{wanted}: give the base bdev of an FTL")
        self._superblock = found.superblock
        restored = await restore(
            self._port,
            self._superblock.uuid,
            settings={"allow_open_bands": True},
            use_checkpoint=False,
            progress=self._progress,
        )
        self._geometry = restored.geometry
        self._zones = self._zones[: self._geometry.zone_count]
        self._use_append = restored.conf.use_append
        self._result = CheckReport(
            name=str(self._superblock.content.get("name")),
            uuid=self._superblock.uuid,
            format_version=self._superblock.version,
            generation=self._superblock.generation,
            clean=self._superblock.clean,
            block_count=restored.geometry.block_count,
            zone_count=len(self._zones),
            band_count=restored.geometry.band_count,
            not_looked_at=self._not_looked_at(),
        )
        for text in restored.damage:
            self._result.add(text)
        await self._check_superblocks()
        await self._check_checkpoint()
        self._derived = restored.l2p
        self._truth = self._derived
        self._crcs: NDArray[np.uint16] | None = None
        table = None
        if self._checkpoint is not None:
            self._which, table = "L2P checkpoint", self._checkpoint.table
        elif self._sequential and not (self._superblock.clean or restored.damage):
            # A load gives it up if there is damage.
            table = await self._check_running(need_crcs=restored.conf.verify_reads)
        if table is not None:
            self._truth = table.l2p(0, table.block_count)
            self._crcs = table.crcs(0, table.block_count) if table.has_crcs else None
        kinds = _kinds(self._truth)
        self._result.mapped_blocks = int(np.count_nonzero(kinds == _DATA))
        self._result.lost_blocks = int(np.count_nonzero(kinds == _LOST))
        await self._check_bands()
        self._check_mapping(restored, kinds)
        return self._result

    def _not_looked_at(self) -> list[str]:
        if self._superblock.clean:
            return []
        cache = self._superblock.content.get("nv_cache")
        in_use = isinstance(cache, dict) and bool(cache.get("in_use"))
        return ["write buffer file", "nv cache"] if in_use else ["write buffer file"]

    # --- superblocks, checkpoint

    async def _check_superblocks(self) -> None:
        for zone in (self._zones[index] for index in SUPERBLOCK_ZONES):
            if zone.state in (EMPTY, OFFLINE):
                continue
            newest = 0
            parts: list[Block] = []
            async for address, block in self._blocks_of(zone):
                superblock = Superblock.parse(block, self._superblock.media_uuid, parts)
                if superblock is None and part_of(block, self._superblock.media_uuid):
                    # Part of a superblock that was cut off, or continues.
                    parts.append(block)
                    continue
                parts = []
                if superblock is not None and (self._sequential or superblock.generation > newest):
                    self._result.superblocks += 1
                    newest = superblock.generation
                elif not self._sequential:
                    # Blocks after the last superblock belong to an earlier life.
                    break
                elif block.any():
                    self._result.add(f"block {address} (zone {zone.index}): a superblock is damaged")

    async def _blocks_of(self, zone: Zone) -> AsyncIterator[tuple[int, Block]]:
        for first in range(0, zone.written, SEARCH_BLOCKS):
            blocks, _ = await self._port.read_what_can_be(zone.start + first, min(SEARCH_BLOCKS, zone.written - first))
            for i, block in enumerate(blocks):
                yield zone.start + first + i, block

    async def _check_checkpoint(self) -> None:
        try:
            self._checkpoint = await checkpoints.verify(
                self._port,
                self._geometry,
                self._superblock,
                self._zones,
                sequential=self._sequential,
                progress=self._progress,
            )
        except NotUsableError as error:
            self._result.add(f"the L2P checkpoint can't be used: {error.message}")
            self._result.checkpoint = CHECKPOINT_BROKEN
        except MediaError as error:
            if _shim.base_gone(error.status):
                raise
            self._result.add(f"the L2P checkpoint can't be read: {error.message}")
            self._result.checkpoint = CHECKPOINT_BROKEN
        if self._checkpoint is not None:
            self._result.checkpoint = CHECKPOINT_WHOLE

    async def _check_running(self, *, need_crcs: bool) -> _shim.RestoredL2p | None:
        """What a load would begin with that uses the running checkpoint; None if there is none."""
        try:
            found = await running.verify(
                self._port, self._geometry, self._superblock, self._zones, need_crcs=need_crcs, progress=self._progress
            )
        except (NotUsableError, MediaError) as error:
            if isinstance(error, MediaError) and _shim.base_gone(error.status):
                raise
            self._result.add(f"the running checkpoint can't be used: {error.message}: a load reads all bands instead")
            self._result.running_checkpoint = CHECKPOINT_BROKEN
            return None
        if found is None:
            return None
        # Two tables at a time are enough.
        del found
        self._which, self._result.running_checkpoint = "running checkpoint", CHECKPOINT_WHOLE
        restored = await restore(
            self._port, self._superblock.uuid, settings={"allow_open_bands": True}, progress=self._progress
        )
        return restored.table

    # --- every block of the bands

    async def _check_bands(self) -> None:
        geometry = self._geometry
        self._reader = ZoneReader(
            self._port,
            geometry,
            self._superblock.media_uuid,
            sequential=self._sequential,
            use_append=self._use_append,
        )
        self._seen = np.zeros(geometry.block_count, bool)
        self._already_listed = np.zeros(geometry.block_count, bool)
        self._truth_seqs = np.zeros(geometry.block_count, np.uint64)
        self._derived_seqs = np.zeros(geometry.block_count, np.uint64)
        work = [
            (band, punit, self._zones[zone])
            for band, zones in enumerate(geometry.bands)
            for punit, zone in enumerate(zones)
            if zone is not None and self._zones[zone].state not in (EMPTY, OFFLINE)
        ]
        self._written_blocks = sum(min(zone.written, geometry.zone_capacity) for _, _, zone in work)
        await side_by_side(self._check_zone, work)

    async def _check_zone(self, item: tuple[int, int, Zone]) -> None:
        band, punit, zone = item
        geometry = self._geometry
        written = min(zone.written, geometry.zone_capacity)
        full = zone.state == FULL or zone.state in UNUSABLE_STATES
        content = await self._reader.read_zone(band, punit, zone.start, written, full=full)
        if content.checkpoint:
            self._count(written)
            return
        self._result.record_headers += len(content.records)
        if not content.walked and content.band_seq:
            self._result.summaries += 1
        # For each block of the zone, the entry that describes it.
        entry_of = np.full(geometry.zone_capacity, -1, np.int64)
        content.addresses, content.entries = content.data_blocks()
        entry_of[(content.addresses - np.uint64(zone.start)).astype(np.int64)] = np.arange(len(content.addresses))
        data_end = min(written, geometry.data_blocks)
        for first in range(0, data_end, READ_BLOCKS):
            blocks, readable = await self._port.read_what_can_be(zone.start + first, min(READ_BLOCKS, data_end - first))
            entries = entry_of[first : first + len(blocks)]
            self._check_data(content, blocks, readable, first, entries)
            self._check_headers(content, blocks, first, np.flatnonzero(entries < 0))
            self._count(len(blocks))
        if written > geometry.data_blocks:
            await self._check_summary(content, zone.start + geometry.data_blocks, written - geometry.data_blocks)

    def _check_data(
        self,
        content: ZoneContent,
        blocks: NDArray[np.uint8],
        readable: NDArray[np.bool_],
        first: int,
        entries: NDArray[np.int64],
    ) -> None:
        data = np.flatnonzero(entries >= 0)
        if not len(data):
            return
        table = content.entries[entries[data]]
        addresses = content.addresses[entries[data]]
        crc = np.array([_shim.crc32c(memoryview(blocks[i])) for i in map(int, data)], np.uint32)
        good = (crc == table["crc"]) & readable[data]
        self._result.data_blocks += int(np.count_nonzero(good))
        known = table["lba"] < self._geometry.block_count
        lba = np.where(known, table["lba"], 0).astype(np.int64)
        in_force = known & (self._truth[lba] == addresses)
        self._seen[lba[in_force]] = True
        self._truth_seqs[lba[in_force]] = table["seq"][in_force]
        if self._crcs is not None:
            other = in_force & good & (self._crcs[lba] != cut_crcs(table["crc"]))
            for i in map(int, np.flatnonzero(other)):
                self._result.add(f"LBA {int(lba[i])}: the {self._which} has another CRC than its block")
        derived = known & (self._derived[lba] == addresses)
        self._derived_seqs[lba[derived]] = table["seq"][derived]
        # A restore has already listed these.
        listed = known & (self._derived[lba] == (addresses | np.uint64(_shim.LOST_FLAG)))
        self._already_listed[lba[listed]] = True
        torn = (addresses >= content.torn_from) | (not self._sequential)
        self._result.torn_blocks += int(np.count_nonzero(~good & torn & ~in_force))
        for i in map(int, np.flatnonzero(~good & ~listed & (in_force | ~torn))):
            what = "in force" if in_force[i] else "obsolete"
            how = "does not match its CRC" if readable[data[i]] else "can't be read"
            self._result.add(
                f"block {int(addresses[i])} (band {content.band}): data of LBA {int(table['lba'][i])}, {what}, {how}"
            )

    def _check_headers(
        self, content: ZoneContent, blocks: NDArray[np.uint8], first: int, others: NDArray[np.intp]
    ) -> None:
        for i in map(int, others):
            address = content.start + first + i
            header = self._reader.header_at(content, blocks[i], address)
            if header is not None and header.band_seq == content.band_seq:
                self._result.headers += 1
                # With zone append, what landed in the place of lost blocks does not count.
                behind = content.walked and address >= content.start + content.end
                if behind and self._sequential and not self._use_append:
                    self._result.add(
                        f"block {address} (band {content.band}): a load does not find this batch, because too much "
                        "before it reads as if it was never written"
                    )
            elif not content.walked and self._sequential:
                # A restore has listed it for other zones.
                self._result.add(
                    f"block {address} (band {content.band}): a batch header is damaged; the summary has its content"
                )

    async def _check_summary(self, content: ZoneContent, address: int, count: int) -> None:
        blocks, _ = await self._port.read_what_can_be(address, count)
        self._count(count)
        if not content.walked or not self._sequential:
            return
        # A zone that was finished early has nothing there.
        for i, block in enumerate(blocks):
            if block.any() and parse_summary_block(block, self._superblock.media_uuid) is None:
                self._result.add(
                    f"block {address + i} (band {content.band}): a block of the zone's summary is damaged; the "
                    "headers have its content"
                )

    def _count(self, blocks: int) -> None:
        self._read_blocks += blocks
        self._progress("blocks", self._read_blocks / max(1, self._written_blocks))

    # --- does it fit together

    def _check_mapping(self, restored: Restored, kinds: NDArray[np.uint8]) -> None:
        for lba in map(int, np.flatnonzero((kinds == _DATA) & ~self._seen)):
            self._result.add(
                f"LBA {lba}: the {self._which} maps it to block {int(self._truth[lba])}, but no header does"
            )
        lost = np.flatnonzero((kinds == _LOST) & ~self._already_listed)
        for run in np.split(lost, np.flatnonzero(np.diff(lost) != 1) + 1) if len(lost) else ():
            which = f"LBA {run[0]} is" if len(run) == 1 else f"LBAs {run[0]} to {run[-1]} are"
            self._result.add(
                f"{which} lost: media could not be read, or a host has declared this uncorrectable; reads return an "
                "error until the block is written or trimmed"
            )
        if not self._which or restored.damage:
            return
        derived = _kinds(self._derived)
        newer = (derived == _DATA) & (kinds == _DATA) & (self._derived_seqs > self._truth_seqs)
        for lba in map(int, np.flatnonzero(newer | (derived != kinds))):
            self._result.add(f"LBA {lba}: the {self._which} differs from the bands")


def _kinds(l2p: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """What each LBA reads as."""
    kinds = np.full(len(l2p), _DATA, np.uint8)
    flags = l2p & np.uint64(_shim.LOST_FLAG)
    kinds[flags == np.uint64(_shim.LOST_FLAG)] = _LOST
    kinds[(flags == np.uint64(_shim.TRIM_FLAG)) | (l2p == np.uint64(_shim.ADDRESS_INVALID))] = _ZEROES
    return kinds


def damage_lines(report: CheckReport, most: int) -> Sequence[str]:
    """The first damage, and how much more there is."""
    lines = report.damage[:most]
    more = report.damage_count - len(lines)
    return [*lines, f"and {more} more"] if more > 0 else lines
