"""The state file is kept as the FTLs are."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final
from uuid import UUID

from ..errors import BusyError, FtlError
from ..runtime.tasks import end_tasks
from .devices import Devices, worth_keeping
from .export_sockets import ExportSockets
from .orphans import Orphans
from .state import StateDirectory

SAVE_AGAIN_S: Final = 1.0

log = logging.getLogger(__name__)


class StateSaver:
    """save() what is to be known before it counts, save_for_sure() what has happened already."""

    def __init__(
        self, state: StateDirectory, devices: Devices, orphans: Orphans, sockets: ExportSockets | None
    ) -> None:
        """sockets: of exports, kept for the FTLs that are in the state file."""
        self._state = state
        self._devices = devices
        self._orphans = orphans
        self._sockets = sockets
        self._saving: asyncio.Task[None] | None = None
        """Retries until the state file is up to date."""

    def save(self) -> None:
        """Raises FtlError."""
        records = self._records()
        self._state.save([*self._orphans.records, *records])
        self.keep_sockets(records)

    def keep_sockets(self, records: list[dict[str, Any]]) -> None:
        if self._sockets is not None:
            self._sockets.keep_only({UUID(record["uuid"]) for record in records})

    def save_for_sure(self) -> FtlError | None:
        """Saves what has already happened. Returns why it can't be saved now; then the daemon retries until it can."""
        try:
            self.save()
        except FtlError as error:
            if self._saving is None or self._saving.done():
                self._saving = asyncio.create_task(self._save_until_done(), name="save the state")
            return error
        return None

    async def _save_until_done(self) -> None:
        while True:
            await asyncio.sleep(SAVE_AGAIN_S)
            try:
                self.save()
            except FtlError as error:
                log.debug("%s", error.message)
            else:
                log.info("the state file is up to date again")
                return

    async def end(self) -> None:
        """Nothing is tried again any more."""
        if self._saving is not None:
            await end_tasks([self._saving])

    def require_room_for_host(self) -> None:
        """Raises BusyError."""
        if self._state.crowded:
            raise BusyError(
                "the FTLs of this daemon have too many hosts for its state file: delete FTLs, or serve some of them "
                "with another daemon"
            )

    def _records(self) -> list[dict[str, Any]]:
        return [device.record() for device in self._devices.values() if worth_keeping(device)]
