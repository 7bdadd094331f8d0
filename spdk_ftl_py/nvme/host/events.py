"""Asynchronous events of a remote controller, and the log pages with their details."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from .. import logs, wire
from ..wire import CommandError, LogPage

EVENT_PAUSE_S = 0.01
"""The pause between events. It keeps a controller that answers every request at once from taking all our time."""
ZONE_EVENT_PAUSE_S = 0.1
"""The pause after an event about zones. Changes in that time are in the same log page."""
ZONE_LOG_READS = 3
"""The attempts to read a changed-zones log. Until one succeeds, the controller sends no further event about these
zones."""
EVENT_LOG_BYTES: dict[int, int] = {LogPage.ERROR: 64, LogPage.SMART: 512, LogPage.DISCOVERY: 1024}
"""The number of bytes to read from an event's log page; for others, one page."""


class GetLogPage(Protocol):
    """Controller.get_log_page()."""

    async def __call__(self, page: int, length: int, *, nsid: int = wire.NSID_ALL, csi: int = 0) -> bytearray: ...


@dataclass(frozen=True)
class AsyncEvent:
    """The result of an Asynchronous Event Request. changed_namespaces: [NSID_ALL] if there were too many.

    nsid and changed_zones are for EVENT_ZONES_CHANGED. changed_zones has the first blocks of the zones, unchecked;
    None: any zone may have changed. log_read: the log page could be read.
    """

    type: int
    info: int
    log_page: int
    changed_namespaces: tuple[int, ...] = ()
    nsid: int = 0
    changed_zones: tuple[int, ...] | None = ()
    log_read: bool = False

    @property
    def of_zones(self) -> bool:
        return self.type | self.info << 8 | self.log_page << 16 == wire.EVENT_ZONES_CHANGED


async def read_event_log(get_log_page: GetLogPage, event: AsyncEvent) -> AsyncEvent:
    try:
        log = await get_log_page(event.log_page, EVENT_LOG_BYTES.get(event.log_page, wire.PAGE_BYTES))
    except CommandError:
        return event
    changed = logs.parse_changed_namespaces(log) if event.log_page == LogPage.CHANGED_NAMESPACES else ()
    return replace(event, changed_namespaces=tuple(changed), log_read=True)


async def read_zone_log(get_log_page: GetLogPage, event: AsyncEvent, nsid: int) -> AsyncEvent:
    unread = replace(event, nsid=nsid, changed_zones=None)
    if not 1 <= nsid <= wire.NSID_MAX:
        return unread
    for _ in range(ZONE_LOG_READS):
        try:
            log = await get_log_page(LogPage.CHANGED_ZONES, wire.PAGE_BYTES, nsid=nsid, csi=wire.CSI_ZNS)
        except CommandError as error:
            if error.do_not_retry:
                break
            await asyncio.sleep(ZONE_EVENT_PAUSE_S)
        else:
            # An empty list after an event: an earlier read has cleared the log, but its data was lost.
            starts = logs.parse_changed_zones(log)
            return replace(unread, changed_zones=tuple(starts) if starts else None, log_read=True)
    return unread
