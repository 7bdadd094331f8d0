"""A stepped reactor in simulated time: what a test does follows from its seeds, on a fast machine as on a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture.clock import SimulatedClock, run_simulated

LIMIT_S = 600
"""Of simulated time: who has not ended by then waits for what never comes."""


def run_stepped(main: Callable[[ReactorLoop], Awaitable[None]]) -> None:
    """main, with a reactor that runs as long as it does."""
    clock = SimulatedClock()

    async def with_reactor() -> None:
        reactor = ReactorLoop("test", stepped=True, clock=clock)
        await reactor.start()
        try:
            await asyncio.wait_for(main(reactor), LIMIT_S)
        finally:
            await reactor.stop()

    run_simulated(clock, with_reactor())
