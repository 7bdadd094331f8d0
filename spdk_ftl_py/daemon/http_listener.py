"""A read-only HTTP listener on a TCP address, for `serve --metrics` and `serve --web`.

It has no authentication: everyone who can reach the address can read the answers of its routes, and can change nothing.
So it accepts only GET and HEAD, gives web pages of other origins nothing (no CORS), and accepts only known host names.
With DNS rebinding, an attacker's web page would send the attacker's name as Host.

Every request has its own connection, which ends when it is answered or too old. Everything that strangers can use is
bounded: connections, in all and from one address; the size of a request, by aiohttp (8 KiB a line); and the time for a
request and its answer; and half of the event loop's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from aiohttp import web

from ..errors import FtlError, ParameterError
from ..runtime.sockets import listening_socket
from .bounded_connection import LINGER_S, BoundedConnection

LOOPBACK: Final = "127.0.0.1"
PORT_MAX: Final = 65535
TIMEOUT_S: Final = 20.0
"""For a request and its answer."""
CONNECTIONS_MAX: Final = 64
CONNECTIONS_PER_PEER_MAX: Final = 32
TEXT: Final = "text/plain; charset=utf-8"
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_HALT_TIMEOUT_S: Final = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    body: bytes
    content_type: str = TEXT
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    """In addition to the headers of every reply, or in place of them."""


Query: TypeAlias = "Mapping[str, str]"
"""The parameters of a request, with the first of several of one name."""
Route = Callable[[Query], Awaitable[Reply]]
"""Answers GET on one path. An FtlError becomes status 503 with its message. Any other error is logged."""


@dataclass(frozen=True)
class Address:
    """The address of a listener. With port 0 the system chooses a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, given: str) -> Address:
        """From PORT, ADDRESS:PORT or [ADDRESS]:PORT with an IPv4 or IPv6 address; the default is 127.0.0.1. Raises
        ParameterError."""
        host, colon, port = given.rpartition(":")
        try:
            if not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
                raise ValueError
            if not colon:
                return cls(LOOPBACK, int(port))
            bracketed = host.startswith("[") and host.endswith("]")
            address = ipaddress.ip_address(host[1:-1] if bracketed else host)
            if bracketed is not (address.version == 6):
                raise ValueError
        except ValueError:
            raise ParameterError(
                f"address {given!r}: must be PORT, ADDRESS:PORT or [ADDRESS]:PORT, with an IPv4 address or an IPv6 "
                f"address in brackets, and a port of at most {PORT_MAX}"
            ) from None
        return cls(str(address), int(port))

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpListener:
    """Call add(), start(), then close()."""

    def __init__(
        self, address: Address, option: str, *, names: Iterable[str] = (), timeout_s: float = TIMEOUT_S
    ) -> None:
        """option: the option with which a user gives another address, for messages. names: further host names that it
        accepts."""
        self.address = address
        """With the real port after start()."""
        self._option = option
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower().rstrip(".") for name in names)}
        self._timeout_s = timeout_s
        self._routes: dict[str, Route] = {}
        self._connections: dict[asyncio.Protocol, BoundedConnection] = {}
        self._http: web.Server | None = None
        self._server: asyncio.AbstractServer | None = None
        self._turn = asyncio.Lock()

    def add(self, path: str, route: Route) -> None:
        """path: exact, beginning with a slash."""
        assert path not in self._routes, path
        self._routes[path] = route

    def url(self, path: str = "/") -> str:
        return f"http://{self.address}{path}"

    async def start(self) -> None:
        """Raises FtlError if it can't listen at the address."""
        try:
            listening = await listening_socket(self.address.host, self.address.port, CONNECTIONS_MAX)
        except FtlError as error:
            raise FtlError(f"{self._option} {self.address}: {error.message}", errno=error.errno) from error
        self.address = Address(self.address.host, listening.getsockname()[1])
        # Without handler_cancellation, what a client asked for would be worked at when it has left: its connection no
        # longer counts then, so nothing would bound that work.
        self._http = web.Server(
            self._handle, handler_cancellation=True, access_log=None, keepalive_timeout=0, lingering_time=LINGER_S
        )
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._connection, sock=listening, backlog=CONNECTIONS_MAX)
        except BaseException:
            listening.close()
            raise
        if not self.address.is_loopback:
            log.warning(
                "%s: everyone who reaches %s can read what the daemon tells there; there is no authentication",
                self._option,
                self.address,
            )

    async def close(self) -> None:
        """Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._http is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await self._http.shutdown(_HALT_TIMEOUT_S)
        for connection in list(self._connections.values()):
            connection.abort()

    # --- connections

    def _connection(self) -> asyncio.Protocol:
        assert self._http is not None
        # Its deadline is never lifted: also the answer has to be read in time.
        return BoundedConnection(self._http(), self._connections, self._timeout_s, self._refusal)

    def _refusal(self, transport: asyncio.Transport) -> bytes | None:
        served = [each for each in self._connections.values() if not each.refused]
        host = _host_of(transport.get_extra_info("peername"))
        if len(served) < CONNECTIONS_MAX and (
            sum(_host_of(each.peer) == host for each in served) < CONNECTIONS_PER_PEER_MAX
        ):
            return None
        return _TOO_MANY

    # --- requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        response = response_of(await self._answer(request))
        response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> Reply:
        if not self.answers_to(request.headers.getall("Host", [])):
            return Reply(
                b"This is not a name of this machine. Use its address, or name it with --http-name.\n", status=421
            )
        if request.method not in ("GET", "HEAD"):
            return Reply(b"Only GET and HEAD.\n", status=405, headers={"Allow": "GET, HEAD"})
        if request.body_exists:
            return Reply(b"A request here has no body.\n", status=400)
        route = self._routes.get(request.path)
        if route is None:
            known = "".join(f"  {path}\n" for path in self._routes)
            return Reply(f"There is no such page. There are:\n{known}".encode(), status=404)
        loop = asyncio.get_running_loop()
        async with self._turn:
            began = loop.time()
            reply = await answer(route, dict(request.query), request.path)
            # However many they are, the event loop has as long for everything else, such as keep-alives of hosts.
            await asyncio.sleep(loop.time() - began)
        return reply

    def answers_to(self, hosts: list[str]) -> bool:
        """hosts: the Host headers of a request, of which there must be one. Addresses are always right: a page that
        came from one has it as its origin, and is this listener's own."""
        if len(hosts) != 1:
            return False
        matched = _HOST.fullmatch(hosts[0].lower())
        if matched is None:
            return False
        name = matched[1] or matched[2]
        if matched[2] and name.rstrip(".") in self._names:
            return True
        try:
            return (ipaddress.ip_address(name).version == 6) is bool(matched[1])
        except ValueError:
            return False


