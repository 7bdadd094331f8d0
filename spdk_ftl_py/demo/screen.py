"""What the demo shows while it runs: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Phase:
    """One step being shown. total 0: no measure of progress."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task
        self.note = ""
        """Shown behind the bar, and in the line that stays."""

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
        """Shows a step as long as the body runs, and then that it is done and how long it took."""
        began = time.monotonic()
        if not self._bars:
            phase = Phase(None, None)
            yield phase
            self._done(name, phase, began)
            return
        progress = Progress(
            TextColumn("  {task.description:<28}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %" if total else ""),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            refresh_per_second=8,
        )
        with progress:
            task = progress.add_task(name, total=total or None, note="")
            phase = Phase(progress, task)
            yield phase
        self._done(name, phase, began)

    def _done(self, name: str, phase: Phase, began: float) -> None:
        seconds = time.monotonic() - began
        line = f"[green]✓[/green] {escape(name):<30} {seconds:6.1f} s  {escape(phase.note)}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)
