"""An FtlDevice on emulated ZNS media with a load generator on top, all on one stepped reactor: no thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended

SEED = 20261122

MakeFtlRig = Callable[..., Awaitable["FtlRig"]]


class FtlRig:
    """>>> @pytest.mark.rig(zones=40, open_zones=5)
    ... async def test_something(rig: FtlRig) -> None: ...
    """

    def __init__(self, reactor: ReactorLoop, media: _shim.EmulatedMedia, device: FtlDevice) -> None:
        self.reactor = reactor
        self.media = media
        self.device = device
        self.port = BlockPort(reactor, device.core, name="user", patience_s=0)
        self.load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=SEED)
        self._done = asyncio.Event()
        reactor.subscribe(self.load.id, self._on_event)

    def _on_event(self, event: _shim.Event) -> None:
        if load_ended(event, self.load):
            self._done.set()

    async def start(self, kind: str, **options: Any) -> None:
        self._done.clear()
        options.setdefault("total_blocks", self.device.block_count)
        self.load.start(kind, **options)

    async def finish(self) -> dict[str, Any]:
        await self._done.wait()
        return self.load.progress().as_dict()

    async def run(self, kind: str, **options: Any) -> dict[str, Any]:
        """One load to its end; I/O errors and wrong blocks are the caller's to judge."""
        await self.start(kind, **options)
        return await self.finish()

    async def good(self, kind: str, **options: Any) -> dict[str, Any]:
        """As run(), but everything must be right."""
        progress = await self.run(kind, **options)
        assert (progress["io_errors"], progress["verify_errors"]) == (0, 0), progress
        return progress

    async def overwrite(self, times: float, **options: Any) -> None:
        """Random 4 KiB writes, so many times the capacity."""
        await self.good("write", total_blocks=int(times * self.device.block_count), **options)

    async def verify(self) -> None:
        """Every block of the device."""
        io_blocks = min(8, self.device.core.max_io_blocks)
        progress = await self.good("read", pattern="sequential", io_blocks=io_blocks)
        assert progress["done_blocks"] >= self.device.block_count

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def close(self) -> None:
        self.load.close()
        await self.port.close()


def zns_drive(
    reactor: ReactorLoop,
    *,
    zones: int = 66,
    zone_size: int = 256,
    zone_capacity: int = 200,
    open_zones: int = 14,
    **options: Any,
) -> _shim.EmulatedMedia:
    return _shim.EmulatedMedia.zns(
        reactor.shim,
        zones,
        zone_size,
        zone_capacity,
        max_open_zones=open_zones,
        max_active_zones=open_zones,
        **options,
    )


@asynccontextmanager
async def ftl_rig(
    reactor: ReactorLoop, *, conf: FtlConf | None = None, num_punits: int | None = 1, **media: Any
) -> AsyncIterator[FtlRig]:
    """With a new FTL; halted at the end unless the test has done so. media: as zns_drive() takes it."""
    drive = zns_drive(reactor, **media)
    device = await creation.create(reactor, drive, name="ftl0", conf=conf or FtlConf(), num_punits=num_punits)
    async with rig_on(reactor, drive, device) as rig:
        yield rig


@asynccontextmanager
async def rig_on(reactor: ReactorLoop, drive: _shim.EmulatedMedia, device: FtlDevice) -> AsyncIterator[FtlRig]:
    """Halts the device at the end unless the test has done so."""
    rig = FtlRig(reactor, drive, device)
    try:
        yield rig
    finally:
        await rig.close()
        if device.state is not FtlState.HALTED:
            await device.halt()
