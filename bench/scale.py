"""A real drive's size: what loads, trims and many bands cost at 1, 4 and 16 TB, beside goals.

    python bench/scale.py --quick                           within 3 minutes
    python bench/scale.py --json s.json --plot scale.svg    sizes up to what memory and --minutes allow
    python bench/scale.py --only load,l2p                   these measurements alone; --list names them

Each measurement runs in a process of its own (bench/scale_rows.py), so that its memory is its own. The drive of a load
has the zones of a real one (1077 MiB, 904 for each TB), filled and then overwritten at random with 20 % reserve. Its
headers, data and summaries are made from a seed at each read (shim/generated/), so that it takes no memory; CPU time
that this takes is not counted, but it is part of the seconds. The process reads LBAs at random after each load, and
compares them with what the seed says.

The sizes of a measurement grow for as long as the next one, by the line through those before it, fits into memory
(--memory) and time. Beyond that the line says what to expect: such a value is modelled, and marked with ~. A row with a
goal says "met" or "not met", modelled or not. Exit code 1: a measurement failed; goals that are not met do not make it
fail.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402

from spdk_ftl_py import outputs, pictures  # noqa: E402
from spdk_ftl_py.bench.progress import progress  # noqa: E402
from spdk_ftl_py.errors import FtlError  # noqa: E402

GIB: Final = 1 << 30
MIB: Final = 1 << 20
TB: Final = " TB"
SHOWN_TB: Final = (1, 4, 16)
TOLD: Final = "bench/scale_rows.py"
L2P_GOAL_B: Final = 4.1
"""4 B, and what whole huge pages add to the part that is measured."""
QUICK_S: Final = 160.0
LEAST_S: Final = 20.0
"""A measurement does not begin with less time left."""
LOAD_SHARE: Final = 0.5
"""Of the time."""
MANY_BANDS: Final = 40_000
BLOCKS_OF_96_MIB: Final = 24_239
"""Of data, in a zone."""
MARGIN: Final = 1.3
"""More memory and time than the line says: it may be wrong by so much."""


@dataclass(frozen=True)
class Row:
    name: str
    size: str
    value: float
    unit: str
    goal: float | None
    met: bool | None
    modelled: bool = False

    @property
    def shown(self) -> str:
        return f"~{number(self.value)}" if self.modelled else number(self.value)

    def cells(self) -> list[str]:
        bound = "at least" if self.name.startswith(MORE) else "at most"
        goal = "" if self.goal is None else f"{bound} {number(self.goal)} {self.unit}".rstrip()
        met = {None: "", True: "met", False: "not met"}[self.met]
        return [self.name, self.size, f"{self.shown} {self.unit}".rstrip(), goal, met]


MORE: Final = "random writes"
"""Rows whose value should be large."""


def number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def row(name: str, size: str, value: float, unit: str, goal: float | None, *, modelled: bool = False) -> Row:
    met = None if goal is None else bool(value >= goal if name.startswith(MORE) else value <= goal)
    return Row(name, size, float(value), unit, goal, met, modelled)


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Limits:
    memory_bytes: float
    ends: float
    """time.monotonic()"""

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()


def measured(what: str, size: float, *, seconds: float, limit_s: float) -> dict[str, Any]:
    """Raises FtlError if the process fails, or takes too long."""
    command = [sys.executable, str(Path(ROOT, TOLD)), what, str(size), "--seconds", str(seconds)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH", ""))))}
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise FtlError(f"{what} {size:g}: not done within {limit_s:.0f} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
        told = lines[-1] if lines else f"exit code {done.returncode}"
        raise FtlError(f"{what} {size:g}: {told}: to see more, run python {' '.join(command[1:4])}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"size": size, "process_s": time.monotonic() - began, **found}


@dataclass
class Ladder:
    """The results of one measurement at growing sizes."""

    points: list[dict[str, Any]] = field(default_factory=list)
    failure: FtlError | None = None
    """Of the size after those in points."""

    def line(self, of: Callable[[dict[str, Any]], float], x: Callable[[dict[str, Any]], float], at: float) -> float:
        """The least-squares line through all points, at x = at: their mean if it would fall. In proportion to a single
        point."""
        xs, ys = [x(point) for point in self.points], [of(point) for point in self.points]
        if len(set(xs)) == 1:
            return ys[-1] * at / xs[-1]
        # Small sizes say what is constant, and large ones the slope.
        slope, constant = np.polyfit(xs, ys, 1, w=1 / np.sqrt(np.array(xs)))
        return float(max(0.0, slope * at + constant)) if slope > 0 else float(np.mean(ys))

    def climb(
        self, what: str, sizes: Sequence[float], limits: Limits, seconds: float, tell: Callable[[str], None]
    ) -> None:
        for size in sizes:
            if self.points:
                needed = MARGIN * self.line(_process_bytes, _size, size)
                expected_s = MARGIN * self.line(lambda point: point["process_s"], _size, size)
                if needed > limits.memory_bytes or expected_s > limits.seconds_left:
                    return
            tell(f"{what} {size:g}")
            try:
                self.points.append(measured(what, size, seconds=seconds, limit_s=max(60.0, 2 * limits.seconds_left)))
            except FtlError as error:
                if not self.points:
                    raise
                self.failure = error
                return


def _size(point: dict[str, Any]) -> float:
    return float(point["size"])


def _process_bytes(point: dict[str, Any]) -> float:
    parts = [point.get(part, {}).get("process_bytes", 0) for part in ("dirty", "running", "clean")]
    return float(max(parts))


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A row of a load."""

    name: str
    unit: str
    of: Callable[[dict[str, Any]], float]
    """What grows with the size."""
    each: Callable[[float, float], float] = lambda value, terabytes: value
    """What is shown."""
    goal: Callable[[float], float | None] = lambda terabytes: None


