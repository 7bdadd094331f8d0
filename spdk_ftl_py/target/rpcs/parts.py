"""bdev_error_* and bdev_split_*."""

from __future__ import annotations

from ... import _shim
from ...errors import JSONRPC_INVALID_PARAMS, FtlError
from .. import decode
from ..bdevs import NULL_UUID
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..refusals import EINVAL, INVALID_PARAMETERS, failed, refused
from ..state import TargetState

OPERATIONS: dict[str, _shim.Op | None] = {
    "read": _shim.Op.READ, "write": _shim.Op.WRITE, "unmap": _shim.Op.DEALLOCATE, "flush": _shim.Op.FLUSH, "all": None,
}  # fmt: skip
CLEAR = "clear"
ERROR_TYPES = ("failure", "pending", "corrupt_data", "nomem", "nvme_failure")
SCT_MAX, SC_MAX = 7, 255


@rpc("bdev_error_create", Fields({"base_name": decode.string}, {"uuid": decode.uuid}))
async def bdev_error_create(target: TargetState, params: Params) -> bool:
    uuid = params.get("uuid")
    target.errors.create(params["base_name"], uuid if uuid != NULL_UUID else None)
    return True


@rpc("bdev_error_delete", Fields({"name": decode.string}))
async def bdev_error_delete(target: TargetState, params: Params) -> bool:
    await target.errors.delete(params["name"])
    return True


@rpc(
    "bdev_error_inject_error",
    Fields(
        {
            "name": decode.string, "io_type": decode.choice(CLEAR, *OPERATIONS),
            "error_type": decode.choice(*ERROR_TYPES),
        },
        {
            "num": decode.uint32, "queue_depth": decode.uint64, "corrupt_offset": decode.uint64,
            "corrupt_value": decode.uint8, "nvme_sct": decode.uint32, "nvme_sc": decode.uint32,
        },
    ),
)  # fmt: skip
async def bdev_error_inject_error(target: TargetState, params: Params) -> bool:
    """num: how many I/Os; the injection replaces what was injected for that io_type."""
    error_type, sct, sc = params["error_type"], params.get("nvme_sct", 0), params.get("nvme_sc", 0)
    if (error_type == "nvme_failure") == (sct == 0 and sc == 0):
        raise refused("nvme_sct or nvme_sc should be specified for NVMe error injection")
    if error_type == "corrupt_data" and params.get("corrupt_value", 0) == 0:
        raise failed(EINVAL)
    injector = target.errors.find(params["name"])
    if params["io_type"] == CLEAR:
        injector.clear()
        return True
    injector.inject(
        OPERATIONS[params["io_type"]],
        "corrupt" if error_type == "corrupt_data" else error_type,
        params.get("num", 1),
        queue_depth=params.get("queue_depth", 0),
        status=(sct & SCT_MAX) << 8 | sc & SC_MAX,
        corrupt_offset=params.get("corrupt_offset", 0),
        corrupt_value=params.get("corrupt_value", 0),
    )
    return True


@rpc("bdev_error_resume_pending", Fields({"name": decode.string}))
async def bdev_error_resume_pending(target: TargetState, params: Params) -> bool:
    target.errors.find(params["name"]).resume_pending()
    return True


@rpc(
    "bdev_split_create",
    Fields({"base_bdev": decode.string, "split_count": decode.uint32}, {"split_size_mb": decode.uint64}),
    decode_error=INVALID_PARAMETERS,
)
async def bdev_split_create(target: TargetState, params: Params) -> list[str]:
    base, count = params["base_bdev"], params["split_count"]
    try:
        return await target.splits.create(base, count, params.get("split_size_mb", 0))
    except FtlError as error:
        raise RpcError(
            JSONRPC_INVALID_PARAMS, f"Failed to create {count} split bdevs from '{base}': {error.message}"
        ) from error


@rpc("bdev_split_delete", Fields({"base_bdev": decode.string}), decode_error=INVALID_PARAMETERS)
async def bdev_split_delete(target: TargetState, params: Params) -> bool:
    try:
        await target.splits.delete(params["base_bdev"])
    except FtlError as error:
        raise RpcError(JSONRPC_INVALID_PARAMS, error.message) from error
    return True
