"""An FTL in the process of a script."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest

from spdk_ftl_py import (
    ConfError,
    EmulatedMedia,
    ExistsError,
    FtlConf,
    FtlDevice,
    FtlError,
    GeometryError,
    MediaError,
    NotFoundError,
    ParameterError,
    ReactorLoop,
)
from spdk_ftl_py.results import FtlStats, Property
from support.typed_values import mismatches

ZONES, ZONE_BLOCKS = 48, 256
FTL_UUID = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
CONF = FtlConf(lba_rsvd=30)


def drive(reactor: ReactorLoop, path: Path | None = None) -> EmulatedMedia:
    return EmulatedMedia.zns(reactor, zone_count=ZONES, zone_blocks=ZONE_BLOCKS, path=path)


def block(text: str) -> bytes:
    return text.encode().ljust(4096)


async def test_what_was_written_is_there_after_a_load(reactor: ReactorLoop) -> None:
    media = drive(reactor)
    data = os.urandom(700 * 4096)
    async with await FtlDevice.create(media, name="ftl0", conf=CONF, uuid=FTL_UUID, num_punits=1) as ftl:
        assert (ftl.uuid, ftl.name, ftl.state, ftl.block_bytes, ftl.zoned) == (FTL_UUID, "ftl0", "running", 4096, False)
        await ftl.write(1000, data)
        await ftl.write(3, bytearray(block("three")), fua=True)
        await ftl.trim(1001, 2)
    assert ftl.state == "halted"
    await ftl.halt()
    async with await FtlDevice.load(media, name="ftl1", uuid=FTL_UUID, settings={"scrub_days": 0}) as ftl:
        expected = bytearray(data)
        expected[4096 : 3 * 4096] = bytes(2 * 4096)
        assert await ftl.read(1000, 700) == expected
        assert await ftl.read(3) == block("three")
        assert await ftl.read(0) == bytes(4096)
        assert (ftl.name, ftl.conf.scrub_days, ftl.conf.lba_rsvd) == ("ftl1", 0, 30)


async def test_its_statistics_have_the_types_they_are_said_to_have(reactor: ReactorLoop) -> None:
    async with await FtlDevice.create(drive(reactor), name="ftl0", conf=CONF) as ftl:
        await ftl.write(0, bytes(4096))
        assert ftl.stats()["user"]["write"]["blocks"] == 1
        assert mismatches(ftl.stats(), FtlStats) == []
        assert {each["name"] for each in ftl.properties()} >= {"num_blocks", "scrub_days"}
        assert mismatches(ftl.properties(), list[Property]) == []
        assert ftl.failure is None


async def test_what_holds_an_ftl_is_not_erased(reactor: ReactorLoop) -> None:
    media = drive(reactor)
    async with await FtlDevice.create(media, name="ftl0", conf=CONF, uuid=FTL_UUID) as ftl:
        await ftl.write(0, block("kept"))
    with pytest.raises(ExistsError, match=rf"emulated media already holds an FTL, with uuid {FTL_UUID}: load\(\) it"):
        await FtlDevice.create(media, name="ftl0", conf=CONF)
    async with await FtlDevice.load(media, name="ftl0", uuid=FTL_UUID) as ftl:
        assert await ftl.read(0) == block("kept")
    async with await FtlDevice.create(media, name="ftl0", conf=CONF, force=True) as ftl:
        assert await ftl.read(0) == bytes(4096)


async def test_somebodys_data_are_not_erased(reactor: ReactorLoop) -> None:
    media = EmulatedMedia.conventional(reactor, block_count=ZONES * ZONE_BLOCKS)
    await media.write(0, bytes(0x438) + b"\x53\xef" + bytes(4096 - 0x43A))
    with pytest.raises(ExistsError, match=r"emulated media holds .*ext"):
        await FtlDevice.create(media, name="ftl0", conf=CONF, zone_capacity=ZONE_BLOCKS)
    async with await FtlDevice.create(media, name="ftl0", conf=CONF, zone_capacity=ZONE_BLOCKS, force=True) as ftl:
        await ftl.write(5, block("five"))
    async with await FtlDevice.load(media, name="ftl0", uuid=ftl.uuid, zone_capacity=ZONE_BLOCKS) as ftl:
        assert await ftl.read(5) == block("five")


async def test_an_nv_cache_is_part_of_it(reactor: ReactorLoop) -> None:
    media, cache = drive(reactor), EmulatedMedia.conventional(reactor, block_count=8 * ZONE_BLOCKS)
    async with await FtlDevice.create(media, name="ftl0", conf=CONF, uuid=FTL_UUID, cache=cache) as ftl:
        await ftl.write(9, block("nine"))
        assert ftl.stats()["nv_cache"]["write"]["blocks"] == 1
    with pytest.raises(FtlError, match="nv cache"):
        await FtlDevice.load(media, name="ftl0", uuid=FTL_UUID)
    with pytest.raises(ExistsError, match=f"holds the nv cache of FTL {FTL_UUID}"):
        await FtlDevice.create(drive(reactor), name="ftl1", conf=CONF, cache=cache)
    async with await FtlDevice.load(media, name="ftl0", uuid=FTL_UUID, cache=cache) as ftl:
        assert await ftl.read(9) == block("nine")
    async with await FtlDevice.load(media, name="ftl0", uuid=FTL_UUID, without_cache=True) as ftl:
        assert await ftl.read(9) == block("nine")


async def test_a_drive_in_a_file_outlives_the_process(reactor: ReactorLoop, tmp_path: Path) -> None:
    media = drive(reactor, tmp_path / "drive")
    with pytest.raises(FtlError, match=f"emulated media {tmp_path}/drive: .*: use another file"):
        drive(reactor, tmp_path / "drive")
    async with await FtlDevice.create(media, name="ftl0", conf=CONF, uuid=FTL_UUID) as ftl:
        await ftl.write(1, block("one"))
    del media, ftl
    # As the end of the process would.
    gc.collect()
    async with await FtlDevice.load(drive(reactor, tmp_path / "drive"), name="ftl0", uuid=FTL_UUID) as ftl:
        assert await ftl.read(1) == block("one")


async def test_what_can_not_be_is_refused(reactor: ReactorLoop) -> None:
    media, plain = drive(reactor), EmulatedMedia.conventional(reactor, block_count=4096)
    other = ReactorLoop("other")
    async with other:
        strange = EmulatedMedia.conventional(other, block_count=4096)
        with pytest.raises(ParameterError, match="on another ReactorLoop"):
            await FtlDevice.create(media, name="ftl0", conf=CONF, cache=strange)
    for options, error, text in (
        ({"conf": FtlConf(lba_rsvd=0)}, ConfError, "lba_rsvd = 0"),
        ({"num_punits": 60}, GeometryError, "punits|parallel units"),
        ({"zone_capacity": 64}, ParameterError, "emulated media is zoned itself: leave zone_capacity out"),
        ({"cache": media}, FtlError, "zoned"),
    ):
        with pytest.raises(error, match=text):
            await FtlDevice.create(media, **{"name": "ftl0", "conf": CONF, **options})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="not zoned"):
        await FtlDevice.create(plain, name="ftl0", conf=CONF)
    with pytest.raises(ParameterError, match="zone_capacity 0"):
        await FtlDevice.create(plain, name="ftl0", conf=CONF, zone_capacity=0)
    with pytest.raises(NotFoundError, match=str(FTL_UUID)):
        await FtlDevice.load(media, name="ftl0", uuid=FTL_UUID)
    with pytest.raises(ParameterError, match="emulated media: "):
        EmulatedMedia.zns(reactor, zone_count=4, zone_blocks=64, zone_capacity=65)
    # Nothing of all that has left anything.
    await (await FtlDevice.create(media, name="ftl0", conf=CONF)).halt()


async def test_ranges_and_lengths_are_checked(reactor: ReactorLoop) -> None:
    async with await FtlDevice.create(drive(reactor), name="ftl0", conf=CONF) as ftl:
        last = ftl.block_count - 1
        for lba, count in ((-1, 1), (0, 0), (last, 2), (last + 1, 1)):
            for work in (ftl.read, ftl.trim):
                with pytest.raises(
                    ParameterError, match=rf"ftl0: {count} blocks from block {lba} on exceed .* 0 to {last}$"
                ):
                    await work(lba, count)
        for data in (b"", bytes(4095)):
            with pytest.raises(ParameterError, match=f"{len(data)} bytes are not a multiple of the block size 4096"):
                await ftl.write(0, data)
        await ftl.write(last, bytes(4096))
        with pytest.raises(ParameterError, match=rf"2 blocks from block {last} on"):
            await ftl.write(last, bytes(8192))


async def test_io_behind_the_halt_fails_at_once(reactor: ReactorLoop) -> None:
    ftl = await FtlDevice.create(drive(reactor), name="ftl0", conf=CONF)
    await ftl.halt()
    for work in (ftl.read(0), ftl.write(0, bytes(4096)), ftl.flush(), ftl.trim(0)):
        with pytest.raises(MediaError, match="ftl0 is closed"):
            await work


async def test_whoever_halts_it_beside_another_waits_for_the_end(reactor: ReactorLoop) -> None:
    ftl = await FtlDevice.create(drive(reactor), name="ftl0", conf=CONF)
    await ftl.write(0, block("zero"))
    states = await asyncio.gather(*(halted(ftl, way) for way in (ftl.halt, ftl.close, ftl.halt)))
    assert states == ["halted"] * 3


async def halted(ftl: FtlDevice, way: Callable[[], Awaitable[None]]) -> str:
    await way()
    return ftl.state


async def test_media_errors_come_through(reactor: ReactorLoop) -> None:
    """Of the drive itself: in an FTL they are retried, moved, told."""
    media = drive(reactor)
    with pytest.raises(MediaError) as refused:
        await media.write(5, bytes(4096))
    assert refused.value.status == 0x1BC
    assert "zone" in refused.value.message


async def test_writes_side_by_side_all_land(reactor: ReactorLoop) -> None:
    async with await FtlDevice.create(drive(reactor), name="ftl0", conf=CONF) as ftl:
        await asyncio.gather(*(ftl.write(lba, block(str(lba))) for lba in range(300)))
        read = await asyncio.gather(*(ftl.read(lba) for lba in range(300)))
        assert read == [block(str(lba)) for lba in range(300)]
