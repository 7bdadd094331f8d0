"""An FtlDevice's life: creation, what it refuses, halt, failure of zones and of the base."""

from __future__ import annotations

import asyncio
import errno
from uuid import UUID, uuid4

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import BusyError, ConfError, FtlError, GeometryError, MediaError, ParameterError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media import superblock
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig

SMALL = {"zones": 66, "zone_size": 64, "zone_capacity": 60}
PATH_ERROR = 0x370
ABORTED = 0x007
WRITE_FAULT = 0x280
UNRECOVERED_READ = 0x281
CAPACITY_EXCEEDED = 0x081


def block(value: int) -> np.ndarray:
    return np.full(4096, value % 251, np.uint8)


# --- creation


@pytest.mark.rig(**SMALL)
async def test_creation_empties_every_zone_and_tells_how_far_it_is(
    reactor: ReactorLoop, media: _shim.EmulatedMedia
) -> None:
    port = BlockPort(reactor, media, name="before")
    for zone in (0, 1, 5, 30, 65):
        await port.write(zone * 64, block(1))
    await port.close()
    told: list[tuple[str, float]] = []
    device = await creation.create(
        reactor, media, name="ftl0", conf=FtlConf(), progress=lambda step, part: told.append((step, part))
    )
    written = [index for index, (_, state, _) in enumerate(media.zone_states()) if state != "empty"]
    assert written == [0]
    assert [part for step, part in told if step == "zone reset"][-1] == 1.0
    assert {step for step, _ in told} == {"zone report", "zone reset", "superblock"}
    await device.halt()


@pytest.mark.rig(**SMALL)
async def test_creation_keeps_the_uuid_it_is_given(reactor: ReactorLoop, media: _shim.EmulatedMedia) -> None:
    uuid = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(), uuid=uuid)
    assert device.uuid == uuid
    await device.halt()
    port = BlockPort(reactor, media, name="after")
    found = await superblock.find(port, await port.zones(), uuid)
    assert found is not None
    assert found[0].clean
    assert found[0].content["name"] == "ftl0"
    await port.close()


@pytest.mark.rig(max_append_blocks=0, **SMALL)
@pytest.mark.parametrize(
    ("conf", "options", "kind", "message"),
    [
        (FtlConf(lba_rsvd=0), {}, ConfError, "lba_rsvd = 0"),
        (FtlConf(lba_rsvd=1), {}, ConfError, "raise lba_rsvd"),
        (FtlConf(), {"num_punits": 60}, GeometryError, "num_punits = 60"),
        (FtlConf(use_append=True), {}, ConfError, "does not support zone append"),
    ],
)
async def test_what_is_refused_leaves_the_media_as_it_was(
    conf: FtlConf,
    options: dict[str, int],
    kind: type[FtlError],
    message: str,
    reactor: ReactorLoop,
    media: _shim.EmulatedMedia,
) -> None:
    port = BlockPort(reactor, media, name="before")
    await port.write(0, block(1))
    await port.write(7 * 64, block(2))
    before = media.zone_states()
    with pytest.raises(kind, match=message):
        await creation.create(reactor, media, name="ftl0", conf=conf, **options)
    assert media.zone_states() == before
    assert (await port.read(7 * 64, 1) == 2).all()
    await port.close()


@pytest.mark.rig(max_append_blocks=1, **SMALL)
async def test_a_base_whose_appends_hold_no_batch_is_refused(reactor: ReactorLoop, media: _shim.EmulatedMedia) -> None:
    with pytest.raises(ConfError, match="takes appends of 1 block, but a batch is one append of at least 2"):
        await creation.create(reactor, media, name="ftl0", conf=FtlConf(use_append=True))


@pytest.mark.rig(**SMALL)
async def test_a_base_without_zones_or_with_small_blocks_is_refused(reactor: ReactorLoop) -> None:
    plain = _shim.EmulatedMedia.conventional(reactor.shim, 4096)
    with pytest.raises(ParameterError, match="--zone-capacity"):
        await creation.create(reactor, plain, name="ftl0", conf=FtlConf())
    small = _shim.EmulatedMedia.zns(reactor.shim, 64, 64, 64, block_bytes=512)
    with pytest.raises(ParameterError, match="512 bytes"):
        await creation.create(reactor, small, name="ftl0", conf=FtlConf())


