"""The superblock: the identity of the device, and the use of its zones. It is in zones 0 and 1 in turn; see
docs/media-layout.md."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import logging
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import FlushDoubtError, FtlError, MediaError
from .blockdev import BlockPort
from .geometry import BLOCK_BYTES, SUPERBLOCK_ZONES, Geometry
from .layout import (
    FORMAT_VERSION,
    HIDDEN_UUID_VERSION,
    SEQ_MAX,
    SUPERBLOCK,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_PART_MAGIC,
    Block,
    new_record,
    parse_record,
    seal,
)
from .zone import ACTIVE_STATES, EMPTY, FULL, OFFLINE, Zone

log = logging.getLogger(__name__)

_VERSIONS: Final = (FORMAT_VERSION, HIDDEN_UUID_VERSION)
FLAG_CLEAN: Final = 1
FLAG_PACKED: Final = 2
"""Content that does not fit into one block: compressed, in parts; this block is the last one."""
JSON_BYTES_MAX: Final = 4032
PACKED_BYTES_MAX: Final = 1 << 26
"""Limit of the unpacked JSON: more than any number of zones takes."""
ATTEMPTS: Final = 3
"""Blocks of each zone that are needed to write one superblock."""
SEARCH_BLOCKS: Final = 32
"""Blocks that are read at a time in the backward search for the newest superblock."""


class SuperblockTooLongError(FtlError):
    """The superblock does not fit into a superblock zone: too many zones were replaced, and zones are too small."""


@dataclass(frozen=True)
class Superblock:
    uuid: UUID
    """The UUID of the FTL."""
    generation: int
    clean: bool
    content: Mapping[str, Any]
    hidden: UUID | None = None
    """The uuid in its records, if that is not the FTL's."""

    @property
    def media_uuid(self) -> UUID:
        """The uuid in its records, and in the superblock's own header. It never changes, and no host may know it."""
        return self.hidden or self.uuid

    @property
    def version(self) -> int:
        """Of the format."""
        return FORMAT_VERSION if self.hidden is None else HIDDEN_UUID_VERSION

    @property
    def incarnation(self) -> int:
        """The incarnation of the device: greater with every load. Part of the name of the write buffer file that
        belongs to this superblock."""
        found = self.content.get("incarnation", 0)
        return found if isinstance(found, int) and 0 <= found <= SEQ_MAX else 0

    def build(self) -> Block:
        """As a block, or as several (n x 4096 bytes) if it does not fit into one. These are written in order: the
        superblock is valid when the last one is written."""
        flags = FLAG_CLEAN if self.clean else 0
        content = self.content if self.hidden is None else {**self.content, "uuid": str(self.uuid)}
        text = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
        if len(text) <= JSON_BYTES_MAX:
            return self._block(SUPERBLOCK_MAGIC, flags, text)
        packed = zlib.compress(text, 9)
        pieces = [packed[first : first + JSON_BYTES_MAX] for first in range(0, len(packed), JSON_BYTES_MAX)]
        last = len(pieces) - 1
        blocks = [
            self._block(
                SUPERBLOCK_MAGIC if part == last else SUPERBLOCK_PART_MAGIC,
                flags | FLAG_PACKED,
                piece,
                part=part,
                part_count=len(pieces),
            )
            for part, piece in enumerate(pieces)
        ]
        return np.concatenate(blocks)

    def _block(self, magic: bytes, flags: int, text: bytes, *, part: int = 0, part_count: int = 0) -> Block:
        record = new_record(SUPERBLOCK, magic, self.media_uuid)
        record["version"] = self.version
        record["generation"] = self.generation
        record["length"] = len(text)
        record["flags"] = flags
        record["part"] = part
        record["part_count"] = part_count
        record["json"] = np.void(text.ljust(JSON_BYTES_MAX, b"\0"))
        return seal(record)

    @classmethod
    def parse(cls, block: Block, media_uuid: UUID | None = None, before: Sequence[Block] = ()) -> Superblock | None:
        """None if the block is not a valid superblock (with that uuid in its header). before: the blocks before it; the
        last ones of them are its other parts, if parts_before() says so. Raises UnsupportedError for another format
        version."""
        record = parse_record(block, SUPERBLOCK, SUPERBLOCK_MAGIC, media_uuid, "the superblock", _VERSIONS)
        if record is None or int(record["length"]) > JSON_BYTES_MAX:
            return None
        text: bytes | None = bytes(record["json"])[: int(record["length"])]
        if int(record["flags"]) & FLAG_PACKED:
            text = _unpacked(record, text or b"", before)
        if text is None:
            return None
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        media_uuid = uuid = UUID(bytes=bytes(record["uuid"]))
        if int(record["version"]) == HIDDEN_UUID_VERSION:
            try:
                uuid = UUID(content.pop("uuid"))
            except (KeyError, ValueError, TypeError, AttributeError):
                return None
        return cls(
            uuid=uuid,
            generation=int(record["generation"]),
            clean=bool(int(record["flags"]) & FLAG_CLEAN),
            content=content,
            hidden=None if uuid == media_uuid else media_uuid,
        )

    @staticmethod
    def parts_before(block: Block, media_uuid: UUID | None = None) -> int:
        """How many blocks before this one belong to the superblock that it ends; 0 if it is not a superblock."""
        record = parse_record(block, SUPERBLOCK, SUPERBLOCK_MAGIC, media_uuid, versions=_VERSIONS)
        if record is None or not int(record["flags"]) & FLAG_PACKED:
            return 0
        return max(0, int(record["part_count"]) - 1)