def response_of(reply: Reply) -> web.Response:
    response = web.Response(body=reply.body, status=reply.status, headers={**_HEADERS, **reply.headers})
    response.headers["Content-Type"] = reply.content_type
    return response


async def answer(route: Route, query: Query, path: str) -> Reply:
    """The reply of the route, also if it fails."""
    try:
        return await route(query)
    except FtlError as error:
        return Reply(f"{error.message}\n".encode(), status=503)
    except Exception as error:
        log.exception("GET %s: internal error", path)
        return Reply(f"internal error ({type(error).__name__}): see the daemon's log\n".encode(), status=500)


class HttpListeners:
    """All listeners of a daemon. Two options with the same address share one: what they have to tell stands there
    under different paths."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = tuple(names)
        self._listeners: list[HttpListener] = []

    def at(self, address: Address, option: str) -> HttpListener:
        """The one that listens there, or a new one for start()."""
        for listener in self._listeners:
            if address.port and listener.address == address:
                return listener
        self._listeners.append(HttpListener(address, option, names=self._names))
        return self._listeners[-1]

    async def start(self) -> None:
        """Raises FtlError; then none listens."""
        try:
            for listener in self._listeners:
                await listener.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Idempotent."""
        for listener in self._listeners:
            await listener.close()


def _host_of(peername: object) -> object:
    return peername[0] if isinstance(peername, tuple) and peername else peername


_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")
_TOO_MANY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Length: 38\r\n\r\nThere are too many connections here.\r\n"
)
