"""Wear: the counts of resets, which the superblock keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ...errors import FtlError
from ..media.band import Bands
from ..media.blockdev import BlockPort
from ..media.geometry import Geometry

log = logging.getLogger(__name__)

UNSAVED_MIN: Final = 256
"""On a device with fewer zones a crash can cost so many resets. Its superblock zones are small, too."""


class WearKeeper:
    """For one device. look() is called after each decision of the band manager."""

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        port: BlockPort,
        bands: Bands,
        *,
        may_save: Callable[[], bool],
        rotate: Callable[[], Awaitable[None]],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        """rotate() may swap a worn zone for a spare one, save() writes a superblock; not called unless may_save()."""
        self._name = name
        self._zone_size = geometry.zone_size
        self._port = port
        self._bands = bands
        self._may_save = may_save
        self._rotate = rotate
        self._save_it = save
        self._saving: asyncio.Task[None] | None = None
        self.unsaved_max = max(UNSAVED_MIN, geometry.band_count * geometry.punits)
        """Resets that a crash can cost: one for each zone of the bands, on average. So the superblock is written for
        them once while hosts and relocation write as much as the bands hold."""
        self.take()

    def take(self) -> None:
        """Counts the resets that the control path has carried out since the last call."""
        resets = self._port.zone_resets
        if resets:
            self._bands.wear.add_counted({start // self._zone_size: times for start, times in resets.items()})
            resets.clear()
            self._bands.count_resets()

    def look(self) -> None:
        if self._bands.wear.unsaved >= self.unsaved_max and self._saving is None and self._may_save():
            self._saving = asyncio.get_running_loop().create_task(self._save(), name=f"{self._name} save wear")

    async def _save(self) -> None:
        try:
            await self._rotate()
            # A swap has saved them as well.
            if self._bands.wear.unsaved >= self.unsaved_max and self._may_save():
                await self._save_it()
        except FtlError as error:
            # Nothing depends on it: counts that are somewhat too low do no harm.
            log.warning("%s: could not save the counts of zone resets: %s", self._name, error.message)
        finally:
            self._saving = None

    async def ended(self) -> None:
        while self._saving is not None and not self._saving.done():
            await asyncio.wait({self._saving})
