"""How a target reaches the FTL that it has as a bdev: by NVMe/TCP, or by vfio-user (shared memory). See
docs/vfio-user.md, "The daemon"."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol

from ..errors import ParameterError
from ..nvme.target.subsystem import Subsystem
from ..spdk.attach import ExportPath
from .requests import FtlOptions

SOCKET_PATH_MAX: Final = 107
"""Bytes in the path of a unix socket (sun_path, without its final zero)."""
LONGEST_SOCKET: Final = "keeper"
"""The longer name of the two sockets in an endpoint."""
NO_VFIO_USER: Final = "give transport tcp or auto"

log = logging.getLogger(__name__)


class TransportName(str, Enum):
    """As in conf and options."""

    AUTO = "auto"
    TCP = "tcp"
    VFIO_USER = "vfio-user"


class Transport(Protocol):
    """The target's way to an FTL. open(); then close(), also if that has failed."""

    name: TransportName

    @property
    def path(self) -> ExportPath:
        """After open()."""

    @property
    def alive(self) -> bool:
        """A controller that the target has attached by that path may still work. False: the target has to attach the
        FTL again, and may not notice that by itself."""

    async def open(self, subsystem: Subsystem) -> None:
        """The target can connect from now on. Raises FtlError."""

    async def renew(self) -> None:
        """The target has nothing of the FTL now, and is about to attach it. Raises FtlError."""

    async def wait_changed(self, most_s: float) -> None:
        """Until `alive` may have changed since the last call, or for most_s."""

    async def close(self, *, keep: bool) -> None:
        """keep: the FTL stays in the target, for the next daemon. Idempotent."""

    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""


class Choice:
    """The transport by which the target reaches one FTL, from the options and from what is possible. The choice is made
    once, when the FTL is created or loaded; restarts of the daemon do not change it."""

    def __init__(self, options: FtlOptions, default: TransportName, folder: Path | None, before: object) -> None:
        """default: if nothing is asked for this FTL. folder: the FTL's endpoint; None: the daemon has no place for
        endpoints. before: of an earlier daemon, as to_record() returns it; None: there is none. Raises ParameterError
        if vfio-user is asked for, and impossible."""
        self.asked = TransportName(options.transport) if options.transport else default
        self.folder = folder
        self.now = TransportName.TCP
        if before is not None:
            self.now = TransportName(before)
            if self.now is TransportName.VFIO_USER and folder is None:
                self.now = TransportName.TCP
            return
        if self.asked is TransportName.TCP:
            return
        obstacle = _obstacle(options, folder)
        if obstacle is None:
            self.now = TransportName.VFIO_USER
        elif self.asked is TransportName.VFIO_USER and (options.transport or not options.no_attach):
            raise ParameterError(f"transport vfio-user is impossible: {obstacle}: {NO_VFIO_USER}")
        else:
            log.info("%s: the target reaches it by NVMe/TCP, because %s", options.name, obstacle)

    @property
    def by_vfio_user(self) -> bool:
        return self.now is TransportName.VFIO_USER

    @property
    def may_fall_back(self) -> bool:
        """NVMe/TCP is allowed if the target can't use vfio-user."""
        return self.asked is TransportName.AUTO and self.by_vfio_user

    def fall_back(self) -> None:
        self.now = TransportName.TCP

    def to_record(self) -> str:
        return self.now.value


def _obstacle(options: FtlOptions, folder: Path | None) -> str | None:
    """Why the target can't reach the FTL by vfio-user, as far as that is known without asking it."""
    if options.no_attach:
        return "with no_attach the target does not attach the FTL"
    if options.secure_channel or options.target_psk:
        return "TLS (secure_channel, target_psk) needs NVMe/TCP"
    if not options.target.startswith("/"):
        return f"the SPDK target at {options.target} may be on another machine (its RPC socket is not a unix socket)"
    if folder is None:
        return "this daemon has no directory for endpoints"
    too_long = len(str(folder / LONGEST_SOCKET).encode()) - SOCKET_PATH_MAX
    if too_long > 0:
        return (
            f"the path of its endpoint {folder} is {too_long} bytes too long for a unix socket (a shorter --state-dir "
            "helps)"
        )
    return None
