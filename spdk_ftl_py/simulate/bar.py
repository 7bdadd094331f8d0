"""The progress of simulations on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def bar(console: Console, what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, and nothing elsewhere. It is told what is done, out of the total; a total above 1 is a
    number of things, which are counted."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    count = MofNCompleteColumn() if total > 1 else TaskProgressColumn()
    columns = (what, BarColumn(), count, TimeElapsedColumn(), "left:", TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
