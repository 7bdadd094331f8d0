"""Replaces the bad zones of free bands, and swaps worn ones for spare ones, in the background."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from ... import _shim
from ...conf import RESERVED_BANDS
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

    async def rotate(self) -> None:
        """Swaps a worn zone of a free band for a spare zone that was reset far less often, if there are such zones.
        Both superblocks that a load may take know of it when the band is opened."""
        # The band comes back, whatever happens, unless the device fails. One free band is left meanwhile.
        enough = self._bands.free_count >= RESERVED_BANDS
        if self._mending is not None or self._manager.stopped or not self._may_mend() or not enough:
            return
        found = self._spares.worth_swapping(self._bands)
        if found is not None:
            number, punit, spare = found
            self._bands.keep_closed(number, punit)
            # At once: in the next turn one of the zones may have failed.
            self._spares.swap(number, punit, spare, functools.partial(self._core.replace_zone, number, punit))
            self._bands.rezoned(number)
            opening = self._open_again([self._bands[number]], superblocks=2)
            self._mending = asyncio.get_running_loop().create_task(opening, name=f"{self._name} swap")
            await self.ended()

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
        except FtlError as error:
            self._fail(error)
            return
        await self._open_again(broken)

    async def _open_again(self, broken: list[Band], *, superblocks: int = 1) -> None:
        try:
            for _ in range(superblocks):
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
