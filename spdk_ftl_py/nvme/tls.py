"""TLS on a non-blocking socket under asyncio: the handshake, and then data.

The shim does the work (_shim.TlsSession). A session goes to a qpair together with its socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from .. import _shim
from ..errors import PathError, ProtocolError, UnsupportedError

RECORD_HANDSHAKE: Final = 0x16
"""The first byte of a TLS connection. Without TLS the first byte is the type of an ICReq, 0."""

FindPsk = Callable[[bytes], tuple[bytes, bool] | None]
"""Takes an identity. Returns its key for TLS, and whether the key is for SHA-384; None if there is no key."""


def require_tls() -> None:
    """Raises UnsupportedError if this build of the shim has no TLS."""
    if not _shim.build_info()["tls"]:
        raise UnsupportedError(
            "TLS: spdk-ftl-py was built without OpenSSL: install its headers (apt-get install libssl-dev), then "
            "reinstall spdk-ftl-py"
        )


class TlsError(ProtocolError):
    """The handshake has failed. The connection cannot be used any more."""


class TlsStream:
    """A session on a socket. The socket keeps its owner."""

    def __init__(self, sock: socket.socket, session: _shim.TlsSession, peer: str) -> None:
        self.session = session
        self._socket = sock
        self._peer = peer

    @classmethod
    def as_host(cls, sock: socket.socket, *, identity: str, key: bytes, sha384: bool, peer: str) -> TlsStream:
        """Raises UnsupportedError."""
        require_tls()
        return cls(sock, _shim.TlsSession.as_host(sock.fileno(), identity=identity, key=key, sha384=sha384), peer)

    @classmethod
    def as_target(cls, sock: socket.socket, find_psk: FindPsk, *, peer: str) -> TlsStream:
        """Raises UnsupportedError."""
        require_tls()
        return cls(sock, _shim.TlsSession.as_target(sock.fileno(), find_psk), peer)

    async def handshake(self, octets_max: int | None = None) -> None:
        """Runs the handshake. octets_max: the maximum number of bytes from the peer until it is done. Raises TlsError,
        and what FindPsk raises."""
        try:
            await self._handshake(octets_max)
        except BaseException:
            self.session.close()
            raise

    async def _handshake(self, octets_max: int | None) -> None:
        while True:
            step = self.session.handshake()
            if octets_max is not None and self.session.bytes_received > octets_max:
                raise TlsError(f"{self._peer} sent too much before it was admitted")
            if step == _shim.TlsStep.DONE:
                return
            if step == _shim.TlsStep.WANTS_READ:
                await readable(self._socket)
            elif step == _shim.TlsStep.WANTS_WRITE:
                await writable(self._socket)
            else:
                raise TlsError(f"{self._peer}: TLS handshake: {self.session.error}")

    @property
    def cipher(self) -> str:
        """The cipher suite, such as TLS_AES_128_GCM_SHA256, once the handshake is done."""
        return self.session.cipher

    async def receive_into(self, buffer: memoryview) -> int:
        """Like loop.sock_recv_into(). Raises OSError."""
        while True:
            received = self.session.read_into(buffer)
            if received is not None:
                return received
            if self.session.has_input:
                await asyncio.sleep(0)
            else:
                await readable(self._socket)

    async def send_all(self, data: bytes) -> None:
        """Like loop.sock_sendall(). Raises OSError."""
        left = memoryview(data)
        while True:
            left = left[self.session.write(left) :]
            if not left and not self.session.holds_output:
                return
            await writable(self._socket)

    def close(self) -> None:
        """Releases the socket, unless the shim has taken the session over. Idempotent."""
        self.session.close()

    def end_output(self) -> None:
        """Tells the peer that no more data follows. Best effort."""
        self.session.end_output()


async def first_byte(sock: socket.socket) -> int | None:
    """Returns the first byte from the peer without consuming it; None if the peer has closed the connection. Raises
    PathError."""
    while True:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            await readable(sock)
        except OSError as error:
            raise PathError(str(error.strerror or error), errno=error.errno) from error
        else:
            return first[0] if first else None


async def readable(sock: socket.socket) -> None:
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    await _ready(lambda callback: loop.add_reader(fd, callback), lambda: loop.remove_reader(fd))


async def writable(sock: socket.socket) -> None:
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    await _ready(lambda callback: loop.add_writer(fd, callback), lambda: loop.remove_writer(fd))


async def _ready(begin: Callable[[Callable[[], None]], object], end: Callable[[], object]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    begin(lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        end()
