"""The daemon's side of an endpoint in a keeper: finds the keeper or starts one, takes over what the keeper holds, and
executes its requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ...access.peers import Trust, command_of, peer_of
from ...errors import BusyError, FtlError, PathError, ProtocolError
from ...time_limit import time_limit
from . import keeper
from .client_state import ClientState, Queue, Region
from .keeper import DAEMON_SOCKET, HAND_OVER_VERSION
from .link import Content, Link
from .registers import Registers, Step
from .serving import Serving

START_TIMEOUT_S: Final = 20.0
HAND_OVER_TIMEOUT_S: Final = 20.0
END_TIMEOUT_S: Final = 5.0
_ATTEMPTS: Final = 5

log = logging.getLogger(__name__)


class OtherVersionError(FtlError):
    """A keeper of another version of this package: it can only be told to end."""


class KeptEndpoint:
    """A port for a controller."""

    def __init__(self, directory: Path, cap: int, on_lost: Callable[[], object]) -> None:
        """on_lost: called when the keeper has ended by itself, and the client's controller with it."""
        self._directory = directory
        self._cap = cap
        self._on_lost = on_lost
        self._link: Link | None = None
        self._serving: Serving | None = None
        self._client: ClientState | None = None
        """While a client is handed over: what has come of it."""
        self._number = 0
        """Of the client that is there."""
        self._ready: asyncio.Future[None] | None = None
        self.pid = 0
        """Of the keeper."""
        self._ended = asyncio.Event()
        """Not set while it was told to end."""
        self._ended.set()

    async def begin(self, serving: Serving) -> None:
        """Raises FtlError: another daemon has the endpoint, or no keeper can be started."""
        self._serving = serving
        for _ in range(_ATTEMPTS):
            sock = self._connect()
            if sock is None:
                await self._start_keeper()
                continue
            try:
                await self._take_over(sock)
            except OtherVersionError as error:
                log.warning("%s", error.message)
                await self._end_keeper()
                continue
            except PathError:
                # It has ended just now.
                self._drop_link()
                continue
            except BaseException:
                self._drop_link()
                raise
            return
        raise FtlError(f"vfio-user endpoint {self._directory}: its keeper ends again and again: see the log")

    def _connect(self) -> socket.socket | None:
        path = self._directory / DAEMON_SOCKET
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except OSError as error:
            sock.close()
            raise FtlError(f"vfio-user socket {path}: {error.strerror}", errno=error.errno) from error
        peer = peer_of(sock)
        if peer is None or not Trust().includes(peer):
            sock.close()
            raise FtlError(f"vfio-user socket {path} belongs to {peer}: remove it, or give another directory")
        self.pid = peer.pid
        return sock

    async def _start_keeper(self) -> None:
        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", keeper.__name__, str(self._directory)], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=START_TIMEOUT_S, check=False,
                cwd="/", env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )  # fmt: skip

        try:
            done = await asyncio.to_thread(run)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FtlError(f"vfio-user endpoint {self._directory}: its keeper can't be started: {error}") from error
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            number = done.returncode if done.returncode > 0 else None
            raise FtlError(f"vfio-user endpoint {self._directory}: no keeper: {reason[0]}", errno=number)

    async def _take_over(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._link = Link(loop, sock, self._on_message, self._lost)
        self._link.send({"op": "serve", "cap": self._cap, "version": HAND_OVER_VERSION})
        try:
            async with time_limit(HAND_OVER_TIMEOUT_S):
                await self._ready
        except asyncio.TimeoutError as error:
            raise FtlError(
                f"vfio-user endpoint {self._directory}: its keeper (pid {self.pid}) does not answer: end it"
            ) from error
        finally:
            self._ready = None
            self._forget_client()

    async def _end_keeper(self) -> None:
        """One that we can't take over. Its client loses its controller."""
        assert self._link is not None
        self._ended.clear()
        self._link.send({"op": "end"})
        with contextlib.suppress(asyncio.TimeoutError):
            async with time_limit(END_TIMEOUT_S):
                await self._ended.wait()
        self._drop_link()

    async def close(self, *, keep: bool) -> None:
        """keep: the keeper goes on, for the next daemon. Idempotent."""
        if self._serving is not None:
            # Until now the keeper asks for nothing that is not done; from now on it does it by itself.
            await self._serving.close()
        if self._link is not None and not keep:
            await self._end_keeper()
        self._drop_link()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _lost(self, reason: str) -> None:
        self._link = None
        if not self._ended.is_set():
            # Its sockets are gone.
            self._ended.set()
            return
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(PathError(f"the keeper of {self._directory} has ended: {reason}"))
            return
        log.error("vfio-user endpoint %s: its keeper (pid %d) is gone: %s", self._directory, self.pid, reason)
        self._on_lost()

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- messages of the keeper -------------------------------------------------------------------------------------

    def _on_message(self, content: Content, descriptor: int) -> None:
        serving = self._serving
        assert serving is not None
        kept = False
        try:
            match content["op"]:
                case "client":
                    self._number = int(content["number"])
                    registers = Registers.from_record(content["registers"])
                    client = ClientState(self._number, descriptor, registers, note=dict(content["note"]))
                    kept = True
                    if self._ready is None:
                        serving.came(client, release=client.close)
                    else:
                        self._client = client
                case "map" if self._client is not None:
                    region = Region.from_record(content, descriptor)
                    self._client.regions[region.iova] = region
                    kept = True
                case "queue" if self._client is not None:
                    self._client.put_queue(Queue.from_record(content).with_record(descriptor))
                    kept = True
                case "ready" if self._ready is not None and not self._ready.done():
                    handed, self._client = self._client, None
                    if handed is not None:
                        serving.came(handed, release=handed.close)
                    self._ready.set_result(None)
                case "map":
                    region = Region.from_record(content, descriptor)
                    serving.map(int(content["ticket"]), region, release=lambda: os.close(descriptor))
                    kept = True
                case "unmap":
                    serving.unmap(int(content["ticket"]), Region.from_record(content, -1))
                case "step":
                    registers = Registers.from_record(content["registers"])
                    serving.step(int(content["ticket"]), Step(content["step"]), registers)
                case "gone":
                    serving.gone(int(content["ticket"]))
                case "log":
                    log.info("vfio-user endpoint %s: %s", self._directory, content["line"])
                case "busy" if self._ready is not None:
                    pid = int(content["pid"])
                    self._refuse(
                        BusyError(
                            f"vfio-user endpoint {self._directory} is served by another process, pid {pid}"
                            f"{command_of(pid)}: end that"
                        )
                    )
                case "other version" if self._ready is not None:
                    self._refuse(
                        OtherVersionError(
                            f"vfio-user endpoint {self._directory}: its keeper (pid {self.pid}) is of another version "
                            "of spdk-ftl-py: it is replaced, and its client has to attach again"
                        )
                    )
                case other:
                    raise ProtocolError(f"unexpected {other!r}")
        finally:
            if descriptor >= 0 and not kept:
                os.close(descriptor)

    def _refuse(self, error: FtlError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)

    # --- for the controller -----------------------------------------------------------------------------------------

    def _send(self, content: Content, descriptor: int = -1) -> None:
        if self._link is not None:
            self._link.send(content, descriptor)

    def done(self, ticket: int, error: int = 0) -> None:
        self._send({"op": "done", "ticket": ticket, "error": error})

    def keep(self, note: dict[str, Any], queues: Sequence[Queue], dropped: Sequence[int]) -> None:
        descriptors = [queue.descriptor for queue in queues if queue.sq_entries]
        assert len(descriptors) <= 1
        records = [queue.to_record() for queue in queues]
        content = {"op": "keep", "client": self._number, "note": note, "queues": records, "dropped": list(dropped)}
        self._send(content, *descriptors)

    def fail(self) -> None:
        self._send({"op": "fail", "client": self._number})

    def drop(self, reason: str) -> None:
        self._send({"op": "drop", "client": self._number, "reason": reason})
