"""Block I/O for the control path: asyncio over a shim IoPort. Never on the path of user I/O."""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import FlushDoubtError, FlushRefusedError, MediaError, ProtocolError, RoomError
from ...nvme.wire import Status, status_text
from ...runtime.progress import PartDone
from ...runtime.reactor import ReactorLoop
from ...runtime.waiting import Backoff
from .zone import ZONE_DESCRIPTOR_BYTES, ZONE_REPORT_HEADER_BYTES, Zone, parse_report

QUEUE_DEPTH: Final = 32
LIST_DEPTH: Final = 128
"""Reads in one list."""
ZONES_PER_REPORT: Final = 64
"""As the seed's FTL_ZONE_INFO_COUNT."""
ZONES_PER_LONG_REPORT: Final = 512
"""If all zones are needed, and the device reports so many at a time."""

BUSY_DELAY_MIN_S: Final = _shim.BUSY_DELAY_MIN_NS / 1e9
BUSY_DELAY_MAX_S: Final = _shim.BUSY_DELAY_MAX_NS / 1e9
BUSY_PATIENCE_S: Final = _shim.BUSY_PATIENCE_NS / 1e9
BUSY_PATIENCE_LEFT_S: Final = _shim.BUSY_PATIENCE_LEFT_NS / 1e9
ZONES_PATIENCE_S: Final = _shim.ZONES_PATIENCE_NS / 1e9
READ_AGAIN_S: Final = 0.01
"""After this time a block is read once more before it counts as unreadable."""


def may_pass(failure: BaseException) -> bool:
    """Whether it makes sense to retry a device that has failed with this status."""
    if isinstance(failure, FlushDoubtError | RoomError):
        return True
    if isinstance(failure, FlushRefusedError) or not isinstance(failure, MediaError):
        return False
    return _shim.error_class(failure.status) in (_shim.ErrorClass.GONE, _shim.ErrorClass.BUSY)


_OP_NAMES: Final = {
    _shim.Op.READ: "read",
    _shim.Op.WRITE: "write",
    _shim.Op.APPEND: "append",
    _shim.Op.FLUSH: "flush",
    _shim.Op.WRITE_ZEROES: "write zeroes",
    _shim.Op.DEALLOCATE: "deallocate",
    _shim.Op.ZONE_SEND: "zone management send",
    _shim.Op.ZONE_REPORT: "zone report",
    _shim.Op.COMPARE_WRITE: "compare and write",
    _shim.Op.WRITE_UNCORRECTABLE: "write uncorrectable",
}

Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]


