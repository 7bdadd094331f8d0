"""The list of hosts to notify of lost writes: what has to be done about it repeatedly while an FTL runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from ..errors import FtlError
from ..nvme.target.connected_hosts import ConnectedHosts, HostKey
from ..runtime.pulse import beat

ALARM_POLL_S: Final = 0.5
"""The interval in which the daemon checks whether an alarm was delivered, that is, whether the Flush has failed."""
CROWD_POLL_S: Final = 1.0
"""The interval in which the daemon checks whether hosts that have left fill the list."""


async def settle_alarms(hosts: ConnectedHosts) -> None:
    """Returns when no alarm is left. The shim fails a Flush without reporting it."""
    while hosts.alarmed:
        await asyncio.sleep(ALARM_POLL_S)
        hosts.settle()


async def make_room(
    hosts: ConnectedHosts, present: Callable[[], Collection[HostKey]], make_durable: Callable[[], Awaitable[None]]
) -> None:
    """Runs until it is cancelled. Hosts that have left may have writes that are not durable, so they stay in the list.
    If there are many of them, their writes are made durable, and the hosts are removed: otherwise the list is full, and
    new hosts are refused.

    present: hosts that have an association. make_durable: raises FtlError if that is not possible; then no host is
    removed.
    """
    while True:
        if not hosts.crowded:
            await hosts.came.wait()
            hosts.came.clear()
            continue
        await beat(CROWD_POLL_S)
        gone = hosts.gone(present()) if hosts.crowded else {}
        if not gone:
            continue
        with contextlib.suppress(FtlError):
            await make_durable()
            hosts.forget(gone)
