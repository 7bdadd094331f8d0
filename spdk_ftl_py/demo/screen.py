"""The display of the demo and of torture: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

NAME_WIDTH: Final = 28
BAR_WIDTH: Final = 32
WIDE: Final = 120
"""The width in columns from which on everything fits."""
NARROW: Final = 60
"""The width in columns below which a bar does not fit."""


class Phase:
    """A step on display. total 0: its progress cannot be measured."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task
        self.note = ""
        """Shown after the bar, and in the final line."""

    def update(self, done: float, note: str = "") -> None:
        if note:
            self.note = note
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=self.note)


class Screen:
    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = console.is_terminal

    @contextmanager
    def phase(self, name: str, total: float = 0) -> Iterator[Phase]:
        """Shows a step while the body runs, and then that it is done and how long it took."""
        began = time.monotonic()
        if not self._bars:
            phase = Phase(None, None)
            yield phase
            self._done(name, phase, began)
            return
        progress = Progress(
            *self._columns(name, bool(total)), console=self.console, transient=True, refresh_per_second=8, expand=True
        )
        with progress:
            task = progress.add_task(name, total=total or None, note="")
            phase = Phase(progress, task)
            yield phase
        self._done(name, phase, began)

    def _columns(self, name: str, measured: bool) -> list[ProgressColumn]:
        """Columns that fill one line, whatever the note. More than one line would be redrawn line by line, and
        flicker."""
        width = self.console.width
        wide = width >= WIDE
        columns: list[ProgressColumn] = [
            TextColumn(
                f"  {{task.description:<{NAME_WIDTH if wide else len(name)}}}", markup=False, table_column=_one()
            )
        ]
        if width >= NARROW:
            columns.append(BarColumn(bar_width=BAR_WIDTH if wide else width // 8))
        columns.append(TextColumn("{task.percentage:>3.0f} %" if measured else "", table_column=_one()))
        if width >= NARROW:
            columns.append(TimeElapsedColumn(table_column=_one()))
        columns.append(TextColumn("{task.fields[note]}", markup=False, table_column=_one(ratio=1)))
        return columns

    def _done(self, name: str, phase: Phase, began: float) -> None:
        seconds = f"{time.monotonic() - began:6.1f} s"
        width = self.console.width
        note = phase.note
        padded = f"{name:<{NAME_WIDTH + 2}}"
        if self._bars and len(f"✓ {padded} {seconds}  {note}") > width:
            padded = name
            if len(f"✓ {padded} {seconds}  {note}") > width:
                note = "\n" + textwrap.fill(note, width, initial_indent="    ", subsequent_indent="    ")
        line = f"[green]✓[/green] {escape(padded)} {seconds}  {escape(note)}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)


def _one(ratio: int | None = None) -> Column:
    """A column of one line. ratio: the column takes the width that the others leave."""
    return Column(no_wrap=True, overflow="ellipsis", ratio=ratio)
