"""Between a keeper and its daemon: messages of JSON with file descriptors, on a unix socket that keeps them apart.

Both are of the same user and the same package, so a message that is not as it should be ends the link, and no more.
What a process has sent before it dies, the other one still receives.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...errors import ProtocolError
from ..fd_socket import close_all, received_descriptors
from .endpoint import Loop

MESSAGE_BYTES_MAX: Final = 64 << 10
_DESCRIPTORS_MAX: Final = 1
_MESSAGES_AT_ONCE: Final = 10_000
"""More than a socket's buffer takes. catch_up() stops there, because a daemon that is alive may send on and on."""
_DESCRIPTOR_BYTES: Final = array.array("i").itemsize

Content = dict[str, Any]


def link_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Link:
    """Delivers messages until close(), or until it is lost."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[Content, int], object],
        on_lost: Callable[[str], object],
    ) -> None:
        """sock: connected; it is this object's. on_message: gets a message and its descriptor, or -1; the descriptor is
        the callee's; raises ProtocolError or what a message that is not as it should be makes it raise (KeyError,
        TypeError, ValueError). on_lost: called once, with the reason, unless close() was called before."""
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._on_message = on_message
        self._on_lost = on_lost
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._closed = False
        loop.add_reader(sock, self._readable)

    def send(self, content: Content, descriptor: int = -1) -> None:
        """descriptor: stays the caller's. Messages to a link that is lost are dropped."""
        if self._closed:
            return
        data = json.dumps(content).encode()
        assert len(data) <= MESSAGE_BYTES_MAX
        if self._unsent or not self._try(data, [descriptor] if descriptor >= 0 else []):
            if self._closed:
                return
            # The caller may close it before the socket takes it.
            kept = [os.dup(descriptor)] if descriptor >= 0 else []
            self._unsent.append((data, kept))
            self._loop.add_writer(self._socket, self._writable)

    def _try(self, data: bytes, descriptors: Sequence[int]) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # The reader sees the end, behind what the other side has sent.
            return True
        return True

    def _writable(self) -> None:
        while self._unsent:
            data, descriptors = self._unsent[0]
            if not self._try(data, descriptors):
                return
            self._unsent.popleft()
            close_all(descriptors)
        self._loop.remove_writer(self._socket)

    def catch_up(self) -> None:
        """Delivers what the other side has sent until now, and notices if it has closed its end."""
        for _ in range(_MESSAGES_AT_ONCE):
            if self._closed or not self._readable():
                return

    def _readable(self) -> bool:
        """False: nothing is there."""
        room = socket.CMSG_SPACE(_DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(MESSAGE_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(error.strerror or "it is lost")
            return False
        descriptors = received_descriptors(ancillary)
        if not data:
            close_all(descriptors)
            self._lose("the other process has ended")
            return False
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > _DESCRIPTORS_MAX:
                close_all(descriptors)
                raise ProtocolError("a message that is too long")
            content = json.loads(data)
            if not isinstance(content, dict):
                close_all(descriptors)
                raise ProtocolError("a message that is no object")
            self._on_message(content, descriptors[0] if descriptors else -1)
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            self._lose(f"a message that can't be understood: {error}")
        return True

    def _lose(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._on_lost(reason)

    def close(self) -> None:
        """Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, descriptors in self._unsent:
            close_all(descriptors)
        self._unsent.clear()
