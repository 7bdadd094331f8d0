"""What was measured of one workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .client import Window
from .workloads import Workload

WARM_S: Final = 0.15
Told = Callable[[str], None]
"""Called with a text for the progress bar."""


@dataclass
class Measured:
    """All windows of one workload: raw[i] and ftl[i] are neighbours."""

    workload: Workload
    raw: list[Window] = field(default_factory=list)
    ftl: list[Window] = field(default_factory=list)
    write_amplification: list[float] = field(default_factory=list)
    """Of the windows of the FTL, with their warm-ups."""

    def amplified(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Answers of bdev_ftl_get_stats before and after the last window of the FTL."""
        host = written(before, after)
        if host:
            media = int(after["media_written_blocks"]) - int(before["media_written_blocks"])
            self.write_amplification.append(media / host)


@dataclass(frozen=True)
class Timing:
    seconds: float
    repeats: int
    warm_s: float = WARM_S


def written(before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
    """Blocks that hosts have written between two answers of bdev_ftl_get_stats."""
    return int(after["host_written_blocks"]) - int(before["host_written_blocks"])
