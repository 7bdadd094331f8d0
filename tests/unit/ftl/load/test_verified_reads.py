"""Reads are verified, whatever became of the blocks: loads of each kind, relocation, and what a user may set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl.load import checkpoint
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.ftl.load.restore_rig import CONF, RestoreRig
from unit.ftl.load.test_checkpoint import came_from_checkpoint, place_of
from unit.shim.ftl.core_bench import content

UNRECOVERED_READ = 0x281
UNVERIFIED = replace(CONF, verify_reads=False)


async def filled(rig: RestoreRig, conf: Any = CONF) -> None:
    """Each block is on media alone: it was written once, and others behind it."""
    await rig.create(conf)
    for _ in range(2):
        for lba in range(rig.device.block_count):
            await rig.port.write(lba, content(lba, 1))
    await rig.flush()


def victims(rig: RestoreRig, count: int = 3) -> list[int]:
    """LBAs whose block stands in a band that is closed."""
    account = rig.device.core.bands()
    entries = rig.device.core.l2p(0, rig.device.block_count)
    zones = {zone: b for b, band in enumerate(rig.device.geometry.bands) for zone in band}
    found = [
        lba
        for lba in map(int, np.flatnonzero(entries < 1 << 62))
        if account[zones[int(entries[lba]) // rig.device.geometry.zone_size]].state == _shim.BandState.CLOSED
    ]
    return found[5 :: max(1, len(found) // count)][:count]


def address(rig: RestoreRig, lba: int) -> int:
    return int(rig.device.core.l2p(lba, 1)[0])


async def readable(rig: RestoreRig, lba: int) -> bool:
    """False: an error. Anything but what was written fails."""
    try:
        data = await rig.port.read(lba, 1)
    except MediaError as error:
        if error.status != UNRECOVERED_READ:
            raise
        return False
    assert data.tobytes() == content(lba, 1)
    return True


async def bad_blocks(rig: RestoreRig) -> list[int]:
    return [lba for lba in range(rig.device.block_count) if not await readable(rig, lba)]


def rot(rig: RestoreRig, lbas: list[int]) -> None:
    for lba in lbas:
        rig.base.rot(address(rig, lba), 77 + lba)


async def test_the_band_of_a_bad_block_is_moved_and_the_error_stays(rig: RestoreRig) -> None:
    await filled(rig)
    (lba,) = victims(rig, 1)
    rot(rig, [lba])
    was = address(rig, lba)
    assert not await readable(rig, lba)
    for _ in range(20_000):
        if rig.device.lost_blocks:
            break
        await rig.port.flush()
    assert rig.device.lost_blocks == 1, "nobody wrote anything: it was moved for its sake"
    assert address(rig, lba) != was
    stats = rig.device.stats()
    assert (stats["unreadable_blocks"], stats["unreadable_bands"], stats["zone_faults"]) == (1, 1, 0)
    assert await bad_blocks(rig) == [lba]
    await rig.halt()
    await rig.load()
    assert await bad_blocks(rig) == [lba]
    await rig.port.write(lba, content(lba, 1))
    assert await bad_blocks(rig) == []
    assert rig.device.zone_map.missing_count == 0, "its zones are as good as before"


@pytest.mark.parametrize("dirty", [False, True])
async def test_blocks_that_rotted_are_noticed_after_a_load(rig: RestoreRig, dirty: bool) -> None:
    await filled(rig)
    await (rig.crash() if dirty else rig.halt())
    await rig.load()
    assert came_from_checkpoint(rig) is not dirty
    lbas = victims(rig)
    rot(rig, lbas)
    assert await bad_blocks(rig) == lbas


@pytest.mark.parametrize("dirty", [False, True])
async def test_blocks_that_rot_while_nobody_looks_are_noticed_after_a_load(rig: RestoreRig, dirty: bool) -> None:
    await filled(rig)
    lbas = victims(rig)
    addresses = [address(rig, lba) for lba in lbas]
    await (rig.crash() if dirty else rig.halt())
    for each in addresses:
        rig.base.rot(each, 5)
    await rig.load()
    assert await bad_blocks(rig) == lbas


async def test_crcs_of_a_checkpoint_are_those_of_the_bands(rig: RestoreRig) -> None:
    await rig.create()
    await rig.traffic(1500)
    await rig.halt()
    port = BlockPort(rig.reactor, rig.base, name="base")
    found = [await restore(port, rig.device.uuid, use_checkpoint=use) for use in (True, False)]
    await port.close()
    assert [each.from_checkpoint for each in found] == [True, False]
    blocks = found[0].l2p >> np.uint64(62) == 0
    assert blocks.any()
    crcs = [each.table.crcs(0, each.table.block_count)[blocks] for each in found]
    assert found[0].table.has_crcs
    assert crcs[0].any()
    assert (crcs[0] == crcs[1]).all()


async def test_a_device_may_begin_to_verify_and_stop_it(rig: RestoreRig) -> None:
    await filled(rig, UNVERIFIED)
    with pytest.raises(ValueError, match="does not verify reads"):
        rig.device.core.crcs(0, 1)
    await rig.halt()
    _, place = await place_of(rig)
    assert place is not None
    assert place["crcs"] is False
    await rig.load(settings={"verify_reads": True})
    assert not came_from_checkpoint(rig), "it has no CRCs: the bands have"
    assert rig.device.conf.verify_reads
    lbas = victims(rig)
    rot(rig, lbas)
    assert await bad_blocks(rig) == lbas
    for lba in lbas:
        await rig.port.write(lba, content(lba, 1))
    await rig.halt()
    await rig.load()
    assert came_from_checkpoint(rig)
    assert rig.device.conf.verify_reads, "as it was"
    await rig.halt()
    await rig.load(settings={"verify_reads": False})
    assert came_from_checkpoint(rig)
    rot(rig, victims(rig, 1))
    (lba,) = victims(rig, 1)
    assert (await rig.port.read(lba, 1)).tobytes() != content(lba, 1)


async def test_a_checkpoint_of_an_older_release_is_not_used(rig: RestoreRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which did not know of CRCs. What is on media has them all."""
    write = checkpoint.write

    async def older(*args: Any, **options: Any) -> Any:
        place = await write(*args, **{**options, "with_crcs": False})
        assert place is not None
        del place["crcs"]
        return place

    monkeypatch.setattr(checkpoint, "write", older)
    await filled(rig)
    await rig.halt()
    await rig.load()
    assert not came_from_checkpoint(rig)
    assert await bad_blocks(rig) == []


async def test_the_price_is_told(rig: RestoreRig) -> None:
    await rig.create()
    told = {entry["name"]: entry for entry in rig.device.properties()["properties"]}
    assert told["read_crc_size"]["value"] == 2
    assert told["conf"]["value"]["verify_reads"] is True
    assert len(rig.device.core.crcs(0, rig.device.block_count)) == rig.device.block_count
    await rig.halt()
    await rig.load(settings={"verify_reads": False})
    told = {entry["name"]: entry for entry in rig.device.properties()["properties"]}
    assert told["read_crc_size"]["value"] == 0
    assert told["conf"]["value"]["verify_reads"] is False


async def test_a_read_that_media_refuse_once_costs_nothing(rig: RestoreRig) -> None:
    await filled(rig)
    (lba,) = victims(rig, 1)
    rig.base.inject_fault(op=_shim.Op.READ, lba=address(rig, lba), block_count=1, status=UNRECOVERED_READ, times=1)
    assert await readable(rig, lba)
    assert rig.device.stats()["unreadable_bands"] == 0
