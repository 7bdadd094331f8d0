"""Superblocks of devices with so many replaced zones that one block does not hold them."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media import layout, superblock
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import plan
from spdk_ftl_py.ftl.media.superblock import Superblock, SuperblockTooLongError, SuperblockWriter, part_of
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig, zns_drive
from unit.ftl.media.media_rig import UUID_A, ZONE_CAPACITY, ZONE_SIZE, opened_port


def content(replaced: int, seed: int = 1) -> dict[str, Any]:
    """Every zone of so many replaced by any other: hardly anything to be packed."""
    others = list(range(2 + replaced, 2 + 2 * replaced))
    random.Random(seed).shuffle(others)
    pairs = [[2 + n, other] for n, other in enumerate(others)]
    return {"n": seed, "geometry": {"replaced": pairs}, "bad_zones": list(range(2, 2 + replaced))}


async def found_in(port: BlockPort) -> superblock.Found:
    found = await superblock.find(port, await port.zones(), UUID_A)
    assert found is not None
    return found


def test_what_fits_into_a_block_is_written_as_ever() -> None:
    """So releases before this one load it."""
    told = content(100)
    block = Superblock(UUID_A, 7, True, told).build()
    record = np.frombuffer(block.tobytes(), layout.SUPERBLOCK)[0]
    assert len(block) == 4096
    assert (int(record["flags"]), int(record["part"]), int(record["part_count"])) == (1, 0, 0)
    assert json.loads(bytes(record["json"])[: int(record["length"])]) == told


@pytest.mark.parametrize("replaced", [200, 2_000, 65_534])
def test_however_many_zones_were_replaced_it_holds_them(replaced: int) -> None:
    told = content(replaced)
    blocks = Superblock(UUID_A, 7, True, told).build().reshape(-1, 4096)
    assert 1 <= len(blocks) <= 2 + replaced // 500
    assert Superblock.parts_before(blocks[-1], UUID_A) == len(blocks) - 1
    assert all(part_of(block, UUID_A) == 7 for block in blocks[:-1])
    assert all(Superblock.parse(block, UUID_A) is None for block in blocks[:-1])
    found = Superblock.parse(blocks[-1], UUID_A, list(blocks[:-1]))
    assert found == Superblock(UUID_A, 7, True, told)


def test_parts_of_another_superblock_make_none() -> None:
    blocks = Superblock(UUID_A, 7, True, content(2_000)).build().reshape(-1, 4096)
    others = Superblock(UUID_A, 8, True, content(2_000)).build().reshape(-1, 4096)
    last, before = blocks[-1], list(blocks[:-1])
    assert len(before) > 1
    assert Superblock.parse(last, UUID_A, before) is not None
    for wrong in (before[1:], before[::-1], [*before[:-1], others[len(before) - 1]], [*before[:-1], before[0]], []):
        assert Superblock.parse(last, UUID_A, wrong) is None
    assert Superblock.parse(last, UUID_A, [others[0], *before]) is not None, "only what stands right before it counts"


@pytest.mark.parametrize("bomb", ["bomb", "not packed", "cut off"])
def test_what_does_not_unpack_is_none(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Superblock(UUID_A, 7, True, content(2_000)).build().reshape(-1, 4096).copy()
    if bomb == "bomb":
        monkeypatch.setattr(superblock, "PACKED_BYTES_MAX", 1000)
    else:
        record = np.frombuffer(blocks[-1].tobytes(), layout.SUPERBLOCK).copy()
        record["length"] = 5
        if bomb == "not packed":
            record["json"] = np.void(b"xyz".ljust(4032, b"\0"))
        record["crc"] = 0
        blocks[-1] = layout.seal(record)
    assert Superblock.parse(blocks[-1], UUID_A, list(blocks[:-1])) is None


@pytest.mark.rig(max_io_blocks=3)
async def test_the_newest_is_found_whatever_their_lengths(media: _shim.EmulatedMedia, port: BlockPort) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    rng = random.Random(3)
    for n in range(60):
        told = content(rng.choice([0, 10, 300, 2_000, 4_000]), n)
        await writer.write(told, clean=bool(n % 2))
        assert sum(state not in ("empty", "full") for _, state, _ in media.zone_states()) <= 1
        found = await found_in(port)
        assert found.damage is None
        assert (found.superblock.generation, found.superblock.content["n"]) == (n + 1, n)
        assert found.superblock.content["geometry"] == told["geometry"]
        if n % 5 == 0:
            writer = SuperblockWriter(port, geometry, UUID_A, generation=n + 1, zone=found.zone, written=found.used)


@pytest.mark.rig(max_io_blocks=2)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 3])
async def test_one_that_was_cut_off_is_no_damage(
    parts: int, full: bool, media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    """The one before it counts, as if it had never been begun."""
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    if full:
        # The next one goes to the other zone.
        for n in range(2, ZONE_CAPACITY + 1):
            await writer.write({"n": n}, clean=False)
    before = await found_in(port)
    blocks = Superblock(UUID_A, writer.generation + 1, False, content(2_000)).build().reshape(-1, 4096)
    assert len(blocks) > parts
    start = ZONE_SIZE if full else 1
    for n in range(parts):
        await port.write(start + n, blocks[n])
    found = await found_in(port)
    assert (found.superblock, found.damage) == (before.superblock, None)
    # A load goes on from there.
    again = SuperblockWriter(
        port, geometry, UUID_A, generation=found.superblock.generation, zone=found.zone, written=found.used
    )
    await again.write(content(2_000, 5), clean=True)
    found = await found_in(port)
    assert (found.superblock.content["n"], found.damage) == (5, None)


@pytest.mark.parametrize("which", [0, 1, -1])
async def test_one_that_does_not_verify_is_damage(which: int, port: BlockPort) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    blocks = Superblock(UUID_A, 2, False, content(2_000)).build().reshape(-1, 4096).copy()
    blocks[which][100] ^= 1
    await port.write(1, blocks.reshape(-1))
    found = await found_in(port)
    assert found.superblock.content["n"] == 1
    assert found.damage is not None


async def test_a_write_that_fails_in_the_middle_is_repeated_behind_it(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    media.inject_fault(op=_shim.Op.FLUSH, status=0x007, do_not_retry=True, times=2)
    await writer.write(content(2_000, 2), clean=False)
    await writer.write({"n": 3}, clean=False)
    await writer.write(content(2_000, 4), clean=False)
    found = await found_in(port)
    assert (found.superblock.content["n"], found.damage) == (4, None)


async def test_emulated_zones_find_the_newest_of_those_that_are_long(reactor: ReactorLoop) -> None:
    drive = _shim.EmulatedMedia.conventional(reactor.shim, 130 * 64, volatile_cache=True)
    base = _shim.ZonedOverlay(reactor.shim, drive, zone_capacity=48, initial_state="empty")
    async with opened_port(reactor, base) as port:
        geometry = plan(await port.zones(), zone_size=64, num_punits=2)
        writer = SuperblockWriter(port, geometry, UUID_A)
        rng = random.Random(4)
        for n in range(40):
            await writer.write(content(rng.choice([0, 300, 2_000, 4_000]), n), clean=False)
            again = _shim.ZonedOverlay(reactor.shim, drive, zone_capacity=48, initial_state="full")
            async with opened_port(reactor, again) as other:
                found = await found_in(other)
                assert (found.superblock.content["n"], found.damage) == (n, None)
        del base


async def test_one_longer_than_a_zone_is_refused_before_anything_is_written(port: BlockPort) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    told = content(65_534)
    assert not writer.takes(told)
    with pytest.raises(SuperblockTooLongError, match=r"would have \d+ blocks, but a zone has 48"):
        await writer.write(told, clean=False)
    assert (await found_in(port)).superblock.content["n"] == 1
    assert writer.takes({"n": 2})
    await writer.write({"n": 2}, clean=False)
    assert (await found_in(port)).superblock.content["n"] == 2


# --- the zone that is left


async def test_a_zone_that_cant_be_finished_is_with_the_next_superblock(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    """Active, it counts against the device's limits beside the other one."""
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    media.inject_fault(op=_shim.Op.WRITE, lba=0, block_count=ZONE_SIZE, status=0x280)
    finish = media.inject_fault(op=_shim.Op.ZONE_SEND, lba=0, block_count=ZONE_SIZE, status=0x280)
    await writer.write({"n": 2}, clean=False)
    states = [state for _, state, _ in media.zone_states()]
    assert "open" in states[0] or states[0] == "closed"
    media.clear_faults(finish)
    await writer.write({"n": 3}, clean=False)
    assert media.zone_states()[0][1] == "full"


