"""TargetRpc: asyncio client of an SPDK target's JSON-RPC server.

SPDK sends JSON values one after the other, without delimiter. Each call has a connection of its own, so a broken call
cannot affect another one, and a restarted target needs no reconnect.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
from collections.abc import Mapping
from typing import Any, Final

from ..access.peers import Trust, peer_of
from ..access.users import own_uid, show_user
from ..errors import TargetError
from ..time_limit import time_limit

REPLY_BYTES_MAX: Final = 64 << 20
MESSAGE_MAX: Final = 1024
"""The number of characters kept of an error message."""
CHUNK_BYTES: Final = 256 << 10
_HTTP: Final = b"HTTP/"
SPDK_SOCKET: Final = "/var/tmp/spdk.sock"
CONNECT_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_S: Final = 30.0
CALLS_AT_ONCE_MAX: Final = 8

ENODEV_CODE: Final = -errno.ENODEV
METHOD_NOT_FOUND: Final = -32601

UNCHANGED: Final = object()
"""From call_again(): the answer is that of the last call."""

_identifiers = itertools.count(1)


class Repeated:
    """A call that is made again and again, and mostly has the same answer, which is not parsed again then."""

    def __init__(self, method: str) -> None:
        self.method = method
        # A call has a connection of its own, so its id need not differ.
        self.request: Final = {"jsonrpc": "2.0", "id": 0, "method": method}
        self.answer = b""
        """The last one, as it came. Empty: the next one counts as changed."""


class TargetRpc:
    """Calls RPCs of the target at ``address``: the path of a unix socket, or HOST:PORT."""

    def __init__(self, address: str, *, user: int | None = None) -> None:
        """user: who may serve a unix socket, beside the current user and root. The client sends nothing to others: a
        process that takes the path of a target that is gone could otherwise give any answer."""
        self.address = address
        self._user = user
        self._trust = Trust(user)
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE_MAX)

    @property
    def whose(self) -> tuple[str, int | None]:
        """The same for two objects that reach the same target, and trust the same users."""
        return self.address, self._user

    @property
    def host(self) -> str:
        """The host at which services of the target (its NVMe-oF listeners) can be reached."""
        if self.address.startswith("/"):
            return "127.0.0.1"
        return self.address.rpartition(":")[0].strip("[]")

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        """Returns the result of one RPC.

        Raises TargetError: with ``rpc_code`` if the target refused the call; without if the target cannot be reached,
        breaks off or does not answer in time (then it is unknown whether the call took effect).
        """
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": next(_identifiers), "method": method}
        if params:
            request["params"] = dict(params)
        return await self._call(request, timeout_s, None)

    async def call_again(self, repeated: Repeated, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """As call(). Returns UNCHANGED for the same answer as last time."""
        return await self._call(repeated.request, timeout_s, repeated)

    async def _call(self, request: Mapping[str, Any], timeout_s: float, repeated: Repeated | None) -> Any:
        method = request["method"]
        async with self._slots:
            try:
                async with time_limit(timeout_s):
                    received, reply = await self._exchange(
                        json.dumps(request).encode(), method, b"" if repeated is None else repeated.answer
                    )
            except (TimeoutError, asyncio.TimeoutError):
                raise TargetError(
                    f"{self._who}: no reply to {method} within {timeout_s:g} s", errno=errno.ETIMEDOUT
                ) from None
            except OSError as error:
                raise TargetError(
                    f"{self._who} broke off during {method} ({error.strerror or error}): check that it is still "
                    "running",
                    errno=errno.ECONNRESET,
                ) from error
        if reply is UNCHANGED:
            return UNCHANGED
        result = self._result(reply, request)
        if repeated is not None:
            repeated.answer = bytes(received)
        return result

    async def why_silent(self, timeout_s: float) -> TargetError | None:
        """Returns the error if the target does not answer, and None if it answers anything at all."""
        try:
            await self.call("spdk_get_version", timeout_s=timeout_s)
        except TargetError as error:
            return error if error.rpc_code is None else None
        return None

    @property
    def _who(self) -> str:
        return f"SPDK target at {self.address}"

    async def _exchange(self, request: bytes, method: str, known: bytes) -> tuple[bytearray, Any]:
        """The answer as it came and parsed, or UNCHANGED if it is the known one."""
        reader, writer = await self._connect()
        try:
            writer.write(request)
            await writer.drain()
            return await self._read_value(reader, method, known)
        finally:
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            if self.address.startswith("/"):
                opening = asyncio.open_unix_connection(self.address)
            else:
                opening = asyncio.open_connection(self.host, int(self.address.rpartition(":")[2]))
            async with time_limit(CONNECT_TIMEOUT_S):
                reader, writer = await opening
        except (OSError, OverflowError, asyncio.TimeoutError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer"
            if isinstance(error, PermissionError):
                raise TargetError(
                    f"{self._who} can't be reached ({reason}): {show_user(own_uid())} may not use its RPC socket, or "
                    "not enter its directory: run this as the target's user or root, or give that user the right to "
                    "write to the socket",
                    errno=error.errno,
                ) from error
            raise TargetError(
                f"{self._who} can't be reached ({reason}): check that it is running, and that this is its RPC socket",
                errno=_errno_of(error),
            ) from error
        if self.address.startswith("/"):
            peer = peer_of(writer.get_extra_info("socket"))
            if peer is None or not self._trust.includes(peer):
                writer.transport.abort()
                whose = "a process that has ended" if peer is None else str(peer)
                raise TargetError(
                    f"{self._who}: its socket is served by {whose}, but only {self._trust} is trusted; nothing was "
                    "sent. If the target runs as that user, give --target-user; otherwise find out which process "
                    "has taken the path",
                    errno=errno.EPERM,
                )
        return reader, writer

    async def _read_value(self, reader: asyncio.StreamReader, method: str, known: bytes) -> tuple[bytearray, Any]:
        received = bytearray()
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            if not chunk:
                raise TargetError(
                    f"{self._who} closed the connection during {method}: check that it is still running",
                    errno=errno.ECONNRESET,
                )
            received += chunk
            if received.startswith(_HTTP):
                raise TargetError(
                    f"{self._who} answers in HTTP: it seems to be the control socket of a spdk-ftl daemon, not an "
                    f"SPDK target: give the RPC socket of the target (-s; spdk_tgt has {SPDK_SOCKET} by default)",
                    errno=errno.EPROTO,
                )
            if len(received) > REPLY_BYTES_MAX:
                raise TargetError(f"{self._who}: its reply to {method} is larger than {REPLY_BYTES_MAX} bytes")
            # A reply ends with a brace. Parsing after every chunk would take quadratic time for a large reply.
            if not received[-CHUNK_BYTES:].rstrip().endswith(b"}"):
                continue
            if received == known:
                return received, UNCHANGED
            try:
                return received, json.loads(received, parse_constant=_no_constant)
            except RecursionError:
                raise TargetError(f"{self._who}: its reply to {method} is nested too deeply") from None
            except _NoNumberError as error:
                raise TargetError(f"{self._who}: its reply to {method} is not JSON: {error}") from None
            except ValueError:
                continue

    def _result(self, reply: Any, request: Mapping[str, Any]) -> Any:
        method = request["method"]
        if not isinstance(reply, dict):
            raise TargetError(f"{self._who}: its reply to {method} is not a JSON-RPC object")
        error = reply.get("error")
        if error is not None:
            code = error.get("code") if isinstance(error, dict) else None
            code = code if isinstance(code, int) else None
            message = str(error.get("message") if isinstance(error, dict) else error)[:MESSAGE_MAX]
            number = -code if code is not None and -4096 < code < -1 else None
            raise TargetError(f"{self._who} refused {method}: {message} (code {code})", rpc_code=code, errno=number)
        if "result" not in reply or reply.get("id") != request["id"]:
            raise TargetError(f"{self._who}: malformed JSON-RPC reply to {method}")
        return reply["result"]


class _NoNumberError(Exception):
    """The reply contains NaN or Infinity."""


def _no_constant(name: str) -> float:
    raise _NoNumberError(name)


def is_gone(error: Exception) -> bool:
    """Whether no process listens at the address any more. The target is gone then, with everything made in it. A target
    that merely does not answer may recover."""
    return isinstance(error, TargetError) and error.rpc_code is None and error.errno == errno.ECONNREFUSED


def _errno_of(error: Exception) -> int:
    """The errno for a connection that failed to open."""
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return errno.ECONNREFUSED
    if isinstance(error, asyncio.TimeoutError):
        return errno.ETIMEDOUT
    number = getattr(error, "errno", None)
    return number if number is not None and number > 0 else errno.EHOSTUNREACH
