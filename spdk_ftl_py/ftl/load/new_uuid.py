"""A copy of a base (dd, a snapshot, a clone) gets a uuid of its own, so that both can be loaded side by side."""

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

WRITTEN: Final = 2
"""Superblocks: where the newest one can't be read the one before counts, which must not be what it was copied from."""


@dataclass(frozen=True)
class Renumbered:
    """What set_uuid() has done."""

    superblock: Superblock
    """As it was found."""
    uuid: UUID
    """The FTL's from now on."""
    changed: bool
    """False: it had that one already."""


async def set_uuid(port: BlockPort, uuid: UUID, new: UUID, *, force: bool = False) -> Renumbered:
    """Gives the FTL on a base that nobody has loaded another uuid. Its blocks and records stay as they are, with the
    uuid of what it was copied from. Durable when it returns; whatever ends it earlier, the FTL has one or the other.

    The copy has no nv cache: that is the original's. force: also where the original was not halted cleanly when it was
    copied, so that what its write buffer and its nv cache alone held is not in the copy.

    Raises NotFoundError where the base holds no FTL with uuid, or new; UnsupportedError for another format version,
    GeometryError where it is another device, FtlError without force, MediaError.
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
    # Whoever was interrupted between the two has written the first.
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
    )
    content = {key: value for key, value in was.content.items() if key not in ("format", "checkpoint")}
    for _ in range(1 if half else WRITTEN):
        # The checkpoint is of the generation before: the next load reads the bands.
        await writer.write({**content, "nv_cache": None}, clean=was.clean)
    return Renumbered(was, new, changed=not half)


def _has_cache(superblock: Superblock) -> bool:
    told = superblock.content.get("nv_cache")
    return isinstance(told, dict) and bool(told.get("in_use"))