class BlockPort:
    """At most ``depth`` I/Os run at a time; others wait. All lengths and addresses are in blocks.

    Every method raises MediaError, with the NVMe status and its name, if the device answers with an error. A method
    that is cancelled leaves its I/O to complete by itself, and its buffer stays alive.

    If a device is busy (``ErrorClass.BUSY``), the I/O is retried for patience_s; after that has failed once, for a
    shorter time. An error that may concern a single block counts as such only if other blocks can be read. Otherwise
    the device counts as gone. A flush whose error leaves in doubt what was lost (``ErrorClass.DOUBT``) raises
    FlushDoubtError.
    """

    def __init__(
        self,
        reactor: ReactorLoop,
        device: _shim.BlockDevice,
        *,
        name: str,
        depth: int = QUEUE_DEPTH,
        patience_s: float = BUSY_PATIENCE_S,
    ) -> None:
        self.name = name
        self.patience_s = patience_s
        self._tired = False
        """The device was busy for patience_s, and has not answered since."""
        self.device = device
        self.block_bytes = device.block_bytes
        self.zone_resets: Counter[int] = Counter()
        """Resets that were sent, by the start of the zone. Who counts them takes them out."""
        self._reactor = reactor
        self._port = _shim.IoPort(reactor.shim, device, depth)
        self._id = self._port.id
        self._slots = asyncio.Semaphore(depth)
        self._waiting: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._closed = False
        self._list: _shim.ReadList | None = None
        self._list_lock = asyncio.Lock()
        self._list_done: asyncio.Future[int] | None = None
        reactor.subscribe(self._id, self._on_event)

    async def close(self) -> None:
        """Waits for outstanding I/O. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._waiting:
            await asyncio.wait(list(self._waiting.values()))
        self._port.close()
        self._reactor.unsubscribe(self._id)
        async with self._list_lock:
            if self._list is not None:
                await self._list_ended()
                list_id = self._list.id
                self._list.close()
                self._reactor.unsubscribe(list_id)

    async def read(self, lba: int, block_count: int) -> NDArray[np.uint8]:
        """(block_count, block_bytes) bytes: 4096, and interleaved metadata if the device has any."""
        step = max(1, self.device.max_io_blocks)
        data = np.empty((block_count, self.block_bytes), np.uint8)
        for first in range(0, block_count, step):
            part = data[first : first + step]
            await self._submit(_shim.Op.READ, lba + first, len(part), part.reshape(-1))
        return data

    async def read_what_can_be(self, lba: int, block_count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """As read(), and which of the blocks could be read, at once or READ_AGAIN_S later; the others are zeroes.
        Raises MediaError only if the device is gone."""
        try:
            return await self.read(lba, block_count), np.ones(block_count, bool)
        except MediaError as error:
            if _shim.base_gone(error.status):
                raise
            if _shim.error_class(error.status) != _shim.ErrorClass.ZONE:
                await asyncio.sleep(READ_AGAIN_S)
        blocks, readable = np.zeros((block_count, self.block_bytes), np.uint8), np.zeros(block_count, bool)
        for i in range(block_count):
            try:
                blocks[i : i + 1] = await self.read(lba + i, 1)
            except MediaError as error:
                if _shim.base_gone(error.status):
                    raise
            else:
                readable[i] = True
        return blocks, readable

    async def read_each(self, addresses: Sequence[int], block_count: int = 1) -> NDArray[np.uint8] | None:
        """Reads block_count blocks from each of these addresses, in parallel: (addresses, block_count, block_bytes).
        None if any of them can't be read. For a load that reads very many blocks: one event for all of them."""
        data = np.empty((len(addresses), block_count, self.block_bytes), np.uint8)
        if not addresses:
            return data
        async with self._list_lock:
            if self._closed:
                raise MediaError(f"{self.name}: read after close", errno=errno.ESHUTDOWN)
            if self._list is None:
                self._list = _shim.ReadList(self._reactor.shim, self.device, LIST_DEPTH)
                self._reactor.subscribe(self._list.id, self._on_list_event)
            await self._list_ended()
            self._list.start(addresses, block_count, data)
            self._list_done = asyncio.get_running_loop().create_future()
            status = await asyncio.shield(self._list_done)
        return None if status else data

    async def _list_ended(self) -> None:
        """A cancelled read_each() may still be in progress; its buffer stays alive."""
        if self._list_done is not None and not self._list_done.done():
            await asyncio.wait([self._list_done])

    async def write(self, lba: int, data: Buffer, *, fua: bool = False) -> None:
        """data: whole blocks, at most the device's max_io_blocks; in a sequential zone at its write pointer."""
        block_count = self._block_count(data)
        await self._submit(_shim.Op.WRITE, lba, block_count, data, fua=fua)

    async def append(self, zone_start: int, data: Buffer) -> int:
        """Returns the address of the first block."""
        return await self._submit(_shim.Op.APPEND, zone_start, self._block_count(data), data)

    async def flush(self) -> None:
        await self._submit(_shim.Op.FLUSH)

    async def deallocate(self, lba: int, block_count: int) -> None:
        """Trim: the blocks read as zeroes from now on."""
        await self._submit(_shim.Op.DEALLOCATE, lba, block_count)

    async def zone_action(self, action: _shim.ZoneAction, zone_start: int) -> None:
        """On one zone."""
        if action == _shim.ZoneAction.RESET:
            self.zone_resets[zone_start] += 1
        await self._submit(_shim.Op.ZONE_SEND, zone_start, zone_action=action)

    async def reset_zones(self, zone_starts: Iterable[int], progress: PartDone | None = None) -> None:
        """Resets zones in parallel; progress gets the part done, 0..1. The first error stops it (other zones may be
        reset by then)."""
        starts = list(zone_starts)
        done = 0
        queue = iter(starts)

        async def worker() -> None:
            nonlocal done
            for start in queue:
                await self.zone_action(_shim.ZoneAction.RESET, start)
                done += 1
                if progress is not None:
                    progress(done / len(starts))

        await _all_or_first_error([worker() for _ in range(min(QUEUE_DEPTH, len(starts)))])

    async def zone_report(self, first_zone: int, zones_max: int = ZONES_PER_REPORT) -> list[Zone]:
        """Up to zones_max zones from zone number first_zone on. Raises ProtocolError for an impossible report."""
        report = bytearray(ZONE_REPORT_HEADER_BYTES + zones_max * ZONE_DESCRIPTOR_BYTES)
        zone_size = self.device.zone_size
        await self._submit(_shim.Op.ZONE_REPORT, first_zone * zone_size, 0, report, zone_all=True)
        return parse_report(report, first_zone=first_zone, zone_size=zone_size, zones_max=zones_max)

    async def zones(self, progress: PartDone | None = None) -> list[Zone]:
        """All zones of the device. A failing report raises MediaError with ENODEV, as in the seed."""
        zone_size = self.device.zone_size
        if zone_size <= 0:
            return []
        total = self.device.block_count // zone_size
        most_bytes = self.device.max_io_blocks * self.block_bytes - ZONE_REPORT_HEADER_BYTES
        most = max(ZONES_PER_REPORT, min(ZONES_PER_LONG_REPORT, most_bytes // ZONE_DESCRIPTOR_BYTES))
        zones: list[Zone] = []
        while len(zones) < total:
            try:
                part = await self.zone_report(len(zones), min(most, total - len(zones)))
            except MediaError as error:
                raise MediaError(error.message, status=error.status, errno=errno.ENODEV) from error
            if not part:
                raise ProtocolError(
                    f"{self.name}: reports {len(zones)} zones, but has {total} by its size: the report is incomplete"
                )
            zones += part
            if progress is not None:
                progress(len(zones) / total)
        return zones

    async def _submit(
        self, op: _shim.Op, lba: int = 0, block_count: int = 0, buffer: Buffer | None = None, **options: Any
    ) -> int:
        """Retries until the device does it, or refuses for good. If a busy device has done a write anyway, the write
        pointer of the zone refuses it the second time."""
        clock = asyncio.get_running_loop().time
        began = clock()
        too_many_since: float | None = None
        """Answers "too many zones" since then, and no others: a device that was busy for another reason has had no time
        to make room."""
        backoff = Backoff(BUSY_DELAY_MIN_S, BUSY_DELAY_MAX_S, _shim.BUSY_DELAY_GROWTH)
        while True:
            status, result = await self._submit_once(op, lba, block_count, buffer, **options)
            if not status:
                self._tired = self._tired and not backoff.begun
                return result
            kind = _shim.error_class(status, bool(result), op)
            now = clock()
            too_many_since = (now if too_many_since is None else too_many_since) if _shim.limits_zones(status) else None
            zones_over = too_many_since is not None and now - too_many_since >= ZONES_PATIENCE_S
            if kind != _shim.ErrorClass.BUSY or zones_over or now - began >= self._patience_for_busy:
                break
            await backoff.pause()
        what = _OP_NAMES[op]
        if op == _shim.Op.ZONE_SEND:
            what = f"{options['zone_action'].name.lower()} of the zone"
        if kind == _shim.ErrorClass.DOUBT:
            raise FlushDoubtError(
                f"{self.name}: flush failed: {status_text(status)}; data in the device's volatile cache may be lost",
                status=status,
            )
        reason = ""
        if kind == _shim.ErrorClass.BUSY and not _shim.limits_zones(status):
            if op == _shim.Op.READ and not await self._reads_others(lba, block_count):
                reason, status = f"{status_text(status)}, like all reads; treated as ", Status.NAMESPACE_NOT_READY
            self._tired = True
        raise MediaError(f"{self.name}: {what} at block {lba} failed: {reason}{status_text(status)}", status=status)

    @property
    def _patience_for_busy(self) -> float:
        return min(self.patience_s / 10, BUSY_PATIENCE_LEFT_S) if self._tired else self.patience_s

    async def _reads_others(self, lba: int, block_count: int) -> bool:
        """For a device that reports busy whenever these blocks are read: whether it answers reads of its first or last
        block."""
        buffer = np.empty(self.block_bytes, np.uint8)
        for other in (0, self.device.block_count - 1):
            if not lba <= other < lba + block_count:
                status, result = await self._submit_once(_shim.Op.READ, other, 1, buffer)
                if _shim.error_class(status, bool(result)) != _shim.ErrorClass.BUSY:
                    return True
        return False

    async def _submit_once(
        self, op: _shim.Op, lba: int, block_count: int, buffer: Buffer | None, **options: Any
    ) -> tuple[int, int]:
        """The status and the result; for an error, whether the device said "do not retry"."""
        if self._closed:
            raise MediaError(f"{self.name}: {_OP_NAMES[op]} after close", errno=errno.ESHUTDOWN)
        await self._slots.acquire()
        try:
            ticket = self._port.submit(op, lba, block_count, buffer, **options)
        except BaseException:
            self._slots.release()
            raise
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = answer
        return await asyncio.shield(answer)

    def _block_count(self, data: Buffer) -> int:
        length = data.nbytes if isinstance(data, np.ndarray | memoryview) else len(data)
        if length == 0 or length % self.block_bytes:
            raise ValueError(f"{length} bytes are not a multiple of the block size {self.block_bytes}")
        return length // self.block_bytes

    def _on_event(self, event: _shim.Event) -> None:
        if event.kind == _shim.EventKind.IO_DONE:
            self._answered(event.ticket, event.status, event.result)
        elif event.kind == _shim.EventKind.OVERFLOW:
            for completion in self._port.take_untold():
                self._answered(completion.ticket, completion.status, completion.result)

    def _on_list_event(self, event: _shim.Event) -> None:
        assert self._list is not None
        assert self._list_done is not None
        status: int | None = event.status if event.kind == _shim.EventKind.IO_DONE else None
        if event.kind == _shim.EventKind.OVERFLOW:
            status = self._list.take_untold()
        if status is not None and not self._list_done.done():
            self._list.release()
            self._list_done.set_result(status)

    def _answered(self, ticket: int, status: int, result: int) -> None:
        answer = self._waiting.pop(ticket, None)
        if answer is None:
            return
        self._slots.release()
        if not answer.done():
            answer.set_result((status, result))


async def side_by_side(
    one: Callable[[Any], Awaitable[None]], items: Iterable[Any], *, depth: int = QUEUE_DEPTH
) -> None:
    """Runs ``depth`` at a time; the first error ends it."""
    queue = iter(items)

    async def worker(first: Any) -> None:
        await one(first)
        for item in queue:
            await one(item)

    # A load calls this for each band, and most have fewer zones: no task without work.
    firsts = list(itertools.islice(queue, depth))
    if len(firsts) == 1:
        await worker(firsts[0])
    elif firsts:
        await _all_or_first_error([worker(first) for first in firsts])


async def _all_or_first_error(parts: list[Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
