"""An NBD server for one device, on a unix socket."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import _shim
from ..access.owned_socket import OwnedSocket
from ..errors import BusyError, FtlError, UnsupportedError
from ..runtime.descriptors import descriptors_for_strangers
from ..runtime.reactor import ReactorLoop
from ..runtime.sockets import accept
from ..runtime.tasks import end_tasks, to_its_end
from ..runtime.waiting import until
from ..time_limit import time_limit
from .export import NbdExport
from .handshake import Handshake

LISTEN_BACKLOG: Final = 64
CONNECTIONS_MAX: Final = 64
"""Of one server, those in their handshake included. One more is closed at once."""
HALF_OPEN_MAX: Final = 16
"""Connections in their handshake. One more closes the oldest."""
HANDSHAKE_S: Final = 10.0
REFUSALS_TOLD_EVERY_S: Final = 60.0
DRAIN_S: Final = 30.0
DRAIN_POLL_S: Final = 0.002

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NbdCounts:
    """Of all connections of a server since its start. Blocks are the device's."""

    requests: int = 0
    read_blocks: int = 0
    write_blocks: int = 0
    errors: int = 0

    def plus(self, stats: _shim.NbdConnectionStats) -> NbdCounts:
        return NbdCounts(
            self.requests + stats.requests,
            self.read_blocks + stats.read_blocks,
            self.write_blocks + stats.write_blocks,
            self.errors + stats.errors,
        )