def part_of(block: Block, media_uuid: UUID | None = None) -> int:
    """Generation of the superblock that this block is a part of, except for the last part; 0 if it is none."""
    record = parse_record(block, SUPERBLOCK, SUPERBLOCK_PART_MAGIC, media_uuid, versions=_VERSIONS)
    return 0 if record is None else int(record["generation"])


def _unpacked(last: Any, piece: bytes, before: Sequence[Block]) -> bytes | None:
    """None if a part is missing, or belongs to another superblock."""
    count = int(last["part_count"])
    if not 0 < count <= len(before) + 1:
        return None
    pieces: list[bytes] = []
    uuid = UUID(bytes=bytes(last["uuid"]))
    for part, block in enumerate(before[len(before) - (count - 1) :]):
        record = parse_record(block, SUPERBLOCK, SUPERBLOCK_PART_MAGIC, uuid, versions=_VERSIONS)
        if record is None or int(record["length"]) > JSON_BYTES_MAX:
            return None
        if any(record[name] != value for name, value in (("generation", last["generation"]), ("part", part))):
            return None
        if any(record[name] != last[name] for name in ("part_count", "version")):
            return None
        pieces.append(bytes(record["json"])[: int(record["length"])])
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(b"".join([*pieces, piece]), PACKED_BYTES_MAX)
    except zlib.error:
        return None
    return text if unpack.eof else None


class Beside(enum.Enum):
    """The superblock zone without the newest superblock, as a load finds it. A writer that died can have left it
    active, and a loss of power can have undone its finish."""

    INACTIVE = "inactive"
    """It does not count as active."""
    OLDER = "older"
    """It counts as active, and has an older superblock."""
    SCRAP = "scrap"
    """It counts as active, and has no superblock."""


