"""Which process is at the other end of a unix socket, and whether to trust it."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from .users import ROOT, is_unmapped, own_uid, show_user

_UCRED: Final = struct.Struct("=iII")
_GID: Final = struct.Struct("=I")
_SO_PEERGROUPS: Final = 59
"""Linux 4.13; Python has no name for it."""
_GROUPS_BYTES_MAX: Final = 1024
"""The maximum that Python accepts."""


class UnixSocket(Protocol):
    """Also asyncio's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


@dataclass(frozen=True)
class Peer:
    """The process at the other end, as the kernel knows it: for a client from connect() on, for a server from listen()
    on."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{show_user(self.uid)}, pid {self.pid}"


@dataclass(frozen=True)
class Trust:
    """Trusts the user who runs this, root, and further users that it is given."""

    user: int | None = None
    group: int | None = None

    def includes(self, peer: Peer, groups: Callable[[], frozenset[int] | None] = lambda: None) -> bool:
        """groups: those of the peer; None if they are unknown, so that only the mode of the socket decides.

        In a user namespace of its own (a container), all users without a number there look like the same user. None of
        them is trusted as the user who runs this, or as root, unless that number was given explicitly.
        """
        if self.user is not None and peer.uid == self.user:
            return True
        if peer.uid in (own_uid(), ROOT) and not is_unmapped(peer.uid):
            return True
        if self.group is None:
            return False
        has = groups()
        return has is None or self.group in has

    def __str__(self) -> str:
        """For messages: who is trusted."""
        uids = dict.fromkeys(uid for uid in (own_uid(), ROOT, self.user) if uid is not None)
        whose = [*map(show_user, uids), *([] if self.group is None else [f"group {self.group}"])]
        return " or ".join(whose)


def peer_of(connection: UnixSocket) -> Peer | None:
    """None if the connection is gone, or is not a unix socket."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return None
    return Peer(*_UCRED.unpack(raw))


def groups_of(connection: UnixSocket, peer: Peer) -> frozenset[int] | None:
    """All groups of the peer; only the first 256 if it has more. None: this kernel does not tell."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)
    except OSError as error:
        return None if error.errno == errno.ENOPROTOOPT else frozenset({peer.gid})
    return frozenset({peer.gid, *(gid for (gid,) in _GID.iter_unpack(raw))})


def command_of(pid: int) -> str:
    """The command of the process, if it still runs: `` (name)``."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        return f" ({''.join(c if c.isprintable() else '?' for c in name)})"
    return ""
