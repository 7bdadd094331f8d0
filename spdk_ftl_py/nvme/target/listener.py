"""An NVMe/TCP target: listeners, Connect, and the way from a socket to the controller or the shim that serves it."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ... import _shim
from ...errors import ExistsError, FtlError, NotFoundError, ParameterError, PathError, ProtocolError
from ...runtime.descriptors import descriptors_for_strangers
from ...runtime.reactor import ReactorLoop
from ...runtime.sockets import accept
from .. import wire
from ..logs import ADRFAM_IPV4, ADRFAM_IPV6, DiscoveryEntry
from ..tcp import Connection, parse_port
from ..wire import PduError, Sqe, Status
from .capsule import CapsuleQueue, Completion
from .connect import ConnectRequest, invalid_in_command, invalid_in_data, parse_connect
from .controller import TargetController, TargetLimits
from .peers import HalfOpen, PeerLimits, address_of, room_for_controller, room_for_discovery, room_for_io_queue
from .subsystem import ConnectedController, Subsystem

LISTEN_BACKLOG = 128
ADMIN_QUEUE_ENTRIES_MAX = 128
OWN_CONTROLLERS = 16
"""Of the SPDK target itself, beyond what others may have."""
REFUSALS_TOLD_EVERY_S = 60.0
WILDCARDS = ("", "0.0.0.0", "::")

logger = logging.getLogger(__name__)


@dataclass
class _Listener:
    socket: socket.socket
    task: asyncio.Task[None] | None = None
    users: int = 1
    connections: set[asyncio.Task[None]] = field(default_factory=set)


def _connection_ended(listener: _Listener, sock: socket.socket, task: asyncio.Task[None]) -> None:
    listener.connections.discard(task)
    # A task that is cancelled before its first step has closed nothing. (The shim has its own descriptor.)
    sock.close()


class NvmfTarget:
    """Serves its subsystems on its listeners until close().

    >>> target = NvmfTarget(reactor)
    >>> port = await target.listen("127.0.0.1", 0)
    >>> subsystem = Subsystem("nqn.2026-11.io.example:ftl0", allow_any_host=True)
    >>> subsystem.add_namespace(device)
    >>> subsystem.add_listener("127.0.0.1", port)
    >>> target.add_subsystem(subsystem)
    """

    def __init__(
        self,
        reactor: ReactorLoop,
        *,
        max_io_bytes: int = 131072,
        in_capsule_bytes: int = 4096,
        max_queue_depth: int = 128,
        max_io_qpairs_per_controller: int = 127,
        discovery: bool = True,
        peers: PeerLimits | None = None,
        is_own: Callable[[str], bool] = lambda hostnqn: False,
    ) -> None:
        """The reactor must be the one that polls the devices of its namespaces. is_own: whether that host NQN is one
        that no limit of peers keeps out. Raises ParameterError."""
        for what, value, low, high, unit in (
            ("max_io_bytes", max_io_bytes, 2 * wire.PAGE_BYTES, 1 << 24, wire.PAGE_BYTES),
            ("in_capsule_bytes", in_capsule_bytes, 0, 1 << 20, 16),
            ("max_queue_depth", max_queue_depth, 2, 4096, 1),
            ("max_io_qpairs_per_controller", max_io_qpairs_per_controller, 1, 0xFFFE, 1),
        ):
            if not low <= value <= high or value % unit:
                raise ParameterError(f"{what} {value} must lie in {low}..{high}, in steps of {unit}")
        self.reactor = reactor
        self.subsystems: dict[str, Subsystem] = {}
        self.limits = TargetLimits(max_io_bytes, in_capsule_bytes, max_queue_depth, max_io_qpairs_per_controller)
        self.peers = peers or PeerLimits()
        self._is_own = is_own
        self._half_open = HalfOpen(self.peers)
        self._refusals: dict[str, float] = {}
        """When each was logged last."""
        self._discovery = discovery
        self._generation = 1
        self._discovery_controllers: dict[int, TargetController] = {}
        self._next_discovery_cntlid = 0
        self._listeners: dict[tuple[str, int], _Listener] = {}

    # --- subsystems -------------------------------------------------------------------------------------------------

    def add_subsystem(self, subsystem: Subsystem) -> None:
        """Raises ExistsError."""
        if subsystem.nqn in self.subsystems or subsystem.nqn == wire.DISCOVERY_NQN:
            raise ExistsError(f"subsystem {subsystem.nqn} exists already")
        self.subsystems[subsystem.nqn] = subsystem
        subsystem.on_discovery_change = self._discovery_changed
        self._discovery_changed()

    async def remove_subsystem(self, nqn: str) -> None:
        """Disconnects its hosts; returns when none of its I/O is left. Raises NotFoundError."""
        subsystem = self.subsystems.pop(nqn, None)
        if subsystem is None:
            raise NotFoundError(f"there is no subsystem {nqn}")
        subsystem.on_discovery_change = None
        self._discovery_changed()
        await subsystem.disconnect()

    def _discovery_changed(self) -> None:
        self._generation += 1
        for controller in list(self._discovery_controllers.values()):
            controller.discovery_changed()

    def _discovery_log(self, controller: TargetController) -> tuple[int, list[DiscoveryEntry]]:
        """What that host may connect to. Listeners on all addresses are named by the one it came to."""
        entries = [
            DiscoveryEntry(
                traddr=controller.local_address if traddr in WILDCARDS else traddr,
                trsvcid=str(trsvcid),
                subnqn=subsystem.nqn,
                adrfam=ADRFAM_IPV6 if ":" in (traddr or controller.local_address) else ADRFAM_IPV4,
            )
            for subsystem in self.subsystems.values()
            if subsystem.host_allowed(controller.hostnqn)
            for traddr, trsvcid in sorted(subsystem.listeners)
        ]
        return self._generation, entries

    # --- listeners --------------------------------------------------------------------------------------------------

    async def listen(self, traddr: str, trsvcid: int | str) -> int:
        """Returns the port. An address that is listened on already is shared: unlisten() it as often.

        Raises ParameterError for an address that is none, PathError when it can't be bound.
        """
        port = parse_port(trsvcid)
        listener = self._listeners.get((traddr, port))
        if listener is not None:
            listener.users += 1
            return port
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(
                traddr or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
            )
        except OSError as error:
            raise ParameterError(f"{traddr!r} is not an IP address to listen on") from error
        family, kind, protocol, _, address = infos[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(LISTEN_BACKLOG)
            sock.setblocking(False)
            port = int(sock.getsockname()[1])
        except OSError as error:
            sock.close()
            raise PathError(
                f"can't listen on {traddr}:{trsvcid}: {error.strerror}; choose another address or port",
                errno=error.errno,
            ) from error
        listener = _Listener(sock)
        self._listeners[traddr, port] = listener
        listener.task = loop.create_task(self._accept((traddr, port), listener), name=f"listener {traddr}:{port}")
        return port

    async def unlisten(self, traddr: str, trsvcid: int | str) -> None:
        """The last one closes the socket and every connection that came in by it. Raises NotFoundError."""
        key = (traddr, parse_port(trsvcid))
        listener = self._listeners.get(key)
        if listener is None:
            raise NotFoundError(f"nobody listens on {traddr}:{trsvcid}")
        listener.users -= 1
        if listener.users == 0:
            await self._close_listener(key)

    async def _close_listener(self, key: tuple[str, int]) -> None:
        listener = self._listeners.pop(key)
        tasks = [task for task in (listener.task, *listener.connections) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.socket.close()

    async def close(self) -> None:
        """Idempotent. Returns when every connection, queue and task is gone; devices are the caller's."""
        while self._listeners:
            await asyncio.gather(*(self._close_listener(key) for key in list(self._listeners)))
        for subsystem in self.subsystems.values():
            await subsystem.disconnect()
            subsystem.on_discovery_change = None
        self.subsystems.clear()

    async def _accept(self, address: tuple[str, int], listener: _Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await accept(listener.socket)
            except OSError:
                # Out of descriptors, or the host was gone before we looked: neither is a reason to stop listening.
                await asyncio.sleep(0.01)
                continue
            if sock.fileno() >= descriptors_for_strangers():
                sock.close()
                self._tell_refusal("file descriptors", "raise the limit of open files (ulimit -n, LimitNOFILE=)")
                # What is left of them is not for this loop alone.
                await asyncio.sleep(0.01)
                continue
            task = loop.create_task(
                self._serve(sock, address, f"host {peer[0]}:{peer[1]}", address_of(peer[0])),
                name=f"connection from {peer}",
            )
            listener.connections.add(task)
            task.add_done_callback(functools.partial(_connection_ended, listener, sock))
            self._half_open.add(task, address_of(peer[0]))
            task.add_done_callback(self._half_open.done)
            # With connections in its backlog accept() never waits.
            await asyncio.sleep(0)

    def _tell_refusal(self, of_what: str, remedy: str) -> None:
        now = time.monotonic()
        if now - self._refusals.get(of_what, -math.inf) >= REFUSALS_TOLD_EVERY_S:
            self._refusals[of_what] = now
            logger.warning("connections of hosts are refused: too many %s; %s", of_what, remedy)

    # --- connections ------------------------------------------------------------------------------------------------

    async def _serve(self, sock: socket.socket, address: tuple[str, int], peer: str, peer_address: str) -> None:
        """One connection: until its socket is the shim's, or to its end."""
        connection = Connection(sock, is_controller=True, peer=peer, address=peer_address)
        connection.budget = self.peers.budget()
        try:
            # Not wait_for(): a time-out that comes as the controller does must not lose the controller.
            task = asyncio.current_task()
            assert task is not None
            timer = asyncio.get_running_loop().call_later(self.peers.handshake_s, task.cancel)
            try:
                controller = await self._open(connection, address)
            finally:
                timer.cancel()
                self._half_open.done(task)
            connection.accept_peer()
            if controller is not None:
                await controller.run()
        except PduError as error:
            await connection.terminate(error)
        except (PathError, ProtocolError):
            pass
        finally:
            connection.close()

    async def _open(self, connection: Connection, address: tuple[str, int]) -> TargetController | None:
        """ICReq to Connect. The controller to run on an admin queue; None when the shim has taken over an I/O queue."""
        agreed = await connection.initialize_as_controller(max_h2c_data=self.limits.max_io_bytes)
        queue = CapsuleQueue(connection, max_h2c_data=agreed.max_h2c_data)
        while True:
            command = await queue.receive()
            request = parse_connect(command)
            if isinstance(request, ConnectRequest):
                queue.queue_size, queue.flow_control = request.queue_size, request.flow_control
                if request.qid:
                    refused = await self._connect_io(queue, command.sqe, request, address)
                    if refused is None:
                        return None
                else:
                    connected = await self._connect_admin(queue, command.sqe, request, address)
                    if isinstance(connected, TargetController):
                        return connected
                    refused = connected
                queue.queue_size, queue.flow_control = 0, True
            else:
                refused = request
            await queue.complete(command.sqe, refused)

    def _find_subsystem(self, request: ConnectRequest, address: tuple[str, int]) -> Subsystem | Completion:
        subsystem = self.subsystems.get(request.subnqn)
        if subsystem is None or address not in subsystem.listeners:
            # It may be back in a moment (a target that restarts), so the host may try again.
            return invalid_in_data(wire.CONNECT_DATA_SUBNQN, do_not_retry=False)
        if not subsystem.host_allowed(request.hostnqn):
            return Completion(Status.CONNECT_INVALID_HOST)
        return subsystem

    async def _connect_admin(
        self, queue: CapsuleQueue, sqe: Sqe, request: ConnectRequest, address: tuple[str, int]
    ) -> TargetController | Completion:
        busy = Completion(Status.CONNECT_CONTROLLER_BUSY, do_not_retry=False)
        if request.queue_size > ADMIN_QUEUE_ENTRIES_MAX:
            return invalid_in_command(wire.CONNECT_SQE_SQSIZE)
        subsystem: Subsystem | None = None
        peer = queue.connection.address
        controllers: dict[int, TargetController] | dict[int, ConnectedController]
        cntlid: int | None
        if request.subnqn == wire.DISCOVERY_NQN and self._discovery:
            controllers = self._discovery_controllers
            if not room_for_discovery(self.peers, self._discovery_controllers.values(), address=peer):
                self._tell_refusal("discovery controllers", "see docs/security.md, --limit discovery-per-address=")
                return busy
            if request.kato_ms and not self.peers.kato_allowed(request.kato_ms):
                return Completion(Status.KEEP_ALIVE_INVALID)
            cntlid = self._discovery_cntlid()
        else:
            found = self._find_subsystem(request, address)
            if isinstance(found, Completion):
                return found
            subsystem = found
            controllers = subsystem.controllers
            if not self.peers.kato_allowed(request.kato_ms):
                return Completion(Status.KEEP_ALIVE_INVALID)
            if not room_for_controller(
                self.peers, controllers.values(), address=peer, hostnqn=request.hostnqn, is_own=self._is_own
            ):
                self._tell_refusal("controllers", "see docs/security.md, --limit controllers-per-address=")
                return busy
            cntlid = subsystem.allocate_cntlid(beyond=OWN_CONTROLLERS if self._is_own(request.hostnqn) else 0)
        if cntlid is None:
            return busy
        task = asyncio.current_task()
        assert task is not None
        controller = TargetController(
            self.reactor, queue, subsystem, self.limits, cntlid=cntlid, hostnqn=request.hostnqn, hostid=request.hostid,
            kato_ms=request.kato_ms, listener=address, task=task, peers=self.peers, discovery_log=self._discovery_log,
            on_closed=lambda: controllers.pop(cntlid, None),
        )  # fmt: skip
        controllers[cntlid] = controller
        try:
            if subsystem is not None and subsystem.connected_hosts is not None:
                try:
                    subsystem.connected_hosts.arrived(controller.host)
                except FtlError as error:
                    # What it would be owed after a crash nobody would know. It may try again.
                    logger.error("host %s is not let in: %s", request.hostnqn, error.message)
                    controller.abandon()
                    return busy
            await queue.complete(sqe, Completion(result=cntlid))
        except BaseException:
            controller.abandon()
            raise
        return controller

    def _discovery_cntlid(self) -> int:
        while True:
            self._next_discovery_cntlid = self._next_discovery_cntlid % wire.CNTLID_MAX + 1
            if self._next_discovery_cntlid not in self._discovery_controllers:
                return self._next_discovery_cntlid

    async def _connect_io(
        self, queue: CapsuleQueue, sqe: Sqe, request: ConnectRequest, address: tuple[str, int]
    ) -> Completion | None:
        """None when the socket is the shim's."""
        found = self._find_subsystem(request, address)
        if isinstance(found, Completion):
            return found
        controller = found.controllers.get(request.cntlid)
        if not isinstance(controller, TargetController):
            return invalid_in_data(wire.CONNECT_DATA_CNTLID, do_not_retry=False)
        if controller.hostid != request.hostid:
            return invalid_in_data(0)
        if controller.hostnqn != request.hostnqn:
            return invalid_in_data(wire.CONNECT_DATA_HOSTNQN)
        if request.queue_size > self.limits.max_queue_depth:
            return invalid_in_command(wire.CONNECT_SQE_SQSIZE)
        if (
            not controller.accepts_io_queues
            or request.qid > controller.io_queues
            or request.qid in controller.io_qpairs
        ):
            return invalid_in_command(wire.CONNECT_SQE_QID)
        total = self.peers.io_queues if found.max_io_qpairs is None else found.max_io_qpairs
        queues = [(each, len(each.io_qpairs)) for each in found.controllers.values()]
        of_its_own = self._is_own(controller.hostnqn)
        if (found.io_qpair_count >= total and not of_its_own) or not room_for_io_queue(
            self.peers, queues, total, newcomer=controller, is_own=self._is_own
        ):
            self._tell_refusal("I/O queues", "see docs/security.md, --limit io-queues-per-host-percent=")
            return Completion(Status.CONNECT_CONTROLLER_BUSY, do_not_retry=False)
        controller.reserve_io_qpair(request.qid)
        try:
            await queue.complete(sqe, Completion(result=controller.cntlid))
            if not controller.accepts_io_queues:
                raise PathError(
                    f"controller {controller.cntlid} was closed or disabled as I/O queue {request.qid} came"
                )
            self._hand_over(queue, request, controller)
        except BaseException:
            controller.release_io_qpair(request.qid)
            raise
        return None

    def _hand_over(self, queue: CapsuleQueue, request: ConnectRequest, controller: TargetController) -> None:
        connection = queue.connection
        qpair = _shim.TargetQpair(
            self.reactor.shim,
            connection.socket.fileno(),
            queue_size=request.queue_size,
            header_digest=connection.header_digest,
            data_digest=connection.data_digest,
            namespaces=controller.io_namespaces(),
            max_io_bytes=self.limits.max_io_bytes,
            in_capsule_bytes=self.limits.in_capsule_bytes,
            max_h2c_data=self.limits.max_io_bytes,
            sqhd=(queue.sqhd + 1) % request.queue_size,
            flow_control=request.flow_control,
            flush_alarm=controller.flush_alarm,
        )
        # The shim has its own descriptor of the socket; ours goes when _serve() returns.
        controller.adopt_io_qpair(request.qid, qpair)
