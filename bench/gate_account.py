"""What the account of hosts' I/O costs (latencies and errors, shim/reactor/io_account.hpp): CPU of an I/O.

    python bench/gate_account.py [--pairs 15] [--seconds 0.5] [--depth 32] [--kind read|write]

One FTL on emulated ZNS media in memory, with two gates in front, one that keeps an account and one that doesn't, each
for half of the LBAs.
LoadGenerator goes through them in turns: a pair is one run of each, so that what else the machine does hits both. CPU
time of the process for an I/O; a network is not in it, so the share is that of the shortest path there is.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.runtime.reactor import ReactorLoop, load_ended

ZONES = 64
ZONE_SIZE = 4096
ZONE_CAPACITY = 3072


class Way:
    """Through one gate to the FTL."""

    def __init__(self, reactor: ReactorLoop, core: _shim.BlockDevice, half: int, *, accounts: bool) -> None:
        self.reactor = reactor
        self.gate = _shim.Gate(reactor.shim, core, accounts=accounts)
        self.blocks = core.block_count // 2
        self.generator = _shim.LoadGenerator(
            reactor.shim, self.gate, first_lba=half * self.blocks, lba_count=self.blocks, seed=1
        )

    async def run(self, **how: object) -> float:
        """Microseconds of CPU for an I/O."""
        done = asyncio.Event()
        self.reactor.subscribe(
            self.generator.id, lambda event: done.set() if load_ended(event, self.generator) else None
        )
        began = time.process_time()
        self.generator.start(**how)  # type: ignore[arg-type]
        await done.wait()
        spent = time.process_time() - began
        self.reactor.unsubscribe(self.generator.id)
        progress = self.generator.progress()
        assert not progress.verify_errors
        assert not progress.io_errors
        return spent / progress.done_ios * 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--kind", choices=("read", "write"), default="read")
    args = parser.parse_args()

    reactor = ReactorLoop("ftl")
    await reactor.start()
    media = _shim.EmulatedMedia.zns(
        reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=14, max_active_zones=14, max_io_blocks=32
    )
    device = await creation.create(reactor, media, name="bench", conf=FtlConf())
    with_it = Way(reactor, device.core, 0, accounts=True)
    without = Way(reactor, device.core, 1, accounts=False)
    if args.kind == "read":
        for way in (with_it, without):
            await way.run(kind="write", pattern="sequential", io_blocks=32, total_blocks=way.blocks)
    how = {"kind": args.kind, "queue_depth": args.depth, "time_limit_s": args.seconds}
    pairs = []
    for number in range(args.pairs):
        order = (with_it, without) if number % 2 else (without, with_it)
        spent = {way: await way.run(**how) for way in order}
        pairs.append((spent[with_it], spent[without]))
    ratios = sorted(one / other for one, other in pairs)
    differences = [one - other for one, other in pairs]
    print(
        f"{args.kind} depth {args.depth}: {statistics.median(pair[1] for pair in pairs):.2f} us of CPU without; "
        f"with / without: median {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f} in {len(pairs)} "
        f"pairs), {statistics.median(differences) * 1000:+.0f} ns"
    )
    with_it.generator.close()
    without.generator.close()
    await device.halt()
    await reactor.stop()


if __name__ == "__main__":
    asyncio.run(main())
