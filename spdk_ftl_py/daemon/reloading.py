"""Loads the FTL of a device: for the first time, with a change, or after its base came back. Host I/O is held
meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from ..errors import BusyError, FtlError, MediaError
from ..ftl.device import FtlDevice
from ..runtime.tasks import to_its_end
from .base_search import as_unfit
from .changes import Change
from .checks import Media
from .device_parts import DeviceParts
from .ending import halt_ftl
from .states import DeviceState

EMPTY_TIMEOUT_S: Final = 10.0
"""How long a change waits for outstanding host I/O. A working base needs much less."""
SWEEP_S: Final = 1.0

log = logging.getLogger(__name__)


class Reloading:
    """The loads of one device."""

    def __init__(self, device: DeviceParts) -> None:
        self._device = device

    async def load_changed(self) -> bool:
        """Makes the requested change. Returns False if the FTL has to be loaded unchanged; the requester has the error
        then."""
        device = self._device
        change = device.changes.take()
        try:
            halted = await to_its_end(self._halt_to_change(change))
            if not halted:
                return False
            before = dict(device.params)
            device.saved_params = before if change.late else None
            try:
                device.set_params(change.applied(before))
                if not change.late:
                    # Saved before it takes effect: after a crash the next daemon loads the FTL with or without it.
                    device.on_change()
                await self.return_to_base(change.once)
            except BaseException:
                # The change is made once the changed FTL serves hosts.
                device.saved_params = None
                if not device.front.serving:
                    device.set_params({**before, **change.back})
                device.on_change_behind()
                raise
            device.saved_params = None
        except (FtlError, OSError) as error:
            message = f"{change.what} failed: {error.message if isinstance(error, FtlError) else error}"
            log.error("%s: %s", device, message)
            device.changes.refuse(error)
            if device.state is DeviceState.ONLINE:
                return True
            device.error = message
            return False
        device.error = None
        device.state = DeviceState.ONLINE
        device.changed()
        log.info("%s: %s: done", device, change.what)
        device.changes.done()
        return True

    async def _halt_to_change(self, change: Change) -> bool:
        """Holds host I/O, brings everything accepted to media, and halts the FTL. Returns True then. Raises BusyError
        if outstanding I/O takes too long; nothing has changed then, and I/O continues. Raises the FTL's failure if it
        has failed meanwhile."""
        device = self._device
        ftl = device.ftl
        assert ftl is not None
        device.front.hold()
        if not await device.front.emptied(EMPTY_TIMEOUT_S):
            device.front.set_core(ftl.core)
            raise BusyError(
                f"FTL bdev {device.name}: the base did not complete outstanding host I/O within {EMPTY_TIMEOUT_S:g} s, "
                f"so {change.what} was not started: try again when it does"
            )
        device.state = DeviceState.WAITING
        device.progress, device.waits_for = "", change.what
        device.changed()
        device.start_hold_timer()
        device.ftl = None
        try:
            await halt_ftl(ftl, device.link)
        finally:
            await device.link.disconnect()
        if not ftl.halted_cleanly:
            # The FTL failed meanwhile. A load without the change recovers the accepted writes.
            raise ftl.failure or MediaError(f"FTL bdev {device.name} has failed")
        # Hosts stay connected. Writes from now on may be lost again.
        return True

    async def return_to_base(self, once: Mapping[str, Any] | None = None) -> None:
        """Loads the FTL, and serves hosts again. once: options of a Change, for this load only. Raises what BaseLink
        and load() raise."""
        device = self._device
        await device.link.claim(again=True)
        device.ftl = await self.load(await self.connect(), once)
        device.remember(device.ftl)
        device.took_conf()
        if (device.ftl.restored or {}).get("lossy"):
            # Existing queues do not know the new size.
            await device.front.disconnect_hosts()
        device.front.set_core(device.ftl.core)
        device.gave_cache_up()
        device.stop_hold_timer()
        self._sweep()
        await device.try_attach()

    async def connect(self) -> Media:
        """Connects to the media that the link has claimed. Raises what BaseLink.connect() raises."""
        device = self._device
        base = await device.link.connect(device.front.reactor)
        assert device.link.raw is not None
        return Media(base, device.link.raw, await device.link.connect_cache(device.front.reactor))

    async def load(self, media: Media, once: Mapping[str, Any] | None = None) -> FtlDevice:
        """Loads the FTL from media. Raises what FtlMaker.load() raises, and UnfitError if media do not hold the FTL
        that hosts know."""
        device = self._device
        try:
            return await device.maker.load(device.front.reactor, media, **(once or {}), life=device.life_seen)
        except FtlError as error:
            # A change that does not fit does not make the base unfit.
            unfit = as_unfit(error) if device.front.gate is not None and not once else None
            if unfit is None:
                raise
            raise unfit from error

    def _sweep(self) -> None:
        """Releases the previous core when the last write into its memory has ended."""
        if (gate := self._device.front.gate) is not None and not gate.sweep():
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
