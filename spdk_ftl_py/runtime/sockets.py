"""Listening sockets, and accepting connections without losing their sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from typing import Any

from ..errors import ParameterError, PathError


async def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Returns the next connection's socket, non-blocking, and its peer's address. Raises OSError as accept(2) does.

    ``loop.sock_accept()`` leaves the socket to the garbage collector if a cancellation comes together with a
    connection. This function accepts nothing before the caller is running.
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


def is_of_several_machines(traddr: str) -> bool:
    """traddr: an IP address. The kernel lets a socket listen there, but no connection can come."""
    return ipaddress.ip_address(traddr).is_multicast or traddr == "255.255.255.255"


def keep_off_pacing(sock: socket.socket, address: str) -> None:
    """Call it before connect() or listen(). address: the IP address of the peer, or to listen on.

    The system's congestion control may pace what a socket sends, as BBR does: it starts a timer for each few segments.
    A connection within this machine loses nothing and shares no bottleneck, so it gets "reno", which does not pace and
    is part of every kernel. Other connections keep what the administrator has chosen.
    """
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        with contextlib.suppress(OSError):  # it is slower without, nothing else
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


async def listening_socket(traddr: str, port: int, backlog: int) -> socket.socket:
    """A non-blocking TCP socket. traddr "": all addresses of IPv4 or IPv6. port 0: a free one.

    Raises ParameterError for an invalid address, and PathError if it cannot be bound.
    """
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(
            traddr or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
        )
    except OSError as error:
        raise ParameterError(f"{traddr!r} is not an IP address to listen on") from error
    family, kind, protocol, _, address = infos[0]
    if is_of_several_machines(str(address[0])):
        raise PathError(
            f"can't listen on {traddr}:{port}: it is an address of several machines, at which nobody can connect; "
            "choose another address or port",
            errno=errno.EADDRNOTAVAIL,
        )
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        keep_off_pacing(sock, str(address[0]))  # accepted connections inherit it
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise PathError(
            f"can't listen on {traddr}:{port}: {error.strerror}; choose another address or port",
            errno=error.errno,
        ) from error
    return sock
