"""A connection to a controller of another process in shared memory (vfio-user). Its public methods are those of
spdk_ftl_py.nvme.host.controller.Controller.

The memory of a connection (queues, buffers) is never used again: a server that hangs may write into it later.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from pathlib import Path
from typing import Any, Final

from ... import _shim
from ...errors import FtlError, PathError, ProtocolError, UnsupportedError
from ...nvme import wire as nvme
from ...nvme.host.base_controller import BaseController
from ...nvme.host.io_queues import IoQpair, first_zone_capacity
from ...nvme.host.namespaces import NamespaceInfo
from ...nvme.wire import CommandError, Property, Sqe
from ...runtime.pulse import beat
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks, to_its_end
from ...time_limit import time_limit
from .. import wire
from .client import MappableArea, VfioUserClient, close_areas
from .command_queue import DATA_BYTES_MAX, SharedCommandQueue

ADMIN_QUEUE_DEPTH: Final = 31
DOORBELLS_OFFSET: Final = 0x1000
"""Of the first doorbell in BAR0."""
IO_BYTES_MAX: Final = 1 << 20
"""The maximum data of one command: its PRP list fits into one page."""
IOVA_STEP: Final = 1 << 40
"""Each range of memory has an address of its own for the server. It says nothing about our addresses."""
STATUS_INTERVAL_S: Final = 5.0
"""How often the controller has to show that it answers, as by NVMe/TCP's keep-alive."""
PCI_COMMAND: Final = 4
PCI_COMMAND_MASTER_NO_INTX: Final = 0x0404
AQA: Final = 0x24
ASQ: Final = 0x28
ACQ: Final = 0x30
DELETE_IO_SQ: Final = 0x00
CREATE_IO_SQ: Final = 0x01
DELETE_IO_CQ: Final = 0x04
CREATE_IO_CQ: Final = 0x05
PHYSICALLY_CONTIGUOUS: Final = 1

log = logging.getLogger(__name__)


