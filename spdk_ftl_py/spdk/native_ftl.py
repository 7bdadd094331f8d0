"""The target's own FTL: whether the target has one, its requirements on bdevs, and calls of its RPCs.

Rules and bounds are those of SPDK v26.05, in lib/ftl: mngt/ftl_mngt_bdev.c, base/ftl_base_bdev.c and
nvc/ftl_nvc_bdev_*.c. If one of them is broken, SPDK only answers "Operation not permitted".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import GeometryError, ParameterError, ProtocolError, TargetError, UnsupportedError
from .bdevs import Bdev
from .rpc import TargetRpc

PRODUCT: Final = "FTL disk"
"""The product name of its bdevs, and of no others."""
BLOCK_BYTES: Final = 4096
VSS_BYTES: Final = 64
"""The metadata after each block of a cache."""
GIB: Final = 1 << 30
BASE_GIB_MIN: Final = 20
CACHE_GIB_MIN: Final = 5
CALL_TIMEOUT_S: Final = 3600.0
"""Long, because a creation overwrites the whole cache, and a load after a crash reads it."""
_ANY_OF_THEM: Final = "bdev_ftl_create"


async def require_method(rpc: TargetRpc, method: str) -> None:
    """Raises UnsupportedError if the target has no FTL of its own, or one without that method; TargetError."""
    known = await rpc.call("rpc_get_methods")
    if not isinstance(known, list):
        raise ProtocolError(f"SPDK target at {rpc.address}: rpc_get_methods did not return a list")
    if _ANY_OF_THEM not in known:
        raise UnsupportedError(
            f"SPDK target at {rpc.address} has no FTL of its own (no method {_ANY_OF_THEM}): leave out --engine "
            "native to use the daemon's FTL"
        )
    if method not in known:
        raise UnsupportedError(f"SPDK target at {rpc.address}: its own FTL does not support {method}")


async def call(rpc: TargetRpc, method: str, params: Mapping[str, Any]) -> Any:
    """The answer of the target. Raises TargetError, with the target's words, if it refuses."""
    try:
        return await rpc.call(method, params, timeout_s=CALL_TIMEOUT_S)
    except TargetError as error:
        if error.rpc_code is None:
            raise
        raise TargetError(
            f"{error.message}. This is the error of the target's own FTL: see the target's log for the reason",
            rpc_code=error.rpc_code,
            errno=error.errno,
        ) from error


def check_base(bdev: Bdev) -> None:
    """Raises an error, which names the remedy, for a bdev that SPDK's own FTL does not accept as a base."""
    name = f"base bdev {bdev.name}"
    if bdev.zoned:
        raise UnsupportedError(
            f"{name} is zoned ({bdev.product_name}), but SPDK's own FTL supports only conventional bdevs (SPDK "
            "dropped zoned ones in 2022): leave out --engine native to use the daemon's FTL"
        )
    _check_blocks(name, bdev)
    if bdev.metadata_bytes:
        raise UnsupportedError(
            f"{name} has {bdev.metadata_bytes} B of metadata per block: SPDK's own FTL needs a base bdev without "
            "metadata: format the device without it, or use another bdev"
        )
    _check_size(name, bdev, BASE_GIB_MIN)


def check_cache(bdev: Bdev, *, base: Bdev) -> None:
    """As check_base(), for its cache."""
    name = f"cache bdev {bdev.name}"
    if bdev.name == base.name:
        raise ParameterError(f"{name} is also the base bdev: give another one")
    if bdev.zoned:
        raise UnsupportedError(
            f"{name} is zoned ({bdev.product_name}): SPDK's own FTL overwrites its cache in place: use a conventional "
            "bdev"
        )
    _check_blocks(name, bdev)
    if bdev.metadata_bytes and (bdev.metadata_bytes != VSS_BYTES or bdev.metadata_interleaved or bdev.dif_type):
        where = "interleaved" if bdev.metadata_interleaved else "separate"
        raise UnsupportedError(
            f"{name} has {bdev.metadata_bytes} B of {where} metadata per block (DIF type {bdev.dif_type}): SPDK's own "
            f"FTL needs a cache bdev without metadata, or with {VSS_BYTES} B of separate metadata and no DIF: format "
            "the device like that, or use another bdev"
        )
    _check_size(name, bdev, CACHE_GIB_MIN)


def _check_blocks(name: str, bdev: Bdev) -> None:
    if bdev.block_bytes != BLOCK_BYTES:
        raise ParameterError(
            f"{name} has blocks of {bdev.block_bytes} B: SPDK's own FTL needs blocks of {BLOCK_BYTES} B: format the "
            "device with them, or use another bdev"
        )


def _check_size(name: str, bdev: Bdev, least_gib: int) -> None:
    size = bdev.block_bytes * bdev.block_count
    if size < least_gib * GIB:
        raise GeometryError(
            f"{name} has {size / GIB:.2f} GiB: SPDK's own FTL needs at least {least_gib} GiB: use a larger bdev"
        )
