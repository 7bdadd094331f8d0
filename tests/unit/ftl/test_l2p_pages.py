"""conf l2p_dram_limit: an FTL whose L2P is in pages through its whole life."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import ConfError, FtlError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.load.pages import Pages
from spdk_ftl_py.ftl.media import superblock
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.superblock_content import stored_conf
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.ftl_rig import rig_on, zns_drive

FEW = {"memory": 1, "page_bytes": 64, "threads": False}
"""8 frames of 16 entries, and 8 of 32 CRCs."""
DRIVE = {"zones": 66, "zone_size": 128, "zone_capacity": 100}


def open_files(folder: Path) -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        # The list has the directory itself.
        with contextlib.suppress(FileNotFoundError):
            if (name := os.readlink(f"/proc/self/fd/{number}")).startswith(str(folder)):
                yield name


async def contents(port: BlockPort, count: int) -> list[int]:
    """Of each block, what tells it from others."""
    return [zlib.crc32(block) for block in await port.read(0, count)]


@pytest.mark.parametrize("percent", [0, 20])
@pytest.mark.parametrize("clean", [True, False])
async def test_what_was_written_is_there_after_a_load(
    reactor: ReactorLoop, tmp_path: Path, clean: bool, percent: int
) -> None:
    """Through garbage collection, with a running checkpoint and without."""
    pages = Pages(tmp_path, **FEW)  # type: ignore[arg-type]
    media = zns_drive(reactor, **DRIVE)
    conf = FtlConf(l2p_dram_limit=1, lba_rsvd=30, running_checkpoint=percent)
    device = await creation.create(reactor, media, name="ftl0", conf=conf, num_punits=1, pages=pages)
    async with rig_on(reactor, media, device) as rig:
        await rig.good("write", pattern="sequential")
        await rig.overwrite(3)
        await rig.verify()
        assert device.core.stats().reloc_moved_blocks > 0
        assert device.core.stats().l2p_page_reads > 0
        wanted = await contents(rig.port, device.block_count)
        await rig.port.flush()
        if clean:
            await device.halt()
        else:
            await device.abort("crash")
    loaded = await loading.load(reactor, media, name="ftl0", uuid=device.uuid, pages=pages)
    assert loaded.conf.l2p_dram_limit == 1
    assert loaded.restored is not None
    assert loaded.restored["clean"] is clean
    async with rig_on(reactor, media, loaded) as rig:
        before = loaded.core.stats().l2p_page_reads
        assert await contents(rig.port, loaded.block_count) == wanted
        await rig.good("write", pattern="sequential")
        await rig.overwrite(1)
        assert loaded.core.stats().l2p_page_reads > before
        await rig.verify()
    assert os.listdir(tmp_path) == []


async def test_a_limit_without_a_directory_is_refused_by_creation_and_ignored_by_a_load(
    reactor: ReactorLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless everything fits."""
    media = zns_drive(reactor, **DRIVE)
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(l2p_dram_limit=7))
    await device.halt()
    # 7 KiB, for more than 10 KiB.
    monkeypatch.setattr("spdk_ftl_py.ftl.load.pages.MIB", 1024)
    with pytest.raises(ConfError, match=r"l2p_dram_limit = 7: there is no directory"):
        await creation.create(reactor, media, name="ftl1", conf=FtlConf(l2p_dram_limit=7))
    loaded = await loading.load(reactor, media, name="ftl0", uuid=device.uuid)
    assert "l2p_dram_limit has no effect: there is no directory" in caplog.text
    await loaded.halt()
    loaded = await loading.load(reactor, media, name="ftl0", uuid=device.uuid, pages=Pages(tmp_path))
    assert len(list(open_files(tmp_path))) == 2
    await loaded.halt()


@pytest.mark.parametrize("step", ["create", "load"])
async def test_a_directory_that_is_gone_is_named_with_a_remedy(reactor: ReactorLoop, tmp_path: Path, step: str) -> None:
    media = zns_drive(reactor, **DRIVE)
    gone = Pages(tmp_path / "gone", **FEW)  # type: ignore[arg-type]
    remedy = "make room there, give the daemon another --l2p-dir"
    if step == "create":
        with pytest.raises(FtlError, match=remedy) as error:
            await creation.create(reactor, media, name="ftl0", conf=FtlConf(), pages=gone)
    else:
        device = await creation.create(reactor, media, name="ftl0", conf=FtlConf())
        await device.halt()
        with pytest.raises(FtlError, match=remedy) as error:
            await loading.load(reactor, media, name="ftl0", uuid=device.uuid, pages=gone)
        loaded = await loading.load(reactor, media, name="ftl0", uuid=device.uuid)
        await loaded.halt()
    assert str(tmp_path / "gone") in error.value.message
    assert "No such file or directory" in error.value.message


