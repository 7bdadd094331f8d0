"""Long work beside an event loop that has to turn: hosts' keep-alives, and other devices, wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

TURN_S: Final = 0.005
"""How long work may go on before the loop gets its turn."""
ASIDE_MIN: Final = 8192
"""Items, of about 1 us each, from which on work is too much for one turn."""


class Turns:
    """Called between the steps of long work; most calls return at once.

    >>> turns = Turns()
    >>> for step in steps:
    ...     do(step)
    ...     await turns()

    It goes by the loop's clock: in simulated time nothing takes any, so a run still depends on its seed alone.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def __call__(self) -> None:
        if self._loop.time() - self._since >= TURN_S:
            await asyncio.sleep(0)
            self._since = self._loop.time()


async def aside(items: int, work: Callable[[], T]) -> T:
    """The result of work(), which is about so many items of some 1 us each. Where that is too much for one turn of the
    loop it runs in a thread; it must not touch what others may change meanwhile. Cancelling the caller lets it run to
    its end, for nobody."""
    if items < ASIDE_MIN:
        return work()
    return await asyncio.to_thread(work)
