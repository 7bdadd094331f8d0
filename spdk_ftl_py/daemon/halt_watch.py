"""How a halt of the daemon moves on: for the log, and for the service manager."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from .device import ManagedDevice

TELL_EVERY_S: Final = 10.0
TOLD_MAX: Final = 4
"""FTLs in one line."""

log = logging.getLogger(__name__)


class HaltWatch:
    """One halt of all devices."""

    def __init__(self, devices: Callable[[], Collection[ManagedDevice]], on_status: Callable[[str], object]) -> None:
        """devices: those of the daemon now. on_status: gets the state of the halt in a line, now and then."""
        self._devices = devices
        self._on_status = on_status
        self._halted: set[ManagedDevice] = set()

    def halted(self, device: ManagedDevice) -> None:
        self._halted.add(device)

    def moves(self) -> object:
        """Changes while the halt moves on."""
        devices = self._devices()
        return len(devices), len(self._halted), sum(device.halt_moves for device in devices)

    async def run(self) -> None:
        """Tells how far the halt is, until it is cancelled."""
        while True:
            self._on_status(self.status())
            await asyncio.sleep(TELL_EVERY_S)
            log.info("%s", self.status())

    def status(self) -> str:
        """One line."""
        devices = self._devices()
        left = [device for device in devices if device not in self._halted]
        parts = [f"{device.name}: {device.progress or device.state.value}" for device in left[:TOLD_MAX]]
        if len(left) > TOLD_MAX:
            parts.append("…")
        return f"halting: {len(devices) - len(left)} of {len(devices)} FTLs are halted; {'; '.join(parts)}"
