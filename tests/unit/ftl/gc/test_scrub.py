"""Everything in force is read and verified in time, whatever crashes and loads come between; what is bad is mended."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import BusyError, MediaError, ParameterError
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.gc import scrub as scrub_module
from spdk_ftl_py.ftl.gc import scrub_round
from spdk_ftl_py.ftl.gc.scrub import SAVE_S
from spdk_ftl_py.ftl.gc.scrub_round import DAY_S, Round
from spdk_ftl_py.ftl.media import superblock
from spdk_ftl_py.ftl.media.band import BAND_ROW
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig, zns_drive
from unit.ftl.load.restore_rig import CONF, MakeRestoreRig, RestoreRig, restore_rig
from unit.shim.ftl.core_bench import content

UNRECOVERED_READ = 0x281
ABORTED = 0x007
BEGAN_S = 1_800_000_000
SMALL = {"zones": 42, "zone_size": 64, "zone_capacity": 60}
STEPS_MAX = 400_000

Rig = FtlRig | RestoreRig


class WallClock:
    """Days go by as fast as the test wants."""

    def __init__(self, per_s: float = 1.0) -> None:
        self.per_s = per_s
        self.offset_s = float(BEGAN_S)

    def __call__(self) -> float:
        return self.offset_s + asyncio.get_running_loop().time() * self.per_s


@pytest.fixture
def make_restore_rig(reactor: ReactorLoop, rigs: AsyncExitStack) -> MakeRestoreRig:
    return lambda **options: rigs.enter_async_context(restore_rig(reactor, **options))


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """Of every device that the test makes, from its first second on."""
    wall = WallClock()
    monkeypatch.setattr(scrub_module.time, "time", wall)
    return wall


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(STEPS_MAX):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come about")


async def scrubbed(rig: Rig) -> dict[str, Any]:
    """What a round that is ordered now finds."""
    rounds = rig.device.scrub.rounds
    rig.device.order_scrub()
    await until(lambda: rig.device.scrub.rounds > rounds)
    last = rig.device.scrub.status()["last"]
    assert isinstance(last, dict)
    return last


def on_media(rig: Rig) -> dict[int, int]:
    """Address by LBA."""
    entries = rig.device.core.l2p(0, rig.device.block_count)
    return {lba: int(entry) for lba, entry in enumerate(entries) if entry < _shim.SLOT_FLAG}


def is_closed(rig: Rig, address: int) -> bool:
    """Whether its band is."""
    place = rig.device._bands.at(address // rig.device.geometry.zone_size)
    return place is not None and rig.device.core.bands()[place[0].index].state == _shim.BandState.CLOSED


def closed_lba(rig: Rig) -> tuple[int, int]:
    """And its address: data in a band that is closed."""
    return next((lba, address) for lba, address in on_media(rig).items() if is_closed(rig, address))


async def quiet(rig: Rig) -> None:
    """Until no band is moved or reset."""
    unsettled = {_shim.BandState.MOVING, _shim.BandState.RESETTING, _shim.BandState.FAULTED}
    for _ in range(50):
        await asyncio.sleep(0.01)
        await until(lambda: not {band.state for band in rig.device.core.bands()} & unsettled)


# --- a round


@pytest.mark.rig(**SMALL)
async def test_on_order_all_that_is_on_media_is_read_and_nothing_is_found(rig: FtlRig) -> None:
    await rig.overwrite(1.5)
    await rig.port.flush()
    await quiet(rig)
    count = len(on_media(rig))
    last = await scrubbed(rig)
    assert last["read_blocks"] == count > rig.device.block_count // 2
    assert (last["bad_blocks"], last["bad_metadata"], last["slow_bands"], last["relocated_bands"]) == (0, 0, 0, 0)
    assert (last["ordered"], last["round"]) == (True, 1)
    assert rig.device.stats()["unreadable_bands"] == 0
    assert rig.device.scrub.status()["state"] == "waiting"


@pytest.mark.rig(**SMALL)
async def test_rot_that_no_host_reads_is_found_told_and_its_band_moved(
    rig: FtlRig, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    for _ in range(4):
        await rig.overwrite(0.01)  # so that the write buffer has others
    lba, address = closed_lba(rig)
    rig.media.rot(address, 999)
    rig.device.scrub.clock = WallClock()
    last = await scrubbed(rig)
    await quiet(rig)
    assert (last["bad_blocks"], last["relocated_bands"]) == (1, 1)
    assert f"block {address} (band" in caplog.text
    stats = rig.device.stats()
    assert (stats["unreadable_bands"], stats["lost_blocks"]) == (1, 1), "the move has declared it lost, not the scrub"
    with pytest.raises(MediaError):
        await rig.port.read(lba, 1)
    assert (await scrubbed(rig))["bad_blocks"] == 0, "its LBA has no block any more"


@pytest.mark.rig(**SMALL)
async def test_what_the_write_buffer_still_has_is_mended_by_the_move(rig: FtlRig) -> None:
    lba = 0
    while True:
        await rig.port.write(lba + 1, content(lba + 1, 7), fua=True)
        address = on_media(rig).get(lba)
        if address is not None and is_closed(rig, address):
            break
        lba += 1
    rig.media.rot(address, 5)
    assert (await scrubbed(rig))["bad_blocks"] == 1
    await quiet(rig)
    stats = rig.device.stats()
    assert (stats["lost_blocks"], stats["reads_rescued"]) == (0, 1)
    assert (await rig.port.read(lba, 1)).tobytes() == content(lba, 7)


@pytest.mark.rig(**SMALL)
async def test_data_in_bands_that_are_being_written_are_read_too(rig: FtlRig) -> None:
    await rig.good("write", pattern="sequential", total_blocks=20)
    await rig.port.flush()
    await rig.until(lambda: len(on_media(rig)) >= 20)
    assert (await scrubbed(rig))["read_blocks"] == len(on_media(rig))
    address = on_media(rig)[7]
    rig.media.rot(address, 1)
    assert (await scrubbed(rig))["bad_blocks"] == 1


@pytest.mark.rig(**SMALL)
async def test_ordered_twice_it_is_done_once_and_a_stop_ends_the_hurry(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.media.inject_fault(op=_shim.Op.READ, latency_us=2000)
    assert rig.device.order_scrub()["round"] == rig.device.order_scrub()["round"] == 1
    told = rig.device.order_scrub(stop=True)
    assert (told["state"], told["ordered"], told["round"]) == ("running", False, 1)
    await asyncio.sleep(0.5)
    assert rig.device.scrub.status()["rate_blocks_per_s"] == scrub_round.FLOOR_BLOCKS_PER_S
    rig.media.clear_faults()
    assert rig.device.order_scrub()["round"] == 2, "an order reads everything, also what was read by now"
    await until(lambda: rig.device.scrub.rounds == 1)
    last = rig.device.scrub.status()["last"]
    assert last["round"] == 2
    assert last["read_blocks"] >= len(on_media(rig)) * 0.99


@pytest.mark.rig(**SMALL, conf=FtlConf(scrub_days=0))
async def test_switched_off_it_runs_on_order_only(rig: FtlRig, wall: WallClock) -> None:
    await rig.overwrite(1)
    wall.offset_s += 1000 * DAY_S
    await asyncio.sleep(15)
    assert rig.device.scrub.status()["state"] == "off"
    assert (await scrubbed(rig))["read_blocks"] > 0
    rig.media.inject_fault(op=_shim.Op.READ, latency_us=2000)
    rig.device.order_scrub()
    await asyncio.sleep(0.01)
    rig.device.order_scrub(stop=True)
    await asyncio.sleep(0.1)
    assert rig.device.scrub.status()["state"] == "off"
    assert rig.device.scrub.rounds == 1


@pytest.mark.rig(**SMALL)
async def test_a_busy_base_is_waited_for_and_nothing_is_found(rig: FtlRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_module, "BUSY_PAUSE_S", 0.1)
    await rig.overwrite(1)
    await rig.port.flush()
    await until(lambda: rig.device.stats()["active_relocs"] == 0)
    fault = rig.media.inject_fault(op=_shim.Op.READ, status=ABORTED)
    rig.device.order_scrub()
    await asyncio.sleep(70)
    assert rig.device.core.scrub_status().end == _shim.ScrubEnd.BUSY
    assert rig.device.scrub.rounds == 0
    rig.media.clear_faults(fault)
    await until(lambda: rig.device.scrub.rounds == 1)
    last = rig.device.scrub.status()["last"]
    assert (last["bad_blocks"], last["bad_metadata"]) == (0, 0)
    assert last["read_blocks"] >= len(on_media(rig)) * 0.99
    assert rig.device.failure is None


@pytest.mark.rig(**SMALL)
async def test_a_block_that_the_base_says_for_ever_to_be_busy_for_ends_no_scrub(rig: FtlRig) -> None:
    await rig.overwrite(1)
    await rig.port.flush()
    for _ in range(4):
        await rig.overwrite(0.01)
    _, address = closed_lba(rig)
    rig.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=ABORTED)
    rig.device.order_scrub()
    await asyncio.sleep(70)
    await until(lambda: rig.device.scrub.rounds == 1)
    last = rig.device.scrub.status()["last"]
    assert (last["bad_blocks"], last["relocated_bands"], last["unread_bands"]) == (1, 1, 0)
    assert rig.device.failure is None


@pytest.mark.rig(**SMALL)
async def test_bands_that_are_slow_to_read_are_moved_but_never_more_than_a_few_in_a_round(
    rig: FtlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "SLOW_BANDS_MAX", 2)
    await rig.overwrite(1)
    await rig.port.flush()
    moved = rig.device.stats()["relocs_started"]
    first = rig.device.geometry.zone_size * 2
    blocks = rig.media.block_count - first
    rig.media.inject_fault(op=_shim.Op.READ, lba=first, block_count=blocks, latency_us=1_100_000)
    rounds = rig.device.scrub.rounds
    rig.device.order_scrub()
    await until(lambda: rig.device.scrub.status()["slow_bands"] >= 5)
    rig.media.clear_faults()
    await until(lambda: rig.device.scrub.rounds > rounds)
    await quiet(rig)
    last = rig.device.scrub.status()["last"]
    assert last["slow_bands"] >= 5
    assert last["relocated_bands"] == 2
    assert rig.device.stats()["relocs_started"] - moved == 2
    assert last["bad_blocks"] == 0
    await rig.verify()


async def test_with_no_data_there_is_nothing_to_scrub(reactor: ReactorLoop) -> None:
    device = await creation.create(
        reactor, zns_drive(reactor, **SMALL), name="ftl0", conf=FtlConf(), num_punits=1, no_data=True
    )
    with pytest.raises(ParameterError, match="no_data"):
        device.order_scrub()
    assert device.scrub.status()["state"] == "off"
    await device.halt()
    with pytest.raises(BusyError if not device.no_data else ParameterError):
        device.order_scrub()


@pytest.mark.rig(**SMALL)
async def test_a_device_that_is_halted_or_has_failed_refuses_the_order_and_a_read_only_one_takes_it(
    rig: FtlRig,
) -> None:
    await rig.overwrite(1)
    rig.device.failing.out_of_space("no free band is left")
    assert rig.device.state.value == "read_only"
    rig.device._manager.stop()  # there are free bands, unlike where it comes to that
    rig.media.rot(closed_lba(rig)[1], 1)
    assert (await scrubbed(rig))["bad_blocks"] == 1
    last = await scrubbed(rig)
    assert last["bad_blocks"] == 1, "nothing moves it, so it is found each time"
    assert (last["relocated_bands"], last["unread_bands"]) == (0, 0)
    await rig.device.abort("the base is gone")
    with pytest.raises(BusyError, match="failed"):
        rig.device.order_scrub()
    await rig.device.halt()
    with pytest.raises(BusyError, match="halted"):
        rig.device.order_scrub()


# --- in time


@pytest.mark.rig(**SMALL)
async def test_a_round_begins_every_half_of_scrub_days_and_ends_before_the_next(
    wall: WallClock, reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred seconds are 14 days; as slow as may be."""
    days_s = 14 * DAY_S
    monkeypatch.setattr(scrub_module, "TICK_S", 0.2)
    monkeypatch.setattr(scrub_round, "FLOOR_BLOCKS_PER_S", 1)
    wall.per_s = days_s / 100
    # The shim's seconds are not the wall's: as if it were so much larger.
    pace = scrub_module.Scrub._pace
    monkeypatch.setattr(scrub_module.Scrub, "_pace", lambda self: max(1, int(pace_of(self) * wall.per_s)))

    def pace_of(scrub: Any) -> float:
        remaining = scrub._remaining()
        left_s = scrub._since_s + days_s * 0.5 * 0.8 - wall()
        return remaining / left_s if left_s > 0 else remaining / (days_s * 0.02)

    assert pace is not None
    drive = zns_drive(reactor, **SMALL)
    device = await creation.create(reactor, drive, name="ftl0", conf=FtlConf(), num_punits=1)
    rig = FtlRig(reactor, drive, device)
    await rig.overwrite(1)
    await until(lambda: device.scrub.rounds == 1)
    for count in (2, 3):
        before = device.scrub._last
        assert before is not None
        await until(lambda count=count: device.scrub.rounds == count)  # type: ignore[misc]
        last = device.scrub._last
        assert last is not None
        assert abs(last.began_s - before.began_s - days_s / 2) < days_s / 100
        assert 0.3 * days_s < last.ended_s - last.began_s < 0.45 * days_s, "spread over its time"
        assert last.ended_s - before.began_s < days_s, "whatever was read first, and is read last"
    await rig.close()
    await device.halt()


