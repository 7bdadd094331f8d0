"""The superblock: which device this is, and how its zones are used. Zones 0 and 1 in turns; see
docs/media-layout.md."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np

from ... import _shim
from ...errors import FlushDoubtError, FtlError, MediaError
from .blockdev import ZONE_FINISH, ZONE_RESET, BlockPort
from .geometry import SUPERBLOCK_ZONES, Geometry
from .layout import FORMAT_VERSION, SEQ_MAX, SUPERBLOCK, SUPERBLOCK_MAGIC, Block, new_record, parse_record, seal
from .zone import EMPTY, FULL, OFFLINE, Zone

log = logging.getLogger(__name__)

FLAG_CLEAN: Final = 1
JSON_BYTES_MAX: Final = 4032
ATTEMPTS: Final = 3
"""Of each zone, to write one superblock."""
SEARCH_BLOCKS: Final = 32
"""Blocks read at a time when looking backwards for the newest superblock."""


@dataclass(frozen=True)
class Superblock:
    uuid: UUID
    generation: int
    clean: bool
    content: Mapping[str, Any]

    @property
    def incarnation(self) -> int:
        """Of the device: greater with every load. Names the write buffer file that belongs to this superblock."""
        found = self.content.get("incarnation", 0)
        return found if isinstance(found, int) and 0 <= found <= SEQ_MAX else 0

    def build(self) -> Block:
        """As a block. Raises FtlError where the content does not fit."""
        text = json.dumps(self.content, separators=(",", ":"), sort_keys=True).encode()
        if len(text) > JSON_BYTES_MAX:
            raise FtlError(
                f"superblock content has {len(text)} bytes, at most {JSON_BYTES_MAX} fit: too many replaced zones"
            )
        record = new_record(SUPERBLOCK, SUPERBLOCK_MAGIC, self.uuid)
        record["generation"] = self.generation
        record["length"] = len(text)
        record["flags"] = FLAG_CLEAN if self.clean else 0
        record["json"] = np.void(text.ljust(JSON_BYTES_MAX, b"\0"))
        return seal(record)

    @classmethod
    def parse(cls, block: Block, uuid: UUID | None = None) -> Superblock | None:
        """None where the block is no whole superblock (of that uuid). Raises UnsupportedError for another format
        version."""
        record = parse_record(block, SUPERBLOCK, SUPERBLOCK_MAGIC, uuid, "the superblock")
        if record is None or int(record["length"]) > JSON_BYTES_MAX:
            return None
        try:
            content = json.loads(bytes(record["json"])[: int(record["length"])])
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        return cls(
            uuid=UUID(bytes=bytes(record["uuid"])),
            generation=int(record["generation"]),
            clean=bool(int(record["flags"]) & FLAG_CLEAN),
            content=content,
        )


class SuperblockWriter:
    """Appends superblocks, one at a time; uses the other zone when one is full or fails. The zone of the newest
    superblock is never erased: at any instant there is a valid one."""

    def __init__(
        self, port: BlockPort, geometry: Geometry, uuid: UUID, *, generation: int = 0, zone: int = 0, written: int = 0
    ) -> None:
        """zone and written: where the newest superblock ends. The other zone may hold anything."""
        self._port = port
        self._geometry = geometry
        self._uuid = uuid
        self._zone = zone
        self._newest = zone if generation else None
        # Where each zone can be written; None: it has to be reset before.
        self._offsets: list[int | None] = [None, None]
        self._offsets[zone] = written
        self.generation = generation

    async def write(self, content: Mapping[str, Any], *, clean: bool) -> None:
        """Durable when it returns. Raises MediaError when neither zone takes it; the last one written stays valid.
        Raises FlushDoubtError where it is the flush that fails: the superblock could be written once more, but what
        else the device's cache held may be lost."""
        content = {"format": FORMAT_VERSION, **content}
        block = Superblock(self._uuid, self.generation + 1, clean, content).build()
        problem: MediaError | None = None
        for zone in (self._zone, 1 - self._zone):
            for _ in range(ATTEMPTS):
                try:
                    if not await self._make_room(zone):
                        break
                    await self._append(zone, block)
                    await self._leave(1 - zone)
                    return
                except FlushDoubtError:
                    raise
                except MediaError as error:
                    log.warning("superblock zone %d: %s", SUPERBLOCK_ZONES[zone], error)
                    problem = error
                    self._offsets[zone] = await self._pointer(zone)
        raise problem or MediaError("no superblock zone can be written", errno=errno.EROFS)

    async def _make_room(self, zone: int) -> bool:
        offset = self._offsets[zone]
        if offset is not None and offset < self._geometry.zone_capacity:
            return True
        if zone == self._newest:
            return False
        await self._port.zone_action(ZONE_RESET, self._geometry.zone_start(SUPERBLOCK_ZONES[zone]))
        self._offsets[zone] = 0
        return True

    async def _leave(self, zone: int) -> None:
        """Only one of them may count as active. Not before the other one is written: a load takes what a full zone does
        not hold for damage, if there is nothing newer."""
        if self._offsets[zone] is not None and self._offsets[zone] != self._geometry.zone_capacity:
            self._offsets[zone] = None
            with contextlib.suppress(MediaError):
                await self._port.zone_action(ZONE_FINISH, self._geometry.zone_start(SUPERBLOCK_ZONES[zone]))

    async def _append(self, zone: int, block: Block) -> None:
        offset = self._offsets[zone]
        assert offset is not None
        await self._port.write(self._geometry.zone_start(SUPERBLOCK_ZONES[zone]) + offset, block)
        await self._port.flush()
        self._offsets[zone] = offset + 1
        self._zone = self._newest = zone
        self.generation += 1

    async def _pointer(self, zone: int) -> int | None:
        """How far the zone is written after a failed write; None where that can't be known, or it is full."""
        try:
            (now,) = await self._port.zone_report(SUPERBLOCK_ZONES[zone], 1)
        except (FtlError, ValueError):
            return None
        return now.written if now.usable and now.written < self._geometry.zone_capacity else None


