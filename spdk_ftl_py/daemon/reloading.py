"""A device of the daemon loads its FTL, and loads it again, changed or from a base that came back, while hosts wait."""

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
"""How long outstanding host I/O may take before a change. A base that works needs much less."""
SWEEP_S: Final = 1.0

log = logging.getLogger(__name__)


class Reloading:
    """Of one device."""

    def __init__(self, device: DeviceParts) -> None:
        self._device = device

    async def load_changed(self) -> bool:
        """The change that is asked for is made. False: it has to be loaded as it was. Whoever asked knows why."""
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
                # Once the changed FTL serves hosts, the change is made.
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
        """Holds I/O, and brings everything accepted to media. Raises BusyError if that takes too long; then nothing has
        changed, and I/O continues."""
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
            # The FTL failed meanwhile. A load, without the change, recovers what was accepted.
            raise ftl.failure or MediaError(f"FTL bdev {device.name} has failed")
        # Hosts stay connected. Writes that they make from now on may be lost again.
        return True

    async def return_to_base(self, once: Mapping[str, Any] | None = None) -> None:
        """Hosts are served again behind it. once: of a Change. Raises what BaseLink and load() raise."""
        device = self._device
        await device.link.claim(again=True)
        device.ftl = await self.load(await self.connect(), once)
        device.remember(device.ftl)
        device.took_conf()
        if (device.ftl.restored or {}).get("lossy"):
            # Queues that exist already do not know the new size.
            await device.front.disconnect_hosts()
        device.front.set_core(device.ftl.core)
        device.gave_cache_up()
        device.stop_hold_timer()
        self._sweep()
        await device.try_attach()

    async def connect(self) -> Media:
        """To what the link has claimed. Raises what BaseLink.connect() does."""
        device = self._device
        base = await device.link.connect(device.front.reactor)
        assert device.link.raw is not None
        return Media(base, device.link.raw, await device.link.connect_cache(device.front.reactor))

    async def load(self, media: Media, once: Mapping[str, Any] | None = None) -> FtlDevice:
        """Raises what FtlMaker.load() does, and UnfitError where media are not the FTL's that hosts know."""
        device = self._device
        try:
            return await device.maker.load(device.front.reactor, media, **(once or {}), life=device.life_seen)
        except FtlError as error:
            # A change that does not fit says nothing about the base.
            unfit = as_unfit(error) if device.front.gate is not None and not once else None
            if unfit is None:
                raise
            raise unfit from error

    def _sweep(self) -> None:
        """The previous core is released when the last write into its memory has ended."""
        if (gate := self._device.front.gate) is not None and not gate.sweep():
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
