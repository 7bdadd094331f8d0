"""RPCs about the target itself: versions, methods, bdev_get_bdevs, notifications, configuration, signals."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from .. import decode
from ..bdevs import NOTIFICATION_TYPES
from ..config import SUBSYSTEMS, subsystem_config
from ..decode import DecodeError, Fields, Params
from ..jsonrpc import RpcError
from ..methods import METHODS, rpc
from ..refusals import INVALID_PARAMETERS
from ..state import TargetState

# Clients check "SPDK vYY.MM", so this is the release whose RPCs we follow. The suffix names this program.
SPDK_MAJOR, SPDK_MINOR, SPDK_PATCH = 26, 5, 0
VERSION_SUFFIX = "-spdk-ftl"
SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1")
WAIT_MS_MAX = 24 * 3600 * 1000


@rpc("spdk_get_version", exclusive=False)
async def spdk_get_version(_target: TargetState, _params: Params) -> dict[str, Any]:
    return {
        "version": f"SPDK v{SPDK_MAJOR}.{SPDK_MINOR:02}{VERSION_SUFFIX}",
        "fields": {"major": SPDK_MAJOR, "minor": SPDK_MINOR, "patch": SPDK_PATCH, "suffix": VERSION_SUFFIX},
    }


@rpc(
    "rpc_get_methods",
    Fields(None, {"current": decode.boolean, "include_aliases": decode.boolean}),
    decode_error=INVALID_PARAMETERS,
    exclusive=False,
)
async def rpc_get_methods(_target: TargetState, params: Params) -> list[str]:
    startup_only = {"framework_start_init"}
    return [name for name in sorted(METHODS) if not (params.get("current", False) and name in startup_only)]


@rpc("framework_wait_init", exclusive=False)
async def framework_wait_init(target: TargetState, _params: Params) -> bool:
    await target.started.wait()
    return True


@rpc("framework_start_init", exclusive=False)
async def framework_start_init(_target: TargetState, _params: Params) -> bool:
    raise RpcError(
        -1,
        "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter and then "
        "issue this RPC before the framework_start_init RPC.",
    )


@rpc("framework_get_subsystems", exclusive=False)
async def framework_get_subsystems(_target: TargetState, _params: Params) -> list[dict[str, Any]]:
    return [{"subsystem": name, "depends_on": list(depends_on)} for name, depends_on in SUBSYSTEMS.items()]


@rpc(
    "framework_get_config",
    Fields({"name": decode.string}, {"with_batches": decode.boolean}),
    decode_error=INVALID_PARAMETERS,
    exclusive=False,
)
async def framework_get_config(target: TargetState, params: Params) -> list[dict[str, Any]] | None:
    if params["name"] not in SUBSYSTEMS:
        raise RpcError(-32602, f"Subsystem '{params['name']}' not found")
    return subsystem_config(target, params["name"])


@rpc("bdev_get_bdevs", Fields(None, {"name": decode.string, "timeout": decode.uint64}), exclusive=False)
async def bdev_get_bdevs(target: TargetState, params: Params) -> list[dict[str, Any]]:
    """timeout: milliseconds to wait for the named bdev."""
    if "name" not in params:
        return [bdev.info() for bdev in target.bdevs if not bdev.removing]
    timeout_ms = min(params.get("timeout", 0), WAIT_MS_MAX)
    bdev = await target.bdevs.wait_for(params["name"], timeout_ms / 1000)
    return [bdev.info()]


@rpc("bdev_wait_for_examine")
async def bdev_wait_for_examine(_target: TargetState, _params: Params) -> bool:
    """Registration includes examination here, so the method only has to wait for its turn."""
    return True


@rpc("notify_get_types", exclusive=False)
async def notify_get_types(_target: TargetState, _params: Params) -> list[str]:
    return list(NOTIFICATION_TYPES)


@rpc(
    "notify_get_notifications",
    Fields(None, {"id": decode.uint64, "max": decode.uint64}),
    decode_error=(-32602, os.strerror(errno.EINVAL)),
    exclusive=False,
)
async def notify_get_notifications(target: TargetState, params: Params) -> list[dict[str, Any]]:
    return target.bdevs.notifications.get(params.get("id", 0), params.get("max", 2**64 - 1))


def _signal_number(value: Any) -> int:
    if isinstance(value, str):
        name = value if value.startswith("SIG") else f"SIG{value}"
        if name in SIGNALS:
            return int(signal.Signals[name])
    elif isinstance(value, int) and not isinstance(value, bool):
        for name in SIGNALS:
            if value == signal.Signals[name]:
                return value
    raise DecodeError("must be one of " + ", ".join(SIGNALS))


@rpc("spdk_kill_instance", Fields({"sig_name": _signal_number}), decode_error=INVALID_PARAMETERS, exclusive=False)
async def spdk_kill_instance(target: TargetState, params: Params) -> bool:
    target.kill(params["sig_name"])
    return True
