"""The host side of a queue that Python serves, against completions that a test writes."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.wire import AdminOp, Cqe, Sqe
from spdk_ftl_py.time_limit import time_limit
from spdk_ftl_py.vfio_user.host import command_queue
from spdk_ftl_py.vfio_user.host.command_queue import CQE_BYTES, SharedCommandQueue

QUEUES = 8
ENTRIES = 4
PERIOD_S = 0.02


class Memory:
    """As _shim.SharedQueueMemory."""

    entries = ENTRIES
    sq_offset, cq_offset = 0, wire.PAGE_BYTES
    bytes = (2 + ENTRIES) * wire.PAGE_BYTES

    def __init__(self) -> None:
        self.fd = os.memfd_create("queue")
        os.ftruncate(self.fd, self.bytes)
        self.map = mmap.mmap(self.fd, self.bytes)

    def buffer_offset(self, cid: int) -> int:
        return (2 + cid) * wire.PAGE_BYTES

    def complete(self, place: int, cqe: Cqe, phase: int = 1) -> None:
        raw = bytearray(cqe.pack())
        raw[-2] |= phase
        at = self.cq_offset + place * CQE_BYTES
        self.map[at : at + CQE_BYTES] = bytes(raw)


@pytest.fixture
def memories() -> Iterator[list[Memory]]:
    made = [Memory() for _ in range(QUEUES)]
    yield made
    for memory in made:
        os.close(memory.fd)


async def test_idle_queues_are_looked_at_in_one_turn_and_an_event_is_seen(
    memories: list[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_queue, "EVENTS_PAUSE_S", PERIOD_S)
    queues: list[Any] = []
    for memory in memories:
        told: Any = memory
        queues.append(SharedCommandQueue(told, 0, lambda tail: None, lambda head: None, peer="s"))
    pumps = [asyncio.create_task(queue.pump()) for queue in queues]
    events = [asyncio.create_task(queue.submit(Sqe(AdminOp.ASYNC_EVENT_REQUEST))) for queue in queues]
    await asyncio.sleep(2 * PERIOD_S)
    ran = 0
    run = asyncio.Handle._run

    def counted(handle: asyncio.Handle) -> None:
        nonlocal ran
        ran += 1
        run(handle)

    monkeypatch.setattr(asyncio.Handle, "_run", counted)
    await asyncio.sleep(10 * PERIOD_S)
    monkeypatch.setattr(asyncio.Handle, "_run", run)
    assert ran < 20, "a turn for each beat, not for each queue"
    for number, (memory, queue) in enumerate(zip(memories, queues, strict=True)):
        (cid,) = queue._pending
        memory.complete(0, Cqe(cid, result=number))
    async with time_limit(5):
        assert [(await event)[0].result for event in events] == list(range(QUEUES))
    # A command ends the pause.
    waiting = asyncio.create_task(queues[0].submit(Sqe(AdminOp.IDENTIFY)))
    await asyncio.sleep(0)
    (cid,) = queues[0]._pending
    memories[0].complete(1, Cqe(cid, result=7))
    async with time_limit(5):
        assert (await waiting)[0].result == 7
    for pump in pumps:
        pump.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
