"""A target's controller: the association of one host with a subsystem, from the Connect of the admin queue to its end.

It executes admin commands, and has the state of the association: properties, time-outs, and everything that ends it.
Parts that do not need this state are in io_queues, events, features, identify_commands and log_pages. Base 2.0 sections
3, 5, 6.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from enum import Enum, auto
from typing import Any
from uuid import UUID

from ...errors import FtlError, PathError, ProtocolError
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks, to_its_end
from ...text import show_name
from .. import wire
from ..auth.key import HostKeys
from ..identify import ControllerTraits
from ..logs import DiscoveryEntry
from ..wire import AdminOp, Cap, FabricsType, Feature, PduError, Property, Sqe, Status
from . import identify_commands
from .authentication import AuthenticationContext, QueueAuthentication, UnprovenHostError, is_authentication
from .capsule import CapsuleQueue, Command, Completion
from .connected_hosts import HostKey
from .events import AsyncEvents
from .features import Features
from .io_queues import IoQueues
from .log_pages import LogPages
from .namespace import Namespace
from .peers import PeerLimits, address_of
from .persistence_feature import PersistenceFeature
from .subsystem import Subsystem
from .traits import TargetLimits, controller_traits, has_volatile_cache, visible_namespaces

KEEP_ALIVE_GRANULARITY_MS = 100
ASSOCIATION_TIMEOUT_S = 120.0
"""How long a controller may stay disabled or shut down before its association ends."""
DISCOVERY_KATO_MS = 120_000
"""For discovery controllers whose host requested none, so that forgotten ones end."""
LATE_LOOP_S = 0.05
"""A timer that fires this much too late shows that this process was delayed, not that the host is silent."""
READY_TIMEOUT_S = 15.0

log = logging.getLogger(__name__)


class ControllerState(Enum):
    LIVE = auto()
    CLOSING = auto()
    CLOSED = auto()


class TargetController:
    """Runs in the task that serves its admin queue's connection; see run()."""

    def __init__(
        self,
        reactor: ReactorLoop,
        queue: CapsuleQueue,
        subsystem: Subsystem | None,
        limits: TargetLimits,
        *,
        cntlid: int,
        hostnqn: str,
        hostid: bytes,
        kato_ms: int,
        listener: tuple[str, int],
        task: asyncio.Task[None],
        authentication: AuthenticationContext,
        peers: PeerLimits,
        discovery_log: Callable[[TargetController], tuple[int, list[DiscoveryEntry]]],
        on_closed: Callable[[], object],
    ) -> None:
        """subsystem None: a discovery controller, which answers from discovery_log. task: the task that will call
        run()."""
        self.subsystem = subsystem
        self.subnqn = wire.DISCOVERY_NQN if subsystem is None else subsystem.nqn
        self.cntlid = cntlid
        self.hostnqn = hostnqn
        self.hostid = hostid
        self.listener = listener
        self.local_address = queue.connection.socket.getsockname()[0]
        self.peer = queue.connection.peer
        tls = queue.connection.tls
        self.tls_cipher = None if tls is None else tls.cipher
        """The TLS channel of its admin queue; None: no TLS. Its other queues must use the same, or are refused."""
        self.peer_address = queue.connection.peer_address
        self.address = address_of(self.peer_address[0])
        """Identifies the peer: see peers.py."""
        self.connected_since = datetime.now(timezone.utc)
        self.state = ControllerState.LIVE
        self.end_reason = ""
        self._queue = queue
        self._limits = limits
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._task = task
        self._connected_s = self._loop.time()
        self._background: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.events = AsyncEvents(
            queue.complete, self._spawn, may_send=lambda: self.ready, features=lambda: self._features,
            nsids=self.visible_namespaces,
        )  # fmt: skip
        zoned = subsystem is not None and subsystem.zoned
        css = Cap.CSS_NVM | Cap.CSS_IOCS if zoned else Cap.CSS_NVM
        timeout = int(READY_TIMEOUT_S / wire.CAP_TO_UNIT_S)
        self._cap = limits.max_queue_depth - 1 | timeout << wire.CAP_TO_SHIFT | Cap.CQR | css | Cap.CRWMS
        self._cc = 0
        self._csts = 0
        if subsystem is None and kato_ms == 0:
            kato_ms = DISCOVERY_KATO_MS
        self._peers = peers
        self._kato_ms = peers.kato_ms(kato_ms)
        total = None if subsystem is None else subsystem.max_io_qpairs
        of_host = peers.io_queues_of_host(peers.io_queues if total is None else total)
        self.io_queues = IoQueues(
            reactor, subsystem, host=self.host, listener=listener, most=min(limits.max_io_qpairs, of_host),
            namespaces=self.visible_namespaces, spawn=self._spawn, live=lambda: self.state is ControllerState.LIVE,
        )  # fmt: skip
        self._features = self._fresh_features()
        self._log_pages = LogPages(
            subsystem, self.events, listener=listener, max_io_bytes=limits.max_io_bytes,
            zoned=bool(self._cap & Cap.CSS_IOCS), traits=self._traits, namespaces=self.visible_namespaces,
            discovery_log=lambda: discovery_log(self),
        )  # fmt: skip
        self._persistence = PersistenceFeature(
            None if subsystem is None else subsystem.reservation_commands, self.visible_namespaces, queue.complete,
            self._spawn,
        )  # fmt: skip
        self._resets = 0
        self._authentication = QueueAuthentication(
            queue, authentication, self._host_keys, hostnqn=hostnqn, subnqn=self.subnqn,
            required=self._host_keys() is not None,
        )  # fmt: skip
        self._on_authenticated: Callable[[], object] = lambda: None
        self._authentication_timer: asyncio.TimerHandle | None = None
        self._keep_alive_restart()

    @property
    def authenticated(self) -> bool:
        """The host is authenticated, or need not be."""
        return self._authentication.done

    def await_proof(self, deadline: float, then: Callable[[], object]) -> None:
        """For a host that is not authenticated: it has until deadline, of the event loop's clock. then: called when it
        is authenticated; raises ProtocolError if it can't stay anyway."""
        self._on_authenticated = then
        self._authentication_timer = self._loop.call_at(
            deadline, self._end, f"it did not authenticate within {self._peers.handshake_s} s"
        )

    def _host_keys(self) -> HostKeys | None:
        return None if self.subsystem is None else self.subsystem.keys_of(self.hostnqn)

    @property
    def host(self) -> HostKey:
        return HostKey(self.hostnqn, self.hostid)

    def _fresh_features(self) -> Features:
        return Features(
            hostid=self.hostid,
            io_queues=self.io_queues.most,
            kato_ms=self._kato_ms,
            kato_granularity_ms=KEEP_ALIVE_GRANULARITY_MS,
            volatile_cache=lambda: has_volatile_cache(self.subsystem),
            discovery=self.subsystem is None,
            nsids=self.visible_namespaces,
            ana=self.subsystem is not None and self.subsystem.ana,
        )

    # --- life cycle -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the admin queue until the host leaves, violates the protocol or falls silent, or close() is called.

        Returns when every queue is closed and every task has ended. Cancelling it does the same and raises
        CancelledError.
        """
        try:
            while self.state is ControllerState.LIVE:
                await self._execute(await self._queue.receive())
        except PduError as error:
            self.end_reason = self.end_reason or error.message
            await self._queue.connection.terminate(error)
        except UnprovenHostError as error:
            self.end_reason = self.end_reason or error.message
            await self._queue.connection.finish()
        except (PathError, ProtocolError) as error:
            self.end_reason = self.end_reason or error.message
        finally:
            self.state = ControllerState.CLOSING
            self._cancel_timers()
            # A target that closes while the host leaves cancels this task once more.
            await to_its_end(self._clean_up())

    async def _clean_up(self) -> None:
        await self.io_queues.close()
        await end_tasks(self._background)
        self._queue.connection.close()
        self.state = ControllerState.CLOSED
        self._on_closed()

    def abandon(self) -> None:
        """Instead of run(), if the host disconnected before it had its answer."""
        self.state = ControllerState.CLOSED
        self._on_closed()
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._authentication_timer):
            if timer is not None:
                timer.cancel()

    async def close(self, reason: str = "disconnected by the target") -> None:
        """Idempotent; returns when run() has ended."""
        self._end(reason)
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def renew(self) -> None:
        """The host connects again by itself."""
        await self.close()

    def _end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        if self.state is ControllerState.LIVE:
            self.state = ControllerState.CLOSING
            self._task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(self._guard(work), name=f"controller {self.cntlid} of {self.subnqn}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FtlError as error:
            self._end(error.message)

    # --- keep alive -------------------------------------------------------------------------------------------------

    def _keep_alive_restart(self) -> None:
        """Only a Keep Alive command counts, because Python does not see I/O queues."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state is not ControllerState.LIVE:
            return
        kato_s = self._features.kato_ms / 1000
        if self._csts & wire.CSTS_SHST_MASK or (not self._cc & wire.CC_EN and not kato_s):
            kato_s = ASSOCIATION_TIMEOUT_S
        if kato_s:
            self._keep_alive_arm(kato_s + KEEP_ALIVE_GRANULARITY_MS / 1000)

    def _keep_alive_arm(self, delay_s: float) -> None:
        deadline = self._loop.time() + delay_s
        self._timer = self._loop.call_at(deadline, self._keep_alive_expired, deadline)

    def _keep_alive_expired(self, deadline: float) -> None:
        if self._loop.time() - deadline > LATE_LOOP_S:
            self._keep_alive_arm(KEEP_ALIVE_GRANULARITY_MS / 1000)
        else:
            self._end(f"host {show_name(self.hostnqn)} sent no Keep Alive for {self._features.kato_ms} ms")

    # --- what it is now ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self.state is ControllerState.LIVE and bool(self._csts & wire.CSTS_RDY)

    @property
    def accepts_io_queues(self) -> bool:
        """Enabled, not shutting down, and with the entry sizes of NVMe over Fabrics."""
        iosqes, iocqes = self._cc >> wire.CC_IOSQES_SHIFT & 0xF, self._cc >> wire.CC_IOCQES_SHIFT & 0xF
        return (
            self.ready
            and bool(self._cc & wire.CC_EN)
            and not self._csts & wire.CSTS_SHST_MASK
            and (iosqes, iocqes) == (wire.IOSQES, wire.IOCQES)
        )

    @property
    def life(self) -> int:
        """Changes when the controller is reset, because it has other I/O queues then."""
        return self._resets

    def reserve_io_queue(self, qid: int) -> None:
        """For a Connect that is being answered. From now on the host can't ask for another number of queues."""
        self.io_queues.reserve(qid)
        self._features.io_queues_created = True

    def describe(self) -> dict[str, Any]:
        """Its identity, the time of its Connect, and its I/O. Waits for the reactor, a moment for each I/O queue."""
        return {
            "cntlid": self.cntlid,
            "hostnqn": self.hostnqn,
            "hostid": str(UUID(bytes=self.hostid)),
            "traddr": self.peer_address[0],
            "trsvcid": str(self.peer_address[1]),
            "connected": self.connected_since.isoformat(timespec="seconds"),
            "age_s": round(self._loop.time() - self._connected_s, 1),
            "authentication": self._authentication.how or None if self.authenticated else "not yet",
            "tls": self.tls_cipher,
            **self.io_queues.describe(),
        }

    def visible_namespaces(self) -> Mapping[int, Namespace]:
        return visible_namespaces(self.subsystem, self._cc)

    # --- changes ----------------------------------------------------------------------------------------------------

    def namespace_changed(self, nsid: int, namespace: Namespace | None) -> None:
        """Called by the subsystem after the change."""
        self.io_queues.set_namespace(nsid, namespace if nsid in self.visible_namespaces() else None)
        self.events.zone_log_read(nsid)
        self.events.namespace_changed(nsid)

    def ana_changed(self) -> None:
        """Called after the change of a state at its listener."""
        for nsid in self.visible_namespaces():
            self.io_queues.bars_changed(nsid)
        self._log_pages.ana_changes += 1
        self.events.ana_changed()

    # --- commands ---------------------------------------------------------------------------------------------------

    async def _execute(self, command: Command) -> None:
        if not self.authenticated or is_authentication(command.sqe):
            await self._authentication.answer(command)
            if self.authenticated and self._authentication_timer is not None:
                self._authentication_timer.cancel()
                self._authentication_timer = None
                self._on_authenticated()
            return
        completion = command.early if command.early is not None else self._dispatch(command.sqe, command.data)
        if completion is not None:
            await self._queue.complete(command.sqe, completion)

    def _dispatch(self, sqe: Sqe, data: bytearray) -> Completion | None:
        """None: it will be completed later."""
        if sqe.opcode == AdminOp.FABRICS:
            return self._fabrics(sqe)
        if sqe.opcode == AdminOp.KEEP_ALIVE:
            self._keep_alive_restart()
            return Completion()
        if not self.ready:
            return Completion(Status.COMMAND_SEQUENCE_ERROR)
        match sqe.opcode:
            case AdminOp.IDENTIFY:
                return identify_commands.answer(sqe, self._traits(), self.visible_namespaces())
            case AdminOp.GET_LOG_PAGE:
                return self._log_pages.get(sqe)
            case AdminOp.GET_FEATURES:
                if sqe.cdw10 & 0xFF == Feature.RESERVATION_PERSISTENCE:
                    return self._persistence.get(sqe)
                return self._features.get(sqe)
            case AdminOp.SET_FEATURES if sqe.cdw10 & 0xFF == Feature.RESERVATION_PERSISTENCE:
                return self._persistence.set(sqe)
            case AdminOp.SET_FEATURES:
                completion = self._set_features(sqe, data)
                self._keep_alive_restart()
                return completion
            case AdminOp.ASYNC_EVENT_REQUEST:
                return self.events.request(sqe)
            case AdminOp.ABORT if self.subsystem is not None:
                return self.events.abort(sqe)
        return Completion(Status.INVALID_OPCODE)

    def _set_features(self, sqe: Sqe, data: bytearray) -> Completion:
        if sqe.cdw10 & 0xFF != Feature.KEEP_ALIVE_TIMER:
            return self._features.set(sqe, data)
        # For a discovery controller, 0 does not mean no timeout either.
        if not self._peers.kato_allowed(sqe.cdw11):
            return Completion(Status.KEEP_ALIVE_INVALID)
        return self._features.set(replace(sqe, cdw11=self._peers.kato_ms(sqe.cdw11)), data)

    def _fabrics(self, sqe: Sqe) -> Completion:
        match sqe.fctype:
            case FabricsType.PROPERTY_GET:
                return self._property_get(sqe)
            case FabricsType.PROPERTY_SET:
                return self._property_set(sqe)
            case FabricsType.CONNECT:
                return Completion(Status.COMMAND_SEQUENCE_ERROR)
        return Completion(Status.INVALID_OPCODE)

    # --- properties -------------------------------------------------------------------------------------------------

    def _property_get(self, sqe: Sqe) -> Completion:
        offset = sqe.cdw11
        values = {
            Property.CAP: self._cap,
            Property.VS: wire.VERSION_2_0,
            Property.CC: self._cc,
            Property.CSTS: self._csts,
            Property.NSSR: 0,
            Property.CRTO: int(READY_TIMEOUT_S / wire.CAP_TO_UNIT_S),
        }
        if offset not in values or bool(sqe.cdw10 & 7) != (offset in wire.PROPERTY_8_BYTES):
            return Completion(Status.INVALID_FIELD)
        return Completion(result=values[Property(offset)])

    def _property_set(self, sqe: Sqe) -> Completion:
        if sqe.cdw11 != Property.CC or sqe.cdw10 & 7:
            return Completion(Status.INVALID_FIELD)
        new, old = sqe.cdw12, self._cc
        css, shutdown = new >> wire.CC_CSS_SHIFT & 7, new >> wire.CC_SHN_SHIFT & 3
        css_allowed = (wire.CSS_NVM, wire.CSS_ALL) if self._cap & Cap.CSS_IOCS else (wire.CSS_NVM,)
        enabled = bool(new & wire.CC_EN)
        if (
            (enabled and css not in css_allowed)
            or new >> wire.CC_MPS_SHIFT & 0xF
            or new >> wire.CC_AMS_SHIFT & 7
            or shutdown > wire.SHN_ABRUPT
            or (enabled and old & wire.CC_EN and css != old >> wire.CC_CSS_SHIFT & 7)
        ):
            return Completion(Status.INVALID_FIELD)
        if enabled and not old & wire.CC_EN and not self._came_back():
            return Completion(Status.INTERNAL_ERROR, do_not_retry=False)
        self._cc = new
        if not enabled and old & wire.CC_EN:
            self._resets += 1
            self._spawn(self._reset())
        elif enabled and not old & wire.CC_EN and not self._csts & wire.CSTS_RDY:
            self._csts = wire.CSTS_RDY
            self._keep_alive_restart()
        if shutdown and not self._csts & wire.CSTS_SHST_MASK:
            self._csts |= wire.CSTS_SHST_OCCURRING
            self._keep_alive_restart()
            self._spawn(self._shut_down())
        return Completion()

    async def _reset(self) -> None:
        """CC.EN 1 to 0: CSTS.RDY falls when the I/O queues are gone, and everything is as it was after Connect."""
        await self.events.abandon()
        await self.io_queues.close()
        self.events.clear()
        self._features = self._fresh_features()
        self._csts = wire.CSTS_RDY if self._cc & wire.CC_EN else 0
        self._keep_alive_restart()

    async def _shut_down(self) -> None:
        await self.io_queues.close()
        if self.subsystem is not None:
            self.subsystem.left_in_order(self)
        self._csts = self._csts & ~wire.CSTS_SHST_MASK | wire.CSTS_SHST_COMPLETE

    def _came_back(self) -> bool:
        """Connect has added the host to the list, but it may have shut down in order since then. False: the list is
        full."""
        if self.subsystem is None or self.subsystem.connected_hosts is None:
            return True
        try:
            self.subsystem.connected_hosts.arrived(self.host)
        except FtlError as error:
            log.error("host %s can't enable its controller: %s", show_name(self.hostnqn), error.message)
            return False
        return True

    @property
    def shut_down(self) -> bool:
        """The host has shut down in order, and has not enabled the controller again."""
        return self._csts & wire.CSTS_SHST_MASK == wire.CSTS_SHST_COMPLETE

    # --- identify ---------------------------------------------------------------------------------------------------

    def _traits(self) -> ControllerTraits:
        return controller_traits(
            self.subsystem, self._limits, subnqn=self.subnqn, cntlid=self.cntlid, hostnqn=self.hostnqn,
            zoned=bool(self._cap & Cap.CSS_IOCS), keep_alive_granularity=KEEP_ALIVE_GRANULARITY_MS // 100,
        )  # fmt: skip