async def test_a_zone_that_the_drive_finished_has_nothing_missing_behind_the_newest(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    for n in range(3):
        await writer.write({"n": n}, clean=False)
    media.set_zone_state(0, "full")
    found = await found_in(port)
    assert (found.superblock.content["n"], found.damage) == (2, None)
    media.inject_fault(op=_shim.Op.READ, lba=3, block_count=1, status=0x281)
    assert (await found_in(port)).damage is not None, "what can't be read may have been one"
    media.clear_faults()
    await writer.write({"n": 3}, clean=False)
    found = await found_in(port)
    assert (found.superblock.content["n"], found.zone) == (3, 1)


async def test_a_zone_that_a_host_finished_tells_that_something_was_written_there(
    media: _shim.EmulatedMedia, port: BlockPort
) -> None:
    geometry = plan(await port.zones(), zone_size=ZONE_SIZE, num_punits=2)
    writer = SuperblockWriter(port, geometry, UUID_A)
    await writer.write({"n": 1}, clean=False)
    await port.zone_action(_shim.ZoneAction.FINISH, 0)
    assert (await found_in(port)).damage is not None


# --- devices


async def test_a_device_with_hundreds_of_replaced_zones_lives_and_loads(reactor: ReactorLoop) -> None:
    """With some 160 it could not be created, and failed when there were as many."""
    zones = 850
    drive = zns_drive(reactor, zones=zones, zone_size=32, zone_capacity=24)
    rng = random.Random(1)
    for zone in rng.sample(range(2, zones), 420):
        drive.set_zone_state(zone, "read_only")
    device = await creation.create(reactor, drive, name="ftl0", conf=FtlConf(lba_rsvd=60), num_punits=1)
    assert len(device.geometry.replaced) > 160
    assert len(json.dumps(device._superblock_content(), separators=(",", ":"))) > superblock.JSON_BYTES_MAX
    rig = FtlRig(reactor, drive, device)
    await rig.good("write", pattern="sequential", io_blocks=8)
    # And more while it runs, for which there are no spares.
    more = [zone for zone in rng.sample(range(2, zones), 80) if zone not in device.zone_map.bad_zones]
    device.zone_watch.round_s = 0.5
    for zone in more:
        drive.set_zone_state(zone, "read_only")
    until = device.zone_watch.rounds + 3
    await rig.until(lambda: device.zone_watch.rounds >= until)
    await rig.overwrite(1)
    await rig.verify()
    assert device.state is FtlState.RUNNING
    sample = await rig.port.read(0, 64)
    bad, missing = device.zone_map.bad_zones, device.zone_map.missing_count
    assert missing > 30
    await rig.close()
    await device.halt()
    report = await check(reactor, drive, name="base")
    assert report.ok, report.damage
    again = await loading.load(reactor, drive, name="ftl0", uuid=device.uuid)
    assert (again.zone_map.bad_zones, again.zone_map.missing_count) == (bad, missing)
    rig = FtlRig(reactor, drive, again)
    assert (await rig.port.read(0, 64) == sample).all()
    await rig.good("write", pattern="sequential", io_blocks=8)
    await rig.verify()
    await rig.close()
    await again.halt()


async def test_a_device_whose_superblock_would_be_too_long_is_read_only_and_not_failed(
    reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = zns_drive(reactor, zones=66, zone_size=64, zone_capacity=60)
    device = await creation.create(reactor, drive, name="ftl0", conf=FtlConf(), num_punits=1)
    rig = FtlRig(reactor, drive, device)
    await rig.overwrite(1)
    build = Superblock.build

    def far_too_long(self: Superblock) -> Any:
        return np.tile(build(self), 61)

    monkeypatch.setattr(Superblock, "build", far_too_long)
    zone = next(band.zones[0] for band in device._bands if band.state == "closed")
    assert zone is not None
    drive.set_zone_state(zone, "read_only")
    device.zone_watch.round_s = 0.5
    await rig.until(lambda: device.state is not FtlState.RUNNING)
    assert device.state is FtlState.READ_ONLY
    assert device.failure is not None
    assert "too many zones were replaced" in device.failure.message
    with pytest.raises(MediaError):
        await rig.port.write(0, np.zeros(4096, np.uint8))
    await rig.port.read(0, 1)
    await rig.close()
    await device.abort("the end")
    await device.halt()
    monkeypatch.undo()
    again = await loading.load(reactor, drive, name="ftl0", uuid=device.uuid)
    assert again.lost_blocks == 0
    await again.halt()
