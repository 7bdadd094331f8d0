"""The NBD export of one FTL: at most one, at a unix socket. It ends when the FTL or the daemon ends, and on request
also when the process that started it ends. The next daemon does not start it again."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .. import _shim
from ..access.peers import Peer, command_of
from ..errors import ExistsError, FtlError, NotFoundError
from ..nbd.export import NbdExport
from ..nbd.server import NbdServer
from ..runtime.reactor import ReactorLoop

SERVING: Final = "serving"
ENDED: Final = "ended"

log = logging.getLogger(__name__)


class FtlNbd:
    """Call start(), then stop() or end(). This may be repeated."""

    def __init__(self, reactor: Callable[[], ReactorLoop]) -> None:
        self._reactor = reactor
        self._server: NbdServer | None = None
        self._follows: _Followed | None = None
        self._last: dict[str, Any] | None = None
        """The last export, if it has ended without a request."""
        self._turn = asyncio.Lock()
        self._ends: set[asyncio.Task[None]] = set()

    async def start(
        self, gate: _shim.Gate, name: Callable[[], str], path: Path, *, read_only: bool, follow: Peer | None
    ) -> dict[str, Any]:
        """Returns what describe() returns. name: gives the current name of the FTL. follow: the export ends when this
        process ends. Raises ExistsError if there is an export, or what NbdServer.start() raises; then nothing is
        left."""
        async with self._turn:
            if self._server is not None:
                raise ExistsError(
                    f"FTL bdev {name()} is already served by NBD, at {self._server.path}: connect there, or end that "
                    f"export with bdev_ftl_nbd_stop -b {name()}"
                )
            export = NbdExport(name, gate, f"FTL bdev {name()}", read_only=read_only)
            server = NbdServer(self._reactor(), export, path, remedy="give another path")
            followed = None if follow is None else _Followed(follow)
            try:
                await server.start()
                if followed is not None:
                    followed.start(lambda: self._followed_ended(server))
            except BaseException:
                if followed is not None:
                    followed.close()
                await server.close()
                raise
            self._server, self._follows, self._last = server, followed, None
        return {**server.describe(), "state": SERVING, "reason": None}

    async def stop(self, name: str) -> None:
        """Raises NotFoundError if there is no export, and what NbdServer.close() raises; the export has ended even
        then."""
        if not await self._end(None):
            raise NotFoundError(f"FTL bdev {name} is not served by NBD: bdev_ftl_nbd_get lists the exports")

    async def end(self, reason: str) -> None:
        """Ends the export, if there is one. Raises what NbdServer.close() raises; the export has ended even then."""
        await self._end(reason)

    def describe(self) -> dict[str, Any] | None:
        """The export, or the last one if that has ended without stop(). None if there is neither."""
        if self._server is None:
            return self._last
        return {**self._server.describe(), "state": SERVING, "reason": None}

    async def _end(self, reason: str | None) -> bool:
        async with self._turn:
            server, self._server = self._server, None
            if server is None:
                return False
            if self._follows is not None:
                self._follows.close()
                self._follows = None
            self._last = None
            if reason is not None:
                log.warning("the NBD export of FTL bdev %s at %s ends: %s", server.export.name(), server.path, reason)
                self._last = {**server.describe(), "connections": 0, "state": ENDED, "reason": reason}
            await server.close()
            return True

    def _followed_ended(self, server: NbdServer) -> None:
        async def end() -> None:
            if self._server is server:
                try:
                    await self.end("the process that started it has ended")
                except FtlError as error:
                    log.error("%s", error.message)

        task = asyncio.create_task(end(), name="end of an NBD export")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)


class _Followed:
    """Watches for the end of a process, between start() and close()."""

    def __init__(self, peer: Peer) -> None:
        """Raises FtlError if the process can't be watched, or has ended."""
        if peer.pid <= 0:
            raise FtlError(
                "the daemon can't see the calling process (another PID namespace), so the NBD export can't follow it: "
                "leave follow out, and end the export with bdev_ftl_nbd_stop",
                errno=errno.ESRCH,
            )
        try:
            self._descriptor = os.pidfd_open(peer.pid)
        except OSError as error:
            raise FtlError(
                f"the daemon can't watch pid {peer.pid}{command_of(peer.pid)}, so the NBD export can't follow it: "
                f"{error.strerror}: leave follow out, and end the export with bdev_ftl_nbd_stop",
                errno=error.errno,
            ) from error
        self._loop = asyncio.get_running_loop()

    def start(self, ended: Callable[[], None]) -> None:
        def on_readable() -> None:
            self._loop.remove_reader(self._descriptor)
            ended()

        self._loop.add_reader(self._descriptor, on_readable)

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
