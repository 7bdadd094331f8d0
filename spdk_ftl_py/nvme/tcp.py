"""NVMe/TCP PDUs on a non-blocking socket, with or without TLS: ICReq and ICResp, framing with every length checked,
digests, termination.

A read takes exactly the bytes of the PDU that it wants, and nothing is buffered. So the socket, and the TLS session if
there is one, can go to the shim between any two PDUs. TCP Transport 1.0, section 3.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from .. import _shim
from ..errors import ParameterError, PathError, ProtocolError
from ..time_limit import time_limit
from . import wire
from .tls import RECORD_HANDSHAKE, FindPsk, TlsStream, first_byte
from .wire import FatalError, PduError, PduType

CONTROL_DATA_MAX = 4 << 20
"""The maximum data of any single PDU on a queue that Python serves."""
TERM_REQ_LINGER_S = 1.0
"""How long to wait for the peer to read our TermReq and close the connection."""
LINGER_DISCARD_MAX = 1 << 20
LAST_ANSWER_S = 0.5
"""How long a connection stays open behind an answer that ends it. Linux 6.12 must not learn of the end first: its error
recovery then waits for its own authentication, which waits for the recovery, and the controller hangs until somebody
removes it."""
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 10, 5, 4
"""TCP's own keep-alive. It detects peers that vanished on queues without NVMe keep-alive."""
PACE_PDUS_PER_S = 50
PACE_BURST_PDUS = 512
"""The pace of a host on a connection that Python serves: PACE_PDUS_PER_S, with bursts of up to PACE_BURST_PDUS. Faster
PDUs wait in the socket, at the sender's expense. All hosts that exceed their pace share OVER_PACE_PDUS_PER_S."""
OVER_PACE_PDUS_PER_S = 1000
SELDOM_S = 0.1
"""A PDU that comes so long after the last one does not keep others waiting."""
STRANGER_BURST_PDUS = 8
"""The burst of a host before its Connect, and before its authentication if that is required."""


@dataclass
class Pdu:
    """One received PDU. ``data`` excludes padding and digest. ``data_intact`` is False if the digest was wrong."""

    type: PduType
    flags: int
    header: bytes
    data: bytearray
    data_intact: bool = True

    @property
    def body(self) -> memoryview:
        return memoryview(self.header)[8:]


@dataclass
class Budget:
    """The bytes that a peer may still send. receive() subtracts from it."""

    pdus: int
    octets: int


@dataclass(frozen=True)
class IcParameters:
    """The parameters that ICReq and ICResp have set."""

    header_digest: bool
    data_digest: bool
    max_h2c_data: int


class EndOfStream(PathError):
    """The peer closed the connection between two PDUs."""


def _peer_address(sock: socket.socket) -> tuple[str, int]:
    try:
        host, port = sock.getpeername()[:2]
    except (OSError, ValueError):
        # The peer is already gone, or has no address (a socketpair).
        return "", 0
    return str(host), int(port)


class _OverPace:
    """Serialises all connections of this process that exceed their pace."""

    def __init__(self) -> None:
        self._next = 0.0

    def delay_s(self, now: float) -> float:
        self._next = max(self._next, now) + 1 / OVER_PACE_PDUS_PER_S
        return self._next - now


_over_pace = _OverPace()


