"""Periodic work of many objects happens in the same turns of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from spdk_ftl_py.runtime.pulse import beat, next_beat, on_beat
from spdk_ftl_py.runtime.waiting import until


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


async def test_who_is_idle_sleeps_on_and_wakes_at_the_beat_after_that() -> None:
    idle = dict.fromkeys(range(4), True)
    asked: list[int] = []
    woken: list[int] = []

    async def one(number: int) -> None:
        def is_idle() -> bool:
            asked.append(number)
            return idle[number]

        await beat(0.02, idle=is_idle)
        woken.append(number)

    tasks = [asyncio.create_task(one(number)) for number in idle]
    assert await until(lambda: len(asked) >= 12, timeout_s=10, poll_s=0.005)
    assert woken == []
    idle[2] = False
    await tasks[2]
    assert woken == [2]
    # Those that are cancelled are asked no more.
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    asked.clear()
    await asyncio.sleep(0.05)
    assert asked == []


async def test_what_says_whether_one_is_idle_may_fail_and_others_go_on() -> None:
    def broken() -> bool:
        raise KeyError("gone")

    other = asyncio.create_task(beat(0.02))
    with pytest.raises(KeyError, match="gone"):
        await beat(0.02, idle=broken)
    await other


async def test_looks_share_a_timer_and_one_may_end_another(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def counted(when: float, callback: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, callback, *args, **options)

    monkeypatch.setattr(loop, "call_at", counted)
    seen: list[int] = []
    ends = [on_beat(3600.0, lambda number=number: seen.append(number)) for number in range(50)]
    assert len(timers) == 1
    for end in ends:
        end()
    ends[0]()
    assert seen == []

    def first() -> None:
        seen.append(-1)
        end_second()

    end_first = on_beat(0.02, first)
    end_second = on_beat(0.02, lambda: seen.append(-2))
    assert await until(lambda: len(seen) >= 2, timeout_s=10, poll_s=0.005)
    end_first()
    assert set(seen) == {-1}
