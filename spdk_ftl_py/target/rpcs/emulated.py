"""bdevs with media of their own: malloc, null, aio (a file), and emulated ZNS drives, which have our prefix."""

from __future__ import annotations

import os
import uuid as uuids
from typing import Any
from uuid import UUID

from ... import _shim
from .. import decode
from ..bdevs import EXPORTED_METADATA_BYTES_MAX, NULL_UUID, NVME_IO_TYPES, ZONED_IO_TYPES, Bdev
from ..decode import Fields, Params
from ..methods import rpc
from ..refusals import EAGAIN, EBUSY, EINVAL, ENOMEM, failed, refused
from ..sizes import APPEND_BYTES_MIN, MEDIA_BYTES_MAX, METADATA_BYTES
from ..state import TargetState

DIF_BYTES = {0: 8, 1: 16, 2: 16}  # By dif_pi_format: the size of the protection information.
ZNS_PATH_NAMESPACE = UUID("5c9b2f0e-8a1d-4f5e-9a35-0d5b6a1f7c11")
STATUS_INTERNAL_ERROR = 0x006
APPEND_BLOCKS_DEFAULT = 32
MIB = 1024 * 1024

MALLOC_IO_TYPES = frozenset(
    ("read", "write", "unmap", "flush", "reset", "write_zeroes", "zcopy", "compare", "abort", "copy")
)
NULL_IO_TYPES = frozenset(("read", "write", "reset", "write_zeroes", "abort"))
AIO_IO_TYPES = frozenset(("read", "write", "flush", "reset", "write_zeroes"))


def _check_layout(params: Params) -> None:
    """The checks of create_malloc_disk and bdev_null_create, in the same order."""
    if params["num_blocks"] == 0 or params["block_size"] % 512 or params.get("physical_block_size", 0) % 512:
        raise failed(EINVAL)
    if params.get("md_size", 0) not in METADATA_BYTES:
        raise failed(EINVAL)
    dif_type, pi_format = params.get("dif_type", 0), params.get("dif_pi_format", 0)
    if dif_type and (
        not 0 <= dif_type <= 3 or pi_format not in DIF_BYTES or params.get("md_size", 0) < DIF_BYTES[pi_format]
    ):
        raise failed(EINVAL)
    byte_count = params["num_blocks"] * (params["block_size"] + params.get("md_size", 0))
    if params["block_size"] == 0 or byte_count > MEDIA_BYTES_MAX:
        raise failed(ENOMEM)


def _reachable(metadata_bytes: int) -> int:
    """The metadata bytes to store. Separate metadata and larger sizes are not exported, so nothing is stored for
    them."""
    return metadata_bytes if metadata_bytes <= EXPORTED_METADATA_BYTES_MAX else 0


def _uuid(params: Params) -> UUID:
    given: UUID = params.get("uuid", NULL_UUID)
    return given if given != NULL_UUID else uuids.uuid4()


def _protection(params: Params) -> dict[str, Any]:
    return {
        "dif_type": params.get("dif_type", 0),
        "dif_is_head_of_md": params.get("dif_is_head_of_md", False),
        "dif_pi_format": params.get("dif_pi_format", 0),
    }


_LAYOUT = {
    "uuid": decode.uuid, "physical_block_size": decode.uint32, "md_size": decode.uint32, "dif_type": decode.int32,
    "dif_is_head_of_md": decode.boolean, "dif_pi_format": decode.uint32,
}  # fmt: skip


@rpc(
    "bdev_malloc_create",
    Fields(
        {"num_blocks": decode.uint64, "block_size": decode.uint32},
        {
            **_LAYOUT, "name": decode.string, "optimal_io_boundary": decode.uint32, "md_interleave": decode.boolean,
            "numa_id": decode.int32,
        },
    ),
)  # fmt: skip
async def bdev_malloc_create(target: TargetState, params: Params) -> str:
    _check_layout(params)
    if params.get("numa_id", -1) not in (-1, 0):
        raise failed(EINVAL)
    metadata, interleave = params.get("md_size", 0), params.get("md_interleave", False)
    name = params.get("name")
    if name is None:
        name = f"Malloc{target.malloc_count}"
        target.malloc_count += 1
    device = _media(
        _shim.EmulatedMedia.conventional,
        target,
        params["num_blocks"],
        block_bytes=params["block_size"],
        metadata_bytes=_reachable(metadata) if interleave else 0,
        volatile_cache=True,
    )
    bdev = Bdev(
        name, "Malloc disk", "malloc", device, params["block_size"] + (metadata if interleave else 0),
        params["num_blocks"], MALLOC_IO_TYPES, _uuid(params), md_size=metadata, md_interleave=interleave, numa_id=-1,
        **_protection(params),
    )  # fmt: skip
    target.bdevs.register(bdev)
    target.remember(bdev.name, "bdev_malloc_create", params | {"name": name, "uuid": bdev.alias})
    return bdev.name


