"""bdev_ftl_nbd_*: an export with its FTL, without it, and with the process that asked for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.access.peers import Peer
from spdk_ftl_py.daemon.requester import asked_for_by
from spdk_ftl_py.errors import BusyError, ExistsError, FtlError, NotFoundError
from spdk_ftl_py.time_limit import time_limit
from support.nbd_client import BLOCK, EPERM, FLUSH, READ, TRIM, WRITE, NbdClient
from unit.daemon.registry_rig import Daemon, World, create
from unit.nvme.nvme_loop import until


async def start(here: World, daemon: Daemon, **params: Any) -> Path:
    path = here.folder / "ftl0.nbd"
    started = await daemon.call("bdev_ftl_nbd_start", name="ftl0", socket_path=str(path), **params)
    assert started["uri"] == f"nbd+unix:///?socket={path}"
    return path


async def client(path: Path) -> NbdClient:
    return await asyncio.to_thread(NbdClient.connect, path)


def left(here: World) -> list[str]:
    return [path.name for path in here.folder.iterdir() if "nbd" in path.name]


async def test_an_ftl_is_served_and_no_longer(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    path = await start(here, daemon)
    assert path.stat().st_mode & 0o777 == 0o600
    one, data = await client(path), os.urandom(3 * BLOCK)
    assert one.size == (await daemon.device())["num_blocks"] * BLOCK
    await asyncio.to_thread(one.ok, WRITE, BLOCK, data=data)
    await asyncio.to_thread(one.ok, FLUSH)
    assert await asyncio.to_thread(one.ok, READ, 0, 5 * BLOCK) == bytes(BLOCK) + data + bytes(BLOCK)
    await asyncio.to_thread(one.ok, TRIM, 2 * BLOCK, BLOCK)
    assert await asyncio.to_thread(one.ok, READ, 2 * BLOCK, BLOCK) == bytes(BLOCK)
    (export,) = await daemon.call("bdev_ftl_nbd_get")
    assert (export["name"], export["connections"], export["write_blocks"], export["state"]) == ("ftl0", 1, 3, "serving")
    assert await daemon.call("bdev_ftl_nbd_stop", name="ftl0") is True
    with pytest.raises((EOFError, OSError)):
        await asyncio.to_thread(one.ok, FLUSH)
    assert left(here) == []
    assert await daemon.call("bdev_ftl_nbd_get") == []
    with pytest.raises(NotFoundError, match="is not served by NBD"):
        await daemon.call("bdev_ftl_nbd_stop", name="ftl0")
    one.close()
    await daemon.halt()


async def test_read_only_refuses_changes(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    one = await client(await start(here, daemon, read_only=True))
    assert one.transmission_flags & 2
    assert (await asyncio.to_thread(one.run, WRITE, 0, data=bytes(BLOCK))).error == EPERM
    await asyncio.to_thread(one.ok, READ, 0, BLOCK)
    one.close()
    await daemon.halt()


async def test_a_second_start_is_refused_and_leaves_the_first(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    # Somebody else's, such as /etc/.pwd.lock beside a socket /etc/.pwd.
    other = here.folder / "ftl0.nbd.lock"
    other.touch(mode=0o600)
    path = await start(here, daemon)
    with pytest.raises(ExistsError, match=f"is already served by NBD, at {path}"):
        await daemon.call("bdev_ftl_nbd_start", name="ftl0", socket_path=str(here.folder / "other.nbd"))
    (await client(path)).close()
    assert sorted(left(here)) == ["ftl0.nbd", "ftl0.nbd.lock", "ftl0.nbd.spdk-ftl.lock"]
    await daemon.halt()
    assert left(here) == [other.name]


async def test_what_is_in_the_way_is_named_and_stays(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    path = here.folder / "ftl0.nbd"
    path.write_text("precious")
    with pytest.raises(FtlError, match="is a file, not a socket: remove it, or give another path"):
        await start(here, daemon)
    assert path.read_text() == "precious"
    path.unlink()
    with pytest.raises(FtlError, match="longer than 107 bytes"):
        await daemon.registry._nbd.start(  # the schema is not the only guard
            _request(socket_path=str(here.folder / ("d" * 100)))
        )
    assert left(here) == []
    await daemon.halt()


def _request(**params: Any) -> Any:
    from spdk_ftl_py.daemon.requests import NbdStartRequest

    return NbdStartRequest(name="ftl0", **params)


async def test_only_an_ftl_that_is_there_can_be_served(here: World) -> None:
    daemon = await here.start()
    with pytest.raises(NotFoundError):
        await start(here, daemon)
    await here.remove_drive()
    await create(here, daemon)
    with pytest.raises(BusyError, match=r"is deferred.*can't be served by NBD now"):
        await start(here, daemon)
    assert left(here) == []
    await daemon.halt()


async def test_it_ends_with_the_ftl_and_with_the_daemon(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    one = await client(await start(here, daemon))
    await daemon.call("bdev_ftl_delete", name="ftl0")
    assert left(here) == []
    await create(here, daemon, force=True)
    two = await client(await start(here, daemon))
    await daemon.halt()
    assert left(here) == []
    for each in (one, two):
        assert each.socket.recv(1) == b""
        each.close()


async def test_a_rename_changes_nothing_for_clients(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon, no_attach=True)
    path = await start(here, daemon)
    one = await client(path)
    await daemon.call("bdev_ftl_rename", name="ftl0", new_name="ftl9")
    await asyncio.to_thread(one.ok, WRITE, 0, data=bytes(BLOCK))
    assert [each["name"] for each in await daemon.call("bdev_ftl_nbd_get")] == ["ftl9"]
    one.close()
    await daemon.halt()


async def test_a_loss_of_the_base_is_a_pause(here: World) -> None:
    """Its writes are still in the daemon, so nothing is lost."""
    daemon = await here.start()
    await create(here, daemon)
    one, data = await client(await start(here, daemon)), os.urandom(BLOCK)
    await asyncio.to_thread(one.ok, WRITE, 0, data=data)
    ftl = daemon.managed().ftl
    assert ftl is not None
    await ftl.abort("lost")
    await daemon.wait_for("online")
    await asyncio.to_thread(one.ok, FLUSH)
    assert await asyncio.to_thread(one.ok, READ, 0, BLOCK) == data
    one.close()
    await daemon.halt()


@pytest.mark.parametrize("end", ["halt", "delete"])
async def test_a_write_that_waits_for_the_base_delays_no_end(here: World, end: str) -> None:
    daemon = await here.start()
    await create(here, daemon)
    one = await client(await start(here, daemon))
    await here.remove_drive()
    await daemon.wait_for("waiting")
    waiting = asyncio.ensure_future(asyncio.to_thread(one.run, WRITE, 0, data=bytes(BLOCK)))
    gate = daemon.managed().front.gate
    assert gate is not None
    await until(lambda: gate.held > 0)
    async with time_limit(10):
        await (daemon.halt() if end == "halt" else daemon.call("bdev_ftl_delete", name="ftl0", force=True))
    with suppress(EOFError, OSError):
        # Deletion fails what waits; a halt only ends the connection.
        assert (await waiting).error != 0
    assert left(here) == []
    one.close()
    if end == "delete":
        await daemon.halt()


async def test_when_writes_may_be_lost_the_export_ends_before_a_flush_could_succeed(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await here.start()
    await create(here, daemon)
    path = await start(here, daemon)
    one = await client(path)
    await asyncio.to_thread(one.ok, WRITE, 0, data=os.urandom(BLOCK))
    device = daemon.managed()
    load = device.maker.load

    async def lossy(*args: Any, **how: Any) -> Any:
        ftl = await load(*args, **how)
        monkeypatch.setattr(ftl, "restored", {**(ftl.restored or {}), "lossy": True})
        return ftl

    monkeypatch.setattr(device.maker, "load", lossy)
    assert device.ftl is not None
    await device.ftl.abort("lost")
    with pytest.raises((EOFError, OSError)):
        await asyncio.to_thread(one.ok, FLUSH)
    await daemon.wait_for("online")
    (export,) = await daemon.call("bdev_ftl_nbd_get")
    assert export["state"] == "ended"
    assert "may be lost" in export["reason"]
    assert left(here) == []
    one.close()
    again = await client(await start(here, daemon))
    again.close()
    await daemon.halt()


async def test_it_follows_the_process_that_asked_for_it(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        with asked_for_by("a test", Peer(process.pid, os.getuid(), os.getgid())):
            path = await start(here, daemon, follow=True)
        (await client(path)).close()
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not path.exists())
    (export,) = await daemon.call("bdev_ftl_nbd_get")
    assert (export["state"], export["reason"]) == ("ended", "the process that started it has ended")
    for peer, why in (
        (Peer(0, 0, 0), "another PID namespace"),
        (Peer(process.pid, 0, 0), "can't watch pid"),
        (None, "has disconnected"),
    ):
        with asked_for_by("a test", peer), pytest.raises(FtlError, match=why):
            await start(here, daemon, follow=True)
    assert left(here) == []
    await daemon.halt()
