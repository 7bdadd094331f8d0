"""Orders for a device that is online: trim, another name, another cache, other settings."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any
from uuid import UUID

from ..conf import FtlConf, given_settings
from ..errors import BusyError, FtlError, ParameterError, TargetError
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..spdk.bdevs import Bdev
from ..spdk.rpc import TargetRpc
from .admission import Admission
from .attaching import KeptBdev
from .base import BaseLink
from .changes import Change, Changes
from .checks import check_name
from .dependents import Dependents
from .front import Front
from .states import DeviceState
from .target_bdev import TargetBdev


class OrderedDevice(ABC):
    """The part of ManagedDevice that orders.py needs."""

    name: str
    uuid: UUID
    params: dict[str, Any]
    settings: dict[str, Any]
    conf: FtlConf
    no_data: bool
    error: str | None
    admission: Admission
    dependents: Dependents
    _changes: Changes
    ftl: FtlDevice | None
    _rpc: TargetRpc
    _front: Front
    _link: BaseLink
    _target_bdev: TargetBdev
    _bdev: KeptBdev
    on_change: Callable[[], None]
    on_change_behind: Callable[[], FtlError | None]

    @property
    @abstractmethod
    def state(self) -> DeviceState: ...
    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """For ftl_get_devices."""

    async def change(self, change: Change) -> None:
        """Halts the FTL cleanly, and loads it again with the change. Hosts notice a pause. Returns when the FTL runs
        again.

        Raises BusyError if it does not run now, or another change is in progress; otherwise the error of the halt or
        load: then the FTL is unchanged, or waits for its base.
        """
        if self.ftl is None or self.state is not DeviceState.ONLINE or self.ftl.state is not FtlState.RUNNING:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.describe()['state']}{reason}; {change.what} has to wait")
        if self.no_data:
            raise ParameterError(
                f"FTL bdev {self.name} was created with no_data, so it can't be loaded again with a change: delete "
                "it, and create it again"
            )
        FtlConf.from_dict(given_settings(change.applied(self.params))).check()
        await self._changes.ask(change)

    def set_params(self, params: dict[str, Any]) -> None:
        """Changes the dict in place, because other objects hold it too. Raises ConfError or ParameterError."""
        settings = given_settings(params)
        FtlConf.from_dict(settings).check()
        for mine, new in ((self.params, params), (self.settings, settings)):
            mine.clear()
            mine.update(new)

    def took_conf(self) -> None:
        """The FTL has a new value."""
        assert self.ftl is not None
        self.conf = self.ftl.conf
        self._front.set_io_channels(self.conf.max_io_channels)

    @property
    def target_rpc(self) -> TargetRpc:
        return self._rpc

    async def trim(self, lba: int, block_count: int) -> None:
        """Raises what Front.trim() raises."""
        await self._front.run_own(self._front.trim(lba, block_count))

    async def scrub_cache(self, cache: Bdev, *, force: bool) -> None:
        """Claims the bdev and makes it the FTL's cache, while the FTL runs without it; a following change adds it.
        Raises ExistsError if it holds somebody's data, and FtlError; then the bdev is released."""
        await self._front.run_own(self._link.scrub_cache(self._front.reactor, cache, force=force))

    async def require_unclaimed_cache(self, cache: Bdev) -> None:
        await self._link.require_unclaimed(cache, "cache")

    def turn_in_target(self) -> asyncio.Lock:
        """Held by whoever changes the FTL's bdev in the target."""
        return self._bdev.turn

    async def rename(self, name: str, take: Callable[[str], None]) -> None:
        """take(name) sets the name in the daemon, and is called again to undo that. The target gets the new name if
        nothing is built on the bdev. Raises ClaimedError, ExistsError, TargetError, or the error of saving: then the
        FTL keeps its name, though it may not be attached yet."""
        async with self._bdev.turn:
            assert self.ftl is not None
            if self.state is not DeviceState.ONLINE:
                raise BusyError(f"FTL bdev {self.name} is {self.state.value}; it can't be renamed now")
            attached = not self.params["no_attach"]
            if attached and self._bdev.now is None:
                raise BusyError(
                    f"FTL bdev {self.name} is not attached to its target now, and the daemon is attaching it: try "
                    "again when ftl_get_devices shows it as attached"
                )
            if self.dependents.pending:
                raise BusyError(
                    f"FTL bdev {self.name}: the daemon is recreating what is built on it; it can't be renamed now"
                )
            await check_name(self._rpc, name, self.uuid, before=self.name)
            await self._target_bdev.require_unused()
            before = self.name
            failures = await self._target_bdev.undo()
            self._bdev.lost()
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
                    await self._bdev.try_attach(self._front)

    def _take(self, name: str, take: Callable[[str], None]) -> None:
        take(name)
        self._target_bdev.name = name
        self.dependents.renamed(name)
        self.admission.renamed(name)

    def stats(self) -> dict[str, Any]:
        """For bdev_ftl_get_stats. Raises BusyError if there is no FTL yet."""
        if self.ftl is None:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it has no statistics")
        return {"name": self.name, **self.ftl.stats()}

    def scrub(self, *, stop: bool) -> dict[str, Any]:
        """For bdev_ftl_scrub. Raises BusyError if the FTL can't read now."""
        if self.ftl is None or self.state is not DeviceState.ONLINE:
            reason = f": {self.error}" if self.error else ""
            raise BusyError(f"FTL bdev {self.name} is {self.state.value}{reason}; it can't be scrubbed now")
        return {"name": self.name, **self.ftl.order_scrub(stop=stop)}
