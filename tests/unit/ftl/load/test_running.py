"""The running checkpoint: whatever a crash leaves, a load with it finds what a load of everything finds."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.load import running
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.load.restored import Restored
from spdk_ftl_py.ftl.load.running import KEY, Turn, TurnWriter
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import plan
from spdk_ftl_py.ftl.media.layout import CHECKPOINT, KIND_DATA, crcs, parse_batch_header
from spdk_ftl_py.ftl.media.superblock_content import conf_beside, conf_to_store
from spdk_ftl_py.ftl.media.zone import EMPTY, Zone
from unit.ftl.load.restore_rig import CONF, MakeRestoreRig, RestoreRig
from unit.shim.ftl.core_bench import content

OFTEN = dataclasses.replace(CONF, running_checkpoint=4)
"""A turn for each 50 blocks or so that hosts write."""
ROOMY = {"zones": 64, "open_zones": 14}


async def both(rig: RestoreRig) -> tuple[Restored, Restored]:
    """What a load finds with the running checkpoint, and what a load of everything finds. Both are the same."""
    port = BlockPort(rig.reactor, rig.base, name="base")
    try:
        quick = await restore(port, rig.device.uuid)
        whole = await restore(port, rig.device.uuid, use_checkpoint=False)
        await compare(port, quick, whole)
    finally:
        await port.close()
    return quick, whole


async def compare(port: BlockPort, quick: Restored, whole: Restored) -> None:
    """Which copy of a version counts may differ, and a trim of what was never written may be missing."""
    assert quick.damage == whole.damage == []
    assert quick.next_seq >= whole.next_seq
    assert quick.next_band_seq >= whole.next_band_seq
    there, wanted = quick.l2p, whole.l2p
    tag = np.uint64(_shim.LOST_FLAG)
    unknown = (there == np.uint64(_shim.ADDRESS_INVALID)) & (wanted != there)
    if unknown.any():
        # Sooner or later the FTL resets the band of a trim record that it does not know.
        older = await rows_on_media(port, quick) & set(np.flatnonzero(unknown).tolist())
        assert not older, f"LBAs {sorted(older)} were trimmed, and only a load of everything knows it"
    for lba in np.flatnonzero(there != wanted).tolist():
        one, other = there[lba], wanted[lba]
        if (one & tag) == 0 and (other & tag) == 0 and one != other:
            blocks = [await port.read(int(address), 1) for address in (one, other)]
            assert np.array_equal(*blocks), f"LBA {lba}: {one} instead of {other}"
            continue
        zeroes = [
            int(each) == _shim.ADDRESS_INVALID or each & tag == np.uint64(_shim.TRIM_FLAG) for each in (one, other)
        ]
        assert zeroes == [True, True], f"LBA {lba}: {one:x} instead of {other:x}"


async def rows_on_media(port: BlockPort, found: Restored) -> set[int]:
    """LBAs of which some zone has a whole data block, however old."""
    geometry = found.geometry
    lbas: set[int] = set()
    for zone in await port.zones():
        written = min(zone.written, geometry.zone_capacity)
        if not written:
            continue
        most = port.device.max_io_blocks
        parts = [await port.read(zone.start + at, min(most, written - at)) for at in range(0, written, most)]
        blocks = np.concatenate(parts)
        at = 0
        while at < min(written, geometry.data_blocks):
            header = parse_batch_header(blocks[at], found.superblock.media_uuid)
            if header is None:
                break
            if header.kind == KIND_DATA:
                rows = zip(header.entries, blocks[at + 1 :], strict=False)
                lbas |= {int(entry["lba"]) for entry, block in rows if crcs(block[None])[0] == entry["crc"]}
            at += header.block_count
    return lbas


async def loaded_after_crash(rig: RestoreRig, *, buffer: bool = False) -> None:
    while True:
        # Sometimes power fails in the load as well.
        rig.base.cut_power_at(rig.base.operations + rig.rng.randrange(1, 400), rig.rng.randrange(1 << 32))
        try:
            await rig.load()
            rig.base.cut_power_at(0, 0)
            await rig.versions()
            return
        except MediaError:
            await rig.crash()
            rig.base.power_on()
            await both(rig)


@pytest.mark.parametrize("seed", range(3))
async def test_both_loads_find_the_same_whenever_power_fails(make_rig: MakeRestoreRig, seed: int) -> None:
    rig = await make_rig(seed=seed, volatile_cache=True, **ROOMY)
    await rig.create(OFTEN)
    rig.device.checkpointing.pause_s = 0
    used = turns = 0
    for _ in range(10):
        rig.base.cut_power_at(rig.base.operations + rig.rng.randrange(20, 2500), rig.rng.randrange(1 << 32))
        await rig.traffic(6000)
        turns += rig.device.checkpointing.turns
        await rig.crash()
        rig.base.power_on()
        quick, _ = await both(rig)
        used += quick.from_turn
        await loaded_after_crash(rig)
        rig.device.checkpointing.pause_s = 0
        await rig.check(f"seed {seed}")
    assert turns > 5
    assert used > 5, (used, turns)


@pytest.mark.parametrize("seed", range(3))
async def test_a_crash_just_after_a_turn_counts(make_rig: MakeRestoreRig, seed: int) -> None:
    """What was in the write buffer when its page was copied is durable by then."""
    rig = await make_rig(seed=seed, volatile_cache=True, **ROOMY)
    await rig.create(OFTEN)
    await rig.traffic(800)
    for crash in range(12):
        rig.device.checkpointing.pause_s = 0
        turns = rig.device.checkpointing.turns
        traffic = asyncio.ensure_future(rig.traffic(100_000))
        while rig.device.checkpointing.turns == turns:  # noqa: ASYNC110
            await asyncio.sleep(0)
        rig.base.power_cut(crash)
        await traffic
        await rig.crash()
        rig.base.power_on()
        quick, _ = await both(rig)
        assert quick.from_turn
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["from_running_checkpoint"]
        await rig.check(f"seed {seed}, crash {crash}")


async def one_turn(rig: RestoreRig) -> None:
    """Now, though it is not due."""
    checkpointing = rig.device.checkpointing
    checkpointing.pause_s = 0
    await checkpointing.ended()
    turns = checkpointing.turns
    checkpointing._began_at = -(1 << 40)
    checkpointing._asked_at = -1.0
    checkpointing.look()
    await checkpointing.ended()
    assert checkpointing.turns == turns + 1


@pytest.mark.rig(volatile_cache=True, **ROOMY)
async def test_a_turn_counts_when_all_that_its_pages_saw_is_durable(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that was only in the write buffer when its page was copied has a version before, of which nothing else
    says where it is."""
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=100))
    await rig.traffic(2500)
    await rig.flush()
    save, step = rig.device.checkpointing._save, TurnWriter.step
    used = []

    async def step_after_a_write(writer: TurnWriter) -> bool:
        change, version = rig.model.submit(7, 1, trim=False)
        await rig.port.write(7, content(7, version))
        rig.model.acknowledge(7, 1, change, durable=False)
        used.append(rig.device.core.stats().write_buffer_used)
        return await step(writer)

    async def save_and_see() -> None:
        used.append(rig.device.core.stats().write_buffer_used)
        await save()

    monkeypatch.setattr(TurnWriter, "step", step_after_a_write)
    monkeypatch.setattr(rig.device.checkpointing, "_save", save_and_see)
    await one_turn(rig)
    assert used[-2:] == [1, 0]


