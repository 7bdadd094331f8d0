"""bdev_ftl_grow: gives an FTL all of its base, and resizes its bdev in the target."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol
from uuid import UUID

from ..errors import FtlError, GeometryError
from ..ftl.device import FtlDevice
from ..spdk.bdevs import get_bdev
from ..spdk.resize import attached_size, resize
from ..spdk.rpc import TargetRpc
from ..spdk.saved_config import OwnFtl
from .changes import Change
from .requests import FtlOptions

CHANGE: Final = "growing"

log = logging.getLogger(__name__)


class Growable(Protocol):
    """The part of a ManagedDevice that this module needs."""

    name: str
    uuid: UUID
    options: FtlOptions
    ftl: FtlDevice | None
    settings_turn: asyncio.Lock

    @property
    def nqn(self) -> str: ...
    def require_running(self, what: str) -> None: ...
    async def change(self, change: Change) -> None: ...
    def turn_in_target(self) -> asyncio.Lock: ...


async def grow(device: Growable, rpc: TargetRpc, *, force: bool) -> dict[str, Any]:
    """The result of bdev_ftl_grow. Waits for other changes. rpc: of its target. force: erases any data on the added
    part of the base.

    Raises what ManagedDevice.change() raises, NotFoundError and TargetError if the size of the base can't be
    determined, and GeometryError if the base is smaller than the FTL.
    """
    async with device.settings_turn:
        return await _grow(device, rpc, force=force)


async def _grow(device: Growable, rpc: TargetRpc, *, force: bool) -> dict[str, Any]:
    ftl = device.ftl
    try:
        changed = ftl is None or await _has_more(device.options.base_bdev, ftl, rpc)
    except FtlError:
        # Of a device that has just lost its base, this is what there is to say.
        device.require_running(CHANGE)
        raise
    before = None if ftl is None else ftl.block_count
    if changed:
        # change() refuses a device that does not run.
        await device.change(Change(CHANGE, once={"grow": True, "force": force}))
        ftl = device.ftl
    assert ftl is not None
    result: dict[str, Any] = {"name": device.name, "num_blocks": ftl.block_count, "changed": changed}
    if before is not None and changed:
        log.info("%s: grown to %d blocks, from %d", device.name, ftl.block_count, before)
    if not device.options.no_attach:
        result["target_num_blocks"] = await _resize_in_target(device, ftl.block_count, rpc)
    return result


async def _has_more(base_bdev: str, ftl: FtlDevice, rpc: TargetRpc) -> bool:
    base = await get_bdev(rpc, base_bdev, role="base bdev")
    geometry = ftl.geometry
    zones = base.block_count // geometry.zone_size
    if zones < geometry.zone_count:
        raise GeometryError(
            f"base bdev {base.name} has shrunk: it has {base.block_count} blocks, but the FTL uses "
            f"{geometry.block_end}: restore the old size of the bdev before the FTL is loaded again"
        )
    return zones > geometry.zone_count


async def _resize_in_target(device: Growable, block_count: int, rpc: TargetRpc) -> int | None:
    """The size of its bdev in the target; None: not attached. It is no error if the target can't grow the bdev because
    somebody uses it: hosts of the export have the new size."""
    async with device.turn_in_target():
        own = OwnFtl(device.name, device.uuid, device.nqn)
        try:
            await resize(rpc, own, block_count)
        except (FtlError, OSError) as error:
            log.warning("%s: its bdev in the target at %s still has the old size: %s", device.name, rpc.address, error)
    try:
        return await attached_size(rpc, own)
    except (FtlError, OSError):
        return None
