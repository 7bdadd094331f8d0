"""The checker: what is whole is called whole, also after crashes; every damaged block is named; nothing is written."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError, NotFoundError, UnsupportedError
from spdk_ftl_py.ftl import check as check_module
from spdk_ftl_py.ftl.check import CheckReport, ReadOnlyPort, check, damage_lines
from spdk_ftl_py.ftl.load import checkpoint
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import ZONE_CAPACITY, ZONE_SIZE, RestoreRig, restore_rig_of_the_test, restore_rigs  # noqa: F401
from unit.ftl.load.test_checkpoint import LAST_OF_CRCS, LAST_OF_L2P, addresses_of
from unit.ftl.load.test_restore import OTHER, copied_with
from unit.shim.ftl.core_bench import content

INTERNAL_ERROR = 0x006
UNRECOVERED_READ = 0x281
NEVER = 1 << 60


async def check_of(rig: RestoreRig, **options: Any) -> CheckReport:
    return await check(rig.reactor, rig.base, name="base", **options)


async def everything(rig: RestoreRig, drive: Any) -> tuple[Any, bytes]:
    port = BlockPort(rig.reactor, drive, name="base")
    try:
        return drive.zone_states(), (await port.read(0, drive.block_count)).tobytes()
    finally:
        await port.close()


async def test_a_halted_device_is_clean_and_counted(rig: RestoreRig) -> None:
    await rig.create()
    rig.device.wear.unsaved_max = NEVER
    await rig.traffic(3000)
    versions = await rig.versions()
    await rig.halt()
    told: dict[str, float] = {}
    report = await check_of(rig, uuid=rig.device.uuid, progress=told.__setitem__)
    assert report.ok, report.damage
    assert (report.clean, report.checkpoint, report.uuid) == (True, "whole", rig.device.uuid)
    assert report.mapped_blocks == len(versions) - versions.count(0)
    assert (report.lost_blocks, report.torn_blocks) == (0, 0)
    assert (report.superblocks, report.generation) == (2, 2)
    assert report.record_headers > 0 < report.summaries
    assert report.data_blocks >= report.mapped_blocks
    assert told["blocks"] == told["checkpoint"] == 1.0
    again = await check_of(rig)
    assert again.to_dict() == report.to_dict()
    await rig.load()


@pytest.mark.parametrize("cached", [False, True])
async def test_what_a_load_would_read_elsewhere_is_named(cached: bool, rig: RestoreRig) -> None:
    cache = _shim.EmulatedMedia.conventional(rig.reactor.shim, 512) if cached else None
    await rig.create(cache=cache)
    await rig.traffic(100)
    await rig.crash()
    assert (await check_of(rig)).not_looked_at == ["write buffer file", *(["nv cache"] if cached else [])]
    await rig.load(cache=cache)
    await rig.halt()
    assert (await check_of(rig)).not_looked_at == []


async def test_a_check_writes_nothing_and_could_not(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.crash()
    before = await everything(rig, drive)
    await check_of(rig)
    assert await everything(rig, drive) == before
    port = ReadOnlyPort(rig.reactor, drive, name="base")
    for attempt in (
        port.write(0, bytes(4096)),
        port.append(0, bytes(4096)),
        port.flush(),
        port.zone_action(_shim.ZoneAction.RESET, 0),
        port._submit(_shim.Op.DEALLOCATE, 0, 1),
    ):
        with pytest.raises(AssertionError, match="the check only reads"):
            await attempt
    await port.close()
    assert await everything(rig, drive) == before
    await rig.load()


async def test_a_device_that_was_just_made_is_clean(rig: RestoreRig) -> None:
    await rig.create()
    await rig.crash()
    report = await check_of(rig)
    assert report.ok
    assert (report.clean, report.checkpoint, report.mapped_blocks, report.data_blocks) == (False, "none", 0, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("emulated", [False, True], ids=["zns", "emulated"])
async def test_what_a_crash_leaves_is_no_damage(seed: int, emulated: bool, reactor: ReactorLoop) -> None:
    if emulated:
        disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE, volatile_cache=True)
    else:
        disk = _shim.EmulatedMedia.zns(reactor.shim, 44, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7)

    def base() -> Any:
        if not emulated:
            return disk
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, base(), random.Random(seed))
    await rig.create()
    torn = halted = 0
    for crash in range(60):
        if crash >= 14 and halted and (torn or not emulated):
            break
        if rig.rng.random() < 0.75:
            disk.cut_power_at(disk.operations + rig.rng.randrange(5, 700), rig.rng.randrange(1 << 32))
            await rig.traffic(3000)
            await rig.crash()
        else:
            await rig.traffic(200)
            await rig.halt()
        disk.cut_power_at(0, 0)
        disk.power_on()
        rig.base = base()
        report = await check_of(rig)
        assert report.ok, (seed, crash, report.damage)
        torn += report.torn_blocks
        halted += report.clean
        await rig.load()
        assert rig.device.restored is not None
        expected = rig.device.core.l2p(0, rig.device.block_count)
        assert report.mapped_blocks == int(np.count_nonzero(check_module._kinds(expected) == check_module._DATA))
    assert halted > 0
    # Of a zone of a drive's own, what is lost stood behind the write pointer.
    assert torn > 0 or not emulated
    await rig.end()


@pytest.mark.parametrize("halted", [True, False], ids=["halted", "crashed"])
async def test_each_damaged_block_is_named(halted: bool, rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    rig.device.wear.unsaved_max = NEVER
    await rig.traffic(1500)
    await rig.flush()
    await (rig.halt() if halted else rig.crash())
    before = await check_of(rig)
    assert before.ok
    written = [
        address
        for start, state, pointer in drive.zone_states()
        for address in range(start, start + ZONE_CAPACITY if state == "full" else pointer)
    ]
    held = await addresses_of(rig) if halted else []
    port = BlockPort(rig.reactor, drive, name="base")
    rng = random.Random(3)
    unnamed = 0
    for address in sorted({*rng.sample(written, 60), *held, 0}):
        block = (await port.read(address, 1))[0].copy()
        block[rng.randrange(4096)] ^= 1 << rng.randrange(8)
        rig.base = await copied_with(rig, drive, {address: block.tobytes()})
        if address == 0 and not halted:
            # The only superblock.
            with pytest.raises(NotFoundError):
                await check_of(rig)
            continue
        report = await check_of(rig)
        if report.ok:
            # Of a zone's last batch, and not in force: a loss of power explains it.
            assert report.torn_blocks > before.torn_blocks, address
            continue
        unnamed += not any(str(address) in text for text in report.damage)
    # A part of the checkpoint, or a header that hides others, is told by the range it is in.
    assert unnamed <= len(held) + 12
    await port.close()
    rig.base = drive


async def test_blocks_that_can_not_be_read_are_damage(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    l2p = rig.device.core.l2p(0, rig.device.block_count)
    address = int(l2p[l2p < np.uint64(44 * ZONE_SIZE)][0])
    await rig.halt()
    drive.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=INTERNAL_ERROR)
    report = await check_of(rig)
    assert any(f"block {address} " in text and "can't be read" in text for text in report.damage)
    drive.clear_faults()
    drive.power_cut(1)
    with pytest.raises(MediaError):
        await check_of(rig)
    drive.power_on()


async def test_what_was_lost_is_damage_until_it_is_written_again(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    l2p = rig.device.core.l2p(0, rig.device.block_count)
    lost = int(np.flatnonzero(l2p < np.uint64(44 * ZONE_SIZE))[0])
    drive.inject_fault(op=_shim.Op.READ, lba=int(l2p[lost]), block_count=1, status=UNRECOVERED_READ)
    # All but that one, until garbage collection comes to it.
    for lba in itertools.cycle(range(rig.device.block_count)):
        if rig.device.lost_blocks:
            break
        if lba != lost:
            await rig.port.write(lba, content(lba, 1 << 40))
    drive.clear_faults()
    for halted in (False, True):
        await (rig.halt() if halted else rig.crash())
        report = await check_of(rig)
        assert report.damage == [
            f"LBA {lost} is lost: media could not be read, or a host has declared this uncorrectable; reads return an "
            "error until the block is written or trimmed"
        ]
        assert (report.ok, report.lost_blocks, report.clean) == (False, 1, halted)
        await rig.load()
    await rig.port.write(lost, content(lost, 1))
    await rig.halt()
    report = await check_of(rig)
    assert (report.ok, report.lost_blocks) == (True, 0)


async def test_a_checkpoint_that_says_something_else_than_the_bands_is_damage(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1000)
    versions = await rig.versions()
    held = [lba for lba, version in enumerate(versions) if version]
    await rig.halt()
    address = (await addresses_of(rig))[LAST_OF_L2P]
    port = BlockPort(rig.reactor, drive, name="base")
    good = (await port.read(address, 1)).view(layout.CHECKPOINT).reshape(-1).copy()
    await port.close()
    assert int(good["section"][0]) == checkpoint.SECTION_L2P
    first = int(good["first"][0])
    one, other = [lba - first for lba in held if lba >= first][:2]
    for entry, told in ((None, "but no header does"), ((1 << 32) - 1, "differs from the bands")):
        record = good.copy()
        entries = record["data"][0].view("<u4")
        entries[one] = entries[other] if entry is None else entry
        record["crc"] = 0
        rig.base = await copied_with(rig, drive, {address: layout.seal(record).tobytes()})
        report = await check_of(rig)
        assert any(f"LBA {first + one}: " in text and told in text for text in report.damage), report.damage
    rig.base = drive


async def test_a_checkpoint_with_another_crc_than_the_bands_is_damage(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1000)
    held = [lba for lba, version in enumerate(await rig.versions()) if version]
    await rig.halt()
    address = (await addresses_of(rig))[LAST_OF_CRCS]
    port = BlockPort(rig.reactor, drive, name="base")
    record = (await port.read(address, 1)).view(layout.CHECKPOINT).reshape(-1).copy()
    await port.close()
    assert (int(record["section"][0]), int(record["first"][0])) == (checkpoint.SECTION_CRCS, 0)
    record["data"][0].view("<u2")[held[3]] ^= 1
    record["crc"] = 0
    rig.base = await copied_with(rig, drive, {address: layout.seal(record).tobytes()})
    report = await check_of(rig)
    assert report.damage == [f"LBA {held[3]}: the L2P checkpoint has another CRC than its block"]
    rig.base = drive


async def test_what_is_no_ftl_or_not_ours_is_not_checked(rig: RestoreRig) -> None:
    drive = rig.base
    with pytest.raises(NotFoundError, match="holds no FTL"):
        await check_of(rig)
    await rig.create()
    await rig.halt()
    with pytest.raises(NotFoundError, match=f"no FTL with uuid {OTHER}"):
        await check_of(rig, uuid=OTHER)
    port = BlockPort(rig.reactor, drive, name="base")
    blocks = await port.read(0, 2)
    await port.close()
    changed = {}
    for i in range(2):
        record = np.frombuffer(blocks[i].tobytes(), layout.SUPERBLOCK).copy()
        record["version"] = 9
        record["crc"] = 0
        changed[i] = layout.seal(record).tobytes()
    rig.base = await copied_with(rig, drive, changed)
    with pytest.raises(UnsupportedError, match="format version 9, but this software supports 2"):
        await check_of(rig)
    rig.base = drive


def test_long_lists_of_damage_are_cut_but_counted() -> None:
    report = CheckReport("ftl0", OTHER, 3, 1, True, 1, 1, 1)
    for i in range(check_module.DAMAGE_MAX + 5):
        report.add(f"block {i}")
    assert len(report.damage) == check_module.DAMAGE_MAX
    assert damage_lines(report, 2) == ["block 0", "block 1", f"and {check_module.DAMAGE_MAX + 3} more"]
    assert not report.ok
    assert damage_lines(CheckReport("ftl0", OTHER, 3, 1, True, 1, 1, 1), 2) == []
