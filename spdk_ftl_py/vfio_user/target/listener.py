"""Serves a subsystem at an endpoint of vfio-user: docs/vfio-user.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from ...access.paths import open_directory
from ...access.unix_sockets import PATH_BYTES_MAX
from ...errors import ParameterError
from ...nvme.target.connected_hosts import HostKey
from ...nvme.target.subsystem import Subsystem
from ...nvme.target.traits import TargetLimits
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import to_its_end
from .keeper import CLIENT_SOCKET, DAEMON_SOCKET
from .kept_endpoint import KeptEndpoint
from .own_endpoint import OwnEndpoint
from .queues import ShimQueues
from .registers import capabilities
from .serving import Serving


def client_key(directory: Path) -> HostKey:
    """The host that stands for clients of an endpoint, which have no names of their own."""
    name = uuid5(NAMESPACE_URL, f"vfio-user:{directory}")
    return HostKey(f"nqn.2014-08.org.nvmexpress:uuid:{name}", name.bytes)


class VfioUserListener:
    """Serves the namespaces of a Subsystem at an endpoint, through a keeper or in this process."""

    def __init__(
        self,
        reactor: ReactorLoop,
        subsystem: Subsystem,
        directory: Path,
        limits: TargetLimits,
        *,
        keeper: bool,
        host: HostKey | None = None,
    ) -> None:
        """reactor: that of the devices. directory: made if it is missing, with mode 0700; its parent exists. limits:
        in_capsule_bytes has no meaning here. keeper: the endpoint outlives this process. host: who the client
        is for reservations and lost writes, because it does not name itself; None: a name made from the directory.

        Raises ParameterError if the paths of its sockets would be too long.
        """
        self.directory = directory.absolute()
        self.changed: Callable[[], object] | None = None
        """Called when connected changes, or the keeper is gone."""
        longest = self.directory / max(CLIENT_SOCKET, DAEMON_SOCKET, key=len)
        if len(os.fsencode(longest)) > PATH_BYTES_MAX:
            raise ParameterError(
                f"vfio-user endpoint {self.directory}: the path {longest} of its socket is longer than "
                f"{PATH_BYTES_MAX} bytes: give a shorter directory"
            )
        self._reactor = reactor
        self._subsystem = subsystem
        self._limits = limits
        self._keeper = keeper
        self._host = host or client_key(self.directory)
        self._endpoint: KeptEndpoint | OwnEndpoint | None = None
        self._serving: Serving | None = None
        self._was_connected = False
        self._alive = False

    @property
    def connected(self) -> bool:
        """A client has enabled the controller."""
        return self._alive and self._serving is not None and self._serving.connected

    @property
    def alive(self) -> bool:
        """It was started, and its keeper is there."""
        return self._alive

    async def start(self) -> None:
        """With a keeper: takes over what that holds; its client goes on at once. Raises FtlError if the directory is in
        use, or can't be; nothing is left then. Not while it is started."""
        assert self._endpoint is None
        descriptor = open_directory(
            self.directory, "directory of the vfio-user endpoint", "give the endpoint another directory", make=True
        )
        os.close(descriptor)
        cap = capabilities(self._limits.max_queue_depth, zoned=self._subsystem.zoned)
        endpoint = KeptEndpoint(self.directory, cap, self._lost) if self._keeper else OwnEndpoint(self.directory, cap)
        serving = Serving(
            self._reactor, self._subsystem, self._limits, host=self._host, directory=self.directory, port=endpoint,
            maker=ShimQueues(self._reactor, self._limits.max_io_bytes), on_change=self._tell,
        )  # fmt: skip
        self._endpoint, self._serving, self._alive = endpoint, serving, True
        try:
            if isinstance(endpoint, KeptEndpoint):
                await endpoint.begin(serving)
                # From now on `connected` tells of a client that was taken over.
                await serving.settled()
            else:
                endpoint.begin(serving)
        except BaseException:
            await to_its_end(self.stop(keep=True))
            raise

    async def stop(self, *, keep: bool = False) -> None:
        """Returns when nothing of the client is in use. keep: the keeper goes on, for the next daemon, and the client
        waits meanwhile; otherwise its connection ends. Idempotent."""
        endpoint, self._endpoint = self._endpoint, None
        self._alive = False
        if endpoint is not None:
            await endpoint.close(keep=keep)
        if self._serving is not None:
            await self._serving.close()
            self._serving = None
        self._tell()

    def describe(self) -> dict[str, Any]:
        """The endpoint, and its client's controller. Waits for the reactor, a moment for each I/O queue."""
        endpoint, controller = self._endpoint, None if self._serving is None else self._serving.controller
        return {
            "directory": str(self.directory),
            "keeper_pid": endpoint.pid if isinstance(endpoint, KeptEndpoint) else None,
            "connected": self.connected,
            "controller": None if controller is None else controller.describe(),
        }

    def _lost(self) -> None:
        """The keeper is gone, and the client's connection with it. The client does not notice that, and its queues are
        served until stop(): SPDK's initiator waits for the deletion of its queues when it is told to detach the
        controller, and does nothing else meanwhile."""
        self._alive = False
        if self.changed is not None:
            self.changed()

    def _tell(self) -> None:
        connected = self.connected
        if connected != self._was_connected:
            self._was_connected = connected
            if self.changed is not None:
                self.changed()