def _beside_l2p(part: str) -> Callable[[dict[str, Any]], float]:
    return lambda point: float(point[part]["peak_bytes"] - point["l2p_bytes"])


def load_quantities(points: Sequence[dict[str, Any]]) -> list[Quantity]:
    last = points[-1]
    mapped, on_media = (last[name] / last["size"] for name in ("mapped", "on_media"))
    return [
        Quantity(
            "dirty load, memory beside the L2P", "MiB", lambda p: _beside_l2p("dirty")(p) / MIB, goal=lambda _: 256.0
        ),
        Quantity(
            "dirty load, memory in all, per mapped block",
            "B",
            lambda p: float(p["dirty"]["peak_bytes"]),
            lambda value, size: value / (mapped * size),
        ),
        Quantity(
            "dirty load with the running checkpoint, memory beside the L2P",
            "MiB",
            lambda p: _beside_l2p("running")(p) / MIB,
            goal=lambda _: 256.0,
        ),
        Quantity(
            "dirty load with the running checkpoint, CPU per TB",
            "s",
            lambda p: p["running"]["cpu_s"],
            lambda value, size: value / size,
            lambda _: 2.0,
        ),
        Quantity(
            "dirty load with the running checkpoint, longest stall of the event loop",
            "ms",
            lambda p: p["running"]["stall_s"] * 1e3,
            goal=lambda _: 20.0,
        ),
        Quantity(
            "a turn of the running checkpoint, CPU per TB",
            "s",
            lambda p: p["turn"]["cpu_s"],
            lambda value, size: value / size,
        ),
        Quantity(
            "dirty load, CPU per block on media",
            "us",
            lambda p: p["dirty"]["cpu_s"] * 1e6,
            lambda value, size: value / (on_media * size),
            lambda _: 0.03,
        ),
        Quantity(
            "dirty load, longest stall of the event loop",
            "ms",
            lambda p: p["dirty"]["stall_s"] * 1e3,
            goal=lambda _: 20.0,
        ),
        # Hosts wait so long. Below 1 TB what is the same for any size decides.
        Quantity(
            "dirty load",
            "s",
            lambda p: p["dirty"]["wall_s"],
            goal=lambda size: None if size < 1 else min(15.0, 2.0 * size),
        ),
        Quantity("clean load", "s", lambda p: p["clean"]["wall_s"], goal=lambda size: None if size < 1 else size),
        Quantity("clean load, memory beside the L2P", "MiB", lambda p: _beside_l2p("clean")(p) / MIB),
        Quantity(
            "clean load, longest stall of the event loop",
            "ms",
            lambda p: p["clean"]["stall_s"] * 1e3,
            goal=lambda _: 20.0,
        ),
        Quantity("halt", "s", lambda p: p["halt_s"]),
        Quantity("write behind a trim of everything", "ms", lambda p: p["trim"]["write_s"] * 1e3, goal=lambda _: 10.0),
        Quantity("read behind a trim of everything", "ms", lambda p: p["trim"]["read_s"] * 1e3, goal=lambda _: 10.0),
        Quantity("trim of everything", "s", lambda p: p["trim"]["trim_s"]),
    ]


