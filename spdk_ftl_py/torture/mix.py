"""What the hosts of a torture run do, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mix:
    """In parts of all I/Os (the rest are writes)."""

    reads: float
    trims: float
    flushes: float
    fua: float
    """Of the writes."""
    hot: float
    """Part of the I/Os that go to few LBAs."""
    large: float
    queue_depth: int
    """I/Os outstanding at each host."""
    sequential: bool = False
