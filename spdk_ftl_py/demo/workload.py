"""The I/O of the demo. An NVMe/TCP host writes blocks that identify themselves, and reads every one of them back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from .. import _shim
from .._shim import BLOCK_BYTES
from ..errors import FtlError, MediaError
from ..ftl.media.blockdev import BlockPort
from ..nvme.host.controller import Controller
from ..nvme.host.io_queues import IoQpair
from ..nvme.host.namespaces import NamespaceInfo
from ..nvme.wire import status_text
from ..runtime.reactor import ReactorLoop, load_ended
from ..time_limit import time_limit
from .screen import Phase

HOST_NQN: Final = "nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-000000000d01"
QUEUE_DEPTH: Final = 128
LARGE_IO_BLOCKS: Final = 32
POLL_S: Final = 0.1
STALL_S: Final = 20.0
"""Without a completion in this time, the FTL counts as stuck."""
_MIB: Final = 1 << 20
LoadKind = Literal["write", "read", "trim", "mixed"]
LoadPattern = Literal["random", "sequential"]


@dataclass(frozen=True)
class Result:
    """The result of one run of the load generator."""

    blocks: int
    ios: int
    seconds: float
    verify_errors: int
    p50_us: float
    p99_us: float

    @property
    def iops(self) -> float:
        return self.ios / self.seconds if self.seconds else 0.0

    @property
    def mib_s(self) -> float:
        return self.blocks * BLOCK_BYTES / _MIB / self.seconds if self.seconds else 0.0


class Host:
    """An NVMe/TCP host that is connected to one exported FTL, with a load generator on its only namespace."""

    def __init__(self, reactor: ReactorLoop, controller: Controller, namespace: NamespaceInfo) -> None:
        self.namespace = namespace
        self._reactor = reactor
        self._controller = controller
        self._qpair: IoQpair | None = None
        self._load: _shim.LoadGenerator | None = None
        self._done = asyncio.Event()

    @classmethod
    async def connect(cls, traddr: str, trsvcid: str, subnqn: str, *, seed: int) -> Host:
        """Raises FtlError if the host cannot reach the export, or the export has no namespace with 4 KiB blocks."""
        reactor = ReactorLoop("demo host")
        await reactor.start()
        controller: Controller | None = None
        try:
            controller = await Controller.connect(traddr, trsvcid, subnqn, hostnqn=HOST_NQN)
            namespaces = await controller.namespaces()
            if len(namespaces) != 1 or namespaces[0].block_bytes != BLOCK_BYTES:
                raise FtlError(f"{subnqn} has {namespaces} instead of one namespace with blocks of {BLOCK_BYTES} B")
            host = cls(reactor, controller, namespaces[0])
            host._qpair = await controller.create_io_qpair(reactor, namespaces[0], queue_depth=QUEUE_DEPTH)
            host._load = _shim.LoadGenerator(
                reactor.shim,
                host._qpair,
                lba_count=namespaces[0].block_count,
                seed=seed,
                max_queue_depth=QUEUE_DEPTH,
                max_io_blocks=LARGE_IO_BLOCKS,
            )
            reactor.subscribe(host._load.id, host._on_event)
        except BaseException:
            if controller is not None:
                await controller.close()
            await reactor.stop()
            raise
        return host

    async def close(self) -> None:
        """Idempotent."""
        if self._load is not None:
            self._load.close()
            self._load = None
        await self._controller.close()
        await self._reactor.stop()

    @property
    def block_count(self) -> int:
        return self.namespace.block_count

    async def run(
        self,
        phase: Phase,
        kind: LoadKind,
        *,
        pattern: LoadPattern,
        io_blocks: int,
        total_blocks: int,
        queue_depth: int,
        time_limit_s: float = 0.0,
        watch: Callable[[], None] = lambda: None,
    ) -> Result:
        """Runs one load to its end. watch is called regularly, and may end the load by raising.

        Raises MediaError if an I/O fails, the connection is lost, or nothing moves.
        """
        assert self._load is not None
        self._done.clear()
        self._load.start(
            kind,
            pattern=pattern,
            io_blocks=io_blocks,
            total_blocks=total_blocks,
            queue_depth=queue_depth,
            time_limit_s=time_limit_s,
        )
        done, moved_at = 0, time.monotonic()
        while not self._done.is_set():
            try:
                async with time_limit(POLL_S):
                    await self._done.wait()
            except asyncio.TimeoutError:
                pass
            now = self._load.progress()
            if now.done_blocks != done:
                done, moved_at = now.done_blocks, time.monotonic()
            phase.update(done, _speed(now, io_blocks))
            watch()
            if self._controller.lost.is_set():
                raise MediaError(f"the connection to the FTL is lost: {self._controller.lost_reason}")
            if time.monotonic() - moved_at > STALL_S:
                self._load.stop()
                raise MediaError(f"{kind}: no I/O has completed for {STALL_S:g} s")
        return self._result(kind, self._load.progress())

    async def flush(self) -> None:
        """Raises MediaError if the FTL cannot make the written data durable."""
        assert self._qpair is not None
        port = BlockPort(self._reactor, self._qpair, name="flush", depth=1, patience_s=0)
        try:
            await port.flush()
        finally:
            await port.close()

    def _on_event(self, event: _shim.Event) -> None:
        if self._load is not None and load_ended(event, self._load):
            self._done.set()

    @staticmethod
    def _result(kind: LoadKind, progress: _shim.LoadProgress) -> Result:
        if progress.io_errors:
            raise MediaError(
                f"{kind}: {progress.io_errors} I/Os failed, last at block {progress.last_error_lba}: "
                f"{status_text(progress.last_error_status)}"
            )
        latency = progress.latency_ns
        return Result(
            blocks=progress.done_blocks,
            ios=progress.done_ios,
            seconds=progress.elapsed_ns / 1e9,
            verify_errors=progress.verify_errors,
            p50_us=latency.p50 / 1e3,
            p99_us=latency.p99 / 1e3,
        )


def _speed(progress: _shim.LoadProgress, io_blocks: int) -> str:
    seconds = progress.elapsed_ns / 1e9
    if not seconds:
        return ""
    if io_blocks == 1:
        return f"{progress.done_ios / seconds / 1000:.1f} kIOPS"
    return f"{progress.done_blocks * BLOCK_BYTES / _MIB / seconds:.0f} MiB/s"
