"""Feature 83h, Reservation Persistence: of a namespace, not of a controller. Base 2.0 section 5.27.1.25."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from .. import wire
from ..wire import Sqe, Status
from .capsule import Completion
from .features import CAPABILITY_CHANGEABLE, CAPABILITY_OF_NAMESPACE, SELECT_CAPABILITIES, SELECT_CURRENT
from .namespace import Namespace
from .reservations import ReservationCommands


class PersistenceFeature:
    """Get and Set Features of one controller."""

    def __init__(
        self,
        commands: ReservationCommands | None,
        namespaces: Callable[[], Mapping[int, Namespace]],
        complete: Callable[[Sqe, Completion], Coroutine[Any, Any, None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """commands: of the subsystem; None: a discovery controller. namespaces: those that the host sees. complete:
        answers a command; spawn runs it."""
        self._commands = commands
        self._namespaces = namespaces
        self._complete = complete
        self._spawn = spawn
        self._setting = False
        """One at a time: each waits for the disk."""

    def get(self, sqe: Sqe) -> Completion:
        select, namespace = sqe.cdw10 >> 8 & 7, self._namespaces().get(sqe.nsid)
        if self._commands is None or select > SELECT_CAPABILITIES:
            return Completion(Status.INVALID_FIELD)
        if namespace is None:
            return Completion(Status.INVALID_NAMESPACE)
        if select == SELECT_CAPABILITIES:
            return Completion(result=CAPABILITY_CHANGEABLE | CAPABILITY_OF_NAMESPACE)
        return Completion(result=int(select == SELECT_CURRENT and namespace.reservations.state.persistent))

    def set(self, sqe: Sqe) -> Completion | None:
        """None: it will be completed when the change is durable."""
        if self._commands is None:
            return Completion(Status.INVALID_FIELD)
        if sqe.cdw10 >> 31:
            return Completion(Status.FEATURE_NOT_SAVEABLE)
        if sqe.nsid != wire.NSID_ALL and sqe.nsid not in self._namespaces():
            return Completion(Status.INVALID_NAMESPACE)
        if self._setting:
            return Completion(Status.COMMAND_SEQUENCE_ERROR, do_not_retry=False)
        self._setting = True
        self._spawn(self._change(sqe, self._commands))
        return None

    async def _change(self, sqe: Sqe, commands: ReservationCommands) -> None:
        nsids = list(self._namespaces()) if sqe.nsid == wire.NSID_ALL else [sqe.nsid]
        status = Status.SUCCESS
        try:
            for nsid in nsids:
                status = await commands.set_persistence(nsid, bool(sqe.cdw11 & 1)) or status
        finally:
            self._setting = False
        await self._complete(sqe, Completion(status))
