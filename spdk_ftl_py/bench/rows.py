"""The rows of a result: one for each metric of each workload, and one for each goal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import FtlError
from .cpu import machine
from .statistics import Sample

FORMAT: Final = 1


@dataclass(frozen=True)
class Goal:
    """at_least: the ratio (or the value, where there is no raw one) has to reach the limit; otherwise it is the most
    that it may be."""

    limit: float
    at_least: bool = True

    def met(self, value: float | None) -> bool:
        if value is None:
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """low, high: of the repeats of the ratio, or of the FTL's value if there is no ratio. why: why a value is
    missing."""

    name: str
    metric: str
    raw: float | None
    ftl: float | None
    ratio: float | None
    goal: str | None = None
    met: bool | None = None
    low: float | None = None
    high: float | None = None
    repeats: int = 0
    why: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.metric

    def as_dict(self) -> dict[str, Any]:
        return {key: _rounded(value) for key, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def row(
    name: str, metric: str, raw: Sample | None, ftl: Sample | None, ratio: Sample | None, goal: Goal | None = None,
    why: str | None = None,
) -> Row:  # fmt: skip
    judged = ratio or ftl
    return Row(
        name=name,
        metric=metric,
        raw=raw.median if raw else None,
        ftl=ftl.median if ftl else None,
        ratio=ratio.median if ratio else None,
        goal=str(goal) if goal else None,
        met=goal.met(judged.median if judged else None) if goal else None,
        low=judged.low if judged else None,
        high=judged.high if judged else None,
        repeats=judged.count if judged else 0,
        why=why,
    )


def save(path: Path, rows: Iterable[Row], how: dict[str, Any], *, update: bool = False) -> None:
    """update: rows of the file that are not among these stay. Raises FtlError."""
    kept = {each.key: each for each in load(path)} if update and path.exists() else {}
    kept.update({each.key: each for each in rows})
    document = {"format": FORMAT, "machine": machine(), **how, "rows": [each.as_dict() for each in kept.values()]}
    head = {key: value for key, value in document.items() if key != "rows"}
    lines = ",\n  ".join(json.dumps(each.as_dict()) for each in kept.values())
    # One line for each row, so that a diff shows the rows that have changed.
    text = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n  ' + lines + "\n ]\n}\n"
    try:
        path.write_text(text)
    except OSError as error:
        raise FtlError(f"{path}: {error.strerror or error}") from error


def load(path: Path) -> list[Row]:
    """The rows of a file that save() wrote. Raises FtlError."""
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FtlError(f"{path}: is not a result of the bench in format {FORMAT}")
        return [_row_of(each) for each in document["rows"]]
    except OSError as error:
        raise FtlError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FtlError(f"{path}: is not a result of the bench: {error!r}") from error


def _row_of(given: dict[str, Any]) -> Row:
    numbers = ("raw", "ftl", "ratio", "low", "high")
    if not isinstance(given["name"], str) or not isinstance(given["metric"], str):
        raise TypeError("name and metric must be strings")
    for key in numbers:
        if not isinstance(given.get(key), (int, float, type(None))):
            raise TypeError(f"{key} of {given['name']} must be a number")
    known: dict[str, Any] = {name: given[name] for name in Row.__dataclass_fields__ if name in given}
    return Row(**known)