def _media(
    factory: Any, target: TargetState, *args: Any, shown_as: str | None = None, **kwargs: Any
) -> _shim.EmulatedMedia:
    """Calls one of EmulatedMedia's factories. Raises RpcError with the fitting errno if the factory refuses: with the
    usual text, as in SPDK, or, if shown_as names the drive, with the whole reason."""
    try:
        media: _shim.EmulatedMedia = factory(target.reactor.shim, *args, **kwargs)
    except (ValueError, MemoryError, OSError) as error:
        number = ENOMEM if isinstance(error, MemoryError) else EINVAL
        if isinstance(error, OSError):
            # EAGAIN: the file belongs to another drive.
            number = EBUSY if error.errno == EAGAIN else error.errno or EINVAL
        if shown_as is None or isinstance(error, MemoryError):
            raise failed(number) from error
        # Python takes the shim's message, with the path in it, for the file's name.
        reason = error.filename if isinstance(error, OSError) and error.filename else error
        raise refused(f"{shown_as}: {reason}", number) from error
    return media


@rpc(
    "bdev_null_create",
    Fields(
        {"name": decode.string, "num_blocks": decode.uint64, "block_size": decode.uint32},
        {
            **_LAYOUT,
            **dict.fromkeys(
                (
                    "preferred_write_alignment", "preferred_write_granularity", "optimal_write_size",
                    "preferred_unmap_alignment", "preferred_unmap_granularity",
                ),
                decode.uint32,
            ),
        },
    ),
)  # fmt: skip
async def bdev_null_create(target: TargetState, params: Params) -> str:
    _check_layout(params)
    metadata = params.get("md_size", 0)
    device = _media(
        _shim.EmulatedMedia.null,
        target,
        params["num_blocks"],
        block_bytes=params["block_size"],
        metadata_bytes=_reachable(metadata),
    )
    hints = {name: value for name, value in params.items() if name.startswith(("preferred_", "optimal_write"))}
    bdev = Bdev(
        params["name"], "Null disk", "null", device, params["block_size"] + metadata, params["num_blocks"],
        NULL_IO_TYPES, _uuid(params), md_size=metadata, md_interleave=True, hints=hints, **_protection(params),
    )  # fmt: skip
    target.bdevs.register(bdev)
    target.remember(bdev.name, "bdev_null_create", params | {"uuid": bdev.alias})
    return bdev.name


@rpc(
    "bdev_aio_create",
    Fields(
        {"name": decode.string, "filename": decode.string},
        {
            "block_size": decode.uint32, "readonly": decode.boolean, "fallocate": decode.boolean, "uuid": decode.uuid,
            "nowait": decode.boolean,
        },
    ),
)  # fmt: skip
async def bdev_aio_create(target: TargetState, params: Params) -> str:
    path, readonly = params["filename"], params.get("readonly", False)
    try:
        byte_count = os.stat(path).st_size
        os.close(os.open(path, os.O_RDONLY if readonly else os.O_RDWR))
    except (OSError, ValueError) as error:
        raise failed(getattr(error, "errno", None) or EINVAL) from error
    block_size = params.get("block_size", 0)
    if block_size < 512 or block_size & (block_size - 1) or byte_count == 0 or byte_count % block_size:
        raise failed(EINVAL)  # block_size 0: a file has no block size to detect
    device = _media(
        _shim.EmulatedMedia.conventional,
        target,
        byte_count // block_size,
        block_bytes=block_size,
        path=path,
        volatile_cache=True,
    )
    if readonly:
        for op in (_shim.Op.WRITE, _shim.Op.WRITE_ZEROES, _shim.Op.DEALLOCATE):
            device.inject_fault(op=op, status=STATUS_INTERNAL_ERROR)
    details = {
        "filename": path, "block_size_override": True, "readonly": readonly,
        "fallocate": params.get("fallocate", False), "nowait": params.get("nowait", False),
    }  # fmt: skip
    io_types = AIO_IO_TYPES | ({"unmap"} if details["fallocate"] else frozenset())
    bdev = Bdev(
        params["name"], "AIO disk", "aio", device, block_size, byte_count // block_size, io_types, _uuid(params),
        driver_specific=lambda: {"aio": dict(details)},
    )  # fmt: skip
    target.bdevs.register(bdev)
    target.remember(bdev.name, "bdev_aio_create", params | {"uuid": bdev.alias})
    return bdev.name


