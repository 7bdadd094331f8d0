"""A limit to how long something is waited for: it raises, it is over behind the body, and loses no cancellation."""

from __future__ import annotations

import asyncio

import pytest

from spdk_ftl_py.time_limit import time_limit


async def test_what_takes_longer_is_ended_and_told() -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(asyncio.TimeoutError):
        async with time_limit(0.01):
            await slow()
    assert ended.is_set()


@pytest.mark.parametrize("seconds", [None, 30.0])
async def test_what_ends_in_time_gives_its_result(seconds: float | None) -> None:
    async with time_limit(seconds):
        assert await asyncio.sleep(0, "result") == "result"


async def test_the_limit_is_over_behind_the_body() -> None:
    async with time_limit(0.01):
        pass
    await asyncio.sleep(0.02)


async def test_a_cancellation_that_comes_together_with_the_result_is_not_lost() -> None:
    result = asyncio.get_running_loop().create_future()
    went_on = False

    async def waiting() -> None:
        nonlocal went_on
        async with time_limit(30.0):
            await result
        went_on = True

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    result.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on