def load_rows(ladder: Ladder) -> Iterator[Row]:
    """For the largest size that was measured, and for those that are shown."""
    last = ladder.points[-1]
    sizes = sorted({*SHOWN_TB, last["size"]})
    exact = {point["size"]: point for point in ladder.points}
    for each in load_quantities(ladder.points):
        for size in sizes:
            point = exact.get(size)
            value = each.of(point) if point else ladder.line(each.of, _size, size)
            yield row(
                each.name,
                f"{size:g}{TB}",
                each.each(value, size),
                each.unit,
                each.goal(size),
                modelled=point is None,
            )


def run_load(limits: Limits, quick: bool, tell: Callable[[str], None]) -> tuple[list[Row], Ladder]:
    ladder = Ladder()
    sizes = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
    # The rest is for what comes after it.
    ends = time.monotonic() + LOAD_SHARE * limits.seconds_left
    ladder.climb("load", sizes, Limits(limits.memory_bytes, ends), 0, tell)
    return list(load_rows(ladder)), ladder


def run_l2p(limits: Limits, quick: bool, tell: Callable[[str], None]) -> tuple[list[Row], Ladder]:
    ladder = Ladder()
    for size in (1, 4, 16) if quick else (1, 2, 4, 8, 16):
        tell(f"l2p {size}")
        ladder.points.append(measured("l2p", size, seconds=0, limit_s=120))
    return [
        row("L2P, memory per block", f"{p['size']:g}{TB}", p["bytes_per_block"], "B", L2P_GOAL_B) for p in ladder.points
    ], ladder


def run_crashes(limits: Limits, quick: bool, tell: Callable[[str], None]) -> tuple[list[Row], Ladder]:
    tell("crashes 1")
    seconds = min(20.0 if quick else 240.0, max(1.0, limits.seconds_left))
    point = measured("crashes", 1, seconds=seconds, limit_s=60 + 4 * seconds)
    loads = point["loads_s"]
    size = f"{point['zones']} zones, 1.2 GB written"
    names = [f"dirty load {which}" for which in ("after the first crash", f"after crash {len(loads)}")]
    values = loads[:1] if len(loads) == 1 else [loads[0], loads[-1]]
    return [row(name, size, value, "s", 1.5) for name, value in zip(names, values, strict=False)], Ladder([point])


def run_emulated(limits: Limits, quick: bool, tell: Callable[[str], None]) -> tuple[list[Row], Ladder]:
    ladder = Ladder()
    most = Limits(limits.memory_bytes, min(limits.ends, time.monotonic() + (15 if quick else 300)))
    ladder.climb("emulated", (2, 8, 40, 200), most, 0, tell)
    seconds = ladder.line(lambda point: point["wall_s"], _size, 200)
    exact = [point["wall_s"] for point in ladder.points if point["size"] == 200]
    value = exact[0] if exact else seconds
    name = "dirty load, emulated zones, 32 blocks written"
    rows = [row(name, "200 GiB", value, "s", 0.5, modelled=not exact)]
    tell("emulated_crashes 200")
    again = measured("emulated_crashes", 200, seconds=5 if quick else 150, limit_s=400)["loads_s"]
    name = f"dirty load, emulated zones of 1077 MiB, after crash {len(again)}"
    return [*rows, row(name, "200 GiB", again[-1], "s", 1.5)], ladder


