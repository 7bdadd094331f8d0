"""The queues of a controller in its client's memory: what the shim serves, and what Python knows of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from ... import _shim
from ...nvme.target.io_queues import IoQueueSet
from ...runtime.reactor import ReactorLoop
from .client_state import Queue


class SharedIoQueues(IoQueueSet[_shim.SharedTargetQpair]):
    on_fault: Callable[[str], object] = staticmethod(lambda reason: None)
    """Called with a reason when a queue has ended by itself: its client's memory is broken, or a doorbell has an
    impossible value."""

    def _on_event(self, qid: int, qpair: _shim.SharedTargetQpair, event: _shim.Event) -> None:
        reason = fault_of(event)
        if event.kind == _shim.EventKind.OVERFLOW and not qpair.connected:
            reason = "it has ended"
        if reason and self._live():
            self.on_fault(f"I/O queue {qid}: {reason}")


def fault_of(event: _shim.Event) -> str:
    """Empty: the event says nothing about a fault."""
    if event.kind != _shim.EventKind.SHARED_QPAIR_CLOSED:
        return ""
    if event.fault == _shim.SharedFault.INVALID_DOORBELL:
        return f"a doorbell has the impossible value {event.detail}"
    return "a file with memory of the client was made shorter"


class QueueMaker(Protocol):
    """Makes what the shim serves. Methods with addresses of the client raise ValueError or OSError for impossible
    ones."""

    def memory(self) -> _shim.DmaMap: ...
    def admin_record(self, sq_entries: int) -> int:
        """A memfd for the record of a new queue; it is the caller's."""

    def io_record(self, sq_entries: int) -> int: ...
    def admin_queue(self, memory: _shim.DmaMap, bar0: int, queue: Queue) -> _shim.SharedAdminQueue: ...
    def io_queue(
        self, memory: _shim.DmaMap, bar0: int, queue: Queue, queues: SharedIoQueues
    ) -> _shim.SharedTargetQpair: ...


class ShimQueues:
    """The QueueMaker of the product."""

    def __init__(self, reactor: ReactorLoop, max_io_bytes: int) -> None:
        self.reactor = reactor
        self._max_io_bytes = max_io_bytes

    def memory(self) -> _shim.DmaMap:
        return _shim.DmaMap()

    def admin_record(self, sq_entries: int) -> int:
        return _record(_shim.SharedAdminQueue.record_bytes(sq_entries))

    def io_record(self, sq_entries: int) -> int:
        return _record(_shim.SharedTargetQpair.record_bytes(sq_entries))

    def admin_queue(self, memory: _shim.DmaMap, bar0: int, queue: Queue) -> _shim.SharedAdminQueue:
        return _shim.SharedAdminQueue(
            self.reactor.shim, memory, bar0, queue.descriptor, queue.sq_iova, queue.cq_iova, queue.sq_entries,
            queue.cq_entries,
        )  # fmt: skip

    def io_queue(
        self, memory: _shim.DmaMap, bar0: int, queue: Queue, queues: SharedIoQueues
    ) -> _shim.SharedTargetQpair:
        config = _shim.SharedQpairConfig(
            qid=queue.qid, sq_iova=queue.sq_iova, cq_iova=queue.cq_iova, sq_entries=queue.sq_entries,
            cq_entries=queue.cq_entries, max_io_bytes=self._max_io_bytes, flush_alarm=queues.flush_alarm,
        )  # fmt: skip
        return _shim.SharedTargetQpair(
            self.reactor.shim, memory, bar0, queue.descriptor, config, queues.devices(self.reactor), queues.bars()
        )


def _record(size: int) -> int:
    descriptor = os.memfd_create("vfio-user queue", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
