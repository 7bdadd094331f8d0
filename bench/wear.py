"""Wear with half of the data cold: how evenly zones are reset, and what levelling costs.

    python bench/wear.py [--zones 66 --zone-blocks 512 --punits 1] [--writes 100] [--without-levelling]

An FTL on emulated ZNS media in this process's memory, created with no_data. All of it is written once, in ascending
order; then 4 KiB writes at random go to the first half alone, `--writes` times the capacity. The counts depend on the
seed and slightly on the timing of the event loop, but not on the speed of the machine.

`wa` is the write amplification of the random writes, `max / mean` and `min / mean` are of the resets of all bands,
`worn moves` the bands that were moved to level wear.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

from spdk_ftl_py import _shim, outputs
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.gc import levelling
from spdk_ftl_py.runtime.reactor import ReactorLoop

OPEN_ZONES = 14
NEVER = 1 << 60


async def finish(load: _shim.LoadGenerator) -> None:
    while load.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert load.progress().io_errors == 0


async def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    reactor = ReactorLoop("wear")
    await reactor.start()
    zone_size = 1 << (args.zone_blocks - 1).bit_length()
    media = _shim.EmulatedMedia.zns(
        reactor.shim,
        args.zones,
        zone_size,
        args.zone_blocks,
        max_open_zones=OPEN_ZONES,
        max_active_zones=OPEN_ZONES,
        max_io_blocks=32,
    )
    conf = FtlConf(lba_rsvd=args.reserved, reloc_policy=args.policy)
    device = await creation.create(reactor, media, name="wear", conf=conf, num_punits=args.punits, no_data=True)
    hot = device.block_count // 2
    fill = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1, verify="none")
    load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=hot, seed=args.seed, verify="none")
    fill.start("write", pattern="sequential", io_blocks=32, total_blocks=device.block_count, queue_depth=16)
    await finish(fill)
    rows = []
    first = device.core.stats()
    for step in range(args.steps):
        load.start("write", total_blocks=args.writes * device.block_count // args.steps, queue_depth=64)
        await finish(load)
        now, resets = device.core.stats(), device.bands.resets
        rows.append(
            {
                "drive_writes": (step + 1) * args.writes / args.steps,
                "wa": (now.media_written_blocks - first.media_written_blocks)
                / (now.user_written_blocks - first.user_written_blocks),
                "min": int(resets.min()),
                "mean": float(resets.mean()),
                "max": int(resets.max()),
                "max / mean": float(resets.max() / resets.mean()),
                "never": int((resets == 0).sum()),
                "moves": device._manager.moves_started,
                "worn moves": device._manager.levelling.moves_started,
            }
        )
    for each in (fill, load):
        each.close()
    await device.halt()
    await reactor.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zones", type=int, default=66)
    parser.add_argument("--zone-blocks", type=int, default=512)
    parser.add_argument("--punits", type=int, default=1)
    parser.add_argument("--reserved", type=int, default=20)
    parser.add_argument("--policy", default="seed")
    parser.add_argument("--writes", type=int, default=100, help="times the capacity")
    parser.add_argument("--steps", type=int, default=4, help="rows of the table")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-levelling", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    outputs.check(args.json)
    logging.basicConfig(level=logging.ERROR)
    if args.without_levelling:
        levelling.BANDS_PER_MOVE = NEVER  # type: ignore[misc]
    began = time.perf_counter()
    rows = asyncio.run(measure(args))
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print(
            "| " + " | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()), "|"
        )
    print(f"{time.perf_counter() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
