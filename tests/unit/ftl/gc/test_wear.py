"""Wear: resets are counted and kept, and bands that are reset too rarely are moved."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.daemon.smart import smart_of
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.gc import levelling as gc_levelling
from spdk_ftl_py.ftl.gc import spare_zones
from spdk_ftl_py.ftl.gc.levelling import BANDS_PER_MOVE, Levelling
from spdk_ftl_py.ftl.media.band import CLOSED, FREE, RESETTING, Band, Bands
from spdk_ftl_py.ftl.media.superblock_content import conf_to_store
from spdk_ftl_py.ftl.policy import wear as policy_wear
from spdk_ftl_py.ftl.policy.wear import most_lagging
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.simulate import engine
from spdk_ftl_py.simulate.engine import simulate
from spdk_ftl_py.simulate.spec import Spec
from spdk_ftl_py.torture.options import Options
from spdk_ftl_py.torture.run import run_world
from unit.ftl.ftl_rig import FtlRig, rig_on, zns_drive
from unit.ftl.load.restore_rig import MakeRestoreRig, restore_rig

from .band_rig import bands_of, miscounted, rows_of

NEVER = 1 << 60


@pytest.fixture
def make_restore_rig(reactor: ReactorLoop, rigs: AsyncExitStack) -> MakeRestoreRig:
    return lambda **options: rigs.enter_async_context(restore_rig(reactor, **options))


# --- counts


def counts_of(rig: Any) -> np.ndarray[Any, Any]:
    rig.device.wear.take()
    counts: np.ndarray[Any, Any] = rig.device.bands.wear.counts.copy()
    return counts


async def test_every_reset_of_the_core_and_of_the_control_path_counts(rig: FtlRig) -> None:
    await rig.overwrite(5)
    await rig.until(lambda: rig.device.bands.count(RESETTING) == 0)
    counts = counts_of(rig)
    assert counts[2:].sum() == rig.device.core.stats().zone_resets > 100
    assert rig.device.bands.resets.tolist() == counts[2:].tolist()
    # The creation has reset the first superblock zone, after it had written to it.
    assert counts[:2].tolist() == [1, 0]


async def test_a_clean_halt_keeps_all_counts_and_a_crash_most(make_restore_rig: MakeRestoreRig) -> None:
    rig = await make_restore_rig(seed=3)
    await rig.create()
    rng = random.Random(1)
    lost_most = rig.device.wear.unsaved_max
    for life in range(6):
        await rig.traffic(rng.randrange(300, 1500))
        before = counts_of(rig)
        clean = life % 2 == 0
        await (rig.halt() if clean else rig.crash())
        if clean:
            # What a halt itself resets counts as well.
            before = np.maximum(before, counts_of(rig))
        await rig.load()
        after = counts_of(rig)
        lost = int(np.maximum(0, before.astype(np.int64) - after).sum())
        assert lost <= (0 if clean else lost_most)
        assert after.sum() > 0
        await rig.check(f"life {life}")


async def test_the_superblock_is_written_when_many_resets_are_not_in_it(rig: FtlRig) -> None:
    generation = rig.device._superblock.generation
    await rig.overwrite(4)
    total = rig.device.core.stats().zone_resets
    written = rig.device._superblock.generation - generation
    assert 0 < written <= total // rig.device.wear.unsaved_max
    assert rig.device.bands.wear.unsaved <= 2 * rig.device.wear.unsaved_max


async def test_a_superblock_zone_that_is_too_small_for_the_counts_takes_the_least(
    rig: FtlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.device.bands.wear.counts[:] = np.arange(66) + 10
    huge = "".join(random.Random(1).choices("abcdefghijklmnop0123456789", k=2_000_000))
    monkeypatch.setattr(rig.device.bands.wear, "to_dict", lambda: {"resets": huge})
    await rig.device.write_superblock(clean=False)
    uuid, reactor, media = rig.device.uuid, rig.reactor, rig.media
    await rig.device.halt()
    device = await loading.load(reactor, media, name="ftl0", uuid=uuid, num_punits=1)
    assert 10 <= device.bands.wear.counts.min() <= device.bands.wear.counts.max() <= 12
    await device.halt()


async def test_a_larger_base_and_a_spare_zone_keep_the_counts_of_the_others(rig: FtlRig) -> None:
    await rig.overwrite(4)
    await rig.until(lambda: rig.device.bands.count(RESETTING) == 0)
    before = counts_of(rig)
    number = rig.device.bands.first_free()
    assert number is not None
    zone = rig.device.bands[number].zones[0]
    assert zone is not None
    rig.device.zone_map.put(number, 0, 1)
    rig.device.bands.rezoned(number)
    assert rig.device.bands.resets[number] == before[1]
    rig.device.zone_map.put(number, 0, zone)
    rig.device.bands.rezoned(number)
    assert rig.device.bands.resets[number] == before[zone]


def test_rated_resets_are_stored_only_if_they_are_known() -> None:
    """An older release refuses settings that it does not know."""
    assert "rated_resets" not in conf_to_store(FtlConf())
    assert FtlConf.from_dict(conf_to_store(FtlConf())) == FtlConf()
    rated = FtlConf(rated_resets=3000)
    assert FtlConf.from_dict(conf_to_store(rated)) == rated


# --- free bands


def test_the_least_worn_free_band_is_the_first_and_the_most_worn_one_the_last() -> None:
    bands = bands_of([Band(i, [2 + i], 40, FREE, seq=9 - i) for i in range(4)])
    assert [band.index for band in bands.free()] == [3, 2, 1, 0], "of equal ones the one that rested longest"
    bands.wear.add_counted({5: 2, 4: 1})
    bands.count_resets()
    assert [band.index for band in bands.free()] == [1, 0, 2, 3]
    assert (bands.first_free(), bands.last_free()) == (1, 3)
    for _ in range(3):
        bands.ordered(1, RESETTING)
        bands.refresh(rows_of([Band(1, [3], 40, FREE, seq=10)]))
    assert bands.resets.tolist() == [0, 3, 1, 2]
    assert (bands.first_free(), bands.last_free()) == (0, 1)
    assert miscounted(bands) == []


def test_a_reset_that_did_not_happen_does_not_count() -> None:
    """Its flush failed, so the band is closed again."""
    bands = bands_of([Band(0, [2], 40, CLOSED, seq=1)])
    bands.ordered(0, RESETTING)
    bands.refresh(rows_of([Band(0, [2], 40, CLOSED, seq=1)]))
    assert bands.resets.tolist() == [0]


# --- the choice


def chosen(resets: list[int], *, age: list[int] | None = None, closed: list[bool] | None = None) -> int | None:
    count = len(resets)
    return most_lagging(
        np.array(resets, np.uint32),
        np.array(age or [100] * count),
        np.array(closed or [True] * count),
        cold_age=50,
        lag=10,
    )


def test_a_cold_closed_band_is_chosen_that_lags_behind_the_mean() -> None:
    assert chosen([]) is None
    assert chosen([0, 0, 0]) is None
    assert chosen([100, 100, 100, 90]) is None, "7.5 behind the mean"
    assert chosen([100, 100, 100, 80]) == 3
    assert chosen([100, 70, 100, 80]) == 1, "the one that lags furthest"
    assert chosen([100, 70, 100, 70], age=[100, 60, 100, 80]) == 3, "of equal ones the oldest"
    assert chosen([100, 70, 100, 75], closed=[True, False, True, True]) == 3
    assert chosen([100, 70, 100, 100], age=[100, 49, 100, 100]) is None, "it is not cold"
    assert chosen([1 << 31, (1 << 32) - 1, 0, 0]) == 2


def test_one_band_in_fifty_that_are_opened_is_moved_at_most() -> None:
    bands = bands_of([Band(i, [2 + i], 40, CLOSED, seq=1, valid=40) for i in range(4)])
    asked: list[int] = []
    levelling = Levelling(bands, 1, lambda: asked.append(1) or 2)  # type: ignore[func-returns-value]
    assert levelling.victim(BANDS_PER_MOVE) is None
    assert asked == []
    started = []
    for seq in range(BANDS_PER_MOVE, 20 * BANDS_PER_MOVE):
        for _ in range(3):
            if levelling.victim(seq) is not None:
                levelling.started(seq)
                started.append(seq)
    assert len(started) == 19
    assert len(asked) == len(started), "the policy looks at all bands, so it is rarely asked"
    # After a long time without room there are not many moves at once.
    later = 100 * BANDS_PER_MOVE
    burst = 0
    while levelling.victim(later) is not None:
        levelling.started(later)
        burst += 1
        later += 1
    assert burst <= 2


def test_a_band_that_was_emptied_meanwhile_is_not_moved() -> None:
    bands = bands_of([Band(0, [2], 40, CLOSED, seq=1, valid=40)])
    levelling = Levelling(bands, 1, lambda: 0)
    assert levelling.victim(60) == 0
    bands.refresh(rows_of([Band(0, [2], 40, CLOSED, seq=1, valid=0)]))
    assert levelling.victim(60) is None


def test_cold_data_rests_in_a_worn_band_only() -> None:
    bands = bands_of([Band(i, [2 + i], 40, FREE) for i in range(4)])
    bands.wear.add_counted({2: 10, 3: 40, 4: 100, 5: 50})
    bands.count_resets()
    levelling = Levelling(bands, 1, lambda: None)
    assert [levelling.may_rest(number) for number in range(4)] == [False, False, True, False]


# --- in a running FTL


def test_with_half_of_the_data_cold_all_bands_wear_alike_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's band manager with a simulated core; bench/wear.py has a real one."""
    monkeypatch.setattr(policy_wear, "LAG", 8)
    spec = Spec(bands=64, band_blocks=512, workload="hotcold:0.5:1", policy="seed", writes="30x")
    level = simulate(spec)
    monkeypatch.setattr(gc_levelling, "BANDS_PER_MOVE", 1 << 60)
    uneven = simulate(spec)
    assert uneven["wear"]["max_to_mean"] > 1.5
    assert uneven["wear"]["min"] == 0
    assert level["wear"]["max_to_mean"] <= 1.3
    assert level["write_amplification_whole"] <= 1.03 * uneven["write_amplification_whole"]


