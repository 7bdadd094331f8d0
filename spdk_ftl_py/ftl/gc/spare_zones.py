"""Zones that replace failed zones of bands, and zones that are given up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ...errors import MediaError
from ..media.band import Band, Bands
from ..media.blockdev import ZONE_RESET, BlockPort
from ..media.geometry import SUPERBLOCK_ZONES, Geometry

log = logging.getLogger(__name__)

STRIKES_MAX: Final = 3
"""After so many failures, a zone that can still be reset is given up even if no spare zone is left."""


class SpareZones:
    """replace() is for one caller at a time."""

    def __init__(self, name: str, geometry: Geometry, port: BlockPort) -> None:
        self._name = name
        self._geometry = geometry
        self._port = port
        self._spares = list(geometry.spare_zones)
        self._bad = set(geometry.bad_zones)
        self._strikes: dict[int, int] = {}
        first = len(SUPERBLOCK_ZONES)
        self._places = {zone: divmod(was - first, geometry.punits) for was, zone in geometry.replaced.items()}
        """Zones that replace others: band and punit."""

    def __len__(self) -> int:
        return len(self._spares)

    @property
    def bad_zones(self) -> list[int]:
        return sorted(self._bad)

    def place(self, zone: int, bands: Bands) -> tuple[Band, int] | None:
        """Band and punit of a zone; None if it is in no band."""
        number, punit = self._places.get(zone) or divmod(zone - len(SUPERBLOCK_ZONES), self._geometry.punits)
        if not 0 <= number < len(bands) or bands[number].zones[punit] != zone:
            return None
        return bands[number], punit

    def lost(self, zone: int) -> bool:
        """A spare zone is no longer usable. False: the zone is not a spare."""
        if zone not in self._spares:
            return False
        self._spares.remove(zone)
        self._bad.add(zone)
        return True

    async def replace(self, band: Band, punit: int, tell_core: Callable[[int | None], object]) -> None:
        """Gives a free band another zone for the failed one, or none if no spare is left; or keeps the zone, if it can
        be reset and has not failed too often. tell_core: gets the start of the new zone."""
        old = band.zones[punit]
        if old is not None:
            try:
                # Also so that it no longer uses one of the device's active zones.
                await self._port.zone_action(ZONE_RESET, self._geometry.zone_start(old))
            except MediaError as error:
                log.debug("%s: zone %d: %s", self._name, old, error)
                self._strikes[old] = STRIKES_MAX
            strikes = self._strikes[old] = self._strikes.get(old, 0) + 1
            if not self._spares and strikes < STRIKES_MAX:
                log.warning(
                    "%s: zone %d of band %d is used again, because no spare zone is left", self._name, old, band.index
                )
                # The core counts the zone as failed if its reset failed, and would never write it again.
                tell_core(self._geometry.zone_start(old))
                return
            self._bad.add(old)
        new = self._spares.pop(0) if self._spares else None
        tell_core(None if new is None else self._geometry.zone_start(new))
        band.zones[punit] = new
        if new is not None:
            self._places[new] = (band.index, punit)
        if new is None:
            left = sum(1 for zone in band.zones if zone is not None)
            log.warning("%s: no spare zone is left; band %d continues with %d zones", self._name, band.index, left)
        else:
            log.warning("%s: replaced zone %s of band %d by spare zone %d", self._name, old, band.index, new)
