"""An NBD client made of bytes: requests of any kind, replies as they came; and a handshake as clients do it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spdk_ftl_py import _shim

from .qpair_rig import Driver

BLOCK: Final = 4096
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
OK, EPERM, EIO, EINVAL, ENOSPC, ENOTSUP, ESHUTDOWN = 0, 1, 5, 22, 28, 95, 108
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_MAGIC: Final = 0x67446698
STRUCTURED_MAGIC: Final = 0x668E33EF
OFFSET_DATA, ERROR = 1, 1 << 15 | 1
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
ACK, SERVER, INFO = 1, 2, 3


def request(
    kind: int, cookie: int, offset: int = 0, length: int = 0, *, flags: int = 0, data: bytes = b"",
    magic: int = REQUEST_MAGIC,
) -> bytes:  # fmt: skip
    return struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length or len(data)) + data


def write(cookie: int, offset: int, data: bytes, *, flags: int = 0) -> bytes:
    return request(WRITE, cookie, offset, data=data, flags=flags)


@dataclass(frozen=True)
class Answer:
    cookie: int
    error: int
    data: bytes = b""
    structured: bool = False
    offset: int = 0


def answers(stream: bytes, reads: dict[int, int]) -> tuple[list[Answer], bytes]:
    """Whole replies, and the rest. reads: bytes of the reads by their cookies, for simple replies do not tell."""
    out = []
    at = 0
    while len(stream) - at >= 16:
        (magic,) = struct.unpack_from(">I", stream, at)
        if magic == SIMPLE_MAGIC:
            error, cookie = struct.unpack_from(">IQ", stream, at + 4)
            end = at + 16 + (reads.get(cookie, 0) if error == OK else 0)
            if len(stream) < end:
                break
            out.append(Answer(cookie, error, stream[at + 16 : end]))
        else:
            assert magic == STRUCTURED_MAGIC, hex(magic)
            if len(stream) - at < 20:
                break
            flags, kind, cookie, length = struct.unpack_from(">HHQI", stream, at + 4)
            assert flags == 1
            end = at + 20 + length
            if len(stream) < end:
                break
            if kind == OFFSET_DATA:
                (offset,) = struct.unpack_from(">Q", stream, at + 20)
                out.append(Answer(cookie, OK, stream[at + 28 : end], True, offset))
            else:
                error, text_length = struct.unpack_from(">IH", stream, at + 20)
                assert (kind, text_length, length) == (ERROR, 0, 6)
                out.append(Answer(cookie, error, structured=True))
        at = end
    return out, stream[at:]


@dataclass
class NbdPeer(Driver):
    """One connection under test, this process at the other end of its socket."""

    socket: socket.socket = field(init=False)
    rest: bytes = b""
    ended: bool = False
    reads: dict[int, int] = field(default_factory=dict)

    def send(self, *raw: bytes) -> None:
        """All of it; what the connection answers meanwhile is kept."""
        for piece in raw:
            view = memoryview(piece)
            while view:
                try:
                    view = view[self.socket.send(view) :]
                except BlockingIOError:
                    self.pull()
                    self.reactor.step()

    def exchange(self, *raw: bytes) -> list[Answer]:
        self.send(*raw)
        return self.answers()

    def answers(self) -> list[Answer]:
        """Empty if nothing, or nothing whole, has come."""
        while True:
            self.settle()
            if not self.pull():
                break
        out, self.rest = answers(self.rest, self.reads)
        return out

    def read(self, cookie: int, offset: int, length: int, *, flags: int = 0) -> bytes:
        self.reads[cookie] = length
        return request(READ, cookie, offset, length, flags=flags)

    def pull(self) -> bool:
        pulled = False
        while not self.ended:
            try:
                piece = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.ended = True
                break
            self.ended = not piece
            self.rest += piece
            pulled = True
        return pulled

    def hang_up(self) -> None:
        self.socket.close()
        self.settle()

    @property
    def closes(self) -> list[tuple[int, int]]:
        """(reason, detail) of each event that says that a connection has ended."""
        return [(event.reason, event.detail) for event in self.events if event.kind == _shim.EventKind.NBD_CLOSED]


@contextmanager
def nbd_peer(
    make_device: Callable[[_shim.Reactor], Any], *, beside: NbdPeer | None = None, device: Any = None, **options: Any
) -> Iterator[tuple[NbdPeer, _shim.NbdConnection, Any]]:
    """beside, device: one more connection to the device of another peer."""
    peer = NbdPeer() if beside is None else NbdPeer(reactor=beside.reactor)
    served = make_device(peer.reactor) if device is None else device
    ours, peer.socket = socket.socketpair()
    peer.socket.setblocking(False)
    with peer.socket:
        with ours:
            options.setdefault("block_count", served.block_count)
            connection = _shim.NbdConnection(peer.reactor, ours.fileno(), served, **options)
        try:
            yield peer, connection, served
        finally:
            peer.socket.close()
            connection.close()


# --- the handshake ---------------------------------------------------------------------------------------------------


def option(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">8sII", b"IHAVEOPT", number, len(data)) + data


def text(name: str) -> bytes:
    encoded = name.encode()
    return struct.pack(">I", len(encoded)) + encoded


def go(name: str = "", *infos: int, number: int = 7) -> bytes:
    return option(number, text(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos))


class NbdClient:
    """A client on a blocking socket. The methods of the handshake are for each of its parts; connect() does all."""

    def __init__(self, path: Path | str, *, flags: int = 3, timeout_s: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(str(path))
            self.hello = self.receive(18)
            self.socket.sendall(struct.pack(">I", flags))
        except BaseException:
            self.socket.close()
            raise
        self.size = self.transmission_flags = 0
        self._cookie = 0

    @classmethod
    def connect(cls, path: Path | str, *, structured: bool = True) -> NbdClient:
        client = cls(path)
        try:
            if structured:
                assert client.ask(option(8)) == [(ACK, b"")]
            replies = client.ask(go())
            assert replies[-1][0] == ACK, replies
        except BaseException:
            client.close()
            raise
        _, client.size, client.transmission_flags = struct.unpack(">HQH", replies[0][1])
        return client

    def receive(self, length: int) -> bytes:
        """Exactly so much. Raises EOFError."""
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def ask(self, raw: bytes) -> list[tuple[int, bytes]]:
        """The replies to an option, up to the last."""
        self.socket.sendall(raw)
        (number,) = struct.unpack_from(">I", raw, 8)
        replies = []
        while True:
            magic, answered, kind, length = struct.unpack(">QIII", self.receive(20))
            assert (magic, answered) == (OPTION_REPLY_MAGIC, number)
            replies.append((kind, self.receive(length)))
            if kind == ACK or kind >> 31:
                return replies

    def run(self, kind: int, offset: int = 0, length: int = 0, *, data: bytes = b"", flags: int = 0) -> Answer:
        """One request, and its answer."""
        self._cookie += 1
        self.socket.sendall(request(kind, self._cookie, offset, length, data=data, flags=flags))
        return self.answer(length if kind == READ else 0)

    def answer(self, length: int = 0) -> Answer:
        head = self.receive(16)
        magic, error, cookie = struct.unpack(">IIQ", head)
        if magic == SIMPLE_MAGIC:
            return Answer(cookie, error, self.receive(length) if error == OK else b"")
        head += self.receive(4)
        (more,) = struct.unpack_from(">I", head, 16)
        (found,), rest = answers(head + self.receive(more), {})
        assert rest == b""
        return found

    def ok(self, *what: Any, **how: Any) -> bytes:
        answer = self.run(*what, **how)
        assert answer.error == OK, answer.error
        return answer.data

    def close(self) -> None:
        self.socket.close()