class Connection:
    """A socket that carries PDUs. The object owns the socket until detach() or close()."""

    def __init__(self, sock: socket.socket, *, is_controller: bool, peer: str = "") -> None:
        """peer: the name in messages."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        self.socket = sock
        self.peer = peer
        self.peer_address = _peer_address(sock)
        self.header_digest = False
        self.data_digest = False
        self.budget: Budget | None = None
        """For a peer that has not sent its Connect yet, or has not authenticated yet."""
        self.tls: TlsStream | None = None
        """If set, all data goes through TLS."""
        self._is_controller = is_controller
        self._pace = float(STRANGER_BURST_PDUS)
        """The number of PDUs that may arrive now, as of _paced_at."""
        self._paced_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._send_lock = asyncio.Lock()
        self._detached = False

    # --- receiving --------------------------------------------------------------------------------------------------

    async def receive(self, expected: Mapping[PduType, int]) -> Pdu:
        """Returns the next PDU. It must be of a type in ``expected`` and carry at most that many bytes of data.

        Raises EndOfStream if the peer closed the connection; PathError if the connection broke off; PduError for
        anything malformed; and ProtocolError if the peer sent a TermReq or its budget is used up. After an error only
        terminate() and close() may be called.
        """
        await self._take_turn()
        start = await self._read_exactly(8, at_boundary=True)
        pdu_type, flags, hlen, pdo, plen = wire.COMMON_HEADER.unpack(start)
        term_req = PduType.H2C_TERM_REQ if self._is_controller else PduType.C2H_TERM_REQ
        if pdu_type not in wire.HEADER_BYTES:
            raise PduError(
                f"{self.peer}: unknown PDU type {pdu_type:#x}", FatalError.INVALID_HEADER_FIELD, 0, bytes(start)
            )
        kind = PduType(pdu_type)
        if kind not in expected and kind != term_req:
            raise PduError(f"{self.peer}: unexpected {kind.name} PDU", FatalError.PDU_SEQUENCE, 0, bytes(start))
        if hlen != wire.HEADER_BYTES[kind]:
            raise self._header_error(f"HLEN {hlen} of {kind.name}", wire.FEI_HLEN, start)
        with_digest = kind not in wire.WITHOUT_DIGESTS
        header_digest = self.header_digest and with_digest
        head_bytes = hlen + (wire.DIGEST_BYTES if header_digest else 0)
        if kind == term_req:
            data_max = wire.TERM_REQ_PLEN_MAX - hlen
        elif kind in wire.WITH_DATA:
            data_max = min(expected[kind], CONTROL_DATA_MAX) + wire.DIGEST_BYTES
        else:
            data_max = 0
        if not head_bytes <= plen <= head_bytes + data_max:
            raise self._header_error(f"PLEN {plen} of {kind.name}", wire.FEI_PLEN, start)
        self._charge(plen)
        # We announced HPDA = CPDA = 0, so no PDU may have padding. Some peers leave PDO zero.
        if kind in wire.WITH_DATA and pdo not in (0, head_bytes):
            raise self._header_error(f"PDO {pdo} of {kind.name}", wire.FEI_PDO, start)

        header = bytes(start + await self._read_exactly(hlen - 8))
        if header_digest:
            if not flags & wire.FLAG_HEADER_DIGEST:
                raise self._header_error(f"missing HDGSTF of {kind.name}", wire.FEI_FLAGS, header)
            digest = int.from_bytes(await self._read_exactly(wire.DIGEST_BYTES), "little")
            if digest != _shim.crc32c(header):
                raise PduError(
                    f"{self.peer}: wrong header digest of {kind.name}", FatalError.HEADER_DIGEST, digest, header
                )
        elif with_digest and flags & wire.FLAG_HEADER_DIGEST:
            raise self._header_error(f"HDGSTF of {kind.name} was not negotiated", wire.FEI_FLAGS, header)

        data_bytes = plen - head_bytes
        digest_bytes = 0
        if with_digest and data_bytes:
            if bool(flags & wire.FLAG_DATA_DIGEST) != self.data_digest:
                raise self._header_error(f"DDGSTF of {kind.name}", wire.FEI_FLAGS, header)
            digest_bytes = wire.DIGEST_BYTES if self.data_digest else 0
        data_bytes -= digest_bytes
        if data_bytes < 0 or (kind in wire.WITH_DATA and data_bytes > expected.get(kind, 0)):
            raise self._header_error(f"PLEN {plen} of {kind.name}", wire.FEI_PLEN, header)
        data = await self._read_exactly(data_bytes)
        intact = True
        if digest_bytes:
            digest = int.from_bytes(await self._read_exactly(digest_bytes), "little")
            intact = digest == _data_digest(data)
        if kind == term_req:
            fes, fei = wire.TERM_REQ_BODY.unpack(header[8:])
            raise ProtocolError(f"{self.peer} ended the connection with {kind.name}: {_fes_text(fes)}, FEI {fei}")
        return Pdu(kind, flags, header, data, intact)

    def accept_peer(self) -> None:
        """The peer has named itself, and authenticated if that is required."""
        self.budget = None
        self._pace = float(PACE_BURST_PDUS)

    async def _take_turn(self) -> None:
        """Yields to other tasks, and waits if the peer exceeds its pace. asyncio never waits for sockets that are
        always readable and writable, so a peer that sends without pause would otherwise be the only one served. A peer
        whose last PDU took long to come (a Keep Alive) costs no further turn of the loop."""
        now = self._loop.time()
        hurries = now - self._paced_at < SELDOM_S
        burst = PACE_BURST_PDUS if self.budget is None else STRANGER_BURST_PDUS
        self._pace = min(self._pace + (now - self._paced_at) * PACE_PDUS_PER_S, burst)
        self._paced_at = now
        if self._pace >= 1 or not self._is_controller:
            self._pace -= 1
            if hurries:
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(_over_pace.delay_s(now))

    def _charge(self, octets: int) -> None:
        if self.budget is None:
            return
        self.budget.pdus -= 1
        self.budget.octets -= octets
        if self.budget.pdus < 0 or self.budget.octets < 0:
            raise ProtocolError(f"{self.peer} sent too much before it was admitted")

    async def _read_exactly(self, count: int, *, at_boundary: bool = False) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        filled = 0
        while filled < count:
            try:
                if self.tls is None:
                    received = await self._loop.sock_recv_into(self.socket, view[filled:])
                else:
                    received = await self.tls.receive_into(view[filled:])
            except OSError as error:
                raise PathError(f"{self.peer}: {error.strerror or error}", errno=error.errno) from error
            if received == 0:
                if at_boundary and filled == 0:
                    raise EndOfStream(f"{self.peer} closed the connection")
                raise PathError(f"{self.peer} closed the connection in the middle of a PDU")
            filled += received
        return data

    def _header_error(self, what: str, fei: int, header: bytes | bytearray) -> PduError:
        return PduError(f"{self.peer}: invalid {what}", FatalError.INVALID_HEADER_FIELD, fei, bytes(header))

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(
        self, kind: PduType, body: bytes, data: bytes | bytearray | memoryview = b"", flags: int = 0
    ) -> None:
        """Sends one PDU. Several tasks may call it. Raises PathError if the connection is lost."""
        await self.send_many([(kind, body, data, flags)])

    async def send_many(self, pdus: list[tuple[PduType, bytes, bytes | bytearray | memoryview, int]]) -> None:
        """Sends PDUs back to back with one system call."""
        raw = b"".join(self._frame(*pdu) for pdu in pdus)
        async with self._send_lock:
            try:
                if self.tls is None:
                    await self._loop.sock_sendall(self.socket, raw)
                else:
                    await self.tls.send_all(raw)
            except OSError as error:
                raise PathError(f"{self.peer}: {error.strerror or error}", errno=error.errno) from error

    def _frame(self, kind: PduType, body: bytes, data: bytes | bytearray | memoryview, flags: int) -> bytes:
        hlen = wire.HEADER_BYTES[kind]
        with_digest = kind not in wire.WITHOUT_DIGESTS
        header_digest = self.header_digest and with_digest
        data_digest = self.data_digest and with_digest and len(data) > 0
        head_bytes = hlen + (wire.DIGEST_BYTES if header_digest else 0)
        plen = head_bytes + len(data) + (wire.DIGEST_BYTES if data_digest else 0)
        pdo = head_bytes if with_digest and len(data) else 0
        flags |= (wire.FLAG_HEADER_DIGEST if header_digest else 0) | (wire.FLAG_DATA_DIGEST if data_digest else 0)
        header = wire.COMMON_HEADER.pack(kind, flags, hlen, pdo, plen) + body
        parts = [header]
        if header_digest:
            parts.append(_shim.crc32c(header).to_bytes(wire.DIGEST_BYTES, "little"))
        if len(data):
            parts.append(bytes(data))
        if data_digest:
            parts.append(_data_digest(data).to_bytes(wire.DIGEST_BYTES, "little"))
        return b"".join(parts)

    async def terminate(self, error: PduError) -> None:
        """Sends the reason to the peer (TermReq), gives it a moment to read that, and closes."""
        kind = PduType.C2H_TERM_REQ if self._is_controller else PduType.H2C_TERM_REQ
        room = wire.TERM_REQ_PLEN_MAX - wire.HEADER_BYTES[kind]
        body = wire.TERM_REQ_BODY.pack(error.fes, error.fei)
        try:
            async with time_limit(TERM_REQ_LINGER_S):
                await self._terminate(kind, body, error.header[:room])
        except (PathError, OSError, asyncio.TimeoutError):
            pass
        finally:
            self.close()

    async def finish(self) -> None:
        """Closes the connection, after the peer has had LAST_ANSWER_S to act upon the last data."""
        try:
            async with time_limit(LAST_ANSWER_S):
                await self._discard()
        except (OSError, asyncio.TimeoutError):
            pass
        try:
            async with time_limit(TERM_REQ_LINGER_S):
                await self._linger()
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            self.close()

    async def _terminate(self, kind: PduType, body: bytes, header: bytes) -> None:
        await self.send(kind, body, header)
        await self._linger()

    async def _linger(self) -> None:
        # Closing a socket with unread bytes resets the connection, and the peer might never see the last data.
        if self.tls is not None:
            self.tls.end_output()
        self.socket.shutdown(socket.SHUT_WR)
        await self._discard()

    async def _discard(self) -> None:
        """Returns when the peer has closed, or has sent too much."""
        discarded = 0
        while discarded < LINGER_DISCARD_MAX:
            chunk = await self._loop.sock_recv(self.socket, 65536)
            if not chunk:
                return
            discarded += len(chunk)

    # --- opening ----------------------------------------------------------------------------------------------------

    async def start_tls_as_host(self, *, identity: str, key: bytes, sha384: bool) -> None:
        """Call it before anything else. Raises TlsError if the controller does not have the key, and UnsupportedError
        if this build has no TLS."""
        tls = TlsStream.as_host(self.socket, identity=identity, key=key, sha384=sha384, peer=self.peer)
        await tls.handshake()
        self.tls = tls

    async def begins_with_tls(self) -> bool:
        """Waits for the host's first byte, and returns whether it starts TLS. Raises PathError."""
        return await first_byte(self.socket) == RECORD_HANDSHAKE

    async def start_tls_as_controller(self, find_psk: FindPsk) -> str:
        """Call it before anything else. Returns the identity whose key the host has proved. Raises TlsError if there is
        none, ProtocolError if the host exceeds its budget, and UnsupportedError if this build has no TLS."""
        tls = TlsStream.as_target(self.socket, find_psk, peer=self.peer)
        await tls.handshake(None if self.budget is None else self.budget.octets)
        if self.budget is not None:
            self.budget.octets -= tls.session.bytes_received
        self.tls = tls
        return tls.session.identity.decode()

    async def initialize_as_host(self, *, header_digest: bool, data_digest: bool) -> IcParameters:
        """Sends ICReq and waits for ICResp. Raises ProtocolError if we do not support the controller's answer."""
        wanted = (wire.DGST_HEADER if header_digest else 0) | (wire.DGST_DATA if data_digest else 0)
        await self.send(PduType.IC_REQ, wire.IC_BODY.pack(wire.IC_PFV, 0, wanted, 0))
        response = await self.receive({PduType.IC_RESP: 0})
        pfv, cpda, dgst, max_h2c_data = wire.IC_BODY.unpack(response.body)
        if pfv != wire.IC_PFV:
            raise PduError(
                f"{self.peer}: ICResp has PFV {pfv}", FatalError.INVALID_HEADER_FIELD, wire.FEI_PFV, response.header
            )
        if cpda:
            raise PduError(
                f"{self.peer}: ICResp requires padded data (CPDA {cpda}), which is not supported",
                FatalError.UNSUPPORTED_PARAMETER, 10, response.header,
            )  # fmt: skip
        if dgst != wanted:
            raise PduError(
                f"{self.peer}: ICResp has digests {dgst:#x}, but {wanted:#x} was requested: use digests that it "
                "supports",
                FatalError.UNSUPPORTED_PARAMETER, 11, response.header,
            )  # fmt: skip
        if max_h2c_data < wire.PAGE_BYTES or max_h2c_data % 4:
            raise PduError(
                f"{self.peer}: ICResp has MAXH2CDATA {max_h2c_data}",
                FatalError.INVALID_HEADER_FIELD,
                12,
                response.header,
            )
        self.header_digest, self.data_digest = header_digest, data_digest
        return IcParameters(header_digest, data_digest, max_h2c_data)

    async def initialize_as_controller(self, *, max_h2c_data: int) -> IcParameters:
        """Waits for ICReq and answers it. Raises PduError if the host asks for something that we do not support."""
        request = await self.receive({PduType.IC_REQ: 0})
        pfv, hpda, dgst, _max_r2t = wire.IC_BODY.unpack(request.body)
        if pfv != wire.IC_PFV:
            raise PduError(
                f"{self.peer}: ICReq has PFV {pfv}", FatalError.INVALID_HEADER_FIELD, wire.FEI_PFV, request.header
            )
        # HPDA is the alignment that the host wants for data in C2HData. The shim sends data right after the header.
        if hpda:
            raise PduError(
                f"{self.peer}: ICReq has HPDA {hpda}, but only 0 is supported",
                FatalError.UNSUPPORTED_PARAMETER, 10, request.header,
            )  # fmt: skip
        if dgst & ~(wire.DGST_HEADER | wire.DGST_DATA):
            raise PduError(
                f"{self.peer}: ICReq has DGST {dgst:#x}", FatalError.INVALID_HEADER_FIELD, 11, request.header
            )
        await self.send(PduType.IC_RESP, wire.IC_BODY.pack(wire.IC_PFV, 0, dgst, max_h2c_data))
        self.header_digest = bool(dgst & wire.DGST_HEADER)
        self.data_digest = bool(dgst & wire.DGST_DATA)
        return IcParameters(self.header_digest, self.data_digest, max_h2c_data)

    # --- ending -----------------------------------------------------------------------------------------------------

    def detach(self) -> socket.socket:
        """Returns the socket, which the caller must close. No byte beyond the last PDU has been read."""
        self._detached = True
        return self.socket

    def close(self) -> None:
        """Idempotent. It wakes no task: first cancel those that receive."""
        if self.tls is not None:
            self.tls.close()
        if not self._detached:
            self.socket.close()


def _data_digest(data: bytes | bytearray | memoryview) -> int:
    # SPDK pads data with zeroes to a multiple of 4 inside its CRC; Linux does not. Multiples of 4 suit both.
    return _shim.crc32c(data)


def _fes_text(fes: int) -> str:
    try:
        return FatalError(fes).name.lower().replace("_", " ")
    except ValueError:
        return f"FES {fes}"


def parse_port(trsvcid: int | str) -> int:
    """Returns the port number. Raises ParameterError."""
    try:
        port = int(trsvcid)
    except ValueError:
        raise ParameterError(f"trsvcid {trsvcid!r} is not a port number") from None
    if not 0 <= port <= 0xFFFF:
        raise ParameterError(f"trsvcid {trsvcid} must lie in 0..65535")
    return port