class VfioUserController(BaseController):
    """Use connect(). The controller's user must close it."""

    fabrics = False

    def __init__(self, directory: Path, subnqn: str, timeout_s: float) -> None:
        """Use connect()."""
        super().__init__(subnqn, timeout_s)
        self.directory = directory
        self._client: VfioUserClient | None = None
        self._doorbells: _shim.Doorbells | None = None
        self._queue: SharedCommandQueue | None = None
        self._ranges = _shim.MappedRanges()
        self._mapped: dict[int, _shim.SharedRange] = {}
        """By IOVA."""
        self._memories: dict[int, tuple[_shim.SharedQueueMemory, int]] = {}
        """By queue id: the memory, and its IOVA."""
        self._next_iova = IOVA_STEP

    @property
    def _admin(self) -> SharedCommandQueue | None:
        return self._queue

    # --- connecting -------------------------------------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        directory: Path,
        *,
        subnqn: str | None = None,
        timeout_s: float = 10.0,
        status_interval_s: float | None = None,
    ) -> VfioUserController:
        """Connects to the server whose socket is in `directory`, and enables the controller. subnqn: the controller
        must belong to this subsystem; None: any. timeout_s: first for the whole connect, then for each command.
        status_interval_s: how often the controller has to show that it answers.

        Raises PathError if nobody answers in time; CommandError if the controller refuses; ProtocolError if the server
        does not speak vfio-user, or its device is no NVMe controller. Nothing is left behind then.
        """
        self = cls(directory, subnqn or f"the controller at {directory}", timeout_s)
        try:
            async with time_limit(timeout_s):
                await self._connect(subnqn, STATUS_INTERVAL_S if status_interval_s is None else status_interval_s)
        except asyncio.TimeoutError:
            await to_its_end(self._tear_down("timed out"))
            raise PathError(f"the vfio-user server at {directory} did not answer within {timeout_s} s") from None
        except BaseException:
            await to_its_end(self._tear_down("not connected"))
            raise
        return self

    async def _connect(self, subnqn: str | None, status_interval_s: float) -> None:
        self._client = client = await VfioUserClient.connect(self.directory)
        self._start(self._watch_connection(client), "connection")
        self._doorbells = await self._map_doorbells(client)
        command = int.from_bytes(await client.read_region(wire.CONFIG_REGION, PCI_COMMAND, 2), "little")
        command |= PCI_COMMAND_MASTER_NO_INTX
        await client.write_region(wire.CONFIG_REGION, PCI_COMMAND, command.to_bytes(2, "little"))
        await self._enable()
        self._start(self._pump(), "completions")
        page = await self._identify()
        self.cntlid = page.cntlid
        self.max_io_bytes = min(self.max_io_bytes, IO_BYTES_MAX)
        if subnqn is not None and page.subnqn != subnqn:
            raise ProtocolError(f"the controller at {self.directory} belongs to {page.subnqn}, not to {subnqn}")
        self.subnqn = page.subnqn
        await self._receive_events(page)
        self._start(self._watch_status(status_interval_s), "status")

    async def _map_doorbells(self, client: VfioUserClient) -> _shim.Doorbells:
        info, areas = await client.region(wire.BAR0_REGION)
        try:
            area = next((area for area in areas if area.offset <= DOORBELLS_OFFSET < area.offset + area.size), None)
            if area is None:
                raise ProtocolError(f"{client.peer}: BAR0 ({info.size} bytes) has no doorbells that can be mapped")
            return _mapped_doorbells(client.peer, area)
        finally:
            close_areas(areas)

    async def _prepare(self) -> None:
        """Gives the controller, which is disabled, its admin queue."""
        client = self._connected()
        memory, iova = await self._share_queue(0, ADMIN_QUEUE_DEPTH, DATA_BYTES_MAX)
        self._queue = self._python_queue(0, memory, iova)
        last = memory.entries - 1
        await self._set_register(client, AQA, last << 16 | last, 4)
        await self._set_register(client, ASQ, iova + memory.sq_offset, 8)
        await self._set_register(client, ACQ, iova + memory.cq_offset, 8)

    def _connected(self) -> VfioUserClient:
        if self._client is None or self.lost.is_set():
            raise PathError(f"{self.subnqn}: {self.lost_reason or 'not connected'}")
        return self._client

    # --- registers --------------------------------------------------------------------------------------------------

    async def get_property(self, offset: int) -> int:
        length = 8 if offset in nvme.PROPERTY_8_BYTES else 4
        return int.from_bytes(await self._connected().read_region(wire.BAR0_REGION, offset, length), "little")

    async def _set_property(self, offset: int, value: int) -> None:
        await self._set_register(self._connected(), offset, value, 4)

    async def _set_register(self, client: VfioUserClient, offset: int, value: int, length: int) -> None:
        await client.write_region(wire.BAR0_REGION, offset, value.to_bytes(length, "little"))

    # --- memory -----------------------------------------------------------------------------------------------------

    def _new_iova(self) -> int:
        iova = self._next_iova
        self._next_iova += IOVA_STEP
        return iova

    async def _share_queue(self, qid: int, depth: int, io_bytes: int) -> tuple[_shim.SharedQueueMemory, int]:
        """Memory for a queue, which the server has mapped, and its address there."""
        memory = _shim.SharedQueueMemory(depth, io_bytes)
        iova = self._new_iova()
        await self._connected().map_memory(iova, memory.bytes, memory.fd, 0)
        self._memories[qid] = memory, iova
        return memory, iova

    async def _unshare_queue(self, qid: int) -> None:
        memory, iova = self._memories.pop(qid)
        await self._connected().unmap_memory(iova, memory.bytes)

    async def _share(self, wanted: _shim.SharedRange) -> None:
        """Lets the server use memory of the process directly. Without it, I/O with that memory is copied."""
        client = self._connected()
        for iova, known in list(self._mapped.items()):
            if known.gone:
                del self._mapped[iova]
                await client.unmap_memory(iova, known.bytes)
        if self._ranges.full or wanted.gone or any(_same(known, wanted) for known in self._mapped.values()):
            return
        iova = self._new_iova()
        self._mapped[iova] = wanted
        try:
            await client.map_memory(iova, wanted.bytes, wanted.fd, wanted.offset)
        except PathError as error:
            if self.lost.is_set() or client.lost.is_set():
                raise
            # The server may have no room for more. I/O is copied then.
            log.warning("%s: the server does not map memory: %s", self.subnqn, error.message)
            return
        self._ranges.add(wanted, iova)

    # --- I/O queues -------------------------------------------------------------------------------------------------

    def _doorbell(self, qid: int, completion: bool) -> int:
        """The offset of a doorbell from the first one."""
        stride = 4 << (self._cap >> 32 & 0xF)
        return (2 * qid + (1 if completion else 0)) * stride

    def _python_queue(self, qid: int, memory: _shim.SharedQueueMemory, iova: int) -> SharedCommandQueue:
        doorbells = self._doorbells
        assert doorbells is not None
        rings = [
            functools.partial(self._ring, doorbells, self._doorbell(qid, completion)) for completion in (False, True)
        ]
        return SharedCommandQueue(memory, iova, *rings, peer=self.subnqn)

    def _ring(self, doorbells: _shim.Doorbells, at: int, value: int) -> None:
        try:
            doorbells.ring(at, value)
        except IndexError:
            raise ProtocolError(f"{self.subnqn}: the server has not mapped the doorbell at {at}") from None

    async def _open_io_qpair(
        self, reactor: ReactorLoop, namespace: NamespaceInfo, qid: int, depth: int, io_timeout_s: float
    ) -> _shim.SharedHostQpair:
        doorbells = self._doorbells
        assert doorbells is not None
        memory, iova = await self._share_queue(qid, depth, self.max_io_bytes)
        created: list[int] = []
        try:
            size = (memory.entries - 1) << 16 | qid
            for opcode, offset, extra in (
                (CREATE_IO_CQ, memory.cq_offset, 0),
                (CREATE_IO_SQ, memory.sq_offset, qid << 16),
            ):
                sqe = Sqe(opcode, cdw10=size, cdw11=extra | PHYSICALLY_CONTIGUOUS)
                await self._queue_command(sqe, iova + offset, f"creating I/O queue {qid}")
                created.append(opcode)
            zoned = namespace.csi == nvme.CSI_ZNS
            used, capacity = 0, 0
            if zoned:
                queue = self._python_queue(qid, memory, iova)
                capacity = await self._first_zone_capacity(queue, namespace)
                used = queue.executed
            return _shim.SharedHostQpair(
                reactor.shim,
                memory,
                self._ranges,
                doorbells,
                nsid=namespace.nsid,
                memory_iova=iova,
                sq_doorbell=self._doorbell(qid, False),
                cq_doorbell=self._doorbell(qid, True),
                used_entries=used,
                block_count=namespace.block_count,
                block_bytes=namespace.block_bytes,
                metadata_bytes=namespace.metadata_bytes,
                max_append_bytes=self.max_append_bytes if zoned else 0,
                volatile_cache=self.volatile_cache,
                zoned=zoned,
                zone_size=namespace.zone_size,
                zone_capacity=capacity,
                max_open_zones=namespace.max_open_zones,
                max_active_zones=namespace.max_active_zones,
                io_timeout_ms=int(io_timeout_s * 1000),
            )
        except BaseException:
            await to_its_end(self._drop_queues(qid, created))
            raise

    async def _first_zone_capacity(self, queue: SharedCommandQueue, namespace: NamespaceInfo) -> int:
        try:
            return await first_zone_capacity(functools.partial(_one_command, queue), namespace, self.subnqn)
        except CommandError as error:
            # SPDK's server (v26.05) takes CDW12 of any command for a number of blocks, and wants memory for them. A
            # zone report has a number of dwords there.
            raise UnsupportedError(
                f"{self.subnqn}: the server can't report zones by vfio-user: {error.message}"
            ) from error

    async def _queue_command(self, sqe: Sqe, address: int, what: str) -> None:
        admin = self._queue
        assert admin is not None
        cqe, _ = await admin.submit(sqe, prp=address)
        self._check(cqe, what)

    async def _drop_queues(self, qid: int, created: list[int]) -> None:
        """Deletes queues that were created, and takes their memory back."""
        with contextlib.suppress(FtlError, asyncio.TimeoutError):
            for opcode in reversed(created):
                delete = DELETE_IO_SQ if opcode == CREATE_IO_SQ else DELETE_IO_CQ
                await self.command(Sqe(delete, cdw10=qid), what=f"deleting I/O queue {qid}")
            await self._unshare_queue(qid)

    async def _delete_io_qpair(self, qid: int) -> None:
        if not self.lost.is_set():
            await self._drop_queues(qid, [CREATE_IO_CQ, CREATE_IO_SQ])

    def _io_qpair_event(self, qid: int, qpair: IoQpair, event: _shim.Event) -> None:
        if event.kind == _shim.EventKind.SHARED_MEMORY_WANTED and isinstance(qpair, _shim.SharedHostQpair):
            if not self.lost.is_set():
                self._start(self._share_wanted(qpair), "memory")
            return
        super()._io_qpair_event(qid, qpair, event)

    async def _share_wanted(self, qpair: _shim.SharedHostQpair) -> None:
        wanted = await asyncio.get_running_loop().run_in_executor(None, qpair.take_wanted)
        if wanted is not None:
            await self._share(wanted)

    # --- background -------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        assert self._queue is not None
        await self._queue.pump()

    async def _watch_connection(self, client: VfioUserClient) -> None:
        await client.lost.wait()
        assert client.error is not None
        self._lose(client.error)

    async def _watch_status(self, interval_s: float) -> None:
        while True:
            await beat(interval_s)
            try:
                async with time_limit(self._timeout_s):
                    csts = await self.get_property(Property.CSTS)
            except asyncio.TimeoutError:
                raise PathError(f"{self.subnqn}: no answer within {self._timeout_s} s") from None
            if csts & nvme.CSTS_CFS:
                raise PathError(f"{self.subnqn}: the controller reports a fatal status")

    async def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()


async def _one_command(queue: SharedCommandQueue, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0) -> Any:
    pump = asyncio.ensure_future(queue.pump())
    command = asyncio.ensure_future(queue.submit(sqe, data, receive_bytes))
    try:
        await asyncio.wait((pump, command), return_when=asyncio.FIRST_COMPLETED)
        return await (pump if pump.done() else command)
    finally:
        await end_tasks((pump, command))


def _mapped_doorbells(peer: str, area: MappableArea) -> _shim.Doorbells:
    skip = DOORBELLS_OFFSET - area.offset
    try:
        return _shim.Doorbells(area.fd, area.file_offset + skip, area.size - skip)
    except (ValueError, OSError) as error:
        raise ProtocolError(f"{peer}: BAR0: {error}") from error


def _same(one: _shim.SharedRange, other: _shim.SharedRange) -> bool:
    return one is other or (one.fd, one.offset, one.bytes) == (other.fd, other.offset, other.bytes)
