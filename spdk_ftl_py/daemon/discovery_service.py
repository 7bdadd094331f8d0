"""One discovery service for all FTLs of the daemon, on a port that hosts know."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Final

from ..errors import PathError
from ..nvme.target.discovery import Catalog
from ..nvme.target.listener import NvmfTarget
from ..nvme.target.peers import PeerLimits
from ..runtime.reactor import ReactorLoop
from ..runtime.service_manager import ServiceManager
from .checks import split_address
from .export_sockets import is_at

PORT: Final = 8009
"""IANA's for NVMe/TCP discovery."""
SOCKET: Final = "discovery"
"""The name of the kept socket."""

log = logging.getLogger(__name__)


class DiscoveryService:
    """start(), then close(). The catalog has what hosts are told; it may change meanwhile."""

    def __init__(
        self, address: str, catalog: Catalog, manager: ServiceManager, *, peers: PeerLimits | None = None
    ) -> None:
        """address: ADDRESS[:PORT]. manager: keeps the socket between daemons, if it can. Raises ParameterError."""
        self.host, port = split_address(address)
        self.port = port or PORT
        self._manager = manager
        # There are no I/O queues, so the reactor is never started.
        self._target = NvmfTarget(ReactorLoop("discovery"), peers=peers, catalog=catalog)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Raises PathError if the address can't be listened on."""
        kept = self._kept()
        try:
            await self._target.listen(self.host, self.port, listening=kept)
        except PathError as error:
            raise PathError(f"--discovery {self.address}: {error.message}", errno=error.errno) from error
        self._manager.keep(SOCKET, self._target.listening(self.host, self.port))
        log.info("discovery service at %s", self.address)

    def _kept(self) -> socket.socket | None:
        """The socket that an earlier daemon has had kept, if it is at this address."""
        found = None
        for sock in self._manager.take(SOCKET):
            if found is None and is_at(sock, self.host, self.port):
                found = sock
            else:
                sock.close()
        if found is None:
            self._manager.forget(SOCKET)
        return found

    async def close(self) -> None:
        """Idempotent. A service manager keeps the socket."""
        await self._target.close()


def give_up_socket(manager: ServiceManager) -> None:
    """For a daemon without a discovery service: an earlier one may have had one."""
    with contextlib.suppress(OSError):
        manager.forget(SOCKET)
