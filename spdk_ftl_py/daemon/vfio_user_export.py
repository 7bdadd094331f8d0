"""An FTL's export over vfio-user: an endpoint that one client of this machine, the target, attaches."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

from ..access.paths import open_directory
from ..nvme.target.subsystem import Subsystem
from ..runtime.pulse import on_beat
from ..runtime.reactor import ReactorLoop
from ..spdk.attach import ExportPath, by_vfio_user
from ..vfio_user.target.keeper import DAEMON_SOCKET, END_MESSAGE
from .transports import TransportName

FOLDER: Final = "vfio"
"""The directory of all endpoints, in the state directory. The name is short, because paths of sockets are."""

KEEPER_TIMEOUT_S: Final = 5.0

log = logging.getLogger(__name__)


def endpoint_of(folder: Path, device: UUID) -> Path:
    """The endpoint of an FTL: not its uuid, because a path of a socket has at most 107 bytes."""
    return folder / hashlib.blake2b(device.bytes, digest_size=6).hexdigest()


class Listener(Protocol):
    """The part of VfioUserListener that is needed here."""

    changed: Callable[[], object] | None
    """Called when connected changes, or the keeper is gone."""

    async def start(self) -> None: ...
    async def stop(self, *, keep: bool = False) -> None: ...
    @property
    def connected(self) -> bool: ...
    @property
    def alive(self) -> bool:
        """Its keeper is there."""

    def describe(self) -> dict[str, Any]: ...


class VfioUserExport:
    """A Transport. Its endpoint outlives the daemon: see docs/vfio-user.md, "The keeper"."""

    name = TransportName.VFIO_USER

    def __init__(
        self,
        reactor: Callable[[], ReactorLoop],
        folder: Path,
        nqn: str,
        listen: Callable[[ReactorLoop, Subsystem, Path], Listener],
        changed: Callable[[], object],
    ) -> None:
        """folder: the endpoint. listen: makes the listener, which was not started. changed: called when `alive` may
        have changed."""
        self.folder = folder
        self._reactor = reactor
        self._nqn = nqn
        self._listen = listen
        self._subsystem: Subsystem | None = None
        self._listener: Listener | None = None
        self._on_change = changed
        self._changed = asyncio.Event()

    def prepare(self) -> None:
        """Makes the directory. Raises FtlError if that is impossible, or others have access to it."""
        for folder in (self.folder.parent, self.folder):
            os.close(open_directory(folder, "directory of vfio-user endpoints", "give another --state-dir", make=True))

    @property
    def path(self) -> ExportPath:
        return by_vfio_user(self.folder, self._nqn)

    @property
    def alive(self) -> bool:
        return self._listener is not None and self._listener.connected

    async def open(self, subsystem: Subsystem) -> None:
        """If a keeper holds the endpoint, its client goes on. Raises FtlError."""
        if self._listener is not None:
            return
        self._subsystem = subsystem
        self.prepare()
        listener = self._listen(self._reactor(), subsystem, self.folder)
        await listener.start()
        self._listener = listener
        listener.changed = self._tell

    def _tell(self) -> None:
        self._changed.set()
        self._on_change()

    async def renew(self) -> None:
        """If the keeper is gone, another one is started."""
        listener = self._listener
        if listener is None or listener.alive:
            return
        assert self._subsystem is not None
        log.warning("vfio-user endpoint %s: its keeper has ended: starting another one", self.folder)
        self._listener = None
        await listener.stop()
        await self.open(self._subsystem)

    async def wait_changed(self, most_s: float) -> None:
        """Until `alive` may have changed since the last call, or for most_s."""
        end = on_beat(most_s, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            end()
        self._changed.clear()

    async def close(self, *, keep: bool) -> None:
        listener, self._listener = self._listener, None
        try:
            if listener is not None:
                listener.changed = None
                await listener.stop(keep=keep)
        finally:
            if not keep:
                remove_endpoint(self.folder)

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""
        return {"endpoint": str(self.folder)}


def remove_endpoint(folder: Path) -> None:
    """Removes an endpoint that nobody needs. Its keeper ends."""
    end_keeper(folder)
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("vfio-user endpoint %s can't be removed: %s", folder, error.strerror)


def end_keeper(folder: Path) -> None:
    """Ends the keeper of an endpoint that this daemon does not serve. Its client's connection ends. Idempotent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link, contextlib.suppress(OSError):
        link.settimeout(KEEPER_TIMEOUT_S)
        link.connect(str(folder / DAEMON_SOCKET))
        link.send(END_MESSAGE)
        # Until it has: then its client's connection has ended, too.
        link.recv(1)


def remove_stray_endpoints(folder: Path | None, devices: Collection[UUID]) -> None:
    """Removes the endpoints of all FTLs but those, for example of FTLs that were deleted just before a crash."""
    if folder is None:
        return
    wanted = {endpoint_of(folder, device) for device in devices}
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for each in found:
        if each not in wanted:
            log.info("vfio-user endpoint %s belongs to no FTL: removed", each)
            remove_endpoint(each)
