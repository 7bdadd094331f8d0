"""What zone reports say of zones that nobody writes, and what comes of it."""

from __future__ import annotations

import asyncio
import itertools
import logging

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.gc.zone_watch import CHANGED_PAUSE_S
from spdk_ftl_py.ftl.media import superblock
from spdk_ftl_py.ftl.media.blockdev import ZONES_PER_REPORT, BlockPort
from spdk_ftl_py.ftl.media.zone import Zone
from unit.ftl.ftl_rig import FtlRig

SMALL = {"zones": 2 + 2 * 64 + 1, "zone_size": 64, "zone_capacity": 60, "num_punits": 2}
ROUND_S = 0.5


def closed_band(rig: FtlRig) -> int:
    """The one with the most data."""
    bands = [
        (band.valid, number)
        for number, band in enumerate(rig.device.core.bands())
        if band.state == _shim.BandState.CLOSED
    ]
    return max(bands)[1]


def zone_of(rig: FtlRig, band: int, punit: int = 0) -> int:
    zone = rig.device._bands[band].zones[punit]
    assert zone is not None
    return zone


async def rounds(rig: FtlRig, count: int = 2) -> None:
    """Nothing is written or read meanwhile, but by the device itself."""
    until = rig.device.zone_watch.rounds + count
    await rig.until(lambda: rig.device.zone_watch.rounds >= until)


async def quiet(rig: FtlRig) -> None:
    """Until no band is moved or reset, and no zone replaced."""

    def busy() -> bool:
        states = {band.state for band in rig.device.core.bands()}
        unsettled = {_shim.BandState.MOVING, _shim.BandState.RESETTING, _shim.BandState.FAULTED}
        return bool(states & unsettled) or rig.device._mending.under_way

    for _ in range(50):
        await asyncio.sleep(0.01)
        await rig.until(lambda: not busy())


