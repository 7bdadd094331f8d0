"""Polls give up in time, and pauses between attempts grow up to a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from spdk_ftl_py.runtime.waiting import Backoff, until


class Time:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, delay_s: float) -> None:
        self.now += delay_s


@pytest.fixture
def time() -> Iterator[Time]:
    passed = Time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", passed.sleep)
        yield passed


async def has_become(time: Time, at: float, *, timeout_s: float) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", lambda: time.now)
        return await until(lambda: time.now >= at, timeout_s=timeout_s, poll_s=1)


async def test_what_is_true_already_is_not_waited_for(time: Time) -> None:
    assert await has_become(time, 0, timeout_s=0)
    assert time.now == 0


async def test_it_is_asked_until_it_is_true(time: Time) -> None:
    assert await has_become(time, 2.5, timeout_s=10)
    assert time.now == 3


async def test_it_is_asked_for_the_last_time_when_the_time_is_up(time: Time) -> None:
    assert await has_become(time, 3, timeout_s=3)
    assert not await has_become(time, 7, timeout_s=3)
    assert time.now == 6


async def test_pauses_grow_up_to_the_longest_and_begin_anew_after_a_reset(time: Time) -> None:
    async def pause() -> float:
        before = time.now
        await backoff.pause()
        return time.now - before

    backoff = Backoff(1, 5, 2)
    assert not backoff.begun
    assert [await pause() for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.begun
    backoff.reset()
    assert not backoff.begun
    assert await pause() == 1
