"""An FTL of the daemon waits for its base: it lets go of what was lost, and tries until it is loaded again."""

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
    """Of one device."""

    def __init__(self, device: DeviceParts, reloading: Reloading) -> None:
        self._device = device
        self._reloading = reloading

    async def wait_for_base(self) -> bool:
        """Until the base is back and the FTL loaded from it: True. False: what came back is no such base."""
        device = self._device
        log.warning("%s: waiting for its base: %s", device, device.error)
        device.front.hold()
        device.state = DeviceState.WAITING
        device.stop_hold_timer()
        # At once: whoever asks before the base is let go of is told of no bdev in a target that is gone.
        device.kept_bdev.lost()
        device.progress = device.waits_for = ""
        device.changed()
        device.start_hold_timer()
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, RETRY_GROWTH)
        try:
            await asyncio.sleep(device.failed_flushes.delay_s())
            while True:
                # Half of it would leave the core that was lost, and its write buffer, to nobody.
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
                    await device.fail(f"base bdev {device.link.base_name} came back, but is of no use: {error.message}")
                    return False
                await backoff.pause()
        finally:
            device.stop_hold_timer()
        log.warning("%s: loaded by the daemon itself, its base is back, I/O goes on", device)
        device.error = None
        device.state = DeviceState.ONLINE
        device.changed()
        return True

    async def look_elsewhere(self, error: Exception) -> None:
        """For what that attempt has not found under its name."""
        device = self._device
        if isinstance(error, CacheUnfitError):
            # It may be another FTL's, whose daemon can't have it meanwhile.
            await to_its_end(device.link.give_back())
        await device.search.look_elsewhere(error)

    async def seek_base(self, error: UnfitError) -> None:
        """Returns when another attempt is worth it; FAILED meanwhile, if that takes long. What is there under the
        base's name may be another FTL's, so it is let go of."""
        device = self._device
        came_back = " came back, but" if device.front.gate is not None else ""
        told = device.error = f"base bdev {device.link.base_name}{came_back} is of no use: {error.message}"
        refused = device.link.bdev
        await to_its_end(device.link.give_back())
        await device.search.seek(refused, lambda: device.fail(told))

    async def _let_go_of_base(self) -> None:
        """What stands in the target is left to claim() and attach(): they take it over when it is still there."""
        device = self._device
        device.front.hold()
        ftl, device.ftl = device.ftl, None
        device.kept_bdev.lost()
        if ftl is not None:
            await ftl.abort(device.error or "the base bdev is lost")
        # Without the connection nothing is left in flight, and the core can end.
        await device.link.disconnect()
        if ftl is not None:
            with contextlib.suppress(FtlError):
                await ftl.halt()
            # Its L2P takes as much memory as that of the next.
            del ftl
            if device.front.gate is not None:
                device.front.gate.sweep()