# --- when it is not used


async def crashed_after_a_turn(rig: RestoreRig, **conf: Any) -> Turn:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=100, **conf))
    await rig.traffic(1500)
    await one_turn(rig)
    await rig.traffic(200)
    await rig.flush()
    turn = rig.device.checkpointing.turn
    assert turn is not None
    await rig.crash()
    return turn


async def rewrite(rig: RestoreRig, turn: Turn, which: int, change: Any) -> None:
    """Changes a block of the turn, the last of its zone or not: the zone is written anew."""
    port = BlockPort(rig.reactor, rig.base, name="base")
    start = turn.zones[0] * 64
    blocks = await port.read(start, turn.blocks)
    change(blocks[which])
    await port.zone_action(_shim.ZoneAction.RESET, start)
    await port.write(start, blocks)
    await port.zone_action(_shim.ZoneAction.FINISH, start)
    await port.close()


def flip(block: Any) -> None:
    block[-1] ^= 1


def stale(block: Any) -> None:
    """A whole block, of another turn."""
    record = block.view(CHECKPOINT)
    record["generation"] ^= np.uint64(1)
    record["crc"] = 0
    record["crc"] = crcs(block.reshape(1, -1))


def gone(block: Any) -> None:
    block[:] = 0


@pytest.mark.rig(**ROOMY)
@pytest.mark.parametrize("change", [flip, stale, gone])
@pytest.mark.parametrize("which", [0, 1, 2, -1])
async def test_a_turn_that_is_not_whole_is_not_used(
    rig: RestoreRig, change: Any, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    turn = await crashed_after_a_turn(rig)
    await rewrite(rig, turn, which, change)
    quick, _ = await both(rig)
    assert not quick.from_turn
    assert "not using its running checkpoint" in caplog.text
    await rig.load()
    await rig.check("everything was read")
    assert rig.device.bands.kept_count == 0


def turned(block: Any) -> None:
    """A whole block whose entries are in the opposite order: those of other LBAs."""
    record = block.view(CHECKPOINT)
    entries = record["data"].view("<u4")[0]
    count = int(record["count"][0])
    entries[:count] = entries[:count][::-1].copy()
    record["crc"] = 0
    record["crc"] = crcs(block.reshape(1, -1))


@pytest.mark.rig(**ROOMY)
async def test_the_check_compares_it_with_the_bands(rig: RestoreRig) -> None:
    turn = await crashed_after_a_turn(rig)
    report = await check(rig.reactor, rig.base, name="base")
    assert (report.checkpoint, report.running_checkpoint, report.damage) == ("none", "whole", [])
    await rewrite(rig, turn, 2, turned)
    report = await check(rig.reactor, rig.base, name="base")
    assert report.running_checkpoint == "whole"
    assert any("the running checkpoint differs from the bands" in text for text in report.damage)
    assert any("the running checkpoint maps it to block" in text for text in report.damage)
    await rewrite(rig, turn, 2, flip)
    report = await check(rig.reactor, rig.base, name="base")
    assert report.running_checkpoint == "broken"
    assert "the running checkpoint can't be used" in report.damage[0]
    assert report.damage_count == 1
    # What a halt leaves is the other one.
    await rig.load()
    await rig.halt()
    report = await check(rig.reactor, rig.base, name="base")
    assert (report.checkpoint, report.running_checkpoint, report.damage) == ("whole", "none", [])


@pytest.mark.rig(**ROOMY)
@pytest.mark.parametrize(
    "change",
    [
        {"zones": []}, {"zones": [0]}, {"blocks": 0}, {"blocks": 1 << 70}, {"next_seq": 0}, {"number": 1},
        {"block_count": 7}, {"crcs": False}, {"zones": "x"}, {"zones": [5, 5]}, None, [], {"blocks": None},
    ],
)  # fmt: skip
async def test_a_description_that_makes_no_sense_is_not_used(rig: RestoreRig, change: Any) -> None:
    turn = await crashed_after_a_turn(rig)
    place = {**turn.to_dict(), **change} if isinstance(change, dict) else change
    port = BlockPort(rig.reactor, rig.base, name="base")
    found = await restore(port, rig.device.uuid)
    content = {**found.superblock.content, KEY: place}
    superblock = dataclasses.replace(found.superblock, content=content)
    zones = await port.zones()
    assert await running.read(port, found.geometry, superblock, zones, need_crcs=True) is None
    assert await running.read(port, found.geometry, found.superblock, zones, need_crcs=True) is not None
    await port.close()


@pytest.mark.rig(**ROOMY)
async def test_without_crcs_it_is_of_no_use_to_a_device_that_verifies(rig: RestoreRig) -> None:
    await crashed_after_a_turn(rig, verify_reads=False)
    await rig.load(settings={"verify_reads": True})
    assert rig.device.restored is not None
    assert not rig.device.restored["from_running_checkpoint"]
    await rig.check("its CRCs come from the bands")


@pytest.mark.rig(**ROOMY)
async def test_a_load_with_it_turned_off_uses_it_once(rig: RestoreRig) -> None:
    await crashed_after_a_turn(rig)
    await rig.load(settings={"running_checkpoint": 0})
    assert rig.device.restored is not None
    assert rig.device.restored["from_running_checkpoint"]
    await rig.check("it counted")
    assert rig.device.checkpointing.turn is None
    await rig.crash()
    quick, _ = await both(rig)
    assert not quick.from_turn


@pytest.mark.rig(**ROOMY)
async def test_only_what_was_written_since_is_read(rig: RestoreRig) -> None:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=100))
    await rig.traffic(2500)
    await one_turn(rig)
    await rig.io()
    await rig.flush()
    await rig.crash()
    port = BlockPort(rig.reactor, rig.base, name="base")
    reads = []
    for use_checkpoint in (True, False):
        before = rig.base.operations
        await restore(port, rig.device.uuid, use_checkpoint=use_checkpoint)
        reads.append(rig.base.operations - before)
    await port.close()
    assert reads[0] < reads[1], reads


