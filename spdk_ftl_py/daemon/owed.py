"""Hosts that may be owed the truth after a crash: what has to be done about them again and again while an FTL runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from ..errors import FtlError
from ..nvme.target.connected_hosts import ConnectedHosts, HostKey

ALARM_POLL_S: Final = 0.5
"""How soon it is noticed that a Flush has failed as it had to."""
CROWD_POLL_S: Final = 1.0
"""How soon it is noticed that hosts which are gone crowd out others."""


async def settle_alarms(hosts: ConnectedHosts) -> None:
    """Returns when no alarm is left. The shim lets a Flush fail and tells nobody."""
    while hosts.alarmed:
        await asyncio.sleep(ALARM_POLL_S)
        hosts.settle()


async def make_room(
    hosts: ConnectedHosts, present: Callable[[], Collection[HostKey]], make_durable: Callable[[], Awaitable[None]]
) -> None:
    """Until it is cancelled. Hosts that are gone may have written what is not durable, so they are remembered. Where
    they get many it is made durable, and they are forgotten: newcomers are refused where there is no room.

    present: hosts that have an association. make_durable: raises FtlError where it can't; nobody is forgotten then.
    """
    while True:
        await asyncio.sleep(CROWD_POLL_S)
        gone = hosts.gone(present()) if hosts.crowded else {}
        if not gone:
            continue
        with contextlib.suppress(FtlError):
            await make_durable()
            hosts.forget(gone)
