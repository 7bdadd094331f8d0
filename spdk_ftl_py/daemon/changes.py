"""Changes of an FTL that need a new life of it: the daemon halts it cleanly and loads it again, while its hosts
wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BusyError


@dataclass(frozen=True)
class Change:
    """A change between two lives of a device."""

    what: str
    """The change, for messages: "growing", "the removal of its cache"."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of bdev_ftl_create that change; None: the parameter is removed."""
    once: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of FtlMaker.load(), for the load that makes the change."""
    back: Mapping[str, Any] = field(default_factory=dict)
    """Parameters for the load after a failed change, if media may already show the change."""
    late: bool = False
    """Save the parameters after the load, so that a crash before it finds the old ones."""

    def applied(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with this change."""
        changed = {**params, **self.params}
        return {name: value for name, value in changed.items() if value is not None}


class Changes:
    """One change at a time. The requester waits in ask(); the life of the device takes the change."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self._change: Change | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._closed: Exception | None = None

    async def ask(self, change: Change) -> None:
        """Returns when the change is made. Raises BusyError if another change is in progress, and the error that
        refuse() or close() gets."""
        if self._closed is not None:
            raise self._closed
        if self._outcome is not None and not self._outcome.done():
            assert self._change is not None
            raise BusyError(f"{self._change.what} is in progress: try again when that is done")
        self._change = change
        self._outcome = asyncio.get_running_loop().create_future()
        self.wanted.set()
        # The requester may disconnect: the change continues.
        await asyncio.shield(self._outcome)

    def take(self) -> Change:
        """The change to make. End it with done() or refuse()."""
        assert self._change is not None
        self.wanted.clear()
        return self._change

    def done(self) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Idempotent, and without effect if nobody has asked."""
        self.wanted.clear()
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_exception(error)
            # The requester may have disconnected.
            self._outcome.exception()

    def close(self, error: Exception) -> None:
        """The life of the device is over. As refuse(); later callers of ask() get that error at once."""
        self._closed = error
        self.refuse(error)
