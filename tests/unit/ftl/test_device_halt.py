"""Halting ends, one way or the other."""

from __future__ import annotations

import asyncio
import functools
from types import SimpleNamespace
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.load import checkpoint
from spdk_ftl_py.ftl.media.band import FREE
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.wire import Status
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig, ftl_rig

INTERNAL_ERROR = 0x006
INVALID_NAMESPACE = 0x00B
WRITERS = 8


async def test_halting_ends_with_an_error_where_the_base_can_not_flush_any_more(rig: FtlRig) -> None:
    await rig.good("write", total_blocks=10)
    rig.media.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR)
    with pytest.raises(
        MediaError, match=r"can't flush \(internal error.*: data in its volatile cache may be lost"
    ) as raised:
        await rig.device.halt()
    assert raised.value.status == INTERNAL_ERROR
    assert rig.device.state is FtlState.HALTED


async def test_halting_ends_where_the_base_was_deleted_and_nothing_has_been_written_since(rig: FtlRig) -> None:
    rig.media.inject_fault(status=INVALID_NAMESPACE)
    with pytest.raises(MediaError, match="the base device failed: invalid namespace"):
        await rig.device.halt()
    assert rig.device.state is FtlState.HALTED


async def test_a_halt_that_waits_for_a_base_that_does_not_answer_holds_up_nobody_else(rig: FtlRig) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.1)
            ticks += 1

    rig.media.inject_fault(op=_shim.Op.WRITE, latency_us=20_000_000)
    await rig.start("write", total_blocks=200)
    await asyncio.sleep(0.1)
    await rig.device.abort("gone")
    ticking = asyncio.ensure_future(tick())
    with pytest.raises(MediaError, match="has not answered for 10 s"):
        await rig.device.halt()
    ticking.cancel()
    assert rig.device.state is FtlState.HALTED
    assert ticks > 50
    await rig.until(rig.device.core.begin_close)


async def test_a_base_that_was_deleted_is_no_matter_of_its_zones(rig: FtlRig) -> None:
    rig.media.inject_fault(status=INVALID_NAMESPACE)
    progress = await rig.run("write", total_blocks=2000)
    assert progress["io_errors"] > 0
    await rig.until(rig.device.failed.is_set)
    assert rig.device.failure is not None
    assert "the base device failed: invalid namespace" in rig.device.failure.message
    assert rig.device.zone_faults == 0


async def test_a_reset_whose_failure_is_told_late_makes_no_checkpoint_stale(
    monkeypatch: pytest.MonkeyPatch, rig: FtlRig
) -> None:
    await rig.good("write", total_blocks=10)
    band = next(band for band in rig.device._bands if band.state == FREE)
    write = checkpoint.write

    async def told_meanwhile(*args: Any, **options: Any) -> Any:
        # The core was closed with this event still on its way.
        rig.device._bands._add_bad(band.index, {0})
        event: Any = SimpleNamespace(kind=_shim.EventKind.BAND_RESET_DONE, band=band.index, status=0, failed_punit=0)
        rig.device._on_event(event)
        return await write(*args, **options)

    monkeypatch.setattr(checkpoint, "write", told_meanwhile)
    await rig.device.halt()
    device = await loading.load(rig.reactor, rig.media, name="ftl0", uuid=rig.device.uuid)
    assert device.restored is not None
    assert (device.restored["clean"], device.restored["from_checkpoint"]) == (True, True)
    await device.halt()


async def test_what_is_acknowledged_while_the_device_is_halted_is_there_after_the_load(rig: FtlRig) -> None:
    acknowledged: dict[int, bytes] = {}
    refused: set[int] = set()

    async def write(first: int) -> None:
        lba = first
        while lba < rig.device.block_count:
            data = lba.to_bytes(8, "little") * 512
            try:
                await rig.port.write(lba, data)
            except MediaError as error:
                refused.add(error.status)
                return
            acknowledged[lba] = data
            lba += WRITERS

    writers = [asyncio.ensure_future(write(first)) for first in range(WRITERS)]
    await rig.until(lambda: len(acknowledged) > 50)
    before = len(acknowledged)
    await rig.device.halt()
    await asyncio.gather(*writers)
    assert refused == {Status.NAMESPACE_NOT_READY}
    assert before <= len(acknowledged) < rig.device.block_count
    device = await loading.load(rig.reactor, rig.media, name="ftl0", uuid=rig.device.uuid)
    port = BlockPort(rig.reactor, device.core, name="again")
    missing = [lba for lba, data in acknowledged.items() if (await port.read(lba, 1)).tobytes() != data]
    await port.close()
    await device.halt()
    assert missing == []


async def test_a_trim_that_is_not_applied_when_the_halt_begins_is_whole_after_the_load(
    reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = functools.partial(_shim.CoreConfig, trim_chunk=8, trim_step=0)
    monkeypatch.setattr(_shim, "CoreConfig", late)
    async with ftl_rig(reactor, zones=70, zone_size=1024, zone_capacity=1000) as rig:
        for lba in range(64):
            await rig.port.write(lba, b"x" * 4096)
        await rig.port.flush()
        await rig.port.deallocate(2, 60)
        assert sum(band.valid for band in rig.device.core.bands()) > 50, "not applied"
        await rig.device.halt()
        device = await loading.load(reactor, rig.media, name="ftl0", uuid=rig.device.uuid)
        port = BlockPort(reactor, device.core, name="again")
        read = await port.read(0, 64)
        assert [bool(block.any()) for block in read] == [True] * 2 + [False] * 60 + [True] * 2
        await port.close()
        await device.halt()
