"""The connection to an FTL's base and cache bdev: their exports in the target, and the controllers connected to them.
After a loss both are made again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

from .. import _shim
from ..errors import (
    AuthenticationError,
    ClaimedError,
    FtlError,
    MediaError,
    MemoryShortError,
    NotFoundError,
    PathError,
    ProtocolError,
    TargetError,
    UnsupportedError,
)
from ..ftl.cache.nv_cache import NvCache
from ..ftl.media.blockdev import BlockPort
from ..nvme.auth.response import Policy
from ..nvme.host.base_controller import BaseController
from ..nvme.host.controller import Controller
from ..nvme.host.events import AsyncEvent
from ..nvme.host.namespaces import NamespaceInfo
from ..nvme.target.discovery import Catalog
from ..nvme.target.peers import PeerLimits
from ..nvme.wire import NSID_ALL, CommandError
from ..runtime.reactor import ReactorLoop
from ..runtime.reactors import Reactors
from ..runtime.steps import Steps
from ..runtime.tasks import end_tasks, to_its_end
from ..spdk.bdevs import Bdev, find_bdev
from ..spdk.claims import require_unclaimed
from ..spdk.exports import (
    BdevExport,
    TransportMissingError,
    bdev_nqn,
    export_bdev,
    remove_export,
    require_tcp_transport,
    stands_by_tcp,
)
from ..spdk.rpc import TargetRpc
from ..spdk.shared_export import EndpointRefusedError, offers_vfio_user, remove_endpoint, usable
from ..vfio_user.host.controller import VfioUserController
from .base_endpoints import base_endpoint
from .checks import check_base, check_cache_is_nobodys, find_cache
from .export_sockets import ExportSockets
from .load_turns import LoadTurns
from .own_bdevs import OwnBdevs
from .probing import Prober
from .requests import FtlOptions
from .session_keys import POLICY, SessionKeys, psk_path
from .transports import TransportName

log = logging.getLogger(__name__)

QUEUE_DEPTH: Final = 128
IO_TIMEOUT_S: Final = 60.0
"""Timeout for a drive that hangs in a target that does not. The base then counts as lost."""

PASSING: Final = (
    *(TargetError, PathError, ProtocolError, CommandError, AuthenticationError, MediaError, ClaimedError, OSError),
    MemoryShortError,
)
"""Errors that may pass by themselves: a target that starts, stops or stalls, memory that others have. Any other error
needs somebody to act."""


class DeferredError(FtlError):
    """The FTL has to wait, but nobody has to act: the base bdev does not exist yet, or the target does not run."""


class AwayError(DeferredError):
    """The target has no bdev under the base's name, or somebody else has claimed it."""


class UnfitError(DeferredError):
    """The bdev under the base's name is not the base, or has changed."""


class CacheAwayError(DeferredError):
    """The target has no bdev under the nv cache's name, or somebody else has claimed it."""


class CacheUnfitError(CacheAwayError):
    """The bdev under the cache's name is not the cache."""


class ZonesCallback(Protocol):
    """The signature of FtlDevice.zones_changed()."""

    def __call__(self, zones: list[int] | None, *, log_read: bool) -> None: ...


