"""An FtlDevice on emulated ZNS media with a load generator on top, all on one stepped reactor: no thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import DeviceState, FtlDevice
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.simulated import run_stepped

SEED = 20261122


class FtlRig:
    """>>> run_rig(body, zones=66, zone_size=256, zone_capacity=200, open_zones=14)"""

    def __init__(self, reactor: ReactorLoop, media: _shim.EmulatedMedia, device: FtlDevice) -> None:
        self.reactor = reactor
        self.media = media
        self.device = device
        self.port = BlockPort(reactor, device.core, name="user")
        self.load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=SEED)
        self._done = asyncio.Event()
        reactor.subscribe(self.load.id, lambda event: self._done.set())

    async def start(self, kind: str, **options: Any) -> None:
        self._done.clear()
        options.setdefault("total_blocks", self.device.block_count)
        self.load.start(kind, **options)

    async def finish(self) -> dict[str, Any]:
        await self._done.wait()
        return dict(self.load.progress())

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


def run_media(body: Callable[[ReactorLoop, _shim.EmulatedMedia], Awaitable[None]], **options: Any) -> None:
    """body on a stepped reactor with a ZNS drive: zones, zone_size, zone_capacity, open_zones."""

    async def main(reactor: ReactorLoop) -> None:
        limit = options.pop("open_zones", 14)
        media = _shim.EmulatedMedia.zns(
            reactor.shim,
            options.pop("zones", 66),
            options.pop("zone_size", 256),
            options.pop("zone_capacity", 200),
            max_open_zones=limit,
            max_active_zones=limit,
            **options,
        )
        await body(reactor, media)

    run_stepped(main)


def run_rig(
    body: Callable[[FtlRig], Awaitable[None]], *, conf: FtlConf | None = None, num_punits: int | None = 1, **media: Any
) -> None:
    """body with a new FTL; halted behind it unless the body has done so."""

    async def on_media(reactor: ReactorLoop, drive: _shim.EmulatedMedia) -> None:
        device = await creation.create(reactor, drive, name="ftl0", conf=conf or FtlConf(), num_punits=num_punits)
        rig = FtlRig(reactor, drive, device)
        try:
            await body(rig)
        finally:
            await rig.close()
            if device.state is not DeviceState.HALTED:
                await device.halt()

    run_media(on_media, **media)
