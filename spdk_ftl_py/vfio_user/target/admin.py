"""The admin commands of a controller in its client's memory: those of queues here, the others by the classes that serve
NVMe/TCP. Base 2.0 section 5."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ... import _shim
from ...nvme import wire
from ...nvme.identify import ControllerTraits
from ...nvme.target import identify_commands
from ...nvme.target.capsule import Completion
from ...nvme.target.events import AsyncEvents
from ...nvme.target.features import HOST_BEHAVIOR_BYTES, Features
from ...nvme.target.log_pages import LogPages
from ...nvme.target.namespace import Namespace
from ...nvme.target.subsystem import Subsystem
from ...nvme.target.traits import TargetLimits, controller_traits, has_volatile_cache
from ...nvme.wire import AdminOp, Feature, Sqe, Status
from ...runtime.reactor import ReactorLoop
from .client_state import Queue
from .queues import QueueMaker, SharedIoQueues, fault_of

TURN_COMMANDS: Final = 32
"""Executed in one go. A client may have thousands, and others wait."""
QUEUE_ENTRIES_MIN: Final = 2
PHYSICALLY_CONTIGUOUS: Final = 1
INTERRUPTS_ENABLED: Final = 1 << 1
_PRP1: Final = struct.Struct("<24xQ32x")
_JOURNALLED: Final = frozenset(
    {
        AdminOp.CREATE_IO_CQ, AdminOp.CREATE_IO_SQ, AdminOp.DELETE_IO_CQ, AdminOp.DELETE_IO_SQ, AdminOp.SET_FEATURES,
    }
)  # fmt: skip
"""Commands that must not be executed twice: the second time, the queue would exist already."""


@dataclass(frozen=True)
class SharedSqe(Sqe):
    """A command of an admin queue in memory, with the token by which it is completed."""

    token: int = -1
    raw: bytes = b""

    @classmethod
    def of(cls, token: int, raw: bytes) -> SharedSqe:
        sqe = Sqe.unpack(raw)
        return cls(**vars(sqe), token=token, raw=raw)

    @property
    def prp1(self) -> int:
        address: int
        (address,) = _PRP1.unpack(self.raw)
        return address


class Controller(Protocol):
    """What the commands act on: see SharedController."""

    @property
    def reactor(self) -> ReactorLoop: ...
    @property
    def subsystem(self) -> Subsystem: ...
    @property
    def limits(self) -> TargetLimits: ...
    @property
    def maker(self) -> QueueMaker: ...
    @property
    def cntlid(self) -> int: ...
    @property
    def hostnqn(self) -> str: ...
    @property
    def hostid(self) -> bytes: ...
    @property
    def listener(self) -> tuple[str, int]: ...
    @property
    def zoned(self) -> bool: ...
    @property
    def entries_max(self) -> int:
        """Of a queue."""

    @property
    def iosqes(self) -> int: ...
    @property
    def iocqes(self) -> int: ...
    @property
    def io_queues(self) -> SharedIoQueues: ...
    def visible_namespaces(self) -> Mapping[int, Namespace]: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...
    def faulted(self, reason: str) -> None:
        """Ends the client's connection."""

    def has_memory(self, iova: int, size: int) -> bool: ...
    def keep(self, *, queues: Sequence[Queue] = (), dropped: Sequence[int] = ()) -> None:
        """For the next process: with to_record()."""

    def completion_queue(self, qid: int) -> Queue | None: ...
    def add_completion_queue(self, queue: Queue) -> None: ...
    def remove_completion_queue(self, qid: int) -> None: ...
    def has_io_queue(self, qid: int) -> bool: ...
    def open_io_queue(self, queue: Queue) -> None: ...
    async def close_io_queue(self, qid: int) -> None: ...


