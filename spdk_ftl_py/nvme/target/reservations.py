"""The reservation of each namespace of a subsystem: executes reservation commands one after the other, and makes every
queue follow.

Before a command is answered, its effect is durable (if the host wants that), and every queue has it: the reactor has
the new bars, and I/O that has to be aborted has come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from ... import _shim
from ...errors import FtlError
from ...runtime.tasks import end_tasks, to_its_end
from ...runtime.waiting import until
from ...text import show_name
from ..wire import Status
from .connected_hosts import HostKey
from .events import AsyncEvents
from .reservation_file import ReservationFile
from .reservation_state import Outcome, ReservationState, Rules, execute

REST: Final = 4
"""After each command, the event loop has this many times as long for everything else while further commands wait."""
ABORT_POLL_S: Final = 0.002
ABORT_TELL_S: Final = 30.0

log = logging.getLogger(__name__)


class Reservations:
    """The reservation of one namespace. It may live longer than the subsystem that serves the namespace."""

    def __init__(
        self,
        file: ReservationFile | None = None,
        *,
        has_registrant_rights: Callable[[HostKey], bool] = lambda host: False,
        of_one_host: Callable[[], bool] = lambda: True,
    ) -> None:
        """file: None: the reservation ends with the process. has_registrant_rights: of a host that can't register.
        of_one_host: whether reservations that keep registrants out are possible now."""
        self.file = file
        self.state = ReservationState()
        self._has_registrant_rights = has_registrant_rights
        self._of_one_host = of_one_host

    @property
    def can_persist(self) -> bool:
        return self.file is not None

    @property
    def rules(self) -> Rules:
        return Rules(can_persist=self.can_persist, of_one_host=self._of_one_host())

    def restore(self) -> None:
        """From the file. Raises FtlError."""
        if self.file is not None:
            self.state = self.file.load()

    def forget(self) -> None:
        """Nobody is connected, and what an earlier namespace has left is not wanted. Raises FtlError."""
        if self.file is not None:
            self.file.remove()
        self.state = ReservationState()

    def bars(self, host: HostKey) -> tuple[int, int]:
        return self.state.bars(host, as_registrant=self._has_registrant_rights(host))

    async def save(self, new: ReservationState) -> None:
        """Before `new` becomes the state. Raises FtlError."""
        if self.file is not None and (new.persistent or self.state.persistent):
            await to_its_end(asyncio.to_thread(self.file.save, new))


class ReservedNamespace(Protocol):
    @property
    def reservations(self) -> Reservations: ...


class ReservedQueue(Protocol):
    """An I/O queue of whatever transport."""

    @property
    def aborting(self) -> int: ...


class ReservedQueues(Protocol):
    """What this module needs of a controller's I/O queues."""

    def bars_changed(self, nsid: int) -> None:
        """They get the current bars; when it returns, the reactor has them."""

    def abort(self, nsid: int) -> Sequence[ReservedQueue]:
        """Aborts the I/O that devices have. Returns the queues to wait for."""


class ReservingController(Protocol):
    """What this module needs of a controller."""

    @property
    def host(self) -> HostKey: ...
    @property
    def io_queues(self) -> ReservedQueues: ...
    @property
    def events(self) -> AsyncEvents: ...


