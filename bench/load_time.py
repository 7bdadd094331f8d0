"""How long loading an FTL takes, after a halt and after a crash, against size of the device and how full it is.

    python bench/load_time.py [--sizes 1,4,16] [--fills 10,50,100] [--read-latency-us 0] [--emulated]

Emulated ZNS media in memory, zones of 16 MiB (capacity 12 MiB); a case takes up to 0.75 x size x fill of memory, and is
left out where there is not that much. A fill of F % writes the first F % of the LBAs in order, then a tenth as many at
random among them. I/Os are those to the base, of up to 128 KiB. --emulated: zones emulated on a conventional device;
there a load after a crash verifies every block. It crashes with everything on media, and without a write buffer file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.ftl import creation, loading
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.runtime.reactor import ReactorLoop

GIB_BLOCKS = 1 << 18
ZONE_SIZE = 4096
ZONE_CAPACITY = 3072
OPEN_ZONES = 14
MAX_IO_BLOCKS = 32
LOADS = 5
"""Of each kind; the fastest counts."""


@dataclass
class Case:
    """One size and fill."""

    device: FtlDevice
    media: _shim.EmulatedMedia
    base: _shim.BlockDevice
    emulated: bool
    reactor: ReactorLoop

    def reopen(self) -> None:
        if self.emulated:
            # What a restart knows of emulated zones: nothing.
            self.base = _shim.ZonedOverlay(
                self.reactor.shim, self.media, zone_capacity=ZONE_CAPACITY, initial_state="full"
            )

    async def load(self) -> tuple[float, int]:
        """Seconds, and I/Os to the base."""
        self.reopen()
        before, began = self.media.operations, time.perf_counter()
        self.device = await loading.load(self.reactor, self.base, name="bench", uuid=self.device.uuid)
        return time.perf_counter() - began, self.media.operations - before

    async def halt(self) -> float:
        began = time.perf_counter()
        await self.device.halt()
        return time.perf_counter() - began

    async def crash(self) -> None:
        await self.device.abort("crash")
        with contextlib.suppress(FtlError):
            await self.device.halt()


async def write(reactor: ReactorLoop, device: FtlDevice, blocks: int) -> None:
    generator = _shim.LoadGenerator(reactor.shim, device.core, lba_count=blocks, seed=1)
    done = asyncio.Event()
    reactor.subscribe(generator.id, lambda event: done.set() if event.kind == _shim.EventKind.LOAD_DONE else None)
    for how in (
        {"pattern": "sequential", "io_blocks": 32, "total_blocks": blocks},
        {"pattern": "random", "io_blocks": 1, "total_blocks": max(1, blocks // 10)},
    ):
        done.clear()
        generator.start("write", **how)  # type: ignore[arg-type]
        await done.wait()
        progress: dict[str, Any] = generator.progress().as_dict()
        assert not progress["io_errors"], progress
    reactor.unsubscribe(generator.id)
    generator.close()


async def measure(size_gib: int, fill: int, latency_us: int, emulated: bool) -> str:
    reactor = ReactorLoop("load")
    await reactor.start()
    blocks = size_gib * GIB_BLOCKS
    if emulated:
        media = _shim.EmulatedMedia.conventional(reactor.shim, blocks, max_io_blocks=MAX_IO_BLOCKS)
        base: _shim.BlockDevice = _shim.ZonedOverlay(reactor.shim, media, zone_capacity=ZONE_CAPACITY)
    else:
        base = media = _shim.EmulatedMedia.zns(
            reactor.shim,
            blocks // ZONE_SIZE,
            ZONE_SIZE,
            ZONE_CAPACITY,
            max_open_zones=OPEN_ZONES,
            max_active_zones=OPEN_ZONES,
            max_io_blocks=MAX_IO_BLOCKS,
        )
    case = Case(await creation.create(reactor, base, name="bench", conf=FtlConf()), media, base, emulated, reactor)
    await write(reactor, case.device, max(1, case.device.block_count * fill // 100))
    if latency_us:
        media.inject_fault(op=_shim.Op.READ, latency_us=latency_us)
    halts, clean, dirty = [], [], []
    for _ in range(LOADS):
        halts.append(await case.halt())
        clean.append(await case.load())
        assert case.device.restored is not None
        assert case.device.restored["from_checkpoint"]
        await case.crash()
        dirty.append(await case.load())
        assert not case.device.restored["from_checkpoint"]
        mapped = case.device.restored["mapped_blocks"]
    await case.halt()
    await reactor.stop()
    (clean_s, clean_ios), (dirty_s, dirty_ios) = min(clean), min(dirty)
    gib = mapped / GIB_BLOCKS
    return (
        f"| {size_gib} | {fill} | {gib:.2f} | {min(halts) * 1e3:.0f} | {clean_s * 1e3:.0f} | {clean_ios} "
        f"| {dirty_s * 1e3:.0f} | {dirty_ios} | {dirty_s / clean_s:.1f} |"
    )


def memory_available() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,4,16", help="of the base, in GiB (default: %(default)s)")
    parser.add_argument("--fills", default="10,50,100", help="percent (default: %(default)s)")
    parser.add_argument("--read-latency-us", type=int, default=0, help="of each media read (default: %(default)s)")
    parser.add_argument("--emulated", action="store_true", help="zones emulated on a conventional device")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| GiB | fill % | GiB mapped | halt ms | load ms | I/Os | load after a crash ms | I/Os | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in map(int, args.sizes.split(",")):
        for fill in map(int, args.fills.split(",")):
            if size * fill / 100 * (1 << 30) * ZONE_CAPACITY / ZONE_SIZE > memory_available() * 0.9:
                print(f"| {size} | {fill} | not enough memory | | | | | | |", flush=True)
                continue
            print(asyncio.run(measure(size, fill, args.read_latency_us, args.emulated)), flush=True)


if __name__ == "__main__":
    main()
