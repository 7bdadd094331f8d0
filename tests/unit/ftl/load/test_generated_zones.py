"""Bands that are made from a seed instead of stored (bench/scale.py): to a load, to the checker and to hosts they are
what an FTL has written."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.zone import CLOSED, FULL
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import zns_drive

ZONES = 40
ZONE_SIZE = 512
FREE_BANDS = 3
HEADER_LBA = 2**64 - 1
# Of the zones' capacities: the last batch of a zone is short; a whole one; none but a pad.
CAPACITIES = [300, 387, 388]


@dataclass
class Drive:
    reactor: ReactorLoop
    media: _shim.EmulatedMedia
    content: _shim.GeneratedZones
    device: FtlDevice
    """It has crashed."""

    @property
    def lbas(self) -> NDArray[np.uint64]:
        return np.arange(self.device.block_count, dtype=np.uint64)

    @contextlib.asynccontextmanager
    async def port(self, device: _shim.BlockDevice) -> AsyncIterator[BlockPort]:
        port = BlockPort(self.reactor, device, name="port")
        try:
            yield port
        finally:
            await port.close()


async def generated_drive(
    reactor: ReactorLoop, *, zone_capacity: int = CAPACITIES[0], punits: int = 1, batches_begun: int = 0, seed: int = 7
) -> Drive:
    media = zns_drive(reactor, zones=ZONES, zone_size=ZONE_SIZE, zone_capacity=zone_capacity)
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(lba_rsvd=35), num_punits=punits)
    await device.abort("crash")
    with contextlib.suppress(FtlError):
        await device.halt()
    geometry = device.geometry
    content = _shim.GeneratedZones(
        device.media_uuid.bytes,
        zone_size=ZONE_SIZE,
        zone_capacity=zone_capacity,
        band_count=geometry.band_count,
        punits=punits,
        block_count=geometry.block_count,
        full_bands=geometry.band_count - FREE_BANDS - 1,
        batches_begun=batches_begun,
        seed=seed,
    )
    media.hold(content)
    return Drive(reactor, media, content, device)


@pytest.mark.parametrize("punits", [1, 2])
@pytest.mark.parametrize("zone_capacity", CAPACITIES)
async def test_summaries_and_headers_say_the_same_and_every_block_matches_its_crc(
    zone_capacity: int, punits: int, reactor: ReactorLoop
) -> None:
    drive = await generated_drive(reactor, zone_capacity=zone_capacity, punits=punits)
    geometry, uuid = drive.device.geometry, drive.device.media_uuid
    newest = np.zeros(drive.device.block_count, layout.ENTRY)
    addresses = np.zeros(drive.device.block_count, np.uint64)
    band_seqs, blocks_seen, pads = set(), 0, 0
    states = [zone.state for zone in drive.media.zone_states()]
    async with drive.port(drive.media) as port:
        for band, zones in enumerate(geometry.bands):
            for punit, zone in enumerate(zones):
                assert zone is not None
                if states[zone] != FULL:
                    continue
                data = await port.read(zone * ZONE_SIZE, zone_capacity)
                parsed = layout.parse_summary(data[geometry.data_blocks :], uuid, band=band, punit=punit)
                assert parsed is not None
                entries = layout.summary_entries(parsed)
                band_seqs.add(parsed.band_seq)
                assert drive.content.band_seqs()[band] == parsed.band_seq
                assert len(entries) == geometry.data_blocks
                at = 0
                while at < geometry.data_blocks:
                    header = layout.parse_batch_header(data[at], uuid)
                    assert header is not None
                    assert (header.band, header.punit, header.band_seq) == (band, punit, parsed.band_seq)
                    assert header.address == zone * ZONE_SIZE + at
                    assert tuple(entries[at].tolist()) == (HEADER_LBA, 0, 0, layout.SUMMARY_FLAG_HEADER | header.kind)
                    pads += header.kind == layout.KIND_PAD
                    batch = slice(at + 1, at + header.block_count)
                    assert np.array_equal(header.entries, entries[batch])
                    assert np.array_equal(layout.crcs(data[batch]), header.entries["crc"])
                    for offset, entry in enumerate(header.entries, at + 1):
                        blocks_seen += 1
                        if newest[entry["lba"]]["seq"] < entry["seq"]:
                            newest[entry["lba"]], addresses[entry["lba"]] = entry, zone * ZONE_SIZE + offset
                    at += header.block_count
    assert (pads > 0) == (zone_capacity == CAPACITIES[2])
    assert len(band_seqs) == geometry.band_count - FREE_BANDS - 1
    assert blocks_seen == drive.content.slots > drive.device.block_count
    assert np.count_nonzero(drive.content.band_seqs()) == len(band_seqs)
    seqs, found = drive.content.newest(drive.lbas)
    assert np.array_equal(seqs, newest["seq"])
    assert np.array_equal(found, addresses)
    assert drive.content.blocks_made == len(band_seqs) * punits * zone_capacity
    assert drive.content.cpu_ns > 0


@pytest.mark.parametrize("batches_begun", [0, 2])
async def test_a_load_finds_what_was_made_and_the_checker_finds_no_damage(
    batches_begun: int, reactor: ReactorLoop
) -> None:
    drive = await generated_drive(reactor, batches_begun=batches_begun)
    assert [zone.state for zone in drive.media.zone_states()].count(CLOSED) == (1 if batches_begun else 0)
    report = await check(reactor, drive.media, name="base")
    assert report.ok, report.damage
    assert (report.mapped_blocks, report.data_blocks) == (drive.device.block_count, drive.content.slots)
    device = await loading.load(reactor, drive.media, name="ftl0", uuid=drive.device.uuid)
    assert device.restored is not None
    assert (device.restored["mapped_blocks"], device.restored["damage_count"]) == (drive.device.block_count, 0)
    seqs, addresses = drive.content.newest(drive.lbas)
    assert np.array_equal(device.core.l2p(0, device.block_count), addresses)
    await compare(drive, device, seqs.tolist())
    await device.halt()


async def compare(drive: Drive, device: FtlDevice, seqs: list[int], written: Any = ()) -> None:
    """Every LBA reads as the generator says, but for those that were written since."""
    async with drive.port(device.core) as user:
        for first in range(0, device.block_count, 32):
            data = await user.read(first, min(32, device.block_count - first))
            for lba, block in enumerate(data, first):
                expected = bytes([lba & 0xFF]) * 4096 if lba in written else drive.content.data(lba, seqs[lba])
                assert block.tobytes() == expected, lba


async def test_the_device_lives_on_with_bands_that_are_moved_reset_and_written(reactor: ReactorLoop) -> None:
    drive = await generated_drive(reactor)
    device = await loading.load(reactor, drive.media, name="ftl0", uuid=drive.device.uuid)
    seqs = drive.content.newest(drive.lbas)[0].tolist()
    written = range(0, device.block_count, 3)
    async with drive.port(device.core) as user:
        for lba in written:
            await user.write(lba, bytes([lba & 0xFF]) * 4096)
    assert device.core.stats().zone_resets > 3
    await compare(drive, device, seqs, written)
    await device.halt()
    device = await loading.load(reactor, drive.media, name="ftl0", uuid=drive.device.uuid)
    assert device.restored is not None
    assert device.restored["from_checkpoint"]
    await compare(drive, device, seqs, written)
    await device.halt()


async def test_the_same_seed_makes_the_same_and_another_another(reactor: ReactorLoop) -> None:
    one, again, other = [await generated_drive(reactor, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(one.content.newest(one.lbas), again.content.newest(one.lbas))
    assert not np.array_equal(one.content.newest(one.lbas), other.content.newest(one.lbas))
    assert one.content.data(3, 9) == again.content.data(3, 9) != other.content.data(3, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"zone_capacity": ZONE_SIZE + 1},
        {"punits": 0},
        {"full_bands": 0},
        {"full_bands": 38, "batches_begun": 1},
        {"batches_begun": 3},
        {"batch_blocks": 1},
        {"block_count": 0},
        {"block_count": 1000},
        {"block_count": 1 << 20},
        {"band_count": 2**32 - 1, "zone_size": 1 << 40},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    good = {"zone_size": ZONE_SIZE, "zone_capacity": 300, "band_count": 38, "punits": 1, "block_count": 7000}
    good |= {"full_bands": 30}
    content = _shim.GeneratedZones(bytes(16), **good)  # type: ignore[arg-type]
    assert content.slots > 7000
    with pytest.raises(ValueError, match="generated zones"):
        _shim.GeneratedZones(bytes(16), **(good | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no LBA 7000"):
        content.newest(np.array([6999, 7000], np.uint64))
    with pytest.raises(ValueError, match="16 bytes"):
        _shim.GeneratedZones(bytes(15), **good)  # type: ignore[arg-type]


async def test_media_that_cannot_hold_content_refuse_it(reactor: ReactorLoop) -> None:
    drive = await generated_drive(reactor)
    with pytest.raises(ValueError, match="once"):
        drive.media.hold(drive.content)
    with pytest.raises(ValueError, match="not stored"):
        drive.media.rot(2 * ZONE_SIZE, 1)
    with pytest.raises(ValueError, match="only zoned media"):
        _shim.EmulatedMedia.null(reactor.shim, 1000).hold(drive.content)
    used = zns_drive(reactor, zones=ZONES, zone_size=ZONE_SIZE, zone_capacity=300)
    async with drive.port(used) as port:
        for zone in range(2, ZONES):
            await port.write(zone * ZONE_SIZE, bytes(4096))
            await port.zone_action(_shim.ZoneAction.FINISH, zone * ZONE_SIZE)
    with pytest.raises(ValueError, match="is in use"):
        used.hold(drive.content)
    with pytest.raises(ValueError, match="too small"):
        zns_drive(reactor, zones=ZONES, zone_size=ZONE_SIZE, zone_capacity=200).hold(drive.content)
    assert {zone.state for zone in used.zone_states()[2:]} == {FULL}
