"""What an FTL did between two answers of bdev_ftl_get_stats: I/O for each second, latency, write amplification.

Latencies are estimates. The daemon counts I/Os in buckets whose bounds double, so an estimate lies in the right bucket,
and within it as if its I/Os were spread evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

BLOCK_BYTES: Final = 4096
_MIB: Final = 1 << 20

Buckets = Sequence[Sequence[Any]]
"""[upper bound in microseconds, I/Os up to it], in ascending order. A bound that is no number has no limit."""


@dataclass(frozen=True)
class Rates:
    """Of an interval. iops and mib_s: for each second; p50_us, p99_us: None without such I/O, or if unknown."""

    seconds: float
    read_iops: float
    read_mib_s: float
    read_p50_us: float | None
    read_p99_us: float | None
    write_iops: float
    write_mib_s: float
    write_p50_us: float | None
    write_p99_us: float | None
    media_mib_s: float
    """Written to the base: data of hosts, relocated data, metadata."""
    gc_mib_s: float
    """Relocated."""
    write_amplification: float | None
    """None if hosts wrote nothing."""
    throttled: float
    """The part of the interval in which writes waited because of a limit, 0 to 1."""


def between(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> Rates | None:
    """None if the FTL was created or loaded in between, so that its counters began again."""
    if seconds <= 0 or before.get("uuid") != after.get("uuid"):
        return None
    read, write = (_grown(before["user"][way], after["user"][way], ("ios", "blocks")) for way in ("read", "write"))
    media, moved, throttled = _grown(before, after, ("media_written_blocks", "gc_moved_blocks", "throttled_ms"))
    if min(*read, *write, media, moved, throttled) < 0:
        return None
    mib = BLOCK_BYTES / _MIB / seconds
    return Rates(
        seconds,
        read[0] / seconds,
        read[1] * mib,
        *_percentiles(before, after, "read"),
        write[0] / seconds,
        write[1] * mib,
        *_percentiles(before, after, "write"),
        media * mib,
        moved * mib,
        media / write[1] if write[1] else None,
        min(1.0, throttled / 1000 / seconds),
    )


def _grown(before: Mapping[str, Any], after: Mapping[str, Any], keys: Sequence[str]) -> list[int]:
    return [int(after[key]) - int(before[key]) for key in keys]


def _percentiles(before: Mapping[str, Any], after: Mapping[str, Any], way: str) -> tuple[float | None, float | None]:
    first, last = _histogram(before, way), _histogram(after, way)
    return percentile(first, last, 0.5), percentile(first, last, 0.99)


def _histogram(stats: Mapping[str, Any], way: str) -> Buckets:
    """With one more bucket for what lies above all bounds. Empty if the daemon is of an earlier version, which measures
    no latencies."""
    latency = stats.get("latency", {}).get(way)
    return [*latency["buckets"], (None, latency["count"])] if latency else []


def percentile(before: Buckets, after: Buckets, part: float) -> float | None:
    """The latency in microseconds that this part of the I/Os between two states of a histogram did not exceed. None
    without I/Os. before: may be empty, for the whole histogram."""
    earlier = {bound: int(count) for bound, count in before}
    grown = [(bound, int(count) - earlier.get(bound, 0)) for bound, count in after]
    if not grown or grown[-1][1] <= 0:
        return None
    wanted = part * grown[-1][1]
    lower, counted = 0.0, 0
    for bound, count in grown:
        if count >= wanted and count > counted:
            if not isinstance(bound, int | float) or bound == float("inf"):
                return lower
            return lower + (float(bound) - lower) * (wanted - counted) / (count - counted)
        lower, counted = float(bound) if isinstance(bound, int | float) else lower, max(counted, count)
    return lower
