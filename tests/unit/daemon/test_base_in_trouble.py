"""A base that fails, is busy or has no room: what hosts, the operator and a delete are told."""

from __future__ import annotations

import asyncio
import re

import pytest

from spdk_ftl_py.daemon import failed_flushes
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl.failing import FAILED_FLUSHES_MAX
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.wire import Status
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.daemon.registry_rig import Daemon, World, connected, create, read, write
from unit.nvme.nvme_loop import until


async def flush(here: World, daemon: Daemon) -> None:
    """As a host that does not repeat it."""
    controller = await connected(here, daemon)
    async with ReactorLoop("host", spin_us=0) as reactor:
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(reactor, namespace)
        port = BlockPort(reactor, qpair, name="host", patience_s=0)
        try:
            await port.flush()
        finally:
            await port.close()
            await controller.close()


async def test_a_delete_whose_halt_fails_says_what_stands_in_the_write_buffer_only(here: World) -> None:
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await write(here, daemon, 3)
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="flush", status="internal_error")
    with pytest.raises(FtlError, match=rf"can't flush.*3 blocks in .*-u {uuid} before this machine"):
        await daemon.call("bdev_ftl_delete", name="ftl0")
    await daemon.halt()


async def test_a_flush_that_the_base_fails_is_a_pause_for_its_host(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await write(here, daemon, 3)
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="flush", status="internal_error", times=2)
    before = daemon.managed().ftl
    await flush(here, daemon)
    assert daemon.managed().ftl is not before, "it was loaded again"
    assert (await daemon.device())["state"] == "online"
    assert await read(here, daemon, 3) == [1, 2, 3]
    await daemon.halt()


async def test_a_base_that_refuses_flushes_for_good_is_not_waited_for(here: World) -> None:
    """It says that none of them was carried out, and that asking again is in vain."""
    daemon = await here.start()
    await create(here, daemon)
    await write(here, daemon, 3)
    ftl = daemon.managed().ftl
    assert ftl is not None
    ftl.failing.flush_failed(Status.ABORTED_BY_REQUEST, FAILED_FLUSHES_MAX)
    assert "can't flush" in (await daemon.wait_for("failed"))["error"]
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    await daemon.halt()


async def test_a_base_that_fails_every_flush_ends_failed_with_that_as_the_reason(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    monkeypatch.setattr(failed_flushes, "FLUSHES_FAIL_S", 1.0)
    daemon = await here.start()
    uuid = (await create(here, daemon))["uuid"]
    await write(here, daemon, 3)
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="flush", status="internal_error")
    with pytest.raises(FtlError):
        await flush(here, daemon)
    told = await daemon.wait_for("failed")
    found = re.fullmatch(
        r"base bdev Nvme0n1 can't flush: (\d+) flushes in a row have failed, for \d+ s: .*", told["error"]
    )
    assert found is not None, told["error"]
    assert 2 <= int(found[1]) < 10, "it is loaded again more and more slowly"
    await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
    await daemon.call("bdev_ftl_delete", name="ftl0", force=True)
    await create(here, daemon, uuid=uuid)
    assert await read(here, daemon, 3) == [1, 2, 3]
    await daemon.halt()


async def test_a_thin_base_without_room_is_told_and_so_is_that_there_is_room_again(
    monkeypatch: pytest.MonkeyPatch, here: World
) -> None:
    """The target answers its writes with Internal Error."""
    monkeypatch.setattr("spdk_ftl_py.daemon.base_watch.BASE_POLL_S", 0.01)
    daemon = await here.start()
    await create(here, daemon)
    bdev = (await here.rpc("bdev_get_bdevs", name="Nvme0n1"))[0]
    here.line.answers["bdev_get_bdevs"] = [
        {**bdev, "driver_specific": {"lvol": {"thin_provision": True, "lvol_store_uuid": "U"}}}
    ]
    store = {"name": "lvs0", "free_clusters": 0}
    here.line.answers["bdev_lvol_get_lvstores"] = [store]
    assert (await daemon.device())["error"] is None
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="write", status="internal_error", times=1)
    device = daemon.managed()
    assert device.ftl is not None
    port = BlockPort(device.front.reactor, device.ftl.core, name="host")
    await port.write(0, bytes(4096))
    await port.flush()
    await until(lambda: device.error is not None)
    told = "base bdev Nvme0n1 is out of space: lvol store lvs0 has no free cluster"
    assert (await daemon.device())["error"].startswith(told)
    store["free_clusters"] = 1
    await until(lambda: device.error is None)
    await port.close()
    del here.line.answers["bdev_get_bdevs"]
    await daemon.halt()


async def test_a_base_that_is_busy_for_long_is_told_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, here: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A file on a full file system, for instance: hosts only see that their writes take long."""
    monkeypatch.setattr("spdk_ftl_py.daemon.base_watch.BASE_POLL_S", 0.15)
    monkeypatch.setattr("spdk_ftl_py.daemon.base_watch.BUSY_TOLD_S", 0.4)
    daemon = await here.start()
    await create(here, daemon)
    device = daemon.managed()
    assert device.ftl is not None
    port = BlockPort(device.front.reactor, device.ftl.core, name="host")
    await here.rpc("ftltgt_inject_fault", name="Nvme0n1", op="write", status="capacity_exceeded")
    writing = asyncio.ensure_future(port.write(0, bytes(4096), fua=True))
    told = "base bdev Nvme0n1 has been busy for more than 0.4 s"
    await until(lambda: device.error is not None and device.error.startswith(told))
    assert (await daemon.device())["state"] == "online"
    assert not writing.done()
    await here.rpc("ftltgt_clear_faults", name="Nvme0n1")
    await writing
    await until(lambda: device.error is None)
    assert "base bdev Nvme0n1 is no longer busy" in caplog.text
    await port.close()
    await daemon.halt()
