"""Accepts connections without ever losing a socket."""

from __future__ import annotations

import asyncio
import socket
from typing import Any


async def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """The next connection's socket, non-blocking, and its peer's address. Raises OSError as accept(2) does.

    Unlike ``loop.sock_accept()``, where a cancellation that comes together with a connection leaves its socket to the
    garbage collector: here nothing is accepted before the caller is running.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock, peer = listener.accept()
        except (BlockingIOError, InterruptedError):
            await _readable(loop, listener)
            continue
        sock.setblocking(False)
        return sock, peer


async def _readable(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(listener, wake)
    try:
        await ready
    finally:
        loop.remove_reader(listener)
