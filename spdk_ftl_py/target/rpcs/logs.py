"""log_*: levels and flags of SPDK's log, for Python's loggers of this target.

A flag is the name of an SPDK component. While it is set, the loggers of the modules that play that part here log
everything. The print level is the level of the whole package on standard error. The level, which in SPDK is that of
syslog, is only stored: this target does not use syslog.
"""

from __future__ import annotations

import fnmatch
import logging
import re

from ...errors import JSONRPC_INVALID_PARAMS
from .. import decode
from ..decode import Fields, Params
from ..jsonrpc import RpcError
from ..methods import rpc
from ..state import TargetState

PACKAGE = __name__.partition(".")[0]
_TARGET, _NVME = f"{PACKAGE}.target", f"{PACKAGE}.nvme"
ALL = "all"

# NOTICE is what Python's INFO is.
LEVELS = {
    "ERROR": logging.ERROR, "WARNING": logging.WARNING, "NOTICE": logging.INFO, "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
}  # fmt: skip

FLAGS = {
    "aio": f"{_TARGET}.rpcs.emulated", "app_config": f"{_TARGET}.config", "app_rpc": f"{_TARGET}.rpcs.framework",
    "bdev": f"{_TARGET}.bdevs", "bdev_concat": f"{_TARGET}.raid", "bdev_malloc": f"{_TARGET}.rpcs.emulated",
    "bdev_null": f"{_TARGET}.rpcs.emulated", "bdev_nvme": f"{_TARGET}.nvme_bdev", "bdev_raid": f"{_TARGET}.raid",
    "bdev_raid0": f"{_TARGET}.raid", "bdev_raid1": f"{_TARGET}.raid", "json_util": f"{_TARGET}.decode",
    "keyring": f"{_TARGET}.keyring", "log_rpc": f"{_TARGET}.rpcs.logs", "notify_rpc": f"{_TARGET}.rpcs.framework",
    "nvme": f"{_NVME}.host", "nvme_auth": f"{_NVME}.auth", "nvmf": f"{_NVME}.target",
    "nvmf_auth": f"{_NVME}.target.authentication", "nvmf_tcp": f"{_NVME}.target.listener",
    "reactor": f"{PACKAGE}.runtime.reactor", "rpc": f"{_TARGET}.jsonrpc", "sock": f"{PACKAGE}.runtime.sockets",
    "vbdev_delay": f"{_TARGET}.virtual", "vbdev_passthru": f"{_TARGET}.virtual", "vbdev_split": f"{_TARGET}.parts",
    "vbdev_zone_block": f"{_TARGET}.virtual",
}  # fmt: skip
"""The logger of each flag, in the order in which SPDK prints flags."""


def _set_flags(target: TargetState, pattern: str, enabled: bool) -> bool:
    """pattern: a name, shell wildcards, or "all"; letters match in either case. False: it matches no flag."""
    matches = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match
    chosen = set(FLAGS) if pattern.lower() == ALL else {flag for flag in FLAGS if matches(flag)}
    target.log_flags = target.log_flags | chosen if enabled else target.log_flags - chosen
    loud = {FLAGS[flag] for flag in target.log_flags}
    for name in {FLAGS[flag] for flag in chosen}:
        logging.getLogger(name).setLevel(logging.DEBUG if name in loud else logging.NOTSET)
    return bool(chosen)


@rpc("log_get_flags", exclusive=False)
async def log_get_flags(target: TargetState, _params: Params) -> dict[str, bool]:
    return {flag: flag in target.log_flags for flag in FLAGS}


@rpc("log_set_flag", Fields({"flag": decode.string}))
async def log_set_flag(target: TargetState, params: Params) -> bool:
    if not _set_flags(target, params["flag"], enabled=True):
        raise RpcError(JSONRPC_INVALID_PARAMS, "invalid log flag")
    return True


@rpc("log_clear_flag", Fields({"flag": decode.string}))
async def log_clear_flag(target: TargetState, params: Params) -> bool:
    if not _set_flags(target, params["flag"], enabled=False):
        raise RpcError(JSONRPC_INVALID_PARAMS, "invalid log flag")
    return True


_LEVEL = Fields({"level": decode.choice(*LEVELS)})


@rpc("log_get_level", exclusive=False)
async def log_get_level(target: TargetState, _params: Params) -> str:
    return target.log_level


@rpc("log_set_level", _LEVEL)
async def log_set_level(target: TargetState, params: Params) -> bool:
    target.log_level = params["level"]
    return True


@rpc("log_get_print_level", exclusive=False)
async def log_get_print_level(target: TargetState, _params: Params) -> str:
    """As it was set, or what the program was started with."""
    if target.log_print_level is not None:
        return target.log_print_level
    in_force = logging.getLogger(PACKAGE).getEffectiveLevel()
    names = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARNING": logging.WARNING}
    return next((name for name, level in names.items() if in_force <= level), "ERROR")


@rpc("log_set_print_level", _LEVEL)
async def log_set_print_level(target: TargetState, params: Params) -> bool:
    target.log_print_level = params["level"]
    logging.getLogger(PACKAGE).setLevel(LEVELS[params["level"]])
    return True
