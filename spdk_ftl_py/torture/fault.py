"""Faults of the drive, one at a time.

Most cost no data: a write, zone reset or flush that fails once, a zone that cannot be written any more, a zone that the
drive finishes by itself. Rotten blocks lose data. A busy drive, and slow writes, are not faults.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Sequence
from typing import Final

from .. import _shim
from ..ftl.media.geometry import BLOCK_BYTES
from .shape import SUPERBLOCK_ZONES, Shape

WRITE_FAULT: Final = 0x280
INTERNAL_ERROR: Final = 0x006
FLUSH_REFUSED: Final = 0x007
"""Aborted: the flush was not carried out. With "do not retry" it is not transient either."""
IN_DOUBT: Final = ((INTERNAL_ERROR, False), (INTERNAL_ERROR, True), (WRITE_FAULT, True))
"""(status, do not retry) of a flush that leaves unknown what was lost."""
SKIPPED_MAX: Final = 60
"""The maximum number of I/Os of that kind that still succeed."""
ZONE_EVENTS: Final = 0.5
"""The part of the faults that are zone events, on drives with zones."""
ZONE_EVENT_OPERATIONS_MAX: Final = 300
"""The maximum number of drive I/Os until a zone event that needs zones in some state."""
UNRECOVERED_READ: Final = 0x281
ROTTEN_LIVES: Final = 0.25
"""The part of the lives with a fault in which blocks rot."""
ROTTEN_BLOCKS_MAX: Final = 4
SLOW_US_MAX: Final = 200_000
SLOW_US: Final = (1_000, 20_000, SLOW_US_MAX, SLOW_US_MAX)
BUSY_STATUSES: Final = (INTERNAL_ERROR, 0x007, 0x008, 0x021, 0x022, 0x082, 0x302)
"""Internal error (not transient for a flush), aborted (by request, with its queue), interrupted, transient transport
error, namespace not ready, ANA inaccessible."""
BUSY_S: Final = (0.002, 0.02, 0.2, 2.0)
BUSY_BEGINS_S: Final = (0.0, 0.001, 0.005, 0.02)
BUSY_TIMES_MAX: Final = 4
"""The maximum in one life."""
BUSY_LIVES: Final = 0.35
"""The part of the lives, with faults, in which a drive is busy. In the others no drive is."""


def slow_down(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> None:
    """Makes a few writes take long, while others overtake them."""
    op = _shim.Op.APPEND if shape.conf.use_append else _shim.Op.WRITE
    media.inject_fault(
        op=op, latency_us=rng.choice(SLOW_US), skip=rng.randint(0, SKIPPED_MAX), times=rng.choice((1, 1, 1, 4))
    )


class Injected(enum.Enum):
    """A fault, by the most that it can cost."""

    ZONE = "zone"
    """A zone, permanently. With emulated zones, a zone whose write failed stays read-only, because its write pointer is
    unknown."""
    FLUSH = "flush"
    """One flush. So a halt, too, may end without a clean shutdown."""
    DOUBT = "doubt"
    """The device. A flush fails, the drive loses its volatile cache with it, and later flushes succeed."""
    BUSY = "busy"
    """Time. A drive refuses some or all kinds of I/O for a while."""
    TROUBLED = "troubled"
    """Nothing permanent, except that a spare may replace a zone that failed."""
    ZONE_EVENT = "zone event"
    """See ZoneEvent."""
    ROT = "rot"
    """Some blocks. They read as errors until they are written again."""
    NOTHING = "nothing"


class Busy:
    """Periods in which drives answer with a transient status. end() ends them."""

    def __init__(self, drives: Sequence[_shim.EmulatedMedia], shape: Shape, rng: random.Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._under_way: list[tuple[_shim.EmulatedMedia, int]] = []
        write = _shim.Op.APPEND if shape.conf.use_append else _shim.Op.WRITE
        for _ in range(rng.randint(1, BUSY_TIMES_MAX)):
            media = rng.choice(drives)
            op = rng.choice((None, _shim.Op.READ, write, write, _shim.Op.FLUSH, _shim.Op.ZONE_SEND))
            of_flushes = op is None or op == _shim.Op.FLUSH
            status, lasts_s = rng.choice(BUSY_STATUSES[1 if of_flushes else 0 :]), rng.choice(BUSY_S)
            begins_s = rng.random() * rng.choice(BUSY_BEGINS_S)
            self._timers.append(self._loop.call_later(begins_s, self._begin, media, op, status, lasts_s))

    def _begin(self, media: _shim.EmulatedMedia, op: _shim.Op | None, status: int, lasts_s: float) -> None:
        fault = media.inject_fault(op=op, status=status)
        self._under_way.append((media, fault))
        self._timers.append(self._loop.call_later(lasts_s, media.clear_faults, fault))

    def end(self) -> None:
        for timer in self._timers:
            timer.cancel()
        for media, fault in self._under_way:
            media.clear_faults(fault)
        self._timers.clear()
        self._under_way.clear()


class ZoneEvent(enum.Enum):
    """A change that a drive makes to a zone in a certain state, or recommends. Only read-only costs anything: the
    zone."""

    FINISHED = "finished"
    """The drive finishes an open zone (ZFC)."""
    FINISH_WANTED = "finish wanted"
    """The drive recommends finishing an open zone (FZR)."""
    RESET_WANTED = "reset wanted"
    """The drive recommends resetting a full zone (RZR)."""
    READ_ONLY = "read-only"
    """A full zone becomes read-only. Nobody writes to it, so no write would show that."""

    @classmethod
    def choose(cls, rng: random.Random) -> ZoneEvent:
        return rng.choices(list(cls), (3, 1, 1, 2))[0]

    @property
    def of_full_zones(self) -> bool:
        return self in (ZoneEvent.RESET_WANTED, ZoneEvent.READ_ONLY)

    def happens(self, media: _shim.EmulatedMedia, rng: random.Random) -> int | None:
        """Applies the event. Returns the zone, or None if no zone is in the state that it needs."""
        states = [zone.state for zone in media.zone_states()]
        fits = [
            zone
            for zone, state in enumerate(states)
            if zone >= SUPERBLOCK_ZONES and (state == "full" if self.of_full_zones else "open" in state)
        ]
        if self is ZoneEvent.FINISHED:
            fits += [zone for zone in range(SUPERBLOCK_ZONES) if "open" in states[zone] or states[zone] == "closed"]
        if not fits:
            return None
        zone = rng.choice(fits)
        if self in (ZoneEvent.FINISHED, ZoneEvent.READ_ONLY):
            media.set_zone_state(zone, "full" if self is ZoneEvent.FINISHED else "read_only")
        else:
            finish = self is ZoneEvent.FINISH_WANTED
            media.recommend(zone, finish=finish, reset=not finish)
        return zone


def inject(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> Injected:
    """Injects a fault, which takes effect from now on."""
    skip = rng.randint(0, SKIPPED_MAX)
    kind = rng.random()
    if not shape.emulated_zones and rng.random() < ZONE_EVENTS:
        return Injected.ZONE_EVENT
    if kind < 0.2 and not shape.emulated_zones:
        media.set_zone_state(rng.randrange(SUPERBLOCK_ZONES, shape.zone_count), "read_only")
        return Injected.ZONE
    if kind < 0.27:
        media.inject_fault(op=_shim.Op.FLUSH, status=FLUSH_REFUSED, do_not_retry=True, skip=skip // 4, times=1)
        return Injected.FLUSH
    if kind < 0.45:
        status, final = rng.choice(IN_DOUBT)
        media.inject_fault(
            op=_shim.Op.FLUSH, status=status, do_not_retry=final, skip=skip // 4, times=1, drops_cache=True
        )
        return Injected.DOUBT
    if kind < 0.55 and not shape.emulated_zones:
        media.inject_fault(op=_shim.Op.ZONE_SEND, status=INTERNAL_ERROR, skip=skip // 4, times=1)
        return Injected.TROUBLED
    op = _shim.Op.APPEND if shape.conf.use_append else _shim.Op.WRITE
    media.inject_fault(op=op, status=WRITE_FAULT, skip=skip, times=1)
    return Injected.ZONE if shape.emulated_zones else Injected.TROUBLED


def summarised_zones(media: _shim.EmulatedMedia, shape: Shape) -> set[int]:
    """The numbers of zones that are written to their end."""
    return {
        zone.start // shape.zone_size
        for zone in media.zone_states()[SUPERBLOCK_ZONES:]
        if zone.write_pointer - zone.start == shape.zone_capacity
    }


def rot(
    media: _shim.EmulatedMedia, core: _shim.FtlCore, shape: Shape, zones: set[int], rng: random.Random
) -> dict[int, int]:
    """Corrupts some valid blocks in those zones without an error. Returns their addresses by LBA."""
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
