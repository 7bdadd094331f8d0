"""What deleted FTLs have left in their targets: it is undone as soon as it can be."""

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

log = logging.getLogger(__name__)


class Orphans:
    """Of one daemon."""

    def __init__(self, identity: DaemonIdentity) -> None:
        self._identity = identity
        self.records: list[dict[str, Any]] = []
        """Records of devices that are no more, but whose remains in their target could not be undone yet."""
        self._undoing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By target: what one creation is undoing, another does not undo again behind the next export of that FTL."""

    def leave_behind(self, record: dict[str, Any]) -> None:
        """Whoever reads the state file next is to undo it in its target, and no more."""
        self.records.append({**record, "state": DeviceState.DELETING.value})

    def left_in(self, target: str) -> list[OwnFtl]:
        """FTLs that are no more, and have left something in that target."""
        mine = [each for each in self.records if each["target"] == target]
        return [OwnFtl(each["name"], UUID(each["uuid"]), (each.get("export") or [None])[0]) for each in mine]

    async def undo(self, target: str) -> None:
        """Those that can't be undone now stay, to be tried again before the next creation on that target."""
        async with self._undoing[target]:
            with contextlib.suppress(FtlError):
                # What a scan has left would keep a base from its FTL.
                await self._identity.prober.clean(self._identity.rpc(target))
            for record in [each for each in self.records if each["target"] == target]:
                rpc = self._identity.rpc(target)
                device = UUID(record["uuid"])
                try:
                    await rpc.call("spdk_get_version", timeout_s=PROBE_TIMEOUT_S)
                    await detach(rpc, name=record["name"], device=device)
                    for role in ("cache", "base"):
                        await remove_subsystem(rpc, bdev_nqn(role, device))
                    await drop_all(rpc, self._identity.key_dir, device, record["params"].get("target_psk"))
                except FtlError as error:
                    log.warning("%s: what is left of it in its target: %s", record["name"], error)
                    if not is_gone(error):
                        continue
                self.records.remove(record)
