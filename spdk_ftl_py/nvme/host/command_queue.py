"""The host side of a queue that Python serves: an admin queue, or an I/O queue until the shim takes it over."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field, replace

from ...errors import FtlError, PathError, ProtocolError
from ...runtime.sockets import keep_off_pacing
from .. import wire
from ..auth.psk import TlsPsk
from ..tcp import Connection, IcParameters
from ..wire import Cqe, FatalError, PduError, PduType, Sqe

RECEIVE_BYTES_MAX = 128 << 10
"""The maximum data that one command on such a queue may return."""


@dataclass
class _Pending:
    sqe: Sqe
    done: asyncio.Future[Cqe]
    buffer: bytearray = field(default_factory=bytearray)
    received: int = 0
    may_bring_less: bool = False


async def open_connection(
    traddr: str, trsvcid: int | str, *, header_digest: bool, data_digest: bool, psk: TlsPsk | None = None
) -> tuple[Connection, IcParameters]:
    """Connects by TCP, starts TLS if there is a key, and exchanges ICReq and ICResp. Raises PathError, ProtocolError
    (TlsError if the controller does not have the key), and UnsupportedError if this build has no TLS."""
    loop = asyncio.get_running_loop()
    peer = f"controller at {traddr}:{trsvcid}"
    try:
        infos = await loop.getaddrinfo(traddr, int(trsvcid), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise PathError(f"{peer}: {error}: traddr must be an address or a name, trsvcid a port number") from error
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        keep_off_pacing(sock, str(address[0]))
        await loop.sock_connect(sock, address)
    except OSError as error:
        sock.close()
        raise PathError(
            f"{peer}: {os.strerror(error.errno) if error.errno else error}: check that the target listens there",
            errno=error.errno,
        ) from error
    except BaseException:
        sock.close()
        raise
    connection = Connection(sock, is_controller=False, peer=peer)
    try:
        if psk is not None:
            await connection.start_tls_as_host(identity=psk.identity, key=psk.key, sha384=psk.sha384)
        return connection, await connection.initialize_as_host(header_digest=header_digest, data_digest=data_digest)
    except PduError as error:
        await connection.terminate(error)
        raise
    except BaseException:
        connection.close()
        raise


class CommandQueue:
    """Commands with their data and completions. One task at a time must call pump()."""

    def __init__(self, connection: Connection, queue_entries: int) -> None:
        self.connection = connection
        self._free_cids = list(range(queue_entries - 1))
        self._slots = asyncio.Semaphore(queue_entries - 1)
        self._pending: dict[int, _Pending] = {}
        self._lost: FtlError | None = None

    async def submit(
        self, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0, *, may_bring_less: bool = False
    ) -> tuple[Cqe, bytearray]:
        """Sends a command with data in its capsule, or with room for receive_bytes. Returns the completion, whatever
        its status.

        may_bring_less: the controller may send less data than there is room for. The rest is zeroes. The method waits
        for a free slot. If it is cancelled, the command's id stays taken until the controller answers.
        """
        assert receive_bytes <= RECEIVE_BYTES_MAX
        await self._slots.acquire()
        if self._lost is not None:
            self._slots.release()
            raise self._lost
        cid = self._free_cids.pop()
        sqe = replace(
            sqe,
            cid=cid,
            sgl_address=0,
            sgl_bytes=len(data) or receive_bytes,
            sgl_type=wire.SGL_IN_CAPSULE if data else wire.SGL_TRANSPORT,
        )
        pending = _Pending(sqe, asyncio.get_running_loop().create_future(), bytearray(receive_bytes))
        pending.may_bring_less = may_bring_less
        self._pending[cid] = pending
        await self.connection.send(PduType.CAPSULE_CMD, sqe.pack(), data)
        return await pending.done, pending.buffer

    async def pump(self) -> None:
        """Receives one PDU and processes it. Raises PduError, ProtocolError, PathError."""
        pdu = await self.connection.receive({PduType.CAPSULE_RESP: 0, PduType.C2H_DATA: RECEIVE_BYTES_MAX})
        if pdu.type == PduType.CAPSULE_RESP:
            cqe = Cqe.unpack(pdu.body)
            self._finish(self._find(cqe.cid, pdu.header, wire.FEI_CCCID + 12), cqe)
            return
        cid, _, offset, length = wire.DATA_BODY.unpack(pdu.body)
        pending = self._find(cid, pdu.header, wire.FEI_CCCID)
        peer = self.connection.peer
        if length != len(pdu.data):
            raise PduError(
                f"{peer}: C2HData with DATAL {length} carries {len(pdu.data)} bytes",
                FatalError.INVALID_HEADER_FIELD, wire.FEI_DATAL, pdu.header,
            )  # fmt: skip
        if offset != pending.received or offset + length > len(pending.buffer):
            raise PduError(
                f"{peer}: C2HData of {length} bytes at {offset}, expected offset {pending.received} of "
                f"{len(pending.buffer)}",
                FatalError.DATA_OUT_OF_RANGE, wire.FEI_DATAO, pdu.header,
            )  # fmt: skip
        if not pdu.data_intact:
            raise ProtocolError(f"{peer}: wrong data digest of C2HData")
        pending.buffer[offset : offset + length] = pdu.data
        pending.received += length
        if pdu.flags & wire.FLAG_SUCCESS:
            if not pdu.flags & wire.FLAG_LAST:
                raise PduError(
                    f"{peer}: C2HData has SUCCESS without LAST_PDU",
                    FatalError.INVALID_HEADER_FIELD, wire.FEI_FLAGS, pdu.header,
                )  # fmt: skip
            self._finish(pending, Cqe(cid))

    def _find(self, cid: int, header: bytes, fei: int) -> _Pending:
        pending = self._pending.get(cid)
        if pending is None:
            raise PduError(
                f"{self.connection.peer}: completion for command {cid}, which is not outstanding",
                FatalError.INVALID_HEADER_FIELD, fei, header,
            )  # fmt: skip
        return pending

    def _finish(self, pending: _Pending, cqe: Cqe) -> None:
        if cqe.status == 0 and pending.received != len(pending.buffer) and not pending.may_bring_less:
            raise ProtocolError(
                f"{self.connection.peer}: command {pending.sqe.opcode:#x} succeeded with {pending.received} of "
                f"{len(pending.buffer)} bytes"
            )
        del self._pending[cqe.cid]
        self._free_cids.append(cqe.cid)
        self._slots.release()
        if not pending.done.done():
            pending.done.set_result(cqe)

    def fail(self, error: FtlError) -> None:
        """Ends every outstanding and future submit() with the error. Idempotent: the first error stays."""
        if self._lost is not None:
            return
        self._lost = error
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
                pending.done.exception()  # marks it as retrieved: a submit() that was cancelled does not fetch it
            self._slots.release()
        self._pending.clear()
