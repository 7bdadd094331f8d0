"""A device that does not keep what is written to it is found out."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.retention import PROBE_BLOCKS, DataNotKeptError, require_retention
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import zns_drive


async def test_media_that_keep_data_pass(reactor: ReactorLoop) -> None:
    port = BlockPort(reactor, _shim.EmulatedMedia.conventional(reactor.shim, 64), name="M0")
    await require_retention(port, 8, what="base bdev M0", remedy="use another bdev")
    await port.close()


async def test_what_reads_as_zeroes_is_told_with_the_remedy(reactor: ReactorLoop) -> None:
    port = BlockPort(reactor, _shim.EmulatedMedia.null(reactor.shim, 64), name="N0")
    with pytest.raises(
        DataNotKeptError, match=r"base bdev N0 does not keep .* block 11 .* reads back as zeroes: use another bdev"
    ):
        await require_retention(port, 8, what="base bdev N0", remedy="use another bdev")
    await port.close()


@pytest.mark.parametrize("buffers", range(1, PROBE_BLOCKS + 3))
async def test_a_target_that_reads_into_the_memory_it_wrote_from_is_found_out(
    monkeypatch: pytest.MonkeyPatch, reactor: ReactorLoop, buffers: int
) -> None:
    """bdev_null behind NVMe-oF: the answer is whatever the target's buffer, one of a few in turns, had in it."""
    port = BlockPort(reactor, _shim.EmulatedMedia.null(reactor.shim, 64), name="N0")
    memory = [bytes(4096)] * buffers
    turn = 0

    async def write(lba: int, data: bytes, *, fua: bool = False) -> None:
        nonlocal turn
        memory[turn % buffers] = data
        turn += 1

    async def read(lba: int, block_count: int) -> object:
        nonlocal turn
        turn += 1
        return memoryview(memory[(turn - 1) % buffers])

    monkeypatch.setattr(port, "write", write)
    monkeypatch.setattr(port, "read", read)
    with pytest.raises(DataNotKeptError):
        await require_retention(port, 0, what="base bdev N0", remedy="use another bdev")
    await port.close()


async def test_a_create_on_what_keeps_nothing_is_refused_for_base_and_cache(reactor: ReactorLoop) -> None:
    null = _shim.ZonedOverlay(reactor.shim, _shim.EmulatedMedia.null(reactor.shim, 1 << 16), zone_capacity=200)
    with pytest.raises(DataNotKeptError, match=r"^base bdev N0 does not keep .*: use another bdev; or, .* --no-data"):
        await creation.create(reactor, null, name="ftl0", conf=FtlConf(), base_name="N0")
    cache = _shim.EmulatedMedia.null(reactor.shim, 1 << 12)
    with pytest.raises(DataNotKeptError, match=r"^cache bdev N1 does not keep .*: use another bdev, or none"):
        await creation.create(reactor, zns_drive(reactor), name="ftl0", conf=FtlConf(), cache=cache, cache_name="N1")


async def test_a_write_that_fails_is_the_devices_own_error(reactor: ReactorLoop) -> None:
    media = zns_drive(reactor)
    media.inject_fault(op=_shim.Op.WRITE, status=0x006)
    with pytest.raises(MediaError):
        await creation.create(reactor, media, name="ftl0", conf=FtlConf())
