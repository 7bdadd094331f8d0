"""A host that sends reservation commands, and I/O, byte for byte as it likes."""

from __future__ import annotations

import struct
from types import TracebackType

from spdk_ftl_py.nvme import logs, wire
from spdk_ftl_py.nvme.wire import AdminOp, NvmOp, PduType, Sqe, Status
from unit.nvme.nvme_loop import SUBNQN, At, RawHost, capsule

BLOCK = 512
READ, WRITE = NvmOp.READ, NvmOp.WRITE


class Host:
    """Use as async context manager: an admin queue and one I/O queue. Blocks of the bench's media have 4 KiB."""

    def __init__(self, here: At, number: int, *, nqn: str = "", hostid: bytes = b"", subnqn: str = SUBNQN) -> None:
        self.nqn = nqn or f"nqn.2026-11.io.example:host{number}"
        self.hostid = hostid or bytes([number]) * 16
        self.key = 0x1000 + number
        self._here = here
        self._subnqn = subnqn
        self.cntlid = 0
        self.admin: RawHost
        self.io: RawHost

    async def __aenter__(self) -> Host:
        self.admin = await self._here.raw()
        await self.admin.initialize()
        cqe = await self.admin.connect(hostnqn=self.nqn, hostid=self.hostid, subnqn=self._subnqn)
        assert cqe.status == 0, hex(cqe.status)
        self.cntlid = cqe.result & 0xFFFF
        await self.admin.set_property(wire.Property.CC, 0x00460001)
        self.io = await self.queue(1)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.io.close()
        self.admin.close()

    async def queue(self, qid: int, queue_size: int = 32) -> RawHost:
        raw = await self._here.raw()
        await raw.initialize()
        cqe = await raw.connect(
            hostnqn=self.nqn, hostid=self.hostid, subnqn=self._subnqn, qid=qid, cntlid=self.cntlid,
            queue_size=queue_size,
        )  # fmt: skip
        assert cqe.status == 0, hex(cqe.status)
        return raw

    # --- reservations

    async def register(self, new: int | None = None, *, current: int = 0, action: int = 0, flags: int = 0) -> int:
        """flags: IEKEY is 8, CPTPL lies in 31:30."""
        data = struct.pack("<QQ", current, self.key if new is None else new)
        return await self.send(register(action | flags, data), data)

    async def acquire(self, kind: int, *, key: int | None = None, victim: int = 0, action: int = 0) -> int:
        data = struct.pack("<QQ", self.key if key is None else key, victim)
        return await self.send(_reservation(NvmOp.RESERVATION_ACQUIRE, action | kind << 8, data), data)

    async def release(self, kind: int, *, key: int | None = None, action: int = 0) -> int:
        data = struct.pack("<Q", self.key if key is None else key)
        return await self.send(_reservation(NvmOp.RESERVATION_RELEASE, action | kind << 8, data), data)

    async def report(self, *, length: int = 4096, extended: int = 1, nsid: int = 1) -> tuple[int, bytes]:
        sqe = Sqe(NvmOp.RESERVATION_REPORT, nsid=nsid, cdw10=length // 4 - 1, cdw11=extended, sgl_bytes=length)
        return await exchange(self.io, sqe)

    async def send(self, sqe: Sqe, data: bytes = b"") -> int:
        """The status."""
        return (await exchange(self.io, sqe, data))[0]

    # --- I/O

    async def read(self, lba: int = 0) -> int:
        return (await exchange(self.io, Sqe(NvmOp.READ, nsid=1, cdw10=lba, sgl_bytes=4096)))[0]

    async def write(self, lba: int = 0, fill: int = 1) -> int:
        data = bytes([fill]) * 4096
        return await self.send(in_capsule(Sqe(NvmOp.WRITE, nsid=1, cdw10=lba), data), data)

    async def may(self) -> tuple[bool, bool]:
        """Whether it may read, and write."""
        statuses = await self.read(), await self.write()
        assert set(statuses) <= {0, Status.RESERVATION_CONFLICT}, statuses
        return statuses[0] == 0, statuses[1] == 0

    # --- the admin queue

    async def log(self, *, retain: bool = False) -> tuple[int, int, int, int]:
        """(count, type, available, NSID) of the reservation notification."""
        sqe = Sqe(AdminOp.GET_LOG_PAGE, cdw10=0x80 | retain << 15 | 15 << 16, sgl_bytes=64)
        status, data = await exchange(self.admin, sqe)
        assert status == 0
        return logs.parse_reservation(data)


def register(cdw10: int, data: bytes, nsid: int = 1) -> Sqe:
    return _reservation(NvmOp.RESERVATION_REGISTER, cdw10, data, nsid)


def in_capsule(sqe: Sqe, data: bytes) -> Sqe:
    return Sqe(
        sqe.opcode, nsid=sqe.nsid, cid=sqe.cid, cdw10=sqe.cdw10, cdw11=sqe.cdw11, cdw12=sqe.cdw12,
        sgl_bytes=len(data), sgl_type=wire.SGL_IN_CAPSULE,
    )  # fmt: skip


def _reservation(opcode: int, cdw10: int, data: bytes, nsid: int = 1) -> Sqe:
    return in_capsule(Sqe(opcode, nsid=nsid, cdw10=cdw10), data)


async def exchange(raw: RawHost, sqe: Sqe, data: bytes = b"") -> tuple[int, bytes]:
    """(status, data) of one command, the only one outstanding."""
    await raw.send(capsule(sqe, data))
    received = b""
    while True:
        kind, header, chunk = await raw.pdu()
        if kind == PduType.CAPSULE_RESP:
            return wire.Cqe.unpack(header[8:]).status, received
        assert kind == PduType.C2H_DATA
        received += chunk
        if header[1] & wire.FLAG_SUCCESS:
            return 0, received
