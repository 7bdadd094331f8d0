"""A target's controller: the association of one host with a subsystem, from the Connect of the admin queue to its end.

It executes admin commands. I/O queues belong to the shim; this class only keeps a list of them. Base 2.0 sections 3, 5,
6.

This file is long because one state, that of the association, has many users: properties, time-outs, queues, and
everything that ends them. Parts that do not need the state are in events, features and identify_commands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from enum import Enum, auto
from typing import Any
from uuid import UUID

from ... import _shim
from ...errors import FtlError, PathError, ProtocolError
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks, to_its_end
from ...text import show_name
from ...version import __version__
from .. import logs, wire
from ..auth.key import HostKeys
from ..identify import ControllerTraits
from ..logs import DiscoveryEntry
from ..wire import AdminOp, AnaState, Cap, FabricsType, Feature, LogPage, PduError, Property, Sqe, Status
from . import identify_commands
from .authentication import AuthenticationContext, QueueAuthentication, UnprovenHostError, is_authentication
from .capsule import CapsuleQueue, Command, Completion
from .connected_hosts import HostKey
from .events import AER_LIMIT, AsyncEvents
from .features import Features
from .namespace import Namespace
from .peers import PeerLimits, address_of
from .persistence_feature import PersistenceFeature
from .reservation_state import Notice
from .subsystem import Subsystem

KEEP_ALIVE_GRANULARITY_MS = 100
ASSOCIATION_TIMEOUT_S = 120.0
"""How long a controller may stay disabled or shut down before its association ends."""
DISCOVERY_KATO_MS = 120_000
"""For discovery controllers whose host requested none, so that forgotten ones end."""
LATE_LOOP_S = 0.05
"""A timer that fires this much too late shows that this process was delayed, not that the host is silent."""
READY_TIMEOUT_S = 15.0
FIRMWARE = __version__[:8]
"""What Identify has room for."""

log = logging.getLogger(__name__)


class ControllerState(Enum):
    LIVE = auto()
    CLOSING = auto()
    CLOSED = auto()


@dataclass
class IoCounts:
    """Counts of I/O queues. Blocks are of the namespace's size, bytes those of the connections."""

    commands: int = 0
    read_blocks: int = 0
    write_blocks: int = 0
    errors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, stats: dict[str, int]) -> None:
        """stats: of a TargetQpair; empty if it is not connected yet."""
        for name, value in stats.items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class TargetLimits:
    """The limits of each controller of a target."""

    max_io_bytes: int
    in_capsule_bytes: int
    max_queue_depth: int
    max_io_qpairs: int


