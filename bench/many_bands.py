"""What the number of bands costs: random 4 KiB writes under GC, and one decision of the band manager.

    python bench/many_bands.py [--bands 225,1024,4096,16384] [--seconds 3] [--depth 32]

The FTL alone: LoadGenerator, FtlCore and emulated ZNS media of 1 GiB in memory on one reactor thread, the band manager
on the event loop's. The same capacity is cut into more and smaller bands of one zone each. `loop %` is the CPU the
event loop's thread took, of one core; `us/write` that of all threads. `pump us` is CPU time of a decision in which
nothing has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.runtime.reactor import ReactorLoop

BLOCKS = 1 << 18
OPEN_ZONES = 14
PUMPS = 20


async def run(load: _shim.LoadGenerator, **how: object) -> None:
    load.start("write", **how)  # type: ignore[arg-type]
    while load.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert load.progress().io_errors == 0


async def measure(bands: int, seconds: float, depth: int) -> None:
    reactor = ReactorLoop("bands")
    await reactor.start()
    capacity = max(16, BLOCKS // bands)
    media = _shim.EmulatedMedia.zns(
        reactor.shim,
        bands + 2,
        1 << (capacity - 1).bit_length(),
        capacity,
        max_open_zones=OPEN_ZONES,
        max_active_zones=OPEN_ZONES,
        max_io_blocks=32,
    )
    conf = FtlConf(lba_rsvd=20 if capacity >= 64 else 50)
    device = await creation.create(reactor, media, name="bench", conf=conf, num_punits=1)
    load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1)
    await run(load, pattern="sequential", total_blocks=device.block_count, io_blocks=32, queue_depth=32)
    await run(load, total_blocks=device.block_count // 2, queue_depth=depth)
    before = device.core.stats()
    thread, process, began = time.thread_time(), time.process_time(), time.perf_counter()
    load.start("write", total_blocks=1 << 40, queue_depth=depth)
    await asyncio.sleep(seconds)
    load.stop()
    thread, process, took = time.thread_time() - thread, time.process_time() - process, time.perf_counter() - began
    while load.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    now = device.core.stats()
    writes = now.user_written_blocks - before.user_written_blocks
    amplification = (now.media_written_blocks - before.media_written_blocks) / writes
    pump = time.thread_time()
    for _ in range(PUMPS):
        device._manager.pump()
    pump = (time.thread_time() - pump) / PUMPS
    print(
        f"| {bands} | {capacity} | {writes / took / 1000:.1f} | {amplification:.2f} | {process / writes * 1e6:.2f} "
        f"| {100 * thread / took:.0f} | {pump * 1e6:.0f} |",
        flush=True,
    )
    load.close()
    await device.halt()
    await reactor.stop()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", default="225,1024,4096,16384")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--depth", type=int, default=32)
    args = parser.parse_args()
    print("| bands | blocks | kIOPS | WA | us/write | loop % | pump us |\n|---|---|---|---|---|---|---|")
    for bands in args.bands.split(","):
        await measure(int(bands), args.seconds, args.depth)


if __name__ == "__main__":
    asyncio.run(main())
