"""SPDK's JSON-RPC 2.0 on a unix socket. Values have no delimiter, and batches are arrays. Replies end in a newline and
come in the order in which requests finish. Whatever one connection sends, the others are not affected."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ..access import unix_sockets
from ..access.paths import HeldElsewhereError, lock_file, show_owner
from ..access.peers import Peer, command_of, peer_of
from ..access.users import show_user
from ..errors import (
    JSONRPC_INTERNAL_ERROR,
    JSONRPC_INVALID_REQUEST,
    JSONRPC_PARSE_ERROR,
    ExistsError,
    FtlError,
    UnsupportedError,
)
from ..runtime.sockets import accept
from ..runtime.tasks import end_tasks
from .json_scanner import JsonError, JsonObject, JsonScanner

logger = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
LISTEN_BACKLOG = 512
OUTSTANDING_REQUESTS_MAX = 128  # per connection; further ones are not read until some have finished
SEND_BUFFER_BYTES_MAX = 4 * 1024 * 1024  # of replies that a peer has not read; further requests are not read
SEND_STALL_S_MAX = 60.0  # and after this time the connection is closed
READ_BYTES = 65536
UNIX_PATH_BYTES_MAX = 107

_REQUEST_NAMES = frozenset({"jsonrpc", "method", "params", "id"})

Dispatch = Callable[[str, Any], Awaitable[Any]]
"""Called with the method and its params (None, an object or an array). Returns the result or raises FtlError."""


class RpcError(FtlError):
    """An error object as SPDK sends it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message, errno=-code if -4096 < code < 0 else errno.EINVAL, code=code)


def encode_reply(reply: object) -> bytes:
    return json.dumps(reply, separators=(",", ":")).encode() + b"\n"


def error_reply(request_id: object, code: int, message: str) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


async def answer_request(request: Any, dispatch: Dispatch) -> dict[str, object] | None:
    """Runs one request. Returns the reply, or None for a notification that succeeded."""
    invalid = error_reply(None, JSONRPC_INVALID_REQUEST, "Invalid request")
    if not isinstance(request, JsonObject) or request.duplicate_name is not None:
        return invalid
    if not _REQUEST_NAMES.issuperset(request):
        return invalid
    method, params, request_id = request.get("method"), request.get("params"), request.get("id")
    if request.get("jsonrpc", "2.0") != "2.0" or not isinstance(method, str):
        return invalid
    if isinstance(request_id, bool) or not isinstance(request_id, (str, int, float, type(None))):
        return invalid
    if isinstance(request_id, float) and not -1e300 < request_id < 1e300:
        return invalid
    if params is not None and not isinstance(params, (dict, list)):
        return error_reply(None, JSONRPC_INVALID_REQUEST, "Invalid request")
    try:
        result = await dispatch(method, params)
    except FtlError as error:
        return error_reply(request_id, error.jsonrpc_code, error.message)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        logger.exception("RPC %s failed because of a bug", method)
        return error_reply(request_id, JSONRPC_INTERNAL_ERROR, f"Internal error: {type(error).__name__}: {error}")
    if "id" not in request:
        return None
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


