"""The keeper: what it holds while no daemon is there, and that the next one goes on from there."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spdk_ftl_py.access.peers import peer_of
from spdk_ftl_py.errors import BusyError
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.wire import AdminOp, Feature
from spdk_ftl_py.vfio_user.target import kept_endpoint
from spdk_ftl_py.vfio_user.target.keeper import DAEMON_SOCKET, HAND_OVER_VERSION, Keeper, SmallLoop
from support.vfio_user_client import CC_ENABLE, PAGE, QueuePair, VfioUserClient
from support.vfio_user_server import Server
from unit.vfio_user.rig import Rig

KEPT = pytest.mark.rig(keeper=True)


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


async def attached(here: Rig) -> VfioUserClient:
    client = await asyncio.to_thread(VfioUserClient, here.directory)
    await asyncio.to_thread(client.enable)
    return client


async def hand_over(here: Rig) -> None:
    """To the next daemon."""
    await here.listener.stop(keep=True)
    assert not here.subsystem.controllers
    here.listener = here.make_listener()
    await here.listener.start()


@KEPT
async def test_a_client_goes_on_with_the_next_daemon(here: Rig) -> None:
    client = await attached(here)
    pair = await asyncio.to_thread(client.create_queue, 1)
    event = client.submit(client.admin, AdminOp.ASYNC_EVENT_REQUEST)
    assert (await asyncio.to_thread(client.write, pair, 1, b"1" * PAGE)).status == 0
    pid = here.listener.describe()["keeper_pid"]
    await here.listener.stop(keep=True)
    # Nobody is there; nothing is lost.
    at = client.allocate(PAGE)
    waiting = client.submit(pair, wire.NvmOp.READ, nsid=1, prp1=client.iova + at, cdw=(1, 0, 0))
    assert client.read_register(wire.Property.CSTS) == wire.CSTS_RDY
    here.listener = here.make_listener()
    changes: list[bool] = []
    here.listener.changed = lambda: changes.append(here.listener.connected)
    await here.listener.start()
    assert (await asyncio.to_thread(client.wait, pair, waiting)).status == 0
    assert client.memory[at : at + PAGE] == b"1" * PAGE
    assert here.listener.describe()["keeper_pid"] == pid
    await until(lambda: here.listener.connected)
    assert changes == [True]
    # The event request waits as before; what may have changed meanwhile is told.
    assert (await asyncio.to_thread(client.wait, client.admin, event)).result == wire.EVENT_NAMESPACE_CHANGED
    assert (await asyncio.to_thread(client.identify, 1))[:1] == b"\0"
    assert (await asyncio.to_thread(client.execute, client.admin, AdminOp.DELETE_IO_SQ, cdw=(1,))).status == 0
    assert (await asyncio.to_thread(client.execute, client.admin, AdminOp.DELETE_IO_CQ, cdw=(1,))).status == 0
    await asyncio.to_thread(client.create_queue, 1)
    client.close()


@KEPT
async def test_features_and_the_controller_id_stay(here: Rig) -> None:
    client = await attached(here)
    cdw = (Feature.ASYNC_EVENT_CONFIGURATION, 0x100)
    assert (await asyncio.to_thread(client.execute, client.admin, AdminOp.SET_FEATURES, cdw=cdw)).status == 0
    (before,) = here.subsystem.controllers
    here.subsystem.allocate_cntlid()
    await hand_over(here)
    cqe = await asyncio.to_thread(client.execute, client.admin, AdminOp.GET_FEATURES, cdw=cdw[:1])
    assert cqe.result == 0x100
    assert list(here.subsystem.controllers) == [before]
    client.close()


@KEPT
async def test_registers_work_while_no_daemon_is_there(here: Rig) -> None:
    """But only a daemon can enable the controller."""
    client = await attached(here)
    await asyncio.to_thread(client.create_queue, 1)
    await here.listener.stop(keep=True)

    def reset() -> None:
        client.write_register(0x14, CC_ENABLE | wire.SHN_NORMAL << wire.CC_SHN_SHIFT)
        client.wait_csts(wire.CSTS_SHST_MASK, wire.CSTS_SHST_COMPLETE)
        client.disable()
        client.unmap(client.iova, len(client.memory))
        client.map(client.iova, len(client.memory), client.fd)
        client.write_register(0x14, CC_ENABLE)
        client.write_register(0x14, 0)
        client.wait_csts(0xFFFFFFFF, 0)

    await asyncio.to_thread(reset)
    enabling = asyncio.ensure_future(asyncio.to_thread(client.enable))
    await asyncio.sleep(0.05)
    assert not enabling.done()
    here.listener = here.make_listener()
    await here.listener.start()
    await enabling
    pair = await asyncio.to_thread(client.create_queue, 1)
    assert (await asyncio.to_thread(client.write, pair, 0, bytes(PAGE))).status == 0
    client.close()


@KEPT
async def test_a_client_may_come_while_no_daemon_is_there(here: Rig) -> None:
    await here.listener.stop(keep=True)
    attaching = asyncio.ensure_future(attached(here))
    await asyncio.sleep(0.05)
    here.listener = here.make_listener()
    await here.listener.start()
    client = await attaching
    assert await asyncio.to_thread(client.identify, 1)
    client.close()
    await until(lambda: not here.listener.connected)
    await here.enabled(lambda again: again.identify(1))


@KEPT
async def test_a_second_daemon_is_refused(here: Rig) -> None:
    with pytest.raises(BusyError, match=f"is served by another process, pid {os.getpid()}"):
        await here.make_listener().start()
    await here.enabled(lambda client: client.identify(1))


@KEPT
async def test_a_keeper_that_dies_is_told_and_replaced(here: Rig) -> None:
    client = await attached(here)
    changes: list[bool] = []
    await until(lambda: here.listener.connected)
    here.listener.changed = lambda: changes.append(here.listener.alive)
    os.kill(here.listener.describe()["keeper_pid"], signal.SIGKILL)
    await until(lambda: bool(changes))
    assert changes[0] is False
    assert not here.listener.connected
    await here.listener.stop()
    here.listener = here.make_listener()
    await here.listener.start()
    await here.enabled(lambda again: again.identify(1))
    client.close()


# A machine on which a fork's child runs late.
SLOW_CHILD = """
import os, sys, time
from spdk_ftl_py.vfio_user.target import keeper
def slowly(call):
    return lambda *arguments: (time.sleep(0.3), call(*arguments))
