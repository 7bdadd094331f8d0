"""Messages of vfio-user, with their file descriptors, on a non-blocking unix stream socket.

It knows no event loop: the caller watches the socket.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ..errors import PathError, ProtocolError
from . import wire
from .wire import Header

_FD_BYTES: Final = array.array("i").itemsize


def close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def received_descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Those of one recvmsg(). They are the caller's to close."""
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return list(descriptors)


@dataclass
class Message:
    """descriptors: whoever has the message closes those that it does not keep."""

    header: Header
    payload: bytes
    descriptors: list[int] = field(default_factory=list)

    def take_descriptors(self) -> list[int]:
        """They are the caller's from now on."""
        taken, self.descriptors = self.descriptors, []
        return taken

    def close(self) -> None:
        close_all(self.take_descriptors())


class MessageReader:
    """Reads one message after the other, and never a byte of the next one: that is how descriptors are told apart."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._header: Header | None = None
        self._data = bytearray()
        self._descriptors: list[int] = []

    @property
    def in_message(self) -> bool:
        """The first part of a message has come."""
        return self._header is not None or bool(self._data)

    def read(self) -> Message | None:
        """The next message; None if it is not there completely.

        Raises ProtocolError for a message with an impossible size or too many descriptors, PathError if the peer has
        closed the connection, or it is lost.
        """
        while True:
            if self._header is None and len(self._data) == wire.HEADER.size:
                self._header = Header.unpack(self._data)
            if self._header is not None and len(self._data) == self._header.size:
                return self._whole(self._header)
            wanted = (wire.HEADER.size if self._header is None else self._header.size) - len(self._data)
            if not self._receive(wanted):
                return None

    def _whole(self, header: Header) -> Message:
        message = Message(header, bytes(self._data[wire.HEADER.size :]), self._descriptors)
        self._header, self._data, self._descriptors = None, bytearray(), []
        return message

    def _receive(self, wanted: int) -> bool:
        room = socket.CMSG_SPACE(wire.FDS_MAX * _FD_BYTES)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(wanted, room, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise PathError(f"the connection is lost: {error.strerror}") from error
        self._descriptors += received_descriptors(ancillary)
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > wire.FDS_MAX:
            raise ProtocolError(f"a message with more than {wire.FDS_MAX} file descriptors")
        if not data:
            where = " in the middle of a message" if self.in_message else ""
            raise PathError(f"the peer has closed the connection{where}")
        self._data += data
        return True

    def close(self) -> None:
        """Closes descriptors of a message that is not complete. Idempotent."""
        close_all(self._descriptors)
        self._descriptors = []


class MessageWriter:
    """Writes one message at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._data = b""
        self._descriptors: list[int] = []

    @property
    def pending(self) -> bool:
        """There is a message that the socket has not taken completely."""
        return bool(self._data)

    def write(self, data: bytes, descriptors: Iterable[int] = ()) -> bool:
        """False: the socket is full. Call flush() when it is not. The descriptors stay the caller's, and must stay open
        until it is written. Raises PathError."""
        assert not self._data
        self._data, self._descriptors = data, list(descriptors)
        return self.flush()

    def flush(self) -> bool:
        while self._data:
            ancillary = []
            if self._descriptors:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._descriptors))]
            try:
                sent = self._socket.sendmsg([self._data], ancillary, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise PathError(f"the connection is lost: {error.strerror}") from error
            # They go with the first byte.
            self._data, self._descriptors = self._data[sent:], []
        return True
