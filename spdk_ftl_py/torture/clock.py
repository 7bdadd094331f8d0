"""Simulated time: an asyncio loop whose clock moves only when the reactor is stepped. A run therefore depends on its
seed alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

BUSY_STEP_NS: Final = 20_000
IDLE_STEP_NS: Final = 500_000
"""The step of the clock when nothing happens. Then only timers, and batches that grow old, are left to wait for."""


class SimulatedClock:
    """Called before each step of the reactor, with the work that the previous step did. Returns the time in ns."""

    def __init__(self) -> None:
        self.now_ns = 1
        self._beside = 0

    def __call__(self, work: int) -> int:
        self.now_ns += BUSY_STEP_NS if work or self._beside else IDLE_STEP_NS
        self._beside = 0
        return self.now_ns

    def beside(self, work: int) -> int:
        """The same for further reactors. Only the first one moves the clock."""
        self._beside += work
        return self.now_ns


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Its timers use the simulated clock. Something must always be ready to run, such as a stepped reactor; otherwise
    the loop would wait in real time."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self._simulated = clock

    def time(self) -> float:
        return self._simulated.now_ns / 1e9


def run_simulated(clock: SimulatedClock, body: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run(), on a SimulatedLoop."""
    loop = SimulatedLoop(clock)
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(body)
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            # As asyncio.run() does. An idle thread would keep the body's objects alive.
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