async def close_target_qpair(reactor: ReactorLoop, qpair: _shim.TargetQpair) -> None:
    """Waits for the qpair's last I/O without blocking the event loop."""
    if reactor.shim.running:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, qpair.close))
    else:
        qpair.close()


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
        self.io_qpairs: dict[int, _shim.TargetQpair | None] = {}
        """By queue id; None while Connect is being answered."""
        self._reactor = reactor
        self._queue = queue
        self._limits = limits
        self._discovery_log = discovery_log
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._task = task
        self._connected_s = self._loop.time()
        self._closed_io = IoCounts()
        """Statistics of queues that have ended."""
        self._background: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._events = AsyncEvents(queue.complete, self._spawn, lambda: self.ready)
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
        self.io_queues = min(limits.max_io_qpairs, of_host)
        self._features = self._fresh_features()
        self._bars: dict[int, tuple[int, int]] = {}
        """Those of its queues, by NSID."""
        self._ana_changes = 0
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

    @property
    def flush_alarm(self) -> _shim.FlushAlarm | None:
        """For its I/O queues."""
        hosts = None if self.subsystem is None else self.subsystem.connected_hosts
        return None if hosts is None else hosts.alarm_of(self.host)

    def _fresh_features(self) -> Features:
        return Features(
            hostid=self.hostid,
            io_queues=self.io_queues,
            kato_ms=self._kato_ms,
            kato_granularity_ms=KEEP_ALIVE_GRANULARITY_MS,
            volatile_cache=self._volatile_cache,
            discovery=self.subsystem is None,
            nsids=self.visible_namespaces,
            ana=self.subsystem is not None and self.subsystem.ana,
        )

    def _volatile_cache(self) -> bool:
        return self.subsystem is not None and any(ns.device.volatile_cache for ns in self.subsystem.namespaces.values())

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
        await self._close_io_qpairs()
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

    # --- I/O queues -------------------------------------------------------------------------------------------------

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

    def reserve_io_qpair(self, qid: int) -> None:
        self.io_qpairs[qid] = None
        self._features.io_queues_created = True

    def release_io_qpair(self, qid: int) -> None:
        """Releases a reservation that was not used."""
        self.io_qpairs.pop(qid, None)

    def adopt_io_qpair(self, qid: int, qpair: _shim.TargetQpair) -> None:
        """The controller closes the queue from now on. Its namespaces must be the current io_namespaces(), and the
        controller must still accept I/O queues."""
        assert self.accepts_io_queues
        self.io_qpairs[qid] = qpair
        self._reactor.subscribe(qpair.id, lambda event: self._io_qpair_event(qid, qpair, event))

    def _io_qpair_event(self, qid: int, qpair: _shim.TargetQpair, event: _shim.Event) -> None:
        # While the controller closes, run() closes all of its queues, and nobody would wait for another task.
        overflow = event.kind == _shim.EventKind.OVERFLOW
        if (event.kind == _shim.EventKind.TARGET_QPAIR_COMMAND or overflow) and self.subsystem is not None:
            self.subsystem.reservation_commands.post(self.host, qpair)
        closed = event.kind == _shim.EventKind.TARGET_QPAIR_CLOSED or (overflow and not qpair.connected)
        if closed and self.state is ControllerState.LIVE and self.io_qpairs.get(qid) is qpair:
            self._spawn(self._close_io_qpair(qid, qpair))

    async def _close_io_qpair(self, qid: int, qpair: _shim.TargetQpair) -> None:
        # The queue id becomes free only when its last command has ended: a host that reconnects must not overtake it.
        if self.subsystem is not None:
            await self.subsystem.reservation_commands.leave(self.host, qpair)
        await close_target_qpair(self._reactor, qpair)
        self._reactor.unsubscribe(qpair.id)
        if self.io_qpairs.get(qid) is qpair:
            self._closed_io.add(qpair.stats().as_dict())
            del self.io_qpairs[qid]

    def describe(self) -> dict[str, Any]:
        """Its identity, the time of its Connect, and its I/O. Waits for the reactor, a moment for each I/O queue."""
        io, qpairs = IoCounts(**asdict(self._closed_io)), []
        for qid, qpair in sorted(self.io_qpairs.items()):
            stats = {} if qpair is None else qpair.stats().as_dict()
            io.add(stats)
            qpairs.append({"qid": qid, **stats})
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
            "num_io_qpairs": len(qpairs),
            **asdict(io),
            "qpairs": qpairs,
        }

    async def _close_io_qpairs(self) -> None:
        await asyncio.gather(
            *(self._close_io_qpair(qid, qpair) for qid, qpair in list(self.io_qpairs.items()) if qpair is not None)
        )

    def visible_namespaces(self) -> dict[int, Namespace]:
        """Zoned namespaces only for hosts that enabled all command sets."""
        if self.subsystem is None:
            return {}
        all_sets = self._cc >> wire.CC_CSS_SHIFT & 7 == wire.CSS_ALL
        return {
            nsid: namespace
            for nsid, namespace in self.subsystem.namespaces.items()
            if all_sets or namespace.csi == wire.CSI_NVM
        }

    def io_namespaces(self) -> dict[int, _shim.BlockDevice]:
        stand_in = None if self.subsystem is None else self.subsystem.stand_in(self.host)
        return {nsid: stand_in or namespace.device for nsid, namespace in self.visible_namespaces().items()}

    def serve_anew(self) -> None:
        """Existing I/O queues get the current io_namespaces()."""
        namespaces = self.io_namespaces()
        for qpair in self.io_qpairs.values():
            for nsid, device in namespaces.items():
                if qpair is not None:
                    qpair.set_namespace(nsid, device, self._bars_of(nsid))

    def namespace_changed(self, nsid: int, namespace: Namespace | None) -> None:
        """Called by the subsystem after the change."""
        device = namespace.device if namespace is not None and nsid in self.visible_namespaces() else None
        for qpair in self.io_qpairs.values():
            if qpair is not None:
                qpair.set_namespace(nsid, device, self._bars_of(nsid))
        self._events.zone_log_read(nsid)
        self._tell_namespace_changed(nsid)

    def _bars_of(self, nsid: int) -> tuple[int, int]:
        """The statuses with which its commands fail now: see TargetQpair.set_bars()."""
        namespace = None if self.subsystem is None else self.subsystem.namespaces.get(nsid)
        bars = (0, 0)
        if namespace is not None:
            bars = namespace.reservations.bars(self.host)
            if self._ana_state(namespace.ana_group) is AnaState.INACCESSIBLE:
                bars = Status.ANA_INACCESSIBLE, Status.ANA_INACCESSIBLE
        self._bars[nsid] = bars
        return bars

    def _ana_state(self, group: int) -> AnaState:
        assert self.subsystem is not None
        return self.subsystem.ana_state(*self.listener, group)

    def ana_changed(self) -> None:
        """Called after the change of a state at its listener."""
        for nsid in self.visible_namespaces():
            self.bars_changed(nsid)
        self._ana_changes += 1
        if self._features.event_enabled(wire.EVENT_CONFIG_ANA):
            self._events.post(wire.EVENT_ANA_CHANGED)

    def _ana_log(self, *, groups_only: bool) -> bytes:
        groups: dict[int, tuple[int, list[int]]] = {}
        for nsid, namespace in self.visible_namespaces().items():
            group = namespace.ana_group
            groups.setdefault(group, (self._ana_state(group), []))[1].append(nsid)
        return logs.build_ana(self._ana_changes, groups, groups_only=groups_only)

    def io_bars(self) -> dict[int, tuple[int, int]]:
        """For a new I/O queue."""
        return {nsid: self._bars_of(nsid) for nsid in self.visible_namespaces()}

    def bars_changed(self, nsid: int) -> None:
        """Its queues get the current bars; when it returns, the reactor has them."""
        before = self._bars.get(nsid)
        bars = self._bars_of(nsid)
        if bars != before:
            for qpair in self.io_qpairs.values():
                if qpair is not None:
                    qpair.set_bars(nsid, bars)

    def abort_io(self, nsid: int) -> list[_shim.TargetQpair]:
        """Aborts the I/O that devices have. Returns the queues to wait for."""
        qpairs = [qpair for qpair in self.io_qpairs.values() if qpair is not None]
        for qpair in qpairs:
            qpair.abort_io(nsid)
        return qpairs

    def reservation_notice(self, nsid: int, notice: Notice) -> None:
        """Sends it, unless the host has masked it."""
        if nsid in self.visible_namespaces() and not self._features.reservation_notice_masked(nsid, notice):
            self._events.reservation_notice(nsid, notice)

    def namespace_resized(self, nsid: int) -> None:
        """Called by the subsystem after the change. I/O queues go by the device itself."""
        if nsid in self.visible_namespaces():
            self._tell_namespace_changed(nsid)

    def _tell_namespace_changed(self, nsid: int) -> None:
        self._events.changed_namespaces.add(nsid)
        if self._features.event_enabled(wire.EVENT_CONFIG_NAMESPACE):
            self._events.post(wire.EVENT_NAMESPACE_CHANGED)

    def zones_changed(self, nsid: int, starts: Collection[int] | None) -> None:
        """Called by the subsystem after the change."""
        if nsid not in self.visible_namespaces():
            return
        self._events.zones_changed(nsid, starts, tell=self._features.event_enabled(wire.EVENT_CONFIG_ZONES))

    def warned(self, warnings: int) -> None:
        """Called by the subsystem when these bits of the critical warning have been set."""
        for bit, event in (
            (logs.WARNING_SPARE, wire.EVENT_SPARE),
            (logs.WARNING_RELIABILITY, wire.EVENT_RELIABILITY),
            (logs.WARNING_READ_ONLY, wire.EVENT_RELIABILITY),
        ):
            # The bits by which a host enables these events are those of the warning.
            if warnings & bit and self._features.event_enabled(bit):
                self._events.post(event)

    def discovery_changed(self) -> None:
        if self.subsystem is None and self._features.event_enabled(wire.EVENT_CONFIG_DISCOVERY):
            self._events.post(wire.EVENT_DISCOVERY_CHANGED)

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
                return self._get_log_page(sqe)
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
                return self._events.request(sqe)
            case AdminOp.ABORT if self.subsystem is not None:
                return self._events.abort(sqe)
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
        await self._events.abandon()
        await self._close_io_qpairs()
        self._events.clear()
        self._features = self._fresh_features()
        self._csts = wire.CSTS_RDY if self._cc & wire.CC_EN else 0
        self._keep_alive_restart()

    async def _shut_down(self) -> None:
        await self._close_io_qpairs()
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
        subsystem = self.subsystem
        namespaces = [] if subsystem is None else subsystem.namespaces.values()
        return ControllerTraits(
            subnqn=self.subnqn,
            cntlid=self.cntlid,
            serial_number="" if subsystem is None else subsystem.serial_number,
            model_number="" if subsystem is None else subsystem.model_number,
            firmware=FIRMWARE,
            max_io_bytes=self._limits.max_io_bytes,
            max_outstanding=self._limits.max_queue_depth,
            max_nsid=0 if subsystem is None else subsystem.max_namespaces,
            in_capsule_bytes=self._limits.in_capsule_bytes,
            keep_alive_granularity=KEEP_ALIVE_GRANULARITY_MS // 100,
            aer_limit=AER_LIMIT,
            volatile_cache=self._volatile_cache(),
            discovery=subsystem is None,
            zoned=bool(self._cap & Cap.CSS_IOCS),
            copy=any(ns.csi == wire.CSI_NVM for ns in namespaces),
            write_uncorrectable=any(ns.device.write_uncorrectable for ns in namespaces),
            compare_write=any(ns.device.compare_write_blocks for ns in namespaces)
            and not (subsystem is not None and subsystem.hides_fused(self.hostnqn)),
            ana=subsystem is not None and subsystem.ana,
        )

    # --- log pages --------------------------------------------------------------------------------------------------

    def _get_log_page(self, sqe: Sqe) -> Completion:
        page, retain = sqe.cdw10 & 0xFF, bool(sqe.cdw10 & 1 << 15)
        length = ((sqe.cdw11 & 0xFFFF) << 16 | sqe.cdw10 >> 16) * 4 + 4
        offset = sqe.cdw13 << 32 | sqe.cdw12
        if length > self._limits.max_io_bytes or offset & 3 or sqe.cdw14 & 1 << 23:
            return Completion(Status.INVALID_FIELD)
        if page not in self._log_pages:
            return Completion(Status.INVALID_LOG_PAGE)
        if page == LogPage.CHANGED_ZONES:
            return self._zone_log(sqe.nsid, offset, length, retain)
        if page == LogPage.ANA:
            content: bytes | None = self._ana_log(groups_only=bool(sqe.cdw10 & 1 << 8))
        else:
            content = self._log_page(LogPage(page), sqe.cdw14 >> 24)
        if content is None or offset > len(content):
            return Completion(Status.INVALID_FIELD)
        if page == LogPage.RESERVATION:
            # Read in pieces, it must be the same notification until the end.
            if not retain and offset + length >= len(content):
                self._events.reservation_log_read()
            return Completion(data=content[offset : offset + length].ljust(length, b"\0"))
        if not retain and offset == 0:
            self._events.log_page_read(page)
            if page == LogPage.CHANGED_NAMESPACES:
                self._events.changed_namespaces.clear()
        return Completion(data=content[offset : offset + length].ljust(length, b"\0"))

    def _zone_log(self, nsid: int, offset: int, length: int, retain: bool) -> Completion:
        """A host that reads it in pieces retains it up to the last one, so its offset says nothing."""
        assert self.subsystem is not None
        if not 1 <= nsid <= self.subsystem.max_namespaces:
            return Completion(Status.INVALID_NAMESPACE)
        namespace = self.visible_namespaces().get(nsid)
        content = self._events.zone_log(nsid)
        if namespace is None or namespace.csi != wire.CSI_ZNS or offset > len(content):
            return Completion(Status.INVALID_FIELD)
        if not retain:
            self._events.zone_log_read(nsid)
        return Completion(data=content[offset : offset + length].ljust(length, b"\0"))

    @property
    def _log_pages(self) -> tuple[LogPage, ...]:
        if self.subsystem is None:
            return logs.SUPPORTED_DISCOVERY
        pages = logs.SUPPORTED_ZONED if self._cap & Cap.CSS_IOCS else logs.SUPPORTED_IO
        return (*pages, LogPage.ANA) if self.subsystem.ana else pages

    def _log_page(self, page: LogPage, csi: int) -> bytes | None:
        match page:
            case LogPage.SUPPORTED:
                return logs.build_supported(self._log_pages)
            case LogPage.ERROR:
                return logs.build_error()
            case LogPage.SMART:
                return logs.build_smart(logs.Smart() if self.subsystem is None else self.subsystem.smart())
            case LogPage.FIRMWARE_SLOT:
                return logs.build_firmware_slot(FIRMWARE)
            case LogPage.CHANGED_NAMESPACES:
                return logs.build_changed_namespaces(self._events.changed_namespaces)
            case LogPage.RESERVATION:
                return self._events.reservation_log()
            case LogPage.CHANGED_ZONES | LogPage.ANA:
                # _get_log_page() serves these: one belongs to a namespace, the other has a parameter.
                return None
            case LogPage.COMMAND_EFFECTS:
                if csi == wire.CSI_ZNS and not self._cap & Cap.CSS_IOCS:
                    return None
                traits = self._traits()
                return logs.build_command_effects(csi, copy=traits.copy, write_uncorrectable=traits.write_uncorrectable)
            case LogPage.DISCOVERY:
                return logs.build_discovery(*self._discovery_log(self))
