"""Drains of a core, and flushes of its base: orders them, and reports the result to those who wait."""

from __future__ import annotations

import asyncio
from typing import Any

from .. import _shim
from .life import Life


class Drains:
    """The drains of one device. The device passes the core's events on to it."""

    def __init__(self, core: _shim.FtlCore, life: Life) -> None:
        self._core = core
        self._life = life
        self._drained: dict[int, asyncio.Future[int | None]] = {}
        """By ticket. A result of None: the event may have been dropped."""
        self._drains_done: dict[int, int] = {}
        """Status by ticket."""

    async def drain(self) -> int:
        """Makes everything that was accepted so far durable. Returns the status of the flush. Raises the failure of the
        device or of its writes, if that ends the wait."""
        status: int | None = None
        while status is None:
            status = await self._drain_once()
            if self._life.failure is not None:
                raise self._life.failure
        return status

    async def flush_base(self) -> int:
        """Flushes the base. Returns the status. Raises the failure of the device, if that ends the wait."""
        status: int | None = None
        while status is None:
            status = await self._ended(self._core.flush_base(), self._life.failed)
            if self._life.failed.is_set() and self._life.failure is not None:
                raise self._life.failure
        return status

    async def _drain_once(self) -> int | None:
        """Returns the status; None if the event may have been dropped, or writes have ended."""
        return await self._ended(self._core.drain(), self._life.writes_ended)

    async def _ended(self, ticket: int, over: asyncio.Event) -> int | None:
        """Waits for the event of a ticket. Returns its status; None if the event may have been dropped, or if over was
        set first."""
        if ticket in self._drains_done:
            return self._drains_done[ticket]
        drained: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._drained[ticket] = drained
        ended = asyncio.ensure_future(over.wait())
        try:
            waits: list[asyncio.Future[Any]] = [drained, ended]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        return drained.result() if drained.done() else None

    def ended(self, ticket: int, status: int) -> None:
        """The core has reported the end of a drain or flush."""
        done = self._drained.pop(ticket, None)
        if done is None:
            self._drains_done[ticket] = status
        elif not done.done():
            done.set_result(status)

    def overflowed(self) -> None:
        """The core has dropped events. Every waiter orders another drain, which covers the earlier ones."""
        drained, self._drained = self._drained, {}
        for each in drained.values():
            if not each.done():
                each.set_result(None)
