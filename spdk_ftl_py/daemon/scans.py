"""bdev_ftl_scan: which FTLs are on the bdevs of a target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from ..errors import FtlError, NotFoundError, TargetError
from ..spdk.bdevs import Bdev
from ..spdk.rpc import TargetRpc
from .base import DaemonIdentity
from .config_rpcs import normal_target
from .device import ManagedDevice
from .probing import Prober, foreign_bdevs, why_unfit


class Devices(Protocol):
    """The registry, as far as this needs it."""

    @property
    def devices(self) -> Mapping[tuple[str, str], ManagedDevice]: ...
    def require_no_halt(self) -> None: ...


class Scans:
    """On the targets of one daemon."""

    def __init__(self, registry: Devices, identity: DaemonIdentity, prober: Prober) -> None:
        self._registry = registry
        self._identity = identity
        self._prober = prober

    @property
    def methods(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        return {"bdev_ftl_scan": self.scan}

    async def scan(self, params: dict[str, Any]) -> dict[str, Any]:
        """{"bdevs": […]}, each as Probed.to_dict() tells it, or with "error"; of an FTL that the daemon has, with its
        "state". Raises what keeps the one bdev that is asked for from being read, or the target from being asked."""
        self._registry.require_no_halt()
        target = normal_target(params["target"])
        rpc = self._identity.rpc(target)
        capacity = params.get("zone_capacity")
        bdevs = await foreign_bdevs(rpc)
        asked = params.get("base_bdev")
        if asked is not None:
            bdev = next((each for each in bdevs if asked in each.names or asked == each.uuid), None)
            if bdev is None:
                there = ", ".join(each.name for each in bdevs[:16]) or "none"
                raise NotFoundError(f"bdev {asked}: no such bdev in the SPDK target at {target}; it has: {there}")
            return {"bdevs": [self._known(target, bdev) or await self._probe(rpc, bdev, capacity)]}
        told = []
        for bdev in bdevs:
            known = self._known(target, bdev)
            if known is not None:
                told.append(known)
            elif not bdev.claimed and why_unfit(bdev) is None:
                told.append(await self._try(rpc, bdev, capacity))
        return {"bdevs": told}

    def _known(self, target: str, bdev: Bdev) -> dict[str, Any] | None:
        """Without a look at it, which is not to be had: the daemon has claimed it for an FTL."""
        if not bdev.claimed:
            return None
        for device in self._registry.devices.values():
            if device.target != target:
                continue
            told: dict[str, Any] = {"bdev": bdev.name, "state": device.state.value}
            if device.params["base_bdev"] in (*bdev.names, bdev.uuid):
                return {**told, "name": device.name, "uuid": str(device.uuid), "num_blocks": device.block_count}
            if device.params.get("cache") in (*bdev.names, bdev.uuid):
                return {**told, "cache_of": str(device.uuid)}
        return None

    async def _probe(self, rpc: TargetRpc, bdev: Bdev, capacity: int | None) -> dict[str, Any]:
        probed = await self._prober.probe(rpc, bdev, zone_capacity=None if bdev.zoned else capacity)
        told = probed.to_dict()
        device = next((each for each in self._registry.devices.values() if each.uuid == probed.uuid), None)
        return told if device is None else {**told, "state": device.state.value}

    async def _try(self, rpc: TargetRpc, bdev: Bdev, capacity: int | None) -> dict[str, Any]:
        """One of many. Raises TargetError where the target does not answer any more."""
        try:
            return await self._probe(rpc, bdev, capacity)
        except TargetError as error:
            if error.rpc_code is None:
                raise
            return {"bdev": bdev.name, "error": error.message}
        except (FtlError, OSError) as error:
            return {"bdev": bdev.name, "error": error.message if isinstance(error, FtlError) else str(error)}