# --- when it is written


@pytest.mark.rig(**ROOMY)
async def test_turns_come_with_what_hosts_write(rig: RestoreRig) -> None:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=50))
    checkpointing = rig.device.checkpointing
    checkpointing.pause_s = 0
    await rig.traffic(6000)
    await checkpointing.ended()
    stats = rig.device.stats()
    written = stats["host_written_blocks"]
    turns = stats["checkpoint"]["turns"]
    # Later than asked for, if no band can be spared at once.
    assert 3 <= turns <= 2 * written / rig.device.block_count + 1
    blocks = stats["checkpoint"]["written_blocks"]
    assert 4 * turns <= blocks <= 6 * turns
    assert stats["media_written_blocks"] == stats["core"]["media_written_blocks"] + blocks
    assert stats["bands"]["checkpoint"] == rig.device.bands.kept_count == 1
    await rig.halt()
    await rig.load()
    await rig.check("after a halt")


@pytest.mark.rig(**ROOMY)
async def test_nothing_of_it_without_the_setting(rig: RestoreRig) -> None:
    await rig.create()
    await rig.traffic(3000)
    status = rig.device.checkpointing.status()
    assert status == {
        "turns": 0, "turns_given_up": 0, "written_blocks": 0, "whole": False, "bands": 0, "refused": None,
    }  # fmt: skip
    assert "checkpoint" not in rig.device.stats()["bands"]


