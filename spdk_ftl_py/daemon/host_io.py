"""What the gate of an FTL has counted of its hosts' I/O, as bdev_ftl_get_stats tells it.

The gate is where hosts' I/O enters and leaves the FTL. Its counts begin when the daemon created or loaded the FTL, and
continue when a base that was lost comes back. The time that I/O is held for such a base is part of its latency.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, Final

from .. import _shim

KINDS: Final = ("read", "write", "flush", "trim")
ERROR_CLASSES: Final = tuple(each for each in _shim.ErrorClass if each is not _shim.ErrorClass.NONE)
BOUNDS_US: Final = tuple(1 << power for power in range(_shim.LATENCY_BOUNDS))
"""Upper bounds of the histograms' buckets. They never change, so that histograms can be added and subtracted."""


def describe(account: _shim.GateAccount) -> dict[str, Any]:
    """The members of bdev_ftl_get_stats about hosts' I/O."""
    kinds: dict[str, _shim.KindAccount] = {kind: getattr(account, kind) for kind in KINDS}
    return {
        "latency": {kind: _latency(each) for kind, each in kinds.items()},
        "host_errors": {
            kind: {error.name.lower(): each.errors[error] for error in ERROR_CLASSES} for kind, each in kinds.items()
        },
        "host_io": {"gate": account.state, "held": account.held},
    }


def _latency(kind: _shim.KindAccount) -> dict[str, Any]:
    """Microseconds. Buckets: [upper bound, how many took no longer], cumulative; `count` has those above all bounds."""
    return {
        "count": kind.count,
        "sum_us": round(kind.sum / 1000, 3),
        "mean_us": round(kind.sum / kind.count / 1000, 3) if kind.count else 0.0,
        "p50_us": kind.p50 / 1000,
        "p90_us": kind.p90 / 1000,
        "p99_us": kind.p99 / 1000,
        "p99_9_us": kind.p999 / 1000,
        "max_us": kind.max / 1000,
        "buckets": [list(bucket) for bucket in zip(BOUNDS_US, accumulate(kind.within), strict=False)],
    }
