"""An FTL's export over NVMe/TCP: its listeners, and its place in the discovery service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final
from uuid import UUID

from ..errors import BusyError, FtlError, PathError
from ..nvme.target.allowed_hosts import AllowedHosts
from ..nvme.target.connection_log import ConnectionLog
from ..nvme.target.discovery import Catalog
from ..nvme.target.listener import NvmfTarget
from ..nvme.target.peers import PeerLimits
from ..nvme.target.subsystem import Subsystem
from ..runtime.pulse import beat
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import end_tasks
from ..spdk.attach import ExportPath, by_tcp
from .base import DeferredError
from .export_sockets import ExportSockets
from .listeners import Listeners
from .transports import TransportName

LISTEN_AGAIN_S: Final = 5.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}

log = logging.getLogger(__name__)


class TcpExport:
    """A Transport, and the way for all other hosts. Without listen() there is no port, and the rest does nothing."""

    name = TransportName.TCP

    def __init__(
        self,
        name: str,
        reactor: Callable[[], ReactorLoop],
        device: UUID,
        nqn: str,
        connections: ConnectionLog,
        *,
        peers: PeerLimits | None,
        is_own: Callable[[str], bool],
        sockets: ExportSockets | None,
        catalog: Catalog | None,
        listeners: Listeners,
        hold_s: float,
    ) -> None:
        """As those of Front."""
        self._hold_s = hold_s
        self.address: tuple[str, int] | None = None
        """Of the first listener. None before listen()."""
        self.secure_channel = False
        """Hosts need TLS."""
        self._name = name
        self._reactor = reactor
        self._device = device
        self._nqn = nqn
        self._connections = connections
        self._peers = peers
        self._is_own = is_own
        self._sockets = sockets
        self._catalog = catalog
        self._listeners = listeners
        self._listening: set[tuple[str, int]] = set()
        """Of the listeners besides the first one."""
        self._closed = False
        self._retrying: asyncio.Task[None] | None = None
        self._nvmf: NvmfTarget | None = None
        self._subsystem: Subsystem | None = None
        self._announced: Subsystem | None = None
        """In the catalog until there is a subsystem."""

    async def listen(self, address: tuple[str, int], port_before: int) -> None:
        """Listens before the FTL is made, because making it erases the base: an address that is in use has to show
        before that. Hosts that connect are told to try again. Idempotent. port_before: the previous port, where hosts
        look for the FTL, so no other port will do. Raises PathError, or DeferredError for port_before."""
        if self.address is not None:
            return
        self._nvmf = NvmfTarget(self._reactor(), connections=self._connections, peers=self._peers, is_own=self._is_own)
        traddr, port = address[0], port_before or address[1]
        kept = None if self._sockets is None else self._sockets.at(self._device, traddr, port)
        try:
            self.address = (traddr, await self._nvmf.listen(traddr, port, listening=kept))
        except PathError as error:
            if not port_before:
                raise
            raise DeferredError(
                f"port {port_before} of {traddr}, where hosts look for this FTL, is not available ({error.message}): "
                f"end the program that uses it; or delete the FTL and load it with -u {self._device}, which gives it "
                "another port"
            ) from error
        if self._sockets is not None:
            self._sockets.keep(self._device, self._nvmf.listening(*self.address))
        await self._listen_to_more()

    def announce(self, allowed: AllowedHosts, *, secure_channel: bool) -> None:
        """The discovery service lists the export from now on, as it did with an earlier daemon: a host that finds it
        missing takes it for deleted. Until open(), hosts that connect are told to try again. After listen();
        idempotent. Raises UnsupportedError."""
        if self._catalog is None or self.address is None or self._announced is not None or self._subsystem is not None:
            return
        announced = Subsystem(self._nqn, allowed=allowed)
        for address in (self.address, *self._listening):
            announced.add_listener(*address, secure_channel=secure_channel)
        self._announced = announced
        self._catalog.add(announced)

    # --- as a Transport

    @property
    def path(self) -> ExportPath:
        assert self.address is not None
        traddr, port = self.address
        return by_tcp(_ANY_ADDRESS.get(traddr, traddr), str(port), self._nqn, hold_s=self._hold_s)

    @property
    def alive(self) -> bool:
        """The target notices when a connection is lost, and connects again."""
        return True

    async def open(self, subsystem: Subsystem, more_reactors: Sequence[ReactorLoop] = ()) -> None:
        """Admits hosts of the subsystem. more_reactors: for their queues, besides the FTL's own. Raises FtlError."""
        if self.address is None or self._subsystem is not None:
            return
        assert self._nvmf is not None
        self._nvmf.more_reactors = list(more_reactors)
        subsystem.add_listener(*self.address, secure_channel=self.secure_channel)
        self._nvmf.add_subsystem(subsystem)
        if self._catalog is not None:
            self._catalog.add(subsystem, instead_of=self._announced)
        self._announced, self._subsystem = None, subsystem
        for address in self._listening:
            self.show_listener(address)
        self.apply_ana_states()

    async def renew(self) -> None:
        """Nothing to do."""

    async def wait_changed(self, most_s: float) -> None:
        """`alive` does not change."""
        await beat(most_s)

    async def close(self, *, keep: bool) -> None:
        """keep changes nothing here: hosts connect again. Idempotent."""
        self._closed = True
        if self._retrying is not None:
            await end_tasks([self._retrying])
        listed, self._announced = self._subsystem or self._announced, None
        if self._catalog is not None and listed is not None:
            self._catalog.remove(listed)
        if self._nvmf is not None:
            await self._nvmf.close()

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""
        return {}

    # --- listeners besides the first one

    @property
    def listening(self) -> Collection[tuple[str, int]]:
        """The addresses of those that hosts can reach."""
        return self._listening

    async def listen_also(self, address: tuple[str, int]) -> tuple[str, int]:
        """The address with its port. Nobody can connect before show_listener(). Raises PathError, ParameterError, and
        BusyError if the export has ended meanwhile."""
        assert self._nvmf is not None
        address = address[0], await self._nvmf.listen(*address)
        if self._closed:
            # close() has not seen this listener, and nobody else would end it.
            await self._nvmf.unlisten(*address)
            raise BusyError(f"{self._name}: its export has ended: nothing was changed")
        self._listening.add(address)
        return address

    def show_listener(self, address: tuple[str, int]) -> None:
        """Admits hosts at that address, and lists it."""
        if self._subsystem is not None:
            self._subsystem.add_listener(*address, secure_channel=self.secure_channel)
            self.apply_ana_states()

    async def unlisten(self, address: tuple[str, int]) -> None:
        """Disconnects hosts that came through it. Idempotent."""
        if address not in self._listening:
            return
        self._listening.remove(address)
        assert self._nvmf is not None
        if self._subsystem is not None and address in self._subsystem.listeners:
            await self._subsystem.remove_listener(*address)
        await self._nvmf.unlisten(*address)

    def apply_ana_states(self) -> None:
        """Connected hosts are told of what has changed."""
        if self._subsystem is None or self.address is None:
            return
        self._subsystem.set_ana_state(*self.address, self._listeners.first)
        for address, state in self._listeners.more.items():
            if address in self._listening:
                self._subsystem.set_ana_state(*address, state)

    async def _listen_to_more(self) -> None:
        """An address that is missing now, for example that of an interface that is down, must not keep the FTL from
        hosts of the others: it is tried again until it is there."""
        for address in list(self._listeners.more):
            try:
                await self.listen_also(address)
            except FtlError as error:
                log.error("%s: %s; the daemon keeps trying", self._name, error.message)
        if self._listening != set(self._listeners.more):
            self._retrying = asyncio.create_task(self._retry(), name=f"listeners of {self._name}")

    async def _retry(self) -> None:
        while missing := [each for each in self._listeners.more if each not in self._listening]:
            await asyncio.sleep(LISTEN_AGAIN_S)
            for address in missing:
                with contextlib.suppress(FtlError):
                    await self.listen_also(address)
                if address not in self._listening:
                    continue
                if address not in self._listeners.more:
                    # Removed meanwhile.
                    await self.unlisten(address)
                    continue
                self.show_listener(address)
                log.info("%s: hosts can connect at %s port %d again", self._name, *address)
