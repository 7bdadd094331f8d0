"""The NVM subsystems of a target: namespaces, hosts that may connect, listeners, and connected controllers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol
from uuid import UUID, uuid4

from ... import _shim
from ...errors import ExistsError, NotFoundError, ParameterError
from ...runtime.reactor import ReactorLoop
from ...runtime.waiting import until
from .. import wire
from ..auth.key import HostKeys
from ..auth.psk import PskSource
from ..logs import Smart
from ..nqn import check_nqn
from ..tcp import parse_port
from ..tls import require_tls
from ..wire import AnaState
from .allowed_hosts import AllowedHost, AllowedHosts
from .connected_hosts import ConnectedHosts, HostKey
from .events import AsyncEvents
from .namespace import Namespace
from .reservations import ReservationCommands, Reservations, ReservedQueues

SERIAL_BYTES_MAX = 20
MODEL_BYTES_MAX = 40
NAMESPACES_MAX = 1024
CONTROLLERS_MAX = 256
"""Controllers in each subsystem, of hosts that are authenticated or need not be; beyond that, Connect answers
"busy"."""
GIVE_BACK_S = 1.0
"""How long the removal of a namespace waits for I/O that has begun."""
GIVE_BACK_INTERVAL_S = 0.005
NOT_ALLOWED_NOW = "it may no longer connect"


class ConnectedQueues(ReservedQueues, Protocol):
    """The I/O queues of a controller."""

    @property
    def qpairs(self) -> Mapping[int, object]:
        """By queue id."""

    def reactor_of(self, qid: int) -> ReactorLoop:
        """Which serves that queue."""

    def serve_anew(self) -> None:
        """Called when the device that serves their I/O has changed."""

    def give_back_removed(self) -> bool:
        """Lets go of the devices of removed namespaces. False: I/O that has begun uses one still."""


class ConnectedController(Protocol):
    """What a subsystem, and RPCs that list its hosts, need of a controller."""

    @property
    def cntlid(self) -> int: ...
    @property
    def hostnqn(self) -> str: ...
    @property
    def hostid(self) -> bytes: ...
    @property
    def host(self) -> HostKey: ...
    @property
    def address(self) -> str:
        """Identifies the peer."""

    @property
    def listener(self) -> tuple[str, int]:
        """The listener's address."""

    @property
    def authenticated(self) -> bool:
        """The host is authenticated, or need not be."""

    @property
    def io_queues(self) -> ConnectedQueues: ...
    @property
    def events(self) -> AsyncEvents: ...
    @property
    def shut_down(self) -> bool:
        """The host has shut down in order, and has not enabled the controller again."""

    def describe(self) -> dict[str, Any]:
        """Its identity, the time of its Connect, and its I/O."""

    def namespace_changed(self, nsid: int, namespace: Namespace | None) -> None:
        """Called after the change."""

    def ana_changed(self) -> None:
        """Called after the change of a state at its listener."""

    async def close(self, reason: str = ...) -> None:
        """Idempotent; returns when its queues are gone."""

    async def renew(self) -> None:
        """Its host gets new queues: it is disconnected, and connects again, or does not notice. Returns when the old
        ones are gone."""


