"""Faults of the drive, one at a time, none of which costs data: a write, zone reset or flush that fails once, a zone
that can't be written any more. Blocks that rot, which costs them. And writes that take long, which is no fault."""

from __future__ import annotations

import enum
import random
from typing import Final

from .. import _shim
from ..ftl.media.geometry import BLOCK_BYTES
from .shape import SUPERBLOCK_ZONES, Shape

WRITE_FAULT: Final = 0x280
INTERNAL_ERROR: Final = 0x006
SKIPPED_MAX: Final = 60
"""I/Os of the kind that still succeed."""
UNRECOVERED_READ: Final = 0x281
ROTTEN_LIVES: Final = 0.25
"""Part of the lives with a fault."""
ROTTEN_BLOCKS_MAX: Final = 4
SLOW_US_MAX: Final = 200_000
SLOW_US: Final = (1_000, 20_000, SLOW_US_MAX, SLOW_US_MAX)


def slow_down(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> None:
    """A few writes take long, while others overtake them."""
    op = _shim.OP_APPEND if shape.conf.use_append else _shim.OP_WRITE
    media.inject_fault(
        op=op, latency_us=rng.choice(SLOW_US), skip=rng.randint(0, SKIPPED_MAX), times=rng.choice((1, 1, 1, 4))
    )


class Injected(enum.Enum):
    """What it can cost, at most."""

    ZONE = "zone"
    """A zone, for good: of emulated zones one whose write failed stays read-only, as nobody knows its write pointer."""
    FLUSH = "flush"
    """One flush; so a halt, too, may end without a clean shutdown."""
    ROT = "rot"
    """Some blocks: they read as errors until they are written again."""
    NOTHING = "nothing"


def inject(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> Injected:
    """What happens to it from now on."""
    skip = rng.randint(0, SKIPPED_MAX)
    kind = rng.random()
    if kind < 0.2 and not shape.emulated_zones:
        media.set_zone_state(rng.randrange(SUPERBLOCK_ZONES, shape.zone_count), "read_only")
        return Injected.ZONE
    if kind < 0.3:
        media.inject_fault(op=_shim.OP_FLUSH, status=INTERNAL_ERROR, skip=skip // 4, times=1)
        return Injected.FLUSH
    if kind < 0.4 and not shape.emulated_zones:
        media.inject_fault(op=_shim.OP_ZONE_SEND, status=INTERNAL_ERROR, skip=skip // 4, times=1)
        return Injected.NOTHING
    op = _shim.OP_APPEND if shape.conf.use_append else _shim.OP_WRITE
    media.inject_fault(op=op, status=WRITE_FAULT, skip=skip, times=1)
    return Injected.ZONE if shape.emulated_zones else Injected.NOTHING


def summarised_zones(media: _shim.EmulatedMedia, shape: Shape) -> set[int]:
    """Their numbers: zones written to their end."""
    return {
        start // shape.zone_size
        for start, _, pointer in media.zone_states()[SUPERBLOCK_ZONES:]
        if pointer - start == shape.zone_capacity
    }


def rot(
    media: _shim.EmulatedMedia, core: _shim.FtlCore, shape: Shape, zones: set[int], rng: random.Random
) -> dict[int, int]:
    """Some blocks in force in those zones are no longer what was written, and nothing tells: their address by LBA."""
    entries = core.l2p(0, core.block_count)
    there = [
        lba
        for lba, entry in enumerate(map(int, entries))
        if entry < _shim.SLOT_FLAG and entry // shape.zone_size in zones
    ]
    chosen = rng.sample(there, min(len(there), rng.randint(1, ROTTEN_BLOCKS_MAX)))
    for lba in chosen:
        for bit in rng.sample(range(8 * BLOCK_BYTES), rng.choice((1, 1, 2, 64))):
            media.rot(int(entries[lba]), bit)
    return {lba: int(entries[lba]) for lba in chosen}
