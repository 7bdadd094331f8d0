"""The reactor as Python sees it: start, stop, step, events."""

from __future__ import annotations

import asyncio
import threading

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.runtime.reactor import ReactorLoop


def test_start_and_stop_can_be_repeated() -> None:
    reactor = _shim.Reactor("again")
    for _ in range(3):
        reactor.start()
        assert reactor.running
        reactor.stop()
        reactor.stop()
        assert not reactor.running


def test_a_second_start_is_refused() -> None:
    reactor = _shim.Reactor("twice")
    reactor.start()
    try:
        with pytest.raises(RuntimeError, match="twice is already running"):
            reactor.start()
    finally:
        reactor.stop()


def test_step_is_refused_while_the_thread_runs() -> None:
    reactor = _shim.Reactor("stepped")
    assert reactor.step() == 0
    reactor.start()
    try:
        with pytest.raises(RuntimeError, match="its own thread"):
            reactor.step()
    finally:
        reactor.stop()
    assert reactor.step() == 0


def test_a_reactor_that_is_dropped_while_running_joins_its_thread() -> None:
    before = threading.active_count()
    reactor = _shim.Reactor("dropped")
    reactor.start()
    del reactor
    assert threading.active_count() == before


async def test_a_device_is_served_by_a_sleeping_thread_and_by_steps_alike() -> None:
    async def write_and_read(*, stepped: bool) -> bytes:
        loop = ReactorLoop("io", spin_us=0, stepped=stepped)
        media = _shim.EmulatedMedia.conventional(loop.shim, 64)
        await loop.start()
        port = _shim.IoPort(loop.shim, media, 4)
        done: dict[int, asyncio.Future[int]] = {}

        def on_event(event: _shim.Event) -> None:
            done[event.ticket].set_result(event.status)

        loop.subscribe(port.id, on_event)

        async def run(op: _shim.Op, data: bytearray) -> int:
            ticket = port.submit(op, 3, 1, data)
            done[ticket] = asyncio.get_running_loop().create_future()
            return await done[ticket]

        assert await run(_shim.Op.WRITE, bytearray(b"x" * 4096)) == 0
        data = bytearray(4096)
        assert await run(_shim.Op.READ, data) == 0
        port.close()
        await loop.stop()
        return bytes(data)

    for stepped in (False, True):
        assert await write_and_read(stepped=stepped) == b"x" * 4096


def test_a_port_refuses_more_than_its_depth_and_buffers_that_are_too_small() -> None:
    reactor = _shim.Reactor("bounded")
    media = _shim.EmulatedMedia.conventional(reactor, 64)
    port = _shim.IoPort(reactor, media, 2)
    with pytest.raises(ValueError, match="4096 needed"):
        port.submit(_shim.Op.READ, 0, 1, bytearray(100))
    with pytest.raises(BufferError):
        port.submit(_shim.Op.READ, 0, 1, bytes(4096))
    for _ in range(2):
        port.submit(_shim.Op.READ, 0, 1, bytearray(4096))
    with pytest.raises(BlockingIOError, match="every slot"):
        port.submit(_shim.Op.READ, 0, 1, bytearray(4096))
    port.close()
    port.close()
    assert [event.kind for event in reactor.events()] == [_shim.EventKind.IO_DONE] * 2
    with pytest.raises(RuntimeError, match="closed"):
        port.submit(_shim.Op.FLUSH)


async def test_a_reactor_without_work_sleeps() -> None:
    """Its rounds are counted, not its CPU time: a busy machine makes them fewer."""
    async with ReactorLoop("idle") as reactor:
        media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
        gate = _shim.Gate(reactor.shim, media)
        await asyncio.sleep(0.05)
        before = reactor.shim.rounds
        await asyncio.sleep(0.6)
        # One wake-up in a second, and two rounds for each.
        assert reactor.shim.rounds - before <= 4
        assert gate.block_count == 64
