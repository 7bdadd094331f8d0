"""The daemon's registry within the test's process, before an embedded target whose answers a test may hold back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from spdk_ftl_py import schema
from spdk_ftl_py.daemon.base import DaemonIdentity
from spdk_ftl_py.daemon.device import ManagedDevice
from spdk_ftl_py.daemon.load_turns import LoadTurns
from spdk_ftl_py.daemon.native_engine import NativeEngine
from spdk_ftl_py.daemon.registry import Registry
from spdk_ftl_py.daemon.requests import FtlRequest
from spdk_ftl_py.daemon.state import StateDirectory
from spdk_ftl_py.daemon.transports import TransportName
from spdk_ftl_py.daemon.vfio_user_export import FOLDER
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.discovery import Catalog
from spdk_ftl_py.nvme.target.peers import PeerLimits
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.spdk.exports import host_nqn
from spdk_ftl_py.target.app import Target
from spdk_ftl_py.target.jsonrpc import RpcError
from spdk_ftl_py.time_limit import time_limit
from unit.nvme.nvme_loop import until

WAIT_S = 60.0
RELEASE_S = 10.0
WRITER_BLOCKS = 16
REFUSAL = {"code": -32603, "message": "Internal error"}
HOSTNQN = "nqn.2026-11.io.example:host"


class Line:
    """The RPC socket of a target. ``refused``: methods it answers with an error; ``answers``: results that are not the
    target's own."""

    def __init__(self, path: Path, target: Target | None) -> None:
        self.path = str(path)
        self.target = target
        self.called: list[str] = []
        self.refused: set[str] = set()
        self.answers: dict[str, Any] = {}
        self.refused_trtypes: set[str] = set()
        """Transports that this target's bdev_nvme does not know."""
        self._held: set[str] | None = set()
        self._released = asyncio.Event()
        self._server: asyncio.AbstractServer | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._connected, self.path)

    def hold(self, *methods: str) -> None:
        """From now on those, or all, get no answer, until release()."""
        self._held = set(methods) or None
        self._released.clear()

    def release(self) -> None:
        self._held = set()
        self._released.set()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received = b""
            while not received.endswith(b"}"):
                chunk = await reader.read(1 << 16)
                if not chunk:
                    return
                received += chunk
            request = json.loads(received)
            writer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **await self._answer(request)}).encode())
            await writer.drain()
        finally:
            writer.close()

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        method = request["method"]
        self.called.append(method)
        if self._held is None or method in self._held:
            await self._released.wait()
        if method in self.refused or (request.get("params") or {}).get("trtype") in self.refused_trtypes:
            return {"error": REFUSAL}
        if method in self.answers:
            return {"result": self.answers[method]}
        assert self.target is not None
        try:
            return {"result": await self.target.dispatch(method, request.get("params"))}
        except FtlError as error:
            return {"error": error.to_jsonrpc()}


class Daemon:
    """A registry with what it is given by `spdk-ftl serve`."""

    def __init__(
        self, folder: Path, listen: str, peers: PeerLimits | None, nqn_template: str | None,
        catalog: Catalog | None = None, transport: TransportName = TransportName.TCP,
        loads: LoadTurns | None = None, peer_timeout_s: float = WAIT_S, halt_timeout_s: float = WAIT_S,
    ) -> None:  # fmt: skip
        self.state = StateDirectory(folder / "state")
        self.state.open()
        self._folder = folder
        buffers = folder / "buffers"
        buffers.mkdir(mode=0o700, exist_ok=True)
        keys = self.state.path / "keys"
        host_id = self.state.host_id
        identity = DaemonIdentity(
            host_nqn(host_id),
            host_id,
            listen,
            peer_timeout_s,
            buffers,
            keys,
            peers,
            nqn_template=nqn_template,
            reservation_dir=self.state.path / "reservations",
            catalog=catalog,
            transport=transport,
            endpoint_dir=self.state.path / FOLDER,
            loads=loads or LoadTurns(),
            halt_timeout_s=halt_timeout_s,
        )
        self.registry = Registry(self.state, identity, socket_path="")
        self.methods = NativeEngine(self.registry, identity).route(self.registry.methods)

    async def call(self, method: str, **params: Any) -> Any:
        return await self.methods[method](schema.load(method).validate(params))

    async def device(self, name: str = "ftl0") -> dict[str, Any]:
        device: dict[str, Any] = (await self.call("ftl_get_devices", name=name))[0]
        return device

    async def wait_for(self, state: str, name: str = "ftl0") -> dict[str, Any]:
        await until(lambda: self.managed(name).state.value == state)
        return await self.device(name)

    def managed(self, name: str = "ftl0") -> ManagedDevice:
        """The only one of that name."""
        return self.registry.find(FtlRequest(name=name))

    def record(self) -> Any:
        return json.loads((self._folder / "state" / "state.json").read_text())

    async def halt(self, *, undo: bool = False) -> None:
        await self.registry.halt(undo=undo)
        self.state.close()

    def die(self) -> Any:
        """What its successor is to find, had it been killed now: for put_back(), behind a halt()."""
        return (self._folder / "state" / "state.json").read_bytes()

    def put_back(self, state: bytes) -> None:
        (self._folder / "state" / "state.json").write_bytes(state)