@dataclass(frozen=True)
class DaemonIdentity:
    """What the devices need to know about the daemon."""

    hostnqn: str
    host_id: UUID
    listen: str
    """The default address of exports: ADDRESS[:PORT]."""
    peer_timeout_s: float = 120.0
    """How long host I/O is held after a base was lost; then it fails until the base is back."""
    buffer_dir: Path | None = None
    """The directory of write buffers, which outlive the daemon."""
    key_dir: Path | None = None
    """The directory of keys that daemon and targets share; None: they identify each other by NQN alone."""
    peers: PeerLimits | None = None
    """Limits on what one host may use of each FTL."""
    target_user: int | None = None
    """A user who may serve the RPC socket of a target, besides the user who runs the daemon and root."""
    sockets: ExportSockets | None = None
    """Sockets of exports that are kept between daemons."""
    nqn_template: str | None = None
    """The NQN template of exports, as export_nqn() takes it."""
    reservation_dir: Path | None = None
    """The directory of reservations that outlive the daemon; None: there are none."""
    catalog: Catalog | None = None
    """The exports of all FTLs, for the discovery service; None: there is no such service."""
    discovery: str | None = None
    """The address of the discovery service: ADDRESS:PORT."""
    transport: TransportName = TransportName.TCP
    """How targets reach FTLs for which nothing else is asked."""
    endpoint_dir: Path | None = None
    """The directory of vfio-user endpoints, which outlive the daemon; None: there is no vfio-user."""
    listens: bool = False
    """Every FTL is exported over NVMe/TCP, also if its target uses vfio-user."""
    reactors: Reactors = field(default_factory=Reactors)
    """The threads that do the I/O of all FTLs."""
    halt_timeout_s: float = 600.0
    """How long a halt of the daemon may take."""
    loads: LoadTurns = field(default_factory=LoadTurns)
    """Which FTLs are loaded at the same time."""
    l2p_dir: Path | None = None
    """The directory of L2P pages that are not in memory."""

    @functools.cached_property
    def prober(self) -> Prober:
        """One for all FTLs."""
        return Prober(self.host_id)

    @functools.cached_property
    def own_bdevs(self) -> OwnBdevs:
        """One for all FTLs."""
        return OwnBdevs()

    def rpc(self, target: str) -> TargetRpc:
        return TargetRpc(target, user=self.target_user)


