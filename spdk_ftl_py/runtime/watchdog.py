"""Tells the service manager that this process lives: its event loop turns, and so does each reactor thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from .reactor import ReactorLoop, running_reactors
from .service_manager import ServiceManager
from .tasks import end_tasks

LOOKS_PER_PERIOD: Final = 4
"""A look comes this many times in the period of the watchdog, so that one late look ends nothing."""
EXTENSION_S: Final = 60.0
EXTEND_EVERY_S: Final = 10.0
EXTENDED_MAX_S: Final = 3600.0
"""A start that takes longer than this gets no more time."""
STILL_S: Final = 30.0
"""A halt that has not moved on for this time gets no more time."""

log = logging.getLogger(__name__)


class Watchdog:
    """Use as ``async with Watchdog(manager)``. Without a service manager that wants reports, it does nothing.

    It sends WATCHDOG=1 only if every running reactor has polled its pollers since the last look. A reactor that sleeps
    is woken for that. If a thread hangs, the manager hears nothing more, ends the process, and starts the next one,
    which takes over what this one had accepted (docs/durability.md).
    """

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._seen: dict[ReactorLoop, int] = {}
        self._hanging: set[str] = set()
        self._extended_since: float | None = None
        self._extended_max_s = EXTENDED_MAX_S
        self._moves: Callable[[], object] | None = None
        """What changes while a halt moves on."""
        self._moves_seen: object = None
        self._moved_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Watchdog:
        if self._manager.watchdog_s > 0:
            self._tasks.append(asyncio.create_task(self._watch(), name="watchdog"))
        if self._manager.is_there:
            self._tasks.append(asyncio.create_task(self._extend_for_ever(), name="more time from the service manager"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks(self._tasks)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While this context is active, the manager gives the start more time, as long as all threads turn."""
        self._extended_since, self._extended_max_s = time.monotonic(), EXTENDED_MAX_S
        self._extend()
        try:
            yield
        finally:
            self._extended_since = None

    def stopping(self, most_s: float, moves: Callable[[], object]) -> None:
        """Tells the manager that this process is about to end. From now on it gets more time for that, for most_s at
        most, and as long as what moves() returns changes."""
        self._manager.notify("STOPPING=1")
        self._extended_since, self._extended_max_s = time.monotonic(), most_s
        self._moves, self._moves_seen, self._moved_at = moves, moves(), self._extended_since
        self._extend()

    def tell_status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._manager.notify(f"STATUS={text}")

    def look(self) -> None:
        """Tells the manager that this process lives, unless a reactor hangs."""
        if not self._any_hangs():
            self._manager.notify("WATCHDOG=1")

    async def _watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(self._manager.watchdog_s / LOOKS_PER_PERIOD)

    async def _extend_for_ever(self) -> None:
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            self._extend()

    def _extend(self) -> None:
        since, now = self._extended_since, time.monotonic()
        if since is None:
            return
        if self._moves is not None and (moves := self._moves()) != self._moves_seen:
            self._moves_seen, self._moved_at = moves, now
        stands_still = self._moves is not None and now - self._moved_at >= STILL_S
        if now - since < self._extended_max_s and not stands_still and not self._hanging:
            self._manager.notify(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_S * 1e6)}")

    def _any_hangs(self) -> bool:
        """Whether a reactor has not polled its pollers since the last call. Wakes all reactors for the next call."""
        seen = {reactor: reactor.shim.rounds for reactor in running_reactors()}
        hanging = {reactor.name for reactor, rounds in seen.items() if self._seen.get(reactor) == rounds}
        for name in sorted(hanging - self._hanging):
            log.error(
                "%s: its reactor thread has hung for %g s: unless it turns again, the service manager restarts this "
                "process",
                name,
                self._manager.watchdog_s / LOOKS_PER_PERIOD,
            )
        for name in sorted(self._hanging - hanging):
            log.warning("%s: its reactor thread turns again", name)
        self._hanging = hanging
        self._seen = seen
        for reactor in seen:
            reactor.shim.wake()
        return bool(hanging)
