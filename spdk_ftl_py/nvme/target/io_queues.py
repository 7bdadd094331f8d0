"""The I/O queues of one controller: which there are, what they serve, which of it is barred, and what they have done.

The shim serves them; IoQueues keeps a list of them, tells them what has changed, and closes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from ... import _shim
from ...runtime.reactor import ReactorLoop
from ..wire import AnaState, Status
from .connected_hosts import HostKey
from .namespace import Namespace
from .subsystem import Subsystem


class QueueStats(Protocol):
    def as_dict(self) -> dict[str, int]: ...


class ServedQueue(Protocol):
    """An I/O queue that the shim serves, of whatever transport: see TargetQpair in _shim.pyi."""

    @property
    def id(self) -> int: ...
    @property
    def aborting(self) -> int: ...
    def set_namespace(self, nsid: int, device: _shim.BlockDevice | None, bars: tuple[int, int] = ..., /) -> None: ...
    def give_back_removed(self) -> bool: ...
    def set_bars(self, nsid: int, bars: tuple[int, int], /) -> None: ...
    def abort_io(self, nsid: int, /) -> None: ...
    def stats(self) -> QueueStats: ...
    def close(self) -> None: ...


QueueT = TypeVar("QueueT", bound=ServedQueue)


@dataclass
class _Counts:
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


class IoQueueSet(Generic[QueueT]):
    """Of any transport."""

    def __init__(
        self,
        reactor: ReactorLoop,
        subsystem: Subsystem | None,
        *,
        host: HostKey,
        listener: tuple[str, int],
        most: int,
        namespaces: Callable[[], Mapping[int, Namespace]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        live: Callable[[], bool],
    ) -> None:
        """subsystem: None: of a discovery controller, which never has I/O queues. host, listener: of the controller.
        most: how many it may have. namespaces: those that the host sees. spawn runs what closes a queue that its host
        has left, as long as live() says that the controller is not closing."""
        self.most = most
        self.qpairs: dict[int, QueueT | None] = {}
        """By queue id; None while Connect is being answered."""
        self._reactor = reactor
        """Of queues that are nowhere else."""
        self._elsewhere: dict[int, ReactorLoop] = {}
        """By queue id."""
        self._subsystem = subsystem
        self._host = host
        self._listener = listener
        self._namespaces = namespaces
        self._spawn = spawn
        self._live = live
        self._ended = _Counts()
        """Of queues that are gone."""
        self._bars: dict[int, tuple[int, int]] = {}
        """Those of the queues, by NSID."""

    @property
    def _adopted(self) -> list[QueueT]:
        return [qpair for qpair in self.qpairs.values() if qpair is not None]

    def describe(self) -> dict[str, Any]:
        """Counts of all queues, and of each. Waits for the reactor, a moment for each queue."""
        total, qpairs = _Counts(**asdict(self._ended)), []
        for qid, qpair in sorted(self.qpairs.items()):
            stats = {} if qpair is None else qpair.stats().as_dict()
            total.add(stats)
            qpairs.append({"qid": qid, **stats})
        return {"num_io_qpairs": len(qpairs), **asdict(total), "qpairs": qpairs}

    # --- what a new one gets ----------------------------------------------------------------------------------------

    @property
    def flush_alarm(self) -> _shim.FlushAlarm | None:
        hosts = None if self._subsystem is None else self._subsystem.connected_hosts
        return None if hosts is None else hosts.alarm_of(self._host)

    def devices(self, reactor: ReactorLoop) -> dict[int, _shim.BlockDevice]:
        """Those that serve the namespaces now on that reactor, by NSID."""
        stand_in = None if self._subsystem is None else self._subsystem.stand_in(self._host, reactor)
        return {nsid: stand_in or namespace.device_on(reactor) for nsid, namespace in self._namespaces().items()}

    def reactor_of(self, qid: int) -> ReactorLoop:
        return self._elsewhere.get(qid, self._reactor)

    def bars(self) -> dict[int, tuple[int, int]]:
        """Those of the namespaces now, by NSID."""
        return {nsid: self._bars_of(nsid) for nsid in self._namespaces()}

    def _bars_of(self, nsid: int) -> tuple[int, int]:
        """The statuses with which its commands fail now: see TargetQpair.set_bars()."""
        namespace = None if self._subsystem is None else self._subsystem.namespaces.get(nsid)
        bars = (0, 0)
        if self._subsystem is not None and namespace is not None:
            bars = namespace.reservations.bars(self._host)
            if self._subsystem.ana_state(*self._listener, namespace.ana_group) is AnaState.INACCESSIBLE:
                bars = Status.ANA_INACCESSIBLE, Status.ANA_INACCESSIBLE
        self._bars[nsid] = bars
        return bars

    # --- from Connect to the end ------------------------------------------------------------------------------------

    def reserve(self, qid: int) -> None:
        self.qpairs[qid] = None

    def release(self, qid: int) -> None:
        """Releases a reservation that was not used."""
        self.qpairs.pop(qid, None)

    def adopt(self, qid: int, qpair: QueueT, reactor: ReactorLoop) -> None:
        """The queue is closed here from now on. It must have the current devices() and bars()."""
        self.qpairs[qid] = qpair
        self._elsewhere[qid] = reactor
        reactor.subscribe(qpair.id, lambda event: self._on_event(qid, qpair, event))

    def _on_event(self, qid: int, qpair: QueueT, event: _shim.Event) -> None:
        """What the shim tells of a queue."""

    async def _leave(self, qpair: QueueT) -> None:
        """Called before a queue is closed."""

    async def close_one(self, qid: int) -> None:
        """Waits for the queue's last I/O. Idempotent."""
        qpair = self.qpairs.get(qid)
        if qpair is not None:
            await self._close(qid, qpair, self.reactor_of(qid))

    async def _close(self, qid: int, qpair: QueueT, reactor: ReactorLoop) -> None:
        """reactor: of the queue. Two may close one queue: when the first has ended, reactor_of() no longer knows it."""
        # The queue id becomes free only when its last command has ended: a host that reconnects must not overtake it.
        await self._leave(qpair)
        await _close_qpair(reactor, qpair)
        reactor.unsubscribe(qpair.id)
        if self.qpairs.get(qid) is qpair:
            self._ended.add(qpair.stats().as_dict())
            del self.qpairs[qid]
            self._elsewhere.pop(qid, None)

    async def close(self) -> None:
        """Closes all of them, and waits for their last I/O."""
        await asyncio.gather(
            *(
                self._close(qid, qpair, self.reactor_of(qid))
                for qid, qpair in list(self.qpairs.items())
                if qpair is not None
            )
        )

    # --- changes ----------------------------------------------------------------------------------------------------

    def serve_anew(self) -> None:
        """They get the current devices()."""
        for qid, qpair in list(self.qpairs.items()):
            if qpair is not None:
                for nsid, device in self.devices(self.reactor_of(qid)).items():
                    qpair.set_namespace(nsid, device, self._bars_of(nsid))

    def set_namespace(self, nsid: int, namespace: Namespace | None) -> None:
        """None: the host no longer sees that namespace."""
        for qid, qpair in list(self.qpairs.items()):
            if qpair is not None:
                device = None if namespace is None else namespace.device_on(self.reactor_of(qid))
                qpair.set_namespace(nsid, device, self._bars_of(nsid))

    def give_back_removed(self) -> bool:
        """Lets go of the devices of removed namespaces. False: I/O that has begun uses one still."""
        in_use = [qpair for qpair in self._adopted if not qpair.give_back_removed()]
        return not in_use

    def bars_changed(self, nsid: int) -> None:
        """They get the current bars; when it returns, the reactor has them."""
        before = self._bars.get(nsid)
        bars = self._bars_of(nsid)
        if bars != before:
            for qpair in self._adopted:
                qpair.set_bars(nsid, bars)

    def abort(self, nsid: int) -> list[QueueT]:
        """Aborts the I/O that devices have. Returns the queues to wait for."""
        qpairs = self._adopted
        for qpair in qpairs:
            qpair.abort_io(nsid)
        return qpairs


class IoQueues(IoQueueSet[_shim.TargetQpair]):
    """Those of a controller behind NVMe/TCP. A queue ends when its host leaves."""

    def _on_event(self, qid: int, qpair: _shim.TargetQpair, event: _shim.Event) -> None:
        overflow = event.kind == _shim.EventKind.OVERFLOW
        if (event.kind == _shim.EventKind.TARGET_QPAIR_COMMAND or overflow) and self._subsystem is not None:
            self._subsystem.reservation_commands.post(self._host, qpair)
        closed = event.kind == _shim.EventKind.TARGET_QPAIR_CLOSED or (overflow and not qpair.connected)
        # A controller that closes calls close(), and nobody would wait for another task.
        if closed and self._live() and self.qpairs.get(qid) is qpair:
            self._spawn(self._close(qid, qpair, self.reactor_of(qid)))

    async def _leave(self, qpair: _shim.TargetQpair) -> None:
        if self._subsystem is not None:
            await self._subsystem.reservation_commands.leave(self._host, qpair)


async def _close_qpair(reactor: ReactorLoop, qpair: ServedQueue) -> None:
    """Waits for the qpair's last I/O without blocking the event loop."""
    if reactor.shim.running:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, qpair.close))
    else:
        qpair.close()
