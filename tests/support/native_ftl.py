"""A target's own FTL, in front of the embedded target, which has none: what SPDK v26.05 takes and answers.

As in module/bdev/ftl/bdev_ftl_rpc.c and bdev_ftl.c; tests/live/test_native_engine.py compares it with a real one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from spdk_ftl_py.target.jsonrpc import RpcError
from support.spdk_ftl_rpcs import GROUP, RPCS, STATS

INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603
UNMAP_BLOCKS: Final = 1024
OVERPROVISIONED: Final = 80

PROPERTIES: Final[list[dict[str, Any]]] = [
    {"name": "superblock_version", "value": 5, "read-only": True},
    {
        "name": "verbose_mode",
        "value": False,
        "unit": "",
        "desc": "In verbose mode, user is able to get access to additional advanced FTL properties",
    },
    {
        "name": "prep_upgrade_on_shutdown",
        "value": False,
        "unit": "",
        "desc": "During shutdown, FTL executes all actions which are needed for upgrade to a new version",
    },
]
"""Without those that verbose_mode adds (base_device, cache_device)."""


class Inner(Protocol):
    async def dispatch(self, method: str, params: Any) -> Any: ...


class TargetWithFtl:
    """``called``: of its FTL RPCs, with their parameters. ``fails``: what is wrong with each creation, from now on."""

    def __init__(self, inner: Inner) -> None:
        self._inner = inner
        self._bdevs: dict[str, dict[str, Any]] = {}
        self._params: dict[str, dict[str, Any]] = {}
        self.called: list[tuple[str, dict[str, Any]]] = []
        self.fails: str | None = None

    async def dispatch(self, method: str, params: Any) -> Any:
        if method in RPCS:
            self.called.append((method, copy.deepcopy(params)))
            known, required = RPCS[method]
            # Of a creation its decoder asks for a cache, too.
            required = required | ({"cache"} if method == "bdev_ftl_create" else set())
            if not required <= params.keys() <= known.keys():
                raise RpcError(INVALID_PARAMS, "Invalid parameters")
            return await getattr(self, f"_{method.removeprefix('bdev_ftl_')}")(params)
        if method == "bdev_get_bdevs" and params and params.get("name") in self._bdevs:
            return [self._bdevs[params["name"]]]
        answer = await self._inner.dispatch(method, params)
        if method == "rpc_get_methods":
            return [*answer, *RPCS]
        if method == "bdev_get_bdevs":
            return [*map(self._with_claim, answer), *([] if params else self._bdevs.values())]
        if method == "framework_get_config" and params["name"] == "bdev":
            return [*answer, *({"method": "bdev_ftl_create", "params": each} for each in self._params.values())]
        return answer

    def _with_claim(self, bdev: dict[str, Any]) -> dict[str, Any]:
        taken = {each[role] for each in self._params.values() for role in ("base_bdev", "cache")}
        return {**bdev, "claimed": True, "claim_type": "exclusive_write"} if bdev["name"] in taken else bdev

    async def _create(self, params: Mapping[str, Any]) -> Any:
        name = params["name"]
        bdevs = {each["name"]: each for each in await self.dispatch("bdev_get_bdevs", None)}
        if name in bdevs:
            raise RpcError(INVALID_PARAMS, "Failed to create FTL bdev: File exists")
        if params["base_bdev"] not in bdevs or params["cache"] not in bdevs:
            return f"FTL bdev: {name} creation deferred"
        if self.fails is not None:
            raise RpcError(INTERNAL, f"Failed to create FTL bdev: {self.fails}")
        base = bdevs[params["base_bdev"]]
        uuid = str(UUID(params["uuid"])) if "uuid" in params else str(uuid4())
        self._bdevs[name] = {
            **base,
            "name": name,
            "aliases": [uuid],
            "uuid": uuid,
            "product_name": "FTL disk",
            "num_blocks": base["num_blocks"] * OVERPROVISIONED // 100,
            "driver_specific": {"ftl": {"base_bdev": params["base_bdev"], "cache": params["cache"]}},
        }
        self._params[name] = {
            "name": name,
            "overprovisioning": params.get("overprovisioning", 20),
            "l2p_dram_limit": params.get("l2p_dram_limit", 2048),
            "uuid": uuid,
            "fast_shutdown": params.get("fast_shutdown", True),
            "base_bdev": params["base_bdev"],
            "cache": params["cache"],
        }
        return {"name": name, "uuid": uuid}

    def _require(self, params: Mapping[str, Any]) -> str:
        if params["name"] not in self._bdevs:
            raise RpcError(-19, "No such device")
        return str(params["name"])

    async def _delete(self, params: Mapping[str, Any]) -> bool:
        name = self._require(params)
        del self._bdevs[name], self._params[name]
        return True

    async def _unmap(self, params: Mapping[str, Any]) -> bool:
        self._require(params)
        if params["lba"] % UNMAP_BLOCKS or params["num_blocks"] % UNMAP_BLOCKS:
            raise RpcError(-22, "Invalid argument")
        return True

    async def _get_stats(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": self._require(params), **{group: copy.deepcopy(GROUP) for group in STATS}}

    async def _get_properties(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": self._require(params), "properties": copy.deepcopy(PROPERTIES)}

    async def _set_property(self, params: Mapping[str, Any]) -> bool:
        self._require(params)
        if params["ftl_property"] not in [each["name"] for each in PROPERTIES if not each.get("read-only")]:
            raise RpcError(-1, "Operation not permitted")
        return True
