"""Asynchronous events of a controller, and the changes since the host has read their log pages. Base 2.0 section
5.2."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from .. import logs, wire
from ..wire import Sqe, Status
from .capsule import Completion
from .features import Features
from .reservation_state import Notice

AER_LIMIT = 4
RESERVATION_NOTICES_MAX = 64
"""Of one controller. The host sees from the log page's count that it has missed some."""


class AsyncEvents:
    def __init__(
        self,
        complete: Callable[[Sqe, Completion], Coroutine[Any, Any, None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        may_send: Callable[[], bool],
        features: Callable[[], Features],
        nsids: Callable[[], Collection[int]],
    ) -> None:
        """complete: answers a command; spawn runs it. may_send: events wait while it returns False. features: by which
        the host has said what it wants to know. nsids: of the namespaces that it sees."""
        self._complete = complete
        self._spawn = spawn
        self._may_send = may_send
        self._features = features
        self._nsids = nsids
        self._waiting_aers: deque[Sqe] = deque()
        self._events: deque[int] = deque()
        self._masked_events: set[int] = set()
        self.changed_namespaces: set[int] = set()
        self._changed_zones: dict[int, set[int] | None] = {}
        """By NSID; None: more than the log page can list."""
        self._notices: deque[tuple[int, int, Notice]] = deque(maxlen=RESERVATION_NOTICES_MAX)
        """Number, NSID and type of reservation notifications that the host has not read."""
        self._notice_count = 0

    def _post_if(self, enabled_by: int, event: int) -> None:
        if self._features().event_enabled(enabled_by):
            self._post(event)

    def _post(self, event: int) -> None:
        """Sends an event. It is masked then until the host has read its log page."""
        if event not in self._masked_events and event not in self._events:
            self._events.append(event)
            self._send_events()

    def _send_events(self) -> None:
        while self._events and self._waiting_aers and self._may_send():
            event = self._events.popleft()
            self._masked_events.add(event)
            self._spawn(self._complete(self._waiting_aers.popleft(), Completion(result=event)))

    def log_page_read(self, page: int) -> None:
        self._masked_events = {event for event in self._masked_events if event >> 16 & 0xFF != page}

    # --- the subsystem ----------------------------------------------------------------------------------------------

    def namespace_changed(self, nsid: int) -> None:
        self.changed_namespaces.add(nsid)
        self._post_if(wire.EVENT_CONFIG_NAMESPACE, wire.EVENT_NAMESPACE_CHANGED)

    def namespace_resized(self, nsid: int) -> None:
        """Call it after the change. I/O queues go by the device itself."""
        if nsid in self._nsids():
            self.namespace_changed(nsid)

    def ana_changed(self) -> None:
        self._post_if(wire.EVENT_CONFIG_ANA, wire.EVENT_ANA_CHANGED)

    def warned(self, warnings: int) -> None:
        """These bits of the critical warning in the SMART log have been set."""
        for bit, event in (
            (logs.WARNING_SPARE, wire.EVENT_SPARE),
            (logs.WARNING_RELIABILITY, wire.EVENT_RELIABILITY),
            (logs.WARNING_READ_ONLY, wire.EVENT_RELIABILITY),
        ):
            # The bits by which a host enables these events are those of the warning.
            if warnings & bit:
                self._post_if(bit, event)

    def discovery_changed(self) -> None:
        self._post_if(wire.EVENT_CONFIG_DISCOVERY, wire.EVENT_DISCOVERY_CHANGED)

    # --- zones ------------------------------------------------------------------------------------------------------

    def zones_changed(self, nsid: int, starts: Collection[int] | None) -> None:
        """Call it after the change. starts: None: of any zone."""
        if nsid not in self._nsids():
            return
        known = self._changed_zones.setdefault(nsid, set())
        if known is not None:
            known.update(starts or ())
            if starts is None or len(known) > logs.CHANGED_ZONES_MAX:
                self._changed_zones[nsid] = None
        self._post_if(wire.EVENT_CONFIG_ZONES, _zone_event(nsid))

    def zone_log(self, nsid: int) -> bytes:
        """The log page of a namespace."""
        changed = self._changed_zones.get(nsid, set())
        return logs.build_changed_zones(None if changed is None else sorted(changed))

    def zone_log_read(self, nsid: int) -> None:
        event = _zone_event(nsid)
        self._changed_zones.pop(nsid, None)
        self._masked_events.discard(event)
        if event in self._events:
            self._events.remove(event)

    # --- reservations -------------------------------------------------------------------------------------------------

    def reservation_notice(self, nsid: int, notice: Notice) -> None:
        """Sends it, unless the host has masked it."""
        if nsid not in self._nsids() or self._features().reservation_notice_masked(nsid, notice):
            return
        self._notice_count += 1
        self._notices.append((self._notice_count, nsid, notice))
        self._post(wire.EVENT_RESERVATION)

    def reservation_log(self) -> bytes:
        """The oldest notification; an empty page if there is none."""
        if not self._notices:
            return logs.build_reservation(self._notice_count, 0, 0, 0)
        count, nsid, notice = self._notices[0]
        return logs.build_reservation(count, notice, len(self._notices) - 1, nsid)

    def reservation_log_read(self) -> None:
        if self._notices:
            self._notices.popleft()
        self._masked_events.discard(wire.EVENT_RESERVATION)
        if self._notices:
            self._post(wire.EVENT_RESERVATION)

    # --- commands ---------------------------------------------------------------------------------------------------

    def request(self, sqe: Sqe) -> Completion | None:
        if len(self._waiting_aers) >= AER_LIMIT:
            return Completion(Status.ASYNC_EVENT_LIMIT)
        self._waiting_aers.append(sqe)
        self._send_events()
        return None

    def abort(self, sqe: Sqe) -> Completion:
        """Only a waiting AER can still be aborted. Bit 0 of the result says that nothing was aborted."""
        for waiting in self._waiting_aers:
            if sqe.cdw10 & 0xFFFF == 0 and sqe.cdw10 >> 16 == waiting.cid:
                self._waiting_aers.remove(waiting)
                self._spawn(self._complete(waiting, Completion(Status.ABORTED_BY_REQUEST, do_not_retry=False)))
                return Completion()
        return Completion(result=1)

    async def abandon(self) -> None:
        aers, self._waiting_aers = self._waiting_aers, deque()
        for sqe in aers:
            await self._complete(sqe, Completion(Status.ABORTED_SQ_DELETED, do_not_retry=False))

    def forget(self) -> None:
        """The queue of the waiting commands is gone, and nobody expects their completion."""
        self._waiting_aers.clear()
        self.clear()

    def clear(self) -> None:
        """Returns to the state after Connect."""
        self._events.clear()
        self._masked_events.clear()
        self.changed_namespaces.clear()
        self._changed_zones.clear()
        self._notices.clear()


def _zone_event(nsid: int) -> int:
    """The key of the event's mask. Each namespace has its own, because each has its own log page."""
    return wire.EVENT_ZONES_CHANGED | nsid << 32
