"""A base that fails a flush, loses with it what its volatile cache held, and flushes again as if nothing had been."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import FlushDoubtError, FtlError
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from unit.ftl.load.restore_rig import CONF, MakeRestoreRig, RestoreRig
from unit.ftl.media.summaries import build_summary
from unit.shim.ftl.core_bench import content

INTERNAL_ERROR = 0x006
IN_DOUBT = ((INTERNAL_ERROR, False), (INTERNAL_ERROR, True), (0x280, True), (0x7FF, True))
"""Status, do not retry."""


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_rests_on_what_its_cache_held(seed: int, tmp_path: Path, make_rig: MakeRestoreRig) -> None:
    """First nothing acknowledged is missing: the write buffer has it. Then the base loses power, and the write buffer
    with it: nothing flushed is missing."""
    rig = await make_rig(buffer_dir=tmp_path, seed=seed)
    drive = rig.base
    await rig.create()
    await rig.traffic(1500)
    failed = 0
    for crash in range(8):
        status, final = IN_DOUBT[crash % len(IN_DOUBT)]
        skip = rig.rng.randrange(12)
        drive.inject_fault(op=_shim.Op.FLUSH, status=status, do_not_retry=final, drops_cache=True, skip=skip, times=1)
        await rig.traffic(1200)
        drive.clear_faults()
        failed += rig.device.failed.is_set()
        assert rig.device.failed.is_set() == isinstance(rig.device.failure, FlushDoubtError)
        rig.model.acknowledged_survives()
        await rig.crash()
        await rig.load()
        await rig.check(f"seed {seed}, flush {crash}")
        await rig.traffic(300)
        await rig.flush()
        await rig.traffic(100)
        await rig.crash()
        drive.power_cut(rig.rng.randrange(1 << 32))
        for path in tmp_path.glob("*.wbuf"):
            path.unlink()
        drive.power_on()
        await rig.load()
        await rig.check(f"seed {seed}, power loss {crash}")
    assert failed >= 4


async def test_the_flush_behind_a_superblock_is_one_like_any_other(rig: RestoreRig) -> None:
    """The superblock could be written again, what the core has on media not."""
    await rig.create()
    await rig.port.write(1, content(1, 1))
    rig.base.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR, drops_cache=True, times=1)
    with pytest.raises(FlushDoubtError):
        await rig.device.write_superblock(clean=False)
    assert rig.device.state is FtlState.FAILED
    assert isinstance(rig.device.failure, FlushDoubtError)
    with pytest.raises(FtlError):
        await rig.port.flush()


@pytest.mark.parametrize("turns", range(4))
async def test_no_flush_of_the_core_is_believed_beside_one_of_a_superblock_that_fails(
    turns: int, tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    """The superblock's flush takes with it what the core has on media, and the core's own, a moment later, succeeds."""
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.port.write(1, content(1, 1))
    await rig.port.flush()
    await rig.port.write(2, content(2, 1))
    for _ in range(50):
        await asyncio.sleep(0)  # it lands
    rig.base.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR, drops_cache=True, times=1)
    writing = asyncio.ensure_future(rig.device.write_superblock(clean=False))
    for _ in range(turns):
        await asyncio.sleep(0)
    flushing = asyncio.ensure_future(rig.port.flush())
    written, flushed = await asyncio.gather(writing, flushing, return_exceptions=True)
    assert isinstance(rig.device.failure, FlushDoubtError)
    assert written is None or isinstance(written, FlushDoubtError)
    assert isinstance(flushed, FtlError)
    assert rig.base.flushes_at_once == 1
    await rig.crash()
    await rig.load()
    assert (await rig.versions())[1:3] == [1, 1]


async def test_a_halt_whose_last_flush_is_in_doubt_leaves_the_write_buffer(
    tmp_path: Path, make_rig: MakeRestoreRig
) -> None:
    rig = await make_rig(buffer_dir=tmp_path)
    doubts = 0
    for skip in range(4):
        await rig.create()
        await rig.port.write(1, content(1, 1))
        rig.base.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR, drops_cache=True, skip=skip, times=1)
        await rig.port.close()
        try:
            await rig.device.halt()
        except FlushDoubtError:
            doubts += 1
            assert list(tmp_path.glob("*.wbuf"))
        else:
            assert not list(tmp_path.glob("*.wbuf"))
        rig.base.clear_faults()
        await rig.load()
        assert (await rig.versions())[1] == 1
        await rig.crash()
        for path in tmp_path.glob("*.wbuf"):
            path.unlink()
    assert doubts >= 2


async def test_a_halt_whose_base_fails_behind_the_drain_does_not_end_clean(
    tmp_path: Path, make_rig: MakeRestoreRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What relocation was still writing may be lost, and a checkpoint would say where it stands."""
    rig = await make_rig(buffer_dir=tmp_path)
    await rig.create()
    await rig.port.write(1, content(1, 1))
    await rig.port.close()
    device = rig.device
    settled = device.cache.settled

    async def in_doubt() -> None:
        await settled()
        device.failing.fail_with_core(FlushDoubtError("in doubt", status=INTERNAL_ERROR))

    monkeypatch.setattr(device.cache, "settled", in_doubt)
    with pytest.raises(FlushDoubtError):
        await device.halt()
    assert list(tmp_path.glob("*.wbuf"))
    await rig.load()
    assert not rig.device.restored["clean"]
    assert (await rig.versions())[1] == 1


