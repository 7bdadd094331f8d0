"""A progress bar that costs next to nothing while something is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar on a terminal, which is redrawn seldom: it must not cost what is measured."""
    if not console.is_terminal:
        yield lambda what, done: None
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def tell(what: str, done: int) -> None:
            bar.update(task, description=what, advance=done)
            bar.refresh()

        yield tell
