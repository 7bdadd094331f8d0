"""Asynchronous events of a remote controller, and the log pages that say more of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from .. import logs, wire
from ..wire import CommandError, LogPage

EVENT_PAUSE_S = 0.01
"""Between events, so that a controller that answers every request at once does not keep us busy."""
ZONE_EVENT_PAUSE_S = 0.1
"""Behind an event of zones: what changes meanwhile stands in one log page."""
ZONE_LOG_READS = 3
"""Of a log page that can't be read: without one that can, the controller sends no further event of these zones."""
EVENT_LOG_BYTES: dict[int, int] = {LogPage.ERROR: 64, LogPage.SMART: 512, LogPage.DISCOVERY: 1024}
"""How much of an event's log page to read; the others are a page long."""


class GetLogPage(Protocol):
    """Controller.get_log_page()."""

    async def __call__(self, page: int, length: int, *, nsid: int = wire.NSID_ALL, csi: int = 0) -> bytearray: ...


@dataclass(frozen=True)
class AsyncEvent:
    """What an Asynchronous Event Request came back with. changed_namespaces: [NSID_ALL] when there were too many.

    nsid and changed_zones (their first blocks, as the controller says them): of EVENT_ZONES_CHANGED; None: it may be
    any zone. log_read: its log page could be read.
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
            # Behind an event a list without a zone is one that a read before has cleared, and did not bring.
            starts = logs.parse_changed_zones(log)
            return replace(unread, changed_zones=tuple(starts) if starts else None, log_read=True)
    return unread
