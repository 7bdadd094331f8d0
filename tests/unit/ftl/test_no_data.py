"""no_data: an FTL for benchmarks, on a device that need not keep anything. Memory tells what stands where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError, ParameterError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import FtlRig, rig_on, zns_drive

NULL_ZONES = 66


@asynccontextmanager
async def no_data_rig(reactor: ReactorLoop, media: _shim.EmulatedMedia, **options: object) -> AsyncIterator[FtlRig]:
    base: _shim.BlockDevice = media
    if not media.zoned:
        base = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=200)
    device = await creation.create(
        reactor, base, name="ftl0", conf=FtlConf(), num_punits=1, no_data=True, base_name="N0"
    )
    async with rig_on(reactor, media, device) as rig:
        yield rig


async def test_relocation_finds_what_is_in_force_without_reading_metadata(reactor: ReactorLoop) -> None:
    """On media that keep data, so that what was moved can be verified; their metadata are made unreadable."""
    async with no_data_rig(reactor, zns_drive(reactor)) as rig:
        await rig.good("write", pattern="sequential", io_blocks=8)
        for zone in range(2, NULL_ZONES):
            summary = zone * 256 + 200 - 2
            rig.media.inject_fault(op=_shim.Op.READ, lba=summary, block_count=2, status=0x281)
        await rig.overwrite(4)
        stats = rig.device.stats()
        assert stats["relocs_started"] > 10
        assert stats["core"]["reloc_moved_blocks"] > 0
        assert (stats["lost_blocks"], stats["core"]["read_errors"]) == (0, 0)
        await rig.verify()


async def test_on_a_null_device_relocation_goes_on_and_loses_nothing(reactor: ReactorLoop) -> None:
    media = _shim.EmulatedMedia.null(reactor.shim, NULL_ZONES * 256)
    async with no_data_rig(reactor, media) as rig:
        await rig.good("write", pattern="sequential", io_blocks=8)
        await rig.overwrite(4)
        stats = rig.device.stats()
        assert stats["core"]["reloc_moved_blocks"] > 0
        assert (stats["lost_blocks"], stats["core"]["crc_errors"]) == (0, 0)
        assert rig.device.state is FtlState.RUNNING
        progress = await rig.run("read", pattern="sequential", io_blocks=8)
        assert progress["io_errors"] == 0


async def test_trims_outlive_relocation_without_records(reactor: ReactorLoop) -> None:
    async with no_data_rig(reactor, zns_drive(reactor)) as rig:
        count = rig.device.block_count
        await rig.good("write", pattern="sequential", io_blocks=8)
        for first in range(0, count // 2, 16):
            await rig.port.deallocate(first, 8)
        load = _shim.LoadGenerator(reactor.shim, rig.device.core, first_lba=count // 2, lba_count=count // 2, seed=1)
        load.start("write", total_blocks=3 * count)
        await rig.until(lambda: bool(load.progress().done_blocks >= 3 * count))
        load.close()
        assert rig.device.stats()["core"]["reloc_moved_blocks"] > 0
        for first in range(0, count // 2, 16):
            assert not (await rig.port.read(first, 8)).any()
            assert (await rig.port.read(first + 8, 8)).any()
        assert rig.device.stats()["lost_blocks"] == 0


async def test_nothing_says_afterwards_that_there_was_an_ftl(reactor: ReactorLoop) -> None:
    media = zns_drive(reactor)
    older = await creation.create(reactor, media, name="older", conf=FtlConf())
    await older.halt()
    async with no_data_rig(reactor, media) as rig:
        told = {entry["name"]: entry["value"] for entry in rig.device.properties()["properties"]}
        assert told["no_data"] is True
        await rig.good("write", total_blocks=1000)
        await rig.device.halt()
        for uuid in (older.uuid, rig.device.uuid):
            with pytest.raises(FtlError, match="holds no FTL"):
                await loading.load(reactor, media, name="ftl0", uuid=uuid)


async def test_it_takes_no_cache(reactor: ReactorLoop) -> None:
    cache = _shim.EmulatedMedia.conventional(reactor.shim, 1 << 12)
    with pytest.raises(ParameterError, match="no_data keeps nothing"):
        await creation.create(reactor, zns_drive(reactor), name="ftl0", conf=FtlConf(), cache=cache, no_data=True)
