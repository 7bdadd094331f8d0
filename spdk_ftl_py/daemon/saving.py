"""Keeps the state file up to date."""

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
    """save() is for changes that must be on disk before they take effect; save_for_sure() for those that have already
    happened."""

    def __init__(
        self, state: StateDirectory, devices: Devices, orphans: Orphans, sockets: ExportSockets | None
    ) -> None:
        """sockets: of exports. Kept for the FTLs in the state file."""
        self._state = state
        self._devices = devices
        self._orphans = orphans
        self._sockets = sockets
        self._saving: asyncio.Task[None] | None = None
        """Retries until the state file is up to date."""

    def save(self) -> None:
        """Writes the state file. Raises FtlError."""
        records = self._records()
        self._state.save([*self._orphans.records, *records])
        self.keep_sockets(records)

    def keep_sockets(self, records: list[dict[str, Any]]) -> None:
        if self._sockets is not None:
            self._sockets.keep_only({UUID(record["uuid"]) for record in records})

    def save_for_sure(self) -> FtlError | None:
        """Saves what has already happened. Returns the error if that fails; the daemon then retries until it
        succeeds."""
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
        """Ends the retries."""
        if self._saving is not None:
            await end_tasks([self._saving])

    def require_room_for_host(self) -> None:
        """Raises BusyError if the state file has no room for another host."""
        if self._state.crowded:
            raise BusyError(
                "the FTLs of this daemon have too many hosts for its state file: delete FTLs, or serve some of them "
                "with another daemon"
            )

    def _records(self) -> list[dict[str, Any]]:
        return [device.record() for device in self._devices.values() if worth_keeping(device)]
