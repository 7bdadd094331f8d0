"""Counts and logs the errors of a device's base."""

from __future__ import annotations

import logging
from typing import Final

from ..nvme.wire import Status, status_text
from .media.band import Band

log = logging.getLogger(__name__)

LOST_BLOCKS_LOGGED_MAX: Final = 16


class MediaErrors:
    """The errors of one device. Each method takes the device's current name, for the log."""

    def __init__(self) -> None:
        self.zone_faults = 0
        """Zones that failed, without those that the base has finished by itself."""
        self.unreadable_bands = 0
        """Bands in which a host or the scrub could not read a block; each band counts once until its reset."""
        self._lost_blocks = 0
        self._logged_zones: set[int | None] = set()
        """Zones whose failure was logged."""

    def block_lost(self, name: str, lba: int, address: int, status: int) -> None:
        self._lost_blocks += 1
        if self._lost_blocks <= LOST_BLOCKS_LOGGED_MAX:
            log.error("%s: block %d lost at address %d: %s", name, lba, address, status_text(status))
        if self._lost_blocks == LOST_BLOCKS_LOGGED_MAX:
            log.error("%s: further lost blocks are only counted (see its statistics)", name)

    def band_unreadable(self, name: str, index: int, address: int, status: int) -> None:
        """The core reports this once for each band until its reset. The band's state makes the FTL relocate it."""
        self.unreadable_bands += 1
        text = f"block at address {address} (band {index}) could not be read: {status_text(status)}"
        log.error("%s: %s; relocating the rest of that band", name, text)

    def zone_failed(self, name: str, band: Band, punit: int, status: int) -> None:
        index = band.index
        self.zone_faults += 1
        self._logged_zones.add(band.zones[punit])
        if status == Status.ZONE_OFFLINE:
            log.error("%s: zone %s of band %d is offline: its data is lost", name, band.zones[punit], index)
            return
        log.warning("%s: zone %s of band %d failed: %s", name, band.zones[punit], index, status_text(status))

    def reset_failed(self, name: str, band: Band, punit: int, status: int) -> None:
        """The reset of a zone failed. A zone that failed earlier was counted and logged then."""
        if band.zones[punit] not in self._logged_zones:
            self.zone_failed(name, band, punit, status)
