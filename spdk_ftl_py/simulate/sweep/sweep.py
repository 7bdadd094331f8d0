"""A sweep: its points are simulated by workers, once each, however often the sweep is interrupted."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...errors import ExistsError, FtlError
from ...text import show_line
from ...workers.identity import FILE
from ...workers.journal import Journal, Record
from ...workers.spread import Hooks, spread
from ...workers.work import Answer, Task, Workers
from . import point, results
from .grid import Grid
from .needs import needs
from .results import Row

_FORMAT: Final = 2


def journal_of(path: Path) -> Path:
    """Where a sweep with these results keeps its journal."""
    return path.with_name(f"{path.name}.journal")


class Sweep:
    """path: where the results will be; PATH.journal says which points are finished, and stays there.

    resume: goes on if there is a journal. Points that have failed are simulated again. Raises FtlError if there is a
    journal without resume, or if it is that of another grid, of other code or of other traces; and what needs() raises.
    """

    def __init__(self, grid: Grid, path: Path | None, *, resume: bool, function: str = point.FUNCTION) -> None:
        self.grid = grid
        self._points = grid.points()
        self._function = function
        self.code = needs(grid)
        """What workers must have."""
        self._finished: dict[int, dict[str, Any]] = {}
        self._errors: dict[int, str] = {}
        self._seconds: dict[int, float] = {}
        self._journal: Journal | None = None
        self.restored = 0
        """Points that were finished by an earlier run."""
        traces = {name.removeprefix(FILE): value for name, value in self.code.items() if name.startswith(FILE)}
        code = {name: value for name, value in self.code.items() if not name.startswith(FILE)}
        header = {"sweep": _FORMAT, "function": function, "grid": grid.to_dict(), "code": code, "traces": traces}
        if path is None:
            return
        place = journal_of(path)
        self._check_that_nothing_is_lost(path, place, resume=resume)
        self._journal = Journal(place, "sweep")
        try:
            if self._journal.header is not None and not resume:
                raise ExistsError(_begun(place))
            _check_traces(traces, self._journal)
            self._journal.begin(header, f"give another --out, or remove {place} to begin again")
            for record in self._journal.records:
                self._take(record)
        except BaseException:
            self._journal.close()
            raise
        self.restored = len(self._finished)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    @property
    def dropped(self) -> int:
        """Bytes of the journal that a crash has torn."""
        return self._journal.dropped if self._journal is not None else 0

    @property
    def done(self) -> int:
        """Points that are simulated, or have failed in this run."""
        return len(self._finished) + len(self._errors)

    @property
    def failed(self) -> list[tuple[dict[str, Any], str]]:
        """Points and their errors, in order."""
        return [(self._points[number], error) for number, error in sorted(self._errors.items())]

    def run(self, workers: Workers, progress: Callable[[int], None], told: Callable[[str], None]) -> None:
        """Raises FtlError. What is finished by then is in the journal."""
        left = iter([number for number in range(len(self._points)) if number not in self._finished])
        self._errors.clear()

        def source() -> Task | None:
            number = next(left, None)
            return None if number is None else Task(number, self._points[number])

        def answered(answers: Sequence[Answer]) -> None:
            records = [_record(answer) for answer in answers]
            if self._journal is not None:
                self._journal.append(*records)
            for record in records:
                self._take(record)
            progress(self.done)

        spread(workers, self._function, source, Hooks(answered, told), code=self.code)

    def rows(self) -> list[Row]:
        """In the order of the grid; those without a result have an error."""
        return [
            results.row(each, self._finished.get(number), "" if number in self._finished else self._why(number))
            for number, each in enumerate(self._points)
        ]

    def _why(self, number: int) -> str:
        return self._errors.get(number, "not simulated")

    def to_dict(self) -> dict[str, Any]:
        """The whole, for --json: results as the simulations have given them."""
        return {
            **self.grid.to_dict(),
            "points": [
                {
                    "point": each,
                    "result": self._finished.get(number),
                    "error": None if number in self._finished else self._why(number),
                    "seconds": self._seconds.get(number),
                }
                for number, each in enumerate(self._points)
            ],
        }

    def _take(self, record: Record) -> None:
        number = record["point"]
        self._seconds[number] = record["seconds"]
        if "result" in record:
            self._finished[number] = record["result"]
            self._errors.pop(number, None)
        else:
            self._errors[number] = record["error"]

    @staticmethod
    def _check_that_nothing_is_lost(path: Path, place: Path, *, resume: bool) -> None:
        if place.exists():
            if not resume:
                raise ExistsError(_begun(place))
        elif path.exists():
            raise ExistsError(f"results {path} exist: give another --out, or remove the file")


def _record(answer: Answer) -> Record:
    outcome = {"error": answer.error} if answer.error else {"result": answer.value}
    return {"point": answer.key, "seconds": round(answer.seconds, 3), **outcome}


def _check_traces(traces: Mapping[str, str], journal: Journal) -> None:
    before = (journal.header or {}).get("traces", {})
    for trace, digest in traces.items():
        if trace in before and before[trace] != digest:
            raise FtlError(
                f"trace {show_line(trace)} is not the one that {journal.path} was begun with (digest {before[trace]} "
                f"then, {digest} now): restore the file as it was, or give another --out",
                errno=errno.ESTALE,
            )


def _begun(place: Path) -> str:
    return f"{place} is the journal of a sweep: --resume goes on with it, or remove it to begin again"