@pytest.mark.parametrize("cut", [0, 1, 2], ids=["a batch and more is lost", "a header is left", "half a batch is left"])
@pytest.mark.parametrize("what", ["batch", "summary"])
async def test_what_was_appended_where_a_cache_has_lost_blocks_is_no_damage(
    what: str, cut: int, make_rig: MakeRestoreRig
) -> None:
    """What was on its way when the drive lost them took their place, and the FTL gave the zone up."""
    rig = await make_rig(seed=1)
    await rig.create(conf=dataclasses.replace(CONF, use_append=True))
    await rig.traffic(1200)
    bands = rig.device.geometry.bands
    places = {zone: (b, p) for b, band in enumerate(bands) for p, zone in enumerate(band) if zone is not None}
    # Nothing of what is cut off here was flushed: neither by a host, nor by the core, which flushes the base before it
    # resets a band, whose blocks may have moved there.
    for _ in range(100):
        await rig.flush()
        flushed = {start: pointer for start, _, pointer in rig.base.zone_states()}
        seqs, durable = [band.seq for band in rig.device._bands], list(rig.model.durable)
        await rig.traffic(14)
        opened = {number for number, band in enumerate(rig.device._bands) if band.seq != seqs[number]}
        was_reset = any(
            pointer < flushed[start] or (flushed[start] > start and places[zone][0] in opened)
            for zone, (start, _, pointer) in enumerate(rig.base.zone_states())
            if zone in places
        )
        if not was_reset and rig.model.durable == durable:
            break
    else:
        raise AssertionError("something is flushed all the time")
    await rig.crash()
    port = BlockPort(rig.reactor, rig.base, name="base")
    overtaken = 0
    for zone, (start, state, pointer) in enumerate(rig.base.zone_states()):
        if zone not in places or "open" not in state or pointer == start:
            continue
        blocks = await port.read(start, pointer - start)
        batches = list(batches_of(blocks, rig.device.media_uuid))
        last, its_header = batches[-1]
        if start + last < flushed[start] or its_header.block_count < 3:
            continue
        band, punit = places[zone]
        if what == "batch":
            longest, header = max(batches, key=lambda each: each[1].block_count)
            appended = blocks[longest : longest + header.block_count]
        else:
            entries = np.zeros(rig.device.geometry.data_blocks, layout.ENTRY)
            appended = build_summary(
                rig.device.media_uuid,
                band=band,
                punit=punit,
                band_seq=its_header.band_seq,
                entries=entries,
                summary_blocks=rig.device.geometry.summary_blocks,
            )
        # Nothing is appended behind a zone's end, and no summary follows nothing.
        if last + cut + len(appended) > rig.device.geometry.zone_capacity or (what == "summary" and last + cut == 0):
            continue
        await port.zone_action(_shim.ZoneAction.RESET, start)
        for part in (blocks[: last + cut], appended):
            for first in range(0, len(part), rig.base.max_append_blocks):
                await port.append(start, part[first : first + rig.base.max_append_blocks])
        overtaken += 1
    assert overtaken
    await port.close()
    report = await check(rig.reactor, rig.base, name="base")
    assert report.ok, report.damage
    await rig.load()
    assert rig.device.restored is not None
    assert rig.device.restored["damage_count"] == 0
    await rig.check("behind it")
    await rig.traffic(300)
    await rig.check("and on")


def batches_of(blocks: NDArray[np.uint8], uuid: UUID) -> Iterator[tuple[int, layout.BatchHeader]]:
    offset = 0
    while offset < len(blocks):
        header = layout.parse_batch_header(blocks[offset], uuid)
        assert header is not None
        yield offset, header
        offset += header.block_count
