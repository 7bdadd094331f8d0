"""The FTL alone: LoadGenerator, FtlCore and emulated ZNS media in memory, all on one reactor thread, GC running.

    python bench/ftl_memory.py [--seconds 2] [--depths 1,32,128]

What it shows is the CPU an I/O costs: the generator's making and checking of content is in it, a network is not.
"""

from __future__ import annotations

import argparse
import asyncio

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.runtime.reactor import ReactorLoop

ZONES = 128
ZONE_SIZE = 4096
ZONE_CAPACITY = 3072


async def measure(reactor: ReactorLoop, generator: _shim.LoadGenerator, **how: object) -> dict[str, object]:
    done = asyncio.Event()
    reactor.subscribe(generator.id, lambda event: done.set() if event.kind == _shim.EventKind.LOAD_DONE else None)
    generator.start(**how)  # type: ignore[arg-type]
    await done.wait()
    reactor.unsubscribe(generator.id)
    return generator.progress().as_dict()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--depths", default="1,32,128")
    args = parser.parse_args()

    reactor = ReactorLoop("ftl")
    await reactor.start()
    media = _shim.EmulatedMedia.zns(
        reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=14, max_active_zones=14, max_io_blocks=32
    )
    device = await creation.create(reactor, media, name="bench", conf=FtlConf())
    generator = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1)
    try:
        fill = await measure(
            reactor, generator, kind="write", pattern="sequential", io_blocks=32, total_blocks=device.block_count
        )
        print(f"sequential 128 KiB write: {device.block_count / 256 / int(fill['elapsed_ns']) * 1e9:8.0f} MiB/s")
        for depth in (int(depth) for depth in args.depths.split(",")):
            for kind in ("write", "read"):
                before = device.core.stats()
                run = await measure(reactor, generator, kind=kind, queue_depth=depth, time_limit_s=args.seconds)
                after = device.core.stats()
                assert not run["verify_errors"]
                written = after.user_written_blocks - before.user_written_blocks
                media_blocks = after.media_written_blocks - before.media_written_blocks
                factor = f", {media_blocks / written:.2f} media blocks per block" if written else ""
                rate = int(run["done_ios"]) / int(run["elapsed_ns"]) * 1e6  # type: ignore[call-overload]
                print(f"random 4 KiB {kind:5} QD {depth:3}: {rate:8.1f} kIOPS{factor}", flush=True)
    finally:
        generator.close()
        await device.halt()
        await reactor.stop()


if __name__ == "__main__":
    asyncio.run(main())
