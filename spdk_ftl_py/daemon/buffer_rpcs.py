"""RPCs about leftover write buffer files, of FTLs that no process serves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from ..errors import BusyError, FtlError, NotFoundError
from ..ftl.load.write_buffer_file import BufferFile, BufferFiles, buffer_files, in_use
from .devices import Devices
from .requester import requester
from .requests import BuffersRequest, takes
from .server import Method

log = logging.getLogger(__name__)


class BufferRpcs:
    """``methods``, by RPC name, for the registry."""

    def __init__(self, devices: Devices, directory: Path | None) -> None:
        self._devices = devices
        self._directory = directory

    @property
    def methods(self) -> dict[str, Method]:
        return {"ftl_remove_buffers": takes(BuffersRequest, self.remove_buffers)}

    def unneeded(self) -> list[BufferFile]:
        """Write buffer files of FTLs that this daemon does not know in any state, and that no other process serves."""
        directory = self._directory
        if directory is None:
            return []
        known = {device.uuid for device in self._devices.values()}
        return [each for each in buffer_files(directory) if each.uuid not in known and not in_use(directory, each.uuid)]

    async def remove_buffers(self, request: BuffersRequest) -> dict[str, Any]:
        """Removes all requested files, or none. Returns {"removed": as in ftl_get_daemon}."""
        directory = self._directory
        chosen = self.unneeded()
        if request.uuid is not None:
            chosen = [each for each in chosen if each.uuid == request.uuid]
            if not chosen:
                raise self._no_such_buffer(request.uuid)
        held = [each for each in chosen if not each.holds_nothing]
        if held and not request.force:
            raise BusyError(
                f"acknowledged writes may be only in these files, {'; '.join(map(str, held))}: load the FTL with "
                "bdev_ftl_create -u UUID, or give --force to lose the writes; nothing was removed"
            )
        for each in chosen:
            assert directory is not None
            files = BufferFiles.acquire(directory, each.uuid)
            try:
                files.remove()
            finally:
                files.release()
            log.info("removed a write buffer with %s, asked for by %s", each, requester())
        return {"removed": [each.to_dict() for each in chosen]}

    def _no_such_buffer(self, uuid: UUID) -> FtlError:
        owner = next((device for device in self._devices.values() if device.uuid == uuid), None)
        if owner is not None:
            return BusyError(f"write buffer of {uuid}: FTL bdev {owner.name} ({owner.state.value}) needs it")
        directory = self._directory
        if directory is not None and in_use(directory, uuid):
            return BusyError(f"write buffer of {uuid}: another process serves that FTL")
        return NotFoundError(f"write buffer of {uuid}: there is none in {directory}")
