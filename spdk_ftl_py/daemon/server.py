"""JSON-RPC 2.0 over HTTP on a unix socket that only its owner, root and the members of one group can open.

One request per connection, with a deadline until it is received completely, and with bounds on everything: a client
that sends half a request, an endless one or none at all only occupies a connection slot for a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import math
import os
import socket
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from .. import schema, strict_json
from ..access import unix_sockets
from ..access.paths import HeldElsewhereError, lock_file, show_owner
from ..access.peers import Peer, Trust, UnixSocket, command_of, groups_of, peer_of
from ..access.users import show_user
from ..errors import (
    JSONRPC_INTERNAL_ERROR,
    JSONRPC_INVALID_REQUEST,
    JSONRPC_METHOD_NOT_FOUND,
    JSONRPC_PARSE_ERROR,
    BusyError,
    FtlError,
)
from .audit import Order, is_order, without_keys
from .bounded_connection import LINGER_S, BoundedConnection
from .http_listener import Route, answer, response_of
from .requester import asked_for_by, requester, show_peer

BODY_BYTES_MAX: Final = 1 << 20
REQUEST_TIMEOUT_S: Final = 10.0
CONNECTIONS_MAX: Final = 64
UNIX_PATH_BYTES_MAX: Final = 107
_LISTEN_BACKLOG: Final = 64
_HALT_TIMEOUT_S: Final = 2.0
_REFUSALS_TOLD_EVERY_S: Final = 10.0
"""The interval for each user."""
_USERS_REMEMBERED_MAX: Final = 1024

log = logging.getLogger(__name__)

Method = Callable[[dict[str, Any]], Awaitable[Any]]


class RpcServer:
    """Serves ``methods``; params are validated against schemas/<method>.json before they reach a method."""

    def __init__(
        self,
        socket_path: Path,
        methods: Mapping[str, Method],
        *,
        pages: Mapping[str, Route] | None = None,
        group: int | None = None,
        option: str = "--socket",
        listener: socket.socket | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ):
        """pages: what GET answers, by path. group: members of it may call, besides the user who runs the daemon and
        root. option: the option with which a user gives another path, for messages. listener: a socket that already
        listens, and stays open when the server closes."""
        self.socket_path = socket_path.absolute()
        self.trust = Trust(group=group)
        self.option = option
        self._handed_over = listener
        self._refusals_logged: dict[int, float] = {}
        self._methods = dict(methods)
        self._pages = dict(pages or {})
        self._request_timeout_s = request_timeout_s
        self._connections: dict[asyncio.Protocol, BoundedConnection] = {}
        self._server: asyncio.AbstractServer | None = None
        self._lock: int | None = None
        self._http: web.Server | None = None

    async def start(self) -> None:
        """Binds the socket. Replaces a socket that a dead daemon left.

        Raises BusyError if a daemon listens there, and FtlError if the path cannot be used.
        """
        listener = self._handed_over
        if listener is None:
            # First the checks that need no lock, so that no lock file is left beside a path that can't be a socket.
            self.check()
            self._take_lock()
            try:
                listener = self._bind()
            except BaseException:
                self._drop_lock()
                raise
        self._http = web.Server(self._handle, access_log=None, keepalive_timeout=0, lingering_time=LINGER_S)
        loop = asyncio.get_running_loop()
        # From 3.13 on, asyncio also removes the file of a socket that it was given.
        keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await loop.create_unix_server(self._connection, sock=listener, backlog=_LISTEN_BACKLOG, **keep)

    def check(self) -> None:
        """Raises FtlError if no socket can be made there. Changes nothing."""
        if self._handed_over is None:
            self._stale()
            unix_sockets.check_place(self.socket_path, "control socket", self._another)

    async def close(self) -> None:
        """Stops listening, lets requests in progress answer for a moment, removes the socket. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._handed_over is None:
            with contextlib.suppress(FileNotFoundError):
                self.socket_path.unlink()
        if self._http is not None:
            await self._http.shutdown(_HALT_TIMEOUT_S)
        for connection in list(self._connections.values()):
            connection.abort()
        self._drop_lock()

    # --- socket ---

    def _take_lock(self) -> None:
        # Otherwise another daemon could bind between finding a stale socket and binding a new one.
        path = f"{self.socket_path}.lock"
        try:
            self._lock = lock_file(path, f"control socket {self.socket_path}: its lock {path}")
        except HeldElsewhereError:
            raise self._busy() from None
        except FtlError as error:
            raise FtlError(f"{error.message}, or {self._another}", errno=error.errno) from error

    @property
    def _another(self) -> str:
        return f"give another with {self.option}"

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _busy(self, peer: Peer | None = None) -> BusyError:
        who = "somebody" if peer is None else f"pid {peer.pid}{command_of(peer.pid)} of {show_user(peer.uid)}"
        return BusyError(
            f"control socket {self.socket_path}: {who} is listening there already (maybe another daemon, or an SPDK "
            f"target): stop it, or give {self.option}"
        )

    def _bind(self) -> socket.socket:
        self._remove_stale()
        mode = unix_sockets.OWN_MODE if self.trust.group is None else unix_sockets.GROUP_MODE
        try:
            return unix_sockets.bind(str(self.socket_path), mode, self.trust.group)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FtlError(
                f"control socket {self.socket_path} can't be created: {reason}; {self._another}",
                errno=error.errno or errno.ENAMETOOLONG,
            ) from error

    def _stale(self) -> bool:
        """Raises FtlError if the existing file can't be replaced by a socket."""
        if len(os.fsencode(self.socket_path)) > UNIX_PATH_BYTES_MAX:
            raise FtlError(
                f"control socket {self.socket_path}: the path is longer than {UNIX_PATH_BYTES_MAX} bytes: give a "
                f"shorter one with {self.option}",
                errno=errno.ENAMETOOLONG,
            )
        try:
            mode = self.socket_path.lstat().st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FtlError(
                f"control socket {self.socket_path}: {error.strerror}; {self._another}", errno=error.errno
            ) from error
        if not stat.S_ISSOCK(mode):
            raise FtlError(
                f"control socket {self.socket_path}: is a file{show_owner(self.socket_path)}, not a socket: remove "
                f"it, or give {self.option}",
                errno=errno.EEXIST,
            )
        return True

    def _remove_stale(self) -> None:
        if not self._stale():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket_path))
            except ConnectionRefusedError:
                self._unlink_stale()
            except OSError as error:
                owner = show_owner(self.socket_path)
                raise FtlError(
                    f"control socket {self.socket_path}: is a socket{owner} that can't be checked "
                    f"({error.strerror}): remove it, or give {self.option}",
                    errno=error.errno,
                ) from error
            else:
                raise self._busy(peer_of(probe))

    def _unlink_stale(self) -> None:
        owner = show_owner(self.socket_path)
        log.info("replacing the socket %s%s, which a dead daemon left", self.socket_path, owner)
        try:
            self.socket_path.unlink(missing_ok=True)
        except OSError as error:
            raise FtlError(
                f"control socket {self.socket_path}: is a socket{owner} on which nobody listens, and the daemon "
                f"can't remove it ({error.strerror}): remove it, or give {self.option}",
                errno=error.errno,
            ) from error

    def _connection(self) -> asyncio.Protocol:
        assert self._http is not None
        return BoundedConnection(self._http(), self._connections, self._request_timeout_s, self._refusal)

    def _refusal(self, transport: asyncio.Transport) -> bytes | None:
        if (refusal := self._stranger(transport.get_extra_info("socket"))) is not None:
            return refusal
        if sum(not each.refused for each in self._connections.values()) >= CONNECTIONS_MAX:
            log.warning("more than %d connections: closing the newest", CONNECTIONS_MAX)
            return _TOO_MANY
        return None

    def _stranger(self, connection: UnixSocket) -> bytes | None:
        """The refusal for a caller who may give no orders. Usually the mode of the socket already keeps such callers
        out; this also covers a socket that a service manager made, or that somebody opened to everybody."""
        peer = peer_of(connection)
        if peer is not None and self.trust.includes(peer, lambda: groups_of(connection, peer)):
            return None
        now = time.monotonic()
        uid = -1 if peer is None else peer.uid
        if now - self._refusals_logged.get(uid, -math.inf) >= _REFUSALS_TOLD_EVERY_S:
            if len(self._refusals_logged) >= _USERS_REMEMBERED_MAX:
                self._refusals_logged.clear()
            self._refusals_logged[uid] = now
            log.warning("%s refused: %s may not call it", self.socket_path, show_peer(peer))
        whom = "you" if peer is None else show_user(peer.uid)
        text = (
            f"the spdk-ftl daemon takes no orders from {whom} at {self.socket_path}, only from {self.trust}: its "
            "options --socket-group and --monitor-group admit members of a group"
        )
        return _canned("403 Forbidden", -errno.EACCES, text)

    def _received(self, request: web.BaseRequest) -> None:
        connection = self._connections.get(request.protocol)
        if connection is not None:
            connection.received()

    # --- requests ---

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        peer = None if transport is None else peer_of(transport.get_extra_info("socket"))
        try:
            with asked_for_by(show_peer(peer), peer):
                response = await self._response(request, peer)
        finally:
            self._received(request)
        response.force_close()
        return response

    async def _response(self, request: web.BaseRequest, peer: Peer | None) -> web.Response:
        page = self._pages.get(request.path)
        if page is not None and request.method in ("GET", "HEAD") and not request.body_exists:
            return response_of(await answer(page, dict(request.query), request.path))
        status, reply = await self._answer(request, peer)
        return web.json_response(reply, status=status)

    async def _answer(self, request: web.BaseRequest, peer: Peer | None) -> tuple[int, dict[str, Any]]:
        if request.path != "/":
            pages = "".join(f", or GET {path}" for path in self._pages)
            text = f"no such path: {request.path[:80]}: POST JSON-RPC to /{pages}"
            return 404, _error(None, JSONRPC_INVALID_REQUEST, text)
        if request.method != "POST":
            return 405, _error(None, JSONRPC_INVALID_REQUEST, "POST JSON-RPC to /")
        body = await _read_body(request)
        self._received(request)
        if body is None:
            too_large = f"the request is larger than {BODY_BYTES_MAX} bytes"
            return 413, _error(None, JSONRPC_INVALID_REQUEST, too_large)
        try:
            call = strict_json.loads(body)
        except ValueError as error:
            return 400, _error(None, JSONRPC_PARSE_ERROR, f"not JSON: {error}"[:200])
        return 200, await self._call(call, peer)

    async def _call(self, call: Any, peer: Peer | None) -> dict[str, Any]:
        if not isinstance(call, dict):
            return _error(None, JSONRPC_INVALID_REQUEST, "a request must be one JSON-RPC object")
        identifier = call.get("id")
        if isinstance(identifier, bool) or not isinstance(identifier, str | int | float | None):
            return _error(None, JSONRPC_INVALID_REQUEST, "id must be a string, a number or null")
        unknown = sorted(set(call) - {"jsonrpc", "id", "method", "params"})
        if unknown or call.get("jsonrpc", "2.0") != "2.0" or not isinstance(call.get("method"), str):
            text = 'a request has jsonrpc: "2.0", id, method (a string) and params (an object), and nothing else'
            return _error(identifier, JSONRPC_INVALID_REQUEST, text)
        name = call["method"]
        method = self._methods.get(name)
        if method is None:
            known = ", ".join(sorted(self._methods))
            return _error(identifier, JSONRPC_METHOD_NOT_FOUND, f"unknown method {name[:80]!r}; known: {known}")
        order = Order(name, call.get("params"), peer, str(self.socket_path)) if is_order(name) else None
        ended = "no answer"
        try:
            result = await method(schema.load(name).validate(call.get("params")))
            ended = "ok"
        except FtlError as error:
            ended = ""
            if order is not None:
                order.ended(error)
            log.info("%s, asked for by %s, failed: %s", name, requester(), without_keys(error.message))
            return {"jsonrpc": "2.0", "id": identifier, "error": error.to_jsonrpc()}
        except Exception as error:
            ended = f"internal error ({type(error).__name__})"
            log.exception("%s, asked for by %s: internal error", name, requester())
            text = f"{name}: internal error ({type(error).__name__}): see the daemon's log"
            return _error(identifier, JSONRPC_INTERNAL_ERROR, text)
        finally:
            if order is not None and ended:
                order.ended(result=ended)
        return {"jsonrpc": "2.0", "id": identifier, "result": result}


async def _read_body(request: web.BaseRequest) -> bytes | None:
    """None if it is too large."""
    if request.content_length is not None and request.content_length > BODY_BYTES_MAX:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return None
    return bytes(body)


def _error(identifier: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": message}}


def _canned(status: str, code: int, text: str) -> bytes:
    body = json.dumps(_error(None, code, text)).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_TOO_MANY: Final = _canned(
    "503 Service Unavailable",
    -errno.EBUSY,
    f"the daemon has {CONNECTIONS_MAX} connections to its control socket, and accepts no more: try again",
)