@pytest.mark.rig(**SMALL)
@pytest.mark.parametrize("op", [_shim.Op.ZONE_REPORT, _shim.Op.ZONE_SEND, _shim.Op.WRITE, _shim.Op.FLUSH])
async def test_a_device_that_fails_during_creation_leaves_nothing_behind(
    op: _shim.Op, reactor: ReactorLoop, media: _shim.EmulatedMedia
) -> None:
    port = BlockPort(reactor, media, name="before")
    await port.write(5 * 64, block(1))
    media.inject_fault(op=op, status=WRITE_FAULT)
    with pytest.raises(MediaError, match="failed"):
        await creation.create(reactor, media, name="ftl0", conf=FtlConf())
    media.clear_faults()
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf())
    await device.halt()
    await port.close()


@pytest.mark.rig(**{**SMALL, "zones": 133})
async def test_zones_that_are_bad_from_the_start_are_left_out(reactor: ReactorLoop, media: _shim.EmulatedMedia) -> None:
    for zone in (5, 6, 40):
        media.set_zone_state(zone, "offline" if zone % 2 else "read_only")
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(), num_punits=2)
    rig = FtlRig(reactor, media, device)
    await rig.overwrite(3)
    await rig.verify()
    assert device.stats()["zone_faults"] == 0
    assert device.geometry.bad_zones == (5, 6, 40)
    await rig.close()
    await device.halt()


# --- halt


@pytest.mark.rig(**SMALL)
async def test_the_second_halt_is_told_that_one_is_under_way(rig: FtlRig) -> None:
    await rig.overwrite(1)
    first = asyncio.ensure_future(rig.device.halt())
    await asyncio.sleep(0)
    with pytest.raises(BusyError) as caught:
        await rig.device.halt()
    assert caught.value.errno == errno.EBUSY
    await first
    assert rig.device.state is FtlState.HALTED
    with pytest.raises(BusyError):
        await rig.device.halt()


@pytest.mark.rig(**SMALL)
async def test_halt_makes_durable_what_was_accepted(rig: FtlRig) -> None:
    await rig.overwrite(0.5)
    # For a second nothing gets to the media: long enough to begin the halt, however slow the machine.
    fault = rig.media.inject_fault(op=_shim.Op.WRITE, latency_us=1_000_000)
    await rig.port.write(3, block(77))
    assert rig.device.core.stats().write_buffer_used > 0
    halting = asyncio.ensure_future(rig.device.halt())
    await asyncio.sleep(0)
    rig.media.clear_faults(fault)
    await halting
    zones = rig.media.zone_states()
    data = np.concatenate([await _read_zone(rig, start, wp) for start, _, wp in zones if wp > start])
    assert (data == 77).all(axis=1).any()


async def _read_zone(rig: FtlRig, start: int, pointer: int) -> np.ndarray:
    port = BlockPort(rig.reactor, rig.media, name="after")
    try:
        return await port.read(start, min(pointer - start, SMALL["zone_capacity"]))
    finally:
        await port.close()


@pytest.mark.rig(**SMALL)
async def test_a_halt_in_the_middle_of_garbage_collection_and_load_is_clean(rig: FtlRig) -> None:
    await rig.overwrite(2)
    await rig.start("write", total_blocks=rig.device.block_count, queue_depth=64)
    await rig.until(lambda: rig.device.stats()["active_relocs"] > 0)
    rig.load.stop()
    await rig.finish()
    await rig.device.halt()
    port = BlockPort(rig.reactor, rig.media, name="after")
    found = await superblock.find(port, await port.zones(), rig.device.uuid)
    assert found is not None
    assert found[0].clean
    await port.close()


# --- zones that fail


@pytest.mark.rig(num_punits=2, **{**SMALL, "zones": 67 + 64})
@pytest.mark.parametrize("state", ["read_only", "offline"])
async def test_a_zone_that_fails_while_written_is_replaced_by_a_spare(state: str, rig: FtlRig) -> None:
    await rig.overwrite(2)
    spares = rig.device.stats()["spare_zones"]
    assert spares == 1
    bad = await _open_zone(rig)
    rig.media.set_zone_state(bad, state)
    if state == "read_only":
        await rig.overwrite(3)
        await rig.verify()
        assert rig.device.stats()["lost_blocks"] == 0
    else:
        await rig.run("write", total_blocks=3 * rig.device.block_count)
    stats = rig.device.stats()
    assert stats["zone_faults"] >= 1
    assert stats["spare_zones"] == 0
    assert stats["state"] == "running"
    assert bad not in {zone for band in rig.device._bands for zone in band.zones}
    await rig.device.halt()
    port = BlockPort(rig.reactor, rig.media, name="after")
    found = await superblock.find(port, await port.zones(), rig.device.uuid)
    assert found is not None
    assert found[0].content["geometry"]["replaced"] == [[bad, 130]]
    assert found[0].content["bad_zones"] == [bad]
    await port.close()


