"""Loads the FTL of a device: for the first time, with a change, or after its base came back. Host I/O is held
meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from ..errors import BusyError, FtlError, MediaError
from ..ftl.device import FtlDevice
from ..runtime.tasks import end_tasks, to_its_end
from .base import BaseLink
from .base_search import as_unfit
from .changes import Change
from .checks import Media
from .device_parts import DeviceParts
from .ending import halt_ftl
from .states import DeviceState

EMPTY_TIMEOUT_S: Final = 10.0
"""How long a change waits for outstanding host I/O. A working base needs much less."""
SWEEP_S: Final = 1.0
CANCELLED_S: Final = 3.0
"""How long media work that is cancelled may wait for its outstanding I/O."""

T = TypeVar("T")

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
                await self.return_to_base(change.once, at_once=True)
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
            await halt_ftl(ftl, device.link, limit_now=lambda: device.halt_limit, report=device.report_halt)
        finally:
            await device.link.disconnect()
        if not ftl.halted_cleanly:
            # The FTL failed meanwhile. A load without the change recovers the accepted writes.
            raise ftl.failure or MediaError(f"FTL bdev {device.name} has failed")
        # Hosts stay connected. Writes from now on may be lost again.
        return True

    async def return_to_base(self, once: Mapping[str, Any] | None = None, *, at_once: bool = False) -> None:
        """Loads the FTL, and serves hosts again. once: options of a Change, for this load only. at_once: as in load().
        Raises what BaseLink and load() raise."""
        device = self._device
        await device.link.claim(again=True)
        device.ftl = await self.load(await self.connect(), once, at_once=at_once)
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

    async def load(
        self, media: Media, once: Mapping[str, Any] | None = None, *, first: bool = False, at_once: bool = False
    ) -> FtlDevice:
        """Loads the FTL from media when it is its turn. first, at_once: as in LoadTurns.turn(). Raises what
        FtlMaker.load() raises, and UnfitError if media do not hold the FTL that hosts know."""
        device = self._device
        failed_before, device.last_load_failed = device.last_load_failed, True
        loads = device.identity.loads
        try:
            device.load_turn = turn = loads.turn(
                media.raw_base.block_count, first=first, at_once=at_once, failed_before=failed_before
            )
            async with turn:
                load = device.maker.load(
                    device.front.reactor, media, **(once or {}), life=device.life_seen, room=turn.room
                )
                ftl = await until_cancelled(load, device.link, self._loaded_too_late)
                device.last_load_failed = False
                return ftl
        except FtlError as error:
            # A change that does not fit does not make the base unfit.
            unfit = as_unfit(error) if device.front.gate is not None and not once else None
            if unfit is None:
                raise
            raise unfit from error
        finally:
            device.load_turn = None

    def _loaded_too_late(self, ftl: FtlDevice) -> None:
        """Whoever ends this device halts it."""
        self._device.ftl = ftl

    def _sweep(self) -> None:
        """Releases the previous core when the last write into its memory has ended."""
        if (gate := self._device.front.gate) is not None and not gate.sweep():
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


async def until_cancelled(
    work: Coroutine[Any, Any, T], link: BaseLink, too_late: Callable[[T], object] = lambda result: None
) -> T:
    """The result of work, which does I/O to the link's media. If the caller is cancelled, so is work; if a base that
    hangs keeps it from ending, the link is disconnected. too_late gets a result that comes all the same."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await to_its_end(_end_work(task, link))
        finally:
            if not task.cancelled() and task.exception() is None:
                too_late(task.result())
        raise


async def _end_work(task: asyncio.Task[Any], link: BaseLink) -> None:
    task.cancel()
    if not (await asyncio.wait({task}, timeout=CANCELLED_S))[0]:
        # Without a connection no I/O is outstanding.
        await link.disconnect()
        await end_tasks([task])
