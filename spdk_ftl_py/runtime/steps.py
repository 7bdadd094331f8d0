"""A start-up as a list of steps, each with its undo. On failure the undos run in reverse order."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Undo = Callable[[], Awaitable[object] | None]


class Steps:
    """The steps done so far for ``what``. As a context manager, an exception undoes all of them."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._undos: list[tuple[str, Undo]] = []

    async def __aenter__(self) -> Steps:
        return self

    async def __aexit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is not None:
            await self.undo()

    @property
    def pending(self) -> bool:
        """There is something to undo."""
        return bool(self._undos)

    async def run(self, name: str, do: Awaitable[T], undo: Undo) -> T:
        """Runs a step. Its undo is registered before it begins, because a step that failed, or whose answer was lost,
        may have taken effect. So an undo must accept that there may be nothing to undo."""
        self.on_undo(name, undo)
        return await do

    def on_undo(self, name: str, undo: Undo) -> None:
        """Adds an undo for something done elsewhere. A step of the same name replaces it."""
        self.keep(name)
        self._undos.append((name, undo))

    def keep(self, name: str) -> None:
        """The effect of that step stays from now on, whatever happens."""
        self._undos = [entry for entry in self._undos if entry[0] != name]

    async def undo(self) -> list[tuple[str, Exception]]:
        """Undoes everything, the last step first. An undo that fails does not stop the others: the result says which
        steps could not be undone, and why. Idempotent; runs to its end even if the caller is cancelled."""
        return await asyncio.shield(self._undo_all())

    async def _undo_all(self) -> list[tuple[str, Exception]]:
        failures: list[tuple[str, Exception]] = []
        while self._undos:
            name, undo = self._undos.pop()
            try:
                undone = undo()
                if inspect.isawaitable(undone):
                    await undone
            except Exception as error:
                log.warning("%s: could not undo %r: %s", self.what, name, error)
                failures.append((name, error))
        return failures
