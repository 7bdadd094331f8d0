"""An FtlDevice whose events were dropped asks for what they told."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.life import FtlState
from support.overflow import full_event_ring
from unit.ftl.ftl_rig import FtlRig

UNRECOVERED_READ = 0x281
INVALID_NAMESPACE = 0x00B
LOST_BLOCKS_MAX = 4096
TURNS = 200


async def test_more_lost_blocks_than_there_is_room_for_reach_the_device_as_an_overflow(rig: FtlRig) -> None:
    heard: list[int] = []
    on_event = rig.device._on_event

    def spy(event: _shim.Event) -> None:
        heard.append(event.kind)
        on_event(event)

    await rig.good("write", pattern="sequential", io_blocks=8, queue_depth=8)
    await rig.port.flush()
    rig.reactor.subscribe(rig.device.core.id, spy)
    drain = rig.reactor._drain
    rig.reactor._drain = lambda: None  # type: ignore[method-assign]
    rig.media.inject_fault(op=_shim.Op.READ, status=UNRECOVERED_READ)
    closed = [number for number, band in enumerate(rig.device.core.bands()) if band.state == _shim.BandState.CLOSED]
    for number in closed:
        with contextlib.suppress(BlockingIOError, ValueError):  # the band manager was there first
            rig.device.core.start_move(number)
        await rig.until(lambda number=number: rig.device.core.bands()[number].state != _shim.BandState.MOVING)
        if rig.device.core.stats().lost_blocks > LOST_BLOCKS_MAX:
            break
    rig.media.clear_faults()
    rig.reactor._drain = drain  # type: ignore[method-assign]
    await rig.until(lambda: bool(heard))
    assert 0 < heard.count(_shim.EventKind.BLOCK_LOST) <= LOST_BLOCKS_MAX < rig.device.lost_blocks
    assert heard.count(_shim.EventKind.OVERFLOW) == 1


async def test_a_drain_ends_though_its_answer_was_dropped(rig: FtlRig) -> None:
    await rig.good("write", total_blocks=100)
    async with full_event_ring(rig.reactor):
        draining = asyncio.ensure_future(rig.device._drains.drain())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert rig.device.core.stats().write_buffer_used == 0
        assert not draining.done()
    assert await draining == 0
    await rig.device.halt()


async def test_a_core_that_failed_is_noticed_though_its_event_was_dropped(rig: FtlRig) -> None:
    await rig.good("write", total_blocks=100)
    async with full_event_ring(rig.reactor):
        rig.media.inject_fault(status=INVALID_NAMESPACE)
        await rig.start("write", total_blocks=100)
        await rig.until(lambda: rig.device.core.failure == INVALID_NAMESPACE)
        assert rig.device.state is FtlState.RUNNING
    assert rig.device.state is FtlState.FAILED
    assert isinstance(rig.device.failure, MediaError)
    assert rig.device.failure.status == INVALID_NAMESPACE


@pytest.mark.rig(zones=40, open_zones=5)
async def test_writes_go_on_though_the_call_for_a_band_was_dropped(rig: FtlRig) -> None:
    async with full_event_ring(rig.reactor):
        await rig.start("write", pattern="sequential", io_blocks=8, total_blocks=3 * rig.device.block_count)
        for _ in range(20 * TURNS):
            await asyncio.sleep(0)
    progress = await rig.finish()
    assert (progress["io_errors"], progress["verify_errors"]) == (0, 0)
    await rig.verify()
