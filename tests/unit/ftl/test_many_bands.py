"""An FTL of 65,536 bands: it is made, comes back, and takes a discard of everything, while the event loop turns.

On the real clock, which is what work beside the loop goes by; what is measured is CPU time (support/turn_meter.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.media.band import CLOSED
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import SUPERBLOCK_ZONES
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.turn_meter import turn_meter

pytestmark = pytest.mark.not_sanitized("it measures the event loop, with a shim that is three times slower")

BANDS = 65_536
ZONE_BLOCKS = 32
LONGEST_S = 0.050
CONF = FtlConf(lba_rsvd=50)
ZONES = BANDS + len(SUPERBLOCK_ZONES)


@contextlib.asynccontextmanager
async def stepped_reactor() -> AsyncIterator[ReactorLoop]:
    reactor = ReactorLoop("many bands", stepped=True)
    await reactor.start()
    try:
        yield reactor
    finally:
        await reactor.stop()


async def crashed(device: FtlDevice) -> None:
    await device.abort("crash")
    with contextlib.suppress(FtlError):
        await device.halt()


def zns(reactor: ReactorLoop) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(
        reactor.shim, ZONES, ZONE_BLOCKS, ZONE_BLOCKS, max_open_zones=14, max_active_zones=14, volatile_cache=True
    )


def emulated(reactor: ReactorLoop, base: _shim.EmulatedMedia, state: str) -> _shim.ZonedOverlay:
    return _shim.ZonedOverlay(reactor.shim, base, zone_capacity=ZONE_BLOCKS, initial_state=state)


async def made_and_loaded_twice() -> dict[str, float]:
    longest = {}
    async with stepped_reactor() as reactor, turn_meter() as meter:
        media = zns(reactor)
        meter.restart()
        device = await creation.create(reactor, media, name="ftl0", conf=CONF, num_punits=1)
        longest["create"] = meter.longest_s
        assert device.geometry.band_count == BANDS
        port = BlockPort(reactor, device.core, name="user")
        await port.write(1, bytes([7]) * 4096)
        await port.flush()
        await port.close()
        uuid = device.uuid
        await crashed(device)
        for part in ("load", "load from the checkpoint"):
            meter.restart()
            began = time.process_time()
            device = await loading.load(reactor, media, name="ftl0", uuid=uuid)
            longest[part] = meter.longest_s
            assert time.process_time() - began < 20
            assert device.stats()["free_bands"] >= BANDS - 3
            port = BlockPort(reactor, device.core, name="user")
            assert (await port.read(1, 1))[0, 0] == 7
            await port.close()
            assert device.restored is not None
            assert device.restored["from_checkpoint"] == (part != "load")
            # With a checkpoint the next time.
            meter.restart()
            await device.halt()
            longest[f"halt behind the {part}"] = meter.longest_s
    return longest


async def assert_the_loop_turns(run: Callable[[], Awaitable[dict[str, float]]]) -> None:
    """run() gives the longest gap between two turns of the loop, in s, of each part. Three times at most: where other
    processes keep the loop's thread from a core, work beside it counts as well."""
    best: dict[str, float] = {}
    for _ in range(3):
        for part, longest_s in (await run()).items():
            best[part] = min(longest_s, best.get(part, longest_s))
        if max(best.values()) < LONGEST_S:
            break
    assert max(best.values()) < LONGEST_S, best


async def test_65536_bands_are_made_and_come_back_and_the_loop_turns() -> None:
    await assert_the_loop_turns(made_and_loaded_twice)


async def test_a_discard_of_everything_resets_very_many_bands_and_the_loop_turns() -> None:
    await assert_the_loop_turns(discarded)


async def test_emulated_zones_that_were_never_written_cost_a_load_one_read_each() -> None:
    await assert_the_loop_turns(emulated_and_never_written)


