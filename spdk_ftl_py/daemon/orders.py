"""RPCs that change a running FTL, and the names that SPDK's releases have for bdev_ftl_create and bdev_ftl_delete."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from .. import schema
from ..conf import FtlConf, given_settings
from ..errors import BusyError, FtlError, ParameterError
from ..ftl.cache.nv_cache_keeper import CacheState
from ..ftl.device import FtlDevice
from ..ftl.media.superblock_content import merge_conf
from ..spdk.bdevs import find_bdev
from ..text import show_name
from .changes import Change
from .checks import check_cache_size_of, find_cache, load_policy
from .device import DeviceState, ManagedDevice
from .requester import requester
from .requests import (
    CacheRequest,
    ForceableRequest,
    FtlRequest,
    PropertyRequest,
    RenameRequest,
    UnmapRequest,
    takes,
)
from .server import Method
from .settings import given, with_setting

log = logging.getLogger(__name__)


class DevicesOfDaemon(Protocol):
    """The part of the registry that this module needs."""

    async def create(self, params: dict[str, Any]) -> Any: ...
    async def delete(self, request: ForceableRequest) -> Any: ...
    def find_to_change(self, request: FtlRequest) -> ManagedDevice: ...
    def require_free(self, device: ManagedDevice, name: str) -> None:
        """Raises ExistsError if another FTL has that name."""

    def renamed(self, device: ManagedDevice, before: str) -> None:
        """The FTL has just been renamed."""


class Orders:
    """``methods``, by RPC name, for the registry."""

    def __init__(self, devices: DevicesOfDaemon) -> None:
        self._devices = devices
        self._under_way: set[asyncio.Task[Any]] = set()

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "construct_ftl_bdev": self._devices.create,
            "delete_ftl_bdev": takes(ForceableRequest, self._devices.delete),
            "bdev_ftl_load": self.load,
            "bdev_ftl_unload": takes(ForceableRequest, self._devices.delete),
            "bdev_ftl_unmap": takes(UnmapRequest, self.unmap),
            "bdev_ftl_set_property": takes(PropertyRequest, self.set_property),
            "bdev_ftl_set_cache": takes(CacheRequest, self.set_cache),
            "bdev_ftl_remove_cache": takes(FtlRequest, self.remove_cache),
            "bdev_ftl_rename": takes(RenameRequest, self.rename),
        }

    async def load(self, params: dict[str, Any]) -> Any:
        if not int(params["uuid"].replace("-", ""), 16):
            raise ParameterError("bdev_ftl_load: uuid is the nil UUID, which no FTL has: give the UUID of the FTL")
        return await self._devices.create(schema.load("bdev_ftl_create").validate(params))

    async def unmap(self, request: UnmapRequest) -> bool:
        device, _ = self._online(request, "trimmed")
        lba, block_count = request.lba, request.num_blocks
        size = device.describe()["num_blocks"]
        if lba + block_count > size:
            raise ParameterError(
                f"bdev_ftl_unmap: {block_count} blocks from block {lba} on exceed FTL bdev {device.name}, which has "
                f"{size} blocks of 4096 B"
            )
        await device.trim(lba, block_count)
        log.info("%s: trimmed %d blocks from %d on, asked for by %s", device, block_count, lba, requester())
        return True

    # --- settings

    async def set_property(self, request: PropertyRequest) -> bool:
        name, value = request.ftl_property, given(request.ftl_property, request.value)
        device, _ = self._online(request, "changed")
        if value is not None:
            await self._to_its_end(self._set(device, name, value))
            log.info("%s: set %s to %s, asked for by %s", device, name, show_name(str(value)), requester())
        return True

    async def _set(self, device: ManagedDevice, name: str, value: Any) -> None:
        if name == "reloc_policy":
            await load_policy(value)
        async with device.settings_turn:
            ftl = _running(device, "changed")
            change = Change(f"the change of {name}", with_setting(device.params, name, value))
            settings = given_settings(change.applied(device.params))
            FtlConf.from_dict(settings).check()
            conf = merge_conf(ftl.conf, settings).check_geometry(ftl.geometry)
            if ftl.takes(conf):
                await self._set_at_once(device, ftl, change, conf, new_policy=name == "reloc_policy")
            else:
                await device.change(change)

    @staticmethod
    async def _set_at_once(
        device: ManagedDevice, ftl: FtlDevice, change: Change, conf: FtlConf, *, new_policy: bool
    ) -> None:
        before = dict(device.params)
        try:
            device.set_params(change.applied(before))
            # Saved before it takes effect. If the daemon crashes in between, the state file takes precedence over the
            # superblock.
            device.on_change()
            await ftl.set_conf(conf, new_policy=new_policy)
        except BaseException:
            device.set_params(before)
            device.on_change_behind()
            raise
        device.took_conf()

    # --- cache

    async def set_cache(self, request: CacheRequest) -> bool:
        device, _ = self._online(request, "changed")
        await self._to_its_end(self._set_cache(device, request.cache, force=request.force))
        log.info("%s: has nv cache %s now, asked for by %s", device, show_name(request.cache), requester())
        return True

    async def remove_cache(self, request: FtlRequest) -> bool:
        device, _ = self._online(request, "changed")
        await self._to_its_end(self._remove_cache_in_turn(device))
        log.info("%s: no longer has an nv cache, asked for by %s", device, requester())
        return True

    async def _set_cache(self, device: ManagedDevice, name: str, *, force: bool) -> None:
        async with device.settings_turn:
            ftl = _running(device, "changed")
            in_use = _cache_in_use(device, ftl)
            if in_use and device.options.cache == name:
                return
            if device.no_data:
                raise ParameterError("no_data keeps nothing, so the FTL needs no nv cache")
            # Check everything that can be checked before anything is changed.
            base_name = device.options.base_bdev
            base = await find_bdev(device.target_rpc, base_name)
            cache = await find_cache(device.target_rpc, name, base, base_name=base_name)
            assert cache is not None
            await device.require_unclaimed_cache(cache)
            kind = check_cache_size_of(cache, ftl.geometry)
            if in_use:
                await self._remove_cache(device)
            # While the FTL runs: scrubbing a large cache takes longer than hosts would wait.
            await device.scrub_cache(cache, force=force)
            await device.change(
                Change(
                    f"the change to nv cache {name}",
                    {"cache": name, "without_cache": None},
                    {"cache_scrubbed": True},
                    # No write has been accepted into the new cache by then.
                    back={"without_cache": True},
                )
            )
            device.cache_kind = kind

    async def _remove_cache_in_turn(self, device: ManagedDevice) -> None:
        async with device.settings_turn:
            _cache_in_use(device, _running(device, "changed"))
            if device.options.cache is not None:
                await self._remove_cache(device)

    @staticmethod
    async def _remove_cache(device: ManagedDevice) -> None:
        # After a clean halt the cache alone holds nothing. Until the superblock has given it up, nothing has changed.
        await device.change(Change("the removal of its nv cache", {"cache": None}, {"without_cache": True}, late=True))
        device.cache_kind = None

    # --- name

    async def rename(self, request: RenameRequest) -> bool:
        device, _ = self._online(request, "renamed")
        before, name = device.name, request.new_name
        if name == before:
            return True
        await self._to_its_end(self._rename(device, name))
        log.info("%s: renamed from %s, asked for by %s", device, before, requester())
        if device.attachment is None and not device.options.no_attach:
            raise FtlError(
                f"FTL bdev {before} has the name {name} now, but is not attached to its target yet: the daemon keeps "
                f"trying ({device.error or 'the target has not accepted it'})"
            )
        return True

    async def _rename(self, device: ManagedDevice, name: str) -> None:
        async with device.settings_turn:
            _running(device, "renamed")
            self._devices.require_free(device, name)

            def take(name: str) -> None:
                self._devices.require_free(device, name)
                before, device.name = device.name, name
                device.set_params({**device.params, "name": name})
                self._devices.renamed(device, before)

            await device.rename(name, take)

    # ---

    def _online(self, request: FtlRequest, what: str) -> tuple[ManagedDevice, FtlDevice]:
        device = self._devices.find_to_change(request)
        return device, _running(device, what)

    async def _to_its_end(self, work: Any) -> None:
        """The requester may disconnect: the work continues until it succeeds or fails."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)


def _running(device: ManagedDevice, what: str) -> FtlDevice:
    """Raises BusyError."""
    if device.ftl is None or device.state is not DeviceState.ONLINE:
        reason = f": {device.error}" if device.error else ""
        raise BusyError(f"FTL bdev {device.name} is {device.state.value}{reason}; it can't be {what} now")
    return device.ftl


def _cache_in_use(device: ManagedDevice, ftl: FtlDevice) -> bool:
    """Raises BusyError while the FTL is giving up its cache."""
    if ftl.cache.state is CacheState.FAILING:
        raise BusyError(
            f"FTL bdev {device.name} is giving up its nv cache ({ftl.cache.failure}): try again in a moment"
        )
    return ftl.cache.state is CacheState.IN_USE
