"""A shim Reactor on an asyncio loop: delivers each event to the subscriber of its source, and an overflow to all
subscribers.

Threaded (the product), or stepped from the loop itself (tests and simulation: deterministic, no thread).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from .. import _shim

UNCLAIMED_EVENTS_MAX = 1024

log = logging.getLogger(__name__)

EventHandler = Callable[[_shim.Event], None]
Clock = Callable[[int], int]
"""Simulated time in ns; the argument is what the last step did (0: nothing)."""
Pace = Callable[[], int]
"""How many steps a stepped reactor takes before others have their turn."""


_running: WeakSet[ReactorLoop] = WeakSet()


def running_reactors() -> list[ReactorLoop]:
    """Those of this process with a thread of their own."""
    return list(_running)


def load_ended(event: _shim.Event, load: _shim.LoadGenerator) -> bool:
    """Whether this event says that the run of a load generator has ended."""
    return event.kind == _shim.EventKind.LOAD_DONE or (
        event.kind == _shim.EventKind.OVERFLOW and not load.progress().running
    )


class ReactorLoop:
    """Owns a ``_shim.Reactor``, a thread that does I/O, between start() and stop(), or within ``async with``.

    >>> reactor = ReactorLoop("ftl0")
    >>> await reactor.start()
    >>> reactor.subscribe(core.id, on_event)

    clock: for a stepped reactor; without it steps use the real time. pace: for a stepped one, too; by default one step
    in each turn. cpu: its thread runs on that one alone.
    """

    def __init__(
        self,
        name: str,
        *,
        spin_us: int = 20,
        stepped: bool = False,
        clock: Clock | None = None,
        pace: Pace = lambda: 1,
        cpu: int | None = None,
    ) -> None:
        self.name = name
        self.shim = _shim.Reactor(name, spin_us)
        self._stepped = stepped
        self._clock = clock
        self._pace = pace
        self._cpu = cpu
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stepper: asyncio.Task[None] | None = None
        self._handlers: dict[int, EventHandler] = {}
        # An event may arrive before the creator of its source could subscribe.
        self._unclaimed: deque[_shim.Event] = deque(maxlen=UNCLAIMED_EVENTS_MAX)
        self._overflow: _shim.Event | None = None
        """The last overflow. An event that it dropped may belong to a source without a subscriber yet."""

    async def start(self) -> None:
        """On the running asyncio loop, which gets its events. Once."""
        self._loop = asyncio.get_running_loop()
        if self._stepped:
            self._stepper = self._loop.create_task(self._step_for_ever(), name=f"reactor {self.name}")
        else:
            self._loop.add_reader(self.shim.event_fd, self._drain)
            self.shim.start(-1 if self._cpu is None else self._cpu)
            _running.add(self)

    async def stop(self) -> None:
        """Idempotent. Events that nobody has fetched are delivered before it returns."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        if self._stepper is not None:
            self._stepper.cancel()
            await asyncio.gather(self._stepper, return_exceptions=True)
            self._stepper = None
        else:
            _running.discard(self)
            self.shim.stop()
            loop.remove_reader(self.shim.event_fd)
        self._drain()

    async def __aenter__(self) -> ReactorLoop:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def subscribe(self, source: int, handler: EventHandler) -> None:
        """One handler per source; it runs on the asyncio loop and must not raise.

        It also gets every OVERFLOW: events were dropped, of this source or another, so what it waits for may have
        happened. It asks the shim for its state then.
        """
        self._handlers[source] = handler
        early = [event for event in self._unclaimed if event.source == source]
        if early:
            kept = [event for event in self._unclaimed if event.source != source]
            self._unclaimed.clear()
            self._unclaimed.extend(kept)
            for event in early:
                handler(event)
        if self._overflow is not None and source < self._overflow.first_newer_source:
            handler(self._overflow)

    def unsubscribe(self, source: int) -> None:
        """Idempotent."""
        self._handlers.pop(source, None)

    def _drain(self) -> None:
        for event in self.shim.events():
            if event.kind == _shim.EventKind.OVERFLOW:
                self._overflow = event
                log.warning("%s: the event loop did not run for too long, so the reactor dropped events", self.name)
                for each in list(self._handlers.values()):
                    each(event)
                continue
            handler = self._handlers.get(event.source)
            if handler is None:
                self._unclaimed.append(event)
            else:
                handler(event)

    async def _step_for_ever(self) -> None:
        work = 0
        while True:
            for _ in range(self._pace()):
                work = self.shim.step(None if self._clock is None else self._clock(work))
                self._drain()
            await asyncio.sleep(0)