def run_bands(limits: Limits, quick: bool, tell: Callable[[str], None]) -> tuple[list[Row], Ladder]:
    ladder = Ladder()
    for count in (225, MANY_BANDS):
        tell(f"bands {count}")
        ladder.points.append(measured("bands", count, seconds=3 if quick else 10, limit_s=600))
    few, many = ladder.points
    name, size = f"{MORE}, of those with 225 bands", f"{MANY_BANDS:,} bands"
    filling_us = many["loop_cpu_us"] * many["band_blocks"] / many["write_amplification"]
    # The event loop has a core of its own. It works for bands, the reactor for blocks: so many writes until it is busy.
    most = 1e6 / (filling_us * few["write_amplification"] / BLOCKS_OF_96_MIB)
    return [
        row(name, f"{size} of 1 MiB", 100 * many["iops"] / few["iops"], "%", None),
        row(name, f"{size} of 96 MiB", 100 * min(1.0, most / few["iops"]), "%", 90.0, modelled=True),
        row("CPU of the event loop for each band filled", f"{size} of 1 MiB", filling_us, "us", None),
        *(
            row("one decision of the band manager", f"{point['size']:,.0f} bands", point["pump_us"], "us", None)
            for point in ladder.points
        ),
        row("longest stall of the event loop under writes", size, many["stall_s"] * 1e3, "ms", 20.0),
    ], ladder


RUNS: Final[dict[str, tuple[Callable[..., tuple[list[Row], Ladder]], str]]] = {
    "l2p": (run_l2p, "memory of the L2P for each block, by size"),
    "load": (run_load, "loads after a crash and after a halt, and a trim of everything, by size"),
    "crashes": (run_crashes, "a drive of 904 zones with 1.2 GB on it, crash after crash"),
    "emulated": (run_emulated, "loads after a crash with emulated zones, small and large, of which few were written"),
    "bands": (run_bands, "random writes with 225 and 40,000 bands"),
}


# --- output ----------------------------------------------------------------------------------------------------------


