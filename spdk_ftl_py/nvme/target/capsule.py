"""The controller side of a queue that Python serves: an admin queue, or an I/O queue until its Connect is complete.

It turns PDUs into whole commands with their data (in-capsule, or fetched with R2T), and completions into PDUs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import wire
from ..tcp import Connection, Pdu
from ..wire import Cqe, FatalError, PduError, PduType, Sqe, Status

TRANSFERS_MAX = 32
"""Commands that may wait for their H2CData at the same time: the depth of an admin queue."""


@dataclass(frozen=True)
class Completion:
    """The result of a command. ``data`` goes to the host; its SGL must ask for exactly that many bytes."""

    status: int = Status.SUCCESS
    do_not_retry: bool = True
    """For an error. True if a retry would fail in the same way."""
    result: int = 0
    data: bytes | bytearray | None = None
    reason: str = ""
    """For an error: the reason, for the log, because the status does not contain it."""


@dataclass(frozen=True)
class Command:
    """A command that was received completely. ``early`` is set if it failed before its opcode was looked at."""

    sqe: Sqe
    data: bytearray = field(default_factory=bytearray)
    early: Completion | None = None


@dataclass
class _Transfer:
    sqe: Sqe
    buffer: bytearray
    received: int = 0


class CapsuleQueue:
    """Receives commands in the order in which they become complete. Completions may be sent in any order, from any
    task."""

    def __init__(self, connection: Connection, *, max_h2c_data: int) -> None:
        self.connection = connection
        self.queue_size = 0
        """Entries of the submission queue, from Connect; 0 until then."""
        self.flow_control = True
        self.sqhd = 0
        self.transfers_max = TRANSFERS_MAX
        self._max_h2c_data = max_h2c_data
        self._transfers: dict[int, _Transfer] = {}
        self._next_ttag = 0

    async def receive(self) -> Command:
        """Raises PduError for a fault that must end the connection, PathError if it has ended."""
        limits = {PduType.CAPSULE_CMD: wire.ADMIN_DATA_MAX}
        while True:
            if self._transfers:
                limits[PduType.H2C_DATA] = self._max_h2c_data
            else:
                limits.pop(PduType.H2C_DATA, None)
            pdu = await self.connection.receive(limits)
            command = self._h2c_data(pdu) if pdu.type == PduType.H2C_DATA else await self._capsule(pdu)
            if command is not None:
                return command

    async def _capsule(self, pdu: Pdu) -> Command | None:
        sqe = Sqe.unpack(pdu.body)
        if not pdu.data_intact:
            return Command(sqe, early=Completion(Status.TRANSIENT_TRANSPORT_ERROR, do_not_retry=False))
        if sqe.flags != wire.PSDT_SGL:
            return Command(sqe, early=Completion(Status.INVALID_FIELD))
        if sqe.sgl_type == wire.SGL_IN_CAPSULE:
            if sqe.sgl_address or sqe.sgl_bytes != len(pdu.data):
                raise PduError(
                    f"{self.connection.peer}: capsule has {len(pdu.data)} bytes of data, but its SGL says "
                    f"{sqe.sgl_bytes} at {sqe.sgl_address}",
                    FatalError.INVALID_HEADER_FIELD, wire.FEI_PLEN, pdu.header,
                )  # fmt: skip
            return Command(sqe, pdu.data)
        if pdu.data:
            raise PduError(
                f"{self.connection.peer}: capsule has {len(pdu.data)} bytes of data that its SGL does not describe",
                FatalError.INVALID_HEADER_FIELD, wire.FEI_PLEN, pdu.header,
            )  # fmt: skip
        if sqe.sgl_type != wire.SGL_TRANSPORT:
            return Command(sqe, early=Completion(Status.SGL_TYPE))
        if not sqe.host_to_controller or sqe.sgl_bytes == 0:
            return Command(sqe)
        if sqe.sgl_bytes > wire.ADMIN_DATA_MAX or len(self._transfers) >= self.transfers_max:
            return Command(sqe, early=Completion(Status.SGL_DATA_LENGTH))
        ttag = self._free_ttag()
        self._transfers[ttag] = _Transfer(sqe, bytearray(sqe.sgl_bytes))
        await self.connection.send(PduType.R2T, wire.DATA_BODY.pack(sqe.cid, ttag, 0, sqe.sgl_bytes))
        return None

    def _free_ttag(self) -> int:
        while True:
            self._next_ttag = (self._next_ttag + 1) & 0xFFFF
            if self._next_ttag not in self._transfers:
                return self._next_ttag

    def _h2c_data(self, pdu: Pdu) -> Command | None:
        cid, ttag, offset, length = wire.DATA_BODY.unpack(pdu.body)
        transfer = self._transfers.get(ttag)
        if transfer is None or transfer.sqe.cid != cid:
            fei = wire.FEI_TTAG if transfer is None else wire.FEI_CCCID
            raise PduError(
                f"{self.connection.peer}: H2CData for command {cid}, tag {ttag}, which is not expected",
                FatalError.INVALID_HEADER_FIELD, fei, pdu.header,
            )  # fmt: skip
        if length != len(pdu.data) or length == 0:
            raise PduError(
                f"{self.connection.peer}: H2CData with DATAL {length} carries {len(pdu.data)} bytes",
                FatalError.INVALID_HEADER_FIELD, wire.FEI_DATAL, pdu.header,
            )  # fmt: skip
        if offset != transfer.received or offset + length > len(transfer.buffer):
            raise PduError(
                f"{self.connection.peer}: H2CData of {length} bytes at {offset}, expected offset {transfer.received} "
                f"of {len(transfer.buffer)}",
                FatalError.DATA_OUT_OF_RANGE, wire.FEI_DATAO, pdu.header,
            )  # fmt: skip
        if not pdu.data_intact:
            del self._transfers[ttag]
            return Command(transfer.sqe, early=Completion(Status.TRANSIENT_TRANSPORT_ERROR, do_not_retry=False))
        transfer.buffer[offset : offset + length] = pdu.data
        transfer.received += length
        if transfer.received < len(transfer.buffer):
            return None
        del self._transfers[ttag]
        return Command(transfer.sqe, transfer.buffer)

    async def complete(self, sqe: Sqe, completion: Completion) -> None:
        """Sends the data and the completion."""
        status, result = int(completion.status), completion.result
        pdus: list[tuple[PduType, bytes, bytes | bytearray | memoryview, int]] = []
        if status == Status.SUCCESS and completion.data is not None:
            if sqe.sgl_type != wire.SGL_TRANSPORT or sqe.sgl_bytes != len(completion.data):
                status = Status.SGL_DATA_LENGTH
            else:
                body = wire.DATA_BODY.pack(sqe.cid, 0, 0, sqe.sgl_bytes)
                pdus.append((PduType.C2H_DATA, body, completion.data, wire.FLAG_LAST))
        dnr = completion.do_not_retry and status != Status.SUCCESS
        cqe = Cqe(sqe.cid, status, dnr, result, self._next_sqhd())
        pdus.append((PduType.CAPSULE_RESP, cqe.pack(), b"", 0))
        await self.connection.send_many(pdus)

    def _next_sqhd(self) -> int:
        if not self.flow_control:
            return wire.SQHD_NO_FLOW_CONTROL
        if self.queue_size:
            self.sqhd = (self.sqhd + 1) % self.queue_size
        return self.sqhd
