"""Watches what the base reports about its zones while the device runs: a piece of the zone report at a time, for ever;
at once if the base reports a change.

Nothing else shows changes of a zone that is not being written: a zone of a closed band that has gone read-only or
offline, or whose reset the base recommends. The band manager acts on them, as for a zone on which a write failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from ... import _shim
from ...errors import FtlError
from ...nvme.wire import Status
from ...time_limit import time_limit
from ..media.band import BAND_ROW, CLOSED, CLOSING, FAULTED, OPEN, RESETTING, SHIM_STATES, Bands
from ..media.blockdev import ZONES_PER_REPORT, BlockPort
from ..media.geometry import SUPERBLOCK_ZONES, Geometry
from ..media.zone import OFFLINE, Zone

log = logging.getLogger(__name__)

ROUND_S: Final = 120.0
"""The time in which every zone is looked at once."""
CHANGED_PAUSE_S: Final = 0.02
"""The shortest interval of looks out of turn, for a base that keeps reporting that everything has changed."""
REASONS: Final = ("offline", "read_only", "reset_recommended")
"""Why a band is relocated because of a zone."""


class ZoneWatch:
    """Call start() and stop() on the asyncio loop. wanted() is called when another band has to be moved."""

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        port: BlockPort,
        core: _shim.FtlCore,
        bands: Bands,
        wanted: Callable[[], object],
    ) -> None:
        self.round_s = ROUND_S
        """May be changed while it runs; takes effect with the next piece."""
        self.rounds = 0
        """Rounds completed."""
        self.zones_seen = 0
        """Descriptors read."""
        self.events = 0
        """Reports of the base that something has changed."""
        self.logs_read = 0
        """Of those, the ones whose list of changed zones could be read."""
        self.zones_seen_changed = 0
        """Of zones_seen, those out of turn."""
        self.zones_finished = 0
        """Bands that were relocated because a zone asked for it."""
        self._relocated: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._name = name
        self._geometry = geometry
        self._port = port
        self._core = core
        self._bands = bands
        self._zone_map = bands.zone_map
        self._wanted = wanted
        self._changed: dict[int, range] = {}
        """Pieces of the zone report to read out of turn, oldest first, with their zones."""
        self._woken = asyncio.Event()
        self._already_logged: set[int] = set()
        """Zones without data whose state was logged."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"{self._name} zone watch")

    def stop(self) -> None:
        """Idempotent. A report in progress ends by itself, and has no effect."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def changed(self, zones: Iterable[int] | None, *, log_read: bool = False) -> None:
        """The base reports that these zones have changed (None: possibly any). They are read now, one piece of the zone
        report at a time. log_read: the report came with a list of changed zones. Zone numbers that do not exist are
        ignored."""
        self.events += 1
        self.logs_read += log_read
        count = self._geometry.zone_count
        if zones is None:
            for start in range(0, count, ZONES_PER_REPORT):
                self._want(start, min(start + ZONES_PER_REPORT, count))
        else:
            for zone in zones:
                if 0 <= zone < count:
                    self._want(zone, zone + 1)
        if self._changed:
            self._woken.set()

    def _want(self, start: int, stop: int) -> None:
        """Reads one piece of the zone report out of turn."""
        piece = start // ZONES_PER_REPORT
        known = self._changed.get(piece, range(start, stop))
        self._changed[piece] = range(min(start, known.start), max(stop, known.stop))

    def failed_amid_load(self, start: int, status: int) -> None:
        """A zone of a closed band (given by its first block) is not to be trusted: its band is moved before others."""
        place = self._zone_map.place(start // self._geometry.zone_size)
        if place is not None:
            self._core.fault_zone(*place, status)

    def knows_bad(self, zone: int) -> bool:
        """Whether a zone of a band that is not being written or reset is known to have failed, or is in no band."""
        place = self._zone_map.place(zone)
        if place is None:
            return True
        number, punit = place
        row = self._core.band_rows(number, 1).view(BAND_ROW)[0]
        busy = SHIM_STATES[row["state"]] in (OPEN, CLOSING, RESETTING)
        return busy or bool(int(row["faulted_punits"]) >> punit & 1)

    def stats(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rounds": self.rounds,
            "zones_seen": self.zones_seen,
            "events": self.events,
            "logs_read": self.logs_read,
            "zones_seen_changed": self.zones_seen_changed,
            "zones_finished": self.zones_finished,
            "bands_relocated": dict(self._relocated),
        }

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        first, due = 0, loop.time() + self._piece_s
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                async with time_limit(due - loop.time()):
                    await self._woken.wait()
            self._woken.clear()
            if self._changed:
                await self._look_at_changed()
                await asyncio.sleep(CHANGED_PAUSE_S)
            if self._changed:
                self._woken.set()
            if loop.time() < due:
                continue
            first += await self._look(first, min(ZONES_PER_REPORT, self._geometry.zone_count - first))
            due = loop.time() + self._piece_s
            if first >= self._geometry.zone_count:
                first = 0
                self.rounds += 1

    @property
    def _piece_s(self) -> float:
        return self.round_s / -(-self._geometry.zone_count // ZONES_PER_REPORT)

    async def _look_at_changed(self) -> None:
        zones = self._changed.pop(next(iter(self._changed)))
        before = self.zones_seen
        done = await self._look(zones.start, len(zones))
        if done < len(zones):
            self._want(zones.start + done, zones.stop)
        self.zones_seen_changed += self.zones_seen - before

    async def _look(self, first: int, count: int) -> int:
        """How many zones were read; if the base does not answer, its next round will."""
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
        place = self._bands.at(zone.index)
        if place is None:
            if not zone.usable:
                self._lost_without_band(zone)
            return
        band, punit = place
        if not zone.usable:
            status = Status.ZONE_OFFLINE if zone.state == OFFLINE else Status.ZONE_READ_ONLY
            # The event of the zone fault brings the rest.
            if self._core.fault_zone(band.index, punit, status) and band.state == CLOSED:
                self._relocated["offline" if zone.state == OFFLINE else "read_only"] += 1
        elif zone.reset_recommended and band.state in (CLOSED, FAULTED):
            if not band.relocate:
                self._bands.want_empty(band.index)
                self._relocated["reset_recommended"] += 1
                log.info(
                    "%s: the base recommends a reset of zone %d: relocating band %d", self._name, zone.index, band.index
                )
                self._wanted()
        elif zone.finish_recommended and self._core.close_zone(band.index, punit):
            self.zones_finished += 1
            log.info(
                "%s: the base recommends to finish zone %d of band %d: finishing it", self._name, zone.index, band.index
            )

    def _lost_without_band(self, zone: Zone) -> None:
        if self._zone_map.lose_spare(zone.index):
            left = self._zone_map.spare_count
            log.warning("%s: spare zone %d is %s; %d spare zones are left", self._name, zone.index, zone.state, left)
        elif zone.index in SUPERBLOCK_ZONES and zone.index not in self._already_logged:
            self._already_logged.add(zone.index)
            other = SUPERBLOCK_ZONES[1 - SUPERBLOCK_ZONES.index(zone.index)]
            log.error(
                "%s: superblock zone %d is %s; if zone %d fails too, the FTL is lost: copy its data elsewhere",
                self._name,
                zone.index,
                zone.state,
                other,
            )
