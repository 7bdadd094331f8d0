"""Waiting by polling, and pauses between attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(ready: Callable[[], bool], *, timeout_s: float, poll_s: float) -> bool:
    """Polls ready() at once and then every poll_s seconds. Returns whether it became true within timeout_s."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + timeout_s
    while not ready():
        if clock() >= give_up_at:
            return False
        await asyncio.sleep(poll_s)
    return True


class Backoff:
    """Pauses between attempts. The first pause is min_s, each further one growth times the one before, at most
    max_s."""

    def __init__(self, min_s: float, max_s: float, growth: float) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._growth = growth
        self._next_s = min_s

    @property
    def begun(self) -> bool:
        """There was a pause since the object was made or reset."""
        return self._next_s > self._min_s

    def reset(self) -> None:
        """Makes the next pause the first one again."""
        self._next_s = self._min_s

    async def pause(self) -> None:
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * self._growth, self._max_s)
