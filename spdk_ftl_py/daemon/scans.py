"""bdev_ftl_scan: which FTLs are on the bdevs of a target; bdev_ftl_set_uuid: a new uuid for a copy of an FTL."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID, uuid4

from .. import _shim
from ..errors import (
    BusyError,
    ExistsError,
    FtlError,
    MediaError,
    NotFoundError,
    ParameterError,
    PathError,
    TargetError,
    UnsupportedError,
)
from ..ftl.load.new_uuid import Renumbered, set_uuid
from ..ftl.media.blockdev import BlockPort
from ..runtime.reactor import ReactorLoop
from ..spdk.bdevs import Bdev
from ..spdk.rpc import TargetRpc
from .base import DaemonIdentity
from .config_rpcs import normal_target
from .device import ManagedDevice
from .probing import Prober, emulated, find_capacity, foreign_bdevs, has_zones, why_unfit
from .requests import NewUuidRequest, ScanRequest, takes
from .server import Method
from .states import DeviceState

log = logging.getLogger(__name__)


class Devices(Protocol):
    """The part of the registry that this module needs."""

    @property
    def devices(self) -> Mapping[tuple[str, str], ManagedDevice]: ...
    def require_no_halt(self) -> None: ...


class Scans:
    """Dispatches for all targets of one daemon."""

    def __init__(self, registry: Devices, identity: DaemonIdentity, prober: Prober) -> None:
        self._registry = registry
        self._identity = identity
        self._prober = prober

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "bdev_ftl_scan": takes(ScanRequest, self.scan),
            "bdev_ftl_set_uuid": takes(NewUuidRequest, self.set_uuid),
        }

    async def scan(self, request: ScanRequest) -> dict[str, Any]:
        """{"bdevs": […]}, each as Probed.to_dict(), or with "error"; an FTL of the daemon with its "state". Raises the
        error if the one requested bdev can't be read, or the target can't be asked."""
        self._registry.require_no_halt()
        target = normal_target(request.target)
        rpc = self._identity.rpc(target)
        capacity = request.zone_capacity
        bdevs = await foreign_bdevs(rpc)
        asked = request.base_bdev
        if asked is not None:
            bdev = _named(asked, bdevs, target)
            return {"bdevs": [self._known(target, bdev) or await self._probe(rpc, bdev, capacity)]}
        entries = []
        for bdev in bdevs:
            known = self._known(target, bdev)
            if known is not None:
                entries.append(known)
            elif not bdev.claimed and why_unfit(bdev) is None:
                entries.append(await self._try(rpc, bdev, capacity))
        return {"bdevs": entries}

    async def set_uuid(self, request: NewUuidRequest) -> dict[str, Any]:
        """{"bdev", "name": of the original, "uuid": the new uuid, "was"}. Raises what Prober.visit() and ftl's
        set_uuid() raise, and ExistsError or BusyError if an FTL of this daemon has the uuid, or needs the bdev."""
        self._registry.require_no_halt()
        target = normal_target(request.target)
        uuid, new = request.uuid, request.new_uuid or uuid4()
        if not new.int:
            raise ParameterError("new_uuid is the nil UUID, which no FTL can have: choose another, or leave it out")
        if new == uuid:
            raise ParameterError(f"new_uuid is {new}, which the FTL already has: choose another, or leave it out")
        rpc = self._identity.rpc(target)
        bdev = _named(request.base_bdev, await foreign_bdevs(rpc), target)
        why = why_unfit(bdev)
        if why is not None:
            raise UnsupportedError(f"bdev {bdev.name} {why}")
        self._check_needed(uuid, new, bdev)
        capacity = None if bdev.zoned else request.zone_capacity

        async def work(reactor: ReactorLoop, media: _shim.BlockDevice) -> Renumbered:
            # Somebody may have begun to load it.
            self._check_needed(uuid, new, bdev)
            if not bdev.zoned:
                found = capacity or await find_capacity(reactor, media, bdev)
                if found is None or not has_zones(bdev, found):
                    raise NotFoundError(
                        f"bdev {bdev.name} holds no FTL{'' if found is None else f' in zones of {found} blocks'}: "
                        "give the base bdev of an FTL, and leave out the zone capacity"
                    )
                media = emulated(reactor, media, found)
            port = BlockPort(reactor, media, name=f"bdev {bdev.name}")
            try:
                return await set_uuid(port, uuid, new, force=request.force)
            finally:
                await port.close()

        try:
            done = await self._prober.visit(rpc, bdev, work)
        except (MediaError, PathError) as error:
            raise type(error)(
                f"{error.message}; its uuid may be {new} already, which `spdk-ftl scan` shows: repeat the command "
                f"with --new-uuid {new}",
                errno=error.errno,
            ) from error
        name = done.superblock.content.get("name")
        if done.changed:
            log.info("bdev %s: FTL %s, a copy of %s, now has uuid %s", bdev.name, name, uuid, new)
        return {"bdev": bdev.name, "name": name, "uuid": str(done.uuid), "was": str(uuid)}

    def _check_needed(self, uuid: UUID, new: UUID, bdev: Bdev) -> None:
        """Refuses a uuid that an FTL of the daemon has, and a bdev that may be the base of such an FTL."""
        for device in self._registry.devices.values():
            if device.uuid == new:
                raise ExistsError(
                    f"uuid {new}: FTL bdev {device.name} ({device.state.value}, on the SPDK target at "
                    f"{device.target}) already has it: choose another"
                )
            if device.uuid == uuid and device.state is not DeviceState.ONLINE:
                raise BusyError(
                    f"bdev {bdev.name}: FTL bdev {device.name} ({device.state.value}) has uuid {uuid}, and this may be "
                    "its base: bring it online first, or delete it"
                )

    def _known(self, target: str, bdev: Bdev) -> dict[str, Any] | None:
        """The FTL of this daemon that has claimed the bdev, which therefore cannot be read."""
        if not bdev.claimed:
            return None
        for device in self._registry.devices.values():
            if device.target != target:
                continue
            entry: dict[str, Any] = {"bdev": bdev.name, "state": device.state.value}
            if device.options.base_bdev in (*bdev.names, bdev.uuid):
                return {**entry, "name": device.name, "uuid": str(device.uuid), "num_blocks": device.block_count}
            if device.options.cache in (*bdev.names, bdev.uuid):
                return {**entry, "cache_of": str(device.uuid)}
        return None

    async def _probe(self, rpc: TargetRpc, bdev: Bdev, capacity: int | None) -> dict[str, Any]:
        probed = await self._prober.probe(rpc, bdev, zone_capacity=None if bdev.zoned else capacity)
        entry = probed.to_dict()
        device = next((each for each in self._registry.devices.values() if each.uuid == probed.uuid), None)
        return entry if device is None else {**entry, "state": device.state.value}

    async def _try(self, rpc: TargetRpc, bdev: Bdev, capacity: int | None) -> dict[str, Any]:
        """One of many bdevs. Raises TargetError if the target stops answering."""
        try:
            return await self._probe(rpc, bdev, capacity)
        except TargetError as error:
            if error.rpc_code is None:
                raise
            return {"bdev": bdev.name, "error": error.message}
        except (FtlError, OSError) as error:
            return {"bdev": bdev.name, "error": error.message if isinstance(error, FtlError) else str(error)}


def _named(asked: str, bdevs: Sequence[Bdev], target: str) -> Bdev:
    """By name, alias or uuid. Raises NotFoundError."""
    for bdev in bdevs:
        if asked in bdev.names or asked == bdev.uuid:
            return bdev
    there = ", ".join(each.name for each in bdevs[:16]) or "none"
    raise NotFoundError(f"bdev {asked}: no such bdev in the SPDK target at {target}; it has: {there}")
