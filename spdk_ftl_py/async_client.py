"""Client of the daemon for asyncio. It is like client.py, but no thread waits."""

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
    """DaemonClient with methods to await. Calls may run concurrently, each on a connection of its own; the daemon
    accepts 64. Cancelling a call closes its connection; the daemon still finishes the request.

    >>> daemon = AsyncDaemonClient()
    >>> [device["name"] for device in await daemon.ftl_get_devices()]
    """

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Returns the result of one RPC. Raises what DaemonClient.call() raises."""
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
            # close() would wait until everything is sent, to a server that may not read.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects. Raises OSError. Retries while the backlog is full, which asyncio would take for a connection in
        progress."""
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
        """Sends the request, and returns everything until the daemon closes the connection. The daemon closes it after
        each reply."""
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
                # Another kind of server may keep the connection open.
                break
        return bytes(received)


class _Received:
    """Received bytes in a form that http.client accepts as a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _body_of(received: bytes) -> bytes:
    """Returns the body of an HTTP response. Raises HTTPException, or ConnectionError if nothing was received."""
    response = http.client.HTTPResponse(cast(socket.socket, _Received(received)))
    response.begin()
    return response.read()
