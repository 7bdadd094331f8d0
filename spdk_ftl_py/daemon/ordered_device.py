"""What a device that is online can be told to do, beside its life: trim, another name, another cache, another conf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..conf import FtlConf, given_settings
from ..errors import BusyError, ParameterError, TargetError
from ..ftl.life import FtlState
from ..spdk.bdevs import Bdev
from .changes import Change
from .checks import check_name
from .description import describe
from .device_parts import DeviceParts
from .states import DeviceState


class OrderedDevice(DeviceParts):
    """The part of ManagedDevice that orders.py needs."""

    async def change(self, change: Change) -> None:
        """Halts the FTL cleanly, and loads it again, changed. Hosts notice a pause. Returns when it runs.

        Raises BusyError where it does not run now, or is being changed already; else what kept it from being halted or
        loaded so: then it is as it was, or waits for its base.
        """
        if self.ftl is None or self.state is not DeviceState.ONLINE or self.ftl.state is not FtlState.RUNNING:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {describe(self)['state']}{reason}; {change.what} has to wait")
        if self.no_data:
            raise ParameterError(f"FTL bdev {self.name} was made with no_data, so it can't be loaded again changed")
        FtlConf.from_dict(given_settings(change.applied(self.params))).check()
        await self.changes.ask(change)

    async def trim(self, lba: int, block_count: int) -> None:
        """Raises as Front.trim() does."""
        await self.front.run_own(self.front.trim(lba, block_count))

    async def scrub_cache(self, cache: Bdev, *, force: bool) -> None:
        """Claims it and makes it the FTL's, while that runs without: for a change that gives it to it. Raises
        ExistsError where somebody's data is on it, and FtlError; then it is let go of."""
        await self.front.run_own(self.link.scrub_cache(self.front.reactor, cache, force=force))

    async def require_unclaimed_cache(self, cache: Bdev) -> None:
        await self.link.require_unclaimed(cache, "cache")

    def turn_in_target(self) -> asyncio.Lock:
        """To be held by who changes its bdev in the target."""
        return self.kept_bdev.turn

    async def rename(self, name: str, take: Callable[[str], None]) -> None:
        """take(name) makes it its name here, and is called again to take that back. In the target it gets that name
        where nothing stands on it. Raises ClaimedError, ExistsError, TargetError, or what keeps it from being saved:
        then it has the name it had, if maybe not in the target yet."""
        async with self.kept_bdev.turn:
            assert self.ftl is not None
            if self.state is not DeviceState.ONLINE:
                raise BusyError(f"FTL bdev {self.name} is {self.state.value}; it can't be renamed now")
            attached = not self.options.no_attach
            if attached and self.kept_bdev.now is None:
                raise BusyError(
                    f"FTL bdev {self.name} is no bdev of its target now, which the daemon is about to mend: try again "
                    "when ftl_get_devices says that it is attached"
                )
            if self.dependents.pending:
                raise BusyError(f"FTL bdev {self.name}: what stands on it is being made again; it can't be renamed now")
            await check_name(self.target_rpc, name, self.uuid, before=self.name)
            await self.target_bdev.require_unused()
            before = self.name
            failures = await self.target_bdev.undo()
            self.kept_bdev.lost()
            try:
                if failures:
                    raise TargetError(f"FTL bdev {before}: not renamed: {failures[0][0]}: {failures[0][1]}")
                try:
                    self._take(name, take)
                    self.on_change()
                    await self.ftl.rename(name)
                except BaseException:
                    self._take(before, take)
                    self.on_change_behind()
                    raise
            finally:
                if attached and self.state is DeviceState.ONLINE:
                    await self.kept_bdev.try_attach(self.front)

    def _take(self, name: str, take: Callable[[str], None]) -> None:
        take(name)
        self.target_bdev.name = name
        self.dependents.renamed(name)
        self.admission.renamed(name)

    def stats(self) -> dict[str, Any]:
        """For bdev_ftl_get_stats. Raises BusyError where there is no FTL yet."""
        if self.ftl is None:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it has no statistics")
        return {"name": self.name, **self.ftl.stats()}

    def scrub(self, *, stop: bool) -> dict[str, Any]:
        """For bdev_ftl_scrub. Raises BusyError where nothing can be read now."""
        if self.ftl is None or self.state is not DeviceState.ONLINE:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it can't be scrubbed now")
        return {"name": self.name, **self.ftl.order_scrub(stop=stop)}
