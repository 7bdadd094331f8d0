"""Zones that are full before their end: loads finish them, and drives do."""

from __future__ import annotations

import random

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.layout import parse_batch_header
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import ZONE_CAPACITY, ZONE_SIZE, MakeRestoreRig, RestoreRig

WRITE_FAULT = 0x280


async def test_a_load_knows_how_far_a_zone_that_is_full_was_written(rig: RestoreRig) -> None:
    """Relocation walked it to its end."""
    drive = rig.base
    await rig.create()
    written: dict[int, int] = {}
    for _ in range(20):
        await rig.traffic(60)
        await rig.flush()
        written = {start: pointer - start for start, state, pointer in drive.zone_states() if "open" in state}
        if len(written) > 2:
            break
    assert len(written) > 2
    await rig.crash()
    await rig.load()
    await rig.crash()
    assert all(state == "full" for start, state, _ in drive.zone_states() if start in written and start > ZONE_SIZE)
    port = BlockPort(rig.reactor, drive, name="base")
    found = await restore(port, rig.device.uuid)
    await port.close()
    for zones, band in zip(found.geometry.bands, found.bands, strict=True):
        for zone, pointer in zip(zones, band.write_pointers, strict=True):
            assert zone is not None
            if (was := written.get(zone * ZONE_SIZE)) is not None:
                assert band.state == "closed"
                assert pointer <= max(was, 1) < ZONE_CAPACITY
    # Whatever is in force stands below it.
    l2p = found.l2p[found.l2p < np.uint64(1 << 62)]
    for address in map(int, l2p):
        number = next(n for n, zones in enumerate(found.geometry.bands) if address // ZONE_SIZE in zones)
        punit = found.geometry.bands[number].index(address // ZONE_SIZE)
        assert address % ZONE_SIZE < found.bands[number].write_pointers[punit]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["halt", "crash"])
async def test_zones_that_the_drive_finished_are_loaded_from(how: str, seed: int, make_rig: MakeRestoreRig) -> None:
    rig = await make_rig(seed=seed)
    drive = rig.base
    await rig.create()
    finished = 0
    for _ in range(12):
        await rig.traffic(150)
        for zone, (_, state, _) in enumerate(drive.zone_states()):
            if ("open" in state or state == "closed") and rig.rng.random() < 0.5:
                drive.set_zone_state(zone, "full")
                finished += 1
        await rig.traffic(30)
        await rig.flush()
        await (rig.halt() if how == "halt" else rig.crash())
        report = await check(rig.reactor, drive, name="base")
        assert report.ok, report.damage
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["damage_count"] == 0
        await rig.check(f"after a {how}")
    assert finished > 5
    assert (rig.device.zone_map.bad_zones, rig.device.zone_map.missing_count) == ([], 0)


async def loaded_though_finishes_fail(rig: RestoreRig, times: int) -> int:
    """The zone whose finish has failed so often in the load."""
    await rig.create()
    await rig.traffic(200)
    await rig.flush()
    await rig.crash()
    zone = next(n for n, (_, state, _) in enumerate(rig.base.zone_states()) if n > 1 and "open" in state)
    rig.base.inject_fault(op=_shim.Op.ZONE_SEND, lba=zone * ZONE_SIZE, block_count=1, status=WRITE_FAULT, times=times)
    await rig.load()
    return zone


@pytest.mark.rig(zones=47)
async def test_a_zone_that_a_load_cant_finish_is_reset_before_others(rig: RestoreRig) -> None:
    """It may stay active, beside those that are meant to be."""
    zone = await loaded_though_finishes_fail(rig, 3)
    band = next(n for n, zones in enumerate(rig.device.geometry.bands) if zone in zones)
    assert rig.device.core.bands()[band].state in (
        _shim.BandState.FAULTED,
        _shim.BandState.MOVING,
        _shim.BandState.RESETTING,
        _shim.BandState.FREE,
    )
    for _ in range(20):
        await rig.traffic(50)
    assert zone not in {each for its in rig.device._bands for each in its.zones}, "a spare replaces it"
    await rig.check("at the end")


async def test_a_zone_that_a_load_can_finish_in_the_end_is_as_good_as_any(rig: RestoreRig) -> None:
    zone = await loaded_though_finishes_fail(rig, 2)
    assert rig.base.zone_states()[zone][1] == "full"
    assert rig.device.stats()["zone_faults"] == 0


async def test_the_tenth_crash_costs_no_more_reads_than_what_was_written(reactor: ReactorLoop) -> None:
    """Each load finishes the zones that were being written, and later loads walk them."""
    capacity = 3000
    drive = _shim.EmulatedMedia.zns(reactor.shim, 66, 4096, capacity, max_open_zones=14, max_active_zones=14)
    meter = _shim.Meter(reactor.shim, drive)
    rig = RestoreRig(reactor, meter, random.Random(3))
    await rig.create(FtlConf())
    device_blocks = rig.device.block_count
    expected: dict[int, bytes] = {}
    most = 0
    for _ in range(10):
        for _ in range(6):
            count = rig.rng.choice((1, 4, 16))
            lba = rig.rng.randrange(device_blocks - count)
            data = [rig.rng.randbytes(4096) for _ in range(count)]
            await rig.port.write(lba, b"".join(data))
            expected |= dict(enumerate(data, lba))
            await rig.port.flush()
        await rig.crash()
        written = sum(min(end - start, capacity) for start, state, end in drive.zone_states() if state != "full")
        before = meter.stats().read
        await rig.load()
        now = meter.stats().read
        reads, blocks = now.operations - before.operations, (now.bytes - before.bytes) // 4096
        full = [start for start, state, _ in drive.zone_states()[2:] if state == "full"]
        most = max(most, len(full))
        assert reads <= 60 * len(full) + written
        assert blocks <= 400 * len(full) + 2 * written
    assert most > 10
    for lba, block in expected.items():
        assert (await rig.port.read(lba, 1)).tobytes() == block
    await rig.end()


async def test_a_check_notices_batches_that_a_load_does_not_find(reactor: ReactorLoop) -> None:
    """Behind hundreds of blocks that read as if they were never written, with headers among them."""
    drive = _shim.EmulatedMedia.zns(reactor.shim, 30, 4096, 3000, max_open_zones=7, max_active_zones=7)
    rig = RestoreRig(reactor, drive, random.Random(3))
    await rig.create(FtlConf(), num_punits=1)
    for lba in range(0, 840, 8):
        await rig.port.write(lba, b"x" * 8 * 4096)
    await rig.port.flush()
    await rig.port.write(900, b"y" * 4096)
    await rig.port.flush()
    await rig.crash()
    start, _, end = next(zone for zone in drive.zone_states()[2:] if zone[1] != "empty")
    port = BlockPort(reactor, drive, name="base")
    blocks = await port.read(start, end - start)
    first = parse_batch_header(blocks[0], rig.device.media_uuid)
    assert first is not None
    blocks[first.block_count : -2] = 0
    await port.zone_action(_shim.ZoneAction.RESET, start)
    for offset in range(0, len(blocks), 128):
        await port.write(start + offset, blocks[offset : offset + 128])
    await port.zone_action(_shim.ZoneAction.FINISH, start)
    await port.close()
    report = await check(reactor, drive, name="base")
    (text,) = report.damage
    assert f"block {end - 2} (band 1): a load does not find this batch" in text
