"""Who has claimed a bdev. SPDK reports the claim and its type, but not the owner; the bdevs and subsystems that use the
bdev show it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

from ..errors import ClaimedError, TargetError
from .bdevs import Bdev, get_bdevs
from .exports import get_subsystems
from .rpc import TargetRpc

NESTING_MAX: Final = 8


async def require_unclaimed(rpc: TargetRpc, bdev: Bdev, role: str, *, but_by: str | None = None) -> None:
    """Raises ClaimedError, which names the owner and the type of claim, unless the bdev is free, or is in the daemon's
    own NVMe-oF subsystem but_by.

    role: what the bdev is needed for ("base bdev", "cache bdev"). A bdev in an NVMe-oF subsystem is claimed, too.
    """
    if not bdev.claimed:
        return
    if but_by is not None:
        subsystem = await _owning_subsystem(rpc, bdev)
        if subsystem is not None and subsystem[0] == but_by:
            return
    owner = await find_owner(rpc, bdev)
    how = f" ({bdev.claim_type})" if bdev.claim_type else ""
    who = owner or "an unnamed module of the target"
    raise ClaimedError(
        f"{role} {bdev.name} of the SPDK target at {rpc.address} is already claimed{how} by {who}: remove it from "
        "there first, or use another bdev"
    )


async def find_owner(rpc: TargetRpc, bdev: Bdev) -> str | None:
    """What has claimed the bdev, in words; None if the target does not tell."""
    subsystem = await _owning_subsystem(rpc, bdev)
    if subsystem is None:
        return await _owning_bdev(rpc, bdev)
    nqn, nsid = subsystem
    return f"NVMe-oF subsystem {nqn} (namespace {nsid})"


async def _owning_subsystem(rpc: TargetRpc, bdev: Bdev) -> tuple[str, object] | None:
    try:
        subsystems = await get_subsystems(rpc)
    except TargetError as error:
        if error.rpc_code is None:
            raise
        return None
    for subsystem in subsystems:
        for namespace in subsystem.get("namespaces") or ():
            if namespace.get("bdev_name") in bdev.names or namespace.get("name") in bdev.names:
                return str(subsystem.get("nqn")), namespace.get("nsid")
    return None


async def _owning_bdev(rpc: TargetRpc, bdev: Bdev) -> str | None:
    for other in await get_bdevs(rpc):
        if other.name != bdev.name and mentions(other.driver_specific, bdev.names, NESTING_MAX):
            kind = other.product_name or next(iter(other.driver_specific), "virtual")
            return f"{kind} bdev {other.name}"
    return None


def mentions(details: Any, names: Set[str], depth: int) -> bool:
    """Every virtual bdev names its base in driver_specific, each kind under a key of its own."""
    if depth == 0:
        return False
    if isinstance(details, str):
        return details in names
    if isinstance(details, Mapping):
        return any(mentions(value, names, depth - 1) for value in details.values())
    if isinstance(details, list):
        return any(mentions(value, names, depth - 1) for value in details)
    return False
