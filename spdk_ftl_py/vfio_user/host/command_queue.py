"""The host side of a queue in shared memory that Python serves: the admin queue, or an I/O queue until the shim
takes it over."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ... import _shim
from ...errors import FtlError, ProtocolError
from ...nvme import wire
from ...nvme.wire import AdminOp, Cqe, Sqe
from ...runtime.pulse import on_beat

DATA_BYTES_MAX: Final = wire.PAGE_BYTES
"""The maximum data of one command."""
SQE_BYTES: Final = 64
CQE_BYTES: Final = 16
SPINS: Final = 200
"""The number of turns of the event loop that a command is waited for without a pause."""
PAUSE_MIN_S: Final = 0.001
PAUSE_MAX_S: Final = 0.02
EVENTS_PAUSE_S: Final = 0.25
"""How often an idle queue is looked at. All of a process are looked at in the same turn of the event loop."""


@dataclass
class _Pending:
    sqe: Sqe
    done: asyncio.Future[tuple[Cqe, bytearray]]
    receive_bytes: int


class SharedCommandQueue:
    """Commands with their data and completions. One task at a time must run pump()."""

    def __init__(
        self,
        memory: _shim.SharedQueueMemory,
        iova: int,
        ring_sq: Callable[[int], None],
        ring_cq: Callable[[int], None],
        *,
        peer: str,
    ) -> None:
        """iova: the address of the memory at the server. ring_sq, ring_cq: write a doorbell."""
        self.executed = 0
        """The number of commands that were completed."""
        self._memory = memory
        self._iova = iova
        self._ring_sq = ring_sq
        self._ring_cq = ring_cq
        self._peer = peer
        self._map = mmap.mmap(memory.fd, memory.bytes)
        self._entries = memory.entries
        self._tail = 0
        self._head = 0
        self._phase = 1
        self._free = list(range(self._entries - 1))
        self._slots = asyncio.Semaphore(self._entries - 1)
        self._pending: dict[int, _Pending] = {}
        self._lost: FtlError | None = None
        self._woken = asyncio.Event()
        """A command was submitted, or something has completed."""

    async def submit(
        self, sqe: Sqe, data: bytes = b"", receive_bytes: int = 0, *, prp: int = 0
    ) -> tuple[Cqe, bytearray]:
        """Sends a command with data, or with room for receive_bytes, or with the address of something else (prp).
        Returns the completion, whatever its status.

        Waits for a free slot. If it is cancelled, the command's id stays taken until the controller answers.
        """
        assert max(len(data), receive_bytes) <= DATA_BYTES_MAX
        await self._slots.acquire()
        if self._lost is not None:
            self._slots.release()
            raise self._lost
        cid = self._free.pop()
        at = self._memory.buffer_offset(cid)
        with_data = bool(data) or receive_bytes > 0
        self._map[at : at + DATA_BYTES_MAX] = data.ljust(DATA_BYTES_MAX, b"\0")
        sqe = replace(sqe, cid=cid, flags=0, sgl_address=self._iova + at if with_data else prp, sgl_bytes=0, sgl_type=0)
        pending = _Pending(sqe, asyncio.get_running_loop().create_future(), receive_bytes)
        self._pending[cid] = pending
        place = self._memory.sq_offset + self._tail * SQE_BYTES
        self._map[place : place + SQE_BYTES] = sqe.pack()
        self._tail = (self._tail + 1) % self._entries
        self._ring_sq(self._tail)
        self._woken.set()
        return await pending.done

    async def pump(self) -> None:
        """Polls for completions, until it is cancelled. Raises ProtocolError."""
        spins = 0
        pause_s = PAUSE_MIN_S
        while True:
            if self._reap():
                spins, pause_s = 0, PAUSE_MIN_S
            waiting = any(each.sqe.opcode != AdminOp.ASYNC_EVENT_REQUEST for each in self._pending.values())
            if waiting and spins < SPINS:
                spins += 1
                await asyncio.sleep(0)
            elif waiting:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, PAUSE_MAX_S)
            else:
                spins, pause_s = 0, PAUSE_MIN_S
                await self._pause()

    async def _pause(self) -> None:
        """Until the next command or the next completion, which is that of an event."""
        self._woken.clear()
        end = on_beat(EVENTS_PAUSE_S, self._look)
        try:
            await self._woken.wait()
        finally:
            end()

    def _look(self) -> None:
        if self._has_completed():
            self._woken.set()

    def _has_completed(self) -> bool:
        """Something is there for _reap()."""
        return self._map[self._memory.cq_offset + self._head * CQE_BYTES + CQE_BYTES - 2] & 1 == self._phase

    def _reap(self) -> int:
        """Processes what has completed. Raises ProtocolError."""
        count = 0
        # At most one round: a server may change phases at will.
        while count < self._entries - 1 and self._lost is None:
            if not self._has_completed():
                break
            at = self._memory.cq_offset + self._head * CQE_BYTES
            cqe = Cqe.unpack(self._map[at : at + CQE_BYTES])
            self._head += 1
            if self._head == self._entries:
                self._head, self._phase = 0, self._phase ^ 1
            count += 1
            self._complete(cqe)
        if count:
            self._ring_cq(self._head)
        return count

    def _complete(self, cqe: Cqe) -> None:
        pending = self._pending.pop(cqe.cid, None)
        if pending is None:
            raise ProtocolError(f"{self._peer}: completion for command {cqe.cid}, which is not outstanding")
        self.executed += 1
        at = self._memory.buffer_offset(cqe.cid)
        data = bytearray(self._map[at : at + pending.receive_bytes])
        self._free.append(cqe.cid)
        self._slots.release()
        if not pending.done.done():
            pending.done.set_result((cqe, data))

    def fail(self, error: FtlError) -> None:
        """Ends every outstanding and future submit() with the error. Idempotent: the first error stays."""
        if self._lost is not None:
            return
        self._lost = error
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
                pending.done.exception()  # marks it as retrieved: a submit() that was cancelled does not fetch it
            self._slots.release()
        self._pending.clear()
