"""Promise 1 with an nv cache: what has completed survives the loss of everything but the devices, flushed or not."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf, NvCacheConf
from spdk_ftl_py.errors import FtlError, MediaError, NotFoundError, ParameterError
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.cache.nv_cache_keeper import CacheState
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.async_tests import rig_options
from unit.ftl.load.restore_rig import CONF, RestoreRig
from unit.shim.ftl.core_bench import BLOCK, content

ZONE_SIZE, ZONE_CAPACITY = 64, 48
CACHE_BLOCKS = 2 * 2 * ZONE_CAPACITY + 1
"""The least: two bands of two zones, and the header."""
OTHER = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
MODES = pytest.mark.parametrize("metadata_bytes", [8, 16, 0])


class CacheRig(RestoreRig):
    cache: Any

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return super()._options({"cache": self.cache, **options})

    def media(self, block_count: int = CACHE_BLOCKS, *, metadata_bytes: int = 8, **options: Any) -> Any:
        return _shim.EmulatedMedia.conventional(
            self.reactor.shim, block_count, metadata_bytes=metadata_bytes, **options
        )

    @property
    def told(self) -> dict[str, Any]:
        found = {entry["name"]: entry.get("value") for entry in self.device.properties()["properties"]}
        told = found["cache_device"]
        assert isinstance(told, dict)
        return told

    async def power_fails(self) -> None:
        """Of everything, now."""
        for device in (self.base, self.cache):
            device.power_cut(self.rng.randrange(1 << 32))
        await self.crash()
        for device in (self.base, self.cache):
            device.power_on()


MakeCacheRig = Callable[..., Awaitable[CacheRig]]


@asynccontextmanager
async def cache_rig(
    reactor: ReactorLoop, *, metadata_bytes: int = 8, seed: int = 1, cache_volatile: bool = True, **media: Any
) -> AsyncIterator[CacheRig]:
    drive = _shim.EmulatedMedia.zns(
        reactor.shim, 44, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7, max_active_zones=7, **media
    )
    drive.set_schedule(seed)
    rig = CacheRig(reactor, drive, random.Random(seed))
    rig.cache = rig.media(metadata_bytes=metadata_bytes, volatile_cache=cache_volatile)
    rig.cache.set_schedule(seed)
    try:
        yield rig
    finally:
        await rig.end()


@pytest.fixture
def rig(reactor: ReactorLoop, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[CacheRig]:
    return cache_rig(reactor, **rig_options(request))


@pytest.fixture
def make_rig(reactor: ReactorLoop, rigs: AsyncExitStack) -> MakeCacheRig:
    return lambda **options: rigs.enter_async_context(cache_rig(reactor, **options))


@MODES
async def test_what_has_completed_survives_the_loss_of_all_power(metadata_bytes: int, make_rig: MakeCacheRig) -> None:
    rig = await make_rig(metadata_bytes=metadata_bytes)
    await rig.create()
    for version in range(1, 4):
        for lba in range(30):
            await rig.port.write(lba, content(lba, version))
        await rig.port._submit(_shim.Op.DEALLOCATE, 20, 5)
        await rig.power_fails()
        await rig.load()
        assert rig.device.restored is not None
        assert not rig.device.restored["lossy"]
        assert (await rig.versions())[:30] == [version] * 20 + [0] * 5 + [version] * 5
    assert rig.told["state"] == "in_use"


@MODES
async def test_laps_of_the_ring_without_any_flush_of_the_host(metadata_bytes: int, make_rig: MakeCacheRig) -> None:
    """What the ring no longer has must be durable on the base, though nobody asked for that."""
    rig = await make_rig(metadata_bytes=metadata_bytes)
    await rig.create()
    blocks = rig.device.block_count // 2
    for crash in range(4):
        for lba in range(blocks):
            await rig.port.write(lba, content(lba, crash + 1))
        assert rig.told["lap"] >= 3 * crash
        await rig.power_fails()
        await rig.load()
        assert (await rig.versions())[:blocks] == [crash + 1] * blocks


@MODES
@pytest.mark.parametrize("seed", range(3))
async def test_power_fails_again_and_again(metadata_bytes: int, seed: int, make_rig: MakeCacheRig) -> None:
    """Under traffic that wraps the ring, in loads too, of one device first or of both at once."""
    rig = await make_rig(metadata_bytes=metadata_bytes, seed=seed)
    await rig.create(conf=FtlConf(write_buffer_size=48 * BLOCK, lba_rsvd=30, nv_cache=NvCacheConf(64, 7)))
    laps = recovered = 0
    for crash in range(8):
        rig.base.cut_power_at(rig.base.operations + rig.rng.randrange(20, 1500), rig.rng.randrange(1 << 32))
        await rig.traffic(6000)
        laps = max(laps, rig.told["lap"])
        assert rig.told["state"] == "in_use"
        rig.model.acknowledged_survives()
        await rig.power_fails()
        while True:
            devices = rig.rng.choice([[rig.base], [rig.cache], [rig.base, rig.cache]])
            for device in devices:
                device.cut_power_at(device.operations + rig.rng.randrange(1, 400), rig.rng.randrange(1 << 32))
            try:
                await rig.load()
                for device in devices:
                    device.cut_power_at(0, 0)
                # The last I/O of the load may have been the one before its power failed.
                rig.cache.power_on()
                assert rig.device.restored is not None
                recovered += rig.device.restored["recovered_blocks"]
                await rig.versions()
                break
            except MediaError:
                await rig.power_fails()
        if rig.device.cache.state is not CacheState.IN_USE:
            await rig.device.cache.settled()
            await rig.flush()
            await rig.check(f"seed {seed}, crash {crash}")
            await rig.crash()
            await rig.load()
        await rig.check(f"seed {seed}, crash {crash}")
    assert recovered > 0
    assert laps > 2


async def test_after_a_halt_there_is_nothing_to_scan_and_the_ring_goes_on(rig: CacheRig) -> None:
    for metadata_bytes in (8, 0):
        rig.cache = rig.media(metadata_bytes=metadata_bytes)
        await rig.create()
        for _ in range(4):
            await rig.traffic(300)
            versions = await rig.versions()
            await rig.halt()
            reads = rig.cache.inject_fault(op=_shim.Op.READ, lba=2, block_count=CACHE_BLOCKS, status=0x281)
            await rig.load()
            rig.cache.clear_faults(reads)
            assert await rig.versions() == versions
        lap = rig.told["lap"]
        assert lap > 2
        await rig.halt()


@pytest.mark.parametrize("metadata_bytes", [8, 0])
async def test_a_cache_that_fails_is_given_up_and_used_again_from_scratch(
    metadata_bytes: int, make_rig: MakeCacheRig
) -> None:
    rig = await make_rig(metadata_bytes=metadata_bytes)
    await rig.create()
    await rig.traffic(200)
    rig.cache.inject_fault(op=_shim.Op.WRITE, skip=20, status=0x280)
    await rig.traffic(300)
    await rig.device.cache.settled()
    assert rig.device.state is FtlState.RUNNING
    assert rig.told["state"] == "given_up"
    assert "write fault" in rig.told["failure"].lower()
    # From here on completed is not durable, but flushed is.
    await rig.traffic(300)
    await rig.flush()
    await rig.power_fails()
    with pytest.raises(MediaError, match=r"nv cache of ftl0"):
        await rig.load()
    await rig.load(cache=None)
    assert rig.told["state"] == "given_up"
    await rig.check("without")
    await rig.halt()
    rig.cache.clear_faults()
    await rig.load()
    assert rig.told["state"] == "in_use"
    await rig.traffic(300)
    rig.model.acknowledged_survives()
    await rig.power_fails()
    await rig.load()
    await rig.check("again")


async def test_what_completed_before_the_cache_failed_is_on_the_base_before_a_write_completes_without_it(
    rig: CacheRig,
) -> None:
    await rig.create()
    for lba in range(10):
        await rig.port.write(lba, content(lba, 1))
    rig.cache.inject_fault(op=_shim.Op.WRITE, status=0x280)
    rig.base.inject_fault(op=_shim.Op.FLUSH, latency_us=20_000)
    write = asyncio.ensure_future(rig.port.write(20, content(20, 1)))
    await asyncio.sleep(0.005)
    assert not write.done()
    assert rig.device.cache.state is CacheState.FAILING
    await write
    # The cache is gone for good, and so is what was in the base's own.
    rig.base.clear_faults()
    await rig.power_fails()
    await rig.load(cache=None)
    assert (await rig.versions())[:10] == [1] * 10


async def test_a_cache_and_a_base_that_fail_together_fail_the_device(rig: CacheRig) -> None:
    await rig.create()
    await rig.traffic(50)
    rig.base.inject_fault(op=_shim.Op.FLUSH, status=0x280)
    rig.cache.inject_fault(op=_shim.Op.WRITE, status=0x280)
    with pytest.raises(MediaError):
        await rig.port.write(0, content(0, 1))
    await rig.device.cache.settled()
    assert rig.device.state is FtlState.FAILED


async def test_the_cache_is_part_of_the_device(rig: CacheRig) -> None:
    await rig.create()
    await rig.traffic(100)
    rig.model.acknowledged_survives()
    await rig.power_fails()
    with pytest.raises(NotFoundError, match=r"has an nv cache of 193 blocks \(vss\), which may hold .* without_cache"):
        await rig.load(cache=None)
    with pytest.raises(NotFoundError, match="holds no nv cache"):
        await rig.load(cache=rig.media())
    with pytest.raises(ParameterError, match="without_cache are given: give only one"):
        await rig.load(without_cache=True)
    with pytest.raises(ParameterError, match="needs 193"):
        await rig.load(cache=rig.media(100))
    await rig.load()
    await rig.check("after refusals")
    await rig.halt()
    with pytest.raises(NotFoundError, match="give its bdev"):
        await rig.load(cache=None)


async def test_a_cache_of_another_device_or_life_is_refused(rig: CacheRig) -> None:
    await rig.create(uuid=OTHER)
    await rig.halt()
    others, rig.cache = rig.cache, rig.media()
    await rig.create()
    uuid = rig.device.uuid
    await rig.halt()
    with pytest.raises(NotFoundError, match=f"holds the nv cache of FTL {OTHER}"):
        await rig.load(cache=others)
    mine, rig.cache = rig.cache, rig.media()
    await rig.create(uuid=uuid)
    await rig.halt()
    with pytest.raises(NotFoundError, match="scrubbed since"):
        await rig.load(cache=mine)


async def test_without_the_cache_on_demand_and_with_one_that_was_not_there(rig: CacheRig) -> None:
    await rig.create()
    await rig.traffic(200)
    await rig.flush()
    await rig.power_fails()
    await rig.load(cache=None, without_cache=True)
    assert rig.device.restored is not None
    assert rig.device.restored["lossy"]
    assert rig.told["state"] == "given_up"
    await rig.check("without")
    await rig.halt()
    mine, rig.cache = rig.cache, None
    await rig.create()
    await rig.halt()
    await rig.load(cache=mine)
    assert rig.told["state"] == "in_use"
    await rig.halt()


async def test_a_damaged_header_counts_as_not_written(rig: CacheRig) -> None:
    await rig.create()
    await rig.traffic(100)
    rig.model.acknowledged_survives()
    await rig.power_fails()
    stats = rig.device.cache.stats()
    assert stats is not None
    other = (stats.generation + 1) % 2
    raw = BlockPort(rig.reactor, rig.cache, name="raw")
    await raw.write(other, b"\x5a" * raw.block_bytes)
    await raw.close()
    await rig.load()
    await rig.check("one header")


@MODES
async def test_a_block_of_the_ring_that_can_not_be_read_is_damage(metadata_bytes: int, make_rig: MakeCacheRig) -> None:
    rig = await make_rig(metadata_bytes=metadata_bytes)
    await rig.create()
    await rig.traffic(50)
    await rig.power_fails()
    rig.cache.inject_fault(op=_shim.Op.READ, lba=20, block_count=1, status=0x281)
    with pytest.raises(FtlError, match=r"block 20 can't be read.*\n.*--allow-open-bands"):
        await rig.load()
    await rig.load(settings={"allow_open_bands": True})
    assert rig.device.restored is not None
    assert (rig.device.restored["damage_count"], rig.device.restored["lossy"]) == (1, True)
    await rig.versions()


async def test_a_conf_that_the_cache_can_not_serve_is_refused_before_anything_is_erased(rig: CacheRig) -> None:
    await rig.create()
    await rig.traffic(100)
    versions = await rig.versions()
    await rig.halt()
    mine = rig.cache
    for device in (rig.media(100), rig.media(metadata_bytes=4), rig.base):
        rig.cache = device
        with pytest.raises(FtlError, match=r"nv cache|cache bdev"):
            await creation.create(rig.reactor, rig.base, name="ftl1", conf=CONF, num_punits=2, cache=device)
    rig.cache = mine
    await rig.load()
    assert await rig.versions() == versions


async def test_statistics_count_what_goes_to_the_cache(rig: CacheRig) -> None:
    await rig.create()
    await rig.port.write(0, b"".join(content(lba, 1) for lba in range(8)))
    stats = rig.device.stats()
    assert stats["nv_cache"]["write"]["blocks"] == 8
    assert 1 <= stats["nv_cache"]["write"]["ios"] <= 8
    assert stats["md_nv_cache"]["write"]["blocks"] == 0


@pytest.mark.parametrize("durable", [False, True])
async def test_recovered_writes_that_power_takes_before_they_are_durable_are_told(
    durable: bool, make_rig: MakeCacheRig, tmp_path: Path
) -> None:
    """Acknowledged in a life without its cache, recovered from the write buffer file by a load that begins a new one:
    they are not in that cache. Once they are durable, nothing of them can be lost any more."""
    rig = await make_rig(volatile_cache=True, cache_volatile=False)
    rig.buffer_dir = tmp_path
    tmp_path.chmod(0o700)
    await rig.create()
    for lba in range(10):
        await rig.port.write(lba, content(lba, 1))
    await rig.port.flush()
    rig.cache.inject_fault(op=_shim.Op.WRITE, status=0x280)
    await rig.port.write(20, content(20, 1))
    await rig.device.cache.settled()
    assert rig.told["state"] == "given_up"
    for lba in range(5):
        await rig.port.write(lba, content(lba, 2))
    await rig.port._submit(_shim.Op.DEALLOCATE, 5, 1)
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.wbuf")}
    rig.base.power_cut(7)
    await rig.crash()
    rig.base.power_on()
    rig.cache.clear_faults()
    for path, raw in kept.items():
        path.write_bytes(raw)
    told = []
    slow = rig.base.inject_fault(op=_shim.Op.FLUSH, latency_us=1_000_000)
    await rig.load(on_lossy=lambda: told.append("first"))
    if durable:
        await asyncio.sleep(5)
        assert (await rig.versions())[:7] == [2] * 5 + [0, 1]
    await rig.power_fails()
    rig.base.clear_faults(slow)
    for path in tmp_path.glob("*.wbuf"):
        path.unlink()
    await rig.load(on_lossy=lambda: told.append("second"))
    if durable:
        assert (await rig.versions())[:7] == [2] * 5 + [0, 1]
    assert told == ([] if durable else ["second"])


@pytest.mark.parametrize("metadata_bytes", [8, 0])
@pytest.mark.parametrize("asked", [NvCacheConf(), NvCacheConf(1, 1), NvCacheConf(3, 5), NvCacheConf(1 << 16, 256)])
async def test_no_more_requests_are_made_than_the_write_buffer_can_fill_and_none_larger_than_can_be(
    make_rig: MakeCacheRig, metadata_bytes: int, asked: NvCacheConf
) -> None:
    rig = await make_rig(metadata_bytes=metadata_bytes)
    await rig.create(conf=dataclasses.replace(CONF, nv_cache=asked))
    most = rig.cache.max_io_blocks if metadata_bytes else min(rig.cache.max_io_blocks - 1, 168)
    blocks = min(asked.max_request_size, most)
    buffer_blocks = rig.device.core.stats().write_buffer_blocks
    assert rig.told["max_request_size"] == blocks
    assert rig.told["max_request_cnt"] == min(asked.max_request_cnt, buffer_blocks, buffer_blocks // blocks + 8)
    for lba in range(64):
        await rig.port.write(lba, content(lba, 1))
    assert (await rig.versions())[:64] == [1] * 64
