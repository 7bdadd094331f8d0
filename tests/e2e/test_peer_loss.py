"""kill -9 of the target, of the daemon, and of both, under the I/O of hosts that stay connected: they see a pause, no
error, and nothing they were told is written is missing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from spdk.rpc.client import JSONRPCException

from spdk_ftl_py import _shim
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import FtlError, MediaError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.reconnecting import ReconnectingHost
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended
from support.processes import Daemon, EmbeddedTarget
from support.system import Program

HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-000000000e01"
USER_NQN = "nqn.2016-06.io.spdk:user"
PATH_ERROR = 0x370
WRITE_FAULT = 0x280
WAIT_S = 60.0
KATO_MS = 30_000
"""Tests count lost connections, and a machine that stands still for some seconds is not what they are about."""
POLL_S = 0.05
BLOCK = 4096
ZNS = "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14,path={}"


class Peers:
    """A target whose drive is a file, started as its user starts it again; a daemon; what either has."""

    def __init__(self, folder: Path, *, drive: str, cache: bool, peer_timeout_s: float) -> None:
        self.folder = folder
        self._peer_timeout_s = peer_timeout_s
        calls = [{"method": "nvmf_create_transport", "params": {"trtype": "TCP"}}]
        self._arguments = ["--zns", ZNS.format(folder / "drive")] if drive == "zns" else []
        if drive == "aio":
            with (folder / "drive").open("wb") as file:
                file.truncate(64 << 20)
            bdev = {"name": "Nvme0n1", "filename": str(folder / "drive"), "block_size": BLOCK}
            calls.insert(0, {"method": "bdev_aio_create", "params": bdev})
        if cache:
            with (folder / "cache").open("wb") as file:
                file.truncate(32 << 20)
            bdev = {"name": "Cache0", "filename": str(folder / "cache"), "block_size": BLOCK}
            calls.insert(0, {"method": "bdev_aio_create", "params": bdev})
        config = {"subsystems": [{"subsystem": "nvmf", "config": calls}]}
        (folder / "target.json").write_text(json.dumps(config))
        self.start_target()
        self.start_daemon()
        self.client = DaemonClient(self.daemon.socket)

    def start_target(self) -> None:
        self.target = EmbeddedTarget(self.folder, "-c", str(self.folder / "target.json"), *self._arguments)

    def start_daemon(self) -> None:
        self.daemon = Daemon(self.folder, "--peer-timeout", str(self._peer_timeout_s))

    def device(self) -> dict[str, Any]:
        (device,) = self.client.call("ftl_get_devices")
        return dict(device)

    def wait_for(self, state: str) -> dict[str, Any]:
        """Other processes get there by themselves; nothing announces it."""
        deadline = time.monotonic() + WAIT_S
        while True:
            device = self.device()
            if device["state"] == state:
                return device
            assert device["state"] != "failed", f"{device}\n{self.daemon.log_tail()}"
            assert time.monotonic() < deadline, f"{device}\n{self.daemon.log_tail()}"
            time.sleep(POLL_S)

    def wait_while_deferred(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while self.device()["state"] == "deferred":
            assert time.monotonic() < deadline, self.daemon.log_tail()

    def wait_until_attached(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.device()["attached"] or self.target.bdev("ftl0") is None:
            assert time.monotonic() < deadline, self.daemon.log_tail()
            time.sleep(POLL_S)

    def create_drive_again(self) -> None:
        geometry = {"num_zones": 64, "zone_size": 256, "zone_capacity": 192, "max_open_zones": 14}
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                self.target.call("ftltgt_zns_create", name="Nvme0n1", path=str(self.folder / "drive"), **geometry)
                return
            except JSONRPCException:
                # Its file is free when the last I/O of the drive before it is done.
                assert time.monotonic() < deadline
                time.sleep(POLL_S)

    def create(self, **params: Any) -> dict[str, Any]:
        created: dict[str, Any] = self.client.call(
            "bdev_ftl_create",
            {"name": "ftl0", "base_bdev": "Nvme0n1", "target": self.target.socket, "hosts": [HOSTNQN], **params},
        )
        return created

    def close(self) -> None:
        self.daemon.close()
        self.target.close()


@contextmanager
def peers(folder: Path, *, drive: str = "zns", cache: bool = False, peer_timeout_s: float = WAIT_S) -> Iterator[Peers]:
    here = Peers(folder, drive=drive, cache=cache, peer_timeout_s=peer_timeout_s)
    try:
        yield here
    finally:
        for program in (here.daemon, here.target):
            if program.process.poll() is None:
                program.kill()


async def in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work)


class VerifyingHost:
    """A host that stays, with a load that verifies what it reads."""

    def __init__(self, reactor: ReactorLoop, host: ReconnectingHost) -> None:
        self.host = host
        self.port = BlockPort(reactor, host.device, name="host")
        self._reactor = reactor
        self._load = _shim.LoadGenerator(
            reactor.shim, host.device, lba_count=host.namespace.block_count, seed=5, max_io_blocks=32
        )
        self._done = asyncio.Event()
        reactor.subscribe(self._load.id, lambda event: self._done.set() if load_ended(event, self._load) else None)

    @classmethod
    async def connect(cls, traddr: str, trsvcid: str | int, subnqn: str) -> VerifyingHost:
        reactor = ReactorLoop("host")
        await reactor.start()
        host = await ReconnectingHost.connect(
            reactor, traddr, trsvcid, subnqn, hostnqn=HOSTNQN, reconnect_delay_s=0.05, loss_timeout_s=2 * WAIT_S,
            kato_ms=KATO_MS,
        )  # fmt: skip
        return cls(reactor, host)

    def start(self) -> None:
        self._done.clear()
        self._load.start("mixed", io_blocks=2, queue_depth=16, total_blocks=1 << 40, write_percent=70)

    async def moves(self, blocks: int = 500) -> None:
        """So much more is done, and nothing was wrong."""
        goal = self._load.progress().done_blocks + blocks
        deadline = time.monotonic() + WAIT_S
        while self._load.progress().done_blocks < goal:
            assert self._load.progress().running, self._load.progress()
            assert time.monotonic() < deadline, self._load.progress()
            await asyncio.sleep(POLL_S)
        self.check()

    def check(self) -> None:
        progress = self._load.progress()
        assert (progress.io_errors, progress.verify_errors) == (0, 0), f"{progress}"

    async def end(self) -> None:
        """Every block is read and is what was acknowledged."""
        self._load.stop()
        await asyncio.wait_for(self._done.wait(), WAIT_S)
        self.check()
        self._done.clear()
        self._load.start(
            "read", pattern="sequential", io_blocks=16, queue_depth=4, total_blocks=self.host.namespace.block_count
        )
        await asyncio.wait_for(self._done.wait(), WAIT_S)
        self.check()

    async def close(self) -> None:
        await self.host.close()
        self._load.close()
        await self.port.close()
        await self._reactor.stop()


def under_load(world: Peers, body: Callable[[VerifyingHost], Awaitable[None]], export: dict[str, Any]) -> None:
    async def main() -> None:
        host = await VerifyingHost.connect(export["traddr"], export["trsvcid"], export["subnqn"])
        try:
            host.start()
            await host.moves()
            await body(host)
            await host.moves()
            await host.end()
        finally:
            await host.close()

    asyncio.run(main())


def kill(program: Program) -> None:
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
    program.close()


@pytest.mark.parametrize("kind", ["zns", "aio", "zns and cache"])
def test_a_target_that_is_killed_and_started_again_is_a_pause(folder: Path, kind: str) -> None:
    drive, cache = kind[:3], kind.endswith("cache")
    with peers(folder, drive=drive, cache=cache) as world:
        options = {"zone_capacity": 192} if drive == "aio" else {"cache": "Cache0"} if cache else {}
        created = world.create(**options)
        export = world.device()["export"]

        async def body(host: VerifyingHost) -> None:
            for _ in range(2):
                kill(world.target)
                waiting = await in_thread(lambda: world.wait_for("waiting"))
                assert (waiting["export"], waiting["attached"]) == (export, False)
                assert "Nvme0n1" in waiting["error"]
                await in_thread(world.start_target)
                await in_thread(lambda: world.wait_for("online"))
                await host.moves()
            assert host.host.losses == 0

        under_load(world, body, export)
        if cache:
            assert world.client.call("bdev_ftl_get_properties", {"name": "ftl0"})["cache"]["state"] == "in_use"
        world.wait_until_attached()
        bdev = world.target.bdev("ftl0")
        assert bdev is not None
        assert bdev["uuid"] == created["uuid"]
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        world.close()


def end(program: Program) -> None:
    """In order, as by `systemctl stop`."""
    program.close()
    assert program.process.returncode == 0, program.log_tail()


@pytest.mark.parametrize("gone", [kill, end], ids=["killed", "ended"])
@pytest.mark.parametrize("cache", [False, True])
def test_a_daemon_that_is_gone_and_started_again_is_a_pause(
    folder: Path, cache: bool, gone: Callable[[Program], None]
) -> None:
    with peers(folder, cache=cache) as world:
        world.create(**({"cache": "Cache0"} if cache else {}))
        before = world.target.state()
        export = world.device()["export"]

        async def body(host: VerifyingHost) -> None:
            for losses in (1, 2):
                await in_thread(lambda: gone(world.daemon))
                await in_thread(world.start_daemon)
                device = await in_thread(lambda: world.wait_for("online"))
                assert device["export"] == export
                await host.moves()
                assert host.host.losses == losses

        under_load(world, body, export)
        # Taken over, not made anew.
        assert world.target.state() == before
        assert ("loaded after a clean shutdown" in world.daemon.log()) is (gone is end)
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        world.close()


@pytest.mark.parametrize("gone", [kill, end], ids=["killed", "ended"])
def test_the_bdev_of_the_target_goes_on_when_the_daemon_was_gone(folder: Path, gone: Callable[[Program], None]) -> None:
    """A host of the target, which exports ftl0: it never loses its connection."""
    with peers(folder) as world:
        world.create()
        port = world.target.export("ftl0", USER_NQN)

        async def body(host: VerifyingHost) -> None:
            await in_thread(lambda: gone(world.daemon))
            await in_thread(world.start_daemon)
            await in_thread(lambda: world.wait_for("online"))
            await host.moves()
            assert host.host.losses == 0

        under_load(world, body, {"traddr": "127.0.0.1", "trsvcid": port, "subnqn": USER_NQN})
        world.target.call("nvmf_delete_subsystem", nqn=USER_NQN)
        world.close()


@pytest.mark.parametrize("first", ["target", "daemon"])
def test_both_killed_and_started_again_is_a_pause(folder: Path, first: str) -> None:
    with peers(folder) as world:
        world.create()
        export = world.device()["export"]

        async def body(host: VerifyingHost) -> None:
            kill(world.target)
            if first == "target":
                await in_thread(lambda: world.wait_for("waiting"))
            kill(world.daemon)
            if first == "target":
                await in_thread(world.start_target)
                await in_thread(world.start_daemon)
            else:
                await in_thread(world.start_daemon)
                assert (await in_thread(world.device))["state"] in ("deferred", "creating")  # it tries now and then
                await in_thread(world.start_target)
            device = await in_thread(lambda: world.wait_for("online"))
            assert device["export"] == export
            await host.moves()

        under_load(world, body, export)
        world.close()


def test_a_base_bdev_that_is_deleted_and_created_again_is_a_pause(folder: Path) -> None:
    with peers(folder) as world:
        world.create()

        async def body(host: VerifyingHost) -> None:
            world.target.call("ftltgt_zns_delete", name="Nvme0n1")
            waiting = await in_thread(lambda: world.wait_for("waiting"))
            assert "Nvme0n1" in waiting["error"]
            await in_thread(world.create_drive_again)
            await in_thread(lambda: world.wait_for("online"))

        under_load(world, body, world.device()["export"])
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        world.close()


def test_a_target_that_stalls_is_a_pause(folder: Path) -> None:
    with peers(folder) as world:
        world.create()

        async def body(host: VerifyingHost) -> None:
            world.target.process.send_signal(signal.SIGSTOP)
            waiting = await in_thread(lambda: world.wait_for("waiting"))
            assert "Keep Alive" in waiting["error"]
            world.target.process.send_signal(signal.SIGCONT)
            await in_thread(lambda: world.wait_for("online"))
            assert host.host.losses == 0

        under_load(world, body, world.device()["export"])
        world.close()


def test_a_device_whose_target_stalls_can_be_deleted_and_what_it_left_is_undone_later(folder: Path) -> None:
    with peers(folder) as world:
        before = world.target.state()
        world.create()
        world.target.process.send_signal(signal.SIGSTOP)
        world.wait_for("waiting")
        with pytest.raises(FtlError, match="undo what the daemon made in the target"):
            world.client.call("bdev_ftl_delete", {"name": "ftl0"})
        assert world.client.call("ftl_get_devices") == []
        world.target.process.send_signal(signal.SIGCONT)
        created = world.create(force=True)
        world.wait_until_attached()
        assert world.client.call("ftl_get_devices")[0]["uuid"] == created["uuid"]
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        assert world.target.state() == before
        world.close()


def test_another_daemon_takes_nothing_over(folder: Path) -> None:
    with peers(folder) as world:
        created = world.create()
        before = world.target.state()
        other = folder / "other"
        other.mkdir()
        with Daemon(other) as daemon:
            client = DaemonClient(daemon.socket)
            for name in ("ftl0", "ftl1"):
                params = {"name": name, "base_bdev": "Nvme0n1", "target": world.target.socket, "uuid": created["uuid"]}
                with pytest.raises(FtlError, match=r"already claimed|already has it|of that name"):
                    client.call("bdev_ftl_create", {**params, "no_attach": True})
        with pytest.raises(FtlError, match="already has it"):
            world.create(name="ftl1", uuid=created["uuid"], no_attach=True)
        assert world.target.state() == before
        assert world.device()["state"] == "online"
        world.close()


def test_a_base_that_another_daemon_has_by_now_is_waited_for(folder: Path) -> None:
    with peers(folder) as world:
        created = world.create()
        kill(world.target)
        world.wait_for("waiting")
        kill(world.daemon)  # so that the other one is first
        other = folder / "other"
        other.mkdir()
        with Daemon(other) as daemon:
            world.start_target()
            client = DaemonClient(daemon.socket)
            params = {"base_bdev": "Nvme0n1", "target": world.target.socket, "uuid": created["uuid"]}
            client.call("bdev_ftl_create", {**params, "name": "ftl0", "no_attach": True})
            before = world.target.state()
            world.start_daemon()
            deadline = time.monotonic() + WAIT_S
            while (device := world.device())["state"] != "deferred" or "another daemon" not in (device["error"] or ""):
                assert time.monotonic() < deadline, device
                time.sleep(POLL_S)
            assert world.target.state() == before
            assert client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        assert world.wait_for("online")["uuid"] == created["uuid"]
        world.close()


def test_an_idle_device_notices_that_its_base_bdev_is_gone(folder: Path) -> None:
    with peers(folder) as world:
        before = world.target.state()["subsystems"]
        world.create()
        world.target.call("ftltgt_zns_delete", name="Nvme0n1")
        assert "deleted" in world.wait_for("waiting")["error"]
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        assert world.target.state()["subsystems"] == before
        world.close()


def test_after_the_timeout_io_fails_and_goes_on_when_the_base_is_back(folder: Path) -> None:
    with peers(folder, peer_timeout_s=0.3) as world:
        world.create()
        export = world.device()["export"]

        async def main() -> None:
            host = await VerifyingHost.connect(export["traddr"], export["trsvcid"], export["subnqn"])
            try:
                await host.port.write(7, b"\x07" * BLOCK)
                kill(world.target)
                device = await in_thread(lambda: world.wait_for("waiting"))
                with pytest.raises(MediaError) as caught:
                    await host.port.flush()
                assert caught.value.status == PATH_ERROR
                device = await in_thread(world.device)
                assert "fails" in device["error"]
                await in_thread(world.start_target)
                await in_thread(lambda: world.wait_for("online"))
                assert bytes(await host.port.read(7, 1)) == b"\x07" * BLOCK
                await host.port.flush()
                assert host.host.losses == 0
            finally:
                await host.close()

        asyncio.run(main())
        world.close()


def test_a_base_that_comes_back_empty_fails_the_device_and_says_why(folder: Path) -> None:
    with peers(folder) as world:
        before = world.target.state()["subsystems"]
        created = world.create()
        kill(world.target)
        world.wait_for("waiting")
        for path in folder.glob("drive*"):
            path.unlink()
        world.start_target()
        deadline = time.monotonic() + WAIT_S
        while (device := world.device())["state"] != "failed":
            assert time.monotonic() < deadline, device
            time.sleep(POLL_S)
        assert created["uuid"] in device["error"]
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        assert world.target.state()["subsystems"] == before
        world.close()


def test_a_waiting_device_can_be_deleted_and_its_daemon_ended(folder: Path) -> None:
    with peers(folder) as world:
        world.create()
        kill(world.target)
        assert world.wait_for("waiting")["since"]
        assert world.client.call("bdev_ftl_get_properties", {"name": "ftl0"})["state"] == "waiting"
        assert world.client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
        assert world.client.call("ftl_get_devices") == []
        world.start_target()
        created = world.create(force=True)
        kill(world.target)
        world.wait_for("waiting")
        world.daemon.close()
        assert world.daemon.process.returncode == 0
        world.start_target()
        world.start_daemon()
        assert world.wait_for("online")["uuid"] == created["uuid"]
        world.close()


def test_a_daemon_killed_while_it_waits_and_while_it_loads_still_comes_back(folder: Path) -> None:
    with peers(folder) as world:
        world.create()
        export = world.device()["export"]

        async def body(host: VerifyingHost) -> None:
            kill(world.target)
            await in_thread(lambda: world.wait_for("waiting"))
            kill(world.daemon)
            await in_thread(world.start_daemon)
            await in_thread(world.start_target)
            for _ in range(3):
                await in_thread(world.wait_while_deferred)
                kill(world.daemon)  # as it creates, or just has
                await in_thread(world.start_daemon)
            assert (await in_thread(lambda: world.wait_for("online")))["export"] == export

        under_load(world, body, export)
        world.close()


def test_the_port_hosts_know_is_waited_for(folder: Path) -> None:
    with peers(folder) as world:
        world.create()
        export = world.device()["export"]
        kill(world.daemon)
        with socket.create_server(("127.0.0.1", int(export["trsvcid"]))):
            world.start_daemon()
            deadline = time.monotonic() + WAIT_S
            while (device := world.device())["state"] != "deferred" or export["trsvcid"] not in (device["error"] or ""):
                assert time.monotonic() < deadline, device
                time.sleep(POLL_S)
        assert world.wait_for("online")["export"] == export
        world.close()


@pytest.mark.parametrize("who", ["daemon", "both"])
def test_hosts_that_stay_learn_from_their_first_flush_that_the_write_buffer_is_gone(folder: Path, who: str) -> None:
    """As after a machine went down whose hosts are elsewhere. Once, and only those that were connected."""

    async def flush(host: ReconnectingHost, port: BlockPort) -> int:
        try:
            await port.flush()
        except MediaError as error:
            assert host.failure is None
            return error.status
        return 0

    async def main(world: Peers) -> None:
        world.create(hosts=[f"nqn.2026-11.io.example:host{number}" for number in (1, 2, 3)])
        export = world.device()["export"]
        reactor = ReactorLoop("hosts")
        await reactor.start()

        async def connect(number: int) -> tuple[ReconnectingHost, BlockPort]:
            host = await ReconnectingHost.connect(
                reactor, export["traddr"], export["trsvcid"], export["subnqn"],
                hostnqn=f"nqn.2026-11.io.example:host{number}", reconnect_delay_s=0.05, loss_timeout_s=2 * WAIT_S,
            )  # fmt: skip
            return host, BlockPort(reactor, host.device, name=f"host{number}")

        host, port = await connect(1)
        gone, gone_port = await connect(2)
        await port.write(0, b"a" * BLOCK)
        assert await flush(host, port) == 0
        await port.write(0, b"b" * BLOCK)
        # It left in order: nothing is owed to it.
        await gone_port.close()
        await gone.close()
        kill(world.daemon)
        if who == "both":
            kill(world.target)
            world.start_target()
        for file in (folder / "buffers").iterdir():
            file.unlink()
        world.start_daemon()
        await in_thread(lambda: world.wait_for("online"))
        # Owed until it is delivered, however often the daemon goes.
        kill(world.daemon)
        world.start_daemon()
        await in_thread(lambda: world.wait_for("online"))
        other, other_port = await connect(3)
        gone, gone_port = await connect(2)
        assert [await flush(other, other_port), await flush(gone, gone_port)] == [0, 0]
        assert await flush(host, port) == WRITE_FAULT
        assert await flush(host, port) == 0
        assert bytes((await port.read(0, 1)).reshape(-1)[:1]) in (b"a", b"b")
        for each, its in ((host, port), (other, other_port), (gone, gone_port)):
            await its.close()
            await each.close()
        await reactor.stop()

    with peers(folder) as world:
        asyncio.run(asyncio.wait_for(main(world), 3 * WAIT_S))
        world.close()
