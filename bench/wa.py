"""Write amplification (WA) near its limit: uniform random 4 KiB writes at steady state, beside what theory allows.

    python bench/wa.py [--rows 63x2,225x4,1024x1] [--blocks 1048576] [--policy greedy] [--fill 3] [--json FILE]

Each row is BANDSxZONES[xZONE_BLOCKS]: so many bands of so many zones. The whole FTL (core, band manager, write buffer)
runs in this process on zoned media that keep no data, so the sizes of bands are scaled down, and their number is not.
Without ZONE_BLOCKS all rows have about --blocks blocks. First the device is filled, then --fill times its capacity is
written at random; what follows (--writes times the capacity) counts.

- `WA`: all that reached the media (data, headers, summaries) for each block that hosts wrote; `data`: without headers
  and summaries.
- `model`: 1 / (1 - v) with v = exp((v - 1) / rho), for rho = logical blocks / data blocks of all bands. It is what the
  oldest band first gives without any band that is kept free, open, or being moved.
- `k`: so many bands must be taken away from the model to explain `data`. On its right, where they are on average, in
  bands: `free`, `queued`, the unwritten rests of `open` bands, `closing`, `resetting`, and `gained` by moves that are
  not over. `level` is what the pace is made for.

What the scaling distorts: zones of 1024 blocks have 0.7 % of summaries, as large ones do (0.6 %), and a last batch that
is shorter. A turn of the event loop takes as long as some hundred blocks, which is much of a small band, and nothing of
one of 4 GiB: small bands are opened and moved later than large ones. A real write buffer (6 MiB) is a small part of a
band: here it is 1/64 (--buffer-part), otherwise it would keep half a band in reserve.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import time
from pathlib import Path
from typing import Any, Final

from spdk_ftl_py import _shim, outputs
from spdk_ftl_py.conf import BLOCK_BYTES, FtlConf, Limit
from spdk_ftl_py.ftl import creation
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.media.band import CLOSING, MOVING, QUEUED, RESETTING
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.simulate.engine import model

GOALS: Final = {(63, 2): 1.35, (225, 4): 1.09, (1024, 1): 1.04}
"""At most so many times the model."""
SAMPLE_S: Final = 0.002
PLACES: Final = ("free", "queued", "open", "closing", "resetting", "gained", "moving", "level")


def bands_missing(amplification: float, bands: int, rho: float) -> float:
    """How many bands must be taken away so that the model gives this WA."""
    v = 1 - 1 / amplification
    return bands * (1 - rho / ((v - 1) / math.log(v)))


class Sampler:
    """Where bands are, averaged over samples that are equally far apart in blocks written."""

    def __init__(self, device: FtlDevice) -> None:
        self._device = device
        self.sums = dict.fromkeys(PLACES, 0.0)
        self.weight = 0

    def _take(self) -> dict[str, float]:
        manager = self._device._manager
        bands = manager.bands
        blocks = bands.whole_capacity
        room = sum(bands.room(stream) for stream in manager.classes.all)
        queued = bands.count(QUEUED)
        return {
            "free": bands.free_count,
            "queued": queued,
            "open": room / blocks - queued,
            "closing": bands.count(CLOSING),
            "resetting": bands.count(RESETTING) + bands.emptied_count,
            "gained": sum(move.gained for move in manager.moves.in_line(bands)) / blocks,
            "moving": bands.count(MOVING),
            "level": manager.level,
        }

    async def run(self) -> None:
        written = self._device.core.stats().user_written_blocks
        while True:
            await asyncio.sleep(SAMPLE_S)
            now = self._device.core.stats().user_written_blocks
            for name, value in self._take().items():
                self.sums[name] += value * (now - written)
            self.weight += now - written
            written = now

    def means(self) -> dict[str, float]:
        return {name: value / max(1, self.weight) for name, value in self.sums.items()}


async def write(load: _shim.LoadGenerator, **how: Any) -> dict[str, Any]:
    load.start("write", **how)
    while load.progress().running:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    progress = load.progress()
    assert progress.io_errors == 0
    return progress.as_dict()


async def measure(row: tuple[int, int, int], args: argparse.Namespace) -> dict[str, Any]:
    bands, punits, zone_blocks = row
    reactor = ReactorLoop("wa")
    await reactor.start()
    zone_size = 1 << (zone_blocks - 1).bit_length()
    null = _shim.EmulatedMedia.null(reactor.shim, (bands * punits + 2) * zone_size)
    base = _shim.ZonedOverlay(reactor.shim, null, zone_capacity=zone_blocks)
    buffer = max(args.buffer_least, zone_blocks * punits // args.buffer_part) * BLOCK_BYTES
    conf = FtlConf(lba_rsvd=args.reserve, write_buffer_size=buffer, reloc_policy=args.policy or FtlConf().reloc_policy)
    if args.thresholds:
        names = ("start", "low", "high", "crit")
        numbers = [int(number) for number in args.thresholds.split("/")]
        given = zip(names, numbers, strict=True)
        conf = conf.with_limits(**{name: Limit(conf.limits[name].limit, number) for name, number in given})
    device = await creation.create(reactor, base, name="wa", conf=conf, num_punits=punits, no_data=True, base_name="N")
    geometry = device.geometry
    assert (geometry.band_count, geometry.punits) == (bands, punits)
    load = _shim.LoadGenerator(reactor.shim, device.core, lba_count=device.block_count, seed=args.seed)
    await write(load, pattern="sequential", total_blocks=device.block_count, io_blocks=32, queue_depth=16)
    await write(load, total_blocks=int(args.fill * device.block_count), queue_depth=args.depth)
    before, cpu, began = device.core.stats(), time.process_time(), time.perf_counter()
    loop_cpu = time.thread_time()
    sampler = Sampler(device)
    sampling = asyncio.create_task(sampler.run())
    progress = await write(load, total_blocks=int(args.writes * device.block_count), queue_depth=args.depth)
    sampling.cancel()
    took, cpu, loop_cpu = time.perf_counter() - began, time.process_time() - cpu, time.thread_time() - loop_cpu
    now = device.core.stats()
    limits = device._manager.limits.to_dict()
    load.close()
    await device.halt()
    await reactor.stop()

    def done(name: str) -> int:
        return int(getattr(now, name) - getattr(before, name))

    user = done("user_written_blocks")
    rho = device.block_count / (geometry.band_count * geometry.band_blocks)
    data = (done("media_user_blocks") + done("media_reloc_blocks")) / user
    amplification = done("media_written_blocks") / user
    best = model(rho)
    return {
        "bands": bands,
        "punits": punits,
        "zone_blocks": zone_blocks,
        "policy": conf.reloc_policy,
        "thresholds": {name: limit["free_bands"] for name, limit in limits.items()},
        "rho": rho,
        "write_amplification": amplification,
        "data_amplification": data,
        "model": best,
        "ratio": amplification / best,
        "goal": GOALS.get((bands, punits)),
        "bands_missing": bands_missing(data, bands, rho),
        "places": sampler.means(),
        "short_batches": done("short_batches") / max(1, done("batches")),
        "throttled_s": done("throttled_ns") / 1e9,
        "iops": user / took,
        "p50_us": progress["latency_ns"]["p50"] / 1e3,
        "p99_us": progress["latency_ns"]["p99"] / 1e3,
        "p999_us": progress["latency_ns"]["p999"] / 1e3,
        "cpu_us": cpu / user * 1e6,
        "loop_cpu_us": loop_cpu / user * 1e6,
    }


def rows(text: str, blocks: int) -> list[tuple[int, int, int]]:
    result = []
    for each in text.split(","):
        bands, punits, *rest = (int(number) for number in each.split("x"))
        result.append((bands, punits, rest[0] if rest else max(64, blocks // (bands * punits) // 128 * 128)))
    return result


def show(row: dict[str, Any]) -> str:
    thresholds = "/".join(str(row["thresholds"][name]) for name in ("start", "low", "high", "crit"))
    goal = "" if row["goal"] is None else f"{row['goal']:.2f}"
    places = " | ".join(f"{row['places'][name]:.2f}" for name in PLACES)
    return (
        f"| {row['bands']}x{row['punits']}x{row['zone_blocks']} | {thresholds} | {row['write_amplification']:.3f} "
        f"| {row['data_amplification']:.3f} | {row['model']:.3f} | {row['ratio']:.3f} | {goal} "
        f"| {row['bands_missing']:.1f} | {places} | {row['iops'] / 1000:.0f} | {row['p99_us'] / 1000:.2f} "
        f"| {row['p999_us'] / 1000:.2f} | {row['cpu_us']:.2f} | {row['loop_cpu_us']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="63x2,225x4,1024x1")
    parser.add_argument("--blocks", type=int, default=1 << 20)
    parser.add_argument("--policy")
    parser.add_argument("--thresholds", help="start/low/high/crit; otherwise the defaults")
    parser.add_argument("--reserve", type=int, default=20, help="lba_rsvd, percent")
    parser.add_argument(
        "--buffer-part", type=int, default=64, help="the write buffer is one in so many parts of a band"
    )
    parser.add_argument("--buffer-least", type=int, default=384, help="blocks of the write buffer at least")
    parser.add_argument("--fill", type=float, default=3.0, help="times the capacity, before what counts")
    parser.add_argument("--writes", type=float, default=1.0, help="times the capacity")
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    outputs.check(args.json)
    logging.basicConfig(level=logging.ERROR)
    names = ("bands", "thresholds", "WA", "data", "model", "WA / model", "goal", "k", *PLACES)
    names = (*names, "kIOPS", "p99 ms", "p99.9 ms", "CPU us", "loop us")
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)
    results = []
    for row in rows(args.rows, args.blocks):
        results.append(asyncio.run(measure(row, args)))
        print(show(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
