"""A core is told to make durable what it has accepted, or to flush its base, and whoever waits learns how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

from .. import _shim
from .life import Life


class Drains:
    """Of one device, which passes the core's events on."""

    def __init__(self, core: _shim.FtlCore, life: Life) -> None:
        self._core = core
        self._life = life
        self._drained: dict[int, asyncio.Future[int | None]] = {}
        """None: the answer may have been dropped."""
        self._drains_done: dict[int, int] = {}
        """Status by ticket."""

    async def drain(self) -> int:
        """The status of the flush after everything accepted so far. Raises the failure that prevents it."""
        status: int | None = None
        while status is None:
            status = await self._drain_once()
            if self._life.failure is not None:
                raise self._life.failure
        return status

    async def flush_base(self) -> int:
        """The status of a flush of what the base has by now. Raises the failure that prevents it."""
        status: int | None = None
        while status is None:
            status = await self._ended(self._core.flush_base(), self._life.failed)
            if self._life.failed.is_set() and self._life.failure is not None:
                raise self._life.failure
        return status

    async def _drain_once(self) -> int | None:
        """None: the answer may have been dropped, or there will be none."""
        return await self._ended(self._core.drain(), self._life.writes_ended)

    async def _ended(self, ticket: int, over: asyncio.Event) -> int | None:
        """The status of what the core was asked for. None: its answer may have been dropped, or there will be none,
        since the event has come."""
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
        """The core's event."""
        done = self._drained.pop(ticket, None)
        if done is None:
            self._drains_done[ticket] = status
        elif not done.done():
            done.set_result(status)

    def overflowed(self) -> None:
        """Events were dropped. A drain covers those before it: whoever waits for one orders another."""
        drained, self._drained = self._drained, {}
        for each in drained.values():
            if not each.done():
                each.set_result(None)
