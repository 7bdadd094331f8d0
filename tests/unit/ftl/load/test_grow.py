"""A base that has grown: nothing of it changes until the FTL is grown on purpose, and then nothing is lost, wherever
power fails."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from spdk_ftl_py.errors import ConfError, ExistsError, MediaError
from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.check import check
from spdk_ftl_py.ftl.load.grow import Grow
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import SUPERBLOCK_ZONES, Geometry
from spdk_ftl_py.ftl.media.layout import parse_batch_header
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.grow_rig import END, HIDDEN, ZONES, grow_rig
from unit.ftl.load.restore_rig import ZONE_SIZE
from unit.shim.ftl.core_bench import BLOCK

BOTH = pytest.mark.parametrize("emulated", [False, True])


@BOTH
@pytest.mark.parametrize("clean", [True, False])
async def test_a_grown_base_loads_with_what_its_superblock_names(
    emulated: bool, clean: bool, reactor: ReactorLoop
) -> None:
    async with grow_rig(reactor, emulated=emulated) as rig:
        await rig.create()
        await rig.traffic(2000)
        told = rig.told
        rig.drive.grow()
        await rig.traffic(100)
        await rig.flush()
        before = await rig.versions()
        await (rig.halt() if clean else rig.crash())
        somebody = BlockPort(rig.reactor, rig.drive, name="somebody")
        theirs = [END, END + (HIDDEN - 1) * ZONE_SIZE]
        for at in theirs:
            await somebody.write(at, b"s" * BLOCK)
        for _ in range(2):
            await rig.load()
            assert rig.told == told
            assert await rig.versions() == before
            await rig.traffic(2000)
            await rig.flush()
            before = await rig.versions()
            await (rig.halt() if clean else rig.crash())
            report = await check(rig.reactor, rig.based(), name="base")
            assert (report.ok, report.zone_count) == (True, ZONES), report.damage
        for at in theirs:
            assert bytes((await somebody.read(at, 1))[0]) == b"s" * BLOCK
        if not emulated:
            written = [pointer - start for start, _, pointer in rig.drive.zone_states()[ZONES:]]
            assert written == [1, *[0] * (HIDDEN - 2), 1]
        await somebody.close()


@BOTH
async def test_it_is_grown_on_purpose_and_keeps_what_it_had(emulated: bool, reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=emulated) as rig:
        await rig.create()
        await rig.traffic(2000)
        (blocks, bands), before = rig.told, await rig.versions()
        await rig.halt()
        await rig.load(grow=Grow())
        assert rig.told == (blocks, bands), "there is no more"
        await rig.halt()
        rig.drive.grow()
        await rig.load(grow=Grow())
        assert rig.told == (blocks * (bands + HIDDEN // 2) // bands, bands + HIDDEN // 2)
        more = rig.device.block_count - blocks
        assert await rig.versions() == [*before, *[0] * more]
        await rig.fill(blocks)
        await rig.traffic(6000)
        assert rig.device.core.stats().zone_resets > 0
        await rig.flush()
        await rig.crash()
        await rig.load()
        assert rig.device.block_count == blocks + more
        after = await rig.check("after a crash of what has grown")
        assert after[blocks:].count(0) < more / 2
        await rig.halt()
        report = await check(rig.reactor, rig.based(), name="base")
        assert (report.ok, report.zone_count, report.checkpoint) == (True, ZONES + HIDDEN, "whole"), report.damage
        await rig.load(grow=Grow())
        assert rig.device.restored is not None
        assert rig.device.restored["from_checkpoint"]
        assert await rig.versions() == after


async def test_a_superblock_that_rots_behind_a_growth_does_not_take_it_back(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=True) as rig:
        await rig.create()
        await rig.traffic(2000)
        blocks = rig.device.block_count
        await rig.halt()
        rig.drive.grow()
        await rig.load(grow=Grow())
        told = rig.told
        # What a load finds is what the growth has written.
        rig.device.wear.unsaved_max = 1 << 60
        writer = rig.device._superblock
        newest, generation = rig.device.geometry.zone_start(SUPERBLOCK_ZONES[writer._zone]), writer.generation
        offset = writer._offsets[writer._zone]
        assert offset is not None
        await rig.fill(blocks)
        await rig.traffic(6000)
        await rig.flush()
        before = await rig.versions()
        assert writer.generation == generation
        await rig.crash()
        somebody = BlockPort(rig.reactor, rig.drive, name="somebody")
        await somebody.write(newest + offset - 1, b"rot!" * (BLOCK // 4))
        await somebody.close()
        await rig.load()
        assert rig.told == told
        assert await rig.versions() == before


@BOTH
async def test_wherever_power_fails_it_is_as_it_was_or_grown(emulated: bool, reactor: ReactorLoop) -> None:
    outcomes = {True: 0, False: 0}
    for operation in range(1, 400):
        async with grow_rig(reactor, emulated=emulated) as rig:
            await rig.create()
            await rig.traffic(300)
            await rig.flush()
            blocks = rig.device.block_count
            await (rig.halt() if operation % 2 else rig.crash())
            rig.drive.grow()
            rig.drive.cut_power_at(rig.drive.operations + operation * 3, operation)
            loaded = False
            with contextlib.suppress(MediaError):
                await rig.load(grow=Grow())
                loaded = True
                await rig.fill(blocks)
            if loaded:
                await rig.crash()
            rig.drive.cut_power_at(0, 0)
            rig.drive.power_on()
            await rig.load()
            grown = rig.device.block_count > blocks
            outcomes[grown] += 1
            assert rig.device.block_count == (blocks * 32 // 21 if grown else blocks)
            rig.model.check(await rig.versions(), f"power failed at operation {operation}")
            if loaded and outcomes[False]:
                break
    assert all(outcomes.values())


async def test_zones_that_somebody_has_written_are_not_taken_without_force(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor) as rig:
        await rig.create()
        await rig.traffic(100)
        blocks, before = rig.device.block_count, await rig.versions()
        await rig.halt()
        rig.drive.grow()
        somebody = BlockPort(rig.reactor, rig.drive, name="somebody")
        await somebody.write((ZONES + 3) * ZONE_SIZE, b"s" * BLOCK)
        await somebody.close()
        states = rig.drive.zone_states()
        with pytest.raises(ExistsError, match=r"1 of the added zones .* \(47\) contain data .*; nothing was changed"):
            await rig.load(grow=Grow())
        assert rig.drive.zone_states() == states
        await rig.load(grow=Grow(force=True))
        assert rig.device.block_count > blocks
        assert (await rig.versions())[:blocks] == before


async def test_what_stands_on_a_conventional_base_is_asked_for_from_its_old_end_on(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=True) as rig:
        await rig.create()
        blocks = rig.device.block_count
        await rig.halt()
        rig.drive.grow()
        asked = []

        async def found(first: int) -> str:
            asked.append(first)
            return "an ext4 file system"

        with pytest.raises(ExistsError, match=f"from block {END} on, holds an ext4 .*; nothing was changed"):
            await rig.load(grow=Grow(find_foreign=found))
        assert asked == [END]
        await rig.load(grow=Grow(force=True, find_foreign=found))
        assert rig.device.block_count > blocks
        assert len(asked) == 1


async def test_what_an_earlier_growth_has_left_does_not_come_back(reactor: ReactorLoop) -> None:
    async with grow_rig(reactor, emulated=True) as rig:
        await rig.create()
        await rig.traffic(1000)
        blocks, before = rig.device.block_count, await rig.versions()
        await rig.halt()
        copier = BlockPort(rig.reactor, rig.drive, name="copier")
        copy = [(at, await copier.read(at, ZONE_SIZE)) for at in range(0, END, ZONE_SIZE)]
        rig.drive.grow()
        await rig.load(grow=Grow())
        await rig.fill(blocks)
        await rig.traffic(6000)
        await rig.halt()
        # Brought back from a copy that was made when it was smaller.
        for at, data in copy:
            await copier.write(at, data)
        await copier.flush()
        await copier.close()
        await rig.load(grow=Grow(force=True))
        await rig.flush()
        await rig.crash()
        await rig.load()
        assert rig.device.block_count > blocks
        assert await rig.versions() == [*before, *[0] * (rig.device.block_count - blocks)]


@pytest.mark.parametrize("operation", [0, *range(40, 82, 3)])
async def test_headers_of_an_earlier_growth_are_erased(operation: int, reactor: ReactorLoop) -> None:
    """Zones that have no summary. Their band seqs are greater than those of what is written next, which would not count
    beside them. 0: power does not fail."""
    async with grow_rig(reactor, emulated=True) as rig:
        await rig.create()
        await rig.fill(0)
        await rig.halt()
        raw = BlockPort(rig.reactor, rig.drive, name="raw")
        copy = [(at, await raw.read(at, ZONE_SIZE)) for at in range(0, END, ZONE_SIZE)]
        rig.drive.grow()
        await rig.load(grow=Grow(force=True))
        for _ in range(3):
            await rig.crash()
            await rig.load()
        end = rig.base.block_count
        await raw.close()
        raw = BlockPort(rig.reactor, rig.drive, name="raw")

        async def band_seqs() -> list[int]:
            found = []
            for zone in range(END, end, ZONE_SIZE):
                for block in await raw.read(zone, ZONE_SIZE):
                    header = parse_batch_header(block, rig.device.media_uuid)
                    found += [] if header is None else [header.band_seq]
            return found

        # Several batches of a zone, in front of its summary.
        while len(remains := await band_seqs()) < 4:
            await rig.traffic(2)
            await rig.flush()
        await rig.crash()
        for at, data in copy:
            await raw.write(at, data)
        await raw.flush()
        rig.drive.cut_power_at(rig.drive.operations + operation if operation else 0, operation)
        with contextlib.suppress(MediaError):
            await rig.load(grow=Grow(force=True))
            await rig.crash()
        rig.drive.cut_power_at(0, 0)
        rig.drive.power_on()
        await rig.load(grow=Grow(force=True))
        assert rig.device.geometry.zone_count > END // ZONE_SIZE
        assert max(await band_seqs(), default=0) < min(remains)
        await raw.close()


async def test_a_growth_that_can_not_be_changes_nothing(reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with grow_rig(reactor) as rig:
        await rig.create()
        await rig.traffic(100)
        told, before = rig.told, await rig.versions()
        await rig.halt()
        rig.drive.grow()
        states = rig.drive.zone_states()

        async def make_core(*args: Any, **options: Any) -> Any:
            raise ConfError("no memory for so many")

        with monkeypatch.context() as patched:
            patched.setattr(loading, "make_core", make_core)
            with pytest.raises(ConfError, match="no memory for so many"):
                await rig.load(grow=Grow())
        assert rig.drive.zone_states() == states
        await rig.load()
        assert rig.told == told
        assert await rig.versions() == before


async def test_addresses_may_get_wider(reactor: ReactorLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of a checkpoint, from 4 B to 8 B: the geometry decides, not the drive. 4 TiB is where they do."""
    width = property(lambda geometry: 4 if geometry.block_end <= END else 8)
    monkeypatch.setattr(Geometry, "checkpoint_entry_bytes", width)
    async with grow_rig(reactor) as rig:
        await rig.create()
        await rig.traffic(2000)
        blocks, before = rig.device.block_count, await rig.versions()
        await rig.halt()
        rig.drive.grow()
        for grow in (None, Grow(), None):
            await rig.load(grow=grow)
            assert rig.device.restored is not None
            assert rig.device.restored["from_checkpoint"]
            assert (await rig.versions())[:blocks] == before
            await rig.halt()
        assert rig.device.geometry.checkpoint_entry_bytes == 8
