"""The superblock: which device this is, and how its zones are used. Zones 0 and 1 in turns; see
docs/media-layout.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np

from ..errors import FtlError, MediaError
from .blockdev import ZONE_RESET, BlockPort
from .geometry import SUPERBLOCK_ZONES, Geometry
from .layout import FORMAT_VERSION, SUPERBLOCK, SUPERBLOCK_MAGIC, Block, new_record, parse_record, seal
from .zone import EMPTY, Zone

log = logging.getLogger(__name__)

FLAG_CLEAN: Final = 1
JSON_BYTES_MAX: Final = 4032
SEARCH_BLOCKS: Final = 32
"""Blocks read at a time when looking backwards for the newest superblock."""


@dataclass(frozen=True)
class Superblock:
    uuid: UUID
    generation: int
    clean: bool
    content: Mapping[str, Any]

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
        except ValueError:
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
    """Appends superblocks, one at a time; resets and uses the other zone when one is full or fails."""

    def __init__(
        self, port: BlockPort, geometry: Geometry, uuid: UUID, *, generation: int = 0, zone: int = 0, written: int = 0
    ) -> None:
        """zone and written: where the newest superblock ends. The other zone may hold anything."""
        self._port = port
        self._geometry = geometry
        self._uuid = uuid
        self._zone = zone
        self._written = written
        self.generation = generation

    async def write(self, content: Mapping[str, Any], *, clean: bool) -> None:
        """Durable when it returns. Raises MediaError when neither zone takes it; the last one written stays valid."""
        content = {"format": FORMAT_VERSION, **content}
        block = Superblock(self._uuid, self.generation + 1, clean, content).build()
        if self._written < self._geometry.zone_capacity:
            try:
                await self._append(block)
                return
            except MediaError as error:
                log.warning("superblock zone %d: %s; using the other one", SUPERBLOCK_ZONES[self._zone], error)
        self._zone = 1 - self._zone
        self._written = 0
        start = self._geometry.zone_start(SUPERBLOCK_ZONES[self._zone])
        await self._port.zone_action(ZONE_RESET, start)
        await self._append(block)

    async def _append(self, block: Block) -> None:
        start = self._geometry.zone_start(SUPERBLOCK_ZONES[self._zone])
        # Counted before it is known to have worked: where a write failed nothing more is written to that zone.
        position, self._written = self._written, self._geometry.zone_capacity
        await self._port.write(start + position, block)
        await self._port.flush()
        self._written = position + 1
        self.generation += 1


async def find(port: BlockPort, zones: list[Zone], uuid: UUID | None = None) -> tuple[Superblock, int, int] | None:
    """The newest valid superblock on the device, with the zone it stands in (0 or 1) and the offset behind it."""
    best: tuple[Superblock, int, int] | None = None
    for which, index in enumerate(SUPERBLOCK_ZONES):
        zone = zones[index]
        if zone.state == EMPTY:
            continue
        end = zone.written
        while end > 0:
            first = max(0, end - SEARCH_BLOCKS)
            blocks = await port.read(zone.start + first, end - first)
            found = _last(blocks, uuid)
            if found is not None:
                superblock, offset = found
                if best is None or superblock.generation > best[0].generation:
                    # A zone that reports "full" says nothing of how far it was written: its rest counts as used.
                    used = first + offset + 1 if zone.written < zone.capacity else zone.capacity
                    best = (superblock, which, used)
                break
            end = first
    return best


def _last(blocks: np.ndarray[Any, np.dtype[np.uint8]], uuid: UUID | None) -> tuple[Superblock, int] | None:
    for offset in range(len(blocks) - 1, -1, -1):
        superblock = Superblock.parse(blocks[offset], uuid)
        if superblock is not None:
            return superblock, offset
    return None