class ReservationCommands:
    """Of one subsystem. Hosts take turns, and the commands of each queue are answered in their order."""

    def __init__(
        self,
        namespaces: Mapping[int, ReservedNamespace],
        controllers: Callable[[], Iterable[ReservingController]],
    ) -> None:
        self._namespaces = namespaces
        self._controllers = controllers
        self._waiting: dict[HostKey, deque[_shim.TargetQpair]] = {}
        """Queues that may have commands. Each is in at most one place."""
        self._turn = asyncio.Lock()
        """Held by whoever changes a reservation."""
        self._current: _shim.TargetQpair | None = None
        self._worker: asyncio.Task[None] | None = None

    def post(self, host: HostKey, qpair: _shim.TargetQpair) -> None:
        """The queue may have commands."""
        queues = self._waiting.setdefault(host, deque())
        if qpair not in queues:
            queues.append(qpair)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="reservation commands")

    async def leave(self, host: HostKey, qpair: _shim.TargetQpair) -> None:
        """The queue is about to end. Returns when no command of it is being executed."""
        queues = self._waiting.get(host)
        if queues is not None and qpair in queues:
            queues.remove(qpair)
            if not queues:
                del self._waiting[host]
        if self._current is qpair:
            async with self._turn:
                pass

    async def close(self) -> None:
        """When no queue is left. Idempotent."""
        if self._worker is not None:
            await end_tasks([self._worker])

    async def set_persistence(self, nsid: int, persistent: bool) -> Status:
        """For Set Features; takes its turn with the commands."""
        async with self._turn:
            namespace = self._namespaces.get(nsid)
            if namespace is None:
                return Status.INVALID_NAMESPACE
            reservations = namespace.reservations
            if persistent and not reservations.can_persist:
                return Status.INVALID_FIELD
            outcome = Outcome(replace(reservations.state, persistent=persistent))
            # If the host leaves meanwhile, the file and the state must not differ.
            return await to_its_end(self._adopt(nsid, reservations, outcome))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            host, queues = next(iter(self._waiting.items()))
            del self._waiting[host]
            qpair = queues.popleft()
            began = loop.time()
            command = qpair.take_command()
            spent = loop.time() - began
            if command is not None:
                queues.append(qpair)
            if queues:
                # Behind the other hosts. Its event may have come meanwhile, for another queue.
                self._waiting[host] = queues
            if command is not None:
                self._current = qpair
                try:
                    async with self._turn:
                        spent += await self._execute(host, qpair, command)
                finally:
                    self._current = None
            await asyncio.sleep(spent * REST)

    async def _execute(self, host: HostKey, qpair: _shim.TargetQpair, command: _shim.QueuedCommand) -> float:
        """Returns how long the event loop stood still for it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        waited = 0.0
        namespace = self._namespaces.get(command.nsid)
        if namespace is None:
            qpair.complete_command(command.token, Status.INVALID_NAMESPACE)
            return loop.time() - began
        reservations = namespace.reservations
        outcome = execute(
            reservations.state, host, command.opcode, command.cdw10, command.cdw11, command.data, reservations.rules
        )
        status: int = outcome.status
        if outcome.state is not reservations.state or outcome.aborts:
            paused = loop.time()
            status = await self._adopt(command.nsid, reservations, outcome)
            waited = loop.time() - paused
        qpair.complete_command(command.token, status, outcome.data)
        return loop.time() - began - waited

    async def _adopt(self, nsid: int, reservations: Reservations, outcome: Outcome) -> Status:
        try:
            await reservations.save(outcome.state)
        except FtlError as error:
            log.error("namespace %d: a reservation command fails, because %s", nsid, error.message)
            return Status.INTERNAL_ERROR
        _tell(nsid, reservations.state, outcome.state)
        reservations.state = outcome.state
        controllers = list(self._controllers())
        for controller in controllers:
            controller.io_queues.bars_changed(nsid)
        aborting: list[ReservedQueue] = []
        for controller in controllers:
            if controller.host in outcome.aborts:
                aborting += controller.io_queues.abort(nsid)
        while not await until(
            lambda: not any(qpair.aborting for qpair in aborting), poll_s=ABORT_POLL_S, timeout_s=ABORT_TELL_S
        ):
            log.warning("namespace %d: a Preempt and Abort waits for I/O of the preempted hosts", nsid)
        for controller in controllers:
            if controller.host in outcome.notices:
                controller.events.reservation_notice(nsid, outcome.notices[controller.host])
        return Status.SUCCESS


def _tell(nsid: int, old: ReservationState, new: ReservationState) -> None:
    if (old.type, old.holder) == (new.type, new.holder):
        return
    if new.type is None:
        log.info("namespace %d is no longer reserved", nsid)
    else:
        by = "all registrants" if new.holder is None else show_name(new.holder.hostnqn)
        log.info("namespace %d is reserved by %s: %s", nsid, by, new.type.name.replace("_", " ").lower())


def describe(reservations: Reservations) -> dict[str, Any]:
    """For RPCs."""
    state = reservations.state
    return {
        "type": None if state.type is None else state.type.name.lower(),
        "generation": state.generation,
        "persistent": state.persistent,
        "registrants": [
            {"hostnqn": host.hostnqn, "hostid": host.hostid.hex(), "key": f"{key:#x}", "holder": state.holds(host)}
            for host, key in state.registrants.items()
        ],
    }
