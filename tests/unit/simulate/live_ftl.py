"""A whole FTL on media in memory that keep no data, stepped in one thread: what a simulation is compared with."""

from __future__ import annotations

import asyncio
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture.clock import SimulatedClock, run_simulated

QUEUE_DEPTH = 32


def live_write_amplification(
    *, bands: int, zones: int, zone_blocks: int, conf: FtlConf, before: float, counted: float, seed: int
) -> tuple[float, int]:
    """(data blocks on media for each block of hosts, data blocks in a band). Uniform writes: so many capacities before,
    and so many that count. Headers and summaries do not count."""
    clock = SimulatedClock()

    async def body() -> tuple[float, int]:
        reactor = ReactorLoop("live", stepped=True, clock=clock)
        await reactor.start()
        zone_size = 1 << (zone_blocks - 1).bit_length()
        null = _shim.EmulatedMedia.null(reactor.shim, (bands * zones + 2) * zone_size)
        base = _shim.ZonedOverlay(reactor.shim, null, zone_capacity=zone_blocks)
        device = await creation.create(
            reactor, base, name="live", conf=conf, num_punits=zones, no_data=True, base_name="N"
        )
        assert device.geometry.band_count == bands
        load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=seed)

        async def write(**how: Any) -> None:
            load.start("write", **how)
            while load.progress().running:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        await write(pattern="sequential", total_blocks=device.block_count, io_blocks=32, queue_depth=16)
        await write(total_blocks=int(before * device.block_count), queue_depth=QUEUE_DEPTH)
        then = device.core.stats()
        await write(total_blocks=int(counted * device.block_count), queue_depth=QUEUE_DEPTH)
        now = device.core.stats()
        load.close()
        await device.halt()
        await reactor.stop()
        data = now.media_user_blocks + now.media_reloc_blocks - then.media_user_blocks - then.media_reloc_blocks
        return data / (now.user_written_blocks - then.user_written_blocks), device.geometry.band_blocks

    return run_simulated(clock, body())
