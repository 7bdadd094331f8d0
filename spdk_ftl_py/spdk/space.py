"""Whether a bdev has free space for what is written to it. If a thin-provisioned bdev has none, SPDK answers a write
with Internal Error, as for any other failure of a bdev; only its RPCs tell."""

from __future__ import annotations

from collections.abc import Mapping

from .bdevs import find_bdev
from .rpc import TargetRpc


async def why_out_of_space(rpc: TargetRpc, name: str) -> str | None:
    """Why the bdev accepts no writes to blocks that were never written, with the remedy; None if it has free space, or
    its kind does not tell. Raises TargetError or ProtocolError."""
    bdev = await find_bdev(rpc, name)
    lvol = bdev.driver_specific.get("lvol") if bdev is not None else None
    if not isinstance(lvol, Mapping) or not lvol.get("thin_provision"):
        return None
    stores = await rpc.call("bdev_lvol_get_lvstores", {"uuid": lvol.get("lvol_store_uuid")})
    store = stores[0] if isinstance(stores, list) and stores else None
    if not isinstance(store, Mapping) or store.get("free_clusters") != 0:
        return None
    return (
        f"lvol store {store.get('name')} has no free cluster: delete or shrink other lvols of it, or grow the store "
        "(bdev_lvol_grow_lvstore)"
    )
