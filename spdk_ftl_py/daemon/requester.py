"""Who requested the current action. The log names the requester of every change of an FTL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from ..access.peers import Peer, command_of

_requester: ContextVar[str] = ContextVar("requester", default="the daemon itself")
"""A task inherits the requester from the task that started it."""


_caller: ContextVar[Peer | None] = ContextVar("caller", default=None)


def requester() -> str:
    return _requester.get()


def caller() -> Peer | None:
    """The process that called the RPC; None: it has disconnected, or the daemon itself acts."""
    return _caller.get()


@contextlib.contextmanager
def asked_for_by(who: str, peer: Peer | None = None) -> Iterator[None]:
    token, peer_token = _requester.set(who), _caller.set(peer)
    try:
        yield
    finally:
        _requester.reset(token)
        _caller.reset(peer_token)


def show_peer(peer: Peer | None) -> str:
    """Process and user at the other end of a unix socket."""
    return "a client that has disconnected" if peer is None else f"pid {peer.pid}{command_of(peer.pid)}, uid {peer.uid}"
