"""A vfio-user client with NVMe queues in memory of its own: what an initiator does, step by step, and blocking."""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

from spdk_ftl_py.nvme import wire as nvme
from spdk_ftl_py.nvme.wire import AdminOp, Cqe
from spdk_ftl_py.vfio_user import wire
from spdk_ftl_py.vfio_user.wire import Command, Header

PATIENCE_S: Final = 20.0
PAGE: Final = 4096
MEMORY_BYTES: Final = 8 << 20
CC_ENABLE: Final = nvme.CC_EN | nvme.IOSQES << nvme.CC_IOSQES_SHIFT | nvme.IOCQES << nvme.CC_IOCQES_SHIFT
_SQE: Final = struct.Struct("<BBHI8xQQQ6I")
"""Opcode, flags, CID, NSID, metadata, PRP 1, PRP 2, CDW10 to 15."""


class VfioUserError(Exception):
    """The server has answered with an error."""

    def __init__(self, command: int, errno: int) -> None:
        super().__init__(f"command {command} failed: {os.strerror(errno)}")
        self.errno = errno


class Connection:
    """Messages, one after the other."""

    def __init__(self, directory: Path | str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(os.path.join(directory, "cntrl"))
        self._next_id = 0

    def close(self) -> None:
        self.socket.close()

    def send(self, command: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 0) -> None:
        self._next_id = (self._next_id + 1) & 0xFFFF
        self.send_raw(wire.pack_command(self._next_id, command, payload, flags), fds)

    def send_raw(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.socket.sendmsg([data], ancillary)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def receive(self) -> tuple[Header, bytes, list[int]]:
        """EOFError at the end."""
        head, fds, _, _ = socket.recv_fds(self.socket, wire.HEADER.size, 8)
        if not head:
            raise EOFError
        while len(head) < wire.HEADER.size:
            head += self._some(wire.HEADER.size - len(head))
        header = Header.unpack(head)
        payload = b""
        while len(payload) < header.size - wire.HEADER.size:
            payload += self._some(header.size - wire.HEADER.size - len(payload))
        return header, payload, list(fds)

    def _some(self, wanted: int) -> bytes:
        data = self.socket.recv(wanted)
        if not data:
            raise EOFError
        return data

    def call(self, command: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> tuple[bytes, list[int]]:
        self.send(command, payload, fds)
        header, answer, received = self.receive()
        assert header.is_reply
        assert (header.command, header.message_id) == (command, self._next_id)
        if header.flags & wire.ERROR:
            raise VfioUserError(command, header.error)
        return answer, received


@dataclass
class QueuePair:
    """In the client's memory."""

    qid: int
    sq_at: int
    cq_at: int
    entries: int
    tail: int = 0
    head: int = 0
    phase: int = 1
    next_cid: int = 0
    done: dict[int, Cqe] = field(default_factory=dict)


class VfioUserClient:
    """Attaches, and has memory of which it hands out parts."""

    def __init__(
        self, directory: Path | str, *, iova: int = 0x7000_0000_0000, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.connection = Connection(directory)
        try:
            self.connection.call(Command.VERSION, wire.pack_version(wire.MINOR))
            info, fds = self.connection.call(
                Command.DEVICE_GET_REGION_INFO, wire.REGION_INFO.pack(PAGE, 0, wire.BAR0_REGION, 0, 0, 0)
            )
            self.bar0 = wire.RegionInfo.unpack(info)
            ((offset, size),) = self.bar0.areas
            self.doorbells = mmap.mmap(fds[0], size, offset=offset)
            self.bar0_fd = fds[0]
            self.iova = iova
            self.fd = os.memfd_create("client")
            os.ftruncate(self.fd, memory_bytes)
            self.memory = mmap.mmap(self.fd, memory_bytes)
            self._used = 0
            self.map(iova, memory_bytes, self.fd)
        except BaseException:
            self.connection.close()
            raise
        self.admin = QueuePair(0, self.allocate(PAGE), self.allocate(PAGE), 32)
        self.queues: dict[int, QueuePair] = {}

    def close(self) -> None:
        self.connection.close()
        os.close(self.fd)
        os.close(self.bar0_fd)

    def __enter__(self) -> VfioUserClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- memory and registers ---------------------------------------------------------------------------------------

    def map(self, iova: int, size: int, fd: int, offset: int = 0, flags: int = 3) -> None:
        self.connection.call(Command.DMA_MAP, wire.DMA_MAP.pack(wire.DMA_MAP.size, flags, offset, iova, size), (fd,))

    def unmap(self, iova: int, size: int) -> None:
        self.connection.call(Command.DMA_UNMAP, wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, iova, size))

    def allocate(self, size: int) -> int:
        """Returns the offset in memory, of whole pages."""
        at = self._used
        self._used += -(-size // PAGE) * PAGE
        assert self._used <= len(self.memory)
        return at

    def read_register(self, offset: int, size: int = 4) -> int:
        answer, _ = self.connection.call(Command.REGION_READ, wire.REGION_ACCESS.pack(offset, wire.BAR0_REGION, size))
        return int.from_bytes(answer[wire.REGION_ACCESS.size :], "little")

    def write_register(self, offset: int, value: int, size: int = 4) -> None:
        head = wire.REGION_ACCESS.pack(offset, wire.BAR0_REGION, size)
        self.connection.call(Command.REGION_WRITE, head + value.to_bytes(size, "little"))

    def wait_csts(self, mask: int, value: int) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while self.read_register(nvme.Property.CSTS) & mask != value:
            assert time.monotonic() < give_up, f"CSTS is {self.read_register(nvme.Property.CSTS):#x}"
            time.sleep(0.001)

    def read_until_the_end(self) -> None:
        """Of the connection: raises EOFError or ConnectionError."""
        while True:
            self.read_register(nvme.Property.CSTS)

    def enable(self, cc: int = CC_ENABLE) -> None:
        entries = self.admin.entries - 1
        self.write_register(0x28, self.iova + self.admin.sq_at, 8)
        self.write_register(0x30, self.iova + self.admin.cq_at, 8)
        self.write_register(0x24, entries << 16 | entries)
        self.write_register(nvme.Property.CC, cc)
        self.wait_csts(nvme.CSTS_RDY, nvme.CSTS_RDY)

    def disable(self) -> None:
        self.write_register(nvme.Property.CC, 0)
        self.wait_csts(nvme.CSTS_RDY, 0)
        self.reset_pair(self.admin)
        self.queues.clear()

    def reset_pair(self, pair: QueuePair) -> None:
        pair.tail = pair.head = pair.next_cid = 0
        pair.phase = 1
        pair.done.clear()
        self.memory[pair.cq_at : pair.cq_at + pair.entries * nvme.CQE_BYTES] = bytes(pair.entries * nvme.CQE_BYTES)

    # --- queues -----------------------------------------------------------------------------------------------------

    def submit(
        self, pair: QueuePair, opcode: int, *, nsid: int = 0, prp1: int = 0, prp2: int = 0, flags: int = 0,
        cid: int | None = None, cdw: tuple[int, ...] = (),
    ) -> int:  # fmt: skip
        """Returns the CID. prp1, prp2: addresses."""
        if cid is None:
            cid = pair.next_cid
            pair.next_cid = (pair.next_cid + 1) & 0xFFFF
        words = [*cdw, *[0] * (6 - len(cdw))]
        at = pair.sq_at + pair.tail * nvme.SQE_BYTES
        self.memory[at : at + nvme.SQE_BYTES] = _SQE.pack(opcode, flags, cid, nsid, 0, prp1, prp2, *words)
        pair.tail = (pair.tail + 1) % pair.entries
        self.ring(2 * pair.qid, pair.tail)
        return cid

    def ring(self, doorbell: int, value: int) -> None:
        # In one store: struct.pack_into() writes zeroes first, and the server may look between the two.
        with memoryview(self.doorbells) as raw, raw.cast("I") as doorbells:
            doorbells[doorbell] = value

    def collect(self, pair: QueuePair) -> None:
        """Takes what has been completed."""
        taken = False
        while True:
            at = pair.cq_at + pair.head * nvme.CQE_BYTES
            raw = self.memory[at : at + nvme.CQE_BYTES]
            if raw[14] & 1 != pair.phase:
                break
            cqe = Cqe.unpack(raw)
            assert cqe.cid not in pair.done, f"command {cqe.cid} was completed twice"
            pair.done[cqe.cid] = cqe
            pair.head = (pair.head + 1) % pair.entries
            pair.phase ^= pair.head == 0
            taken = True
        if taken:
            self.ring(2 * pair.qid + 1, pair.head)

    def wait(self, pair: QueuePair, cid: int, patience_s: float = PATIENCE_S) -> Cqe:
        give_up = time.monotonic() + patience_s
        while cid not in pair.done:
            self.collect(pair)
            assert time.monotonic() < give_up, f"command {cid} of queue {pair.qid} was not completed"
            time.sleep(0)
        return pair.done.pop(cid)

    def execute(self, pair: QueuePair, opcode: int, **arguments: object) -> Cqe:
        return self.wait(pair, self.submit(pair, opcode, **arguments))  # type: ignore[arg-type]

    def identify(self, cns: int, nsid: int = 0) -> bytes:
        at = self.allocate(PAGE)
        cqe = self.execute(self.admin, AdminOp.IDENTIFY, nsid=nsid, prp1=self.iova + at, cdw=(cns,))
        assert cqe.status == 0, hex(cqe.status)
        return self.memory[at : at + PAGE]

    def create_queue(self, qid: int, entries: int = 16) -> QueuePair:
        pair = QueuePair(qid, self.allocate(entries * nvme.SQE_BYTES), self.allocate(entries * nvme.CQE_BYTES), entries)
        size = (entries - 1) << 16 | qid
        cqe = self.execute(self.admin, AdminOp.CREATE_IO_CQ, prp1=self.iova + pair.cq_at, cdw=(size, 1))
        assert cqe.status == 0, hex(cqe.status)
        cqe = self.execute(self.admin, AdminOp.CREATE_IO_SQ, prp1=self.iova + pair.sq_at, cdw=(size, qid << 16 | 1))
        assert cqe.status == 0, hex(cqe.status)
        self.queues[qid] = pair
        return pair

    # --- I/O --------------------------------------------------------------------------------------------------------

    def write(self, pair: QueuePair, lba: int, data: bytes, *, nsid: int = 1) -> Cqe:
        """Of one or two blocks of 4 KiB."""
        at = self.allocate(len(data))
        self.memory[at : at + len(data)] = data
        second = self.iova + at + PAGE if len(data) > PAGE else 0
        return self.execute(
            pair, nvme.NvmOp.WRITE, nsid=nsid, prp1=self.iova + at, prp2=second, cdw=(lba, 0, len(data) // PAGE - 1)
        )

    def read(self, pair: QueuePair, lba: int, *, nsid: int = 1) -> bytes:
        at = self.allocate(PAGE)
        cqe = self.execute(pair, nvme.NvmOp.READ, nsid=nsid, prp1=self.iova + at, cdw=(lba, 0, 0))
        assert cqe.status == 0, hex(cqe.status)
        return self.memory[at : at + PAGE]
