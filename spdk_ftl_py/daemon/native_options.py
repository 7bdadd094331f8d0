"""Which FTL a request refers to, the daemon's or the target's own, and which of the parameters SPDK's FTL supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from .. import schema
from ..errors import ParameterError

DAEMON: Final = "daemon"
NATIVE: Final = "native"
ENGINE: Final = "engine"

CREATE: Final = "bdev_ftl_create"
DELETE: Final = "bdev_ftl_delete"
LOAD: Final = "bdev_ftl_load"
MAKERS: Final = {CREATE: CREATE, "construct_ftl_bdev": CREATE, LOAD: CREATE}
"""Methods that create or load an FTL, by SPDK's current name."""
FINDERS: Final = {
    **dict.fromkeys((DELETE, "delete_ftl_bdev", "bdev_ftl_unload"), DELETE),
    **{name: name for name in ("bdev_ftl_get_stats", "bdev_ftl_get_properties")},
    **{name: name for name in ("bdev_ftl_set_property", "bdev_ftl_unmap")},
}
"""Methods on an existing FTL, likewise."""

PARAMETERS: Final = {
    CREATE: (
        *("name", "base_bdev", "cache", "uuid"),
        *("overprovisioning", "l2p_dram_limit", "core_mask", "fast_shutdown"),
    ),
    DELETE: ("name", "fast_shutdown"),
    "bdev_ftl_get_stats": ("name",),
    "bdev_ftl_get_properties": ("name",),
    "bdev_ftl_set_property": ("name", "ftl_property", "value"),
    "bdev_ftl_unmap": ("name", "lba", "num_blocks"),
}
"""Parameters of SPDK's methods, as of v26.05 (module/bdev/ftl/bdev_ftl_rpc.c)."""
_OF_THE_CHECK: Final = ("target", ENGINE, "force")


def native_params(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters for the target's own FTL. params: of a method of this package, with or without defaults filled in.

    Raises ParameterError for parameters that SPDK's FTL does not support, would refuse, or would understand
    differently.
    """
    ours = schema.load(method)
    native = {**MAKERS, **FINDERS}[method]
    known = PARAMETERS[native]
    taken = (*known, *(_OF_THE_CHECK if native == CREATE else _OF_THE_CHECK[:2]))
    # False is the default of all switches, so it requests nothing.
    given = {name: value for name, value in params.items() if value is not None}
    strange = [name for name, value in given.items() if name not in taken and value is not False]
    if strange:
        what = ", ".join(_shown(ours, name) for name in strange)
        raise ParameterError(
            f"{method}: {what}: SPDK's own FTL has no such option: leave it out, or leave out --engine native"
        )
    target_params = {name: given[name] for name in known if name in given}
    if native == CREATE:
        _check_creation(method, ours, target_params)
    return target_params


def _check_creation(method: str, ours: schema.RpcSchema, target_params: dict[str, Any]) -> None:
    if target_params.get("cache") is None:
        raise ParameterError(
            f"{method}: parameter {_shown(ours, 'cache')} is missing: SPDK's own FTL needs a cache bdev"
        )
    if target_params.get("l2p_dram_limit") == 0:
        raise ParameterError(f"{method}: {_shown(ours, 'l2p_dram_limit')} is 0: SPDK's own FTL needs at least 1 MiB")
    if "uuid" in target_params and not UUID(target_params["uuid"]).int:
        if method == LOAD:
            # SPDK would create an FTL, and erase what is there.
            raise ParameterError(f"{method}: uuid is the nil UUID, which no FTL has: give the UUID of the FTL")
        del target_params["uuid"]


def _shown(ours: schema.RpcSchema, name: str) -> str:
    flags = next((each.flags for each in ours.parameters if each.name == name), ())
    return f"{name} ({flags[0]})" if flags else name
