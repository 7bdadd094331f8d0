"""The ratios of a result as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import FtlError
from ..pictures import pyplot, save
from .rows import Row

MAIN: Final = ("iops", "mib_s")
_BAR_INCHES: Final = 0.24
_HEAD_INCHES: Final = 0.75
_WIDTH_INCHES: Final = 8.0
_MET: Final = "#2f7d4f"
_NOT_MET: Final = "#b3452c"
_PLAIN: Final = "#4a6fa5"


def draw(rows: Sequence[Row], path: Path) -> None:
    """A panel for each section, with a bar for each workload: FTL to raw, the range of the repeats, and the goal.

    Raises FtlError.
    """
    sections: dict[str, list[Row]] = {}
    for row in rows:
        if row.ratio is not None and row.metric == _main_of(row):
            section, _, _ = row.name.rpartition("/")
            sections.setdefault(section, []).append(row)
    if not sections:
        raise FtlError("nothing to plot: no row has a ratio to the raw bdev")
    heights = [_HEAD_INCHES + _BAR_INCHES * len(found) for found in sections.values()]
    figure, axes = pyplot().subplots(
        len(sections), 1, figsize=(_WIDTH_INCHES, sum(heights)), height_ratios=heights, squeeze=False, sharex=True
    )
    for axis, (section, found) in zip(axes[:, 0], sections.items(), strict=True):
        _panel(axis, section, found)
    axes[-1, 0].set_xlabel("FTL / raw bdev (more is better); line: range of the repeats; tick: goal")
    figure.tight_layout()
    save(figure, path)


def _main_of(row: Row) -> str:
    return "mib_s" if "seq-" in row.name else "iops"


def _panel(axis: Any, section: str, rows: Sequence[Row]) -> None:
    names = [row.name.rpartition("/")[2] for row in rows]
    values = [row.ratio or 0.0 for row in rows]
    places = list(range(len(rows)))
    colours = [_PLAIN if row.goal is None else _MET if row.met else _NOT_MET for row in rows]
    axis.barh(places, values, color=colours, height=0.7)
    for place, row in zip(places, rows, strict=True):
        axis.plot([row.low, row.high], [place, place], color="black", linewidth=1)
        if row.goal is not None:
            limit = float(row.goal.split()[-1])
            axis.plot([limit, limit], [place - 0.42, place + 0.42], color="black", linewidth=2)
        axis.text(max(row.ratio or 0.0, row.high or 0.0) + 0.01, place, f"{row.ratio:.2f}", va="center", fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(1, color="grey", linewidth=0.6)
    axis.set_title(section, fontsize=9, loc="left")