async def _open_zone(rig: FtlRig) -> int:
    """A zone of the band that user data goes to now. Between two bands, waits for the next one."""
    while True:
        for number, band in enumerate(rig.device.core.bands()):
            if band.state == _shim.BandState.OPEN and band.stream == _shim.STREAM_USER:
                zone = rig.device._bands[number].zones[0]
                assert zone is not None
                return zone
        await asyncio.sleep(0.001)


@pytest.mark.rig(**SMALL)
async def test_a_closed_zone_gone_read_only_loses_nothing(rig: FtlRig) -> None:
    await rig.overwrite(1.5)
    closed = [band.index for band in rig.device._bands if band.state == "closed"][:3]
    for index in closed:
        zone = rig.device._bands[index].zones[0]
        assert zone is not None
        rig.media.set_zone_state(zone, "read_only")
    await rig.overwrite(4)
    await rig.verify()
    stats = rig.device.stats()
    assert (stats["lost_blocks"], stats["zone_faults"]) == (0, 3)


@pytest.mark.rig(**SMALL)
async def test_a_write_that_fails_once_is_written_elsewhere(rig: FtlRig) -> None:
    await rig.overwrite(1)
    for skip in (0, 7, 30):
        rig.media.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT, skip=skip, times=1)
        await rig.overwrite(1)
    await rig.verify()
    stats = rig.device.stats()
    assert stats["zone_faults"] == 3
    assert stats["lost_blocks"] == 0


@pytest.mark.rig(**SMALL)
async def test_a_block_that_cant_be_read_is_lost_alone_and_reads_as_an_error(rig: FtlRig) -> None:
    await rig.overwrite(1)
    entries = rig.device.core.l2p(0, rig.device.block_count)
    lba = int(np.flatnonzero(entries < 1 << 40)[5])
    address = int(entries[lba])
    rig.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=UNRECOVERED_READ)
    others = [n for n in range(rig.device.block_count) if n != lba]
    for _ in range(8):
        if rig.device.stats()["lost_blocks"]:
            break
        await asyncio.gather(*(rig.port.write(n, block(n)) for n in others))
    assert rig.device.stats()["lost_blocks"] == 1
    with pytest.raises(MediaError):
        await rig.port.read(lba, 1)
    for n in others[:50]:
        assert (await rig.port.read(n, 1) == block(n)).all()
    await rig.port.write(lba, block(9))
    assert (await rig.port.read(lba, 1) == 9).all()


@pytest.mark.rig(**SMALL)
async def test_a_device_that_loses_too_many_zones_fails_writes_and_goes_on_reading(rig: FtlRig) -> None:
    await rig.overwrite(2)
    before = rig.load.versions().copy()
    for zone in range(20, 50):
        rig.media.set_zone_state(zone, "read_only")
    # The device knows of all of them. If it has found a few, it may be out of bands, too, but a load is worth a try.
    rig.device.zone_watch.changed(None)
    progress = await rig.run("write", total_blocks=20 * rig.device.block_count)
    assert progress["io_errors"] > 0
    assert progress["last_error_status"] == CAPACITY_EXCEEDED
    assert rig.device.state is FtlState.READ_ONLY
    assert rig.device.failure is not None
    assert rig.device.failure.errno == errno.ENOSPC
    assert "can be freed" in rig.device.failure.message
    assert (rig.load.versions() >= before).all()
    read = await rig.run("read", pattern="sequential", io_blocks=4)
    assert read["io_errors"] == 0
    with pytest.raises(FtlError, match="can be freed"):
        await rig.device.halt()


# --- the base fails


