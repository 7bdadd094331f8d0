"""Orders for a device that is online: trim, another name, another cache, other settings."""

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

    def require_running(self, what: str) -> None:
        """what: as in Change. Raises BusyError."""
        if self.ftl is None or self.state is not DeviceState.ONLINE or self.ftl.state is not FtlState.RUNNING:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {describe(self)['state']}{reason}; {what} has to wait")

    async def change(self, change: Change) -> None:
        """Halts the FTL cleanly, and loads it again with the change. Hosts notice a pause. Returns when the FTL runs
        again.

        Raises BusyError if it does not run now, or another change is in progress; otherwise the error of the halt or
        load: then the FTL is unchanged, or waits for its base.
        """
        self.require_running(change.what)
        if self.no_data:
            raise ParameterError(
                f"FTL bdev {self.name} was created with no_data, so it can't be loaded again with a change: delete "
                "it, and create it again"
            )
        FtlConf.from_dict(given_settings(change.applied(self.params))).check()
        await self.changes.ask(change)

    async def trim(self, lba: int, block_count: int) -> None:
        """Raises what Front.trim() raises."""
        await self.front.run_own(self.front.trim(lba, block_count))

    async def scrub_cache(self, cache: Bdev, *, force: bool) -> None:
        """Claims the bdev and makes it the FTL's cache, while the FTL runs without it; a following change adds it.
        Raises ExistsError if it holds somebody's data, and FtlError; then the bdev is released."""
        await self.front.run_own(self.link.scrub_cache(self.front.reactor, cache, force=force))

    async def require_unclaimed_cache(self, cache: Bdev) -> None:
        await self.link.require_unclaimed(cache, "cache")

    def turn_in_target(self) -> asyncio.Lock:
        """Held by whoever changes the FTL's bdev in the target."""
        return self.kept_bdev.turn

    async def rename(self, name: str, take: Callable[[str], None]) -> None:
        """take(name) sets the name in the daemon, and is called again to undo that. The target gets the new name if
        nothing is built on the bdev. Raises ClaimedError, ExistsError, TargetError, or the error of saving: then the
        FTL keeps its name, though it may not be attached yet."""
        async with self.kept_bdev.turn:
            assert self.ftl is not None
            if self.state is not DeviceState.ONLINE:
                raise BusyError(f"FTL bdev {self.name} is {self.state.value}; it can't be renamed now")
            attached = not self.options.no_attach
            if attached and self.kept_bdev.now is None:
                raise BusyError(
                    f"FTL bdev {self.name} is not attached to its target now, and the daemon is attaching it: try "
                    "again when ftl_get_devices shows it as attached"
                )
            if self.dependents.pending:
                raise BusyError(
                    f"FTL bdev {self.name}: the daemon is recreating what is built on it; it can't be renamed now"
                )
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
        """For bdev_ftl_get_stats. Raises BusyError if there is no FTL yet."""
        if self.ftl is None:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it has no statistics")
        return {"name": self.name, **self.ftl.stats(), **self.front.host_io()}

    def scrub(self, *, stop: bool) -> dict[str, Any]:
        """For bdev_ftl_scrub. Raises BusyError if the FTL can't read now."""
        if self.ftl is None or self.state is not DeviceState.ONLINE:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it can't be scrubbed now")
        return {"name": self.name, **self.ftl.order_scrub(stop=stop)}
