"""bdev_passthru_* and bdev_zone_block_*."""

from __future__ import annotations

from ...errors import FtlError
from .. import decode
from ..bdevs import NULL_UUID
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..refusals import EEXIST, EINVAL, INVALID_PARAMETERS, failed
from ..state import TargetState
from ..virtual import VirtualConfig


@rpc(
    "bdev_passthru_create",
    Fields({"base_bdev_name": decode.string, "name": decode.string}, {"uuid": decode.uuid}),
)
async def bdev_passthru_create(target: TargetState, params: Params) -> str:
    name: str = params["name"]
    if ("passthru", name) in target.virtual.configs:
        raise failed(EEXIST)
    uuid = params.get("uuid")
    target.virtual.create(
        VirtualConfig("passthru", name, params["base_bdev_name"], uuid if uuid != NULL_UUID else None)
    )
    return name


@rpc("bdev_passthru_delete", Fields({"name": decode.string}))
async def bdev_passthru_delete(target: TargetState, params: Params) -> bool:
    await target.virtual.delete(params["name"], "passthru")
    return True


@rpc(
    "bdev_zone_block_create",
    Fields(
        {
            "name": decode.string, "base_bdev": decode.string, "zone_capacity": decode.uint64,
            "optimal_open_zones": decode.uint64,
        }
    ),
    decode_error=INVALID_PARAMETERS,
)  # fmt: skip
async def bdev_zone_block_create(target: TargetState, params: Params) -> str:
    try:
        if params["zone_capacity"] == 0 or params["optimal_open_zones"] == 0:
            raise failed(EINVAL)
        for config in target.virtual.configs.values():
            if config.module == "zone_block" and (
                config.name == params["name"] or config.base_name == params["base_bdev"]
            ):
                raise failed(EEXIST)
        target.virtual.create(
            VirtualConfig(
                "zone_block",
                params["name"],
                params["base_bdev"],
                None,
                params["zone_capacity"],
                params["optimal_open_zones"],
            )
        )
    except FtlError as error:
        raise RpcError(-32603, f"Failed to create block zoned vbdev: {error.message}") from error
    name: str = params["name"]
    return name


@rpc("bdev_zone_block_delete", Fields({"name": decode.string}), decode_error=INVALID_PARAMETERS)
async def bdev_zone_block_delete(target: TargetState, params: Params) -> bool:
    await target.virtual.delete(params["name"], "zone_block")
    return True
