"""Results of a sweep as a table of plain values, and as a file."""

from __future__ import annotations

import csv
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ...errors import FtlError, ParameterError, UnsupportedError

ERROR: Final = "error"
Row = dict[str, Any]


def row(point: Mapping[str, Any], result: Mapping[str, Any] | None, error: str) -> Row:
    """The point's settings, what came out, and the error (None: none).

    A dict becomes columns of its own (``wear.max``), a list the text of its JSON. A result with the name of a setting
    and another value becomes ``result.NAME``.
    """
    made: Row = dict(point)
    # A simulation repeats what was asked for.
    news = {name: value for name, value in (result or {}).items() if value != point}
    for name, value in _flat(news):
        if name not in made:
            made[name] = value
        elif made[name] != value:
            made[f"result.{name}"] = value
    return {**made, ERROR: error or None}


def _flat(values: Mapping[str, Any], under: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{under}{name}.")
        else:
            found.append((f"{under}{name}", json.dumps(value) if isinstance(value, list | tuple) else value))
    return found


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """All columns that some row has; settings first, the error last."""
    names = dict.fromkeys(name for each in rows for name in each if name != ERROR)
    return {name: [each.get(name) for each in rows] for name in (*names, ERROR)}


# --- files -----------------------------------------------------------------------------------------------------------


def suffix(path: Path) -> Path:
    """The path, if it says what kind of file is wanted. Raises ParameterError."""
    if path.suffix.lower() not in _WRITERS:
        raise ParameterError(f"{str(path)[-80:]!r}: must end in {' or '.join(_WRITERS)}")
    return path


def check(path: Path) -> None:
    """Before a long sweep. Raises UnsupportedError if what is needed to write this kind of file is not installed."""
    if path.suffix.lower() != ".csv":
        _pyarrow()


def write(rows: Sequence[Row], path: Path) -> None:
    """The file appears whole, or not at all. Raises FtlError."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _WRITERS[path.suffix.lower()](columns(rows), unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise FtlError(f"results {path}: {error.strerror or error}: give --out a path that can be written") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _write_csv(table: Mapping[str, list[Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows([_text(value) for value in values] for values in zip(*table.values(), strict=True))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UnsupportedError(
            f"a Parquet file needs pyarrow (pip install 'spdk-ftl-py[parquet]'), a .csv file needs nothing: {error}"
        ) from None


def _write_parquet(table: Mapping[str, list[Any]], path: Path) -> None:
    pyarrow, parquet = _pyarrow()
    parquet.write_table(pyarrow.table({name: pyarrow.array(_alike(values)) for name, values in table.items()}), path)


def _alike(values: list[Any]) -> list[Any]:
    """Values of one type, as a column of Parquet has it."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else _text(value) for value in values]


_WRITERS: Final[Mapping[str, Callable[[Mapping[str, list[Any]], Path], None]]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