@rpc("bdev_null_resize", Fields({"name": decode.string, "new_size": decode.uint64}))
async def bdev_null_resize(target: TargetState, params: Params) -> bool:
    """new_size: MiB. Namespaces and raids on the bdev follow."""
    bdev, new_size = target.bdevs.get(params["name"]), params["new_size"]
    if bdev.module != "null" or new_size < bdev.block_size * bdev.num_blocks // MIB:
        raise failed(EINVAL)
    num_blocks = new_size * MIB // bdev.block_size
    if num_blocks < bdev.num_blocks:
        raise failed(EBUSY)  # as SPDK answers if only the last, incomplete MiB would go
    if new_size * MIB > MEDIA_BYTES_MAX:
        raise failed(ENOMEM)
    assert isinstance(bdev.lower, _shim.EmulatedMedia)
    bdev.lower.resize(num_blocks)
    target.bdevs.resized(bdev, num_blocks)
    target.remember_size(bdev.name, num_blocks)
    return True


def _register_delete(module: str, method: str) -> None:
    @rpc(method, Fields({"name": decode.string}))
    async def delete(target: TargetState, params: Params) -> bool:
        target.forget(await target.bdevs.unregister_by_name(params["name"], module))
        return True


for _module in ("malloc", "null", "aio"):
    _register_delete(_module, f"bdev_{_module}_delete")
_register_delete("ftltgt_zns", "ftltgt_zns_delete")


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


@rpc(
    "ftltgt_zns_create",
    Fields(
        {"name": decode.string, "num_zones": decode.bounded_integer(1, 2**32 - 1), "zone_size": decode.uint64},
        {
            "zone_capacity": decode.uint64, "block_size": decode.uint32, "max_open_zones": decode.uint32,
            "max_active_zones": decode.uint32, "max_append_blocks": decode.uint32, "path": decode.string,
            "uuid": decode.uuid, "volatile_cache": decode.boolean,
        },
    ),
)  # fmt: skip
async def ftltgt_zns_create(target: TargetState, params: Params) -> str:
    """Creates an emulated ZNS drive. Sizes are in blocks. 0 open or active zones: no limit. path: a sparse file that
    stores the drive."""
    zone_size, zones, block_size = params["zone_size"], params["num_zones"], params.get("block_size", 4096)
    capacity = int(params.get("zone_capacity") or zone_size)
    limit_open: int = params.get("max_open_zones", 0)
    limit_active: int = params.get("max_active_zones", 0)
    append_blocks: int = params.get("max_append_blocks", APPEND_BLOCKS_DEFAULT)
    problem = None
    if zone_size == 0 or zone_size & (zone_size - 1):
        problem = f"zone_size {zone_size} is not a power of two blocks"
    elif not 0 < capacity <= zone_size:
        problem = f"zone_capacity {capacity} is not between 1 and zone_size {zone_size}"
    elif block_size not in (512, 4096):
        problem = f"block_size {block_size} is neither 512 nor 4096"
    elif zones * zone_size * block_size > MEDIA_BYTES_MAX:
        problem = f"{zones} zones of {zone_size} blocks are more than {MEDIA_BYTES_MAX >> 40} TiB"
    elif limit_active and limit_open > limit_active:
        problem = f"max_open_zones {limit_open} is more than max_active_zones {limit_active}"
    elif append_blocks * block_size < APPEND_BYTES_MIN:
        problem = (
            f"max_append_blocks {append_blocks} of {block_size} bytes: NVMe can't report a limit on appends below "
            f"{APPEND_BYTES_MIN} bytes, because a ZASL of 0 means no limit: give at least "
            f"{APPEND_BYTES_MIN // block_size} blocks"
        )
    if problem is not None:
        raise refused(f"ZNS drive {params['name']}: {problem}")
    path = _absolute(params.get("path"))
    device = _media(
        _shim.EmulatedMedia.zns,
        target,
        zones,
        zone_size,
        capacity,
        block_bytes=block_size,
        max_open_zones=limit_open,
        max_active_zones=limit_active,
        max_append_blocks=append_blocks,
        path=path,
        volatile_cache=params.get("volatile_cache", True),
        shown_as=f"ZNS drive {params['name']}",
    )
    uuid = params.get("uuid")
    if uuid is None:
        # A drive stored in a file keeps its identity across restarts.
        uuid = uuids.uuid4() if path is None else uuids.uuid5(ZNS_PATH_NAMESPACE, path)
    details = {"num_zones": zones, "zone_capacity": capacity, "max_active_zones": limit_active, "path": path}
    bdev = Bdev(
        params["name"], "NVMe ZNS disk", "ftltgt_zns", device, block_size, zones * zone_size,
        NVME_IO_TYPES | ZONED_IO_TYPES, uuid, zoned=True, zone_size=zone_size, max_open_zones=limit_open, numa_id=-1,
        driver_specific=lambda: {"ftltgt_zns": dict(details)},
    )  # fmt: skip
    target.bdevs.register(bdev)
    target.remember(bdev.name, "ftltgt_zns_create", params | {"uuid": bdev.alias})
    return bdev.name
