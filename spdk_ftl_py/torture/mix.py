"""The kinds of I/O in a torture run, and their shares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mix:
    """Shares of all I/Os. The rest are writes."""

    reads: float
    trims: float
    flushes: float
    fua: float
    """The share of the writes."""
    hot: float
    """The share of the I/Os that go to few LBAs."""
    large: float
    queue_depth: int
    """The number of outstanding I/Os at each host."""
    sequential: bool = False
