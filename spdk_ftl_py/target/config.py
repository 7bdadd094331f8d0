"""save_config and load_config: the target as the list of RPCs that build it again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import FtlError, ParameterError
from .json_scanner import JsonError, decode_json
from .methods import METHODS
from .state import TargetState

SUBSYSTEMS: dict[str, tuple[str, ...]] = {"keyring": (), "bdev": ("keyring",), "nvmf": ("bdev",)}

# A configuration saved by spdk_tgt also contains these. Nothing here depends on them.
TUNING_METHODS = frozenset(
    (
        "accel_set_options", "bdev_nvme_set_hotplug", "bdev_raid_set_options", "bdev_set_options",
        "framework_set_scheduler", "iobuf_set_options", "iscsi_set_options", "keyring_linux_set_options",
        "nvmf_set_config", "nvmf_set_crdt", "nvmf_set_max_subsystems", "sock_impl_set_options",
        "sock_set_default_impl", "thread_set_cpumask", "vmd_enable",
    )
)  # fmt: skip

FTL_SECTION = "ftl"
"""The section of the daemon, with FTLs. The daemon creates those itself."""

CONFIG_BYTES_MAX = 16 * 1024 * 1024


def subsystem_config(target: TargetState, name: str) -> list[dict[str, Any]]:
    """The answer to framework_get_config."""
    if name == "nvmf":
        return target.nvmf.saved()
    if name == "keyring":
        return target.keyring.saved()
    virtual = (*target.virtual.saved(), *target.splits.saved(), *target.errors.saved(), *target.raids.saved())
    return [*target.saved_bdevs(), *target.nvme.saved(), *virtual, {"method": "bdev_wait_for_examine"}]


def read_config(path: str) -> list[tuple[str, Any]]:
    """Returns the RPCs in a file written by ``spdk-rpc save_config``. Raises ParameterError that names the place of the
    fault."""
    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ParameterError(f"configuration {path}: {error.strerror}", errno=error.errno) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ParameterError(f"configuration {path} is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        document = decode_json(data)
    except JsonError as error:
        raise ParameterError(f"configuration {path} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("subsystems"), list):
        raise ParameterError(f'configuration {path} has no "subsystems" array: write one with spdk-rpc save_config')
    calls: list[tuple[str, Any]] = []
    for subsystem in document["subsystems"]:
        if not isinstance(subsystem, dict) or not isinstance(subsystem.get("config") or [], list):
            raise ParameterError(f'configuration {path}: a subsystem is not an object with a "config" array')
        if subsystem.get("subsystem") == FTL_SECTION:
            continue
        for entry in subsystem.get("config") or []:
            for call in entry if isinstance(entry, list) else [entry]:
                if not isinstance(call, dict) or not isinstance(call.get("method"), str):
                    raise ParameterError(
                        f'configuration {path}: {json.dumps(call)[:80]} is not an object with a "method" '
                        f"(subsystem {subsystem.get('subsystem')})"
                    )
                calls.append((call["method"], call.get("params")))
    return calls


async def apply_config(dispatch: Callable[[str, Any], Awaitable[object]], path: str) -> None:
    """Runs a saved configuration. Raises ParameterError that names the RPC that failed; earlier RPCs stay in effect."""
    for method, params in read_config(path):
        if method in TUNING_METHODS and method not in METHODS:
            continue
        try:
            await dispatch(method, params)
        except FtlError as error:
            raise ParameterError(
                f"configuration {path}: {method} {json.dumps(params)[:200]} failed: {error.message}"
            ) from error
