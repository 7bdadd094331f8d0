"""Client of the daemon for asyncio: as client.py, and nothing waits in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import socket
from collections.abc import Mapping
from typing import Any, Final, cast

from .client import CHUNK_BYTES, CONNECT_TIMEOUT_S, REPLY_BYTES_MAX, DaemonSocket
from .rpcs.asynchronous import AsyncDaemonRpcs
from .time_limit import time_limit

_HTTP: Final = b"HTTP/"
BACKLOG_POLL_S: Final = 0.01


class AsyncDaemonClient(DaemonSocket, AsyncDaemonRpcs):
    """DaemonClient's methods, to be awaited. Calls may run side by side, each on a connection of its own; the daemon
    takes 64. A call that is cancelled closes its connection, and what it asked for goes on in the daemon.

    >>> daemon = AsyncDaemonClient()
    >>> [device["name"] for device in await daemon.ftl_get_devices()]
    """

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of one RPC. Raises what DaemonClient.call() does."""
        return self._result(await self._post(*self._request(method, params)))

    async def _post(self, body: bytes, timeout_s: float) -> bytes:
        try:
            async with time_limit(CONNECT_TIMEOUT_S):
                reader, writer = await self._connected()
        except asyncio.TimeoutError:
            raise self._not_connected(TimeoutError("timed out")) from None
        except OSError as error:
            raise self._not_connected(error) from None
        try:
            self._check_server(writer.get_extra_info("socket"))
            async with time_limit(timeout_s):
                received = await self._exchange(reader, writer, body)
            return _body_of(received)
        except asyncio.TimeoutError:
            raise self._no_reply(timeout_s) from None
        except (OSError, http.client.HTTPException) as error:
            raise await asyncio.to_thread(self._broke_off, error) from None
        finally:
            # close() would wait until all is sent, to somebody who may not read.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError. asyncio takes a backlog that is full for a connection that is under way."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            while True:
                try:
                    connection.connect(self.socket_path)
                    break
                except BlockingIOError:
                    await asyncio.sleep(BACKLOG_POLL_S)
            return await asyncio.open_unix_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> bytes:
        """All that comes until the daemon closes the connection, which it does behind each reply."""
        head = (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        received = bytearray()
        while chunk := await reader.read(CHUNK_BYTES):
            received += chunk
            if len(received) > REPLY_BYTES_MAX:
                raise self._too_large()
            if not received.startswith(_HTTP[: len(received)]):
                # Whoever that is may not close it.
                break
        return bytes(received)


class _Received:
    """What http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _body_of(received: bytes) -> bytes:
    """Of an HTTP response. Raises HTTPException, and ConnectionError where there is nothing."""
    response = http.client.HTTPResponse(cast(socket.socket, _Received(received)))
    response.begin()
    return response.read()
