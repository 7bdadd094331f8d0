"""What an L2P costs that does not fit into its memory (docs/l2p-paging.md).

    python bench/l2p_paging.py --folder /var/tmp [--gib 64] [--parts 1,0.5,0.25,0.1] [--seconds 2]

An FTL on a base that keeps no data, so that nothing but the L2P is measured, full and with garbage collection: random
4 KiB reads and writes to all LBAs, and to the first tenth of them. A row for each part of the L2P that may be in
memory; the first one has no pages at all. ``--folder`` is where pages are: on the drive that --l2p-dir would be on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.load.pages import Pages
from spdk_ftl_py.ftl.media.geometry import BLOCK_BYTES
from spdk_ftl_py.runtime.reactor import ReactorLoop

BAND_BLOCKS = 128 * 512 + 400
HOT_PART = 10
DEPTH = 32


async def finish(load: _shim.LoadGenerator) -> dict[str, Any]:
    while load.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    progress = load.progress().as_dict()
    assert (progress["io_errors"], progress["verify_errors"]) == (0, 0), progress
    return progress


async def run_for(reactor: ReactorLoop, device: FtlDevice, kind: str, lbas: int, seconds: float) -> dict[str, Any]:
    load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=lbas, seed=3, verify="none")
    # Until those pages are in memory that will be.
    load.start(kind, total_blocks=1 << 40, queue_depth=DEPTH)
    await asyncio.sleep(seconds)
    load.stop()
    await finish(load)
    before, cpu, began = device.core.stats(), time.process_time(), time.perf_counter()
    load.start(kind, total_blocks=1 << 40, queue_depth=DEPTH)
    await asyncio.sleep(seconds)
    load.stop()
    progress = await finish(load)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    now = device.core.stats()
    load.close()
    ios = progress["done_ios"]

    def each(name: str) -> float:
        return (getattr(now, name) - getattr(before, name)) / ios

    return {
        "iops": ios / took,
        "p50_us": progress["latency_ns"]["p50"] / 1e3,
        "p99_us": progress["latency_ns"]["p99"] / 1e3,
        "p999_us": progress["latency_ns"]["p999"] / 1e3,
        "cpu_us": cpu / ios * 1e6,
        "pages_read": each("l2p_page_reads"),
        "pages_written": each("l2p_page_writes"),
        "waits": each("l2p_page_waits"),
    }


async def measure(part: float, args: argparse.Namespace) -> dict[str, Any]:
    reactor = ReactorLoop("paging")
    await reactor.start()
    zone_size = 1 << (BAND_BLOCKS - 1).bit_length()
    bands = (args.gib << 30) // BLOCK_BYTES // BAND_BLOCKS
    null = _shim.EmulatedMedia.null(reactor.shim, (bands + 2) * zone_size)
    base = _shim.ZonedOverlay(reactor.shim, null, zone_capacity=BAND_BLOCKS)
    table = bands * BAND_BLOCKS * 80 // 100 * 4
    pages = None if part >= 1 else Pages(args.folder, memory=int(table * part))
    device = await creation.create(
        reactor, base, name="paging", conf=FtlConf(), num_punits=1, no_data=True, base_name="N", pages=pages
    )
    load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=1, verify="none")
    load.start("write", pattern="sequential", total_blocks=device.block_count, io_blocks=32, queue_depth=16)
    await finish(load)
    while not device.core.stats().reloc_moved_blocks:
        load.start("write", total_blocks=device.block_count // 50, queue_depth=DEPTH)
        await finish(load)
    load.close()
    row: dict[str, Any] = {"part": part, "table_mib": table / (1 << 20)}
    for where, lbas in (("all", device.block_count), ("a tenth", device.block_count // HOT_PART)):
        for kind in ("read", "write"):
            row[f"{kind} {where}"] = await run_for(reactor, device, kind, lbas, args.seconds)
    await device.halt()
    await reactor.stop()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gib", type=int, default=64)
    parser.add_argument("--parts", default="1,0.5,0.25,0.1")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [asyncio.run(measure(float(part), args)) for part in args.parts.split(",")]
    print(
        "| in memory | I/O | LBAs | kIOPS | of all in memory | p50 us | p99 us | p99.9 us | CPU us "
        "| pages read / written for each I/O | of both, waited for |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for name in [name for name in row if " " in name]:
            one, (kind, where) = row[name], name.split(" ", 1)
            print(
                f"| {row['part']:.0%} | {kind} | {where} | {one['iops'] / 1000:.0f} "
                f"| {one['iops'] / rows[0][name]['iops']:.2f} | {one['p50_us']:.0f} | {one['p99_us']:.0f} "
                f"| {one['p999_us']:.0f} | {one['cpu_us']:.2f} | {one['pages_read']:.2f} / {one['pages_written']:.2f} "
                f"| {one['waits']:.3f} |"
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
