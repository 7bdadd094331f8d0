"""bdev_passthru_*, bdev_delay_* and bdev_zone_block_*."""

from __future__ import annotations

from ...errors import JSONRPC_INVALID_PARAMS, JSONRPC_INVALID_REQUEST, FtlError, NotFoundError
from .. import decode
from ..bdevs import NULL_UUID
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..refusals import EEXIST, EINVAL, INVALID_PARAMETERS, failed
from ..state import TargetState
from ..virtual import LATENCIES, LATENCY_US_MAX, VirtualConfig


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
    "bdev_delay_create",
    Fields(
        {
            "base_bdev_name": decode.string, "name": decode.string,
            **{f"{kind}_latency": decode.uint64 for kind in LATENCIES},
        },
        {"uuid": decode.uuid},
    ),
)  # fmt: skip
async def bdev_delay_create(target: TargetState, params: Params) -> str:
    """Latencies in microseconds."""
    name: str = params["name"]
    latencies = {kind: params[f"{kind}_latency"] for kind in LATENCIES}
    if latencies["p99_read"] < latencies["avg_read"] or latencies["p99_write"] < latencies["avg_write"]:
        raise failed(EINVAL)
    if max(latencies.values()) > LATENCY_US_MAX:
        raise failed(EINVAL)
    if ("delay", name) in target.virtual.configs:
        raise failed(EEXIST)
    uuid = params.get("uuid")
    target.virtual.create(
        VirtualConfig(
            "delay", name, params["base_bdev_name"], uuid if uuid != NULL_UUID else None, latencies_us=latencies
        )
    )
    return name


@rpc("bdev_delay_delete", Fields({"name": decode.string}))
async def bdev_delay_delete(target: TargetState, params: Params) -> bool:
    await target.virtual.delete(params["name"], "delay")
    return True


@rpc(
    "bdev_delay_update_latency",
    Fields({"delay_bdev_name": decode.string, "latency_type": decode.choice(*LATENCIES), "latency_us": decode.uint64}),
)
async def bdev_delay_update_latency(target: TargetState, params: Params) -> bool:
    try:
        target.virtual.set_latency(params["delay_bdev_name"], params["latency_type"], params["latency_us"])
    except NotFoundError as error:
        raise RpcError(JSONRPC_INVALID_PARAMS, "The requested bdev does not exist.") from error
    except FtlError as error:
        raise RpcError(JSONRPC_INVALID_REQUEST, error.message) from error
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
