"""The results that differ between two runs by more than their noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .rows import Row
from .statistics import Sample

LEAST: Final = 0.03
"""Smaller changes are not shown, however steady the repeats were: a reboot of the machine can cause them."""
COMPARED: Final = ("iops", "mib_s", "p99_us", "cpu_us_daemon", "write_amplification")
"""The metrics that are compared, besides those with goals. With more metrics, more would differ by chance."""
MORE_IS_BETTER: Final = ("iops", "mib_s", "media_writes_to_fresh", "mib_s_to_raw_vfio_user")


@dataclass(frozen=True)
class Change:
    row: Row
    before: float
    now: float
    ratio: bool
    """Of the ratio to raw, not of the FTL's value."""

    @property
    def factor(self) -> float:
        return self.now / self.before if self.before else float("inf")

    @property
    def better(self) -> bool:
        return (self.factor > 1) == (self.row.metric in MORE_IS_BETTER)

    def __str__(self) -> str:
        what = "ratio to raw" if self.ratio else "FTL"
        return (
            f"{'better' if self.better else 'WORSE':6} {self.row.name} {self.row.metric}: {what} "
            f"{self.before:.4g} -> {self.now:.4g} (x {self.factor:.2f})"
        )


def changes(before: Sequence[Row], now: Sequence[Row]) -> Iterator[Change]:
    """Rows whose repeats do not overlap with those of before. Where there is a ratio to raw it is compared, since the
    machine is the same for both sides."""
    known = {row.key: row for row in before}
    for row in now:
        old = known.get(row.key)
        if old is None or not (row.metric in COMPARED or row.goal):
            continue
        # Of two metrics of the same windows one is enough.
        if row.metric == "mib_s" and "seq-" not in row.name:
            continue
        a, b = _sample(old), _sample(row)
        if a is None or b is None or not a.apart(b):
            continue
        if a.median and abs(b.median / a.median - 1) < LEAST:
            continue
        yield Change(row, a.median, b.median, row.ratio is not None)


def _sample(row: Row) -> Sample | None:
    value = row.ratio if row.ratio is not None else row.ftl
    if value is None or row.low is None or row.high is None or row.repeats < 2:
        return None
    return Sample(value, row.low, row.high, row.repeats)


def lines_of_changes(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    found = list(changes(before, now))
    common = len({row.key for row in before} & {row.key for row in now})
    if not found:
        return [f"nothing has moved beyond the spread of the repeats ({common} rows in both)"]
    return [str(change) for change in sorted(found, key=lambda change: change.better)]