os.setsid, os.chdir = slowly(os.setsid), slowly(os.chdir)
sys.exit(keeper.main(sys.argv[1:]))
"""


def start_slowly(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SLOW_CHILD, str(directory)], capture_output=True, text=True, timeout=20, check=False
    )


async def test_who_starts_a_keeper_sees_the_pid_of_the_one_that_stays(tmp_path: Path) -> None:
    directory = tmp_path / "e"
    directory.mkdir(0o700)
    assert start_slowly(directory).returncode == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(directory / DAEMON_SOCKET))
        peer = peer_of(sock)
        assert peer is not None
        try:
            # A second one: its reason and its exit status reach whoever starts it.
            second = start_slowly(directory)
            assert second.returncode not in (0, 1)
            assert str(directory) in second.stderr
            assert len(second.stderr.splitlines()) == 1
        finally:
            os.kill(peer.pid, signal.SIGTERM)
    await until(lambda: not list(directory.iterdir()))


@KEPT
async def test_signals_for_the_daemon_do_not_end_the_keeper(here: Rig) -> None:
    pid = here.listener.describe()["keeper_pid"]
    assert os.getsid(pid) != os.getsid(0)
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(pid, number)
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    await here.enabled(lambda client: client.identify(1))


@KEPT
async def test_a_keeper_of_another_version_is_replaced(here: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = here.listener.describe()["keeper_pid"]
    await here.listener.stop(keep=True)
    here.listener = here.make_listener()
    with monkeypatch.context() as patch:
        patch.setattr(kept_endpoint, "HAND_OVER_VERSION", 99)
        # The one that is started then is of this version.
        start = kept_endpoint.KeptEndpoint._start_keeper

        async def start_of_ours(self: kept_endpoint.KeptEndpoint) -> None:
            patch.undo()
            await start(self)

        patch.setattr(kept_endpoint.KeptEndpoint, "_start_keeper", start_of_ours)
        await here.listener.start()
    assert here.listener.describe()["keeper_pid"] != before
    await here.enabled(lambda client: client.identify(1))


@KEPT
async def test_work_that_had_not_begun_leaves_no_descriptor(here: Rig) -> None:
    """The daemon ends while a client's requests wait for their turn."""
    serving = here.listener._serving
    released = []
    serving.came(None, release=lambda: released.append("client"))
    serving.map(1, None, release=lambda: released.append("region"))
    serving.gone(2)
    await serving.close()
    assert released == ["client", "region"]


