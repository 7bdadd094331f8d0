"""Emulated zones that are written again: what is left of an earlier life must neither hide the later one, nor come
back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.layout import KIND_PAD, build_batch_header, parse_batch_header, parse_summary_block
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.emulated_rig import CONF, EmulatedRig, closed_zone, emulated_rig
from unit.shim.ftl.core_bench import content, version_of

UNRECOVERED_READ = 0x281


@dataclass
class Again:
    """A zone that is written again, behind the whole summary of its earlier life."""

    start: int
    first_batch: int
    """Data blocks of its first batch."""
    in_force: int


async def written_again(rig: EmulatedRig) -> Again:
    data_blocks = rig.device.geometry.data_blocks
    for _ in range(3000):
        await rig.traffic(6)
        await rig.flush()
        l2p = rig.device.core.l2p(0, rig.device.block_count)
        for place in rig.places():
            blocks = await rig.raw.read(place.start, data_blocks + 1)
            first = parse_batch_header(blocks[0], rig.device.media_uuid)
            summary = parse_summary_block(blocks[-1], rig.device.media_uuid)
            if first is None or summary is None or summary.band_seq == first.band_seq:
                continue
            headers = [parse_batch_header(block, rig.device.media_uuid) for block in blocks[:-1]]
            mine = [each for each in headers if each is not None and each.band_seq == first.band_seq]
            in_force = int(((l2p >= place.start) & (l2p < place.start + data_blocks)).sum())
            if len(mine) > 5 and in_force > 60:
                return Again(place.start, len(first.entries), in_force)
    raise AssertionError("no zone was written again")


@pytest.mark.parametrize("how", ["rot", "unreadable"])
async def test_a_bad_first_header_costs_its_batch_alone(how: str, reactor: ReactorLoop) -> None:
    """The summary must not hide what was written since."""
    async with emulated_rig(reactor) as rig:
        await rig.create(CONF)
        zone = await written_again(rig)
        await rig.crash()
        if how == "rot":
            rig.disk.rot(zone.start, 4000 * 8)
        else:
            rig.disk.inject_fault(op=_shim.Op.READ, lba=zone.start, block_count=1, status=UNRECOVERED_READ)
        await rig.reload()
        found = await rig.versions()
        lost = [lba for lba, version in enumerate(found) if version not in rig.model.history[lba].values()]
        assert len(lost) <= zone.first_batch < zone.in_force


async def test_rows_that_a_load_did_not_see_stay_unseen_when_a_later_life_begins(reactor: ReactorLoop) -> None:
    """Their seqs are given again. A part of a summary, and a header that was lost, whose batch reaches into what that
    part describes; later one header of the next life, in the middle of the batch."""
    async with emulated_rig(reactor, capacity=500) as rig:
        zone = await closed_zone(rig)
        summary, count = rig.summary_of(zone.start)
        assert count > 1
        data = range(zone.start, zone.start + rig.device.geometry.data_blocks)
        headers = [address - zone.start for address in data if address not in zone.addresses]
        border = 168
        lost = max(each for each in headers if each < border)
        assert 0 < lost < border < min(each for each in headers if each > lost)
        for address in (summary + 1, zone.start + lost):
            await rig.raw.write(address, bytes(4096))
        await rig.raw.flush()
        first = await rig.found()
        rows = {int(a): int(e["lba"]) for a, e in zip(zone.addresses, zone.entries, strict=True)}
        unseen = {address: lba for address, lba in rows.items() if int(first.l2p[lba]) != address}
        assert unseen
        later = build_batch_header(
            rig.device.media_uuid,
            band=zone.band,
            punit=zone.punit,
            band_seq=zone.band_seq + 1,
            address=zone.start + border,
            kind=KIND_PAD,
            stream=0,
            entries=zone.entries[:0],
        )
        await rig.raw.write(zone.start + border, later)
        await rig.raw.flush()
        second = await rig.found()
        assert not [address for address, lba in unseen.items() if int(second.l2p[lba]) == address]


@pytest.mark.parametrize("where", ["first header", "later header", "behind a summary"])
async def test_a_header_that_can_be_read_again_is_not_newer_than_what_was_written_since(
    where: str, reactor: ReactorLoop
) -> None:
    """A read error in one load alone: the seqs of what it hides must not be given again."""
    async with emulated_rig(reactor, zones=44, zone_size=64, capacity=48) as rig:
        await rig.create(CONF)
        if where == "behind a summary":
            await rig.traffic(1500)
        for version in range(1, 2 if where == "first header" else 7):
            for lba in range(6):
                await rig.port.write(lba, content(lba, version))
            await rig.port.flush()
        last = version
        address = int(rig.device.core.l2p(5, 1)[0])
        await rig.crash()
        image = await rig.image()
        while parse_batch_header(image[address], rig.device.media_uuid) is None:
            address -= 1
        fault = rig.disk.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=UNRECOVERED_READ)
        await rig.reload()
        hidden = version_of(5, (await rig.port.read(5, 1))[0].tobytes())
        assert hidden != last
        rig.disk.clear_faults(fault)
        await rig.port.write(5, content(5, 100))
        await rig.port.flush()
        await rig.crash()
        await rig.reload()
        assert version_of(5, (await rig.port.read(5, 1))[0].tobytes()) == 100