async def discarded() -> dict[str, float]:
    async with stepped_reactor() as reactor, turn_meter() as meter:
        # What is written is not kept: it is never read here.
        null = _shim.EmulatedMedia.null(reactor.shim, ZONES * ZONE_BLOCKS)
        base = emulated(reactor, null, "empty")
        device = await creation.create(reactor, base, name="ftl0", conf=CONF, num_punits=1, no_data=True)
        load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1)
        load.start("write", pattern="sequential", total_blocks=device.block_count, io_blocks=32, queue_depth=32)
        while load.progress().running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert load.progress().io_errors == 0
        load.close()
        assert device.stats()["bands"]["closed"] > BANDS // 3
        assert device.stats()["relocs_started"] == 0
        resets = device.stats()["zone_resets"]
        port = BlockPort(reactor, device.core, name="user")
        meter.restart()
        await port.deallocate(0, device.block_count)
        await port.flush()
        while device.stats()["free_bands"] < BANDS - 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
        longest = {"discard": meter.longest_s}
        assert device.stats()["zone_resets"] - resets > BANDS // 3
        await port.close()
        await device.abort("no_data keeps nothing")
        with contextlib.suppress(FtlError):
            await device.halt()
    return longest


async def emulated_and_never_written() -> dict[str, float]:
    zone_blocks = 64
    async with stepped_reactor() as reactor, turn_meter() as meter:
        base = _shim.EmulatedMedia.conventional(reactor.shim, ZONES * zone_blocks, volatile_cache=True)
        overlay = _shim.ZonedOverlay(reactor.shim, base, zone_capacity=zone_blocks)
        device = await creation.create(reactor, overlay, name="ftl0", conf=FtlConf(), num_punits=1)
        assert device.geometry.band_count == BANDS
        port = BlockPort(reactor, device.core, name="user")
        await port.write(1, bytes([7]) * 4096)
        await port.flush()
        await port.close()
        await crashed(device)
        meter.restart()
        before = base.operations
        overlay = _shim.ZonedOverlay(reactor.shim, base, zone_capacity=zone_blocks, initial_state="full")
        device = await loading.load(reactor, overlay, name="ftl0", uuid=device.uuid)
        assert base.operations - before < ZONES + ZONES // 100
        port = BlockPort(reactor, device.core, name="user")
        assert (await port.read(1, 1))[0, 0] == 7
        # All of its bands look written, and are reset.
        while device.stats()["free_bands"] < device.geometry.band_count - 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
        longest = {"load": meter.longest_s}
        await port.close()
        await device.halt()
    return longest


async def test_an_emulated_zone_that_has_lost_its_first_block_is_known_by_its_summary() -> None:
    zone_blocks = 64
    async with stepped_reactor() as reactor:
        base = _shim.EmulatedMedia.conventional(reactor.shim, 66 * zone_blocks)
        overlay = _shim.ZonedOverlay(reactor.shim, base, zone_capacity=zone_blocks)
        device = await creation.create(reactor, overlay, name="ftl0", conf=FtlConf(), num_punits=1)
        port = BlockPort(reactor, device.core, name="user")
        for lba in range(zone_blocks):
            await port.write(lba, bytes([lba + 1]) * 4096)
        await port.flush()
        await port.close()
        first = next(band for band in device._bands.in_state(CLOSED) if band.valid)
        start = device.geometry.zone_start(first.zones[0] or 0)
        await crashed(device)
        port = BlockPort(reactor, base, name="base")
        await port.write(start, bytes(4096))
        await port.close()
        overlay = _shim.ZonedOverlay(reactor.shim, base, zone_capacity=zone_blocks, initial_state="full")
        device = await loading.load(reactor, overlay, name="ftl0", uuid=device.uuid)
        port = BlockPort(reactor, device.core, name="user")
        assert [int(block[0]) for block in await port.read(0, zone_blocks)] == [*range(1, zone_blocks + 1)]
        await port.close()
        await device.halt()


@pytest.mark.parametrize("events", [1, 500])
async def test_however_many_events_come_one_decision_is_made(monkeypatch: pytest.MonkeyPatch, events: int) -> None:
    async with stepped_reactor() as reactor:
        media = _shim.EmulatedMedia.zns(reactor.shim, 66, 64, 60, max_open_zones=14, max_active_zones=14)
        device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(), num_punits=1)
        manager = device._manager
        decisions = 0
        watch = manager._watch

        def counted() -> None:
            nonlocal decisions
            decisions += 1
            watch()

        monkeypatch.setattr(manager, "_watch", counted)
        for _ in range(events):
            event: Any = SimpleNamespace(kind=_shim.EventKind.BAND_CLOSED, band=0)
            device._on_event(event)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert decisions == 1
        await device.halt()
