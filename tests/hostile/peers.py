"""What peers send that mean no good: blocking sockets, each attack as an async context manager that goes on until it is
left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from spdk_ftl_py.nvme import wire
from spdk_ftl_py.nvme.host.connect import build_connect
from spdk_ftl_py.nvme.wire import PduType, Sqe
from unit.nvme.nvme_loop import capsule, ic_req

TIMEOUT_S = 20.0
KATO_MS = 60_000


class Peer:
    """One connection."""

    def __init__(self, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def pdu(self) -> tuple[int, bytes, bytes]:
        start = self.exactly(8)
        kind, _, hlen, _, plen = wire.COMMON_HEADER.unpack(start)
        return kind, start + self.exactly(hlen - 8), self.exactly(plen - hlen)

    def initialize(self) -> Peer:
        self.sock.sendall(ic_req())
        assert self.pdu()[0] == PduType.IC_RESP
        return self

    def command(self, sqe: Sqe, data: bytes = b"") -> wire.Cqe:
        self.sock.sendall(capsule(sqe, data))
        while True:
            kind, header, _ = self.pdu()
            if kind == PduType.CAPSULE_RESP:
                return wire.Cqe.unpack(header[8:])

    def connect(
        self, subnqn: str, hostnqn: str, *, kato_ms: int = 10_000, qid: int = 0, cntlid: int = 0xFFFF,
        queue_size: int = 32, hostid: bytes = bytes(16),
    ) -> wire.Cqe:  # fmt: skip
        return self.command(
            *build_connect(
                qid=qid, queue_size=queue_size, kato_ms=kato_ms, hostid=hostid, cntlid=cntlid, subnqn=subnqn,
                hostnqn=hostnqn,
            )
        )  # fmt: skip

    def io_queues(self, subnqn: str, hostnqn: str, count: int, queue_size: int) -> list[Peer]:
        """This is the admin queue of a host from now on; its I/O queues. The caller closes them."""
        cqe = self.initialize().connect(subnqn, hostnqn, kato_ms=KATO_MS)
        assert cqe.status == 0
        assert self.enable().status == 0
        port = self.sock.getpeername()[1]
        queues = [Peer(port) for _ in range(count)]
        for qid, queue in enumerate(queues, 1):
            connected = queue.initialize().connect(
                subnqn, hostnqn, qid=qid, cntlid=cqe.result & 0xFFFF, queue_size=queue_size
            )
            assert connected.status == 0
        return queues

    def enable(self) -> wire.Cqe:
        return self.command(Sqe(0x7F, nsid=0, cdw11=wire.Property.CC, cdw12=0x00460001))

    def alive(self) -> bool:
        """The target has not closed it."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1 << 16) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(TIMEOUT_S)


@asynccontextmanager
async def threads(work: Callable[[threading.Event], None], count: int = 1) -> AsyncIterator[None]:
    """work(ended) in so many threads; it ends where ended is set, and may end by a connection that breaks."""
    ended = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError, EOFError):
            work(ended)

    # Not those of asyncio, of which there are few.
    running = [threading.Thread(target=run) for _ in range(count)]
    for each in running:
        each.start()
    try:
        yield
    finally:
        ended.set()
        for each in running:
            await asyncio.to_thread(each.join)