def draw(ladder: Ladder, path: Path) -> None:
    """Loads by size: what was measured, and the line through it."""
    plots: list[tuple[str, dict[str, Callable[[dict[str, Any]], float]]]] = [
        ("s", {"dirty load": lambda p: p["dirty"]["wall_s"], "its CPU": lambda p: p["dirty"]["cpu_s"]}),
        (
            "GiB",
            {"dirty load, memory": lambda p: p["dirty"]["peak_bytes"] / GIB, "L2P": lambda p: p["l2p_bytes"] / GIB},
        ),
        ("s", {"clean load": lambda p: p["clean"]["wall_s"], "halt": lambda p: p["halt_s"]}),
    ]
    figure, axes = pictures.pyplot().subplots(1, len(plots), figsize=(12, 3.6), layout="constrained")
    sizes = [point["size"] for point in ladder.points]
    ends = np.array([0.0, max(sizes)])
    for axis, (unit, lines) in zip(axes, plots, strict=True):
        for colour, (name, of) in enumerate(lines.items()):
            axis.plot(sizes, [of(point) for point in ladder.points], "o", color=f"C{colour}", label=name)
            axis.plot(ends, [ladder.line(of, _size, end) for end in ends], "-", color=f"C{colour}", linewidth=0.8)
        axis.set_xlabel("TB")
        axis.set_ylabel(unit)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.legend()
    pictures.save(figure, path)


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def show(rows: Sequence[Row]) -> None:
    """Rows of different sizes stand side by side."""
    if not all(each.size.endswith(TB) for each in rows):
        print("\n| what | size | value | goal | |\n|---|---|---|---|---|")
        for each in rows:
            print("| " + " | ".join(each.cells()) + " |")
        return
    sizes = sorted({each.size for each in rows}, key=lambda size: float(size.removesuffix(TB)))
    print("\n| what | " + " | ".join(sizes) + " | at most | |\n" + "|---" * (len(sizes) + 3) + "|")
    for name in dict.fromkeys(each.name for each in rows):
        found = {each.size: each for each in rows if each.name == name}
        values = [found[size].shown if size in found else "" for size in sizes]
        bounds = [found[size].goal for size in sizes if size in found]
        goals = list(dict.fromkeys(number(bound) for bound in bounds if bound is not None))
        missed = [size for size in sizes if size in found and found[size].met is False]
        judged = sum(each.met is not None for each in found.values())
        met = "" if not judged else "met" if not missed else "not met"
        if missed and len(missed) < judged:
            met += " at " + ", ".join(missed)
        unit = next(iter(found.values())).unit
        print(f"| {name}, {unit} | " + " | ".join(values) + f" | {' / '.join(goals)} | {met} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes")
    parser.add_argument("--only", help="measurements, separated by commas")
    parser.add_argument("--minutes", type=float, default=30.0, help="without --quick (default: %(default)s)")
    parser.add_argument("--memory", type=float, help="GiB for a measurement; by default 85 %% of what is free")
    parser.add_argument("--json", type=Path, help="rows and measurements; - for standard output")
    parser.add_argument("--plot", type=Path, help="loads by size, as a picture")
    parser.add_argument("--list", action="store_true", help="list the measurements")
    args = parser.parse_args()
    args.chosen = list(RUNS) if args.only is None else args.only.split(",")
    unknown = [name for name in args.chosen if name not in RUNS]
    if unknown:
        parser.error(f"--only: there is no measurement {unknown[0]!r}: --list names them")
    if args.plot is not None and "load" not in args.chosen:
        parser.error("--plot: needs the measurement load")
    if args.minutes <= 0 or (args.memory is not None and args.memory <= 0):
        parser.error("--minutes and --memory must be above 0")
    return args


def main() -> int:
    args = parse()
    if args.list:
        for name, (_, what) in RUNS.items():
            print(f"{name:10} {what}")
        return 0
    console = Console(stderr=True)
    try:
        outputs.check(args.json)
        if args.plot is not None:
            pictures.check(args.plot)
    except FtlError as error:
        print(error.message, file=sys.stderr)
        return 1
    memory = 0.85 * available_bytes() if args.memory is None else args.memory * GIB
    limits = Limits(memory, time.monotonic() + (QUICK_S if args.quick else args.minutes * 60))
    began = time.monotonic()
    rows: list[Row] = []
    found: dict[str, list[dict[str, Any]]] = {}
    failed = False
    to_stdout = str(args.json) == outputs.STANDARD_OUTPUT
    if not to_stdout:
        print("~: modelled from smaller sizes, not measured", flush=True)
    with progress(console, len(args.chosen)) as tell:
        for name in [each for each in RUNS if each in args.chosen]:
            if limits.seconds_left < LEAST_S:
                print(f"{name}: left out: there is no time for it (--only {name})", file=sys.stderr)
                continue
            try:
                of_this, ladder = RUNS[name][0](limits, args.quick, lambda what: tell(what, 0))
            except FtlError as error:
                print(error.message, file=sys.stderr)
                failed = True
                continue
            if ladder.failure is not None:
                print(ladder.failure.message, file=sys.stderr)
                failed = True
            tell(name, 1)
            if not to_stdout:
                show(of_this)
            rows += of_this
            found[name] = ladder.points
            if name == "load" and args.plot is not None:
                draw(ladder, args.plot)
    took = time.monotonic() - began
    if not to_stdout:
        missed = sum(each.met is False for each in rows)
        print(f"\n{took:.0f} s; {missed} of {sum(each.met is not None for each in rows)} rows do not meet their goal")
    if args.json is not None:
        outputs.write_json(args.json, {"seconds": took, "rows": [asdict(each) for each in rows], "measurements": found})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
