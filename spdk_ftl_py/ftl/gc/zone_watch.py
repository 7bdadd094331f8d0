"""What the base says of its zones while the device runs: a piece of the zone report at a time, for ever.

Nothing else tells of a zone that nobody writes: one of a closed band that has gone read-only or offline, or that the
base would like to have reset. What follows from it is the band manager's, as for a zone that failed a write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Final

from ... import _shim
from ...errors import FtlError
from ...nvme.wire import Status
from ..media.band import CLOSED, FAULTED, Bands
from ..media.blockdev import ZONES_PER_REPORT, BlockPort
from ..media.geometry import SUPERBLOCK_ZONES, Geometry
from ..media.zone import OFFLINE, Zone
from .spare_zones import SpareZones

log = logging.getLogger(__name__)

ROUND_S: Final = 120.0
"""In which every zone is looked at once."""


class ZoneWatch:
    """start() and stop() on the asyncio loop. wanted() is called when a band is to be moved that was not before."""

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        port: BlockPort,
        core: _shim.FtlCore,
        bands: Bands,
        spares: SpareZones,
        wanted: Callable[[], object],
    ) -> None:
        self.round_s = ROUND_S
        """May be changed while it runs; counts from the next piece on."""
        self.rounds = 0
        """Completed."""
        self.zones_seen = 0
        """Descriptors looked at."""
        self._name = name
        self._geometry = geometry
        self._port = port
        self._core = core
        self._bands = bands
        self._spares = spares
        self._wanted = wanted
        self._changed: set[int] = set()
        self._woken = asyncio.Event()
        self._told: set[int] = set()
        """Zones without data of which the log was told."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"{self._name} zone watch")

    def stop(self) -> None:
        """Idempotent. A report that is under way ends by itself, and nothing follows from it."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def changed(self, zones: Iterable[int]) -> None:
        """The base has said that something about these zones has changed: they are looked at now. For who reads its
        changed zone list; nobody does so far."""
        self._changed.update(zones)
        self._woken.set()

    async def _run(self) -> None:
        first = 0
        while True:
            pieces = -(-self._geometry.zone_count // ZONES_PER_REPORT)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self.round_s / pieces)
                self._woken.clear()
                while self._changed:
                    await self._look(self._changed.pop(), 1)
                continue
            first += await self._look(first, min(ZONES_PER_REPORT, self._geometry.zone_count - first))
            if first >= self._geometry.zone_count:
                first = 0
                self.rounds += 1

    async def _look(self, first: int, count: int) -> int:
        """How many zones are done with; also where the base does not answer: its next round will tell."""
        try:
            zones = await self._port.zone_report(first, count)
        except (FtlError, ValueError) as error:
            log.debug("%s: zones %d to %d: %s", self._name, first, first + count - 1, error)
            return count
        for zone in zones:
            self._judge(zone)
        self.zones_seen += len(zones)
        return max(1, len(zones))

    def _judge(self, zone: Zone) -> None:
        if zone.usable and not zone.finish_recommended and not zone.reset_recommended:
            return
        place = self._spares.place(zone.index, self._bands)
        if place is None:
            if not zone.usable:
                self._lost_without_band(zone)
            return
        band, punit = place
        if not zone.usable:
            status = Status.ZONE_OFFLINE if zone.state == OFFLINE else Status.ZONE_READ_ONLY
            # Its event tells the rest.
            self._core.fault_zone(band.index, punit, status)
        elif zone.reset_recommended and band.state in (CLOSED, FAULTED):
            if not band.relocate:
                self._bands.want_empty(band.index)
                log.info("%s: zone %d asks for a reset: band %d is relocated", self._name, zone.index, band.index)
                self._wanted()
        elif zone.finish_recommended and self._core.close_zone(band.index, punit):
            log.info("%s: zone %d of band %d asks to be finished, and is", self._name, zone.index, band.index)

    def _lost_without_band(self, zone: Zone) -> None:
        if self._spares.lost(zone.index):
            log.warning("%s: spare zone %d is %s: %d are left", self._name, zone.index, zone.state, len(self._spares))
        elif zone.index in SUPERBLOCK_ZONES and zone.index not in self._told:
            self._told.add(zone.index)
            other = SUPERBLOCK_ZONES[1 - SUPERBLOCK_ZONES.index(zone.index)]
            log.error(
                "%s: superblock zone %d is %s: with zone %d the device would go, too; copy its data elsewhere",
                self._name,
                zone.index,
                zone.state,
                other,
            )