class SuperblockWriter:
    """Appends superblocks, one at a time; uses the other zone when one is full or fails. The zone of the newest
    superblock is never erased, so there is always a valid one."""

    def __init__(
        self,
        port: BlockPort,
        geometry: Geometry,
        uuid: UUID,
        *,
        media_uuid: UUID | None = None,
        generation: int = 0,
        zone: int = 0,
        written: int = 0,
        beside: Beside = Beside.INACTIVE,
    ) -> None:
        """media_uuid: as in Superblock. zone and written: where the newest superblock ends. beside: the other zone."""
        self.media_uuid: Final = media_uuid or uuid
        self.flush: Callable[[], Awaitable[None]] = port.flush
        """Makes written superblocks durable. If a core works on the base, the core's own flush must be used."""
        self._port = port
        self._geometry = geometry
        self._uuid = uuid
        self._zone = zone
        self._newest = zone if generation else None
        # Where each zone can be written; None: it must be reset first.
        self._offsets: list[int | None] = [None, None]
        self._offsets[zone] = written
        # Whether each zone has a superblock.
        self._holds = [False, False]
        self._holds[zone] = generation > 0
        self._holds[1 - zone] = beside is Beside.OLDER
        # Whether each zone may count as active.
        self._active = [False, False]
        self._active[zone] = generation > 0 and (written < geometry.zone_capacity or geometry.finish_zones)
        self._active[1 - zone] = beside is not Beside.INACTIVE
        self.generation = generation

    @property
    def version(self) -> int:
        """As in Superblock."""
        return FORMAT_VERSION if self.media_uuid == self._uuid else HIDDEN_UUID_VERSION

    async def write(self, content: Mapping[str, Any], *, clean: bool) -> None:
        """Durable when it returns. Raises MediaError if neither zone can be written; SuperblockTooLongError, without
        writing, if it is longer than a zone; the last superblock stays valid. Raises FlushDoubtError if the flush
        fails: the superblock could be written again, but other data in the device's cache may be lost."""
        blocks = self._build(content, clean=clean)
        if len(blocks) > self._geometry.zone_capacity:
            raise SuperblockTooLongError(
                f"the superblock would have {len(blocks)} blocks, but a zone has {self._geometry.zone_capacity}: too "
                "many zones were replaced"
            )
        problem: MediaError | None = None
        for zone in (self._zone, 1 - self._zone):
            for _ in range(ATTEMPTS):
                try:
                    if not await self._make_room(zone, len(blocks)):
                        break
                    await self._append(zone, blocks)
                    await self._leave(1 - zone)
                    return
                except FlushDoubtError:
                    raise
                except MediaError as error:
                    log.warning("superblock zone %d: %s", SUPERBLOCK_ZONES[zone], error)
                    problem = error
                    self._offsets[zone] = await self._pointer(zone)
        raise problem or MediaError("can't write any superblock zone", errno=errno.EROFS)

    def takes(self, content: Mapping[str, Any]) -> bool:
        """Whether it is not too long to be written."""
        return len(self._build(content, clean=True)) <= self._geometry.zone_capacity

    def _build(self, content: Mapping[str, Any], *, clean: bool) -> NDArray[np.uint8]:
        """(n, 4096)."""
        hidden = None if self.media_uuid == self._uuid else self.media_uuid
        content = {"format": self.version, **content}
        superblock = Superblock(self._uuid, self.generation + 1, clean, content, hidden)
        return superblock.build().reshape(-1, BLOCK_BYTES)

    async def _make_room(self, zone: int, blocks: int) -> bool:
        offset = self._offsets[zone]
        if offset is not None and offset + blocks <= self._geometry.zone_capacity:
            return True
        if zone == self._newest:
            return False
        await self._port.zone_action(_shim.ZoneAction.RESET, self._geometry.zone_start(SUPERBLOCK_ZONES[zone]))
        self._offsets[zone] = 0
        self._holds[zone] = self._active[zone] = False
        return True

    async def _leave(self, zone: int) -> None:
        """Finishes the other zone, because only one of them may count as active. Not before this zone is written: if
        there is nothing newer, a load takes a full zone without a valid superblock at its end for damage. A zone
        without any superblock is reset instead: full, it would look damaged once this zone is full, too."""
        if not self._active[zone]:
            return
        self._offsets[zone] = None
        action = _shim.ZoneAction.FINISH if self._holds[zone] else _shim.ZoneAction.RESET
        # If it can't be done now, the next superblock tries again.
        for _ in range(ATTEMPTS):
            with contextlib.suppress(MediaError):
                await self._port.zone_action(action, self._geometry.zone_start(SUPERBLOCK_ZONES[zone]))
                self._active[zone] = False
                return

    async def _append(self, zone: int, blocks: NDArray[np.uint8]) -> None:
        offset = self._offsets[zone]
        assert offset is not None
        self._active[zone] = True
        start = self._geometry.zone_start(SUPERBLOCK_ZONES[zone]) + offset
        step = max(1, self._port.device.max_io_blocks)
        for first in range(0, len(blocks), step):
            await self._port.write(start + first, blocks[first : first + step].reshape(-1))
        await self.flush()
        self._offsets[zone] = end = offset + len(blocks)
        # The capacity of this zone may be greater than the common one.
        self._active[zone] = end < self._geometry.zone_capacity or self._geometry.finish_zones
        self._holds[zone] = True
        self._zone = self._newest = zone
        self.generation += 1

    async def _pointer(self, zone: int) -> int | None:
        """How far the zone is written after a failed write; None if that is unknown, or the zone is full."""
        try:
            (now,) = await self._port.zone_report(SUPERBLOCK_ZONES[zone], 1)
        except (FtlError, ValueError):
            return None
        return now.written if now.usable and now.written < self._geometry.zone_capacity else None


class Found(NamedTuple):
    superblock: Superblock
    zone: int
    """0 or 1: the zone of the superblock."""
    used: int
    """Blocks of that zone."""
    damage: str | None
    """A newer one was written, but is damaged: its content is unknown."""
    beside: Beside = Beside.INACTIVE
    """The other zone."""


