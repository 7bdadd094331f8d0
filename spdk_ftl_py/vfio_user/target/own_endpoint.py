"""An endpoint in the process of its controller. When the process ends, the client has lost its controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...access.owned_socket import OwnedSocket
from .client_state import ClientState, Queue, Region
from .endpoint import Endpoint
from .keeper import CLIENT_BACKLOG, CLIENT_SOCKET
from .registers import Registers, Step
from .serving import Serving

log = logging.getLogger(__name__)


class OwnEndpoint:
    """A port for a controller, and a backend for the endpoint."""

    def __init__(self, directory: Path, cap: int) -> None:
        """Nothing is served before begin(). Raises FtlError if the directory is in use."""
        self._directory = directory
        self._cap = cap
        self._socket = OwnedSocket(
            directory / CLIENT_SOCKET, "vfio-user socket", "give the endpoint another directory", backlog=CLIENT_BACKLOG
        )
        self._endpoint: Endpoint | None = None
        self._serving: Serving | None = None

    def begin(self, serving: Serving) -> None:
        self._serving = serving
        self._endpoint = Endpoint(asyncio.get_running_loop(), self._socket.socket, lambda: self._cap, self._log)
        self._endpoint.set_backend(self)

    async def close(self, *, keep: bool) -> None:
        """keep: has no effect here. Idempotent."""
        if self._endpoint is not None:
            self._endpoint.close()
        if self._serving is not None:
            await self._serving.close()
        if self._endpoint is not None:
            self._endpoint.set_backend(None)
            self._endpoint = None
        self._socket.close()

    def _log(self, line: str) -> None:
        log.info("vfio-user endpoint %s: %s", self._directory, line)

    # --- for the controller -----------------------------------------------------------------------------------------

    def done(self, ticket: int, error: int = 0) -> None:
        if self._endpoint is not None:
            self._endpoint.done(ticket, error)

    def keep(self, note: dict[str, Any], queues: Sequence[Queue], dropped: Sequence[int]) -> None:
        """Does nothing: no other process takes over."""

    def fail(self) -> None:
        if self._endpoint is not None and self._endpoint.client is not None:
            self._endpoint.client.registers.fail()

    def drop(self, reason: str) -> None:
        if self._endpoint is not None:
            self._endpoint.drop(reason)

    # --- for the endpoint -------------------------------------------------------------------------------------------

    @property
    def _served(self) -> Serving:
        assert self._serving is not None
        return self._serving

    def came(self, client: ClientState) -> None:
        self._served.came(client)

    def map(self, ticket: int, region: Region) -> None:
        self._served.map(ticket, region)

    def unmap(self, ticket: int, region: Region) -> None:
        self._served.unmap(ticket, region)

    def step(self, ticket: int, step: Step, client: ClientState) -> None:
        self._served.step(ticket, step, Registers.from_record(client.registers.to_record()))

    def gone(self, ticket: int, client: ClientState) -> None:
        self._served.gone(ticket)
