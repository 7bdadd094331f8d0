"""What `spdk-ftl torture` found, each as small as it gets."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.load.restored import LoadedBand, open_zones
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.zone import CLOSED, IMPLICITLY_OPEN, Zone
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import MakeRestoreRig, RestoreRig, restore_rig_of_the_test, restore_rigs  # noqa: F401
from unit.shim.ftl.core_bench import Bench, content


def test_a_load_takes_the_thresholds_that_create_chose() -> None:
    """With the fewest spare bands there may be, the greatest default threshold is one that nobody may ask for."""

    @dataclasses.dataclass(frozen=True)
    class Bands:
        band_count: int = 16
        punits: int = 2
        open_bands: int = 2
        band_blocks: int = 60
        block_count: int = 10 * 60
        spare_bands: int = 6

    chosen = FtlConf(lba_rsvd=35).check_geometry(Bands())
    assert FtlConf.from_dict(chosen.to_dict()).check_geometry(Bands()) == chosen


def test_a_band_that_holds_nothing_is_reset_without_waiting_for_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that failed at its first write; several of those in a row used up all there were."""
    with Bench() as bench:
        monkeypatch.setattr(bench, "manage", lambda: None)
        bench.put(0, 1)
        bench.core.reset_band(3)
        assert bench.until(_shim.EventKind.BAND_RESET_DONE, steps=2000).band == 3


async def test_what_is_recovered_finds_a_band_where_every_zone_comes_back_full(
    tmp_path: Path, reactor: ReactorLoop
) -> None:
    """Emulated zones: no band is free, bands are reset when what is recovered is on media, which needs a band."""
    drive = _shim.EmulatedMedia.conventional(reactor.shim, 40 * 64, volatile_cache=True)

    def overlay(state: str) -> _shim.BlockDevice:
        return _shim.ZonedOverlay(reactor.shim, drive, zone_capacity=48, initial_state=state)

    rig = RestoreRig(reactor, overlay("empty"), random.Random(1), buffer_dir=tmp_path)
    try:
        await rig.create()

        async def write_all(version: int) -> None:
            for lba in range(rig.device.block_count):
                await rig.port.write(lba, content(lba, version))

        await write_all(1)
        await write_all(2)
        await rig.flush()
        await rig.port.write(3, content(3, 3))
        await rig.crash()
        rig.base = overlay("full")
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["recovered_blocks"] == 1
        await write_all(4)
        await rig.flush()
        assert rig.device.state is FtlState.RUNNING
        assert (await rig.port.read(3, 1)).tobytes() == content(3, 4)
    finally:
        await rig.end()


async def test_a_load_resets_no_band_for_what_is_only_recovered(tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    """Until what is recovered is on media, what it replaces is the only durable version."""
    rig = await make_rig(buffer_dir=tmp_path)
    drive = rig.base
    await rig.create()
    for lba in range(4):
        await rig.port.write(lba, content(lba, 1))
    await rig.flush()
    for lba in range(4):
        await rig.port.write(lba, content(lba, 2))
    await rig.crash()
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["recovered_blocks"] == 4
    drive.power_cut(1)
    await rig.crash()
    drive.power_on()
    for path in tmp_path.iterdir():
        path.unlink()
    await rig.load()
    found = await rig.versions()
    assert set(found[:4]) <= {1, 2}


async def test_a_load_begins_the_other_superblock_zone_though_no_more_zones_may_be_active(
    tmp_path: Path, reactor: ReactorLoop
) -> None:
    """After a loss of power zones that were full may be active again, more of them than were meant to be."""
    drive = _shim.EmulatedMedia.zns(reactor.shim, 44, 16, 12, max_open_zones=7, max_active_zones=7)
    rig = RestoreRig(reactor, drive, random.Random(1), buffer_dir=tmp_path)
    try:
        await rig.create(FtlConf(lba_rsvd=60, write_buffer_size=16 * 4096))
        while drive.zone_states()[0][1] != "full":
            await rig.crash()
            await rig.load()
        await rig.crash()
        port = BlockPort(reactor, drive, name="drive")

        async def open_zones() -> None:
            for start, state, _ in drive.zone_states()[2:]:
                if state == "empty":
                    await port.zone_action(_shim.ZoneAction.OPEN, start)

        with pytest.raises(MediaError, match="too many"):
            await open_zones()
        await port.close()
        await rig.load()
        assert drive.zone_states()[1][2] > drive.zone_states()[1][0]
        # Finished, a zone of a free band could not be written.
        free = [band.zones for band in rig.device._bands if band.state == "free"]
        assert {drive.zone_states()[zone][1] for zones in free for zone in zones} == {"empty"}
        for version in (1, 2):
            for lba in range(rig.device.block_count):
                await rig.port.write(lba, content(lba, version))
        await rig.flush()
        assert rig.device.zone_faults == 0
    finally:
        await rig.end()


def test_open_zones_are_finished_but_not_those_of_bands_that_are_free_or_will_be() -> None:
    """A zone that is reset first, and finished then, is full."""

    class Bands:
        bands = ((2, 3), (4, 5), (6, None), (7, 8))

    states = ["full", "full", IMPLICITLY_OPEN, "full", CLOSED, "empty", IMPLICITLY_OPEN, "full", CLOSED]
    zones = [Zone(number, number * 64, 48, state, 0) for number, state in enumerate(states)]
    bands = [LoadedBand(state, 1, [0, 0]) for state in ("closed", "free", "free", "closed")]
    everything = open_zones(Bands(), zones, bands, set())  # type: ignore[arg-type]
    assert everything == ([2 * 64, 8 * 64], [4 * 64, 6 * 64])
    but = open_zones(Bands(), zones, bands, {8}, [2])  # type: ignore[arg-type]
    assert but == ([2 * 64], [4 * 64])