class NbdServer:
    """Serves one export between start() and close(). The reactor must be the one that polls the device."""

    def __init__(self, reactor: ReactorLoop, export: NbdExport, path: Path, *, remedy: str) -> None:
        """remedy: for messages about the path, such as ``give another path``."""
        self.export = export
        self.path = path.absolute()
        self._reactor = reactor
        self._remedy = remedy
        self._owned: OwnedSocket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._half_open: dict[asyncio.Task[None], None] = {}
        """Oldest first."""
        self._connections: dict[int, _shim.NbdConnection] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._draining: list[_shim.NbdConnection] = []
        """Connections that have ended, and whose I/O has not. They still count."""
        self._ended = NbdCounts()
        self._refused_at = 0.0

    async def start(self) -> None:
        """Raises BusyError if somebody listens at the path, UnsupportedError if NBD can't serve the device,
        FtlError if the path can't be used. Nothing is left then."""
        device = self.export.device
        if device.zoned and not self.export.read_only:
            raise UnsupportedError(f"{self.export.name()} is zoned, so NBD can only read it: ask for read_only")
        if device.metadata_bytes or device.block_bytes & (device.block_bytes - 1) or device.block_bytes > 65536:
            raise UnsupportedError(
                f"{self.export.name()} has blocks of {device.block_bytes} bytes, {device.metadata_bytes} of them "
                "metadata: NBD needs a power of two without metadata"
            )
        self._owned = OwnedSocket(self.path, "NBD socket", self._remedy, backlog=LISTEN_BACKLOG)
        self._accepting = asyncio.create_task(self._accept(self._owned.socket), name=f"NBD at {self.path}")

    async def close(self) -> None:
        """Disconnects the clients, and removes the socket. When it returns, none of their I/O is outstanding.
        Idempotent; runs to its end even if the caller is cancelled. Raises BusyError if the device does not complete
        the I/O."""
        await to_its_end(self._close())

    @property
    def connection_count(self) -> int:
        """Connections after their handshake."""
        return len(self._connections)

    def counts(self) -> NbdCounts:
        """Waits for the reactor, a moment for each connection."""
        counts = self._ended
        for connection in (*self._connections.values(), *self._draining):
            counts = counts.plus(connection.stats())
        return counts

    def describe(self) -> dict[str, Any]:
        counts = self.counts()
        return {
            "socket_path": str(self.path),
            "uri": f"nbd+unix:///?socket={self.path}",
            "read_only": self.export.read_only,
            "block_size": self.export.device.block_bytes,
            "num_blocks": self.export.device.block_count,
            "connections": self.connection_count,
            "requests": counts.requests,
            "read_blocks": counts.read_blocks,
            "write_blocks": counts.write_blocks,
            "errors": counts.errors,
        }

    async def _close(self) -> None:
        if self._accepting is not None:
            await end_tasks([self._accepting, *self._half_open])
        if self._owned is not None:
            self._owned.close()
        for number in list(self._connections):
            self._end(number)
        if self._closing and (await asyncio.wait(self._closing, timeout=DRAIN_S))[1]:
            raise BusyError(
                f"NBD socket {self.path}: the device has not completed I/O of clients within {DRAIN_S:g} s; the socket "
                "is removed"
            )

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = await accept(listener)
            except OSError:
                # Out of descriptors, or the client left: neither is a reason to stop listening.
                await asyncio.sleep(0.01)
                continue
            open_count = len(self._half_open) + len(self._connections) + len(self._closing)
            if open_count >= CONNECTIONS_MAX or sock.fileno() >= descriptors_for_strangers():
                sock.close()
                self._tell_refusal()
                await asyncio.sleep(0.01)
                continue
            if len(self._half_open) >= HALF_OPEN_MAX:
                oldest = next(iter(self._half_open))
                del self._half_open[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._serve(sock), name=f"NBD handshake at {self.path}")
            self._half_open[task] = None
            task.add_done_callback(functools.partial(self._served, sock))
            # With connections in its backlog accept() never waits.
            await asyncio.sleep(0)

    def _served(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._half_open.pop(task, None)
        # The shim has its own descriptor. A task that was cancelled before its first step has closed nothing.
        sock.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("NBD socket %s: internal error", self.path, exc_info=error)

    async def _serve(self, sock: socket.socket) -> None:
        try:
            async with time_limit(HANDSHAKE_S):
                agreed = await Handshake(sock, self.export).run()
        except (FtlError, OSError, asyncio.TimeoutError) as error:
            reason = error.message if isinstance(error, FtlError) else str(error) or "the handshake took too long"
            log.debug("NBD socket %s: a client was disconnected: %s", self.path, reason)
            return
        if agreed is None:
            return
        export = self.export
        try:
            connection = _shim.NbdConnection(
                self._reactor.shim,
                sock.fileno(),
                export.device,
                block_count=agreed.block_count,
                read_only=export.read_only,
                structured_replies=agreed.structured_replies,
                trim=export.trim,
                write_zeroes=export.write_zeroes,
                fast_zero=export.fast_zero,
            )
        except (ValueError, OSError) as error:
            log.warning("NBD socket %s: a client can't be served: %s", self.path, error)
            return
        self._connections[connection.id] = connection
        self._reactor.subscribe(connection.id, functools.partial(self._event, connection))

    def _event(self, connection: _shim.NbdConnection, event: _shim.Event) -> None:
        overflow = event.kind == _shim.EventKind.OVERFLOW
        if event.kind == _shim.EventKind.NBD_CLOSED or (overflow and not connection.connected):
            self._end(connection.id)

    def _end(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        if connection is None:
            return
        self._reactor.unsubscribe(number)
        self._draining.append(connection)
        task = asyncio.create_task(self._release(connection), name=f"end of an NBD connection at {self.path}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _release(self, connection: _shim.NbdConnection) -> None:
        """Waits for the last I/O, which a device may take long for, without blocking the event loop or one of its
        threads."""
        connection.disconnect()
        # Whoever closes a connection waits for its device.
        await until(lambda: connection.drained, timeout_s=math.inf, poll_s=DRAIN_POLL_S)
        connection.close()
        self._draining.remove(connection)
        self._ended = self._ended.plus(connection.stats())

    def _tell_refusal(self) -> None:
        now = time.monotonic()
        if now - self._refused_at >= REFUSALS_TOLD_EVERY_S:
            self._refused_at = now
            log.warning("NBD socket %s: refusing clients: %d are connected", self.path, len(self._connections))
