"""Gives a copy of a base (dd, a snapshot, a clone) a uuid of its own, so that both can be loaded side by side."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ...errors import FtlError, MediaError, NotFoundError
from ...runtime.turns import aside
from ..media import superblock as superblocks
from ..media.blockdev import BlockPort
from ..media.superblock import Superblock, SuperblockWriter
from ..media.superblock_content import geometry_of
from .running import KEY

WRITTEN: Final = 2
"""Superblocks to write. If the newest one can't be read, a load takes the one before, which must not be the
original's."""


@dataclass(frozen=True)
class Renumbered:
    """The result of set_uuid()."""

    superblock: Superblock
    """The superblock before the change."""
    uuid: UUID
    """The FTL's from now on."""
    changed: bool
    """False: the FTL already had that uuid."""


async def set_uuid(port: BlockPort, uuid: UUID, new: UUID, *, force: bool = False) -> Renumbered:
    """Changes the uuid of an FTL that is not loaded. Its blocks and records keep the uuid of the original. The change
    is durable when this returns. If it is interrupted, the FTL has one uuid or the other.

    The copy has no nv cache, because the cache is the original's. force: also if the original was in use when it was
    copied, so that the copy lacks what only its write buffer and its nv cache held.

    Raises NotFoundError if the base holds no FTL with uuid, or new; UnsupportedError for another format version,
    GeometryError if it is another device, FtlError without force, MediaError.
    """
    zones = await port.zones()
    found = await superblocks.find(port, zones)
    if found is None:
        raise NotFoundError(f"{port.name} holds no FTL: give the base bdev of an FTL")
    was = found.superblock
    if was.uuid not in (uuid, new):
        raise NotFoundError(
            f"{port.name} holds FTL {was.content.get('name')!r} with uuid {was.uuid}, not {uuid}: give the uuid that "
            "it has"
        )
    if found.damage is not None:
        raise MediaError(f"{port.name}: {found.damage}: copy it again, or load it as it is")
    # If the earlier attempt was interrupted between the two, it wrote the first.
    half = was.clean and was.uuid == new and "checkpoint" not in was.content and was.content.get("nv_cache") is None
    if was.uuid == new and not half:
        return Renumbered(was, new, changed=False)
    if not half and not (was.clean or force):
        raise FtlError(
            f"{port.name} holds FTL {was.content.get('name')!r} ({uuid}), which was in use when it was copied, so "
            "this copy lacks what only the write buffer or the nv cache held: delete the original, which halts it, "
            "and copy it again; or give --force to lose what hosts had not flushed"
            + (" and everything that only the nv cache holds" if _has_cache(was) else ""),
            errno=errno.EUCLEAN,
        )
    geometry = await aside(len(zones), lambda: geometry_of(was, zones, port.device, name=port.name))
    writer = SuperblockWriter(
        port,
        geometry,
        new,
        media_uuid=was.media_uuid,
        generation=was.generation,
        zone=found.zone,
        written=found.used,
        beside=found.beside,
    )
    content = {key: value for key, value in was.content.items() if key not in ("format", "checkpoint", KEY)}
    for _ in range(1 if half else WRITTEN):
        # The checkpoint belongs to the previous generation: the next load reads the bands.
        await writer.write({**content, "nv_cache": None}, clean=was.clean)
    return Renumbered(was, new, changed=not half)


def _has_cache(superblock: Superblock) -> bool:
    cache = superblock.content.get("nv_cache")
    return isinstance(cache, dict) and bool(cache.get("in_use"))
