"""Ends asyncio tasks, reliably or on request of the user."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from .signals import on_signals

T = TypeVar("T")

CANCEL_AGAIN_S = 0.5
IMPATIENT_S = 30.0
"""Usually undoing is done within this time."""


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels the tasks, and returns when all have ended, however they ended. If the caller is cancelled, this
    continues.

    It cancels a task more than once if necessary: before Python 3.12 asyncio.wait_for(), which libraries use, loses a
    cancellation that comes together with its result.
    """
    remaining = {task for task in tasks if not task.done()}
    cancelled = False
    cancel = True
    while remaining:
        if cancel:
            for task in remaining:
                task.cancel()
        try:
            await asyncio.wait(remaining, timeout=CANCEL_AGAIN_S)
            cancel = True
        except asyncio.CancelledError:
            # The caller was cancelled. The tasks are already cancelled, and need time to clean up.
            cancelled, cancel = True, False
        remaining = {task for task in remaining if not task.done()}
    if cancelled:
        raise asyncio.CancelledError


@contextlib.contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """While this context is active, a signal that ends the program cancels the current task. Signals that follow soon
    are ignored: an impatient second Ctrl-C must not stop the undo."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    again_at = loop.time()

    def cancel(_number: signal.Signals) -> None:
        nonlocal again_at
        if loop.time() >= again_at:
            # Cancelled again after some time, because a cancellation can be lost (see end_tasks).
            again_at = loop.time() + IMPATIENT_S
            task.cancel()

    with on_signals(cancel):
        yield


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of work. Cancelling the caller does not interrupt work: the caller is cancelled when work has ended.

    Unlike asyncio.shield(), which lets the work run on after the caller has gone.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()
        raise asyncio.CancelledError
    return task.result()