class World:
    def __init__(self, folder: Path, target: Target, line: Line) -> None:
        self.folder = folder
        self.target = target
        self.line = line

    def daemon(
        self, listen: str = "127.0.0.1", peers: PeerLimits | None = None, nqn_template: str | None = None
    ) -> Daemon:
        return Daemon(self.folder, listen, peers, nqn_template)

    async def start(
        self,
        peers: PeerLimits | None = None,
        catalog: Catalog | None = None,
        transport: TransportName = TransportName.TCP,
        loads: LoadTurns | None = None,
        peer_timeout_s: float = WAIT_S,
        halt_timeout_s: float = WAIT_S,
    ) -> Daemon:
        """A daemon that serves, with the devices that the one before it left."""
        daemon = Daemon(
            self.folder, "127.0.0.1", peers, None, catalog, transport, loads, peer_timeout_s, halt_timeout_s
        )
        await daemon.registry.start()
        return daemon

    async def rpc(self, method: str, **params: Any) -> Any:
        return await self.target.dispatch(method, params or None)

    async def make_drive(self) -> None:
        """If it was removed a moment ago, the target's I/O queues still have its file, until they are closed."""
        async with time_limit(RELEASE_S):
            while True:
                try:
                    await self.rpc(
                        "ftltgt_zns_create", name="Nvme0n1", path=str(self.folder / "drive"),
                        num_zones=64, zone_size=256, zone_capacity=192, max_open_zones=14,
                    )  # fmt: skip
                    return
                except RpcError as error:
                    if "is in use by another emulated drive" not in str(error):
                        raise
                await asyncio.sleep(0.01)

    async def remove_drive(self) -> None:
        await self.rpc("ftltgt_zns_delete", name="Nvme0n1")

    async def exports(self) -> list[str]:
        """Subsystems that are not the target's own."""
        return [entry["nqn"] for entry in await self.rpc("nvmf_get_subsystems") if "spdk-ftl" in entry["nqn"]]

    async def claimed(self) -> bool:
        return bool((await self.rpc("bdev_get_bdevs", name="Nvme0n1"))[0]["claimed"])


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """At the end nothing is left: no task, no bdev."""
    before = asyncio.all_tasks()
    target = Target("", reactor=ReactorLoop("target", spin_us=0))
    await target.start(listen=False)
    line = Line(folder / "t.sock", target)
    await line.start()
    here = World(folder, target, line)
    await here.rpc("nvmf_create_transport", trtype="TCP")
    await here.make_drive()
    try:
        yield here
    finally:
        line.release()
        await line.close()
        await target.close()
    left = asyncio.all_tasks() - before
    assert not left, left


async def create(here: World, daemon: Daemon, name: str = "ftl0", **params: Any) -> Any:
    params = {"base_bdev": "Nvme0n1", "target": here.line.path, "no_attach": True, "hosts": [HOSTNQN]} | params
    return await daemon.call("bdev_ftl_create", name=name, **params)


async def connected(here: World, daemon: Daemon, **options: Any) -> Controller:
    export = (await daemon.device())["export"]
    return await Controller.connect(
        export["traddr"], export["trsvcid"], export["subnqn"], hostnqn=HOSTNQN, hostid=UUID(int=7), **options
    )


async def write(here: World, daemon: Daemon, block_count: int) -> None:
    """As a host, without a flush."""
    controller = await connected(here, daemon)
    async with ReactorLoop("host", spin_us=0) as reactor:
        (namespace,) = await controller.namespaces()
        qpair = await controller.create_io_qpair(reactor, namespace)
        port = BlockPort(reactor, qpair, name="host")
        for lba in range(block_count):
            await port.write(lba, bytes([lba + 1]) * 4096)
        await port.close()
        await controller.close()


async def read(here: World, daemon: Daemon, block_count: int) -> list[int]:
    controller = await connected(here, daemon)
    async with ReactorLoop("host", spin_us=0) as reactor:
        (namespace,) = await controller.namespaces()
        port = BlockPort(reactor, await controller.create_io_qpair(reactor, namespace), name="host")
        blocks = await port.read(0, block_count)
        await port.close()
        await controller.close()
    return [int(block[0]) for block in blocks]


def gate_of(daemon: Daemon) -> BlockPort:
    """As a host has it, whatever stands between."""
    front = daemon.managed().front
    assert front.gate is not None
    return BlockPort(front.reactor, front.gate, name="host", patience_s=0)


class Writer:
    """Writes for as long as it runs: block n of the first WRITER_BLOCKS has the number of its last write. Every write
    must succeed."""

    def __init__(self, port: BlockPort) -> None:
        self.number = 0
        self._port = port
        self._ended = False
        self._task = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while not self._ended:
            number = self.number + 1
            await self._port.write(number % WRITER_BLOCKS, number.to_bytes(8, "little") + bytes(4088))
            self.number = number

    async def goes_on(self) -> None:
        before = self.number
        await until(lambda: self.number >= before + 2 * WRITER_BLOCKS or self._task.done())
        assert not self._task.done(), self._task.exception()

    async def end(self) -> None:
        self._ended = True
        await self._task

    async def verify(self) -> None:
        """Ends it, too."""
        await self.end()
        blocks = await self._port.read(0, WRITER_BLOCKS)
        found = sorted(int.from_bytes(bytes(block[:8]), "little") for block in blocks)
        assert found == list(range(self.number - WRITER_BLOCKS + 1, self.number + 1))
