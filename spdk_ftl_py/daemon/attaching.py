"""An FTL as a bdev of its target. The daemon keeps it attached while the FTL runs. Hosts of the export do not wait for
that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ..errors import FtlError
from ..runtime.waiting import Backoff
from ..spdk.attach import Attachment, RefusedPathError
from .failed_flushes import RETRY_GROWTH, RETRY_MAX_S, RETRY_MIN_S
from .front import Front
from .target_bdev import TargetBdev

LOOK_S: Final = 5.0
"""The interval in which the daemon checks whether somebody has removed the bdev from the target."""

log = logging.getLogger(__name__)


class KeptBdev:
    """Call attach() or try_attach(), then keep(). It does not report a target that does not answer; other parts do."""

    def __init__(self, whose: str, bdev: TargetBdev, changed: Callable[[], None]) -> None:
        """whose: the FTL, for the log. changed: called when `now` or `error` changes."""
        self.now: Attachment | None = None
        self.error: str | None = None
        """Why the FTL is not attached."""
        self.turn = asyncio.Lock()
        """Held by whoever changes what the daemon has in the target."""
        self._whose = whose
        self._bdev = bdev
        self._changed = changed

    async def attach(self, front: Front) -> None:
        """Falls back to NVMe/TCP if the target can't use vfio-user and the transport was "auto". Raises TargetError,
        OSError."""
        try:
            self.now = await self._attach(front)
        except (FtlError, OSError) as error:
            self.error = f"not attached to the target: {error}"
            raise
        self.error = None

    async def _attach(self, front: Front) -> Attachment:
        try:
            return await self._bdev.attach(front)
        except RefusedPathError as error:
            if not front.may_fall_back:
                raise
            log.warning(
                "%s: the target can't attach it by vfio-user (%s), so from now on it has to use NVMe/TCP. If the "
                "target runs in a container, it may not see the endpoint's directory",
                self._whose,
                error.message,
            )
        await front.fall_back()
        self._changed()
        return await self._bdev.attach(front)

    async def try_attach(self, front: Front) -> bool:
        before = self.error
        try:
            await self.attach(front)
        except (FtlError, OSError) as error:
            if self.error != before:
                log.warning("%s: not attached to the target: %s", self._whose, error)
                self._changed()
            return False
        return True

    def lost(self) -> None:
        """The FTL does not run, so its state in the target is unknown."""
        self.now = self.error = None

    async def keep(self, front: Front) -> None:
        """Runs until it is cancelled."""
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S, RETRY_GROWTH)
        while True:
            if self.now is not None:
                await front.transport.wait_changed(LOOK_S)
                backoff.reset()
            else:
                await backoff.pause()
            async with self.turn:
                if self.now is not None:
                    lost = await self._why_lost(front)
                    if lost is None:
                        continue
                    log.warning("%s: %s: attaching it again", self._whose, lost)
                    self.now, self.error = None, lost
                    await self._bdev.taken_away()
                    self._changed()
                if await self.try_attach(front):
                    self._changed()

    async def _why_lost(self, front: Front) -> str | None:
        """None: the bdev is there, as far as is known."""
        try:
            if not await self._bdev.stands():
                return "somebody removed its bdev from the target"
        except (FtlError, OSError):
            return None
        if not front.transport.alive:
            return "its connection with the target by vfio-user has ended, and the target may not notice that"
        return None
