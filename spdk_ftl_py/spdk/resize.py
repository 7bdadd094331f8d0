"""Grows the bdev of an FTL in its target to the size of the FTL, unless that would disturb a user of the bdev."""

from __future__ import annotations

from ..errors import ClaimedError
from .attach import attached_as, remake_passthru
from .bdevs import Bdev, find_bdev, get_bdevs
from .rpc import TargetRpc
from .saved_config import OwnFtl, divide, read_subsystems


async def attached_size(rpc: TargetRpc, ftl: OwnFtl) -> int | None:
    """Blocks of its bdev; None if it has none. Raises TargetError."""
    bdev = await _attached(rpc, ftl)
    return None if bdev is None else bdev.block_count


async def resize(rpc: TargetRpc, ftl: OwnFtl, block_count: int) -> None:
    """Does nothing if the bdev is already large enough, or does not exist.

    Raises ClaimedError, with nothing changed, if somebody in the target uses the bdev: to grow it has to be recreated,
    which would take it from them. Otherwise TargetError or ProtocolError.
    """
    bdev = await _attached(rpc, ftl)
    if bdev is None or bdev.block_count >= block_count:
        return
    remedy = "it grows when the target restarts; or remove what uses the bdev, and grow again"
    if bdev.claimed:
        raise ClaimedError(f"somebody has claimed it ({bdev.claim_type or 'in the target'}): {remedy}")
    # Some users do not claim a bdev: ublk, vhost, iSCSI.
    users = divide(await read_subsystems(rpc), await get_bdevs(rpc), [ftl]).dependents[ftl.device]
    if users:
        raise ClaimedError(f"something is built on it (with {users[0]['method']}): {remedy}")
    await remake_passthru(rpc, name=ftl.name, device=ftl.device, block_count=block_count)


async def _attached(rpc: TargetRpc, ftl: OwnFtl) -> Bdev | None:
    there = await attached_as(rpc, name=ftl.name, device=ftl.device)
    return await find_bdev(rpc, ftl.name) if there else None
