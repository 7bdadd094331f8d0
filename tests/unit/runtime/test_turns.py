"""Work that takes long lets the event loop turn."""

from __future__ import annotations

import asyncio
import threading

import pytest

from spdk_ftl_py.runtime import turns as turns_module
from spdk_ftl_py.runtime.turns import ASIDE_MIN, TURN_S, Turns, aside
from spdk_ftl_py.torture.clock import SimulatedClock, run_simulated


async def test_the_loop_turns_once_in_a_while() -> None:
    now = 0.0
    loop = asyncio.get_running_loop()
    turned = 0

    async def count() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    counting = loop.create_task(count())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", lambda: now)
        turns = Turns()
        for _ in range(100):
            await turns()
        assert turned == 0
        for _ in range(10):
            now += 2 * TURN_S
            await turns()
        assert turned == 10
    counting.cancel()


@pytest.mark.parametrize("items", [ASIDE_MIN - 1, ASIDE_MIN])
async def test_long_work_goes_to_a_thread_and_short_work_does_not(items: int) -> None:
    ran_in = await aside(items, threading.current_thread)
    assert (ran_in is threading.current_thread()) == (items < ASIDE_MIN)


async def test_the_error_of_work_aside_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        await aside(ASIDE_MIN, lambda: 1 // 0)


def test_in_simulated_time_nothing_takes_long() -> None:
    async def body() -> None:
        turns = Turns()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(turns_module.asyncio, "sleep", None)
            for _ in range(10_000):
                await turns()

    run_simulated(SimulatedClock(), body())
