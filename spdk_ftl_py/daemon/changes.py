"""Changes of an FTL that take a new life of it: it is halted cleanly and loaded again, while its hosts wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BusyError


@dataclass(frozen=True)
class Change:
    """Between two lives of a device."""

    what: str
    """Is done, for messages: "growing", "the removal of its cache"."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Of bdev_ftl_create, from now on; None: not given any more."""
    once: Mapping[str, Any] = field(default_factory=dict)
    """For the one load that makes the change: what FtlMaker.load() takes beside."""
    back: Mapping[str, Any] = field(default_factory=dict)
    """Parameters with which it is loaded as it was, where this fails, although media may show the change already."""
    late: bool = False
    """A crash on the way is to find the parameters as they were: they are saved when it is loaded so."""

    def applied(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as they are with it."""
        changed = {**params, **self.params}
        return {name: value for name, value in changed.items() if value is not None}


class Changes:
    """One at a time: who asks waits in ask(), the life of the device takes it."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self._change: Change | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._closed: Exception | None = None

    async def ask(self, change: Change) -> None:
        """Returns when it is done. Raises BusyError while there is another, and what refuse() or close() is given."""
        if self._closed is not None:
            raise self._closed
        if self._outcome is not None and not self._outcome.done():
            assert self._change is not None
            raise BusyError(f"{self._change.what} is in progress: try again when that is done")
        self._change = change
        self._outcome = asyncio.get_running_loop().create_future()
        self.wanted.set()
        # Who asked may hang up: the change goes on.
        await asyncio.shield(self._outcome)

    def take(self) -> Change:
        """To be ended by done() or refuse()."""
        assert self._change is not None
        self.wanted.clear()
        return self._change

    def done(self) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Idempotent, and without effect where nobody asks."""
        self.wanted.clear()
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(error)
            # Who asked may have hung up.
            self._outcome.exception()

    def close(self, error: Exception) -> None:
        """The life of the device is over: as refuse(), and whoever asks from now on gets that error at once."""
        self._closed = error
        self.refuse(error)