@pytest.mark.rig(**SMALL)
async def test_a_closed_zone_gone_read_only_is_noticed_and_replaced_though_nobody_writes(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    rig.device.zone_watch.round_s = ROUND_S
    band = closed_band(rig)
    zone = zone_of(rig, band)
    rig.media.set_zone_state(zone, "read_only")
    await rounds(rig)
    await quiet(rig)
    stats = rig.device.stats()
    assert (stats["zone_faults"], stats["lost_blocks"], stats["spare_zones"]) == (1, 0, 0)
    assert rig.device.zone_map.bad_zones == [zone]
    assert zone not in {each for band in rig.device._bands for each in band.zones}
    await rig.verify()
    await rounds(rig, 3)
    assert rig.device.stats()["zone_faults"] == 1, "it is told once"


@pytest.mark.rig(**SMALL)
async def test_what_is_in_force_in_an_offline_zone_is_lost_and_told(
    rig: FtlRig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    rig.device.zone_watch.round_s = ROUND_S
    zone = zone_of(rig, closed_band(rig))
    l2p = rig.device.core.l2p(0, rig.device.block_count)
    inside = [int(lba) for lba in np.flatnonzero(l2p // np.uint64(64) == zone)]
    assert inside
    rig.media.set_zone_state(zone, "offline")
    with caplog.at_level(logging.ERROR):
        await rounds(rig)
        await quiet(rig)
    assert rig.device.lost_blocks == len(inside)
    assert any(f"zone {zone} of band" in text and "offline" in text for text in caplog.messages)
    assert zone not in {each for band in rig.device._bands for each in band.zones}
    with pytest.raises(MediaError):
        await rig.port.read(inside[0], 1)
    await rig.port.write(inside[0], np.full(4096, 7, np.uint8))
    assert (await rig.port.read(inside[0], 1) == 7).all()


@pytest.mark.rig(**SMALL)
async def test_a_zone_that_asks_for_a_reset_gets_one_and_is_not_given_up(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    rig.device.zone_watch.round_s = ROUND_S
    band = closed_band(rig)
    seq = rig.device.core.bands()[band].seq
    rig.media.recommend(zone_of(rig, band, 1), reset=True)
    moves = rig.device.stats()["relocs_started"]
    await rounds(rig)
    await quiet(rig)
    its = rig.device.core.bands()[band]
    assert its.state == _shim.BandState.FREE or its.seq > seq
    assert rig.device.stats()["relocs_started"] == moves + 1
    await rounds(rig, 3)
    await quiet(rig)
    assert rig.device.stats()["relocs_started"] == moves + 1, "the drive asks no more"
    assert (rig.device.zone_map.bad_zones, rig.device.stats()["zone_faults"]) == ([], 0)
    await rig.verify()


@pytest.mark.rig(**SMALL)
async def test_a_zone_that_asks_to_be_finished_is(rig: FtlRig) -> None:
    await rig.overwrite(0.3)
    await rig.port.flush()
    rig.device.zone_watch.round_s = ROUND_S
    zone = next(n for n, (_, state, _) in enumerate(rig.media.zone_states()) if n > 1 and state == "implicitly_open")
    rig.media.recommend(zone, finish=True)
    await rounds(rig)
    assert rig.media.zone_states()[zone][1] == "full"
    await rig.overwrite(2)
    await rig.verify()
    assert (rig.device.zone_map.bad_zones, rig.device.stats()["zone_faults"]) == ([], 0)


@pytest.mark.rig(**SMALL)
async def test_a_spare_zone_that_went_bad_replaces_none(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.device.zone_watch.round_s = ROUND_S
    spare = SMALL["zones"] - 1
    rig.media.set_zone_state(spare, "read_only")
    await rounds(rig)
    assert rig.device.stats()["spare_zones"] == 0
    assert rig.device.zone_map.bad_zones == [spare]
    assert rig.device.zone_map.missing_count == 0


@pytest.mark.rig(**SMALL)
async def test_zones_that_replaced_others_are_watched_as_well(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.device.zone_watch.round_s = ROUND_S
    spare = SMALL["zones"] - 1
    first = zone_of(rig, closed_band(rig))
    rig.media.set_zone_state(first, "read_only")
    await rounds(rig)
    await quiet(rig)
    assert spare in {each for band in rig.device._bands for each in band.zones}
    await rig.overwrite(3)
    rig.media.set_zone_state(spare, "read_only")
    await rounds(rig)
    await rig.overwrite(1)
    await quiet(rig)
    assert rig.device.zone_map.bad_zones == sorted([first, spare])
    assert rig.device.zone_map.missing_count == 1
    await rig.verify()


@pytest.mark.rig(**SMALL)
async def test_reports_come_in_pieces_spread_over_the_round(rig: FtlRig) -> None:
    clock = asyncio.get_running_loop().time
    watch = rig.device.zone_watch
    pieces = -(-SMALL["zones"] // ZONES_PER_REPORT)
    assert pieces > 1
    watch.round_s = ROUND_S
    await rounds(rig, 1)
    seen: list[tuple[float, int]] = []
    begun, before = clock(), watch.zones_seen
    until = watch.rounds + 1
    while watch.rounds < until:
        if not seen or watch.zones_seen - before != seen[-1][1]:
            seen.append((clock() - begun, watch.zones_seen - before))
        await asyncio.sleep(0)
    seen.append((clock() - begun, watch.zones_seen - before))
    steps = [after - at for (_, at), (_, after) in itertools.pairwise(seen)]
    assert max(steps) <= ZONES_PER_REPORT
    assert sum(steps) == SMALL["zones"]
    assert ROUND_S * 0.9 < clock() - begun < ROUND_S * 1.5


@pytest.mark.rig(**SMALL)
async def test_a_round_takes_minutes_unless_the_base_says_what_has_changed(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    watch = rig.device.zone_watch
    assert 60 <= watch.round_s <= 600
    before = watch.zones_seen
    zone = zone_of(rig, closed_band(rig))
    rig.media.set_zone_state(zone, "read_only")
    await asyncio.sleep(5)
    assert watch.zones_seen == before
    rig.device.zones_changed([zone], log_read=True)
    await asyncio.sleep(1)
    assert watch.zones_seen == before + 1
    assert rig.device.stats()["zone_faults"] == 1
    await quiet(rig)
    told = rig.device.stats()["zone_watch"]
    assert told == {
        "rounds": 0,
        "zones_seen": before + 1,
        "events": 1,
        "logs_read": 1,
        "zones_seen_changed": 1,
        "zones_finished": 0,
        "bands_relocated": {"offline": 0, "read_only": 1, "reset_recommended": 0},
    }
    assert {each["name"]: each["value"] for each in rig.device.properties()["properties"]}["zone_watch"] == told
    assert zone not in {each for band in rig.device._bands for each in band.zones}


@pytest.mark.rig(**SMALL)
async def test_what_is_done_for_the_sake_of_zones_is_counted_by_reason(rig: FtlRig) -> None:
    await rig.overwrite(0.9)
    await rig.port.flush()
    bands = [number for number, band in enumerate(rig.device.core.bands()) if band.state == _shim.BandState.CLOSED]
    offline, reset = zone_of(rig, bands[-1]), zone_of(rig, bands[-2])
    finish = next(n for n, (_, state, _) in enumerate(rig.media.zone_states()) if n > 1 and state == "implicitly_open")
    spare = SMALL["zones"] - 1
    rig.media.set_zone_state(offline, "offline")
    rig.media.recommend(reset, reset=True)
    rig.media.recommend(finish, finish=True)
    rig.media.set_zone_state(spare, "read_only")
    rig.device.zones_changed([offline, reset, finish, spare], log_read=True)
    await asyncio.sleep(1)
    await quiet(rig)
    told = rig.device.stats()["zone_watch"]
    assert told["bands_relocated"] == {"offline": 1, "read_only": 0, "reset_recommended": 1}
    assert (told["zones_finished"], told["events"]) == (1, 1)
    rig.device.zones_changed(None, log_read=False)
    await asyncio.sleep(1)
    await quiet(rig)
    again = rig.device.stats()["zone_watch"]
    assert {**again, "zones_seen": 0, "zones_seen_changed": 0, "events": 1} == {
        **told,
        "zones_seen": 0,
        "zones_seen_changed": 0,
    }, "once for each zone"


@pytest.mark.rig(**SMALL)
async def test_a_zone_counts_once_however_often_it_is_looked_at_and_only_where_a_band_is_moved(rig: FtlRig) -> None:
    await rig.overwrite(0.5)
    await rig.port.flush()
    watch = rig.device.zone_watch
    free = next(number for number, band in enumerate(rig.device.core.bands()) if band.state == _shim.BandState.FREE)
    for zone, moved in ((zone_of(rig, free), 0), (zone_of(rig, closed_band(rig)), 1)):
        rig.media.set_zone_state(zone, "offline")
        (its,) = await watch._port.zone_report(zone, 1)
        for _ in range(3):
            watch._judge(its)
        assert watch.stats()["bands_relocated"]["offline"] == moved
    await quiet(rig)
    assert rig.device.stats()["zone_faults"] == 2


@pytest.mark.rig(**SMALL)
async def test_all_zones_are_looked_at_soon_where_any_may_have_changed(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    watch = rig.device.zone_watch
    zone = zone_of(rig, closed_band(rig))
    rig.media.set_zone_state(zone, "read_only")
    before = watch.zones_seen
    rig.device.zones_changed(None, log_read=False)
    await asyncio.sleep(2)
    assert watch.zones_seen_changed == watch.zones_seen - before == SMALL["zones"]
    assert (watch.events, watch.logs_read, rig.device.stats()["zone_faults"]) == (1, 0, 1)
    await quiet(rig)
    await rig.verify()


@pytest.mark.rig(**SMALL)
async def test_a_base_that_says_for_ever_that_all_has_changed_keeps_nobody_busy_nor_stops_the_round(
    rig: FtlRig,
) -> None:
    await rig.overwrite(0.5)
    watch = rig.device.zone_watch
    watch.round_s = 4.0
    await rounds(rig, 1)
    clock = asyncio.get_running_loop().time
    operations, begun, until = rig.media.operations, clock(), watch.rounds + 1
    while watch.rounds < until:
        for zones in (None, range(SMALL["zones"]), [1 << 70, -1, SMALL["zones"]]):
            watch.changed(zones)
        await asyncio.sleep(0.01)
    passed = clock() - begun
    assert passed < watch.round_s * 1.5, "the round goes on"
    regular = -(-SMALL["zones"] // ZONES_PER_REPORT)
    assert rig.media.operations - operations <= passed / CHANGED_PAUSE_S + regular + 2


@pytest.mark.rig(**SMALL)
async def test_zones_that_changed_together_are_looked_at_in_one_report(rig: FtlRig) -> None:
    watch = rig.device.zone_watch
    operations, before = rig.media.operations, watch.zones_seen
    watch.changed([70, 100, 64])
    watch.changed([80])
    watch.changed([])
    watch.changed([SMALL["zones"], -1])
    await asyncio.sleep(1)
    assert rig.media.operations == operations + 1
    assert watch.zones_seen == before + 37, "64 to 100"
    assert watch.events == 4


@pytest.mark.rig(**SMALL)
async def test_what_a_report_leaves_out_is_asked_for_once_more(rig: FtlRig, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = rig.device.zone_watch
    report = watch._port.zone_report
    asked: list[tuple[int, int]] = []

    async def short(first_zone: int, zones_max: int) -> list[Zone]:
        asked.append((first_zone, zones_max))
        return await report(first_zone, min(zones_max, 5))

    monkeypatch.setattr(watch._port, "zone_report", short)
    watch.changed([70, 81])
    await asyncio.sleep(1)
    assert asked == [(70, 12), (75, 7), (80, 2)]
    assert watch.zones_seen_changed == 12


@pytest.mark.rig(**SMALL)
async def test_a_halt_ends_the_watch_also_where_the_base_says_something_in_that_moment(rig: FtlRig) -> None:
    await rig.overwrite(0.2)
    watch = rig.device.zone_watch
    task = watch._task
    assert task is not None
    watch.changed(None)
    watch.stop()
    await rig.close()
    await rig.device.halt()
    assert task.done()
    operations = rig.media.operations
    rig.device.zones_changed(None, log_read=False)
    await asyncio.sleep(1)
    assert rig.media.operations == operations
    assert watch.events == 1, "of a device that is halted nobody wants to know anything"


@pytest.mark.rig(**SMALL)
async def test_a_report_that_fails_costs_nothing_and_a_halted_device_asks_for_none(rig: FtlRig) -> None:
    await rig.overwrite(1)
    watch = rig.device.zone_watch
    watch.round_s = ROUND_S
    fault = rig.media.inject_fault(op=_shim.Op.ZONE_REPORT, status=0x280)
    await rounds(rig, 1)
    rig.media.clear_faults(fault)
    await rounds(rig, 2)
    assert watch.zones_seen > 0
    await rig.close()
    await rig.device.halt()
    operations = rig.media.operations
    await asyncio.sleep(4 * ROUND_S)
    assert rig.media.operations == operations


@pytest.mark.rig(**SMALL)
async def test_zones_that_the_drive_finishes_do_not_wear_the_device_out(rig: FtlRig) -> None:
    """The drive is healthy, and the device was read-only after some hundred of them."""
    await rig.good("write", pattern="sequential", io_blocks=8, queue_depth=8)
    finished = 0
    while finished < 150:
        opened = [n for n, (_, state, _) in enumerate(rig.media.zone_states()) if n > 1 and "open" in state]
        if opened:
            rig.media.set_zone_state(opened[finished % len(opened)], "full")
            finished += 1
        await rig.good("write", total_blocks=300, queue_depth=8)
    stats = rig.device.stats()
    assert stats["state"] == "running"
    assert (rig.device.zone_map.bad_zones, rig.device.zone_map.missing_count, stats["spare_zones"]) == ([], 0, 1)
    assert stats["zone_faults"] == 0
    assert stats["zones_finished_by_base"] > 100
    await rig.verify()


@pytest.mark.rig(**SMALL)
async def test_a_superblock_zone_that_the_drive_finished_is_no_damage(rig: FtlRig) -> None:
    """Nothing was written behind the newest one; a host's finish there would say that something was."""
    await rig.overwrite(1)
    rig.media.set_zone_state(0, "full")
    await rig.device.abort("crash")
    await rig.close()
    port = BlockPort(rig.reactor, rig.media, name="after")
    found = await superblock.find(port, await port.zones(), rig.device.uuid)
    await port.close()
    assert found is not None
    assert found.damage is None
