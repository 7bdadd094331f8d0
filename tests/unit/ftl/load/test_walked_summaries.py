"""A load writes the summaries of the emulated zones that it has walked. What it found there is what every later load
finds, whatever part of such a summary is on media, and whatever is written to the zone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.load import merge
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.async_tests import rig_options
from unit.ftl.load.emulated_rig import CONF, EmulatedRig, changed, emulated_rig, same
from unit.ftl.load.restore_rig import MakeRestoreRig

WRITE_FAULT = 0x280
UNREADABLE = 0x281
INTERNAL_ERROR = 0x6


@pytest.fixture(name="rig")
def rig_of_the_test(reactor: ReactorLoop, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[EmulatedRig]:
    return emulated_rig(reactor, **rig_options(request))


async def written(rig: EmulatedRig) -> None:
    """An FTL with several open zones, after a crash."""
    await rig.create(CONF)
    for _ in range(100):
        await rig.traffic(8)
        await rig.flush()
        if sum(zone.end > 60 for zone in await rig.walked()) > 1:
            break
    await rig.traffic(8)
    await rig.crash()


# --- what is written


async def test_a_zone_is_walked_once(rig: EmulatedRig) -> None:
    await written(rig)
    first, walked = await rig.found(), await rig.walked()
    assert len(walked) == len(first.walked) > 0
    await rig.reload()
    versions = await rig.check("first load")
    assert rig.device.stats()["zone_faults"] == 0
    await rig.crash()
    assert await rig.walked() == []
    assert same(first, await rig.found())
    assert (await rig.found()).walked == []
    report = await check(rig.reactor, rig.again(), name="base")
    assert report.ok, report.damage
    await rig.reload()
    assert await rig.versions() == versions


async def test_a_summary_says_what_the_headers_say(rig: EmulatedRig) -> None:
    await written(rig)
    walked = {zone.start: zone for zone in await rig.walked()}
    # The walk drops entries.
    await rig.reload()
    await rig.crash()
    contents = {zone.start: zone for zone in await rig.contents()}
    for start, zone in walked.items():
        now = contents[start]
        assert now.summary is not None
        assert now.summary.row_count == rig.device.geometry.data_blocks
        addresses, entries = now.data_blocks()
        torn = ~np.isin(zone.addresses, addresses)
        assert np.array_equal(zone.entries[~torn], entries)
        assert [address for address, _ in now.records] == [address for address, _ in zone.records]


async def test_relocation_reads_it(rig: EmulatedRig) -> None:
    await written(rig)
    for _ in range(2):
        await rig.reload()
        await rig.check("after a load")
        await rig.crash()
    await rig.reload()
    summarised = {zone.start: zone.band_seq for zone in await rig.contents() if zone.summary is not None}
    assert summarised
    for _ in range(80):
        await rig.traffic(100)
    assert rig.device.core.stats().reloc_moved_blocks > 0
    await rig.flush()
    assert any(summarised.get(zone.start, zone.band_seq) != zone.band_seq for zone in await rig.contents()), "reopened"
    await rig.check("after relocation")
    await rig.crash_and_reload()
    await rig.check("after a crash")


async def test_blocks_that_do_not_match_are_not_in_it(rig: EmulatedRig) -> None:
    await written(rig)
    zone = max(await rig.walked(), key=lambda each: len(each.addresses))
    there = np.isin((await rig.found()).l2p, zone.addresses)
    address = int((await rig.found()).l2p[there][-1])
    await rig.raw.write(address, bytes(4096))
    await rig.raw.flush()
    before = await rig.found()
    await rig.reload()
    await rig.crash()
    (now,) = [each for each in await rig.contents() if each.start == zone.start]
    assert now.summary is not None
    assert address not in now.data_blocks()[0]
    assert same(before, await rig.found())


@pytest.mark.parametrize("case", ["restore", "check"])
async def test_what_only_reads_writes_no_summary(case: str, rig: EmulatedRig) -> None:
    await written(rig)
    before = await rig.image()
    if case == "restore":
        assert (await rig.found()).walked
    else:
        await check(rig.reactor, rig.again(), name="base")
    assert not len(changed(before, await rig.image()))


async def test_real_zones_get_none(make_rig: MakeRestoreRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make_rig()
    await rig.create()
    await rig.traffic(300)
    kept: list[int] = []
    monkeypatch.setattr(merge.WalkedZone, "of", lambda zone, refused: kept.append(zone.start))
    for _ in range(3):
        await rig.crash()
        await rig.load()
    assert not kept


# --- when


async def test_everything_is_flushed_before_a_summary_is_written(
    rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the target: what a daemon has written before it was killed may be in its volatile cache."""
    await written(rig)
    geometry = rig.device.geometry
    areas = [range(first, first + count) for first, count in (rig.summary_of(each.start) for each in rig.places())]
    order: list[str] = []
    submit = BlockPort._submit_once

    async def told(port: BlockPort, op: Any, lba: int, block_count: int, buffer: Any, **options: Any) -> Any:
        answer = await submit(port, op, lba, block_count, buffer, **options)
        if op == _shim.Op.FLUSH:
            order.append("flush")
        if op == _shim.Op.WRITE and any(lba in area for area in areas):
            order.append("summary")
        return answer

    monkeypatch.setattr(BlockPort, "_submit_once", told)
    await rig.reload()
    assert order[0] == "flush"
    assert order.count("summary") >= geometry.punits


