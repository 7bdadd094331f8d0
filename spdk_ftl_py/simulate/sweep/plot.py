"""Write amplification of a sweep as a picture: by reserve, a line for each policy, a panel for each workload."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ...errors import FtlError
from ...pictures import pyplot, save
from .results import ERROR, Row

WA: Final = "write_amplification"
_PANEL_INCHES: Final = (4.2, 3.6)
_ACROSS_MAX: Final = 3
_NOT_A_LINE: Final = ("reserved", "workload", "policy", "seed")

Line = list[tuple[float, float]]


def lines(rows: Sequence[Row], varying: Sequence[str]) -> dict[str, dict[str, Line]]:
    """By workload and label, the mean WA of all seeds by reserve. Other settings that vary are part of the label."""
    others = [name for name in varying if name not in _NOT_A_LINE]
    found: dict[str, dict[str, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        if row[ERROR] is None and row.get(WA) is not None:
            label = ", ".join([str(row["policy"]), *(f"{name} {row[name]}" for name in others)])
            found[str(row["workload"])][label][float(row["reserved"])].append(float(row[WA]))
    return {
        workload: {
            label: sorted((reserved, sum(values) / len(values)) for reserved, values in by_reserve.items())
            for label, by_reserve in by_label.items()
        }
        for workload, by_label in found.items()
    }


def draw(rows: Sequence[Row], varying: Sequence[str], path: Path) -> None:
    """Raises FtlError."""
    panels = lines(rows, varying)
    if not panels:
        raise FtlError("nothing to plot: no point has a write amplification")
    across = min(len(panels), _ACROSS_MAX)
    down = -(-len(panels) // across)
    figure, axes = pyplot().subplots(
        down, across, figsize=(_PANEL_INCHES[0] * across, _PANEL_INCHES[1] * down), squeeze=False, sharey=True
    )
    for axis, (workload, by_label) in zip(axes.flat, panels.items(), strict=False):
        for label, line in by_label.items():
            axis.plot(*zip(*line, strict=True), marker="o", markersize=3, linewidth=1, label=label)
        axis.set_title(workload, fontsize=9, loc="left")
        axis.set_xlabel("reserved (%)", fontsize=8)
        axis.grid(linewidth=0.3)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel("write amplification", fontsize=8)
    figure.tight_layout()
    save(figure, path)
