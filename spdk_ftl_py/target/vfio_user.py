"""Exports of the target over vfio-user: endpoints in this process, without keepers, as spdk_tgt has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ..errors import NotFoundError
from ..nvme.target.subsystem import Subsystem
from ..nvme.target.traits import TargetLimits
from ..runtime.reactor import ReactorLoop
from ..vfio_user.target.listener import VfioUserListener

TRTYPE: Final = "VFIOUSER"
ADRFAM: Final = "unknown"
"""What spdk_tgt shows for a transport without addresses of a network."""
DEFAULTS: Final[dict[str, Any]] = {
    "trtype": TRTYPE, "max_queue_depth": 256, "max_io_qpairs_per_ctrlr": 127, "in_capsule_data_size": 0,
    "max_io_size": 131072, "max_aq_depth": 32, "iobuf_small_cache_size": 0, "iobuf_large_cache_size": 0,
    "dif_insert_or_strip": False, "zcopy": False, "abort_timeout_sec": 0, "ack_timeout": 0, "data_wr_pool_size": 0,
    "disable_command_passthru": False, "kas": 100, "min_kato": 10000,
}  # fmt: skip


class VfioUserEndpoints:
    """Of one target."""

    def __init__(self, reactor: ReactorLoop, transport: dict[str, Any]) -> None:
        """transport: DEFAULTS with its options."""
        self._reactor = reactor
        self._limits = TargetLimits(
            max_io_bytes=transport["max_io_size"], in_capsule_bytes=0, max_queue_depth=transport["max_queue_depth"],
            max_io_qpairs=transport["max_io_qpairs_per_ctrlr"],
        )  # fmt: skip
        self._listeners: dict[tuple[str, str], VfioUserListener] = {}
        """By directory and NQN."""

    async def listen(self, subsystem: Subsystem, directory: str) -> None:
        """Raises FtlError, also for a directory that is missing."""
        if not Path(directory).is_dir():  # noqa: ASYNC240 (a moment)
            raise NotFoundError(f"directory {directory} does not exist: make it")
        listener = VfioUserListener(self._reactor, subsystem, Path(directory), self._limits, keeper=False)
        await listener.start()
        self._listeners[directory, subsystem.nqn] = listener

    async def unlisten(self, subsystem: Subsystem, directory: str) -> None:
        """Ends the connection of its client."""
        listener = self._listeners.pop((directory, subsystem.nqn), None)
        if listener is not None:
            await listener.stop()
