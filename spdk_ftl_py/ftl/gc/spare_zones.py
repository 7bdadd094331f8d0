"""Zones of bands that failed are replaced by spare ones, or used again, or given up for good."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ... import _shim
from ...errors import MediaError
from ..media.band import Band, Bands
from ..media.blockdev import BlockPort
from ..media.geometry import Geometry
from ..media.zone_map import ZoneMap

log = logging.getLogger(__name__)

STRIKES_MAX: Final = 3
"""After so many failures, a zone that can still be reset is given up even if no spare zone is left."""

SWAP_LAG: Final = 64
"""Resets by which a zone must be ahead of a spare one to be swapped for it: four times the lag at which bands are
levelled, because each swap takes two superblocks."""


class SpareZones:
    """replace() is for one caller at a time."""

    def __init__(self, name: str, geometry: Geometry, port: BlockPort, zone_map: ZoneMap) -> None:
        self._name = name
        self._geometry = geometry
        self._port = port
        self._zone_map = zone_map
        self._strikes: dict[int, int] = {}

    def worth_swapping(self, bands: Bands) -> tuple[int, int, int] | None:
        """The most worn free band, the punit of its most worn zone, and the least worn spare zone for it; None if that
        was reset nearly as often. Looks at all bands."""
        spares = self._zone_map.spares
        number = bands.last_free() if spares else None
        # Emulated zones keep their content, and a load could take what a spare zone holds for the band's.
        if number is None or isinstance(self._port.device, _shim.ZonedOverlay):
            return None
        counts = bands.wear.counts
        spare = min(spares, key=lambda zone: int(counts[zone]))
        worn = {zone: punit for punit, zone in enumerate(self._zone_map.of_band(number)) if zone is not None}
        zone = max(worn, key=lambda zone: int(counts[zone]))
        return (number, worn[zone], spare) if int(counts[zone]) - int(counts[spare]) >= SWAP_LAG else None

    def swap(self, number: int, punit: int, spare: int, tell_core: Callable[[int], object]) -> None:
        """Both zones are empty: the band is free, and spare zones are not written."""
        old = self._zone_map.swap(number, punit, spare)
        tell_core(self._geometry.zone_start(spare))
        log.info("%s: zone %d of band %d was swapped for spare zone %d", self._name, old, number, spare)

    async def replace(self, band: Band, punit: int, tell_core: Callable[[int | None], object]) -> None:
        """Gives a free band another zone for the failed one, or none if no spare is left; or keeps the zone, if it can
        be reset and has not failed too often. tell_core: gets the start of the new zone."""
        old = band.zones[punit]
        if old is not None:
            try:
                # Also so that it no longer uses one of the device's active zones.
                await self._port.zone_action(_shim.ZoneAction.RESET, self._geometry.zone_start(old))
            except MediaError as error:
                log.debug("%s: zone %d: %s", self._name, old, error)
                self._strikes[old] = STRIKES_MAX
            strikes = self._strikes[old] = self._strikes.get(old, 0) + 1
            if not self._zone_map.spare_count and strikes < STRIKES_MAX:
                log.warning(
                    "%s: zone %d of band %d is used again, because no spare zone is left", self._name, old, band.index
                )
                # The core counts the zone as failed if its reset failed, and would never write it again.
                tell_core(self._geometry.zone_start(old))
                return
            self._zone_map.give_up(old)
        new = self._zone_map.take_spare()
        tell_core(None if new is None else self._geometry.zone_start(new))
        self._zone_map.put(band.index, punit, new)
        if new is None:
            left = sum(1 for zone in self._zone_map.of_band(band.index) if zone is not None)
            log.warning("%s: no spare zone is left; band %d continues with %d zones", self._name, band.index, left)
        else:
            log.warning("%s: replaced zone %s of band %d by spare zone %d", self._name, old, band.index, new)
