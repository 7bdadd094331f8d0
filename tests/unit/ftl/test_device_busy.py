"""An FtlDevice and a base that is busy for a while: a pause, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FlushDoubtError, MediaError
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig, MakeFtlRig

INTERNAL_ERROR = 0x006
NOT_READY = 0x082
WRITE_FAULT = 0x280
UNRECOVERED_READ = 0x281
PUNITS = 4
GC_IS_BUSY = 500
"""Blocks moved, from which on garbage collection is certainly at work."""


async def with_gc_at_work(rig: FtlRig) -> None:
    rig.media.inject_fault(latency_us=100)
    await rig.good("write", pattern="sequential", io_blocks=8, queue_depth=8)
    await rig.start("write", total_blocks=3 * rig.device.block_count, queue_depth=32)
    await rig.until(lambda: rig.device.core.stats().reloc_moved_blocks > GC_IS_BUSY)


def nothing_was_given_up(rig: FtlRig) -> None:
    device = rig.device
    assert device.core.stats().busy_answers > 0
    assert (device.state, device.failure) == (FtlState.RUNNING, None)
    assert (device.lost_blocks, device.zone_faults, device.zone_map.missing_count) == (0, 0, 0)


@pytest.mark.parametrize("status", [NOT_READY, INTERNAL_ERROR], ids=hex)
@pytest.mark.rig(zones=66, zone_size=256, zone_capacity=200)
async def test_what_garbage_collection_can_not_read_for_a_moment_is_not_lost(rig: FtlRig, status: int) -> None:
    await with_gc_at_work(rig)
    fault = rig.media.inject_fault(op=_shim.Op.READ, status=status)
    await asyncio.sleep(0.02)
    rig.media.clear_faults(fault)
    progress = await rig.finish()
    assert progress["io_errors"] == 0
    await rig.verify()
    nothing_was_given_up(rig)


@pytest.mark.parametrize("seconds", [0.005, 0.02, 0.1, 8.0, 30.0])
async def test_a_base_that_takes_no_write_for_a_while_costs_no_zone(make_rig: MakeFtlRig, seconds: float) -> None:
    rig = await make_rig(zones=2 + 66 * PUNITS, num_punits=PUNITS)
    await with_gc_at_work(rig)
    fault = rig.media.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR)
    await asyncio.sleep(seconds)
    rig.media.clear_faults(fault)
    progress = await rig.finish()
    assert progress["io_errors"] == 0
    await rig.verify()
    nothing_was_given_up(rig)


async def test_a_halt_waits_for_a_base_that_is_busy(rig: FtlRig) -> None:
    await rig.good("write", total_blocks=100)
    fault = rig.media.inject_fault(status=NOT_READY)
    asyncio.get_running_loop().call_later(5.0, rig.media.clear_faults, fault)
    await rig.device.halt()
    assert (rig.device.state, rig.device.failure) == (FtlState.HALTED, None)


# --- the control path


async def test_the_control_path_asks_a_busy_device_again(reactor: ReactorLoop, media: _shim.EmulatedMedia) -> None:
    port = BlockPort(reactor, media, name="base")
    media.inject_fault(status=NOT_READY, times=3)
    await port.zone_action(_shim.ZoneAction.RESET, 0)
    assert media.operations == 4
    await port.close()


async def test_the_control_path_gives_a_busy_device_up_after_a_minute_and_then_sooner(
    reactor: ReactorLoop, media: _shim.EmulatedMedia
) -> None:
    port = BlockPort(reactor, media, name="base")
    clock = asyncio.get_running_loop().time
    fault = media.inject_fault(lba=0, block_count=1, status=INTERNAL_ERROR)
    for least in (60, 1, 1):
        began = clock()
        with pytest.raises(MediaError) as raised:
            await port.read(0, 1)
        assert raised.value.status == INTERNAL_ERROR
        assert least <= clock() - began < least + 0.2
    media.clear_faults(fault)
    media.inject_fault(status=INTERNAL_ERROR, times=1)
    await port.read(0, 1)
    began = clock()
    media.inject_fault(lba=0, block_count=1, status=INTERNAL_ERROR)
    with pytest.raises(MediaError):
        await port.read(0, 1)
    assert clock() - began >= 60, "it has answered meanwhile"
    await port.close()


async def test_a_device_that_reads_nothing_is_gone_and_no_block_of_it_bad(
    reactor: ReactorLoop, media: _shim.EmulatedMedia
) -> None:
    port = BlockPort(reactor, media, name="base")
    media.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR)
    with pytest.raises(MediaError, match=r"internal error.*like all reads") as raised:
        await port.read_what_can_be(media.zone_size, 8)
    assert _shim.base_gone(raised.value.status)
    await port.close()


@pytest.mark.parametrize("status", [0x1BD, 0x1BE], ids=hex)
async def test_too_many_zones_are_not_waited_for_long(
    reactor: ReactorLoop, media: _shim.EmulatedMedia, status: int
) -> None:
    port = BlockPort(reactor, media, name="base")
    clock = asyncio.get_running_loop().time
    media.inject_fault(op=_shim.Op.WRITE, status=status)
    for _ in range(2):
        began = clock()
        with pytest.raises(MediaError):
            await port.write(0, bytes(4096))
        assert 1 <= clock() - began < 1.2
    await port.close()


async def test_a_device_that_was_busy_has_time_to_make_room_for_a_zone(
    reactor: ReactorLoop, media: _shim.EmulatedMedia
) -> None:
    port = BlockPort(reactor, media, name="base")
    media.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR)
    write = asyncio.ensure_future(port.write(0, bytes(4096)))
    await asyncio.sleep(2)
    media.clear_faults()
    media.inject_fault(op=_shim.Op.WRITE, status=0x1BD)
    await asyncio.sleep(0.5)
    media.clear_faults()
    await write
    await port.close()


async def test_a_flush_in_doubt_is_not_repeated(reactor: ReactorLoop, media: _shim.EmulatedMedia) -> None:
    port = BlockPort(reactor, media, name="base")
    media.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR, times=1)
    with pytest.raises(FlushDoubtError, match=r"flush failed: internal error.* may be lost") as raised:
        await port.flush()
    assert raised.value.status == INTERNAL_ERROR
    assert media.operations == 1
    await port.close()


@pytest.mark.parametrize("op", [_shim.Op.WRITE, _shim.Op.FLUSH, _shim.Op.ZONE_SEND, _shim.Op.ZONE_REPORT])
async def test_a_creation_on_a_base_that_stays_busy_is_refused_soon(
    reactor: ReactorLoop, media: _shim.EmulatedMedia, op: _shim.Op
) -> None:
    """Somebody waits for it."""
    if op == _shim.Op.ZONE_SEND:
        port = BlockPort(reactor, media, name="base")
        await port.write(4 * media.zone_size, bytes(4096))
        await port.close()
    media.inject_fault(op=op, status=INTERNAL_ERROR)
    began = asyncio.get_running_loop().time()
    with pytest.raises(MediaError, match="internal error"):
        await creation.create(reactor, media, name="ftl0", conf=FtlConf())
    assert asyncio.get_running_loop().time() - began < 2.5


@pytest.mark.parametrize(("status", "do_not_retry"), [(WRITE_FAULT, False), (INTERNAL_ERROR, True), (NOT_READY, True)])
async def test_the_control_path_does_not_repeat_what_is_refused_for_good(
    reactor: ReactorLoop, media: _shim.EmulatedMedia, status: int, do_not_retry: bool
) -> None:
    port = BlockPort(reactor, media, name="base")
    media.inject_fault(status=status, do_not_retry=do_not_retry, times=1)
    with pytest.raises(MediaError) as raised:
        await port.flush()
    assert raised.value.status == status
    assert media.operations == 1
    await port.close()


@pytest.mark.parametrize("block_count", [1, 8])
async def test_what_can_not_be_read_once_is_read_again_later(
    reactor: ReactorLoop, media: _shim.EmulatedMedia, block_count: int
) -> None:
    port = BlockPort(reactor, media, name="base")
    await port.write(0, bytes([7]) * 4096 * 8)
    media.inject_fault(op=_shim.Op.READ, lba=0, block_count=1, status=UNRECOVERED_READ, times=1)
    began = asyncio.get_running_loop().time()
    blocks, readable = await port.read_what_can_be(0, block_count)
    assert asyncio.get_running_loop().time() - began >= 0.01
    assert readable.all()
    assert (blocks == 7).all()
    media.inject_fault(op=_shim.Op.READ, lba=0, block_count=1, status=UNRECOVERED_READ, times=2)
    blocks, readable = await port.read_what_can_be(0, block_count)
    assert list(readable) == [False] + [True] * (block_count - 1)
    assert not blocks[0].any()
    await port.close()


def test_a_base_that_stays_busy_is_gone_unless_it_may_be_a_block() -> None:
    assert all(_shim.base_gone(status) for status in (NOT_READY, 0x370, 0x005, 0x00B, 0x008))
    assert not any(_shim.base_gone(status) for status in (0, INTERNAL_ERROR, WRITE_FAULT, UNRECOVERED_READ, 0x1BA))
