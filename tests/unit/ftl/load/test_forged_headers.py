"""A host writes blocks that look like headers of the FTL. On emulated zones a walk goes on behind a header that a loss
of power has cost, so it comes to them (docs/media-layout.md, "Media uuid")."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media import superblock as superblocks
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.layout import BATCH_HEADER, BATCH_MAGIC, KIND_TRIM, new_record, seal
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import ZONE_CAPACITY, ZONE_SIZE, RestoreRig
from unit.shim.ftl.core_bench import BLOCK, content, version_of

VICTIM, HOSTS = 7, 20
DEVICE_UUID = UUID("0c3a4a1e-6f07-4c8e-9c3f-0d3c5a1d9f10")


def trim_of_victim(uuid: UUID, band: Any, address: int, seq: int) -> bytes:
    """A header of a batch of records, at that address, with all that a load looks at."""
    record = new_record(BATCH_HEADER, BATCH_MAGIC, uuid)
    record["band_seq"], record["address"], record["count"], record["kind"] = band.seq, address, 1, KIND_TRIM
    record["band"], record["punit"] = band.number, band.punit
    record["entries"][0]["lba"][0], record["entries"][0]["seq"][0] = VICTIM, seq
    record["entries"][0]["crc"][0], record["entries"][0]["flags"][0] = 1, 1
    return bytes(seal(record).tobytes())


class Place:
    """Where an address is."""

    def __init__(self, rig: RestoreRig, address: int) -> None:
        geometry = rig.device.geometry
        zone = address // geometry.zone_size
        self.number = next(number for number, zones in enumerate(geometry.bands) if zone in zones)
        self.punit = geometry.bands[self.number].index(zone)
        self.seq = int(rig.device.core.bands()[self.number].seq)


async def load_after_attack(reactor: ReactorLoop, media_uuid: UUID | None) -> int:
    """A host writes headers with the uuid that it knows, that of the FTL. media_uuid: of creation. Returns the version
    of LBA VICTIM after a crash: 1, or 0 if it is trimmed."""
    disk = _shim.EmulatedMedia.conventional(reactor.shim, 44 * ZONE_SIZE, volatile_cache=True)

    def zoned() -> Any:
        return _shim.ZonedOverlay(reactor.shim, disk, zone_capacity=ZONE_CAPACITY, initial_state="full")

    rig = RestoreRig(reactor, zoned(), random.Random(1))
    await rig.create(uuid=DEVICE_UUID, media_uuid=media_uuid, num_punits=1)
    await rig.port.write(VICTIM, content(VICTIM, 1))
    await rig.port.flush()
    core = rig.device.core
    # Each write is a batch of its own: a header, then the block.
    at = int(core.l2p(VICTIM, 1)[0])
    forged = 0
    for lba in range(HOSTS, HOSTS + 8):
        claimed = at + 2
        block = trim_of_victim(DEVICE_UUID, Place(rig, at), claimed, rig.device.core.next_seq + 100)
        await rig.port.write(lba, block)
        await rig.port.flush()
        at = int(core.l2p(lba, 1)[0])
        if at == claimed:
            forged = at
            break
    assert forged, "the host has guessed an address"
    await rig.crash()
    port = BlockPort(reactor, disk, name="disk")
    await port.write(forged - 1, bytes(BLOCK))  # its header is lost
    await port.close()
    rig.base = zoned()
    await rig.load(num_punits=1)
    try:
        return version_of(VICTIM, bytes(await rig.port.read(VICTIM, 1)))
    finally:
        await rig.end()


async def test_a_host_that_does_not_know_the_media_uuid_forges_nothing(reactor: ReactorLoop) -> None:
    assert await load_after_attack(reactor, None) == 1


async def test_the_attack_works_on_an_ftl_of_version_2(reactor: ReactorLoop) -> None:
    """So the test above can fail: such an FTL has the uuid that everybody knows in its headers."""
    assert await load_after_attack(reactor, DEVICE_UUID) == 0


async def test_each_ftl_has_a_media_uuid_of_its_own_which_only_its_superblock_tells(reactor: ReactorLoop) -> None:
    seen = set()
    for _ in range(3):
        rig = RestoreRig(reactor, _shim.EmulatedMedia.zns(reactor.shim, 44, ZONE_SIZE, ZONE_CAPACITY), random.Random(1))
        await rig.create(uuid=DEVICE_UUID)
        media_uuid = rig.device.media_uuid
        assert media_uuid != DEVICE_UUID
        told = [rig.device.properties(), rig.device.stats()]
        assert str(media_uuid) not in repr(told)
        assert next(p["value"] for p in told[0]["properties"] if p["name"] == "superblock_version") == 3
        await rig.crash()
        port = BlockPort(reactor, rig.base, name="base")
        found = await superblocks.find(port, await port.zones())
        await port.close()
        assert found is not None
        assert (found.superblock.uuid, found.superblock.media_uuid) == (DEVICE_UUID, media_uuid)
        await rig.load()
        assert rig.device.media_uuid == media_uuid
        await rig.end()
        seen.add(media_uuid)
    assert len(seen) == 3
