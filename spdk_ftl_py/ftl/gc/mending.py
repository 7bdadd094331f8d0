"""Replaces the bad zones of free bands, in the background."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from ... import _shim
from ...errors import FtlError
from ..media.band import Band, Bands
from ..media.superblock import SuperblockTooLongError
from .manager import BandManager
from .spare_zones import SpareZones


class Mending:
    """The repair of one device's bands."""

    def __init__(
        self,
        name: str,
        core: _shim.FtlCore,
        bands: Bands,
        spares: SpareZones,
        manager: BandManager,
        *,
        may_mend: Callable[[], bool],
        write_superblock: Callable[[], Awaitable[None]],
        out_of_space: Callable[[str], None],
        fail: Callable[[FtlError], None],
    ) -> None:
        """may_mend: the state of the device allows it. out_of_space, fail: end the device's writes, or the device, for
        the given reason."""
        self._name = name
        self._core = core
        self._bands = bands
        self._spares = spares
        self._manager = manager
        self._may_mend = may_mend
        self._write_superblock = write_superblock
        self._out_of_space = out_of_space
        self._fail = fail
        self._mending: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        return self._mending is not None

    def begin(self) -> None:
        """Starts a repair if a band needs one. Not after a halt has closed the core: events may still come then, but
        the clean superblock must stay the last write."""
        if self._mending is not None or self._manager.stopped:
            return
        broken = self._bands.to_mend()
        if broken and self._may_mend():
            self._mending = asyncio.get_running_loop().create_task(self._mend(broken), name=f"{self._name} mend")

    async def ended(self) -> None:
        while self._mending is not None and not self._mending.done():
            await asyncio.wait({self._mending})

    async def _mend(self, broken: list[Band]) -> None:
        """A band is opened again only after the superblock lists its zones. Until then bad_punits keeps it closed."""
        try:
            for band in broken:
                for punit in sorted(band.bad_punits):
                    tell_core = functools.partial(self._core.replace_zone, band.index, punit)
                    await self._spares.replace(band, punit, tell_core)
                    # At once, so that a report about the old zone is not taken for one about the new zone.
                    self._bands.rezoned(band.index)
            await self._write_superblock()
        except SuperblockTooLongError as error:
            # The new zones are still empty, and the bands stay closed, so media match the superblock.
            self._mending = None
            self._manager.stop()
            self._out_of_space(error.message)
            return
        except FtlError as error:
            self._fail(error)
            return
        for band in broken:
            self._bands.mended(band)
            # The band's zones may have failed again meanwhile.
            self._bands.refresh(self._core.band_rows(band.index, 1))
        self._mending = None
        # Meanwhile other bands may have become free, or their zones may have failed.
        self._manager.pump()
