"""Wear: which band is moved to level it, and when; and the counts of resets, which the superblock keeps."""

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


BANDS_PER_MOVE: Final = 50
"""At most one in so many bands that are opened is written with data that is moved to level wear: 2 % of all writes."""
UNSAVED_MIN: Final = 256
"""On a device with fewer zones a crash can cost so many resets. Its superblock zones are small, too."""
ASK_BANDS: Final = 8
"""The policy is asked once while so many bands are opened: it looks at all bands."""
SAVING_BANDS: Final = 10
"""Of BANDS_PER_MOVE: while so many are opened, relocation keeps more space free, so that such a move can begin."""
REST: Final = 2
"""At most this part of relocation's band is given up, so that cold data gets a band of its own."""
PACE: Final = 500
"""Blocks for each 1000 that hosts write, while nothing else is moved. There is no hurry."""


class Levelling:
    """Names the band that is moved although that gains little or nothing. Whether there is room for it is the band
    manager's business.

    worn(): the policy's choice, or None. It is not asked before anything was earned.
    """

    def __init__(self, bands: Bands, next_band_seq: int, worn: Callable[[], int | None]) -> None:
        self.moves_started = 0
        self._bands = bands
        self._worn = worn
        self._spent = next_band_seq
        """The bands opened since then earn the next move."""
        self._asked = next_band_seq - ASK_BANDS
        self._victim: int | None = None

    def victim(self, next_band_seq: int) -> int | None:
        if next_band_seq - self._spent < BANDS_PER_MOVE:
            return None
        if next_band_seq - self._asked >= ASK_BANDS:
            self._asked = next_band_seq
            self._victim = self._worn()
        number = self._victim
        # Since then it may have been emptied.
        return number if number is not None and self._bands.closed[number] and self._bands.valid[number] > 0 else None

    def may_save(self, next_band_seq: int) -> bool:
        """Whether relocation may keep more space free for the move that is due. If that is of no use, it has an end."""
        return (next_band_seq - self._spent) % BANDS_PER_MOVE < SAVING_BANDS

    def may_rest(self, number: int) -> bool:
        """Whether a band was reset so often that cold data should have it: at least half way from the mean to the most.
        Few bands are free at a time, so the most worn one of these need not be worn."""
        resets = self._bands.resets
        return 2 * int(resets[number]) >= float(resets.mean()) + int(resets.max())

    def started(self, next_band_seq: int) -> None:
        """What was earned long ago is forfeited: a long time without room is not followed by many moves."""
        self._spent = max(self._spent + BANDS_PER_MOVE, next_band_seq - BANDS_PER_MOVE)
        self._victim = None
        self.moves_started += 1


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