@pytest.mark.rig(**ROOMY)
async def test_it_is_turned_off_while_hosts_write(rig: RestoreRig) -> None:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=20))
    rig.device.checkpointing.pause_s = 0
    await rig.traffic(2000)
    assert rig.device.checkpointing.turn is not None
    await rig.device.set_conf(dataclasses.replace(rig.device.conf, running_checkpoint=0))
    await rig.traffic(500)
    await rig.device.checkpointing.ended()
    assert rig.device.checkpointing.turn is None
    assert rig.device.bands.kept_count == 0
    await rig.flush()
    await rig.crash()
    quick, _ = await both(rig)
    assert not quick.from_turn


@pytest.mark.rig(**ROOMY)
async def test_hosts_that_wait_get_its_bands(rig: RestoreRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=50))
    rig.device.checkpointing.pause_s = 0
    await rig.traffic(2000)
    checkpointing = rig.device.checkpointing
    await checkpointing.ended()
    assert checkpointing.turn is not None
    monkeypatch.setattr(checkpointing, "_is_starved", lambda: True)
    checkpointing.look()
    await checkpointing.ended()
    assert checkpointing.turn is None
    assert rig.device.bands.kept_count == 0
    await rig.traffic(300)
    await rig.crash()
    quick, _ = await both(rig)
    assert not quick.from_turn


