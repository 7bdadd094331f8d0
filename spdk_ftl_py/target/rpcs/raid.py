"""bdev_raid_*: creation, deletion and the list of raids."""

from __future__ import annotations

from typing import Any

from ...errors import FtlError
from .. import decode
from ..bdevs import NULL_UUID
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..raid import LEVELS, State
from ..refusals import EINVAL, ENODEV, ENOTSUP, NOT_PARSED, failed, refused
from ..state import TargetState

MEMBERS_MAX = 255
ALL = "all"
UNSUPPORTED_LEVELS = ("raid5f", "5f")
"""Known to SPDK, and refused by its builds without raid5f, too."""


@rpc(
    "bdev_raid_create",
    Fields(
        {
            "name": decode.string, "raid_level": decode.choice(*LEVELS, *UNSUPPORTED_LEVELS),
            "base_bdevs": decode.array_of(decode.string, MEMBERS_MAX),
        },
        {"strip_size_kb": decode.uint32, "uuid": decode.uuid, "superblock": decode.boolean},
    ),
    decode_error=NOT_PARSED,
)  # fmt: skip
async def bdev_raid_create(target: TargetState, params: Params) -> bool:
    name, members, level = params["name"], params["base_bdevs"], params["raid_level"]
    if "" in members:
        raise refused("The base bdev name cannot be empty: Invalid argument")
    uuid = params.get("uuid")
    try:
        if level not in LEVELS:
            raise failed(EINVAL)
        if params.get("superblock", False):
            raise failed(ENOTSUP)
        await target.raids.create(
            name,
            LEVELS[level],
            params.get("strip_size_kb", 0),
            members,
            uuid if uuid != NULL_UUID else None,
        )
    except FtlError as error:
        raise RpcError(error.jsonrpc_code, f"Failed to create RAID bdev {name}: {error.message}") from error
    return True


@rpc(
    "bdev_raid_delete", Fields({"name": decode.string}, {"clear_sb": decode.boolean}), decode_error=NOT_PARSED
)  # fmt: skip
async def bdev_raid_delete(target: TargetState, params: Params) -> bool:
    raid = target.raids.raids.get(params["name"])
    if raid is None:
        raise refused(f"raid bdev {params['name']} not found", ENODEV)
    await target.raids.delete(raid)
    return True


@rpc(
    "bdev_raid_get_bdevs",
    Fields({"category": decode.choice(ALL, *(state.value for state in State))}),
    decode_error=NOT_PARSED,
    exclusive=False,
)
async def bdev_raid_get_bdevs(target: TargetState, params: Params) -> list[dict[str, Any]]:
    return [
        {"name": raid.name, **raid.info()}
        for raid in target.raids.raids.values()
        if params["category"] in (ALL, raid.state.value)
    ]
