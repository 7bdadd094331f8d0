"""An event loop that stands still until the reactor's ring of events is full: what comes then is dropped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spdk_ftl_py import _shim
from spdk_ftl_py.runtime.reactor import ReactorLoop

EVENT_RING = 8192
PORT_DEPTH = 4096
WAIT_S = 20.0


@asynccontextmanager
async def full_event_ring(reactor: ReactorLoop) -> AsyncIterator[None]:
    """No event is handed out within, and every one that comes is dropped. All that is left is, behind it."""
    drain = reactor._drain
    reactor._drain = lambda: None  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    threaded = reactor.shim.running
    if threaded:
        loop.remove_reader(reactor.shim.event_fd)
    reactor.shim.events()
    ports = [_shim.IoPort(reactor.shim, _nowhere(reactor), PORT_DEPTH) for _ in range(EVENT_RING // PORT_DEPTH + 1)]
    try:
        for port in ports:
            for _ in range(PORT_DEPTH):
                port.submit(_shim.Op.FLUSH)
        # The last port's answers are those that are dropped: one of each kind of event there was room for is gone.
        until = time.monotonic() + WAIT_S
        while len(ports[-1].take_untold()) == 0:
            assert time.monotonic() < until
            await asyncio.sleep(0)
        for port in ports:
            port.close()
        yield
    finally:
        reactor._drain = drain  # type: ignore[method-assign]
        if threaded:
            loop.add_reader(reactor.shim.event_fd, drain)
        drain()


def _nowhere(reactor: ReactorLoop) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.null(reactor.shim, 64)
