"""The queues of a controller in its client's memory: what the shim serves, and what Python knows of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from ... import _shim
from ...errors import ParameterError
from ...nvme.target.io_queues import IoQueueSet, ServedQueue
from ...runtime.reactor import ReactorLoop
from .client_state import Queue


class Memory(Protocol):
    """The client's memory: DmaMap of the shim."""

    def map(self, iova: int, size: int, fd: int, offset: int, writable: bool, /) -> None:
        """Raises ValueError, OSError."""

    def unmap(self, iova: int, size: int, /) -> None: ...
    def clear(self) -> None: ...


class SharedQueue(ServedQueue, Protocol):
    """SharedTargetQpair of the shim."""

    def quiesce(self) -> None: ...
    def resume(self) -> None: ...


class TakenCommand(Protocol):
    """AdminCommand of the shim."""

    @property
    def token(self) -> int: ...
    @property
    def sqe(self) -> bytes: ...


class AdminQueue(Protocol):
    """SharedAdminQueue of the shim."""

    @property
    def id(self) -> int: ...
    def take(self) -> TakenCommand | None: ...
    def read_data(self, token: int, length: int, /) -> bytes | None: ...
    def complete(self, token: int, status: int, result: int, data: bytes = ..., /) -> bool: ...
    def close(self) -> None: ...


class QueueMaker(Protocol):
    """Makes what the shim serves. Everything raises ValueError or OSError for a client's impossible addresses."""

    def memory(self) -> Memory: ...
    def record(self, sq_entries: int) -> int:
        """A memfd of zeroes for a queue's record; the caller's."""

    def admin_queue(self, memory: Memory, bar0: int, queue: Queue) -> AdminQueue: ...
    def io_queue(self, memory: Memory, bar0: int, queue: Queue, queues: SharedIoQueues) -> SharedQueue: ...


class SharedIoQueues(IoQueueSet[SharedQueue]):
    """on_fault: called with a reason when a queue has ended by itself: its client's memory is broken, or a doorbell has
    an impossible value."""

    on_fault: Callable[[str], object] = staticmethod(lambda reason: None)
    is_fault: Callable[[_shim.Event, SharedQueue], str] = staticmethod(lambda event, queue: "")
    """The reason if the event says that a queue has ended; otherwise empty."""

    def _on_event(self, qid: int, qpair: SharedQueue, event: _shim.Event) -> None:
        reason = self.is_fault(event, qpair)
        if reason:
            self.on_fault(f"I/O queue {qid}: {reason}")


def record_memfd(size: int) -> int:
    descriptor = os.memfd_create("vfio-user queue", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require_reactor(reactor: ReactorLoop) -> None:
    """Raises ParameterError if it has no thread: clients wait for it."""
    if not reactor.shim.running:
        raise ParameterError(f"reactor {reactor.name} does not run")