class Subsystem:
    """Make it first, then pass it to NvmfTarget.add_subsystem(). Changes reach connected hosts at once."""

    def __init__(
        self,
        nqn: str,
        *,
        serial_number: str = "SPDKFTL0000000000001",
        model_number: str = "spdk-ftl-py controller",
        allow_any_host: bool = False,
        allowed: AllowedHosts | None = None,
        max_namespaces: int = 32,
        min_cntlid: int = 1,
        max_cntlid: int = wire.CNTLID_MAX,
        max_io_qpairs: int | None = None,
        ana: bool = False,
    ) -> None:
        """max_io_qpairs: of all its controllers together; None: no limit. allowed: the list of hosts, which the caller
        may share; None: a new, empty one, with allow_any_host. ana: reports ANA, so listeners have states. Raises
        ParameterError."""
        self.nqn = check_nqn(nqn, "subsystem NQN")
        for what, text, limit in (
            ("serial number", serial_number, SERIAL_BYTES_MAX),
            ("model number", model_number, MODEL_BYTES_MAX),
        ):
            if len(text) > limit or not text.isascii() or not text.isprintable():
                raise ParameterError(f"{nqn}: {what} {text!r} must be at most {limit} printable ASCII characters")
        if not 1 <= min_cntlid <= max_cntlid <= wire.CNTLID_MAX:
            raise ParameterError(f"{nqn}: controller ids {min_cntlid}..{max_cntlid} must lie in 1..{wire.CNTLID_MAX}")
        if not 1 <= max_namespaces <= NAMESPACES_MAX:
            raise ParameterError(f"{nqn}: max_namespaces {max_namespaces} must lie in 1..{NAMESPACES_MAX}")
        if max_io_qpairs is not None and max_io_qpairs < 1:
            raise ParameterError(f"{nqn}: max_io_qpairs {max_io_qpairs} must be at least 1")
        self.serial_number = serial_number
        self.model_number = model_number
        self.allowed = allowed if allowed is not None else AllowedHosts(allow_any_host=allow_any_host)
        self.allowed.on_change = self._discovery_changed
        self.max_namespaces = max_namespaces
        self.min_cntlid = min_cntlid
        self.max_cntlid = max_cntlid
        self.max_io_qpairs = max_io_qpairs
        self.ana = ana
        self._ana_states: dict[tuple[str, int], dict[int, AnaState]] = {}
        """By listener and ANA group; those that are missing are optimized."""
        self.listeners: set[tuple[str, int]] = set()
        self.secure_listeners: set[tuple[str, int]] = set()
        """Listeners at which only the SPDK target itself may connect without TLS."""
        self.namespaces: dict[int, Namespace] = {}
        self.controllers: dict[int, ConnectedController] = {}
        self.on_discovery_change: Callable[[], None] | None = None
        """Set by the target that it belongs to."""
        self.discovery_watchers: list[Callable[[], object]] = []
        """Of discovery services besides its target's."""
        self.connected_hosts: ConnectedHosts | None = None
        """Kept up to date if there is one."""
        self.stand_in: Callable[[HostKey, ReactorLoop], _shim.BlockDevice | None] = lambda host, reactor: None
        """The device that serves the I/O of a host now, instead of the device of each namespace."""
        self.smart: Callable[[], Smart] = Smart
        """The health of what is behind it."""
        self.hides_fused: Callable[[str], bool] = lambda hostnqn: False
        """Whether that host is not told of fused commands."""
        self._warnings = 0
        self._last_cntlid = min_cntlid - 1
        self.reservation_commands = ReservationCommands(self.namespaces, self.controllers.values)

    # --- namespaces -------------------------------------------------------------------------------------------------

    def add_namespace(
        self,
        device: _shim.BlockDevice,
        *,
        nsid: int | None = None,
        uuid: UUID | None = None,
        nguid: bytes | None = None,
        eui64: bytes | None = None,
        reservations: Reservations | None = None,
        ana_group: int | None = None,
        elsewhere: Mapping[ReactorLoop, _shim.BlockDevice] | None = None,
    ) -> int:
        """Returns the NSID (the lowest free one if None). The UUID defaults to a random one, the NGUID to the UUID.
        reservations: which the caller may share; None: new ones, which end with the namespace. ana_group: None: its
        NSID. elsewhere: the same device on further reactors of the target.

        Raises ExistsError if the NSID is in use, ParameterError for impossible identifiers or devices.
        """
        if nsid is None:
            nsid = next((free for free in range(1, self.max_namespaces + 1) if free not in self.namespaces), None)
            if nsid is None:
                raise ParameterError(f"{self.nqn}: all {self.max_namespaces} namespaces are in use")
        if not 1 <= nsid <= self.max_namespaces:
            raise ParameterError(f"{self.nqn}: namespace {nsid} must lie in 1..{self.max_namespaces}")
        if nsid in self.namespaces:
            raise ExistsError(f"{self.nqn}: namespace {nsid} exists already")
        if uuid is None:
            uuid = UUID(bytes=nguid) if nguid is not None and len(nguid) == 16 and any(nguid) else uuid4()
        nguid = uuid.bytes if nguid is None else nguid
        eui64 = b"" if eui64 is None else eui64
        if len(nguid) != 16 or len(eui64) not in (0, 8):
            raise ParameterError(f"{self.nqn}: namespace {nsid} needs an NGUID of 16 bytes and an EUI64 of 8 bytes")
        group = (ana_group or nsid) if self.ana else 0
        namespace = Namespace(nsid, device, uuid, nguid, eui64, reservations, group, elsewhere)
        self.namespaces[nsid] = namespace
        for controller in self.controllers.values():
            controller.namespace_changed(nsid, namespace)
        return nsid

    def remove_namespace(self, nsid: int) -> None:
        """I/O that has begun still completes; new I/O fails. Raises NotFoundError."""
        if self.namespaces.pop(nsid, None) is None:
            raise NotFoundError(f"{self.nqn}: there is no namespace {nsid}")
        for controller in self.controllers.values():
            controller.namespace_changed(nsid, None)

    async def devices_given_back(self) -> bool:
        """Returns when no I/O of a host uses the device of a removed namespace any more; False if some still does after
        GIVE_BACK_S."""

        def given_back() -> bool:
            in_use = [each for each in self.controllers.values() if not each.io_queues.give_back_removed()]
            return not in_use

        return await until(given_back, timeout_s=GIVE_BACK_S, poll_s=GIVE_BACK_INTERVAL_S)

    def namespace_resized(self, nsid: int) -> None:
        """Its device may have another size now: Identify reports it, and hosts that did not disable that event are
        notified. Raises NotFoundError."""
        namespace = self.namespaces.get(nsid)
        if namespace is None:
            raise NotFoundError(f"{self.nqn}: there is no namespace {nsid}")
        if namespace.measure():
            for controller in self.controllers.values():
                controller.events.namespace_resized(nsid)

    def zones_changed(self, nsid: int, zones: Collection[int] | None) -> None:
        """The drive itself has changed the state or attributes of these zones (their numbers); None: possibly any zone.
        Hosts that enabled that event are notified. Not for changes that a host ordered."""
        namespace = self.namespaces.get(nsid)
        if namespace is None or namespace.csi != wire.CSI_ZNS:
            return
        starts = None if zones is None else [zone * namespace.traits.zone_size for zone in zones]
        for controller in self.controllers.values():
            controller.events.zones_changed(nsid, starts)

    def check_health(self) -> None:
        """Tells hosts that want to know it which bits of the critical warning have been set since the last call."""
        before, self._warnings = self._warnings, self.smart().warnings
        if self._warnings & ~before:
            for controller in self.controllers.values():
                controller.events.warned(self._warnings & ~before)

    @property
    def zoned(self) -> bool:
        return any(namespace.csi == wire.CSI_ZNS for namespace in self.namespaces.values())

    # --- hosts and listeners ----------------------------------------------------------------------------------------

    def admit(self, hostnqn: str) -> AllowedHost | None:
        """None: it may not connect."""
        return self.allowed.admit(hostnqn)

    def host_allowed(self, hostnqn: str) -> bool:
        return self.admit(hostnqn) is not None

    @property
    def allow_any_host(self) -> bool:
        return self.allowed.allow_any_host

    @allow_any_host.setter
    def allow_any_host(self, allow: bool) -> None:
        self.allowed.allow_any_host = allow

    def keys_of(self, hostnqn: str) -> HostKeys | None:
        """The keys with which that host must authenticate, on every queue. None: it need not."""
        host = self.admit(hostnqn)
        return None if host is None else host.keys

    def add_host(self, nqn: str, keys: HostKeys | None = None, psk: PskSource | None = None) -> None:
        """Raises what AllowedHosts.add() raises."""
        self.allowed.add(AllowedHost(nqn, keys=keys, psk=psk))

    async def remove_host(self, nqn: str) -> None:
        """Disconnects its controllers, unless any host is allowed. Raises NotFoundError."""
        self.allowed.remove(nqn)
        if not self.allow_any_host:
            await self.disconnect(lambda controller: controller.hostnqn == nqn, NOT_ALLOWED_NOW)

    def add_listener(self, traddr: str, trsvcid: int | str, *, secure_channel: bool = False) -> None:
        """An address that NvmfTarget.listen() listens on. Every listener accepts TLS from hosts that have a PSK;
        secure_channel: and nothing else, except from the SPDK target itself. Raises ExistsError, UnsupportedError."""
        if secure_channel:
            require_tls()
        address = (traddr, parse_port(trsvcid))
        if address in self.listeners:
            raise ExistsError(f"{self.nqn}: listener {traddr}:{trsvcid} exists already")
        self.listeners.add(address)
        if secure_channel:
            self.secure_listeners.add(address)
        self._discovery_changed()

    async def remove_listener(self, traddr: str, trsvcid: int | str) -> None:
        """Disconnects controllers that came through it. Raises NotFoundError."""
        address = (traddr, parse_port(trsvcid))
        if address not in self.listeners:
            raise NotFoundError(f"{self.nqn}: there is no listener {traddr}:{trsvcid}")
        self.listeners.remove(address)
        self.secure_listeners.discard(address)
        self._ana_states.pop(address, None)
        self._discovery_changed()
        await self.disconnect(lambda controller: controller.listener == address)

    def ana_state(self, traddr: str, trsvcid: int | str, group: int) -> AnaState:
        """Of the namespaces of that group through that listener."""
        states = self._ana_states.get((traddr, parse_port(trsvcid)), {})
        return states.get(group, AnaState.OPTIMIZED)

    def set_ana_state(self, traddr: str, trsvcid: int | str, state: AnaState, *, group: int | None = None) -> None:
        """group: None: all. When it returns, no new I/O through an inaccessible listener reaches a device, and hosts
        are told. Raises NotFoundError, and ParameterError without ANA."""
        address = (traddr, parse_port(trsvcid))
        if address not in self.listeners:
            raise NotFoundError(f"{self.nqn}: there is no listener {traddr}:{trsvcid}")
        if not self.ana:
            raise ParameterError(f"{self.nqn} does not report ANA, so its listeners have no states")
        groups = range(1, self.max_namespaces + 1) if group is None else (group,)
        before = self._ana_states.setdefault(address, {})
        if all(before.get(each, AnaState.OPTIMIZED) is state for each in groups):
            return
        before.update(dict.fromkeys(groups, state))
        for controller in self.controllers.values():
            if controller.listener == address:
                controller.ana_changed()

    def _discovery_changed(self) -> None:
        if self.on_discovery_change is not None:
            self.on_discovery_change()
        for watcher in list(self.discovery_watchers):
            watcher()

    # --- controllers ------------------------------------------------------------------------------------------------

    async def disconnect(
        self,
        which: Callable[[ConnectedController], bool] = lambda controller: True,
        reason: str = "disconnected by the target",
    ) -> None:
        """Ends those associations, all at once, and waits until their queues are gone."""
        ending = [controller.close(reason) for controller in self.controllers.values() if which(controller)]
        await asyncio.gather(*ending)
        if not self.controllers:
            await self.reservation_commands.close()

    async def renew_queues(self) -> None:
        """Hosts get new queues, which know of flush alarms. No I/O of the old ones is outstanding then."""
        await asyncio.gather(*(controller.renew() for controller in list(self.controllers.values())))

    async def disconnect_disallowed(self) -> None:
        """Controllers of hosts that may no longer be connected."""
        await self.disconnect(lambda controller: not self.host_allowed(controller.hostnqn), NOT_ALLOWED_NOW)

    def stand_in_changed(self) -> None:
        """Existing queues are served by the current stand_in."""
        for controller in self.controllers.values():
            controller.io_queues.serve_anew()

    def left_in_order(self, controller: ConnectedController) -> None:
        """That controller has shut down: its host has left, unless it has another controller here."""
        if self.connected_hosts is None:
            return
        others = (
            each
            for each in self.controllers.values()
            if each is not controller and each.authenticated and not each.shut_down
        )
        if controller.host not in [each.host for each in others]:
            self.connected_hosts.left(controller.host)

    @property
    def io_qpair_count(self) -> int:
        return sum(len(controller.io_queues.qpairs) for controller in self.controllers.values())

    def allocate_cntlid(self) -> int | None:
        """A free controller id, the one that was unused for longest; None if there is none."""
        span = self.max_cntlid - self.min_cntlid + 1
        for step in range(1, min(span, len(self.controllers) + 1) + 1):
            cntlid = self.min_cntlid + (self._last_cntlid - self.min_cntlid + step) % span
            if cntlid not in self.controllers:
                self._last_cntlid = cntlid
                return cntlid
        return None
