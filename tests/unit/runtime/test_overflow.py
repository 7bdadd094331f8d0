"""Events that were dropped: everybody hears of it, and nobody waits for ever for what was in them."""

from __future__ import annotations

import asyncio
import random

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended
from spdk_ftl_py.torture.content import Content
from spdk_ftl_py.torture.model import Model
from spdk_ftl_py.torture.workload import Workload
from support.overflow import full_event_ring

WAIT_S = 20.0


@pytest.mark.parametrize("stepped", [True, False])
async def test_every_io_of_a_port_is_answered_though_its_event_was_dropped(stepped: bool) -> None:
    async with ReactorLoop("test", spin_us=0, stepped=stepped) as reactor:
        media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
        media.inject_fault(op=_shim.Op.WRITE, status=0x280)
        port = BlockPort(reactor, media, name="port", depth=8)
        async with full_event_ring(reactor):
            # More than its depth: those behind wait for answers, too.
            ios = [asyncio.ensure_future(port.read(lba, 1)) for lba in range(20)]
            write = asyncio.ensure_future(port.write(0, bytes(4096)))
            several = asyncio.ensure_future(port.read_each(list(range(20))))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not any(io.done() for io in [*ios, write, several])
        await asyncio.wait_for(asyncio.gather(*ios), WAIT_S)
        assert await asyncio.wait_for(several, WAIT_S) is not None
        with pytest.raises(MediaError, match="write fault"):
            await asyncio.wait_for(write, WAIT_S)
        await asyncio.wait_for(port.close(), WAIT_S)


async def test_each_answer_comes_once() -> None:
    async with ReactorLoop("test", stepped=True) as reactor:
        port = _shim.IoPort(reactor.shim, _shim.EmulatedMedia.conventional(reactor.shim, 64), 4)
        told: list[int] = []
        overflows = 0

        def on_event(event: _shim.Event) -> None:
            nonlocal overflows
            if event.kind == _shim.EventKind.OVERFLOW:
                overflows += 1
                told.extend(completion.ticket for completion in port.take_untold())
            else:
                told.append(event.ticket)

        reactor.subscribe(port.id, on_event)
        wanted = [port.submit(_shim.Op.FLUSH)]
        while not told:  # noqa: ASYNC110
            await asyncio.sleep(0)
        async with full_event_ring(reactor):
            wanted += [port.submit(_shim.Op.FLUSH) for _ in range(4)]
            for _ in range(10):
                await asyncio.sleep(0)
        wanted.append(port.submit(_shim.Op.FLUSH))
        for _ in range(10):
            await asyncio.sleep(0)
        assert sorted(told) == wanted
        assert overflows == 1
        port.close()


async def test_who_subscribes_late_hears_of_what_was_dropped_before() -> None:
    async with ReactorLoop("test", stepped=True) as reactor:
        port = _shim.IoPort(reactor.shim, _shim.EmulatedMedia.conventional(reactor.shim, 64), 4)
        async with full_event_ring(reactor):
            ticket = port.submit(_shim.Op.FLUSH)
            for _ in range(10):
                await asyncio.sleep(0)
        kinds: list[int] = []
        reactor.subscribe(port.id, lambda event: kinds.append(event.kind))
        assert kinds == [_shim.EventKind.OVERFLOW]
        assert [completion.ticket for completion in port.take_untold()] == [ticket]
        assert port.take_untold() == []
        # What was made later can't have lost anything.
        later = _shim.IoPort(reactor.shim, _shim.EmulatedMedia.conventional(reactor.shim, 64), 4)
        reactor.subscribe(later.id, lambda event: kinds.append(event.kind))
        assert kinds == [_shim.EventKind.OVERFLOW]
        later.close()
        port.close()


async def test_the_end_of_a_load_is_noticed_though_its_event_was_dropped() -> None:
    async with ReactorLoop("test", stepped=True) as reactor:
        media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
        load = _shim.LoadGenerator(reactor.shim, media, lba_count=64, seed=1)
        ended = asyncio.Event()
        reactor.subscribe(load.id, lambda event: ended.set() if load_ended(event, load) else None)
        async with full_event_ring(reactor):
            load.start("write", total_blocks=1 << 40)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not ended.is_set()  # an overflow is no end
        async with full_event_ring(reactor):
            load.stop()
            while load.progress().running:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert ended.is_set()
        load.close()


async def test_tortures_workload_goes_on_though_answers_were_dropped() -> None:
    async with ReactorLoop("test", stepped=True) as reactor:
        media = _shim.EmulatedMedia.conventional(reactor.shim, 64)
        workload = Workload(reactor, media, Model(64), Content(1), random.Random(1))
        async with full_event_ring(reactor):
            workload.write(3, 2)
            workload.flush()
            for _ in range(10):
                await asyncio.sleep(0)
            assert workload.outstanding == 2
        assert workload.outstanding == 0
        assert not workload.failed
        workload.close()