@pytest.mark.rig(zones=44, open_zones=7)
async def test_a_base_with_too_few_active_zones_has_none(rig: RestoreRig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.create(OFTEN)
    await rig.traffic(1000)
    assert rig.device.checkpointing.turns == 0
    assert "no running checkpoint: the base allows 7 active zones, but it takes 8" in caplog.text
    assert "7 active zones" in rig.device.checkpointing.status()["refused"]


def test_how_large_a_device_must_be() -> None:
    """Twice the bands of a turn must be spare."""
    for bands, possible in ((28, False), (60, True)):
        zones = [Zone(index, index * 4096, 4096, EMPTY, 0) for index in range(2 + bands)]
        geometry = plan(zones, zone_size=4096, num_punits=1)
        conf = FtlConf(running_checkpoint=10).check_geometry(geometry)
        why = running.why_not(geometry, conf, 4, emulated=False)
        assert (why is None) is possible, (bands, why)
        assert running.why_not(geometry, conf, 4, emulated=True) is not None


def test_the_setting_is_stored_where_earlier_releases_ignore_it() -> None:
    conf = FtlConf(running_checkpoint=15)
    assert "running_checkpoint" not in conf_to_store(conf)
    assert conf_beside(conf) == {"running_checkpoint_percent": 15}
    assert conf_beside(FtlConf()) == {}


@pytest.mark.rig(**ROOMY)
async def test_the_setting_outlives_a_load(rig: RestoreRig) -> None:
    await rig.create(dataclasses.replace(OFTEN, running_checkpoint=15))
    for _ in range(2):
        await rig.halt()
        await rig.load()
        assert rig.device.conf.running_checkpoint == 15
    await rig.device.set_conf(dataclasses.replace(rig.device.conf, running_checkpoint=0))
    await rig.crash()
    await rig.load()
    assert rig.device.conf.running_checkpoint == 0


DEFAULT = dataclasses.replace(CONF, running_checkpoint=None)


@pytest.mark.rig(**ROOMY)
async def test_a_large_ftl_has_one_unless_its_user_decides_otherwise(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create(DEFAULT)
    assert rig.device.conf.running_checkpoint == 0
    await rig.halt()
    monkeypatch.setattr(running, "BY_SIZE_FROM_BLOCKS", rig.device.block_count)
    monkeypatch.setattr(running, "BY_SIZE_SPARE", 1)
    await rig.create(dataclasses.replace(DEFAULT, running_checkpoint=0))
    assert rig.device.conf.running_checkpoint == 0
    await rig.halt()
    # What exists keeps what it has.
    await rig.load()
    assert rig.device.conf.running_checkpoint == 0
    await rig.halt()
    await rig.create(DEFAULT)
    percent = rig.device.conf.checkpoint_percent
    assert percent > 0
    await rig.traffic(1000)
    assert rig.device.checkpointing.turns > 0
    await rig.crash()
    # As of a conf that nobody has decided on.
    await rig.load(settings={"running_checkpoint": None})
    assert rig.device.conf.running_checkpoint == percent
    assert rig.device.restored["from_running_checkpoint"]


async def test_where_there_can_be_none_nothing_is_said_of_it(
    rig: RestoreRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running, "BY_SIZE_FROM_BLOCKS", 1)
    await rig.create(DEFAULT)
    assert rig.device.conf.running_checkpoint == 0
    await rig.traffic(300)
    assert "running checkpoint" not in caplog.text


def test_a_default_costs_at_most_a_hundredth_of_what_hosts_write() -> None:
    few, geometry = (
        plan([Zone(index, index << 17, 1 << 17, EMPTY, 0) for index in range(count)], zone_size=1 << 17, num_punits=1)
        for count in (150 + 2, 200 + 2)
    )
    conf = FtlConf().check_geometry(few)
    assert running.why_not(few, conf, 10, emulated=False) is None
    assert (running.percent_by_size(few, conf, emulated=False), few.spare_bands) == (0, 30), "a band is too many"
    assert geometry.block_count > running.BY_SIZE_FROM_BLOCKS
    for verify_reads, expected in ((False, 10), (True, 15)):
        conf = FtlConf(verify_reads=verify_reads).check_geometry(geometry)
        percent = running.percent_by_size(geometry, conf, emulated=False)
        assert percent == expected
        written = geometry.block_count * percent / 100
        assert 0.009 < running.turn_blocks(geometry, with_crcs=verify_reads) / written < 0.01
        assert running.percent_by_size(geometry, conf, emulated=True) == 0