class BaseLink:
    """Call claim() and connect(), then disconnect() and, when the FTL is deleted, unclaim(). After disconnect(),
    claim() and connect() may be called again: they take over what is still in the target."""

    def __init__(
        self, rpc: TargetRpc, options: Callable[[], FtlOptions], device: UUID, identity: DaemonIdentity
    ) -> None:
        """options: as the device has them now."""
        self.bdev: Bdev | None = None
        """The base."""
        self.cache: Bdev | None = None
        self._rpc = rpc
        self._options = options
        self._device = device
        self._identity = identity
        self._claims = Steps(options().name)
        self._connections = Steps(options().name)
        self.raw: _shim.BlockDevice | None = None
        """The whole base bdev, without emulated zones, while it is connected."""
        self._exported: BdevExport | None = None
        self._cache_exported: BdevExport | None = None
        self._cache_stands = False
        """The target may hold a claim on a cache."""
        self._controller: BaseController | None = None
        self._refused = False
        """The target could not serve the bdevs in shared memory."""
        psk = psk_path(options().target_psk)
        self._keys = {role: SessionKeys(rpc, identity.key_dir, device, role, psk) for role in ("base", "cache")}
        self._changed = asyncio.Event()
        self._on_zones: ZonesCallback | None = None
        self._zones_missed = False

    @property
    def base_name(self) -> str:
        return self._options().base_bdev

    def names_of(self, role: str) -> list[str]:
        """The names of the base or cache bdev (role: "base" or "cache") in the target, as far as they are known."""
        bdev = self.bdev if role == "base" else self.cache
        return [] if bdev is None else sorted(bdev.names)

    # --- objects in the target

    async def claim(self, *, again: bool = False) -> None:
        """Finds and claims base and cache. Raises DeferredError, with nothing changed, if the base does not exist, and
        other errors if base or cache can't be used.

        again: the FTL had both before. Then the call also waits for the transport, and takes over what is still in the
        target. A missing cache is left to the load, because the FTL may have given it up.
        """
        ours = {role: self._nqn(role) if again else None for role in ("base", "cache")}
        try:
            if not await self._by_vfio_user():
                await require_tcp_transport(self._rpc)
            base = await find_bdev(self._rpc, self.base_name)
            if base is not None:
                await self._check_base(base, ours["base"])
            cache = await self._find_cache(base, again)
        except TransportMissingError as error:
            if again:
                raise DeferredError(error.message) from error
            raise
        if cache is not None:
            await self._check_cache(cache, ours["cache"])
        if base is None:
            raise AwayError(f"base bdev {self.base_name} does not exist yet")
        self.bdev, self.cache = base, cache
        self._exported = await self._export(base, "base", again)
        self._cache_exported = None if cache is None else await self._export(cache, "cache", again)
        if self._options().cache is None:
            await self._release_cache()

    async def _release_cache(self) -> None:
        """Releases the cache that the FTL had before. What can't be undone now is undone at the end."""
        if self._cache_stands:
            try:
                await remove_export(self._rpc, self._nqn("cache"), self._endpoint("cache"))
                await self._keys["cache"].drop()
            except FtlError as error:
                log.warning("%s: can't release its cache bdev yet: %s", self._options().name, error.message)
            else:
                self._cache_stands = False

    async def require_unclaimed(self, bdev: Bdev, role: str) -> None:
        """Raises ParameterError if bdev is an FTL of this daemon, or is built on one, and ClaimedError if somebody else
        has claimed it."""
        await self._identity.own_bdevs.require_other(self._rpc, bdev, role)
        await require_unclaimed(self._rpc, bdev, f"{role} bdev", but_by=self._nqn(role))

    async def scrub_cache(self, reactor: ReactorLoop, cache: Bdev, *, force: bool) -> None:
        """Claims a bdev that is to become the cache, and scrubs it. Raises ExistsError if it holds somebody's data, and
        FtlError; then the bdev is released."""
        try:
            exported = await self._export(cache, "cache", True)
            controller = await self._reach(exported, "cache", what="new cache")
            namespace = _namespace(await controller.namespaces(), exported)
            device = await controller.create_io_qpair(
                reactor, namespace, queue_depth=QUEUE_DEPTH, io_timeout_s=IO_TIMEOUT_S
            )
            try:
                if not force:
                    await check_cache_is_nobodys(reactor, device, cache.name, self._device)
                port = BlockPort(reactor, device, name=f"cache bdev {cache.name}")
                try:
                    await NvCache.create(port, self._device)
                finally:
                    await port.close()
            finally:
                await controller.close()
        except BaseException:
            await to_its_end(self._release_cache())
            raise

    async def _check_base(self, base: Bdev, ours: str | None) -> None:
        """ours: the NQN of the export that may have claimed the base already; None: the base is claimed for the first
        time."""
        if ours is None:
            await self._identity.own_bdevs.require_other(self._rpc, base, "base")
        try:
            check_base(base, zone_capacity=self._options().zone_capacity)
        except FtlError as error:
            if ours is None:
                raise
            self.bdev = None
            raise UnfitError(error.message) from error
        try:
            await require_unclaimed(self._rpc, base, "base bdev", but_by=ours)
        except ClaimedError as error:
            if ours is None:
                raise
            raise AwayError(error.message) from error

    async def _check_cache(self, cache: Bdev, ours: str | None) -> None:
        if ours is None:
            await self._identity.own_bdevs.require_other(self._rpc, cache, "cache")
        try:
            await require_unclaimed(self._rpc, cache, "cache bdev", but_by=ours)
        except ClaimedError as error:
            if ours is None:
                raise
            raise CacheAwayError(error.message) from error

    async def _find_cache(self, base: Bdev | None, again: bool) -> Bdev | None:
        try:
            return await find_cache(self._rpc, self._options().cache, base, base_name=self.base_name)
        except NotFoundError:
            if again:
                return None
            raise

    async def _export(self, bdev: Bdev, role: str, again: bool) -> BdevExport:
        keys = self._keys[role]
        self._cache_stands = self._cache_stands or role == "cache"
        pair = await self._claims.run(f"keys for the {role}", keys.share(), keys.drop)
        export = functools.partial(
            export_bdev,
            self._rpc,
            self._claims,
            bdev,
            nqn=self._nqn(role),
            hostnqn=self._identity.hostnqn,
            keys=pair,
        )
        if await self._by_vfio_user() and not (again and await stands_by_tcp(self._rpc, self._nqn(role))):
            try:
                return await export(take_over=again, endpoint=self._endpoint(role))
            except EndpointRefusedError as error:
                log.warning("%s: reaches its %s bdev by NVMe/TCP: %s", self._options().name, role, error.message)
                self._refused = True
                await require_tcp_transport(self._rpc)
                again = True
        exported = await export(take_over=again)
        endpoint = self._endpoint(role)
        if endpoint is not None:
            with contextlib.suppress(OSError):
                remove_endpoint(endpoint)  # of an export that came to nothing
        return exported

    async def _by_vfio_user(self) -> bool:
        """Whether the target serves the bdevs in shared memory, if it may."""
        endpoint = self._endpoint("base")
        if endpoint is None or self._refused or self._options().target_psk is not None:
            return False
        if (self._options().transport or self._identity.transport) == "tcp":
            return False
        return usable(self._rpc, endpoint) and await offers_vfio_user(self._rpc)

    def _endpoint(self, role: str) -> Path | None:
        return base_endpoint(self._identity.buffer_dir, self._device, role)

    def _nqn(self, role: str) -> str:
        return bdev_nqn(role, self._device)

    def inherit(self) -> None:
        """An earlier daemon may have left claims in the target. unclaim() removes them in any case."""
        self._cache_stands = True
        for role in ("base", "cache"):
            nqn = self._nqn(role)
            self._claims.on_undo(f"keys for the {role}", self._keys[role].drop)
            remove = functools.partial(remove_export, self._rpc, nqn, self._endpoint(role))
            self._claims.on_undo(f"the export {nqn}", remove)

    @property
    def claimed(self) -> bool:
        """Whether unclaim() has something to do."""
        return self._claims.pending

    async def unclaim(self) -> list[tuple[str, Exception]]:
        """Removes the claims. Returns what could not be undone. Idempotent."""
        return await self._claims.undo()

    async def give_back(self) -> None:
        """Releases the claims on base and cache, which may be another FTL's. unclaim() repeats what could not be
        undone."""
        await self.disconnect()
        if await self.unclaim():
            self.inherit()

    # --- connections

    async def connect(self, reactor: ReactorLoop) -> _shim.BlockDevice:
        """The base bdev as a zoned BlockDevice. Raises PathError and the like."""
        assert self._exported is not None
        self._changed.clear()
        self._zones_missed = False
        self._controller = controller = await self._reach(self._exported, "base")
        controller.on_event = lambda event: self._base_event(None, event)
        namespace = _namespace(await controller.namespaces(), self._exported)
        controller.on_event = lambda event: self._base_event(namespace, event)
        try:
            media: _shim.BlockDevice = await controller.create_io_qpair(
                reactor, namespace, queue_depth=QUEUE_DEPTH, io_timeout_s=IO_TIMEOUT_S
            )
        except UnsupportedError as error:
            if self._exported.endpoint is None or self.bdev is None:
                raise
            log.info("%s: reaches its base bdev by NVMe/TCP: %s", self._options().name, error.message)
            self._refused = True
            await self.disconnect()
            self._exported = await self._export(self.bdev, "base", True)
            return await self.connect(reactor)
        self.raw = media
        capacity = self._options().zone_capacity
        if capacity is not None:
            # Only its content can tell whether the base is new.
            media = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=capacity, initial_state="full")
        return media

    def _base_event(self, namespace: NamespaceInfo | None, event: AsyncEvent) -> None:
        if not event.of_zones:
            self._changed.set()
            return
        if namespace is not None and (not namespace.zone_size or event.nsid not in (namespace.nsid, 0, NSID_ALL)):
            # A base bdev can't report anything about emulated zones.
            return
        zones = None if namespace is None else namespace.zones_at(event.changed_zones)
        if self._on_zones is None:
            self._zones_missed = True
        else:
            self._on_zones(zones, log_read=event.log_read)

    def watch_zones(self, callback: ZonesCallback | None) -> None:
        """From now on `callback` is called with the zones that the base reports as changed; None: nobody is called. If
        the base reported changes since connect() while nobody was listening, `callback` gets one call for all zones."""
        self._on_zones = callback
        if callback is not None and self._zones_missed:
            self._zones_missed = False
            callback(None, log_read=False)

    async def connect_cache(self, reactor: ReactorLoop) -> _shim.BlockDevice | None:
        """The cache bdev, or None if the FTL has none. Raises PathError and the like. If it is lost later, the FTL
        continues without it."""
        exported = self._cache_exported
        if exported is None:
            return None
        controller = await self._reach(exported, "cache")
        namespace = _namespace(await controller.namespaces(), exported)
        return await controller.create_io_qpair(reactor, namespace, queue_depth=QUEUE_DEPTH, io_timeout_s=IO_TIMEOUT_S)

    async def _reach(self, exported: BdevExport, role: str, *, what: str = "") -> BaseController:
        """what: a name for this connection, if there may be another one in the same role."""
        session = self._keys[role]
        keys = session.shared

        async def connect(policy: Policy | None) -> BaseController:
            if exported.endpoint is not None:
                return await VfioUserController.connect(exported.endpoint, subnqn=exported.nqn)
            return await Controller.connect(
                exported.traddr,
                exported.trsvcid,
                exported.nqn,
                hostnqn=self._identity.hostnqn,
                hostid=self._identity.host_id,
                keys=keys,
                policy=policy,
                psk=session.psk,
            )

        try:
            controller = await connect(POLICY)
        except AuthenticationError:
            if keys is None:
                raise
            # The target may have been configured not to accept any of these groups.
            controller = await connect(None)
        self._connections.on_undo(f"disconnect from the {what or role}", controller.close)
        return controller

    @property
    def zone_events(self) -> bool | None:
        """Whether the base reports changes of its zones by itself; None: not connected, or emulated zones."""
        if self.raw is None or self._controller is None or self._options().zone_capacity is not None:
            return None
        return self._controller.tells_of_zones

    @property
    def tls_cipher(self) -> str | None:
        """The TLS cipher of the connection to the base; None: no TLS, or not connected."""
        return None if self._controller is None else self._controller.tls_cipher

    async def disconnect(self) -> None:
        """Disconnects. Outstanding I/O fails. Idempotent."""
        self.raw = None
        await self._connections.undo()

    @property
    def lost_reason(self) -> str | None:
        """Why the connection to the base is lost; None: it is not lost."""
        if self._controller is None or not self._controller.lost.is_set():
            return None
        return (
            f"the daemon lost the connection to the SPDK target at {self._rpc.address} ({self._controller.lost_reason})"
        )

    async def wait_lost(self) -> str:
        """Waits until the base can't be reached any more. Returns the reason."""
        controller = self._controller
        assert controller is not None
        while True:
            await _first(controller.lost.wait, self._changed.wait)
            reason = self.lost_reason
            if reason is not None:
                return reason
            self._changed.clear()
            try:
                namespaces = await controller.namespaces()
            except FtlError:
                continue
            assert self._exported is not None
            if all(namespace.nsid != self._exported.nsid for namespace in namespaces):
                return f"it was deleted in the SPDK target at {self._rpc.address}"


async def _first(*waits: Callable[[], Coroutine[Any, Any, object]]) -> None:
    tasks = [asyncio.ensure_future(wait()) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)


def _namespace(namespaces: list[NamespaceInfo], exported: BdevExport) -> NamespaceInfo:
    for namespace in namespaces:
        if namespace.nsid == exported.nsid:
            return namespace
    raise MediaError(f"bdev {exported.bdev_name}: the target's export of it has no namespace {exported.nsid}")
