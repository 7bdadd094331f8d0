"""Loading from a base whose zones went bad, or that somebody else's software wrote."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FtlError, MediaError, UnsupportedError
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.load.restore import restore
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.band import RETIRED
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.ftl.load.restore_rig import ZONE_SIZE, MakeRestoreRig, RestoreRig
from unit.ftl.load.test_restore import copied_with


async def zone_with_data(rig: RestoreRig) -> tuple[int, list[int]]:
    """A zone of a band, and the LBAs whose data stand in it."""
    l2p = rig.device.core.l2p(0, rig.device.block_count)
    zones = [zone for band in rig.device.geometry.bands for zone in band if zone is not None]
    held = {zone: np.flatnonzero(l2p // np.uint64(ZONE_SIZE) == zone) for zone in zones}
    zone = max(held, key=lambda each: len(held[each]))
    return zone, [int(lba) for lba in held[zone]]


async def standing_in(rig: RestoreRig, zone: int) -> set[int]:
    """The LBAs whose data, or the header of whose trim, stand in it, by what is on media."""
    port = BlockPort(rig.reactor, rig.base, name="base")
    try:
        l2p = (await restore(port, rig.device.uuid)).l2p
    finally:
        await port.close()
    addresses = np.where(l2p == np.uint64(_shim.ADDRESS_INVALID), l2p, l2p & ~np.uint64(_shim.LOST_FLAG))
    return {int(lba) for lba in np.flatnonzero(addresses // np.uint64(ZONE_SIZE) == zone)}


async def settle(rig: RestoreRig) -> None:
    """Until what a bad zone set off has come to its end."""
    for _ in range(40):
        await rig.traffic(100)
        await rig.flush()


@pytest.mark.parametrize("zones", [44, 46], ids=["no spare", "spares"])
@pytest.mark.parametrize("how", ["halt", "crash"])
async def test_zones_that_are_read_only_at_the_load_cost_nothing(
    how: str, zones: int, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(zones=zones, seed=5)
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    versions = await rig.versions()
    zone, lbas = await zone_with_data(rig)
    assert lbas
    await (rig.halt() if how == "halt" else rig.crash())
    # Also one that is free, and where the newest superblock is.
    empty = next(start // ZONE_SIZE for start, state, _ in reversed(drive.zone_states()[: 2 + 42]) if state == "empty")
    for each in (zone, empty, 0):
        drive.set_zone_state(each, "read_only")
    report = await check(rig.reactor, drive, name="base")
    assert report.ok, report.damage
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["damage_count"] == 0
    assert await rig.versions() == versions
    rig.model.restart(versions)
    await settle(rig)
    in_bands = {each for band in rig.device._bands for each in band.zones}
    assert not {zone, empty} & in_bands
    for _ in range(2):
        await rig.check("while it runs")
        await rig.halt()
        await rig.load()
        await rig.check("after a halt")
        await rig.flush()
        await rig.crash()
        await rig.load()
        await rig.check("after a crash")


@pytest.mark.rig(zones=46, seed=6)
async def test_the_newest_superblock_may_have_been_in_a_zone_that_is_offline(rig: RestoreRig) -> None:
    """An older one may not know of a zone that was replaced or swapped since: its data would be reset with it."""
    await rig.create()
    await rig.traffic(200)
    await rig.flush()
    while rig.base.zone_states()[1][1] == "empty":
        await rig.device.write_superblock(clean=False)
    await rig.crash()
    assert rig.base.zone_states()[0][1] == "full"
    rig.base.set_zone_state(1, "offline")
    with pytest.raises(FtlError, match=r"zone 1.*the newest superblock is damaged"):
        await rig.load()
    rig.base.set_zone_state(1, "read_only")
    await rig.load()
    await rig.check("from a zone that is read-only")
    await rig.end()


@pytest.mark.parametrize("how", ["halt", "crash"])
async def test_a_zone_that_is_offline_at_the_load_is_damage_and_can_be_gone_without(how: str, rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    await rig.flush()
    versions = await rig.versions()
    zone, lbas = await zone_with_data(rig)
    await (rig.halt() if how == "halt" else rig.crash())
    gone = await standing_in(rig, zone)
    drive.set_zone_state(zone, "offline")
    states = drive.zone_states()
    with pytest.raises(FtlError, match=rf"(?s)zone {zone} \(band .*\) is offline.*allow-open-bands"):
        await rig.load()
    assert drive.zone_states() == states
    report = await check(rig.reactor, drive, name="base")
    assert any(f"zone {zone} " in text and "offline" in text for text in report.damage)
    await rig.load(settings={"allow_open_bands": True})
    after: list[int | None] = []
    for lba in range(rig.device.block_count):
        try:
            (block,) = await rig.port.read(lba, 1)
            after.append(int.from_bytes(block.tobytes()[8:16], "little") if block.any() else 0)
        except MediaError:
            after.append(None)
    different = {lba for lba, version in enumerate(after) if version != versions[lba]}
    assert different <= gone
    # All of it can be written again, and the zone is not missed.
    for lba in lbas:
        await rig.port.write(lba, b"z" * 4096)
    await settle_without_model(rig)
    assert zone not in {each for band in rig.device._bands for each in band.zones}
    await rig.halt()
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["damage_count"] == 0


async def settle_without_model(rig: RestoreRig) -> None:
    for _ in range(60):
        for lba in range(0, rig.device.block_count, 8):
            await rig.port.write(lba, b"y" * 4096)
        await rig.port.flush()


@pytest.mark.rig(seed=7)
async def test_bands_that_have_lost_all_their_zones_stay_away(rig: RestoreRig) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    gone = rig.device.geometry.bands[5]
    for zone in gone:
        assert zone is not None
        drive.set_zone_state(zone, "read_only")
    await rig.flush()
    for _ in range(60):
        if rig.device._bands[5].state == RETIRED:
            break
        await rig.traffic(300)
    assert rig.device._bands[5].state == RETIRED
    for how in ("halt", "crash", "halt", "halt", "crash", "crash"):
        await rig.traffic(300)
        await rig.flush()
        await rig.check(f"before a {how}")
        await (rig.halt() if how == "halt" else rig.crash())
        report = await check(rig.reactor, drive, name="base")
        assert report.ok, report.damage
        await rig.load()
        assert rig.device.restored is not None
        assert rig.device.restored["from_checkpoint"] == (how == "halt")
        assert rig.device._bands[5].state == RETIRED
        assert rig.device._bands[5].zones == [None, None]
        await rig.check(f"after a {how}")


@pytest.mark.parametrize("which", ["newest", "older"])
async def test_a_superblock_of_another_version_is_refused_by_name_and_nothing_is_changed(
    which: str, rig: RestoreRig
) -> None:
    drive = rig.base
    await rig.create()
    await rig.traffic(100)
    await rig.halt()
    port = BlockPort(rig.reactor, drive, name="base")
    blocks = await port.read(0, 2)
    await port.close()
    address = 1 if which == "newest" else 0
    record = np.frombuffer(blocks[address].tobytes(), layout.SUPERBLOCK).copy()
    record["version"] = 77
    record["crc"] = 0
    copy = await copied_with(rig, drive, {address: layout.seal(record).tobytes()})
    rig.base = copy
    states = copy.zone_states()
    if which == "newest":
        with pytest.raises(UnsupportedError, match="the superblock has media format version 77"):
            await rig.load()
        assert copy.zone_states() == states
        rig.base = drive
    await rig.load()
