"""A target in this process to connect to, raw sockets to annoy it with, and one I/O at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.host.connect import build_connect
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.nvme.target.listener import NvmfTarget
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.wire import AdminOp, PduType, Sqe
from spdk_ftl_py.runtime.reactor import ReactorLoop

SUBNQN = "nqn.2026-11.io.example:subsystem"
HOSTNQN = "nqn.2026-11.io.example:host"
HOSTID = bytes(range(16))
WAIT_S = 20.0


class At:
    """Where a target listens."""

    def __init__(self, port: int, traddr: str = "127.0.0.1") -> None:
        self.port = port
        self._traddr = traddr

    async def raw(self) -> RawHost:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self._traddr, self.port))
        return RawHost(sock)


class Bench(At):
    """A running reactor and target with one subsystem of one 4 MiB namespace, open to any host."""

    def __init__(self, reactor: ReactorLoop, target: NvmfTarget, subsystem: Subsystem, port: int) -> None:
        super().__init__(port)
        self.reactor = reactor
        self.target = target
        self.subsystem = subsystem

    def media(self, block_count: int = 1024, **options: Any) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.conventional(self.reactor.shim, block_count, **options)

    def zns(self, **options: Any) -> _shim.EmulatedMedia:
        return _shim.EmulatedMedia.zns(self.reactor.shim, 16, 64, 48, **options)

    async def connect(self, **options: Any) -> Controller:
        options.setdefault("hostnqn", HOSTNQN)
        return await Controller.connect("127.0.0.1", self.port, options.pop("subnqn", SUBNQN), **options)


@asynccontextmanager
async def bench(*, namespace: bool = True, **limits: Any) -> AsyncIterator[Bench]:
    """Checks at the end that no task is left."""
    before = asyncio.all_tasks()
    reactor = ReactorLoop("nvme-test", spin_us=0)
    await reactor.start()
    target = NvmfTarget(reactor, **limits)
    try:
        port = await target.listen("127.0.0.1", 0)
        subsystem = Subsystem(SUBNQN, allow_any_host=True)
        subsystem.add_listener("127.0.0.1", port)
        target.add_subsystem(subsystem)
        here = Bench(reactor, target, subsystem, port)
        if namespace:
            subsystem.add_namespace(here.media())
        yield here
    finally:
        await target.close()
        await reactor.stop()
    left = asyncio.all_tasks() - before
    assert not left, left


class RawHost:
    """Bytes to and from a target, without anything that would keep one from sending nonsense."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, raw: bytes) -> None:
        await self._loop.sock_sendall(self.sock, raw)

    async def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = await asyncio.wait_for(self._loop.sock_recv(self.sock, count - len(data)), WAIT_S)
            if not chunk:
                raise EOFError
            data += chunk
        return data

    async def pdu(self) -> tuple[int, bytes, bytes]:
        """(type, header, data) of the next PDU; no digests."""
        start = await self.receive(8)
        kind, _, hlen, _, plen = wire.COMMON_HEADER.unpack(start)
        return kind, start + await self.receive(hlen - 8), await self.receive(plen - hlen)

    async def initialize(self) -> bytes:
        await self.send(ic_req())
        kind, header, _ = await self.pdu()
        assert kind == PduType.IC_RESP
        return header

    async def command(self, sqe: Sqe, data: bytes = b"") -> tuple[wire.Cqe, bytes]:
        """Sends it and returns its completion and the data that came before."""
        await self.send(capsule(sqe, data))
        received = b""
        while True:
            kind, header, chunk = await self.pdu()
            if kind == PduType.CAPSULE_RESP:
                return wire.Cqe.unpack(header[8:]), received
            assert kind == PduType.C2H_DATA
            received += chunk

    async def connect(self, **changes: Any) -> wire.Cqe:
        sqe, data = connect_command(**changes)
        return (await self.command(sqe, data))[0]

    async def enable(self) -> int:
        """Admin queue, connected and enabled; the controller's id."""
        await self.initialize()
        cqe = await self.connect()
        assert cqe.status == 0
        await self.set_property(wire.Property.CC, 0x00460001)
        return cqe.result & 0xFFFF

    async def set_property(self, offset: int, value: int) -> wire.Cqe:
        return (await self.command(Sqe(0x7F, nsid=0, cdw11=offset, cdw12=value)))[0]

    async def get_property(self, offset: int, attribute: int = 0) -> wire.Cqe:
        return (await self.command(Sqe(0x7F, nsid=4, cdw10=attribute, cdw11=offset)))[0]

    async def at_end(self) -> bool:
        """Waits for the target to close."""
        try:
            while await asyncio.wait_for(self._loop.sock_recv(self.sock, 65536), WAIT_S):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()


def ic_req(pfv: int = 0, hpda: int = 0, digests: int = 0, hlen: int = 128, plen: int = 128, kind: int = 0) -> bytes:
    return wire.COMMON_HEADER.pack(kind, 0, hlen, 0, plen) + wire.IC_BODY.pack(pfv, hpda, digests, 0)


def capsule(sqe: Sqe, data: bytes = b"") -> bytes:
    pdo = 72 if data else 0
    return wire.COMMON_HEADER.pack(PduType.CAPSULE_CMD, 0, 72, pdo, 72 + len(data)) + sqe.pack() + data


def connect_command(**changes: Any) -> tuple[Sqe, bytes]:
    fields: dict[str, Any] = {
        "qid": 0, "queue_size": 32, "kato_ms": 10_000, "hostid": HOSTID, "cntlid": 0xFFFF, "subnqn": SUBNQN,
        "hostnqn": HOSTNQN,
    }  # fmt: skip
    return build_connect(**(fields | changes))


async def io(
    reactor: ReactorLoop,
    device: _shim.BlockDevice,
    op: _shim.Op,
    lba: int = 0,
    count: int = 0,
    buffer: Any = None,
    **options: Any,
) -> tuple[int, int]:
    """(status, result) of one I/O."""
    port = _shim.IoPort(reactor.shim, device, 4)
    done: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    reactor.subscribe(port.id, lambda event: done.set_result((event.status, event.result)))
    try:
        port.submit(op, lba, count, buffer, **options)
        return await asyncio.wait_for(done, WAIT_S)
    finally:
        reactor.unsubscribe(port.id)
        port.close()


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until it holds."""

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110  (the shim's doings set no event)
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), WAIT_S)


async def get_feature(
    controller: Controller, feature: int, *, select: int = 0, cdw11: int = 0, receive_bytes: int = 0
) -> tuple[int, bytearray]:
    """(DW0 of the completion, data)."""
    sqe = Sqe(AdminOp.GET_FEATURES, cdw10=select << 8 | feature, cdw11=cdw11)
    cqe, data = await controller.command(sqe, receive_bytes=receive_bytes, what=f"Get Features {feature:#04x}")
    return cqe.result & 0xFFFFFFFF, data
