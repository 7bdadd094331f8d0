"""Periodic work of many objects happens in the same turns of the event loop."""

from __future__ import annotations

import asyncio

from spdk_ftl_py.runtime.pulse import beat, next_beat


async def test_those_that_began_at_different_times_wake_together() -> None:
    loop = asyncio.get_running_loop()
    woken: list[float] = []

    async def one(delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await beat(0.25)
        woken.append(loop.time() // 0.25)

    await beat(0.25)
    await asyncio.gather(*(one(0.004 * number) for number in range(20)))
    assert len(set(woken)) <= 2, woken  # a machine that stands still for 0.2 s may spread them over two


async def test_the_next_beat_is_ahead_and_not_further_than_the_period() -> None:
    loop = asyncio.get_running_loop()
    for period_s in (0.1, 0.3, 1.0, 7.5):
        before = loop.time()
        at = next_beat(period_s)
        assert before < at
        assert at - loop.time() <= period_s
        assert abs(at / period_s - round(at / period_s)) < 1e-6