async def test_between_rounds_the_reactor_is_not_asked_and_the_next_one_begins_when_it_is_due(
    rig: FtlRig, wall: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Asked:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(rig.device.core, name)

    monkeypatch.setattr(scrub_module, "TICK_S", 0.1)
    scrub = rig.device.scrub
    scrub._core = Asked()  # type: ignore[assignment]
    scrub.wake()
    await asyncio.sleep(0.25)
    asked.clear()
    await asyncio.sleep(2.0)
    assert asked == []
    wall.offset_s += scrub._due_s() - wall() - 0.55
    await asyncio.sleep(0.4)
    assert (scrub.rounds, scrub._round) == (0, None)
    await until(lambda: scrub.rounds == 1)
    last = scrub._last
    assert last is not None
    assert last.began_s == int(scrub._since_s)


@pytest.mark.parametrize("loaded", [False, True])
async def test_a_clock_that_was_ahead_and_is_set_back_puts_no_round_off(
    make_restore_rig: MakeRestoreRig, wall: WallClock, loaded: bool
) -> None:
    rig = await make_restore_rig()
    await rig.create()
    await rig.traffic(800)
    wall.offset_s += 300 * DAY_S
    await scrubbed(rig)
    if loaded:
        await rig.halt()
    wall.offset_s -= 300 * DAY_S
    if loaded:
        await rig.load()
    await asyncio.sleep(15)  # so that it may see it
    rounds = rig.device.scrub.rounds
    wall.offset_s += 7.1 * DAY_S
    await asyncio.sleep(15)
    await until(lambda: rig.device.scrub.rounds > rounds)


@pytest.mark.rig(**SMALL)
async def test_what_is_stopped_is_not_said_to_run(rig: FtlRig) -> None:
    await rig.overwrite(1)
    rig.media.inject_fault(op=_shim.Op.READ, latency_us=2000)
    rig.device.order_scrub()
    await rig.device.abort("the base is gone")
    told = rig.device.stats()["scrub"]
    assert (told["state"], "ordered" in told, "next" in told) == ("off", False, False)


@pytest.mark.parametrize(
    ("days", "remaining", "elapsed_part", "rate"),
    [
        (14, 1000, 0.0, 256),  # what is small is done at the least rate
        (14, 1 << 28, 0.0, (1 << 28) // (0.4 * 14 * DAY_S)),
        (14, 1 << 28, 0.3, (1 << 28) // (0.1 * 14 * DAY_S)),
        (14, 1 << 28, 0.39, (1 << 28) // (0.02 * 14 * DAY_S)),  # never more than this
        (14, 1 << 28, 7.0, (1 << 28) // (0.02 * 14 * DAY_S)),
        (1, 1 << 20, 0.0, 256),
    ],
)
@pytest.mark.rig(**SMALL)
async def test_the_pace_is_what_is_left_by_the_time_that_is_left(
    rig: FtlRig, days: int, remaining: int, elapsed_part: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrub = rig.device.scrub
    scrub.scrub_days = days
    scrub.clock = lambda: BEGAN_S + elapsed_part * days * DAY_S
    scrub._since_s = BEGAN_S
    scrub._round = Round(1, BEGAN_S, 1)
    monkeypatch.setattr(scrub, "_remaining", lambda: remaining)
    assert abs(scrub._pace() - rate) <= max(1, rate * 0.001)


# --- crashes and loads


async def read_stored(rig: RestoreRig) -> dict[str, Any]:
    port = BlockPort(rig.reactor, rig.base, name="look")
    found = await superblock.find(port, await port.zones())
    await port.close()
    assert found is not None
    stored = found.superblock.content["scrub"]
    assert isinstance(stored, dict)
    return stored


async def test_a_halted_device_goes_on_where_it_was_and_so_does_one_that_crashed(
    make_restore_rig: MakeRestoreRig, tmp_path: Path, wall: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "SAVE_S", 2.0)
    monkeypatch.setattr(scrub_module, "SAVE_SOON_S", 1.0)
    monkeypatch.setattr(scrub_round, "FLOOR_BLOCKS_PER_S", 64)
    rig = await make_restore_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    wall.offset_s += 8 * DAY_S
    await until(lambda: rig.device.scrub.status()["state"] == "running")
    await until(lambda: rig.device.scrub._round is not None and rig.device.scrub._round.position > 3)
    await rig.halt()
    stored = Round.parse((await read_stored(rig))["round"])
    assert stored is not None
    assert stored.position > 3
    await rig.load()
    now = rig.device.scrub._round
    assert now is not None
    assert now == stored, "as it was"
    await until(lambda: rig.device.scrub._round is not None and rig.device.scrub._round.position > stored.position)
    await until(lambda: rig.device.scrub.superblocks == 1)
    await rig.crash()
    await rig.load()
    again = rig.device.scrub._round
    assert again is not None
    assert (again.number, again.began_s, again.end_seq) == (stored.number, stored.began_s, stored.end_seq)
    assert again.position > stored.position, "noted once in a while"
    assert again.read_blocks > stored.read_blocks
    await until(lambda: rig.device.scrub.rounds == 1)
    assert rig.device.scrub.status()["last"]["bad_blocks"] == 0
    await rig.check("after the scrub")
    await asyncio.sleep(3)
    last = Round.parse((await read_stored(rig))["last"])
    assert last is not None
    assert last.number == stored.number


async def test_one_that_is_due_while_the_device_is_off_begins_with_the_load(
    make_restore_rig: MakeRestoreRig, wall: WallClock
) -> None:
    rig = await make_restore_rig()
    await rig.create()
    await rig.traffic(800)
    assert rig.device.scrub.status()["state"] == "waiting"
    await rig.halt()
    wall.offset_s += 20 * DAY_S
    await rig.load()
    await until(lambda: rig.device.scrub.rounds == 1)
    assert rig.device.scrub.status()["last"]["read_blocks"] > 100


async def test_bands_of_an_earlier_life_that_were_done_are_not_read_again_and_the_others_are(
    make_restore_rig: MakeRestoreRig, tmp_path: Path, wall: WallClock
) -> None:
    rig = await make_restore_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.traffic(1500)
    await rig.halt()
    await rig.load()
    await quiet(rig)
    entries = rig.device.core.l2p(0, rig.device.block_count)
    bands = rig.device._bands
    seqs = sorted(int(seq) for seq, valid in zip(bands.seq, bands.valid, strict=True) if valid)
    middle = seqs[len(seqs) // 2]
    scrub = rig.device.scrub
    scrub._round = Round(7, int(wall()), scrub._next_band_seq(), position=middle, ordered=True)
    scrub.wake()
    await until(lambda: scrub.rounds == 1)
    places = [bands.at(int(entry) // rig.device.geometry.zone_size) for entry in entries if entry < _shim.SLOT_FLAG]
    left = sum(1 for place in places if place is not None and place[0].seq > middle)
    assert scrub.status()["last"]["read_blocks"] == left > 0


async def test_superblocks_are_written_for_it_once_in_a_while_never_for_each_band(
    make_restore_rig: MakeRestoreRig, wall: WallClock
) -> None:
    rig = await make_restore_rig()
    await rig.create()
    await rig.traffic(1000)
    for _ in range(5):
        await scrubbed(rig)
    assert rig.device.scrub.superblocks == 1, "orders, and of those no more than one a second"
    await asyncio.sleep(61)
    assert rig.device.scrub.superblocks == 2, "what has ended is noted soon"
    await asyncio.sleep(200)
    assert rig.device.scrub.superblocks == 2
    assert SAVE_S == 600


async def test_a_superblock_of_an_older_release_and_nonsense_begin_anew(
    make_restore_rig: MakeRestoreRig, wall: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stored in (None, 7, {"since": -1, "round": [], "last": {"number": 1}}, {"since": True, "round": {"number": 1}}):
        rig = await make_restore_rig()
        await rig.create()
        await rig.traffic(300)
        monkeypatch.setattr(rig.device.scrub, "to_dict", lambda stored=stored: stored)
        await rig.halt()
        await rig.load()
        await until(lambda: rig.device.scrub.rounds == 1)  # noqa: B023
        assert rig.device.scrub.status()["last"]["bad_blocks"] == 0


async def test_a_round_of_bands_that_there_are_not_yet_is_nonsense(
    make_restore_rig: MakeRestoreRig, wall: WallClock
) -> None:
    rig = await make_restore_rig()
    await rig.create()
    await rig.traffic(300)
    rig.device.scrub._round = Round(3, 5, 1 << 40, ordered=True)
    await rig.halt()
    await rig.load()
    assert rig.device.scrub._round is None


@pytest.mark.parametrize("moment", range(6))
async def test_a_crash_in_a_scrub_costs_nothing(make_restore_rig: MakeRestoreRig, tmp_path: Path, moment: int) -> None:
    """With hosts writing, and bands moved for what it found."""
    rng = random.Random(moment)
    rig = await make_restore_rig(buffer_dir=tmp_path, seed=moment)
    await rig.create()
    await rig.traffic(1200)
    rig.device.order_scrub()
    for _ in range(rng.randrange(400)):
        await asyncio.sleep(0)
    await rig.traffic(rng.randrange(100))
    await rig.crash()
    await rig.load()
    await rig.check("after a crash in a scrub")
    last = await scrubbed(rig)
    assert (last["bad_blocks"], last["bad_metadata"]) == (0, 0)
    await rig.halt()


async def test_scrub_days_is_taken_from_conf_and_may_be_changed_by_a_load(make_restore_rig: MakeRestoreRig) -> None:
    rig = await make_restore_rig()
    await rig.create(dataclasses.replace(CONF, scrub_days=30))
    assert rig.device.scrub.status()["scrub_days"] == 30
    await rig.halt()
    await rig.load()
    assert rig.device.scrub.scrub_days == 30
    await rig.halt()
    await rig.load(settings={"scrub_days": 0})
    assert rig.device.scrub.status()["state"] == "off"


@pytest.mark.parametrize("can_move", [True, False])
async def test_a_band_that_is_moved_while_its_round_passes_is_not_forgotten(can_move: bool) -> None:
    """The round of bands 1 to 8; band 3 is being moved, and band 5 is to be."""
    count = 8
    moving = SimpleNamespace(index=2, seq=3, valid=9)
    bands: Any = SimpleNamespace(
        closed=np.array([number != 2 for number in range(count)]),
        faulted=np.array([number == 4 for number in range(count)]),
        seq=np.arange(1, count + 1),
        valid=np.full(count, 9),
        in_state=lambda *states: [moving] if "moving" in states else [],
    )
    rows = np.zeros(count, BAND_ROW)
    rows["seq"], rows["valid"] = bands.seq, bands.valid
    for number, state in enumerate(["closed", "closed", "moving", "closed", "faulted", "closed", "closed", "closed"]):
        rows["state"][number] = scrub_module.SHIM_STATES.index(state)
    begun: list[tuple[int, bool]] = []
    core: Any = SimpleNamespace(
        stats=lambda: SimpleNamespace(**dict.fromkeys(scrub_module._COUNTERS, 0)),
        scrub_status=lambda: SimpleNamespace(ended=len(begun), slow=False, end=_shim.ScrubEnd.READ),
        band_rows=lambda number, _: rows[number : number + 1].view(np.uint8),
        set_scrub_rate=lambda _: None,
        start_scrub=lambda number, stays: begun.append((number, stays)),
    )

    async def save() -> None: ...

    scrub = scrub_module.Scrub(
        "ftl0",
        core,
        bands,
        scrub_days=14,
        next_band_seq=lambda: count + 1,
        take_account=lambda: None,
        wanted=lambda: None,
        save=save,
        can_move=lambda: can_move,
    )
    scrub._begin(ordered=True)
    while len(begun) < 5:
        scrub._pump()
    current = scrub._round
    assert current is not None
    assert current.position > 3
    assert scrub.to_dict()["round"]["position"] == 2, "a crash would leave it as it was"
    if can_move:
        bands.valid[2] = 0
        assert scrub.to_dict()["round"]["position"] == 4, "it was moved; the next one was not yet"
    while not scrub.rounds:
        scrub._pump()
    assert ((4, True) in begun) is not can_move, "nothing else will read it"
    assert {number for number, _ in begun} == {0, 1, 3, 5, 6, 7} | (set() if can_move else {4})
    assert scrub.status()["last"]["unread_bands"] == (0 if can_move else 1)


@pytest.mark.not_sanitized("it measures the event loop, with a shim that is three times slower")
async def test_very_many_bands_hold_no_turn_of_the_loop_up_whatever_becomes_of_them() -> None:
    """Measured in CPU time: 65,536 bands are lined up, and then all of them are gone."""
    count = 65_536
    rng = np.random.default_rng(1)
    bands: Any = SimpleNamespace(
        closed=np.ones(count, bool),
        faulted=np.zeros(count, bool),
        seq=rng.permutation(count) + 1,
        valid=np.ones(count, np.int64),
        in_state=lambda *_: [],
    )
    core: Any = SimpleNamespace(
        stats=lambda: SimpleNamespace(**dict.fromkeys(scrub_module._COUNTERS, 0)),
        scrub_status=lambda: SimpleNamespace(ended=0),
        band_rows=lambda *_: np.zeros(1, BAND_ROW).view(np.uint8),
        set_scrub_rate=lambda _: None,
    )
    asked = 0

    async def save() -> None: ...

    def take_account() -> None:
        nonlocal asked
        asked += 1
        bands.closed[: asked * count // 8] = False

    scrub = scrub_module.Scrub(
        "ftl0",
        core,
        bands,
        scrub_days=14,
        next_band_seq=lambda: count + 1,
        take_account=take_account,
        wanted=lambda: None,
        save=save,
    )
    longest = 0.0
    for step in range(1000):
        began = time.process_time()
        scrub._begin(ordered=True) if step == 0 else scrub._pump()
        scrub.status()
        longest = max(longest, time.process_time() - began)
        if scrub.rounds:
            break
    assert scrub.rounds == 1
    assert step < 50, "what is gone is not asked for one by one"
    assert longest < 0.05


@pytest.mark.rig(**SMALL)
async def test_stats_and_properties_tell(rig: FtlRig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await rig.overwrite(1)
    await scrubbed(rig)
    told = rig.device.stats()["scrub"]
    assert told == rig.device.scrub.status()
    properties = {entry["name"]: entry["value"] for entry in rig.device.properties()["properties"]}
    assert properties["scrub"] == told
    assert told["progress"] is None
    assert told["next"] > told["last"]["ended"]
    assert "scrub 1 read" in caplog.text
    assert np.isfinite(told["last"]["read_blocks"])
