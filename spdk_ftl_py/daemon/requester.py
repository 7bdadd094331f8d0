"""Who asked for what is being done. The log tells it of whatever changes an FTL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from ..access.peers import Peer, command_of

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


def show_peer(peer: Peer | None) -> str:
    """Process and user at the other end of a unix socket."""
    return "a client that has disconnected" if peer is None else f"pid {peer.pid}{command_of(peer.pid)}, uid {peer.uid}"
