"""RPCs about the NBD exports of FTLs."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import BusyError, FtlError
from .device import ManagedDevice
from .requester import caller, requester
from .requests import DevicesRequest, FtlRequest, NbdStartRequest, takes
from .server import Method
from .states import DeviceState

Find = Callable[[FtlRequest], ManagedDevice]
Choose = Callable[[DevicesRequest], Iterable[ManagedDevice]]

log = logging.getLogger(__name__)


class NbdRpcs:
    """``methods``, by RPC name, for the registry."""

    def __init__(self, find: Find, find_to_change: Find, choose: Choose) -> None:
        self._find = find
        self._find_to_change = find_to_change
        self._choose = choose

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "bdev_ftl_nbd_start": takes(NbdStartRequest, self.start),
            "bdev_ftl_nbd_stop": takes(FtlRequest, self.stop),
            "bdev_ftl_nbd_get": takes(DevicesRequest, self.get),
        }

    async def start(self, request: NbdStartRequest) -> dict[str, Any]:
        """The new export, as get() lists it. Raises what FtlNbd.start() raises, and BusyError if the FTL can't be
        served yet, or has failed."""
        device = self._find_to_change(request)
        gate = device.front.gate
        if gate is None or device.state not in (DeviceState.ONLINE, DeviceState.WAITING):
            reason = f": {device.error}" if device.error else ""
            raise BusyError(f"FTL bdev {device.name} is {device.state.value}{reason}; it can't be served by NBD now")
        follow = caller() if request.follow else None
        if request.follow and follow is None:
            raise FtlError("the process that the NBD export should follow has disconnected", errno=errno.ESRCH)
        started = await device.front.nbd.start(
            gate, lambda: device.name, Path(request.socket_path), read_only=request.read_only, follow=follow
        )
        mode = ", read-only" if request.read_only else ""
        log.info("%s: served by NBD at %s%s, asked for by %s", device, started["socket_path"], mode, requester())
        return {**_whose(device), **started}

    async def stop(self, request: FtlRequest) -> bool:
        device = self._find(request)
        # The requester may have disconnected: the export ends anyway.
        await asyncio.shield(asyncio.ensure_future(device.front.nbd.stop(device.name)))
        log.info("%s: no longer served by NBD, asked for by %s", device, requester())
        return True

    async def get(self, request: DevicesRequest) -> list[dict[str, Any]]:
        entries = []
        for device in self._choose(request):
            export = device.front.nbd.describe()
            if export is not None:
                entries.append({**_whose(device), **export})
        return entries


def _whose(device: ManagedDevice) -> dict[str, Any]:
    return {"name": device.name, "uuid": str(device.uuid), "target": device.target}
