"""What a host does with a controller, whatever carries the commands: enable it, identify it, send admin commands, read
namespaces and events, and end everything when the connection is lost. Controller does it over TCP, VfioUserController
in shared memory.

Everything that a controller answers is checked before use. Base 2.0 sections 3.5, 5, 6.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ... import _shim
from ...errors import FtlError, ParameterError, PathError, ProtocolError, UnsupportedError
from ...runtime.reactor import ReactorLoop
from ...runtime.waiting import Backoff
from ...time_limit import time_limit
from .. import identify, wire
from ..identify import ControllerPage
from ..wire import AdminOp, Cap, Cns, CommandError, Cqe, Feature, Property, Sqe
from .events import EVENT_PAUSE_S, ZONE_EVENT_PAUSE_S, AsyncEvent, read_event_log, read_zone_log
from .io_queues import IoQpair, close_host_qpair, lost_reason
from .namespaces import NamespaceInfo, read_namespaces

IO_QPAIRS_WANTED = 64
UNLIMITED_IO_BYTES = 1 << 20
"""The maximum I/O size for MDTS 0."""
IO_BYTES_MAX = 4 << 20
SHUTDOWN_TIMEOUT_S = 5.0
STATUS_POLL_MIN_S = 0.001
STATUS_POLL_MAX_S = 0.1


class AdminQueue(Protocol):
    """CommandQueue, or one in shared memory."""

    async def submit(self, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0) -> tuple[Cqe, bytearray]: ...

    def fail(self, error: FtlError) -> None: ...


class BaseController(abc.ABC):
    """A connection to a remote controller. Its user must close it."""

    fabrics = True
    """Commands go in capsules."""

    def __init__(self, subnqn: str, timeout_s: float) -> None:
        self.subnqn = subnqn
        self.cntlid = 0
        self.model = ""
        self.serial = ""
        self.firmware = ""
        self.max_io_bytes = UNLIMITED_IO_BYTES
        self.max_append_bytes = 0
        self.volatile_cache = False
        self.tells_of_zones = False
        """The controller has agreed to report changes of its zones."""
        self.lost = asyncio.Event()
        self.lost_reason = ""
        self.on_event: Callable[[AsyncEvent], None] | None = None
        """Called on the event loop. Must not raise."""
        self.identity: ControllerPage | None = None
        self.io_qpairs: dict[int, tuple[ReactorLoop, IoQpair]] = {}
        self.tls_cipher: str | None = None
        """None: the connection is not encrypted."""
        self._timeout_s = timeout_s
        self._cap = 0
        self._io_queues_granted = 0
        self._next_qid = 1
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None

    # --- what carries the commands ----------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def _admin(self) -> AdminQueue | None:
        """None: not connected."""

    @abc.abstractmethod
    async def get_property(self, offset: int) -> int:
        """A register. Raises CommandError, PathError, ProtocolError."""

    @abc.abstractmethod
    async def _set_property(self, offset: int, value: int) -> None: ...

    async def _prepare(self) -> None:  # noqa: B027
        """The controller is disabled, and about to be enabled."""

    @abc.abstractmethod
    async def _open_io_qpair(
        self, reactor: ReactorLoop, namespace: NamespaceInfo, qid: int, depth: int, io_timeout_s: float
    ) -> IoQpair:
        """A queue for `depth` commands, which may be fewer than CAP.MQES allows."""

    async def _delete_io_qpair(self, qid: int) -> None:  # noqa: B027
        """After the queue was closed here. It may be that there is no connection any more."""

    @abc.abstractmethod
    async def _disconnect(self) -> None:
        """Idempotent."""

    # --- connecting -------------------------------------------------------------------------------------------------

    async def _ask_for_events(self, events: int) -> None:
        """Enables asynchronous events. If the controller refuses events of zones, this enables the others: zone reports
        show the same changes."""
        for wanted in dict.fromkeys((events, events & ~identify.OAES_ZONES)):
            try:
                await self.set_feature(Feature.ASYNC_EVENT_CONFIGURATION, wanted)
            except CommandError:
                continue
            self.tells_of_zones = bool(wanted & identify.OAES_ZONES)
            return

    async def _enable(self) -> None:
        """Sets CC.EN to 1, whatever it was, with all I/O command sets if the controller has several."""
        self._cap = await self.get_property(Property.CAP)
        if self._cap >> 48 & 0xF:
            raise UnsupportedError(
                f"{self.subnqn}: memory pages of at least {4 << (self._cap >> 48 & 0xF)} KiB (CAP.MPSMIN)"
            )
        time_limit_s = max(self._cap >> wire.CAP_TO_SHIFT & 0xFF, 1) * wire.CAP_TO_UNIT_S
        cc = await self.get_property(Property.CC)
        if cc & wire.CC_EN:
            await self._set_property(Property.CC, cc & ~wire.CC_EN)
            await self._wait_status(wire.CSTS_RDY, 0, time_limit_s)
        await self._prepare()
        css = wire.CSS_ALL if self._cap & Cap.CSS_IOCS else wire.CSS_NVM
        cc = (
            wire.CC_EN
            | css << wire.CC_CSS_SHIFT
            | wire.IOSQES << wire.CC_IOSQES_SHIFT
            | wire.IOCQES << wire.CC_IOCQES_SHIFT
        )
        await self._set_property(Property.CC, cc)
        await self._wait_status(wire.CSTS_RDY, wire.CSTS_RDY, time_limit_s)

    async def _wait_status(self, mask: int, value: int, time_limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + time_limit_s
        backoff = Backoff(STATUS_POLL_MIN_S, STATUS_POLL_MAX_S, 2.0)
        while True:
            csts = await self.get_property(Property.CSTS)
            if csts & mask == value:
                return
            if csts & wire.CSTS_CFS:
                raise ProtocolError(f"{self.subnqn}: controller {self.cntlid} reports a fatal status")
            if loop.time() > deadline:
                raise PathError(
                    f"{self.subnqn}: controller {self.cntlid} did not change its status within {time_limit_s} s"
                )
            await backoff.pause()

    async def _append_limit(self) -> int:
        if not self._cap & Cap.CSS_IOCS:
            return 0
        try:
            page = await self.identify(Cns.CSI_CONTROLLER, csi=wire.CSI_ZNS)
        except CommandError:
            return 0
        return identify.parse_zns_controller(page, self.max_io_bytes)

    async def _identify(self) -> ControllerPage:
        page = identify.parse_controller(await self.identify(Cns.CONTROLLER), fabrics=self.fabrics)
        self.identity = page
        self.model, self.serial, self.firmware = page.model, page.serial, page.firmware
        self.max_io_bytes = min(page.max_io_bytes or UNLIMITED_IO_BYTES, IO_BYTES_MAX)
        self.volatile_cache = page.volatile_cache
        self.max_append_bytes = await self._append_limit()
        return page

    async def _receive_events(self, page: ControllerPage) -> None:
        events = page.oaes & (identify.OAES_NAMESPACE | identify.OAES_DISCOVERY | identify.OAES_ZONES)
        if events:
            await self._ask_for_events(events)
            self._start(self._watch_events(), "events")

    # --- commands ---------------------------------------------------------------------------------------------------

    def _check(self, cqe: Cqe, what: str) -> Cqe:
        if cqe.status:
            raise CommandError(f"{self.subnqn}: {what} failed", cqe)
        return cqe

    async def command(
        self, sqe: Sqe, *, data: bytes = b"", receive_bytes: int = 0, what: str = ""
    ) -> tuple[Cqe, bytearray]:
        """Sends any admin command. Raises CommandError if the command fails, and PathError if the connection is lost.

        A command without an answer within timeout_s ends the connection.
        """
        admin = self._admin
        if admin is None:
            raise PathError(f"{self.subnqn} is not connected")
        try:
            async with time_limit(self._timeout_s):
                cqe, received = await admin.submit(sqe, data, receive_bytes)
        except asyncio.TimeoutError:
            error = PathError(f"{self.subnqn}: {what or hex(sqe.opcode)} had no answer within {self._timeout_s} s")
            self._lose(error)
            raise error from None
        return self._check(cqe, what or f"command {sqe.opcode:#x}"), received

    async def identify(self, cns: int, *, nsid: int = 0, csi: int = 0) -> bytearray:
        sqe = Sqe(AdminOp.IDENTIFY, nsid=nsid, cdw10=cns, cdw11=csi << 24)
        return (await self.command(sqe, receive_bytes=wire.PAGE_BYTES, what=f"Identify {cns:#04x}"))[1]

    async def get_log_page(
        self, page: int, length: int, *, offset: int = 0, nsid: int = wire.NSID_ALL, csi: int = 0, retain: bool = False
    ) -> bytearray:
        """length: in bytes, a multiple of 4. The log is read in pieces of one page."""
        if length <= 0 or length % 4 or offset % 4:
            raise ParameterError(f"log page {page:#x}: {length} bytes at {offset} are not a multiple of dwords")
        log = bytearray()
        while len(log) < length:
            size = min(length - len(log), wire.PAGE_BYTES)
            at = offset + len(log)
            dwords = size // 4 - 1
            sqe = Sqe(
                AdminOp.GET_LOG_PAGE, nsid=nsid, cdw10=(dwords & 0xFFFF) << 16 | (1 << 15 if retain else 0) | page,
                cdw11=dwords >> 16, cdw12=at & 0xFFFFFFFF, cdw13=at >> 32, cdw14=csi << 24,
            )  # fmt: skip
            log += (await self.command(sqe, receive_bytes=size, what=f"Get Log Page {page:#04x}"))[1]
        return log

    async def set_feature(self, feature: int, value: int, *, nsid: int = 0, data: bytes = b"") -> int:
        """Returns DW0 of the completion."""
        sqe = Sqe(AdminOp.SET_FEATURES, nsid=nsid, cdw10=feature, cdw11=value)
        return (await self.command(sqe, data=data, what=f"Set Features {feature:#04x}"))[0].result & 0xFFFFFFFF

    # --- namespaces -------------------------------------------------------------------------------------------------

    async def namespaces(self) -> list[NamespaceInfo]:
        """Every active namespace. Raises CommandError, PathError, and ProtocolError for an impossible answer."""
        return await read_namespaces(self.identify, self.subnqn)

    # --- I/O queues -------------------------------------------------------------------------------------------------

    async def create_io_qpair(
        self, reactor: ReactorLoop, namespace: NamespaceInfo, *, queue_depth: int = 128, io_timeout_s: float = 0.0
    ) -> IoQpair:
        """A new I/O queue to one namespace, which the reactor drives. The controller or the queue's user closes it.

        queue_depth is limited to what the controller supports. io_timeout_s: a command that takes longer ends the
        association; 0: no limit. Raises UnsupportedError for namespaces with separate metadata, CommandError (1/81h: no
        more queues), PathError, ProtocolError.
        """
        if namespace.metadata_bytes and not namespace.metadata_interleaved:
            raise UnsupportedError(
                f"{self.subnqn}: namespace {namespace.nsid} has separate metadata, which NVMe over Fabrics can't carry"
            )
        if queue_depth < 1:
            raise ParameterError(f"queue_depth {queue_depth} must be at least 1")
        async with self._opening:
            if self._io_queues_granted == 0:
                wanted = IO_QPAIRS_WANTED - 1
                granted = await self.set_feature(Feature.NUMBER_OF_QUEUES, wanted << 16 | wanted)
                self._io_queues_granted = min(granted & 0xFFFF, granted >> 16) + 1
            qid = self._free_qid()
            try:
                async with time_limit(self._timeout_s):
                    qpair = await self._open_io_qpair(
                        reactor, namespace, qid, self._queue_depth(queue_depth), io_timeout_s
                    )
            except asyncio.TimeoutError:
                raise PathError(
                    f"{self.subnqn}: I/O queue {qid} was not connected within {self._timeout_s} s"
                ) from None
            self.io_qpairs[qid] = (reactor, qpair)
            reactor.subscribe(qpair.id, lambda event: self._io_qpair_event(qid, qpair, event))
            return qpair

    def _queue_depth(self, wanted: int) -> int:
        if self.lost.is_set() or self.identity is None:
            raise PathError(f"{self.subnqn}: {self.lost_reason or 'not connected'}")
        entries = min(wanted + 1, (self._cap & 0xFFFF) + 1)
        depth = entries - 1
        if self.identity.max_outstanding:
            depth = min(depth, self.identity.max_outstanding)
        if depth < 1:
            raise ProtocolError(f"{self.subnqn} supports only I/O queues of {entries} entries (CAP.MQES)")
        return depth

    def _free_qid(self) -> int:
        for step in range(self._io_queues_granted):
            qid = (self._next_qid - 1 + step) % self._io_queues_granted + 1
            if qid not in self.io_qpairs:
                self._next_qid = qid + 1
                return qid
        raise UnsupportedError(f"{self.subnqn}: all {self._io_queues_granted} I/O queues that it grants are in use")

    def _io_qpair_event(self, qid: int, qpair: IoQpair, event: _shim.Event) -> None:
        """An I/O queue that breaks ends the association: the other queues do not know its outstanding commands."""
        if self.io_qpairs.get(qid, (None, None))[1] is not qpair:
            return
        if event.kind == _shim.EventKind.HOST_QPAIR_LOST:
            self._lose(PathError(f"{self.subnqn}: I/O queue {qid} was lost: {lost_reason(event.reason, event.detail)}"))
        elif event.kind == _shim.EventKind.OVERFLOW and not qpair.connected:
            # The event with the reason was dropped.
            self._lose(PathError(f"{self.subnqn}: I/O queue {qid} was lost"))

    async def close_io_qpair(self, qpair: IoQpair) -> None:
        """Closes the queue. Its outstanding I/O fails. Idempotent."""
        for qid, (reactor, each) in list(self.io_qpairs.items()):
            if each is qpair:
                del self.io_qpairs[qid]
                await close_host_qpair(reactor, qpair)
                await self._delete_io_qpair(qid)

    # --- background -------------------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work), name=f"{name} of {self.subnqn}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FtlError as error:
            self._lose(error)

    async def _watch_events(self) -> None:
        """Keeps one Asynchronous Event Request outstanding, and reads the log page that each event names."""
        admin = self._admin
        assert admin is not None
        while True:
            cqe, _ = await admin.submit(Sqe(AdminOp.ASYNC_EVENT_REQUEST))
            if cqe.status:
                # The controller sends no more events, so nobody may rely on them.
                self.tells_of_zones = False
                return
            event = AsyncEvent(cqe.result & 7, cqe.result >> 8 & 0xFF, cqe.result >> 16 & 0xFF)
            pause_s = ZONE_EVENT_PAUSE_S if event.of_zones else EVENT_PAUSE_S
            if event.of_zones:
                event = await read_zone_log(self.get_log_page, event, cqe.result >> 32)
            else:
                event = await read_event_log(self.get_log_page, event)
            if self.on_event is not None:
                self.on_event(event)
            await asyncio.sleep(pause_s)

    # --- ending -----------------------------------------------------------------------------------------------------

    def _lose(self, error: FtlError) -> None:
        """The connection is lost: fails everything outstanding. Idempotent: the first reason stays."""
        if self.lost.is_set():
            return
        self.lost_reason = error.message
        self.lost.set()
        if self._admin is not None:
            self._admin.fail(error)
        if self.io_qpairs:
            self._start(self._close_io_qpairs(), "I/O queues")

    async def _close_io_qpairs(self) -> None:
        while self.io_qpairs:
            _, (reactor, qpair) = self.io_qpairs.popitem()
            await close_host_qpair(reactor, qpair)

    async def close(self) -> None:
        """Closes the I/O queues, shuts the controller down if it still answers, and ends every task. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(), name=f"close of {self.subnqn}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._close_io_qpairs()
        if not self.lost.is_set():
            with contextlib.suppress(FtlError, asyncio.TimeoutError):
                async with time_limit(min(self._timeout_s, SHUTDOWN_TIMEOUT_S)):
                    await self._shut_down()
        await self._tear_down("closed")

    async def _shut_down(self) -> None:
        cc = await self.get_property(Property.CC)
        await self._set_property(Property.CC, cc | wire.SHN_NORMAL << wire.CC_SHN_SHIFT)
        await self._wait_status(wire.CSTS_SHST_MASK, wire.CSTS_SHST_COMPLETE, SHUTDOWN_TIMEOUT_S)

    async def _tear_down(self, reason: str) -> None:
        self._lose(PathError(f"{self.subnqn}: {reason}"))
        await self._close_io_qpairs()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect()
