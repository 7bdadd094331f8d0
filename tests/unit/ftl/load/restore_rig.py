"""An FtlDevice that is crashed and loaded again, with a model of what must survive."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError, MediaError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from support.async_tests import rig_options
from unit.shim.ftl.core_bench import BLOCK, content, version_of
from unit.shim.ftl.core_model import Model

QUEUE_DEPTH = 8
LANDING_STEPS = 200
"""Of the reactor, which is stepped: after so many nothing is in flight any more."""
CONF = FtlConf(write_buffer_size=64 * BLOCK, lba_rsvd=30)
ZONE_SIZE, ZONE_CAPACITY = 64, 48


MakeRestoreRig = Callable[..., Awaitable["RestoreRig"]]


class RestoreRig:
    def __init__(self, reactor: ReactorLoop, base: Any, rng: random.Random, *, buffer_dir: Path | None = None) -> None:
        """buffer_dir: where write buffers outlive a crash."""
        self.buffer_dir = buffer_dir
        self.reactor = reactor
        self.base = base
        self.rng = rng
        self.device: FtlDevice
        self.port: BlockPort
        self.model: Model

    async def create(self, conf: FtlConf = CONF, **options: Any) -> None:
        self._use(await creation.create(self.reactor, self.base, name="ftl0", conf=conf, **self._options(options)))
        self.model = Model(self.device.block_count)

    async def load(self, **options: Any) -> None:
        uuid = options.pop("uuid", None) or self.device.uuid
        self._use(await loading.load(self.reactor, self.base, name="ftl0", uuid=uuid, **self._options(options)))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"num_punits": 2, "buffer_dir": self.buffer_dir, **options}

    def _use(self, device: FtlDevice) -> None:
        self.device = device
        self.port = BlockPort(self.reactor, device.core, name="user", patience_s=0)

    async def halt(self) -> None:
        await self.port.close()
        await self.device.halt()

    async def crash(self) -> None:
        """The end of the process: nothing more is written. What was written stays, and what is in flight lands."""
        await self.device.abort("crash")
        await self.port.close()
        for _ in range(LANDING_STEPS):
            await asyncio.sleep(0)
        # Of a failed device this only lets go of what it holds; it writes nothing.
        with contextlib.suppress(FtlError):
            await self.device.halt()

    async def io(self) -> None:
        """One random I/O, followed by the model. Raises MediaError when power fails."""
        rng, model, port = self.rng, self.model, self.port
        kind = rng.random()
        if kind < 0.04:
            completed_before = list(model.completed)
            await port.flush()
            model.flushed(completed_before)
            return
        trim = kind < 0.12
        block_count = rng.choice([1, 1, 2, 24 if trim else min(16, self.device.core.max_io_blocks)])
        span = model.block_count // (1 if rng.random() < 0.4 else 8)
        lba = rng.randrange(span - block_count + 1)
        change, version = model.submit(lba, block_count, trim=trim)
        fua = rng.random() < 0.03
        if trim:
            await port._submit(_shim.Op.DEALLOCATE, lba, block_count)
        else:
            await port.write(lba, b"".join(content(lba + i, version) for i in range(block_count)), fua=fua)
        model.acknowledge(lba, block_count, change, durable=fua and not trim)

    async def traffic(self, operations: int) -> None:
        """Ends early, quietly, when power fails."""
        left = iter(range(operations))

        async def worker() -> None:
            for _ in left:
                await self.io()

        workers = [asyncio.ensure_future(worker()) for _ in range(QUEUE_DEPTH)]
        results = await asyncio.gather(*workers, return_exceptions=True)
        for result in results:
            if result is not None and (not isinstance(result, MediaError) or not self.device.failed.is_set()):
                raise result

    async def flush(self) -> None:
        completed_before = list(self.model.completed)
        await self.port.flush()
        self.model.flushed(completed_before)

    async def versions(self) -> list[int]:
        most = min(64, self.device.core.max_io_blocks)
        found: list[int] = []
        for first in range(0, self.device.block_count, most):
            data = await self.port.read(first, min(most, self.device.block_count - first))
            found += [version_of(first + i, block.tobytes()) for i, block in enumerate(data)]
        return found

    async def check(self, what: str) -> list[int]:
        """Everything that had to survive has; what is there now is durable."""
        found = await self.versions()
        self.model.check(found, what)
        self.model.restart(found)
        return found

    async def end(self) -> None:
        if not hasattr(self, "device"):
            return
        if self.device.state in (FtlState.RUNNING, FtlState.CREATING):
            await self.device.halt()
        elif self.device.state is not FtlState.HALTED:
            with contextlib.suppress(FtlError):
                await self.device.halt()
        await self.port.close()


@asynccontextmanager
async def restore_rig(
    reactor: ReactorLoop,
    *,
    buffer_dir: Path | None = None,
    seed: int = 1,
    zones: int = 44,
    open_zones: int = 7,
    **media: Any,
) -> AsyncIterator[RestoreRig]:
    """Nothing is created yet on its zoned drive."""
    drive = _shim.EmulatedMedia.zns(
        reactor.shim,
        zones,
        ZONE_SIZE,
        ZONE_CAPACITY,
        max_open_zones=open_zones,
        max_active_zones=open_zones,
        **media,
    )
    drive.set_schedule(seed)
    rig = RestoreRig(reactor, drive, random.Random(seed), buffer_dir=buffer_dir)
    try:
        yield rig
    finally:
        await rig.end()


@pytest.fixture(name="rig")
def restore_rig_of_the_test(
    reactor: ReactorLoop, request: pytest.FixtureRequest
) -> AbstractAsyncContextManager[RestoreRig]:
    return restore_rig(reactor, **rig_options(request))


@pytest.fixture(name="make_rig")
def restore_rigs(reactor: ReactorLoop, rigs: AsyncExitStack) -> MakeRestoreRig:
    return lambda **options: rigs.enter_async_context(restore_rig(reactor, **options))
