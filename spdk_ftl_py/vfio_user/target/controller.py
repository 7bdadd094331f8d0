"""A controller in the memory of one client: its life, its registers' steps, its queues, and what its next process has
to know of it. admin.py executes its commands.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

from ... import _shim
from ...errors import FtlError
from ...nvme import wire
from ...nvme.target.connected_hosts import HostKey
from ...nvme.target.events import AsyncEvents
from ...nvme.target.namespace import Namespace
from ...nvme.target.subsystem import Subsystem
from ...nvme.target.traits import TargetLimits, visible_namespaces
from ...nvme.wire import Cap
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks
from .admin import AdminCommands
from .client_state import ClientState, Queue, Region
from .queues import QueueMaker, SharedIoQueues
from .registers import QUEUES_MAX, Registers

ADMIN_QID: Final = 0

log = logging.getLogger(__name__)


class Port(Protocol):
    """The endpoint, as far as a controller acts on it."""

    def keep(self, note: dict[str, Any], queues: Sequence[Queue], dropped: Sequence[int]) -> None:
        """For the next process of the controller, whenever this one dies: its note, queues that are new or have
        changed (their descriptors stay the caller's), and the ids of those that are gone. All of it, or nothing."""

    def fail(self) -> None:
        """CSTS.CFS."""

    def drop(self, reason: str) -> None:
        """Ends the client's connection."""


class SharedController:
    """For one client, from its connection to its end. The endpoint's steps come one at a time."""

    authenticated = True
    """The permissions of the socket say who may connect."""

    def __init__(
        self,
        reactor: ReactorLoop,
        subsystem: Subsystem,
        limits: TargetLimits,
        *,
        client: ClientState,
        cntlid: int,
        host: HostKey,
        directory: Path,
        port: Port,
        maker: QueueMaker,
        on_change: Callable[[], object],
        patient: Callable[[], bool] = lambda: True,
    ) -> None:
        """on_change: called when `enabled` may have changed. patient: whether to wait for devices however long they
        take."""
        self.reactor = reactor
        self.subsystem = subsystem
        self.limits = limits
        self.cntlid = cntlid
        self.host = host
        self.address = str(directory)
        self.listener = (str(directory), 0)
        self.connected_since = datetime.now(timezone.utc)
        self.regions: dict[int, Region] = {}
        self.port = port
        self.maker = maker
        self.memory = maker.memory()
        self.ended = asyncio.Event()
        self.shut_down = client.registers.csts & wire.CSTS_SHST_MASK == wire.CSTS_SHST_COMPLETE
        """The client has shut down in order, and has not enabled the controller again."""
        self._began_s = asyncio.get_running_loop().time()
        self._bar0 = os.dup(client.bar0)
        self._registers = client.registers
        self._on_change = on_change
        self._patient = patient
        self._background: set[asyncio.Task[None]] = set()
        self._live = True
        self._admin: _shim.SharedAdminQueue | None = None
        self._completion_queues: dict[int, Queue] = {}
        """Those that exist, with or without a submission queue."""
        self._records: dict[int, Queue] = {}
        """The I/O queues, with descriptors of our own."""
        self._changing = asyncio.Lock()
        """Held while queues are opened or closed."""
        self.io_queues = SharedIoQueues(
            reactor, subsystem, host=host, listener=self.listener, most=min(limits.max_io_qpairs, QUEUES_MAX - 1),
            namespaces=self.visible_namespaces, spawn=self.spawn, live=lambda: self._live,
        )  # fmt: skip
        self.io_queues.on_fault = self.faulted
        self.commands = AdminCommands(self)
        self.events: AsyncEvents = self.commands.events

    # --- what it is now ---------------------------------------------------------------------------------------------

    @property
    def hostnqn(self) -> str:
        return self.host.hostnqn

    @property
    def hostid(self) -> bytes:
        return self.host.hostid

    @property
    def enabled(self) -> bool:
        return self._live and self._admin is not None

    @property
    def zoned(self) -> bool:
        return bool(self._registers.cap & Cap.CSS_IOCS)

    @property
    def iosqes(self) -> int:
        """CC.IOSQES."""
        return self._registers.cc >> wire.CC_IOSQES_SHIFT & 0xF

    @property
    def iocqes(self) -> int:
        return self._registers.cc >> wire.CC_IOCQES_SHIFT & 0xF

    @property
    def entries_max(self) -> int:
        return (self._registers.cap & 0xFFFF) + 1

    def visible_namespaces(self) -> Mapping[int, Namespace]:
        return visible_namespaces(self.subsystem, self._registers.cc)

    def describe(self) -> dict[str, Any]:
        """Its identity, the time of its connection, and its I/O. Waits for the reactor, a moment for each I/O queue."""
        return {
            "cntlid": self.cntlid,
            "hostnqn": self.hostnqn,
            "hostid": str(UUID(bytes=self.hostid)),
            "traddr": self.address,
            "trsvcid": "0",
            "connected": self.connected_since.isoformat(timespec="seconds"),
            "age_s": round(asyncio.get_running_loop().time() - self._began_s, 1),
            "authentication": None,
            "tls": None,
            **self.io_queues.describe(),
        }

    def namespace_changed(self, nsid: int, namespace: Namespace | None) -> None:
        """Called by the subsystem after the change."""
        self.io_queues.set_namespace(nsid, namespace if nsid in self.visible_namespaces() else None)
        self.events.zone_log_read(nsid)
        self.events.namespace_changed(nsid)

    def ana_changed(self) -> None:
        for nsid in self.visible_namespaces():
            self.io_queues.bars_changed(nsid)
        self.commands.log_pages.ana_changes += 1
        self.events.ana_changed()

    # --- life -------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work), name=f"controller at {self.address}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FtlError as error:
            self.faulted(error.message)

    def faulted(self, reason: str) -> None:
        if self._live:
            log.warning("vfio-user client at %s: %s", self.address, reason)
            self.port.drop(f"the client was disconnected: {reason}")

    async def close(self, reason: str = "disconnected by the target") -> None:
        """For the subsystem: ends the client's connection, and waits until nothing of it is in use."""
        if self._live:
            self.port.drop(reason)
        await self.ended.wait()

    async def renew(self) -> None:
        """Other queues go on from the records of the present ones. The client does not notice."""
        async with self._changing:
            records = list(self._records.values())
            await self._end_io(self.io_queues.close)
            for queue in records:
                if self._live and self._records.get(queue.qid) is queue:
                    try:
                        self._serve_queue(queue)
                    except (ValueError, OSError) as error:
                        self.faulted(f"I/O queue {queue.qid}: {error}")

    async def end(self) -> None:
        """Call it when the client has gone, or another process takes it over. Idempotent."""
        if not self._live:
            return
        self._live = False
        await self._close_queues()
        await end_tasks(self._background)
        await asyncio.to_thread(self.memory.clear)
        os.close(self._bar0)
        self.ended.set()
        self._on_change()

    # --- memory -----------------------------------------------------------------------------------------------------

    async def map(self, region: Region) -> None:
        """Raises ValueError, OSError."""
        await asyncio.to_thread(
            self.memory.map, region.iova, region.size, region.descriptor, region.offset, region.writable
        )
        self.regions[region.iova] = region

    async def unmap(self, region: Region) -> None:
        """No later command can use it. Waits for those in flight that do, but see DmaMap.unmap()."""
        await asyncio.to_thread(self.memory.unmap, region.iova, region.size)
        del self.regions[region.iova]

    def has_memory(self, iova: int, size: int) -> bool:
        """All of it is the client's. Regions may follow each other."""
        at = iova
        for region in sorted(self.regions.values(), key=lambda region: region.iova):
            if region.iova <= at < region.end:
                at = region.end
        return at >= iova + size

    # --- steps ------------------------------------------------------------------------------------------------------

    async def enable(self, registers: Registers) -> None:
        """Raises FtlError, ValueError, OSError: the controller fails."""
        self._registers = registers
        if self.subsystem.connected_hosts is not None:
            self.subsystem.connected_hosts.arrived(self.host)
        self.shut_down = False
        self._new_admin_queue()
        self._on_change()

    def _new_admin_queue(self) -> None:
        queues = self._registers.admin_queues
        record = self.maker.admin_record(queues.sq_entries)
        try:
            queue = Queue(
                ADMIN_QID, queues.sq_iova, queues.cq_iova, queues.sq_entries, queues.cq_entries, record
            )  # fmt: skip
            # Before the first command can come: the next process has to find it.
            self.keep(queues=[queue])
            self._open_admin(queue)
        finally:
            os.close(record)

    def _open_admin(self, queue: Queue) -> None:
        admin = self.maker.admin_queue(self.memory, self._bar0, queue)
        self._admin = admin
        self.commands.serve(admin)

    async def disable(self) -> None:
        """Nothing of the queues is in use when it returns, and everything is as it was after the connection."""
        await self._close_queues()
        self.commands.reset()
        self._on_change()

    async def shut_down_in_order(self, registers: Registers) -> None:
        """The registers tell the client when it is done."""
        self._registers = registers
        await self._close_io_queues()
        gone = list(self._completion_queues)
        self._completion_queues.clear()
        self.keep(dropped=gone)
        self.shut_down = True
        self.subsystem.left_in_order(self)

    async def _close_queues(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            self.commands.leave()
            await asyncio.to_thread(admin.close)
        await self._close_io_queues()
        self._completion_queues.clear()

    async def _close_io_queues(self) -> None:
        async with self._changing:
            await self._end_io(self.io_queues.close)
            for qid in list(self._records):
                self._drop_record(qid)

    async def _end_io(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Closes queues, however long their devices take: before, the client must not believe that its memory is not in
        use. Raises RuntimeError if nobody is patient."""
        while True:
            try:
                await close()
            except RuntimeError as error:
                if not self._patient():
                    raise
                log.warning("vfio-user client at %s: its queues are closed later: %s", self.address, error)
            else:
                return

    # --- take-over --------------------------------------------------------------------------------------------------

    def keep(self, *, queues: Sequence[Queue] = (), dropped: Sequence[int] = ()) -> None:
        self.port.keep({"cntlid": self.cntlid, "commands": self.commands.to_record()}, queues, dropped)

    async def go_on(self, client: ClientState) -> None:
        """Where another process has left off. Raises FtlError, ValueError, OSError, KeyError or TypeError."""
        for region in client.regions.values():
            await self.map(region)
        if not client.registers.ready:
            return
        if self.subsystem.connected_hosts is not None and not self.shut_down:
            self.subsystem.connected_hosts.arrived(self.host)
        if "commands" in client.note:
            self.commands.restore(client.note["commands"])
        for queue in client.queues.values():
            if queue.qid != ADMIN_QID:
                self.add_completion_queue(Queue(queue.qid, 0, queue.cq_iova, 0, queue.cq_entries))
                if queue.sq_entries:
                    self.open_io_queue(queue)
        self._open_admin(client.queues[ADMIN_QID])
        # Nobody has told the client of changes that were made without a daemon.
        for nsid in self.visible_namespaces():
            self.events.namespace_changed(nsid)
        self._on_change()

    # --- I/O queues -------------------------------------------------------------------------------------------------

    def completion_queue(self, qid: int) -> Queue | None:
        return self._completion_queues.get(qid)

    def add_completion_queue(self, queue: Queue) -> None:
        self._completion_queues[queue.qid] = queue

    def remove_completion_queue(self, qid: int) -> None:
        del self._completion_queues[qid]

    def has_io_queue(self, qid: int) -> bool:
        return qid in self._records

    def open_io_queue(self, queue: Queue) -> None:
        """Its completion queue exists. The descriptor stays the caller's. Raises ValueError, OSError."""
        self._serve_queue(queue)
        self._records[queue.qid] = queue.with_record(os.dup(queue.descriptor))

    async def close_io_queue(self, qid: int) -> None:
        """Its completion queue stays. Idempotent."""
        async with self._changing:
            await self._end_io(lambda: self.io_queues.close_one(qid))
            self._drop_record(qid)

    def _serve_queue(self, queue: Queue) -> None:
        queues = self.io_queues
        shared = self.maker.io_queue(self.memory, self._bar0, queue, queues)
        queues.adopt(queue.qid, shared, queues.reactor_of(queue.qid))

    def _drop_record(self, qid: int) -> None:
        queue = self._records.pop(qid, None)
        if queue is not None:
            os.close(queue.descriptor)
