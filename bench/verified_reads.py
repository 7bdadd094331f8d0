"""What it costs to verify what hosts read: CPU of a random read, and memory.

    python bench/verified_reads.py [--pairs 9 (0: memory alone)] [--seconds 1] [--depth 32] [--io-blocks 1]

Two FTLs alike but for conf verify_reads, each with LoadGenerator and emulated ZNS media in memory on a reactor thread
of its own, read in turns: a pair is one run of each, so that what else the machine does hits both. CPU time of the
process for a read; the generator's checking of content is in it as well, a network is not. Memory: resident set of a
core whose L2P is filled, without media.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from uuid import uuid4

import numpy as np

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.runtime.reactor import ReactorLoop

ZONES = 64
ZONE_SIZE = 4096
ZONE_CAPACITY = 3072
MEMORY_ZONES = 4096
LOAD_STEP = 1 << 16


class Reads:
    """One FTL, filled."""

    def __init__(self, reactor: ReactorLoop, device: FtlDevice) -> None:
        self.reactor = reactor
        self.device = device
        self.generator = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1)

    @classmethod
    async def make(cls, *, verify: bool) -> Reads:
        reactor = ReactorLoop("ftl")
        await reactor.start()
        media = _shim.EmulatedMedia.zns(
            reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=14, max_active_zones=14, max_io_blocks=32
        )
        device = await creation.create(reactor, media, name="bench", conf=FtlConf(verify_reads=verify))
        reads = cls(reactor, device)
        await reads.run(kind="write", pattern="sequential", io_blocks=32, total_blocks=device.block_count)
        # Out of the write buffer, and in random places.
        await reads.run(kind="write", total_blocks=device.block_count // 2)
        return reads

    async def run(self, **how: object) -> dict[str, object]:
        done = asyncio.Event()
        self.reactor.subscribe(
            self.generator.id, lambda event: done.set() if event.kind == _shim.EventKind.LOAD_DONE else None
        )
        self.generator.start(**how)  # type: ignore[arg-type]
        await done.wait()
        self.reactor.unsubscribe(self.generator.id)
        progress = self.generator.progress().as_dict()
        assert not progress["verify_errors"]
        assert not progress["io_errors"]
        return progress

    async def cpu_us(self, **how: object) -> tuple[float, float]:
        """Of a read, and kIOPS."""
        began = time.process_time()
        run = await self.run(kind="read", **how)
        spent = time.process_time() - began
        ios = int(run["done_ios"])  # type: ignore[call-overload]
        return spent / ios * 1e6, ios / int(run["elapsed_ns"]) * 1e6  # type: ignore[call-overload]

    async def close(self) -> None:
        self.generator.close()
        await self.device.halt()
        await self.reactor.stop()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def bytes_per_block(*, verify: bool) -> float:
    """Resident memory of a core with every LBA on media."""
    reactor = _shim.Reactor("memory")
    media = _shim.EmulatedMedia.zns(reactor, MEMORY_ZONES, ZONE_SIZE, ZONE_SIZE, max_open_zones=14)
    bands = [[zone * ZONE_SIZE] for zone in range(2, MEMORY_ZONES)]
    block_count = (MEMORY_ZONES - 2) * (ZONE_SIZE - 64)
    before = resident()
    config = _shim.CoreConfig(
        uuid=uuid4().bytes,
        block_count=block_count,
        bands=bands,
        zone_size=ZONE_SIZE,
        zone_capacity=ZONE_SIZE,
        verify_reads=verify,
    )
    core = _shim.FtlCore(reactor, media, config)
    for first in range(0, block_count, LOAD_STEP):
        lbas = np.arange(first, min(block_count, first + LOAD_STEP), dtype=np.uint64)
        addresses = np.uint64(2 * ZONE_SIZE) + lbas
        crcs = lbas.astype(np.uint16)
        core.load_l2p(first, addresses, crcs if verify else None)
        del lbas, addresses, crcs
    used = resident() - before
    core.close()
    return used / block_count


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--io-blocks", type=int, default=1)
    args = parser.parse_args()

    # The first one pays for what the allocator keeps.
    memory = [bytes_per_block(verify=verify) for verify in (False, False, True)][1:]
    print(f"memory for a block: {memory[0]:.2f} B without, {memory[1]:.2f} B with: {memory[1] - memory[0]:.2f} B")
    if not args.pairs:
        return
    with_it, without = await Reads.make(verify=True), await Reads.make(verify=False)
    how = {"queue_depth": args.depth, "time_limit_s": args.seconds, "io_blocks": args.io_blocks}
    pairs = []
    for _ in range(args.pairs):
        pairs.append((await with_it.cpu_us(**how), await without.cpu_us(**how)))
    for index, name in enumerate(("with", "without")):
        cpu = statistics.median(pair[index][0] for pair in pairs)
        kiops = statistics.median(pair[index][1] for pair in pairs)
        print(f"{name:7} verify_reads: {cpu:6.2f} us of CPU for a read, {kiops:7.1f} kIOPS")
    ratios = sorted(pair[0][0] / pair[1][0] for pair in pairs)
    differences = [pair[0][0] - pair[1][0] for pair in pairs]
    print(
        f"CPU with / without: median {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f} in "
        f"{len(pairs)} pairs), {statistics.median(differences):+.2f} us"
    )
    await with_it.close()
    await without.close()


if __name__ == "__main__":
    asyncio.run(main())
