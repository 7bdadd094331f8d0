"""Rows from windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from .client import Window
from .measured import Measured
from .plan import GC_MEDIA_WRITES, GC_READS, GC_TAIL, RATIO_GOALS, Section
from .rows import Goal, Row, row
from .statistics import Sample, ratios

CPU: Final = "cpu_us_"
METRICS: Final[dict[str, Callable[[Window], float]]] = {
    "iops": lambda window: window.iops,
    "mib_s": lambda window: window.mib_s,
    "p50_us": lambda window: window.latency_us["p50"],
    "p99_us": lambda window: window.latency_us["p99"],
    "p99_9_us": lambda window: window.latency_us["p999"],
    "p99_99_us": lambda window: window.latency_us["p9999"],
    "cpu_us_client": lambda window: window.cpu_us.get("client", 0.0),
    "cpu_us_target": lambda window: window.cpu_us.get("target", 0.0),
    "cpu_us_daemon": lambda window: window.cpu_us.get("daemon", 0.0),
}
_GC_WRITES: Final = ("write-qd1", "write-qd32", "write-qd128")


def rows_of(prefix: str, section: Section, measured: dict[str, Measured], *, goals: bool = True) -> Iterator[Row]:
    """prefix: target and transport, such as "spdk_tgt/tcp"."""
    for name, each in measured.items():
        full = f"{prefix}/{section.name}/{name}"
        judged = goals and section.name == "fresh" and each.workload.qpairs == 1
        yield from compared(full, each, RATIO_GOALS.get(name) if judged else None)


def compared(name: str, measured: Measured, goal: Goal | None = None) -> Iterator[Row]:
    """A row for each metric. goal: of the one by which the workload is judged."""
    processes = set().union(*(window.cpu_us for window in measured.ftl))
    for metric, value in METRICS.items():
        if metric.startswith(CPU) and metric.removeprefix(CPU) not in processes:
            continue
        yield _pair(name, metric, measured, value, goal if metric == measured.workload.metric else None)
    if measured.write_amplification:
        yield row(name, "write_amplification", None, Sample.of(measured.write_amplification), None)


def _pair(
    name: str, metric: str, measured: Measured, value: Callable[[Window], float], goal: Goal | None = None
) -> Row:
    raw, ftl = [value(window) for window in measured.raw], [value(window) for window in measured.ftl]
    if not raw:
        return row(name, metric, None, Sample.of(ftl), None, goal)
    # The daemon has no part in I/O on the raw bdev.
    ratio = None if metric == "cpu_us_daemon" else ratios(ftl, raw)
    return row(name, metric, Sample.of(raw), Sample.of(ftl), ratio, goal)


def gc_rows(prefix: str, fresh: dict[str, Measured], gc: dict[str, Measured]) -> Iterator[Row]:
    """The goals under relocation. In "raw" they have what they are compared with: the fresh FTL, or p50."""
    for name in _GC_WRITES:
        if name not in gc:
            continue
        full = f"{prefix}/gc/{name}"
        now = gc[name]
        media = Sample.of(
            [window.iops * factor for window, factor in zip(now.ftl, now.write_amplification, strict=True)]
        )
        yield _against(
            full, "media_writes_to_fresh", fresh.get(name), lambda window: window.iops, media, GC_MEDIA_WRITES
        )
        if name == "write-qd32":
            p50, p99_9 = ([window.latency_us[key] for window in now.ftl] for key in ("p50", "p999"))
            yield row(full, "p99_9_to_p50", Sample.of(p50), Sample.of(p99_9), ratios(p99_9, p50), GC_TAIL)
    name = "read-beside-writes"
    if name in gc:
        p99 = Sample.of([window.latency_us["p99"] for window in gc[name].ftl])
        full = f"{prefix}/gc/{name}"
        yield _against(full, "p99_to_fresh", fresh.get(name), lambda window: window.latency_us["p99"], p99, GC_READS)


def _against(
    name: str, metric: str, fresh: Measured | None, value: Callable[[Window], float], now: Sample, goal: Goal
) -> Row:
    if fresh is None:
        return row(name, metric, None, None, None, goal, why="the fresh FTL was not measured in this run")
    before = Sample.of([value(window) for window in fresh.ftl])
    # Not neighbours: the ratio of the medians, and the widest range that the repeats allow.
    ratio = Sample(now.median / before.median, now.low / before.high, now.high / before.low, now.count)
    return row(name, metric, before, now, ratio, goal)