class _Connection:
    """One client: a reader, and one task for each request or batch in progress."""

    def __init__(self, sock: socket.socket, dispatch: Dispatch) -> None:
        self._sock = sock
        self._dispatch = dispatch
        self._requests: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(OUTSTANDING_REQUESTS_MAX)
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Returns when either side has closed the connection. Requests that still run continue, and their replies are
        dropped."""
        scanner = JsonScanner()
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._writer.transport.set_write_buffer_limits(high=SEND_BUFFER_BYTES_MAX)
        try:
            while True:
                data = await reader.read(min(READ_BYTES, scanner.room))
                if not data:
                    break
                scanner.feed(data)
                try:
                    while (value := scanner.next()) is not None:
                        await self._accept(value)
                except JsonError as error:
                    logger.info("closing a connection that did not send JSON: %s", error)
                    await self._wait_for_requests()
                    self._send(error_reply(None, JSONRPC_PARSE_ERROR, "Parse error"))
                    break
            # A client may shut down its sending side and still wait for answers.
            await self._wait_for_requests()
            await self._drain()
        except ConnectionError:
            await self._wait_for_requests()
        except asyncio.CancelledError:
            # The server is shutting down. A peer that does not read its replies must not keep the socket open.
            self._writer.transport.abort()
            raise
        finally:
            try:
                await end_tasks(self._requests)
            finally:
                self._writer.close()

    def close(self) -> None:
        """Closes a connection whose task was cancelled before its first step. Otherwise run() has closed it."""
        if self._writer is None:
            self._sock.close()

    async def _wait_for_requests(self) -> None:
        if self._requests:
            await asyncio.wait(self._requests)

    async def _accept(self, value: Any) -> None:
        await self._slots.acquire()
        task = asyncio.get_running_loop().create_task(self._answer(value))
        self._requests.add(task)
        task.add_done_callback(self._finished)
        await self._drain()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("sending an answer failed: %r", error)

    async def _drain(self) -> None:
        """Waits only if the peer has left too many replies unread."""
        assert self._writer is not None
        transport = self._writer.transport
        if transport.get_write_buffer_size() <= SEND_BUFFER_BYTES_MAX:
            return
        watchdog = asyncio.get_running_loop().call_later(SEND_STALL_S_MAX, transport.abort)
        try:
            await self._writer.drain()
        finally:
            watchdog.cancel()

    async def _answer(self, value: Any) -> None:
        reply: object
        if isinstance(value, list) and value:
            replies = await asyncio.gather(*(answer_request(request, self._dispatch) for request in value))
            reply = [each for each in replies if each is not None] or None
        else:
            reply = await answer_request(value, self._dispatch)
        if reply is not None:
            self._send(reply)

    def _send(self, reply: object) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode_reply(reply))


def _is_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


class JsonRpcServer:
    """The target's RPC socket, for its user and root only. The server refuses a path whose owner is alive, and takes
    over one whose owner is dead. The lock is the ``PATH.lock`` that spdk_tgt uses, so the two respect each other."""

    def __init__(self, path: str, dispatch: Dispatch) -> None:
        self.path = path
        self._dispatch = dispatch
        self._lock_fd: int | None = None
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises ExistsError if a live process owns the path, or a file that is not a socket is there, which stays
        untouched. Raises FtlError if the path cannot be used."""
        if not self.path:
            raise FtlError("RPC socket: the path is empty: give one with -r", errno=errno.EINVAL)
        if len(os.fsencode(self.path)) > UNIX_PATH_BYTES_MAX:
            raise UnsupportedError(
                f"RPC socket {self.path}: the path is longer than {UNIX_PATH_BYTES_MAX} bytes: choose a shorter one",
                errno=errno.ENAMETOOLONG,
            )
        self._refuse_other_files()
        unix_sockets.check_place(Path(self.path), "RPC socket", "choose another path with -r")
        self._take_path()
        owner = show_owner(Path(self.path))
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            listener = self._listener = unix_sockets.bind(self.path)
            listener.setblocking(False)
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            await self.close()
            raise FtlError(
                f"RPC socket {self.path}{owner}: {error.strerror}: choose another path with -r", errno=error.errno
            ) from error
        self._acceptor = asyncio.get_running_loop().create_task(self._accept_for_ever(), name="RPC acceptor")

    def _refuse_other_files(self) -> None:
        """A mistyped path must not destroy a file."""
        try:
            mode = os.lstat(self.path).st_mode
        except OSError:
            return  # creating the lock file reports any other fault of the path
        if not stat.S_ISSOCK(mode):
            raise ExistsError(
                f"RPC socket {self.path}: is a file{show_owner(Path(self.path))}, not a socket: remove it, or choose "
                "another path with -r"
            )

    def _take_path(self) -> None:
        lock_path = self.path + ".lock"
        while True:
            try:
                lock_fd = lock_file(lock_path, f"RPC socket {self.path}: its lock {lock_path}")
            except HeldElsewhereError:
                raise self._in_use(None) from None
            except FtlError as error:
                raise FtlError(f"{error.message}, or choose another path with -r", errno=error.errno) from error
            if _is_file(lock_fd, lock_path):
                break
            os.close(lock_fd)  # the owner removed the file while we waited for its lock
        self._lock_fd = lock_fd
        try:
            self._refuse_listener()
        except ExistsError:
            self._give_lock_back()
            raise

    def _in_use(self, peer: Peer | None) -> ExistsError:
        whose = "" if peer is None else f" (pid {peer.pid}{command_of(peer.pid)} of {show_user(peer.uid)})"
        return ExistsError(
            f"RPC socket {self.path} belongs to a running process{whose}: stop that process, or choose another path "
            "with -r",
            errno=errno.EADDRINUSE,
        )

    def _give_lock_back(self) -> None:
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path + ".lock")
            os.close(self._lock_fd)
            self._lock_fd = None

    def _refuse_listener(self) -> None:
        """Raises ExistsError if a process that does not use the lock file listens on the path."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
            except BlockingIOError:
                raise self._in_use(None) from None
            except OSError:
                return
            raise self._in_use(peer_of(probe))

    async def _accept_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(CONNECTIONS_MAX)
        assert self._listener is not None
        while True:
            await slots.acquire()
            try:
                sock, _ = await accept(self._listener)
            except OSError as error:
                slots.release()
                logger.warning("accepting an RPC connection failed: %s", error)
                await asyncio.sleep(0.1)  # for example out of file descriptors: lets other connections finish
                continue
            connection = _Connection(sock, self._dispatch)
            task = loop.create_task(connection.run())
            self._connections.add(task)

            def closed(task: asyncio.Task[None], connection: _Connection = connection) -> None:
                connection.close()
                self._connections.discard(task)
                slots.release()
                if not task.cancelled() and (error := task.exception()) is not None:
                    logger.error("an RPC connection ended with %r", error)

            task.add_done_callback(closed)

    async def close(self) -> None:
        """Stops accepting, drops every connection, and removes the socket file. Idempotent."""
        await end_tasks([*self._connections, *([self._acceptor] if self._acceptor else [])])
        self._acceptor = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self._give_lock_back()