async def find(port: BlockPort, zones: list[Zone], uuid: UUID | None = None) -> Found | None:
    """The newest valid superblock on the device; None if there is none, or if it has another uuid. Raises MediaError if
    the device is gone.

    An older one never counts, whatever its uuid is: on a copy with a uuid of its own, it is that of the original.
    """
    if len(zones) < len(SUPERBLOCK_ZONES):
        return None
    best: Found | None = None
    silent: list[Zone] = []
    holds: list[bool] = [False, False]
    for which, index in enumerate(SUPERBLOCK_ZONES):
        zone = zones[index]
        if zone.state == OFFLINE:
            silent.append(zone)
            continue
        if zone.state == EMPTY or zone.written == 0:
            continue
        superblock, damage = await _newest(port, zone)
        holds[which] = superblock is not None
        if superblock is None:
            if damage is not None:
                silent.append(zone)
        elif best is None or superblock.generation > best.superblock.generation:
            best = Found(superblock, which, zone.written, damage)
    if best is not None and best.damage is None and zones[SUPERBLOCK_ZONES[best.zone]].state == FULL:
        # The next superblock goes to the other zone, after its reset.
        for zone in silent:
            best = best._replace(damage=_damage(zone.start, zone))
    if best is not None and zones[SUPERBLOCK_ZONES[1 - best.zone]].state in ACTIVE_STATES:
        best = best._replace(beside=Beside.OLDER if holds[1 - best.zone] else Beside.SCRAP)
    return None if best is not None and uuid not in (None, best.superblock.uuid) else best


def _reports_write_pointer(port: BlockPort, zone: Zone) -> bool:
    """Whether the blocks below the write pointer were written since the last reset. Emulated zones are always full, and
    the device does not report the write pointer of a read-only zone."""
    return zone.usable and not (isinstance(port.device, _shim.ZonedOverlay) and zone.state == FULL)


def _damage(address: int, zone: Zone) -> str:
    return (
        f"block {address} (zone {zone.index}): the newest superblock is damaged: writes that were held elsewhere, and "
        "replaced zones, may be unknown"
    )


async def _newest(port: BlockPort, zone: Zone) -> tuple[Superblock | None, str | None]:
    """Returns the newest superblock of the zone, and the fault if there is no superblock, or if something after it was
    written that is not a valid superblock."""
    if isinstance(port.device, _shim.ZonedOverlay) and zone.state == FULL:
        return await _newest_of_run(port, zone), None
    end = zone.written
    # Lowest generation of the parts after it; None: there is something else.
    parts: int | None = SEQ_MAX
    while end > 0:
        first = max(0, end - SEARCH_BLOCKS)
        blocks, readable = await port.read_what_can_be(zone.start + first, end - first)
        for i in reversed(range(len(blocks))):
            superblock = await _whole(port, zone, first + i, blocks[i])
            if superblock is not None:
                behind = first + i + 1
                cut_off = parts is not None and parts > superblock.generation
                damaged = behind < zone.written and not cut_off and _reports_write_pointer(port, zone)
                return superblock, _damage(zone.start + behind, zone) if damaged else None
            if zone.finished_by_device and readable[i] and _is_blank(blocks[i]):
                continue
            generation = part_of(blocks[i])
            parts = None if parts is None or not generation else min(parts, generation)
        end = first
    return None, _damage(zone.start, zone) if parts is None and _reports_write_pointer(port, zone) else None


async def _whole(
    port: BlockPort, zone: Zone, offset: int, block: Block, media_uuid: UUID | None = None
) -> Superblock | None:
    """The superblock that ends in this block of the zone, if all of it is there."""
    more = Superblock.parts_before(block, media_uuid)
    if not more:
        return Superblock.parse(block, media_uuid)
    if more > offset:
        return None
    before, _ = await port.read_what_can_be(zone.start + offset - more, more)
    return Superblock.parse(block, media_uuid, list(before))


def _is_blank(block: Block) -> bool:
    """How blocks read that were never written."""
    return bool((block == block[0]).all()) and int(block[0]) in (0x00, 0xFF)


async def _newest_of_run(port: BlockPort, zone: Zone) -> Superblock | None:
    """The last superblock in a sequence from the zone's start, of one device and with ascending generations: blocks
    after it belong to an earlier life."""
    newest: Superblock | None = None
    for first in range(0, zone.written, SEARCH_BLOCKS):
        blocks, _ = await port.read_what_can_be(zone.start + first, min(SEARCH_BLOCKS, zone.written - first))
        for i, block in enumerate(blocks):
            media_uuid = None if newest is None else newest.media_uuid
            superblock = await _whole(port, zone, first + i, block, media_uuid)
            if superblock is None and part_of(block, media_uuid):
                # Part of a superblock that ends later, if all of it is there.
                continue
            # The same generation again: its flush failed, and it was written again.
            if superblock is None or (newest is not None and superblock.generation < newest.generation):
                return newest
            newest = superblock
    return newest
