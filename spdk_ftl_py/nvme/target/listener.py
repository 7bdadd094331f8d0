"""An NVMe/TCP target: listeners, Connect, and the hand-off of a socket to the controller or the shim that serves it."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import _shim
from ...errors import ExistsError, FtlError, NotFoundError, ParameterError, PathError, ProtocolError, UnsupportedError
from ...runtime.descriptors import descriptors_for_strangers
from ...runtime.reactor import ReactorLoop
from ...runtime.sockets import accept, listening_socket
from .. import wire
from ..auth.response import Policy
from ..tcp import Connection, parse_port
from ..wire import PduError, Sqe, Status
from .authentication import AuthenticationContext, QueueAuthentication, UnprovenHostError
from .capsule import CapsuleQueue, Command, Completion
from .connect import ConnectRequest, invalid_in_command, invalid_in_data, parse_connect
from .connection_log import ConnectionLog
from .controller import TargetController
from .discovery import Catalog, Discovery
from .peers import HalfOpen, PeerLimits, address_of, room_for_controller, room_for_discovery, room_for_io_queue
from .secure_channel import SecureChannel, SecureChannelError, may_discover, open_secure_channel, refusal_of
from .subsystem import CONTROLLERS_MAX, ConnectedController, Subsystem
from .traits import TargetLimits

LISTEN_BACKLOG = 128
ADMIN_QUEUE_ENTRIES_MAX = 128
OWN_CONTROLLERS = 16
"""Queues of the SPDK target itself, in addition to the limit for others."""
REFUSALS_TOLD_EVERY_S = 60.0
_CONTROLLERS = "controllers", "see docs/security.md, --limit controllers-per-address="

log = logging.getLogger(__name__)


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
        connections: ConnectionLog | None = None,
        authentication: Policy | None = None,
        peers: PeerLimits | None = None,
        is_own: Callable[[str], bool] = lambda hostnqn: False,
        catalog: Catalog | None = None,
        more_reactors: Sequence[ReactorLoop] = (),
    ) -> None:
        """The reactor must be the one that polls the devices of its namespaces. more_reactors: I/O queues are spread
        over them, too; the namespaces need a device on each. connections: the log of hosts that connect and leave.
        authentication: the hashes and DH groups that hosts with keys may use. is_own: whether a host NQN is exempt from
        the limits of peers. catalog: this target is a discovery service for those subsystems of other targets, and has
        none itself. Raises ParameterError."""
        for what, value, low, high, unit in (
            ("max_io_bytes", max_io_bytes, 2 * wire.PAGE_BYTES, 1 << 24, wire.PAGE_BYTES),
            ("in_capsule_bytes", in_capsule_bytes, 0, 1 << 20, 16),
            ("max_queue_depth", max_queue_depth, 2, 4096, 1),
            ("max_io_qpairs_per_controller", max_io_qpairs_per_controller, 1, 0xFFFE, 1),
        ):
            if not low <= value <= high or value % unit:
                raise ParameterError(f"{what} {value} must lie in {low}..{high}, in steps of {unit}")
        self.reactor = reactor
        self.more_reactors = list(more_reactors)
        """May be changed; applies to queues that connect from now on."""
        self.subsystems: dict[str, Subsystem] = {}
        self.limits = TargetLimits(max_io_bytes, in_capsule_bytes, max_queue_depth, max_io_qpairs_per_controller)
        self.peers = peers or PeerLimits()
        self._is_own = is_own
        self._half_open = HalfOpen(self.peers)
        self._refusals: dict[str, float] = {}
        """When each kind was logged last."""
        self._discoverable = discovery
        self._catalog = catalog
        if catalog is None:
            self._discovery = Discovery(self.subsystems.values)
        else:
            self._discovery = Discovery(lambda: catalog, elsewhere=True)
            catalog.on_change = self._discovery.changed
        self._authentication = AuthenticationContext(authentication)
        self._connections = connections
        self._listeners: dict[tuple[str, int], _Listener] = {}

    # --- subsystems -------------------------------------------------------------------------------------------------

    def add_subsystem(self, subsystem: Subsystem) -> None:
        """Raises ExistsError."""
        if subsystem.nqn in self.subsystems or subsystem.nqn == wire.DISCOVERY_NQN:
            raise ExistsError(f"subsystem {subsystem.nqn} exists already")
        self.subsystems[subsystem.nqn] = subsystem
        subsystem.on_discovery_change = self._discovery.changed
        self._discovery.changed()

    async def remove_subsystem(self, nqn: str) -> None:
        """Disconnects its hosts; returns when none of its I/O is outstanding. Raises NotFoundError."""
        subsystem = self.subsystems.pop(nqn, None)
        if subsystem is None:
            raise NotFoundError(f"there is no subsystem {nqn}")
        subsystem.on_discovery_change = None
        self._discovery.changed()
        await subsystem.disconnect()

    # --- listeners --------------------------------------------------------------------------------------------------

    async def listen(self, traddr: str, trsvcid: int | str, *, listening: socket.socket | None = None) -> int:
        """Returns the port. An address may be listened on several times; unlisten() it as often. listening: a socket
        that already listens there, to be used (and closed) instead of a new one.

        Raises ParameterError for an invalid address, PathError if it can't be bound.
        """
        port = parse_port(trsvcid)
        listener = self._listeners.get((traddr, port))
        if listener is not None:
            listener.users += 1
            return port
        if listening is not None:
            self._accept_from(listening, (traddr, port))
            return port
        sock = await listening_socket(traddr, port, LISTEN_BACKLOG)
        port = int(sock.getsockname()[1])
        self._accept_from(sock, (traddr, port))
        return port

    def _accept_from(self, sock: socket.socket, address: tuple[str, int]) -> None:
        listener = self._listeners[address] = _Listener(sock)
        name = f"listener {address[0]}:{address[1]}"
        listener.task = asyncio.get_running_loop().create_task(self._accept(address, listener), name=name)

    def listening(self, traddr: str, port: int) -> socket.socket:
        """The socket that listens there; it stays this object's. Raises KeyError."""
        return self._listeners[traddr, port].socket

    async def unlisten(self, traddr: str, trsvcid: int | str) -> None:
        """The last call closes the socket and every connection that came through it. Raises NotFoundError."""
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
        """Idempotent. Returns when every connection, queue and task has ended; the devices belong to the caller."""
        while self._listeners:
            await asyncio.gather(*(self._close_listener(key) for key in list(self._listeners)))
        for subsystem in self.subsystems.values():
            await subsystem.disconnect()
            subsystem.on_discovery_change = None
        self.subsystems.clear()

    async def _accept(self, address: tuple[str, int], listener: _Listener) -> None:
        while True:
            try:
                sock, peer = await accept(listener.socket)
            except OSError:
                # Out of descriptors, or the host disconnected before: neither is a reason to stop listening.
                await asyncio.sleep(0.01)
                continue
            if sock.fileno() >= descriptors_for_strangers():
                sock.close()
                self._tell_refusal("file descriptors", "raise the limit of open files (ulimit -n, LimitNOFILE=)")
                # The rest of the descriptors is not for this loop alone.
                await asyncio.sleep(0.01)
                continue
            task = asyncio.create_task(
                self._serve(sock, address, f"host {peer[0]}:{peer[1]}"), name=f"connection from {peer}"
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
            log.warning("refusing connections of hosts: too many %s; %s", of_what, remedy)

    def _busy(self, of_what: str, remedy: str) -> Completion:
        if self._connections is None:
            self._tell_refusal(of_what, remedy)
        return Completion(Status.CONNECT_CONTROLLER_BUSY, do_not_retry=False, reason=f"too many {of_what}; {remedy}")

    # --- connections ------------------------------------------------------------------------------------------------

    async def _serve(self, sock: socket.socket, address: tuple[str, int], peer: str) -> None:
        """Serves one connection until its socket is handed to the shim, or it ends. It is half open until the host has
        connected, and is authenticated if it has to be."""
        connection = Connection(sock, is_controller=True, peer=peer)
        connection.budget = self.peers.budget()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        deadline = loop.time() + self.peers.handshake_s
        try:
            # Not time_limit(): a time-out that comes together with the controller must not lose the controller.
            timer = loop.call_at(deadline, task.cancel)
            try:
                controller = await self._open(connection, address)
            finally:
                timer.cancel()
            if controller is not None:
                await self._run(controller, connection, task, deadline)
        except PduError as error:
            await connection.terminate(error)
        except SecureChannelError as error:
            if self._connections is not None:
                self._connections.refused(connection.peer_address, error.hostnqn, error.message)
            await connection.finish()
        except UnsupportedError as error:
            if self._connections is not None:
                self._connections.refused(connection.peer_address, "", error.message)
        except UnprovenHostError as error:
            # Of an I/O queue.
            if self._connections is not None:
                self._connections.refused(connection.peer_address, error.hostnqn, error.message)
            await connection.finish()
        except (PathError, ProtocolError):
            pass
        finally:
            connection.close()

    async def _run(
        self, controller: TargetController, connection: Connection, task: asyncio.Task[None], deadline: float
    ) -> None:
        """deadline: for the authentication, if the host needs it."""
        connections = None if controller.subsystem is None else self._connections
        let_in = False

        def let_in_now() -> None:
            nonlocal let_in
            let_in = True
            self._half_open.done(task)
            connection.accept_peer()
            if connections is not None:
                connections.connected(controller)

        def proved() -> None:
            subsystem = controller.subsystem
            assert subsystem is not None
            if not self._room_for(subsystem, controller.hostnqn, controller.address, beside=controller):
                # Others were authenticated meanwhile.
                raise ProtocolError(self._busy(*_CONTROLLERS).reason)
            let_in_now()

        if controller.authenticated:
            let_in_now()
        else:
            controller.await_proof(deadline, proved)
        try:
            await controller.run()
        finally:
            if connections is not None and let_in:
                connections.ended(controller)
            elif connections is not None:
                why = "it was disconnected" if self._half_open.has(task) else "newer connections took its place"
                reason = controller.end_reason or f"it did not authenticate: {why}"
                connections.refused(controller.peer_address, controller.hostnqn, reason)

    async def _open(self, connection: Connection, address: tuple[str, int]) -> TargetController | None:
        """From TLS or ICReq to Connect. Returns the controller to run on an admin queue; None if the shim has taken
        over an I/O queue."""
        channel = await open_secure_channel(connection, lambda: self._behind(address))
        agreed = await connection.initialize_as_controller(max_h2c_data=self.limits.max_io_bytes)
        queue = CapsuleQueue(connection, max_h2c_data=agreed.max_h2c_data)
        while True:
            command = await queue.receive()
            request = parse_connect(command)
            if isinstance(request, ConnectRequest):
                queue.queue_size, queue.flow_control = request.queue_size, request.flow_control
                if request.qid:
                    refused = await self._connect_io(queue, command.sqe, request, address, channel)
                    if refused is None:
                        return None
                else:
                    connected = await self._connect_admin(queue, command.sqe, request, address, channel)
                    if isinstance(connected, TargetController):
                        return connected
                    refused = connected
                queue.queue_size, queue.flow_control = 0, True
            else:
                refused = request
            self._log_refusal(connection, command, request, refused)
            await queue.complete(command.sqe, refused)

    def _behind(self, address: tuple[str, int]) -> list[Subsystem]:
        """The subsystems that hosts come to that address for."""
        if self._catalog is not None:
            return list(self._catalog)
        return [subsystem for subsystem in self.subsystems.values() if address in subsystem.listeners]

    def _log_refusal(
        self, connection: Connection, command: Command, request: ConnectRequest | Completion, refused: Completion
    ) -> None:
        if self._connections is None:
            return
        hostnqn = request.hostnqn if isinstance(request, ConnectRequest) else ""
        not_allowed = refused.status == Status.CONNECT_INVALID_HOST and not refused.reason
        if not_allowed:
            reason = "it is not in the list of allowed hosts"
        elif refused.reason:
            reason = refused.reason
        else:
            what = "Connect" if command.sqe.fctype == wire.FabricsType.CONNECT else "a command before Connect"
            reason = f"{what}: {wire.status_text(refused.status)}"
        self._connections.refused(connection.peer_address, hostnqn, reason, not_allowed=not_allowed)

    def _find_subsystem(
        self, request: ConnectRequest, address: tuple[str, int], channel: SecureChannel | None
    ) -> Subsystem | Completion:
        subsystem = self.subsystems.get(request.subnqn)
        if subsystem is None or address not in subsystem.listeners:
            # The subsystem may be back in a moment (a target that restarts), so the host may try again.
            return invalid_in_data(wire.CONNECT_DATA_SUBNQN, do_not_retry=False)
        host = subsystem.admit(request.hostnqn)
        reason = "" if host is None else refusal_of(channel, subsystem, host, address)
        if reason is not None:
            # As SPDK answers: the host may be allowed in a moment.
            return Completion(Status.CONNECT_INVALID_HOST, do_not_retry=False, reason=reason)
        return subsystem

    async def _connect_admin(
        self, queue: CapsuleQueue, sqe: Sqe, request: ConnectRequest, address: tuple[str, int],
        channel: SecureChannel | None,
    ) -> TargetController | Completion:  # fmt: skip
        if request.queue_size > ADMIN_QUEUE_ENTRIES_MAX:
            return invalid_in_command(wire.CONNECT_SQE_SQSIZE)
        subsystem: Subsystem | None = None
        peer = address_of(queue.connection.peer_address[0])
        controllers: dict[int, TargetController] | dict[int, ConnectedController]
        cntlid: int | None
        if request.subnqn == wire.DISCOVERY_NQN and self._discoverable:
            controllers = self._discovery.controllers
            if not may_discover(channel, self.subsystems.values(), request.hostnqn, address):
                why = "discovery without TLS, which is required here, or with a PSK for another subsystem"
                return Completion(Status.CONNECT_INVALID_HOST, do_not_retry=False, reason=why)
            if not room_for_discovery(self.peers, self._discovery.controllers.values(), address=peer):
                return self._busy("discovery controllers", "see docs/security.md, --limit discovery-per-address=")
            if request.kato_ms and not self.peers.kato_allowed(request.kato_ms):
                return Completion(Status.KEEP_ALIVE_INVALID)
            cntlid = self._discovery.allocate_cntlid()
        else:
            found = self._find_subsystem(request, address, channel)
            if isinstance(found, Completion):
                return found
            subsystem = found
            controllers = subsystem.controllers
            if not self.peers.kato_allowed(request.kato_ms):
                return Completion(Status.KEEP_ALIVE_INVALID)
            if not self._room_for(subsystem, request.hostnqn, peer):
                return self._busy(*_CONTROLLERS)
            cntlid = subsystem.allocate_cntlid()
        if cntlid is None:
            return self._busy("controllers", "disconnect hosts that are not needed")
        task = asyncio.current_task()
        assert task is not None
        controller = TargetController(
            self.reactor, queue, subsystem, self.limits, cntlid=cntlid, hostnqn=request.hostnqn, hostid=request.hostid,
            kato_ms=request.kato_ms, listener=address, task=task, peers=self.peers, authentication=self._authentication,
            discovery_log=self._discovery.log, on_closed=functools.partial(self._forget, controllers, cntlid),
        )  # fmt: skip
        controllers[cntlid] = controller
        if subsystem is None:
            self._discovery.log(controller)
        try:
            # A host that has to authenticate is recorded when it has done so and enables the controller.
            if controller.authenticated and subsystem is not None and subsystem.connected_hosts is not None:
                try:
                    subsystem.connected_hosts.arrived(controller.host)
                except FtlError as error:
                    # The host could not be notified of lost writes. It may try again.
                    controller.abandon()
                    return Completion(Status.CONNECT_CONTROLLER_BUSY, do_not_retry=False, reason=error.message)
            required = 0 if controller.authenticated else wire.CONNECT_ATR
            await queue.complete(sqe, Completion(result=cntlid | required))
        except BaseException:
            controller.abandon()
            raise
        return controller

    def _room_for(
        self, subsystem: Subsystem, hostnqn: str, address: str, *, beside: TargetController | None = None
    ) -> bool:
        """Makes room for one more controller that counts. A host that is not authenticated is half open, and takes no
        room from anybody."""
        there = [each for each in subsystem.controllers.values() if each.authenticated and each is not beside]
        most = CONTROLLERS_MAX + (OWN_CONTROLLERS if self._is_own(hostnqn) else 0)
        return len(there) < most and room_for_controller(
            self.peers, there, address=address, hostnqn=hostnqn, is_own=self._is_own
        )

    def _forget(self, controllers: dict[int, Any], cntlid: int) -> None:
        controllers.pop(cntlid, None)
        if controllers is self._discovery.controllers:
            self._discovery.forget(cntlid)

    async def _connect_io(
        self, queue: CapsuleQueue, sqe: Sqe, request: ConnectRequest, address: tuple[str, int],
        channel: SecureChannel | None,
    ) -> Completion | None:  # fmt: skip
        """None if the socket was handed to the shim."""
        found = self._find_subsystem(request, address, channel)
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
        refused = self._no_room_for_io_queue(found, controller, request.qid)
        if refused is not None:
            return refused
        life = controller.life
        authentication = QueueAuthentication(
            queue, self._authentication, lambda: found.keys_of(request.hostnqn), hostnqn=request.hostnqn,
            subnqn=found.nqn, required=found.keys_of(request.hostnqn) is not None,
        )  # fmt: skip
        result = controller.cntlid | (0 if authentication.done else wire.CONNECT_ATR)
        if not authentication.done:
            # A host that is not authenticated takes no queue from the real one.
            await queue.complete(sqe, Completion(result=result))
            await authentication.run()
            refused = self._no_room_for_io_queue(found, controller, request.qid)
            if refused is not None:
                raise PathError(f"I/O queue {request.qid} of controller {controller.cntlid} is no longer available")
        controller.reserve_io_queue(request.qid)
        try:
            if not result & wire.CONNECT_ATR:
                await queue.complete(sqe, Completion(result=result))
            if not controller.accepts_io_queues or controller.life != life:
                raise PathError(
                    f"controller {controller.cntlid} was closed or disabled while I/O queue {request.qid} connected"
                )
            self._hand_over(queue, request, controller)
        except BaseException:
            controller.io_queues.release(request.qid)
            raise
        return None

    def _no_room_for_io_queue(self, subsystem: Subsystem, controller: TargetController, qid: int) -> Completion | None:
        own = controller.io_queues
        if not controller.accepts_io_queues or qid > own.most or qid in own.qpairs:
            return invalid_in_command(wire.CONNECT_SQE_QID)
        total = self.peers.io_queues if subsystem.max_io_qpairs is None else subsystem.max_io_qpairs
        queues = [(each, len(each.io_queues.qpairs)) for each in subsystem.controllers.values()]
        full = subsystem.io_qpair_count >= total and not self._is_own(controller.hostnqn)
        if full or not room_for_io_queue(self.peers, queues, total, newcomer=controller, is_own=self._is_own):
            return self._busy("I/O queues", "see docs/security.md, --limit io-queues-per-host-percent=")
        return None

    def _reactor_for(self, controller: TargetController) -> ReactorLoop:
        """The one with the fewest I/O queues of that subsystem. Of those with equally many, the core's comes last: it
        works for all of them."""
        if not self.more_reactors or controller.subsystem is None:
            return self.reactor
        users = dict.fromkeys([*self.more_reactors, self.reactor], 0)
        for each in controller.subsystem.controllers.values():
            for qid in each.io_queues.qpairs:
                reactor = each.io_queues.reactor_of(qid)
                if each.io_queues.qpairs[qid] is not None and reactor in users:
                    users[reactor] += 1
        return min(users, key=lambda reactor: users[reactor])

    def _hand_over(self, queue: CapsuleQueue, request: ConnectRequest, controller: TargetController) -> None:
        connection, queues = queue.connection, controller.io_queues
        reactor = self._reactor_for(controller)
        qpair = _shim.TargetQpair(
            reactor.shim,
            connection.socket.fileno(),
            queue_size=request.queue_size,
            header_digest=connection.header_digest,
            data_digest=connection.data_digest,
            namespaces=queues.devices(reactor),
            max_io_bytes=self.limits.max_io_bytes,
            in_capsule_bytes=self.limits.in_capsule_bytes,
            max_h2c_data=self.limits.max_io_bytes,
            sqhd=(queue.sqhd + 1) % request.queue_size,
            flow_control=request.flow_control,
            flush_alarm=queues.flush_alarm,
            tls=None if connection.tls is None else connection.tls.session,
            reservations=True,
            bars=queues.bars(),
        )
        # The shim has its own descriptor of the socket; this one is closed when _serve() returns.
        assert controller.accepts_io_queues
        queues.adopt(request.qid, qpair, reactor)
