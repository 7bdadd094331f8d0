"""An FTL on a drive that grows; its zones are its own, or emulated."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from spdk_ftl_py import _shim
from spdk_ftl_py.runtime.reactor import ReactorLoop
from unit.ftl.load.restore_rig import ZONE_CAPACITY, ZONE_SIZE, RestoreRig
from unit.shim.ftl.core_bench import content

ZONES, HIDDEN = 44, 22
END = ZONES * ZONE_SIZE


class GrowRig(RestoreRig):
    """On a drive that grows; its zones are its own, or emulated."""

    def __init__(self, reactor: ReactorLoop, drive: Any, *, emulated: bool) -> None:
        super().__init__(reactor, drive, random.Random(1))
        self.drive = drive
        self._emulated = emulated
        self.base = self.based(new=True)

    def based(self, *, new: bool = False) -> Any:
        if not self._emulated:
            return self.drive
        state = "empty" if new else "full"
        return _shim.ZonedOverlay(
            self.reactor.shim, self.drive, zone_capacity=ZONE_CAPACITY, max_open_zones=7, initial_state=state
        )

    async def load(self, **options: Any) -> None:
        self.base = self.based()
        await super().load(**options)
        model, more = self.model, self.device.block_count - self.model.block_count
        model.block_count += more
        # It reads as zeroes.
        model.history += [{0: 0} for _ in range(more)]
        model.completed += [0] * more
        model.durable += [0] * more

    @property
    def told(self) -> tuple[int, int]:
        return self.device.block_count, self.device.geometry.band_count

    async def fill(self, first: int) -> None:
        """To the end of the device."""
        for lba in range(first, self.device.block_count):
            change, version = self.model.submit(lba, 1, trim=False)
            await self.port.write(lba, content(lba, version))
            self.model.acknowledge(lba, 1, change, durable=False)


@contextlib.asynccontextmanager
async def grow_rig(reactor: ReactorLoop, *, emulated: bool = False) -> AsyncIterator[GrowRig]:
    if emulated:
        drive = _shim.EmulatedMedia.conventional(
            reactor.shim, END, volatile_cache=True, hidden_blocks=HIDDEN * ZONE_SIZE + 5
        )
    else:
        drive = _shim.EmulatedMedia.zns(
            reactor.shim, ZONES, ZONE_SIZE, ZONE_CAPACITY, max_open_zones=7, max_active_zones=9, hidden_zones=HIDDEN
        )
    drive.set_schedule(1)
    rig = GrowRig(reactor, drive, emulated=emulated)
    try:
        yield rig
    finally:
        await rig.end()
