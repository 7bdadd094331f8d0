"""A connection of an HTTP client: aiohttp's protocol with a deadline, which may refuse to serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp.web_protocol import RequestHandler

REFUSED_MAX: Final = 64
"""Connections that are being refused at the same time; further ones are reset."""
LINGER_S: Final = 1.0
"""How long the rest of a refused request is still received, so that its sender can read the refusal."""


class BoundedConnection(asyncio.Protocol):
    """It is in ``connections`` for as long as it is open."""

    def __init__(
        self,
        inner: RequestHandler,
        connections: dict[asyncio.Protocol, BoundedConnection],
        timeout_s: float,
        refusal: Callable[[asyncio.Transport], bytes | None],
    ) -> None:
        """timeout_s: until received(). refusal: what it is told instead of being served; None: it is served."""
        self.refused = False
        self._inner = inner
        self._refusal = refusal
        self._connections = connections
        self._timeout_s = timeout_s
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        refusal = self._refusal(transport)
        self._connections[self._inner] = self
        if refusal is not None:
            self.refused = True
            if sum(each.refused for each in self._connections.values()) > REFUSED_MAX:
                transport.abort()
                return
            # If the connection were closed with unread data, the client would never see the refusal.
            transport.write(refusal)
            transport.write_eof()
            self._deadline = asyncio.get_running_loop().call_later(LINGER_S, self.abort)
            return
        self._deadline = asyncio.get_running_loop().call_later(self._timeout_s, self.abort)
        self._inner.connection_made(transport)

    @property
    def peer(self) -> object:
        """The address at the other end, as getpeername() has it; None: it is gone."""
        return None if self._transport is None else self._transport.get_extra_info("peername")

    def received(self) -> None:
        """The request is complete: its deadline no longer applies."""
        if self._deadline is not None:
            self._deadline.cancel()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.received()
        self._connections.pop(self._inner, None)
        if not self.refused:
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        if not self.refused:
            self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