class Found(NamedTuple):
    superblock: Superblock
    zone: int
    """0 or 1: the one it stands in."""
    used: int
    """Blocks of that zone."""
    damage: str | None
    """A newer one was written, and does not verify: what it said is not known."""


async def find(port: BlockPort, zones: list[Zone], uuid: UUID | None = None) -> Found | None:
    """The newest superblock on the device that verifies. Raises MediaError where the device is gone."""
    best: Found | None = None
    silent: list[Zone] = []
    for which, index in enumerate(SUPERBLOCK_ZONES):
        zone = zones[index]
        if zone.state in (EMPTY, OFFLINE) or zone.written == 0:
            continue
        superblock, damage = await _newest(port, zone, uuid)
        if superblock is None:
            silent.append(zone)
        elif best is None or superblock.generation > best.superblock.generation:
            best = Found(superblock, which, zone.written, damage)
    if best is not None and best.damage is None and zones[SUPERBLOCK_ZONES[best.zone]].state == FULL:
        # The next one goes to the other zone, after its reset.
        for zone in silent:
            if _tells_its_pointer(port, zone):
                best = best._replace(damage=_damage(zone.start, zone))
    return best


def _tells_its_pointer(port: BlockPort, zone: Zone) -> bool:
    """Whether what stands below the write pointer was written since the last reset. Zones that are emulated are full
    whatever is in them, and of a read-only one the device does not tell it."""
    return zone.usable and not (isinstance(port.device, _shim.ZonedOverlay) and zone.state == FULL)


def _damage(address: int, zone: Zone) -> str:
    return (
        f"block {address} (zone {zone.index}): the newest superblock does not verify: writes that were held elsewhere, "
        "and zones that were replaced, may not be known"
    )


async def _newest(port: BlockPort, zone: Zone, uuid: UUID | None) -> tuple[Superblock | None, str | None]:
    if isinstance(port.device, _shim.ZonedOverlay) and zone.state == FULL:
        return await _newest_of_run(port, zone, uuid), None
    end = zone.written
    while end > 0:
        first = max(0, end - SEARCH_BLOCKS)
        blocks, _ = await port.read_what_can_be(zone.start + first, end - first)
        for i in reversed(range(len(blocks))):
            superblock = Superblock.parse(blocks[i], uuid)
            if superblock is not None:
                behind = first + i + 1
                damaged = behind < zone.written and _tells_its_pointer(port, zone)
                return superblock, _damage(zone.start + behind, zone) if damaged else None
        end = first
    return None, None


async def _newest_of_run(port: BlockPort, zone: Zone, uuid: UUID | None) -> Superblock | None:
    """The last of those that stand at the zone's start, of one device and with generations that never descend: behind
    it stands an earlier life's."""
    newest: Superblock | None = None
    for first in range(0, zone.written, SEARCH_BLOCKS):
        blocks, _ = await port.read_what_can_be(zone.start + first, min(SEARCH_BLOCKS, zone.written - first))
        for block in blocks:
            superblock = Superblock.parse(block, newest.uuid if newest is not None else uuid)
            # The same once more is one whose flush failed, written again.
            if superblock is None or (newest is not None and superblock.generation < newest.generation):
                return newest
            newest = superblock
    return newest