async def test_earlier_versions_do_not_see_the_limit(reactor: ReactorLoop, tmp_path: Path) -> None:
    """They refuse settings that they don't know."""
    media = zns_drive(reactor, **DRIVE)
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(l2p_dram_limit=5), pages=Pages(tmp_path))
    await device.halt()
    port = BlockPort(reactor, media, name="look")
    found = await superblock.find(port, await port.zones(), device.uuid)
    assert found is not None
    assert "l2p_dram_limit" not in found[0].content["conf"]
    assert found[0].content["l2p_dram_limit_mib"] == 5
    assert stored_conf(found[0], device.geometry).l2p_dram_limit == 5
    for strange in (-1, "a", 1 << 40, None):
        odd = dataclasses.replace(found[0], content={**found[0].content, "l2p_dram_limit_mib": strange})
        assert stored_conf(odd, device.geometry).l2p_dram_limit == 0
    await port.close()


async def test_pages_that_are_lost_fail_the_device_and_a_load_has_everything(
    reactor: ReactorLoop, tmp_path: Path
) -> None:
    """No halt may write a checkpoint of entries that are wrong."""
    pages = Pages(tmp_path, **FEW)  # type: ignore[arg-type]
    media = zns_drive(reactor, **DRIVE)
    device = await creation.create(
        reactor, media, name="ftl0", conf=FtlConf(l2p_dram_limit=1), num_punits=1, pages=pages
    )
    async with rig_on(reactor, media, device) as rig:
        await rig.good("write", pattern="sequential")
        await rig.overwrite(2)
        await rig.port.flush()
        wanted = await contents(rig.port, device.block_count)
        _shim.fail_l2p_pages(True)
        try:
            progress = await rig.run("read", total_blocks=device.block_count)
            assert progress["io_errors"] > 0
            assert progress["verify_errors"] == 0
            assert device.state is FtlState.FAILED
            assert "pages of the L2P are lost, because the drive" in str(device.life.failure)
            with contextlib.suppress(FtlError):
                await device.halt()
        finally:
            _shim.fail_l2p_pages(False)
    loaded = await loading.load(reactor, media, name="ftl0", uuid=device.uuid, pages=pages)
    assert loaded.restored is not None
    assert loaded.restored["clean"] is False
    async with rig_on(reactor, media, loaded) as rig:
        assert await contents(rig.port, loaded.block_count) == wanted


async def test_a_halt_whose_pages_fail_is_clean_but_has_no_checkpoint(
    reactor: ReactorLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything is on media by then."""
    pages = Pages(tmp_path, **FEW)  # type: ignore[arg-type]
    media = zns_drive(reactor, **DRIVE)
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(), num_punits=1, pages=pages)
    async with rig_on(reactor, media, device) as rig:
        await rig.good("write", pattern="sequential")
        wanted = await contents(rig.port, device.block_count)
        close = device._close_core

        async def closed() -> None:
            await close()
            _shim.fail_l2p_pages(True)

        monkeypatch.setattr(device, "_close_core", closed)
        try:
            await device.halt()
        finally:
            _shim.fail_l2p_pages(False)
    assert device.halted_cleanly
    assert "halted without L2P checkpoint: pages of the L2P are lost" in caplog.text
    loaded = await loading.load(reactor, media, name="ftl0", uuid=device.uuid, pages=pages)
    async with rig_on(reactor, media, loaded) as rig:
        assert await contents(rig.port, loaded.block_count) == wanted


async def test_another_error_of_a_load_is_not_blamed_on_the_l2p_directory(
    reactor: ReactorLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (buffers := tmp_path / "buffers").mkdir(mode=0o700)
    media = zns_drive(reactor, **DRIVE)
    device = await creation.create(reactor, media, name="ftl0", conf=FtlConf(), num_punits=1, buffer_dir=buffers)
    await device.halt()
    (buffers / f"{device.uuid}.1.wbuf").write_bytes(b"")
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".wbuf":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(PermissionError):
        await loading.load(reactor, media, name="ftl0", uuid=device.uuid, buffer_dir=buffers, pages=Pages(tmp_path))
