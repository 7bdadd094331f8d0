"""Who asked for what is being done. The log tells it of whatever changes an FTL."""

from __future__ import annotations

import contextlib
import socket
import struct
from asyncio.trsock import TransportSocket
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Final

_UCRED: Final = struct.Struct("3i")

_requester: ContextVar[str] = ContextVar("requester", default="the daemon itself")
"""Tasks have that of who started them."""


def requester() -> str:
    return _requester.get()


@contextlib.contextmanager
def asked_for_by(who: str) -> Iterator[None]:
    token = _requester.set(who)
    try:
        yield
    finally:
        _requester.reset(token)


def peer_of(connection: socket.socket | TransportSocket | None) -> str:
    """Process and user at the other end of a unix socket, as the kernel knows them from connect()."""
    if connection is None:
        return "a client that has gone"
    try:
        pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:
        return "a client that has gone"
    return f"pid {pid}{_command(pid)}, uid {uid}"


def _command(pid: int) -> str:
    """What it runs, if it still does."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        return f" ({''.join(c if c.isprintable() else '?' for c in name)})"
    return ""
