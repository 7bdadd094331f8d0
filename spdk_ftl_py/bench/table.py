"""Rows as tables for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from .rows import Row

_HEADINGS: Final = (
    "", "raw", "FTL", "ratio", "±", "p50 us", "p99", "p99.9", "p99.99", "client us/IO", "target", "daemon",
    "WA", "goal",
)  # fmt: skip
_GOALS: Final = ("goal", "compared", "with", "ratio", "wanted", "")


def lines_of(rows: Sequence[Row]) -> list[str]:
    """One table for each section, then the goals."""
    by_name: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.metric] = row
    sections: dict[str, list[list[str]]] = {}
    for name, metrics in by_name.items():
        section, _, workload = name.rpartition("/")
        if "iops" in metrics:
            sections.setdefault(section, []).append([workload, *_cells(metrics)])
    found: list[str] = []
    for section, cells in sections.items():
        found += [f"**{section}**", "", *markdown(_HEADINGS, cells), ""]
    goals = [[f"{row.name} {row.metric}", *_goal(row)] for row in rows if row.goal is not None]
    if goals:
        found += ["**goals**", "", *markdown(_GOALS, goals)]
    return found


def _cells(metrics: dict[str, Row]) -> list[str]:
    main = metrics["mib_s"] if metrics["mib_s"].goal or "seq" in metrics["mib_s"].name else metrics["iops"]
    unit: Callable[[float | None], str] = _mib if main.metric == "mib_s" else _kilo

    def number(metric: str, digits: int = 0) -> str:
        row = metrics.get(metric)
        return "" if row is None or row.ftl is None else f"{row.ftl:.{digits}f}"

    return [
        unit(main.raw),
        unit(main.ftl),
        "" if main.ratio is None else f"{main.ratio:.2f}",
        _spread(main),
        *(number(metric) for metric in ("p50_us", "p99_us", "p99_9_us", "p99_99_us")),
        *(number(f"cpu_us_{process}", 1) for process in ("client", "target", "daemon")),
        number("write_amplification", 2),
        verdict(main),
    ]


def _goal(row: Row) -> list[str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return [_short(row.ftl), _short(row.raw), ratio, row.goal or "", ("met" if row.met else "not met") + _why(row)]


def _why(row: Row) -> str:
    return f": {row.why}" if row.why else ""


def verdict(row: Row) -> str:
    return "" if row.goal is None else f"{row.goal} {'met' if row.met else 'not met'}"


def _spread(row: Row) -> str:
    if row.low is None or row.high is None or not (row.ratio or row.ftl):
        return ""
    return f"{(row.high - row.low) / 2 / (row.ratio or row.ftl or 1):.0%}"


def _kilo(value: float | None) -> str:
    return "" if value is None else f"{value / 1000:.1f}k"


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} MiB/s"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table with columns of equal width, so that it can be read as it is. Columns with nothing in them are left
    out."""
    cells = [list(headings), *map(list, rows)]
    used = [column for column in range(len(headings)) if any(line[column] for line in cells[1:])]
    cells = [[line[column] for column in used] for line in cells]
    widths = [max(len(line[column]) for line in cells) for column in range(len(used))]
    lines = [
        "| " + " | ".join(
            each.ljust(width) if column == 0 else each.rjust(width)
            for column, (each, width) in enumerate(zip(line, widths, strict=True))
        ) + " |"
        for line in cells
    ]  # fmt: skip
    rule = (
        "|" + "|".join("-" * (width + 1) + ("-" if column == 0 else ":") for column, width in enumerate(widths)) + "|"
    )
    return [lines[0], rule, *lines[1:]]
