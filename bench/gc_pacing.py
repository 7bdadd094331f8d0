"""Garbage collection beside host I/O: rates, latencies and bursts, fresh and at steady state.

    python bench/gc_pacing.py [--base memory|target] [--zones 256 --zone-blocks 1024] [--seconds 4] [--series out.csv]

An FTL on emulated ZNS media, in this process's memory or in an embedded target behind NVMe/TCP. The load generator
drives the FTL directly. First come random 4 KiB writes to a new FTL; then twice its capacity is written at random, and
the same loads run again with garbage collection:

- `write`: random 4 KiB writes;
- `mixed`: 70 % reads, of a part of the device that nobody writes, and 30 % writes. Latencies are those of the reads.

`work` is write kIOPS times write amplification, the blocks that reached the base. `gc_step` is what relocation reads
between two samples, 1 ms apart; `stall_ms` the longest time without a completed write. The "fresh" rows are no good
reference on emulated media, whose memory is touched for the first time then: bench/run.py has one.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from spdk_ftl_py import _shim, outputs
from spdk_ftl_py.conf import FtlConf
from spdk_ftl_py.daemon.base import BaseLink, DaemonIdentity
from spdk_ftl_py.daemon.requests import FtlOptions
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.spdk.rpc import TargetRpc

NQN = "nqn.2014-08.org.nvmexpress:uuid:5f1d2c3e-0000-4000-8000-0000000000be"
OPEN_ZONES = 14
SAMPLE_S = 0.001
READ_PART = 10
"""One in so many LBAs is only read in the mix."""


def level(manager: Any) -> float:
    return float(getattr(manager, "level", 0.0))


class Sampler:
    """Counters of the core, every millisecond."""

    def __init__(self, device: FtlDevice) -> None:
        self._device = device
        self.rows: list[tuple[float, int, int, int, int, int, int, float]] = []

    async def run(self) -> None:
        device, began = self._device, time.perf_counter()
        while True:
            now = device.core.stats()
            manager = device._manager
            self.rows.append(
                (
                    time.perf_counter() - began,
                    now.user_written_blocks,
                    now.reloc_read_blocks,
                    now.reloc_moved_blocks,
                    now.media_written_blocks,
                    manager.free_bands,
                    manager.bands.count("moving"),
                    level(manager),
                )
            )
            await asyncio.sleep(SAMPLE_S)

    def bursts(self) -> dict[str, float]:
        """Relocated blocks of each sample, and the longest stop of writes."""
        steps = sorted(b[2] - a[2] for a, b in zip(self.rows, self.rows[1:], strict=False))
        stall = since = 0.0
        for a, b in zip(self.rows, self.rows[1:], strict=False):
            since = since + b[0] - a[0] if b[1] == a[1] else 0.0
            stall = max(stall, since)
        free = [row[5] for row in self.rows]
        return {
            "gc_step_p50": steps[len(steps) // 2],
            "gc_step_max": steps[-1],
            "stall_ms": stall * 1e3,
            "free_min": min(free),
            "free_max": max(free),
        }


async def finish(*loads: _shim.LoadGenerator) -> None:
    for load in loads:
        while load.progress().running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        progress = load.progress()
        assert progress.io_errors == 0
        assert progress.verify_errors == 0


async def load(
    device: FtlDevice, writer: _shim.LoadGenerator, reader: _shim.LoadGenerator | None, seconds: float, depth: int
) -> tuple[dict[str, Any], Sampler]:
    sampler = Sampler(device)
    before, cpu = device.core.stats(), time.process_time()
    if reader is None:
        writer.start("write", time_limit_s=seconds, queue_depth=depth)
    else:
        writer.start("write", time_limit_s=seconds, queue_depth=max(1, depth * 3 // 10))
        reader.start("read", time_limit_s=seconds, queue_depth=max(1, depth * 7 // 10))
    sampling = asyncio.create_task(sampler.run())
    loads = [writer] if reader is None else [writer, reader]
    await finish(*loads)
    sampling.cancel()
    cpu = time.process_time() - cpu
    now = device.core.stats()
    wrote = now.user_written_blocks - before.user_written_blocks
    media = now.media_written_blocks - before.media_written_blocks
    what = (reader or writer).progress().as_dict()
    latency, elapsed = what["latency_ns"], what["elapsed_ns"]
    return {
        "kiops": what["done_ios"] / elapsed * 1e6,
        "write_kiops": wrote / elapsed * 1e6,
        "wa": media / wrote,
        "work": media / elapsed * 1e6,
        **{name: latency[name] / 1e3 for name in ("p50", "p99", "p999", "max")},
        "cpu_us": cpu / max(1, what["done_ios"]) * 1e6,
        "throttled_ms": (now.throttled_ns - before.throttled_ns) / 1e6,
        **sampler.bursts(),
    }, sampler


async def measure(reactor: ReactorLoop, base: Any, args: argparse.Namespace) -> dict[str, Any]:
    device = await creation.create(reactor, base, name="pace", conf=FtlConf(), num_punits=args.punits or None)
    first = device.block_count - device.block_count // READ_PART
    writer = _shim.LoadGenerator(reactor.shim, device.core, lba_count=first, seed=1)
    reader = _shim.LoadGenerator(
        reactor.shim, device.core, first_lba=first, lba_count=device.block_count - first, seed=2
    )
    rows: dict[str, Any] = {"limits": device._manager.limits.to_dict(), "bands": len(device._manager.bands)}
    fill = {"pattern": "sequential", "io_blocks": 32, "queue_depth": 16}
    reader.start("write", total_blocks=device.block_count - first, **fill)  # type: ignore[arg-type]
    await finish(reader)
    # Without garbage collection: half of the spare space at most.
    before = device.core.stats().reloc_moved_blocks
    brief = args.fresh_seconds
    rows["fresh write"], fresh_series = await load(device, writer, None, brief, args.depth)
    rows["fresh mixed"], _ = await load(device, writer, reader, brief, args.depth)
    rows["fresh moved"] = device.core.stats().reloc_moved_blocks - before
    writer.start("write", total_blocks=first, **fill)  # type: ignore[arg-type]
    await finish(writer)
    writer.start("write", total_blocks=2 * device.block_count, queue_depth=128)
    await finish(writer)
    rows["gc write"], series = await load(device, writer, None, args.seconds, args.depth)
    rows["gc mixed"], _ = await load(device, writer, reader, args.seconds, args.depth)
    if args.series:
        with args.series.open("w", newline="") as out:
            rows_out = csv.writer(out)
            rows_out.writerow(["s", "user", "gc_read", "gc_moved", "media", "free", "moving", "level"])
            rows_out.writerows(fresh_series.rows if args.series_fresh else series.rows)
    writer.close()
    reader.close()
    await device.halt()
    return rows


async def in_memory(args: argparse.Namespace) -> dict[str, Any]:
    reactor = ReactorLoop("pace")
    await reactor.start()
    size = 1 << (args.zone_blocks - 1).bit_length()
    media = _shim.EmulatedMedia.zns(
        reactor.shim,
        args.zones,
        size,
        args.zone_blocks,
        max_open_zones=OPEN_ZONES,
        max_active_zones=OPEN_ZONES,
        max_io_blocks=32,
    )
    if args.write_us:
        media.inject_fault(op=_shim.Op.WRITE, latency_us=args.write_us)
    if args.read_us:
        media.inject_fault(op=_shim.Op.READ, latency_us=args.read_us)
    try:
        return await measure(reactor, media, args)
    finally:
        await reactor.stop()


def start_target(socket: Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    size = 4096 << (args.zone_blocks - 1).bit_length()
    drive = f"name=Z,zones={args.zones},zone_size={size},capacity={args.zone_blocks * 4096},max_open={OPEN_ZONES}"
    command = ["taskset", "-c", "0", sys.executable, "-m", "spdk_ftl_py.cli", "target", "-r", str(socket)]
    target = subprocess.Popen([*command, f"--zns={drive}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert target.stdout is not None
    while "listening on" not in (line := target.stdout.readline()):
        assert line, "the target did not start"
    return target


async def in_target(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "target.sock"
        target = start_target(socket, args)
        reactor = ReactorLoop("pace")
        try:
            await TargetRpc(str(socket)).call("nvmf_create_transport", {"trtype": "TCP"})
            uuid = uuid4()
            options = FtlOptions(name="pace", target=str(socket), base_bdev="Z")
            link = BaseLink(TargetRpc(str(socket)), lambda: options, uuid, DaemonIdentity(NQN, uuid, "127.0.0.1"))
            await reactor.start()
            await link.claim()
            base = await link.connect(reactor)
            rows = await measure(reactor, base, args)
            await link.disconnect()
            await link.unclaim()
            return rows
        finally:
            await reactor.stop()
            target.terminate()
            target.communicate()


def show(rows: dict[str, Any]) -> None:
    names = (
        "kiops",
        "write_kiops",
        "wa",
        "work",
        "p50",
        "p99",
        "p999",
        "max",
        "cpu_us",
        "throttled_ms",
        "gc_step_p50",
        "gc_step_max",
        "stall_ms",
        "free_min",
        "free_max",
    )
    print(f"| {rows['bands']} bands | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for name in ("fresh write", "fresh mixed", "gc write", "gc mixed"):
        print(f"| {name} | " + " | ".join(f"{rows[name][each]:.1f}" for each in names) + " |")
    gc, fresh = rows["gc write"], rows["fresh write"]
    mixed, before = rows["gc mixed"], rows["fresh mixed"]
    print(
        f"work / fresh {gc['work'] / fresh['work']:.2f} (goal 0.8), p99.9 / p50 of writes {gc['p999'] / gc['p50']:.1f} "
        f"(goal 10), p99 of reads with / without {mixed['p99'] / before['p99']:.2f} (goal 1.3)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=("memory", "target"), default="memory")
    parser.add_argument("--zones", type=int, default=256)
    parser.add_argument("--zone-blocks", type=int, default=1024)
    parser.add_argument("--punits", type=int, default=0)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--fresh-seconds", type=float, default=0.3)
    parser.add_argument("--write-us", type=int, default=0, help="latency of the media in memory")
    parser.add_argument("--read-us", type=int, default=0)
    parser.add_argument("--series", type=Path, help="a CSV file for the samples of the writes under GC")
    parser.add_argument("--series-fresh", action="store_true", help="of the first writes instead")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    outputs.check(args.json)
    logging.basicConfig(level=logging.ERROR)
    rows = asyncio.run(in_memory(args) if args.base == "memory" else in_target(args))
    show(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
