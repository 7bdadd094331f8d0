"""Long work in an event loop that also has to serve others: keep-alives of hosts, and other devices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

TURN_S: Final = 0.005
"""How long work may run before the loop gets its turn."""
ASIDE_THREADS_MAX: Final = 128
ASIDE_MIN: Final = 8192
"""Work with more items than this, of about 1 us each, is too much for one turn."""


class Turns:
    """Awaited between the steps of long work; most calls return at once.

    >>> turns = Turns()
    >>> for step in steps:
    ...     do(step)
    ...     await turns()

    It uses the loop's clock. In simulated time nothing takes time, so a run depends only on its seed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def __call__(self) -> None:
        if self._loop.time() - self._since >= TURN_S:
            await asyncio.sleep(0)
            self._since = self._loop.time()


def many_aside() -> None:
    """Gives the running loop enough threads for a process with many devices: closing a queue waits in one of them for
    a device that hangs, which must not keep others from theirs. Threads are made when they are needed."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(ASIDE_THREADS_MAX, "aside"))


async def aside(items: int, work: Callable[[], T]) -> T:
    """The result of work(), which handles this many items of some 1 us each. If that is too much for one turn of the
    loop, it runs in a thread, and must not touch data that others may change meanwhile. If the caller is cancelled, it
    runs to its end, and its result is dropped."""
    if items < ASIDE_MIN:
        return work()
    return await asyncio.to_thread(work)
