"""ftltgt_nbd_*: bdevs over NBD. SPDK's nbd_start_disk is another thing: it needs the kernel's driver."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from ...errors import FtlError, NotFoundError
from .. import decode
from ..decode import DecodeError, Fields, Params
from ..methods import rpc
from ..refusals import refused
from ..state import TargetState


def _socket_path(value: Any) -> Path:
    text = decode.string(value)
    if not text.startswith("/"):
        raise DecodeError("must be an absolute path")
    return Path(text)


def _refusal(params: Params, error: FtlError) -> FtlError:
    # The bdev layer's error has SPDK's text, which names nothing.
    if isinstance(error, NotFoundError) and error.message == "No such device":
        return refused(f"there is no bdev {params['name']}", errno.ENODEV)
    return refused(error.message, error.errno)


@rpc("ftltgt_nbd_start", Fields({"name": decode.string, "socket_path": _socket_path}, {"read_only": decode.boolean}))
async def ftltgt_nbd_start(target: TargetState, params: Params) -> dict[str, Any]:
    """Serves a bdev at a unix socket. Returns the export, as ftltgt_nbd_get lists it."""
    try:
        return await target.nbd.start(params["name"], params["socket_path"], read_only=params.get("read_only", False))
    except FtlError as error:
        raise _refusal(params, error) from error


@rpc("ftltgt_nbd_stop", Fields({"name": decode.string}))
async def ftltgt_nbd_stop(target: TargetState, params: Params) -> bool:
    """Disconnects the clients; none of their I/O is outstanding when this returns."""
    try:
        await target.nbd.stop(params["name"])
    except FtlError as error:
        raise _refusal(params, error) from error
    return True


@rpc("ftltgt_nbd_get", Fields(None, {"name": decode.string}), exclusive=False)
async def ftltgt_nbd_get(target: TargetState, params: Params) -> list[dict[str, Any]]:
    try:
        return target.nbd.describe(params.get("name"))
    except FtlError as error:
        raise _refusal(params, error) from error
