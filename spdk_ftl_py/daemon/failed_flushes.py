"""A base on which flush after flush fails: how long the daemon loads the FTL again and again, and when it gives up."""

from __future__ import annotations

from typing import Final

from ..ftl.media.blockdev import BUSY_PATIENCE_S

RETRY_MIN_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
RETRY_GROWTH: Final = 1.5
FLUSHES_FAIL_S: Final = BUSY_PATIENCE_S
"""How long the daemon loads an FTL whose base fails every flush, with growing pauses. Then the device fails."""


class FailedFlushes:
    """Counts, for a base, the lives and loads of the FTL in a row that ended with their first flush."""

    def __init__(self) -> None:
        self._count = 0
        self._since_s = 0.0

    def end(self) -> None:
        """A flush has succeeded, or the base is lost for another reason."""
        self._count = 0

    def add(self, now_s: float) -> None:
        self._since_s = self._since_s if self._count else now_s
        self._count += 1

    def delay_s(self) -> float:
        """How long to wait before the next load."""
        return min(RETRY_MIN_S * RETRY_GROWTH**self._count, RETRY_MAX_S) if self._count > 1 else 0.0

    def too_many(self, now_s: float) -> str | None:
        """Why another attempt is pointless."""
        if self._count == 0 or now_s - self._since_s < FLUSHES_FAIL_S:
            return None
        return (
            f"{self._count} flushes in a row have failed, for {now_s - self._since_s:.0f} s: repair the base; then "
            "delete the FTL, which keeps its data, and load it with its uuid"
        )
