"""Objects that deleted FTLs have left in their targets. The daemon undoes them as soon as it can."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from typing import Any
from uuid import UUID

from ..errors import FtlError
from ..spdk.attach import detach
from ..spdk.exports import bdev_nqn, remove_subsystem
from ..spdk.rpc import is_gone
from ..spdk.saved_config import OwnFtl
from .base import DaemonIdentity
from .device import DeviceState
from .ending import PROBE_TIMEOUT_S
from .session_keys import drop_all
from .vfio_user_export import endpoint_of, remove_endpoint

log = logging.getLogger(__name__)


class Orphans:
    """The orphans of one daemon."""

    def __init__(self, identity: DaemonIdentity) -> None:
        self._identity = identity
        self.records: list[dict[str, Any]] = []
        """Records of deleted devices whose objects in the target could not be removed yet."""
        self._undoing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One lock for each target. Without it, one creation could repeat the undo of another one after that has made
        its new export."""

    def leave_behind(self, record: dict[str, Any]) -> None:
        """Keeps the record, so that this daemon or a later one undoes it in the target."""
        self.records.append({**record, "state": DeviceState.DELETING.value})

    def left_in(self, target: str) -> list[OwnFtl]:
        """Deleted FTLs that have left objects in that target."""
        mine = [each for each in self.records if each["target"] == target]
        return [OwnFtl(each["name"], UUID(each["uuid"]), (each.get("export") or [None])[0]) for each in mine]

    async def undo(self, target: str) -> None:
        """Undoes what is left in the target. What fails now is retried before the next creation on that target."""
        async with self._undoing[target]:
            with contextlib.suppress(FtlError):
                # What a scan has left there would keep an FTL from claiming its base.
                await self._identity.prober.clean(self._identity.rpc(target))
            for record in [each for each in self.records if each["target"] == target]:
                rpc = self._identity.rpc(target)
                device = UUID(record["uuid"])
                try:
                    await rpc.call("spdk_get_version", timeout_s=PROBE_TIMEOUT_S)
                    if self._identity.endpoint_dir is not None:
                        remove_endpoint(endpoint_of(self._identity.endpoint_dir, device))
                    await detach(rpc, name=record["name"], device=device, served=False)
                    for role in ("cache", "base"):
                        await remove_subsystem(rpc, bdev_nqn(role, device))
                    await drop_all(rpc, self._identity.key_dir, device, record["params"].get("target_psk"))
                except FtlError as error:
                    log.warning("%s: can't remove what is left of it in its target: %s", record["name"], error)
                    if not is_gone(error):
                        continue
                self.records.remove(record)
