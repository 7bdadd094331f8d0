"""Waits for the base of an FTL: releases the lost connection, and retries until the FTL is loaded again."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ..errors import FtlError
from ..runtime.tasks import to_its_end
from ..runtime.waiting import Backoff
from .base import PASSING, CacheUnfitError, DeferredError, UnfitError
from .device_parts import DeviceParts
from .failed_flushes import RETRY_GROWTH, RETRY_MAX_S, RETRY_MIN_S
from .reloading import Reloading
from .states import DeviceState

log = logging.getLogger(__name__)


class Waiting:
    """The waits of one device."""

    def __init__(self, device: DeviceParts, reloading: Reloading) -> None:
        self._device = device
        self._reloading = reloading

    async def wait_for_base(self) -> bool:
        """Returns True when the base is back and the FTL is loaded from it, and False if the bdev that came back cannot
        be the base."""
        device = self._device
        log.warning("%s: waiting for its base: %s", device, device.error)
        device.front.hold()
        device.state = DeviceState.WAITING
        device.stop_hold_timer()
        # At once. A request may come before the base is released, and must not see a bdev in a target that is gone.
        device.kept_bdev.lost()
        device.progress = device.waits_for = ""
        device.changed()
        device.start_hold_timer()
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, RETRY_GROWTH)
        try:
            await asyncio.sleep(device.failed_flushes.delay_s())
            while True:
                # If this were interrupted, nothing would own the lost core and its write buffer.
                await to_its_end(self._let_go_of_base())
                try:
                    await self._reloading.return_to_base()
                    break
                except (DeferredError, *PASSING) as error:
                    device.waits_for = str(error)
                    log.debug("%s: waiting: %s", device.name, error)
                    if await device.flush_failed(error):
                        return False
                    if isinstance(error, UnfitError):
                        await self.seek_base(error)
                        continue
                    await self.look_elsewhere(error)
                except FtlError as error:
                    await device.fail(
                        f"base bdev {device.link.base_name} came back, but can't be used: {error.message}"
                    )
                    return False
                await backoff.pause()
        finally:
            device.stop_hold_timer()
        log.warning("%s: the base is back; the daemon loaded the FTL, and I/O continues", device)
        device.error = None
        device.state = DeviceState.ONLINE
        device.changed()
        return True

    async def look_elsewhere(self, error: Exception) -> None:
        """Searches for the base under other names, after the attempt did not find it under its own."""
        device = self._device
        if isinstance(error, CacheUnfitError):
            # The bdev may belong to another FTL, whose daemon could not get it meanwhile.
            await to_its_end(device.link.give_back())
        await device.search.look_elsewhere(error)

    async def seek_base(self, error: UnfitError) -> None:
        """Returns when another attempt makes sense. If that takes long, the device is FAILED meanwhile. This releases
        the bdev under the base's name, because it may belong to another FTL."""
        device = self._device
        came_back = " came back, but" if device.front.gate is not None else ""
        message = device.error = f"base bdev {device.link.base_name}{came_back} can't be used: {error.message}"
        refused = device.link.bdev
        await to_its_end(device.link.give_back())
        await device.search.seek(refused, lambda: device.fail(message))

    async def _let_go_of_base(self) -> None:
        """Releases the base. Objects in the target stay; claim() and attach() take them over."""
        device = self._device
        device.front.hold()
        ftl, device.ftl = device.ftl, None
        device.kept_bdev.lost()
        if ftl is not None:
            await ftl.abort(device.error or "the base bdev is lost")
        # Without a connection no I/O is outstanding, so the core can end.
        await device.link.disconnect()
        if ftl is not None:
            with contextlib.suppress(FtlError):
                await ftl.halt()
            # The L2P of this core takes as much memory as that of the next one.
            del ftl
            if device.front.gate is not None:
                device.front.gate.sweep()
