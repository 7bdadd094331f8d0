"""Periodic work of many objects in the same turns of the event loop, so that an idle process wakes seldom."""

from __future__ import annotations

import asyncio


def next_beat(period_s: float) -> float:
    """The loop's time of the next beat: a multiple of period_s, at most period_s ahead."""
    now = asyncio.get_running_loop().time()
    beat = (now // period_s + 1) * period_s
    # Rounding may give the beat that is now.
    return beat if beat > now else beat + period_s


async def beat(period_s: float) -> None:
    """Sleeps until the next beat. All that wait with the same period wake in one turn; those with a multiple of it,
    too."""
    await asyncio.sleep(next_beat(period_s) - asyncio.get_running_loop().time())