class AdminCommands:
    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._queue: _shim.SharedAdminQueue | None = None
        self._features = self._fresh_features()
        self._journal: tuple[bytes, int, int] | None = None
        """The last command of _JOURNALLED, and the status and result with which it is completed."""
        self._deleting: set[int] = set()
        self.events = AsyncEvents(
            self._complete_later, controller.spawn, may_send=lambda: self._queue is not None,
            features=lambda: self._features, nsids=controller.visible_namespaces,
        )  # fmt: skip
        self.log_pages = LogPages(
            controller.subsystem, self.events, listener=controller.listener,
            max_io_bytes=controller.limits.max_io_bytes, zoned=controller.zoned, traits=self._traits,
            namespaces=controller.visible_namespaces, discovery_log=lambda: (0, []),
        )  # fmt: skip

    def _fresh_features(self) -> Features:
        controller = self._controller
        return Features(
            hostid=controller.hostid, io_queues=controller.io_queues.most, kato_ms=0, kato_granularity_ms=100,
            volatile_cache=lambda: has_volatile_cache(controller.subsystem), discovery=False,
            nsids=controller.visible_namespaces, ana=controller.subsystem.ana, fabrics=False,
        )  # fmt: skip

    def _traits(self) -> ControllerTraits:
        controller = self._controller
        return controller_traits(
            controller.subsystem, controller.limits, subnqn=controller.subsystem.nqn, cntlid=controller.cntlid,
            hostnqn=controller.hostnqn, zoned=controller.zoned, fabrics=False,
        )  # fmt: skip

    # --- life -------------------------------------------------------------------------------------------------------

    def serve(self, queue: _shim.SharedAdminQueue) -> None:
        self._queue = queue
        self._controller.reactor.subscribe(queue.id, self._on_event)
        # Those that another process has taken, but not completed.
        self._take(queue)

    def leave(self) -> None:
        """Its queue is about to be closed. What was not completed stays in the record."""
        queue, self._queue = self._queue, None
        if queue is not None:
            self._controller.reactor.unsubscribe(queue.id)

    def reset(self) -> None:
        """To the state after the connection."""
        self.events.forget()
        self._features = self._fresh_features()
        self._journal = None
        self._deleting.clear()

    def to_record(self) -> dict[str, Any]:
        record: dict[str, Any] = {"features": self._features.to_record()}
        if self._journal is not None:
            raw, status, result = self._journal
            record["journal"] = [raw.hex(), status, result]
        return record

    def restore(self, record: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError."""
        self._features.restore(record["features"])
        if "journal" in record:
            raw, status, result = record["journal"]
            self._journal = bytes.fromhex(raw), int(status), int(result)

    # --- commands ---------------------------------------------------------------------------------------------------

    def _on_event(self, event: _shim.Event) -> None:
        reason = fault_of(event)
        if reason:
            self._controller.faulted(f"admin queue: {reason}")
        elif self._queue is not None:
            self._take(self._queue)

    def _take(self, queue: _shim.SharedAdminQueue) -> None:
        for _ in range(TURN_COMMANDS):
            if self._queue is not queue:
                return
            command = queue.take()
            if command is None:
                return
            sqe = SharedSqe.of(command.token, command.sqe)
            completion = self._dispatch(sqe)
            if completion is not None:
                self._complete(sqe, completion)
        asyncio.get_running_loop().call_soon(self._take, queue)

    def _dispatch(self, sqe: SharedSqe) -> Completion | None:
        """None: it will be completed later."""
        if sqe.flags:
            # Fused, or an SGL: admin commands have PRPs.
            return Completion(Status.INVALID_FIELD)
        if sqe.opcode in _JOURNALLED:
            if self._journal is not None and self._journal[0] == sqe.raw:
                # Done by another process, which died before it could say so. (Or the client has sent the same again;
                # then it gets the same answer.)
                return Completion(self._journal[1], result=self._journal[2])
            return self._journalled(sqe)
        match sqe.opcode:
            case AdminOp.IDENTIFY:
                return identify_commands.answer(sqe, self._traits(), self._controller.visible_namespaces())
            case AdminOp.GET_LOG_PAGE:
                return self.log_pages.get(sqe)
            case AdminOp.GET_FEATURES:
                return self._features.get(sqe)
            case AdminOp.ASYNC_EVENT_REQUEST:
                return self.events.request(sqe)
            case AdminOp.ABORT:
                return self.events.abort(sqe)
        return Completion(Status.INVALID_OPCODE)

    def _journalled(self, sqe: SharedSqe) -> Completion | None:
        match sqe.opcode:
            case AdminOp.CREATE_IO_CQ:
                return self._create_completion_queue(sqe)
            case AdminOp.CREATE_IO_SQ:
                return self._create_submission_queue(sqe)
            case AdminOp.DELETE_IO_CQ:
                return self._delete_completion_queue(sqe)
            case AdminOp.DELETE_IO_SQ:
                return self._delete_submission_queue(sqe)
        return self._keep(sqe, self._set_features(sqe))

    def _keep(
        self, sqe: SharedSqe, completion: Completion, *, queues: Sequence[Queue] = (), dropped: Sequence[int] = ()
    ) -> Completion:
        """Before the command is completed: what it has changed, and how it is completed."""
        self._journal = sqe.raw, int(completion.status), completion.result
        self._controller.keep(queues=queues, dropped=dropped)
        return completion

    async def _complete_later(self, sqe: Sqe, completion: Completion) -> None:
        assert isinstance(sqe, SharedSqe)
        self._complete(sqe, completion)

    def _complete(self, sqe: SharedSqe, completion: Completion) -> None:
        if self._queue is None:
            return
        status = int(completion.status)
        data = b"" if completion.data is None or status else bytes(completion.data)
        if not self._queue.complete(sqe.token, status, completion.result, data):
            self._queue.complete(sqe.token, Status.DATA_TRANSFER_ERROR, 0, b"")

    def _set_features(self, sqe: SharedSqe) -> Completion:
        data = b""
        if sqe.cdw10 & 0xFF == Feature.HOST_BEHAVIOR:
            assert self._queue is not None
            given = self._queue.read_data(sqe.token, HOST_BEHAVIOR_BYTES)
            if given is None:
                return Completion(Status.DATA_TRANSFER_ERROR)
            data = given
        return self._features.set(sqe, data)

    # --- queues -----------------------------------------------------------------------------------------------------

    def _check_new_queue(self, sqe: SharedSqe, *, exists: bool, entry_bytes: int, entry_shift: int) -> Status:
        """entry_shift: log2 of the size of its entries, which CC must have."""
        controller = self._controller
        qid, entries = sqe.cdw10 & 0xFFFF, (sqe.cdw10 >> 16) + 1
        if exists or not 1 <= qid <= controller.io_queues.most:
            return Status.INVALID_QUEUE_ID
        if not QUEUE_ENTRIES_MIN <= entries <= controller.entries_max or entry_shift != entry_bytes.bit_length() - 1:
            return Status.INVALID_QUEUE_SIZE
        if not sqe.cdw11 & PHYSICALLY_CONTIGUOUS:
            return Status.INVALID_FIELD
        if sqe.prp1 % wire.PAGE_BYTES:
            return Status.PRP_OFFSET
        if not controller.has_memory(sqe.prp1, entries * entry_bytes):
            return Status.INVALID_FIELD
        return Status.SUCCESS

    def _create_completion_queue(self, sqe: SharedSqe) -> Completion:
        controller, qid = self._controller, sqe.cdw10 & 0xFFFF
        status = self._check_new_queue(
            sqe, exists=controller.completion_queue(qid) is not None, entry_bytes=wire.CQE_BYTES,
            entry_shift=controller.iocqes,
        )  # fmt: skip
        if not status and (sqe.cdw11 & INTERRUPTS_ENABLED or sqe.cdw11 >> 16):
            status = Status.INVALID_INTERRUPT_VECTOR
        if status:
            return self._keep(sqe, Completion(status))
        queue = Queue(qid, 0, sqe.prp1, 0, (sqe.cdw10 >> 16) + 1)
        controller.add_completion_queue(queue)
        return self._keep(sqe, Completion(), queues=[queue])

    def _create_submission_queue(self, sqe: SharedSqe) -> Completion:
        controller, qid, cqid = self._controller, sqe.cdw10 & 0xFFFF, sqe.cdw11 >> 16
        status = self._check_new_queue(
            sqe, exists=controller.has_io_queue(qid), entry_bytes=wire.SQE_BYTES, entry_shift=controller.iosqes
        )
        completion_queue = controller.completion_queue(cqid)
        if not status and (completion_queue is None or cqid != qid):
            # A completion queue belongs to the submission queue with its number.
            status = Status.COMPLETION_QUEUE_INVALID
        if status or completion_queue is None:
            return self._keep(sqe, Completion(status))
        entries = (sqe.cdw10 >> 16) + 1
        record = controller.maker.io_record(entries)
        try:
            queue = Queue(qid, sqe.prp1, completion_queue.cq_iova, entries, completion_queue.cq_entries, record)
            try:
                controller.open_io_queue(queue)
            except (ValueError, OSError):
                return self._keep(sqe, Completion(Status.INVALID_FIELD))
            self._features.io_queues_created = True
            # The client sends nothing to a queue before it knows that it was created.
            return self._keep(sqe, Completion(), queues=[queue])
        finally:
            os.close(record)

    def _delete_completion_queue(self, sqe: SharedSqe) -> Completion:
        controller, qid = self._controller, sqe.cdw10 & 0xFFFF
        if controller.completion_queue(qid) is None:
            return self._keep(sqe, Completion(Status.INVALID_QUEUE_ID))
        if controller.has_io_queue(qid):
            return self._keep(sqe, Completion(Status.INVALID_QUEUE_DELETION))
        controller.remove_completion_queue(qid)
        return self._keep(sqe, Completion(), dropped=[qid])

    def _delete_submission_queue(self, sqe: SharedSqe) -> Completion | None:
        qid = sqe.cdw10 & 0xFFFF
        if not self._controller.has_io_queue(qid) or qid in self._deleting:
            return self._keep(sqe, Completion(Status.INVALID_QUEUE_ID))
        self._deleting.add(qid)
        self._controller.spawn(self._delete(sqe, qid))
        return None

    async def _delete(self, sqe: SharedSqe, qid: int) -> None:
        controller = self._controller
        try:
            await controller.close_io_queue(qid)
        finally:
            self._deleting.discard(qid)
        left = controller.completion_queue(qid)
        self._complete(sqe, self._keep(sqe, Completion(), queues=[] if left is None else [left]))
