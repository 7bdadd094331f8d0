"""Ending tasks: all of them, whatever comes between."""

from __future__ import annotations

import asyncio

import pytest

from spdk_ftl_py.runtime.tasks import end_tasks


async def test_ending_tasks_is_not_interrupted_by_a_cancellation_and_passes_it_on() -> None:
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await go_on.wait()
            ended.set()

    task = asyncio.create_task(slow_to_end())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end_tasks([task]))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert task.done()
    assert ended.is_set()
