"""keyring_*: names of key files."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from ...errors import JSONRPC_INVALID_PARAMS
from .. import decode
from ..decode import Fields, Params
from ..methods import rpc
from ..state import TargetState

_INVALID: Final = (JSONRPC_INVALID_PARAMS, os.strerror(errno.EINVAL))


@rpc(
    "keyring_file_add_key",
    Fields({"name": decode.string, "path": decode.string}, tolerant=True),
    decode_error=_INVALID,
)
async def keyring_file_add_key(target: TargetState, params: Params) -> bool:
    target.keyring.add(params["name"], params["path"])
    return True


@rpc("keyring_file_remove_key", Fields({"name": decode.string}), decode_error=_INVALID)
async def keyring_file_remove_key(target: TargetState, params: Params) -> bool:
    target.keyring.remove(params["name"])
    return True


@rpc("keyring_get_keys", Fields(tolerant=True), exclusive=False)
async def keyring_get_keys(target: TargetState, _params: Params) -> list[dict[str, Any]]:
    return [
        {"name": entry.name, "module": "keyring_file", "removed": False, "path": str(entry.path)}
        for entry in target.keyring.entries.values()
    ]