@pytest.mark.rig(**SMALL)
async def test_a_base_that_is_gone_fails_every_io_and_says_why(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.start("write", total_blocks=10 * rig.device.block_count)
    await rig.until(lambda: int(str(rig.load.progress().done_blocks)) > 100)
    rig.media.inject_fault(status=PATH_ERROR)
    progress = await rig.finish()
    assert progress["io_errors"] > 0
    assert rig.device.failed.is_set()
    assert rig.device.state is FtlState.FAILED
    assert rig.device.failure is not None
    assert "path error" in rig.device.failure.message
    with pytest.raises(MediaError):
        await rig.port.read(0, 1)
    await rig.device.halt()
    assert rig.device.state is FtlState.HALTED


@pytest.mark.rig(**SMALL)
async def test_abort_ends_a_device_without_another_write(rig: FtlRig) -> None:
    await rig.overwrite(2)
    await rig.device.abort("base bdev removed")
    assert rig.device.state is FtlState.FAILED
    with pytest.raises(MediaError):
        await rig.port.write(0, block(1))
    # What was in flight has landed by now.
    before = rig.media.zone_states()
    for _ in range(10):
        with pytest.raises(MediaError):
            await rig.port.write(0, block(1))
    assert rig.media.zone_states() == before
    await rig.device.abort("again")


@pytest.mark.rig(**SMALL)
async def test_a_base_that_cant_flush_fails_the_device(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.media.inject_fault(op=_shim.Op.FLUSH, status=ABORTED, do_not_retry=True)
    await rig.run("write", total_blocks=5 * rig.device.block_count)
    assert rig.device.failed.is_set()
    assert rig.device.failure is not None
    assert "can't flush" in rig.device.failure.message


@pytest.mark.rig(**SMALL)
async def test_a_flush_that_fails_now_and_then_is_repeated(rig: FtlRig) -> None:
    await rig.overwrite(1)
    for skip in range(0, 50, 10):
        rig.media.inject_fault(op=_shim.Op.FLUSH, status=ABORTED, do_not_retry=True, skip=skip, times=1)
    await rig.overwrite(4)
    await rig.verify()
    assert rig.device.stats()["zone_faults"] == 0


@pytest.mark.rig(**SMALL)
async def test_a_zone_that_cant_be_reset_is_given_up(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.media.inject_fault(op=_shim.Op.ZONE_SEND, lba=10 * 64, block_count=1, status=WRITE_FAULT)
    await rig.overwrite(5)
    await rig.verify()
    stats = rig.device.stats()
    assert stats["zone_faults"] == 1
    assert stats["state"] == "running"
    assert rig.device._bands[8].state == "retired"


@pytest.mark.rig(**SMALL)
async def test_a_zone_that_fails_one_reset_is_used_again_where_there_is_no_spare(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.media.inject_fault(op=_shim.Op.ZONE_SEND, lba=10 * 64, block_count=1, status=WRITE_FAULT, times=1)
    await rig.overwrite(1)
    await rig.until(lambda: rig.device.zone_faults == 1)
    seq = rig.device._bands[8].seq
    await rig.overwrite(4)
    await rig.verify()
    assert rig.device.zone_faults == 1
    assert rig.device.zone_map.bad_zones == []
    assert rig.device._bands[8].zones == [10]
    assert rig.device._bands[8].seq > seq


async def test_a_threaded_reactor_serves_as_well() -> None:
    reactor = ReactorLoop("threaded")
    await reactor.start()
    media = _shim.EmulatedMedia.zns(reactor.shim, 66, 64, 60, max_open_zones=14, max_active_zones=14)
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(), uuid=uuid4())
    rig = FtlRig(reactor, media, device)
    try:
        await asyncio.wait_for(rig.overwrite(4), 60)
        await asyncio.wait_for(rig.verify(), 60)
    finally:
        await rig.close()
        await device.halt()
        await reactor.stop()


async def test_a_setting_that_an_earlier_release_had_is_told_of_and_loaded_without(
    rig: FtlRig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = rig.device._superblock_content()
    content["conf"] |= {"user_io_pool_size": 64, "band_thld": 80}
    monkeypatch.setattr(rig.device, "_superblock_content", lambda: content)
    await rig.device.halt()
    for _ in range(2):
        device = await loading.load(rig.reactor, rig.media, name="ftl0", uuid=rig.device.uuid)
        assert device.conf.band_thld == 80
        await device.halt()
    assert caplog.text.count("ftl0: conf user_io_pool_size of its superblock is ignored") == 1