# --- a keeper in this process ----------------------------------------------------------------------------------------


@pytest.fixture
def keeper(folder: Path) -> Iterator[Keeper]:
    loop = SmallLoop()
    made = Keeper(folder, loop, alone_s=0.05)
    yield made
    made.close()
    assert not os.path.exists(folder / "cntrl")


def test_a_keeper_that_nobody_needs_ends(keeper: Keeper) -> None:
    keeper._loop.run()


def test_a_keeper_stays_while_a_client_is_there(keeper: Keeper, folder: Path) -> None:
    thread = threading.Thread(target=keeper._loop.run)
    thread.start()
    with VfioUserClient(folder) as client:
        for _ in range(10):
            time.sleep(0.02)
            assert client.read_register(8) == wire.VERSION_2_0
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()


def test_a_keeper_whose_directory_is_gone_ends(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    folder.mkdir(mode=0o700)
    loop = SmallLoop()
    keeper = Keeper(folder, loop, alone_s=0.05)
    shutil.rmtree(folder)
    keeper._alone_since += 1000
    loop.run()
    keeper.close()


def test_a_daemon_that_ended_before_the_next_one_came_is_not_in_its_way(keeper: Keeper, folder: Path) -> None:
    """However much of what it sent the keeper has not read yet."""

    def daemon() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(20)
        sock.connect(str(folder / DAEMON_SOCKET))
        return sock

    serve = json.dumps({"op": "serve", "cap": 0, "version": HAND_OVER_VERSION}).encode()
    with daemon() as first:
        first.send(serve)
        thread = threading.Thread(target=keeper._loop.run)
        thread.start()
        assert json.loads(first.recv(1000))["op"] == "ready"
        with daemon() as second:
            assert json.loads(second.recv(1000))["op"] == "busy"
        first.send(json.dumps({"op": "end"}).encode())
        thread.join(20)
        # The keeper reads nothing while these come and go.
        for _ in range(20):
            first.send(json.dumps({"op": "none"}).encode())
    with daemon() as second:
        second.send(serve)
        keeper._loop.running = True
        thread = threading.Thread(target=keeper._loop.run)
        thread.start()
        assert json.loads(second.recv(1000))["op"] == "ready"
    thread.join(20)
    assert not thread.is_alive()


# --- with kill -9 ----------------------------------------------------------------------------------------------------


def test_a_killed_daemon_is_a_pause(folder: Path) -> None:
    """Every command is completed once, and data is that of the last write."""
    directory, file = folder / "e", folder / "drive"
    server = Server(directory, file)
    assert server.ready
    with VfioUserClient(directory, memory_bytes=32 << 20) as client:
        client.enable()
        pairs = [client.create_queue(qid, 32) for qid in (1, 2)]
        event = client.submit(client.admin, AdminOp.ASYNC_EVENT_REQUEST)
        data = {(pair.qid, slot): client.allocate(PAGE) for pair in pairs for slot in range(24)}
        version = 0
        for batches in (40, 8):
            for batch in range(batches):
                version += 1
                cids = [(pair, write(client, pair, slot, data, version)) for pair in pairs for slot in range(24)]
                if batch < batches - 1:
                    assert all(client.wait(pair, cid).status == 0 for pair, cid in cids)
            server.kill()
            server = Server(directory, file)
            assert server.ready
            assert all(client.wait(pair, cid).status == 0 for pair, cid in cids)
        for (qid, slot), _at in data.items():
            assert client.read(client.queues[qid], 100 * qid + slot) == version.to_bytes(4, "little") * (PAGE // 4)
        assert event not in client.admin.done or client.admin.done[event].status == 0
        client.create_queue(3)
    assert server.stop() == 0
    assert list(directory.iterdir()) == []


def write(client: VfioUserClient, pair: QueuePair, slot: int, data: dict[tuple[int, int], int], version: int) -> int:
    at = data[pair.qid, slot]
    client.memory[at : at + PAGE] = version.to_bytes(4, "little") * (PAGE // 4)
    lba = 100 * pair.qid + slot
    return client.submit(pair, wire.NvmOp.WRITE, nsid=1, prp1=client.iova + at, cdw=(lba, 0, 0))