@pytest.mark.parametrize("seed", range(4))
async def test_a_load_that_ends_anywhere_is_repeated(seed: int, rig: EmulatedRig) -> None:
    await written(rig)
    rng = random.Random(seed)
    first = await rig.found()
    for _ in range(12):
        load = asyncio.ensure_future(rig.reload())
        for _ in range(rng.randrange(1, 900)):
            await asyncio.sleep(0)
            if load.done():
                break
        load.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await load
            await rig.crash()
        assert same(first, await rig.found())
    await rig.reload()
    await rig.check("at last")


async def test_zones_for_which_there_is_no_memory_come_later(rig: EmulatedRig, monkeypatch: pytest.MonkeyPatch) -> None:
    await written(rig)
    monkeypatch.setattr(merge, "ROWS_AT_A_TIME", 1)
    counts = [len(await rig.walked())]
    while counts[-1]:
        await rig.reload()
        await rig.check("meanwhile")
        await rig.crash()
        counts.append(len(await rig.walked()))
    assert counts == list(range(counts[0], -1, -1))
    assert counts[0] > 1


async def test_a_load_keeps_its_memory_until_they_are_written(rig: EmulatedRig) -> None:
    await written(rig)
    asked: list[tuple[int, bool]] = []

    async def room(byte_count: int) -> None:
        asked.append((byte_count, bool(await rig.walked())))

    rig.base = rig.again()
    await rig.load(room=room)
    (first, _), (kept, still_walked), (last, walked) = asked
    assert first > kept > last == 0
    assert still_walked
    assert not walked


# --- what keeps it from being written


@pytest.mark.parametrize("status", [WRITE_FAULT, INTERNAL_ERROR])
async def test_a_zone_that_cant_be_written_does_not_keep_the_load_from_its_end(
    status: int, rig: EmulatedRig, caplog: pytest.LogCaptureFixture
) -> None:
    await written(rig)
    starts = [zone.start for zone in await rig.walked()]
    assert len(starts) > 1
    first = await rig.found()
    for start in starts:
        at, count = rig.summary_of(start)
        rig.disk.inject_fault(op=_shim.Op.WRITE, lba=at, block_count=count, status=status, do_not_retry=True)
    with caplog.at_level(logging.WARNING):
        await rig.reload()
    told = [each for each in caplog.messages if "summaries" in each]
    assert len(told) == 1
    assert f"of {len(starts)} zones" in told[0]
    assert rig.device.stats()["zone_faults"] == 0
    versions = await rig.check("after the load")
    await rig.crash()
    rig.disk.clear_faults()
    assert same(first, await rig.found())
    await rig.reload()
    assert await rig.versions() == versions


async def test_a_zone_whose_first_header_was_lost_gets_none(rig: EmulatedRig) -> None:
    """A load would not use it: as far as the zone's first block says, it is of another life."""
    await written(rig)
    zone = max(await rig.walked(), key=lambda each: len(each.addresses))
    earlier = layout.build_batch_header(
        rig.device.media_uuid,
        band=zone.band,
        punit=zone.punit,
        band_seq=zone.band_seq - 1,
        address=zone.start,
        kind=layout.KIND_PAD,
        stream=0,
        entries=zone.entries[:0],
    )
    await rig.raw.write(zone.start, earlier)
    await rig.raw.flush()
    (now,) = [each for each in await rig.walked() if each.start == zone.start]
    assert now.band_seq == zone.band_seq
    assert len(now.addresses) > 0
    assert zone.start not in [each.start for each in (await rig.found()).walked]


@pytest.mark.parametrize("what", ["header", "summary", "behind", "data"])
async def test_a_zone_with_unreadable_blocks_gets_none(what: str, rig: EmulatedRig) -> None:
    await written(rig)
    zone = max(await rig.walked(), key=lambda each: len(each.addresses))
    data = int((await rig.found()).l2p[np.isin((await rig.found()).l2p, zone.addresses)][0])
    header = next(a for a in range(zone.start + 1, zone.start + zone.end) if a not in zone.addresses)
    at = {"header": header, "summary": rig.summary_of(zone.start)[0], "behind": zone.start + zone.end + 30}
    rig.disk.inject_fault(op=_shim.Op.READ, lba=at.get(what, data), block_count=1, status=UNREADABLE)
    assert zone.start not in [each.start for each in (await rig.found()).walked]
    at_summary, count = rig.summary_of(zone.start)
    rig.disk.clear_faults()
    before = await rig.image()
    rig.disk.inject_fault(op=_shim.Op.READ, lba=at.get(what, data), block_count=1, status=UNREADABLE)
    await rig.reload()
    await rig.crash()
    rig.disk.clear_faults()
    written_to = changed(before, await rig.image())
    assert not np.isin(np.arange(at_summary, at_summary + count), written_to).any()