async def test_cold_data_is_moved_and_nothing_is_lost(reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the data is written once, the other half at random."""
    for module, name, value in (
        (gc_levelling, "BANDS_PER_MOVE", 4),
        (gc_levelling, "SAVING_BANDS", 4),
        (policy_wear, "LAG", 2),
        (policy_wear, "COLD_TURNS", 1),
    ):
        monkeypatch.setattr(module, name, value)
    drive = zns_drive(reactor, zones=66, zone_size=32, zone_capacity=32)
    conf = FtlConf(write_buffer_size=8 * 4096)
    device = await creation.create(reactor, drive, name="ftl0", conf=conf, num_punits=1)
    async with rig_on(reactor, drive, device) as rig:
        half = device.block_count // 2
        hot = _shim.LoadGenerator(reactor.shim, device.core, lba_count=half, seed=5)
        cold = _shim.LoadGenerator(reactor.shim, device.core, first_lba=half, lba_count=half, seed=6)
        for load in (cold, hot):
            load.start("write", pattern="sequential", io_blocks=8, total_blocks=half, queue_depth=4)
            await rig.until(lambda load=load: not load.progress().running)  # type: ignore[misc]
        hot.start("write", total_blocks=4 * device.block_count, queue_depth=16)
        await rig.until(lambda: not hot.progress().running)
        assert device._manager.levelling.moves_started > 5
        assert device.wear_told()["moves"] == device._manager.levelling.moves_started
        for load in (cold, hot):
            load.start("read", pattern="sequential", io_blocks=8, total_blocks=half)
            await rig.until(lambda load=load: not load.progress().running)  # type: ignore[misc]
            progress = load.progress()
            assert (progress.io_errors, progress.verify_errors) == (0, 0)
            load.close()


def test_the_simulator_counts_the_resets_of_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Bands] = []
    monkeypatch.setattr(engine, "Bands", lambda *args: seen.append(Bands(*args)) or seen[-1])
    spec = Spec(bands=32, band_blocks=64, zones=2, reserved=25, writes="8x", precondition="none")
    wear = simulate(spec)["wear"]
    resets = seen[0].resets
    assert (int(resets.sum()), int(resets.min()), int(resets.max())) == (wear["resets"], wear["min"], wear["max"])
    assert seen[0].wear.counts[2:].reshape(-1, 2).tolist() == [[count] * 2 for count in resets.tolist()]


def test_no_promise_is_broken_while_wear_is_levelled_under_faults_and_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So eagerly that it happens in the short lives of torture worlds."""
    started: list[int] = []
    begin = Levelling.started

    def count(self: Levelling, next_band_seq: int) -> None:
        started.append(next_band_seq)
        begin(self, next_band_seq)

    monkeypatch.setattr(Levelling, "started", count)
    monkeypatch.setattr(Levelling, "may_rest", lambda self, number: True)
    for module, name, value in (
        (gc_levelling, "BANDS_PER_MOVE", 1),
        (gc_levelling, "REST", 1),
        (policy_wear, "LAG", 0),
        (policy_wear, "COLD_TURNS", 0),
    ):
        monkeypatch.setattr(module, name, value)
    result = run_world(Options(seed=13, faults=True, chain=False), 1, 25)
    assert result.violations == []
    assert result.crashes == 25
    assert len(started) >= 5


# --- spare zones


@pytest.mark.rig(zones=67, open_zones=7, num_punits=2, conf=FtlConf(lba_rsvd=30))
async def test_a_spare_zone_that_fails_as_it_is_taken_is_one_of_the_band(
    rig: FtlRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare_zones, "SWAP_LAG", 1)
    device = rig.device
    device.wear.unsaved_max = NEVER
    await rig.overwrite(3)
    device.wear.take()
    rotating = asyncio.ensure_future(device._mending.rotate())
    # In the same turn of the event loop.
    asyncio.get_running_loop().call_soon(lambda: 66 in device.zone_map.spares and device.zone_map.lose_spare(66))
    await rotating
    assert device.zone_map.place(66) is not None
    assert not device._mending.under_way
    await rig.verify()


def test_bands_rest_once_however_often_resets_are_counted() -> None:
    bands = bands_of([Band(index, [2 + index], 40, FREE, seq=index) for index in range(9)])
    for _ in range(5):
        bands.wear.add_counted({0: 1})
        bands.count_resets()
    assert sorted(number for _, _, number in bands._resting) == list(range(9))


@pytest.mark.rig(zones=67, open_zones=7, num_punits=2, conf=FtlConf(lba_rsvd=30))
async def test_spare_zones_take_turns_with_worn_ones(rig: FtlRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_zones, "SWAP_LAG", 3)
    rig.device.wear.unsaved_max = 40
    device = rig.device
    assert device.zone_map.spares == (66,)
    seen = set()
    for _ in range(8):
        await rig.overwrite(0.8)
        seen.add(device.zone_map.spares)
        assert device.zone_map.spare_count == 1
    assert len(seen) > 2
    await rig.verify()
    assert smart_of(device).spare_percent == 100
    counts, spares = counts_of(rig), device.zone_map.spares
    zones = device.zone_map.bands()
    assert counts[66] > 0
    await device.halt()
    again = await loading.load(rig.reactor, rig.media, name="ftl0", uuid=device.uuid, num_punits=2)
    assert (again.zone_map.spares, again.zone_map.bands()) == (spares, zones)
    assert again.bands.wear.counts[2:].tolist() == counts[2:].tolist()
    assert smart_of(again).spare_percent == 100
    await again.halt()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_band_with_a_swapped_zone_is_written_only_when_the_superblock_knows(
    seed: int, make_restore_rig: MakeRestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a crash loses what was written to the new zone."""
    monkeypatch.setattr(spare_zones, "SWAP_LAG", 1)
    rig = await make_restore_rig(seed=seed, zones=45)
    await rig.create()
    await rig.traffic(1500)
    device = rig.device
    device.wear.unsaved_max = NEVER
    device.wear.take()
    waiting = []

    async def never_written(*, clean: bool) -> None:
        waiting.append(clean)
        await asyncio.Event().wait()

    monkeypatch.setattr(device, "write_superblock", never_written)
    rotating = asyncio.ensure_future(device._mending.rotate())
    try:
        for _ in range(300):
            if waiting:
                break
            await rig.traffic(20)
            if rotating.done():
                rotating = asyncio.ensure_future(device._mending.rotate())
        assert waiting
        assert device.zone_map.spares != (44,)
        await rig.traffic(1500)
        await rig.flush()
    finally:
        rotating.cancel()
        # It stays there, so no other one begins.
        if device._mending._mending is not None:
            device._mending._mending.cancel()
        crash = asyncio.ensure_future(rig.crash())
    await crash
    await rig.load()
    assert rig.device.zone_map.spares == (44,)
    await rig.check("after the crash")
    await rig.traffic(500)
    await rig.check("later")
