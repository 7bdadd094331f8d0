"""Dispatches a request to an engine: FTLs of the daemon, or the target's own FTL.

For the target's own FTL, the daemon checks what it can before a creation, and lets the target do the rest. It saves
nothing about such an FTL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol
from uuid import UUID

from .. import _shim
from ..errors import ExistsError, FtlError, NotFoundError, ParameterError, UnsupportedError
from ..ftl.media.blockdev import BlockPort
from ..ftl.media.signatures import SPDK_FTL, find_foreign
from ..runtime.reactor import ReactorLoop
from ..spdk import native_ftl
from ..spdk.bdevs import Bdev, find_bdev, get_bdev, get_bdevs
from ..spdk.claims import require_unclaimed
from ..spdk.exports import TransportMissingError
from ..spdk.rpc import TargetRpc
from ..time_limit import time_limit
from .base import DaemonIdentity
from .config_rpcs import normal_target
from .device import ManagedDevice
from .native_options import CREATE, DAEMON, ENGINE, FINDERS, MAKERS, NATIVE, native_params
from .probing import look_at
from .requester import requester
from .server import Method

_OURS_ALONE = frozenset(
    (
        *("bdev_ftl_scrub", "bdev_ftl_grow", "bdev_ftl_rename", "bdev_ftl_set_cache", "bdev_ftl_remove_cache"),
        *("bdev_ftl_add_host", "bdev_ftl_remove_host", "bdev_ftl_allow_any_host"),
        *("bdev_ftl_add_listener", "bdev_ftl_remove_listener", "bdev_ftl_set_ana_state"),
    )
)
"""Methods that SPDK's own FTL has no equivalent of."""

LOOK_S: Final = 5.0
"""How long the daemon asks a target, which may not run, whether an FTL is the target's own."""

log = logging.getLogger(__name__)


class Devices(Protocol):
    """The part of the registry that this module needs."""

    @property
    def devices(self) -> Mapping[tuple[str, str], ManagedDevice]: ...
    def require_no_halt(self) -> None: ...
    async def undo_orphans(self, target: str) -> None: ...


class NativeEngine:
    """Dispatches for all targets of one daemon."""

    def __init__(self, registry: Devices, identity: DaemonIdentity) -> None:
        self._registry = registry
        self._identity = identity

    def route(self, methods: Mapping[str, Method]) -> dict[str, Method]:
        """methods: the daemon's, by RPC name, without the parameter "engine". Adds that parameter to methods that have
        it, and dispatches them to the target's own FTL if that is meant."""
        return {name: self._routed(name, method) for name, method in methods.items()}

    def _routed(self, method: str, ours: Method) -> Method:
        async def make(params: dict[str, Any]) -> Any:
            return await (self._create(method, params) if params.pop(ENGINE, None) == NATIVE else ours(params))

        async def find(params: dict[str, Any]) -> Any:
            engine = params.pop(ENGINE, None)
            if engine == DAEMON or not await self._is_native(params, insisted=engine == NATIVE):
                return await ours(params)
            return await self._call(method, params)

        async def refuse(params: dict[str, Any]) -> Any:
            if await self._is_native(params):
                raise UnsupportedError(
                    f"FTL bdev {params['name']}: is the own FTL of the SPDK target at {params['target']}, which does "
                    f"not support {method}"
                )
            return await ours(params)

        if method in MAKERS:
            return make
        if method in FINDERS:
            return find
        return refuse if method in _OURS_ALONE else ours

    # --- an existing FTL

    async def _is_native(self, params: Mapping[str, Any], *, insisted: bool = False) -> bool:
        """Whether params refer to the target's own FTL. Names are unique in a target, so at most one of both is its
        bdev; but an FTL of the daemon may not be a bdev (yet). insisted: it must be the target's own; otherwise raises
        ParameterError, NotFoundError, UnsupportedError and TargetError."""
        name, target = params["name"], params.get("target")
        if not insisted and (target is None or self._has(name, normal_target(target))):
            return False
        if target is None:
            raise ParameterError(
                f"FTL bdev {name}: no SPDK target is given, and only the target knows its own FTLs: name it with -s "
                "TARGET (the RPC's parameter target)"
            )
        rpc = self._identity.rpc(normal_target(target))
        if not insisted:
            try:
                async with time_limit(LOOK_S):
                    return await _own_ftl(rpc, name) is not None
            except (FtlError, TimeoutError, asyncio.TimeoutError) as error:
                # What the daemon says about its own FTLs is the better answer.
                log.debug("%s: can't ask the target whether this is its own FTL: %s", name, error)
                return False
        if await _own_ftl(rpc, name) is None:
            await native_ftl.require_method(rpc, CREATE)
            there = ", ".join(bdev.name for bdev in await get_bdevs(rpc) if bdev.product_name == native_ftl.PRODUCT)
            raise NotFoundError(
                f"FTL bdev {name}: the SPDK target at {rpc.address} has no FTL of its own of that name; it has: "
                f"{there or 'none'}"
            )
        return True

    def _has(self, name: str, target: str) -> bool:
        return (target, name) in self._registry.devices

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        self._registry.require_no_halt()
        target_params = native_params(method, params)
        rpc = self._identity.rpc(normal_target(params["target"]))
        native = FINDERS[method]
        await native_ftl.require_method(rpc, native)
        answer = await native_ftl.call(rpc, native, target_params)
        log.info("%s of %s: %s, asked for by %s", params["name"], rpc.address, native, requester())
        return answer

    # --- a new FTL

    async def _create(self, method: str, params: dict[str, Any]) -> Any:
        """{"name", "uuid"}, or whatever the target returns."""
        self._registry.require_no_halt()
        target_params = native_params(method, params)
        target = normal_target(params["target"])
        rpc = self._identity.rpc(target)
        await native_ftl.require_method(rpc, CREATE)
        await self._registry.undo_orphans(target)
        await self._check_names(rpc, target_params)
        base = await get_bdev(rpc, target_params["base_bdev"], role="base bdev")
        native_ftl.check_base(base)
        cache = await get_bdev(rpc, target_params["cache"], role="cache bdev")
        native_ftl.check_cache(cache, base=base)
        for role, bdev in (("base", base), ("cache", cache)):
            await self._identity.own_bdevs.require_other(rpc, bdev, role)
            await require_unclaimed(rpc, bdev, f"{role} bdev")
        if not params.get("force"):
            for role, bdev in (("base", base), ("cache", cache)):
                await self._check_whose(rpc, bdev, f"{role} bdev {bdev.name}", loads="uuid" in target_params)
        answer = await native_ftl.call(rpc, CREATE, target_params)
        log.info(
            "%s of %s: the target's own FTL, created on %s and %s, asked for by %s",
            target_params["name"],
            target,
            base.name,
            cache.name,
            requester(),
        )
        return answer

    async def _check_names(self, rpc: TargetRpc, target_params: Mapping[str, Any]) -> None:
        """Raises ExistsError."""
        name, uuid = target_params["name"], UUID(target_params["uuid"]) if "uuid" in target_params else None
        for device in self._registry.devices.values():
            if device.name == name and device.target == rpc.address:
                raise ExistsError(
                    f"name {name}: the daemon has an FTL bdev of that name ({device.state.value}, on the SPDK target "
                    f"at {device.target}): choose another, or delete it first"
                )
            if device.uuid == uuid:
                raise ExistsError(
                    f"uuid {uuid}: FTL bdev {device.name} of the daemon ({device.state.value}, on the SPDK target at "
                    f"{device.target}) has it, so it is not the target's own FTL: leave out --engine native"
                )
        for bdev in await get_bdevs(rpc):
            if name in bdev.names:
                raise ExistsError(
                    f"name {name}: the SPDK target at {rpc.address} has a bdev of that name ({bdev.product_name}): "
                    "choose another, or delete that bdev first"
                )
            if uuid is not None and str(uuid) in (bdev.uuid.lower(), *(alias.lower() for alias in bdev.aliases)):
                raise ExistsError(
                    f"uuid {uuid}: bdev {bdev.name} of the SPDK target at {rpc.address} already has it: choose another"
                )

    async def _check_whose(self, rpc: TargetRpc, bdev: Bdev, what: str, *, loads: bool) -> None:
        """Raises ExistsError if a bdev holds data, and other errors if that can't be determined. loads: SPDK finds the
        FTL by its cache, and would overwrite a base that belongs to something else."""
        unseen = "or give --force to erase the bdevs without looking at their data"
        if bdev.metadata_bytes and loads:
            return
        if bdev.metadata_bytes:
            raise UnsupportedError(
                f"{what} has separate metadata, so the daemon can't read its data over NVMe-oF: give --force if the "
                "data is not needed; the daemon then does not look at the base bdev either"
            )
        try:
            found = await self._identity.prober.visit(
                rpc, bdev, lambda reactor, media: _what_is_on(reactor, media, bdev)
            )
        except TransportMissingError as error:
            raise TransportMissingError(f"{error.message}; {unseen}") from error
        if loads and found not in (None, SPDK_FTL):
            raise ExistsError(
                f"{what} holds {found}, not the FTL to be loaded: give the bdevs that the FTL was created on"
            )
        if not loads and found is not None:
            raise ExistsError(f"{what} holds {found}: use another bdev, or give --force to erase it")


async def _own_ftl(rpc: TargetRpc, name: str) -> Bdev | None:
    bdev = await find_bdev(rpc, name)
    return bdev if bdev is not None and bdev.product_name == native_ftl.PRODUCT else None


async def _what_is_on(reactor: ReactorLoop, media: _shim.BlockDevice, bdev: Bdev) -> str | None:
    """What is on a bdev, in words; None: nothing that is recognized."""
    try:
        probed = await look_at(reactor, media, bdev)
    except UnsupportedError as error:
        return f"an FTL of the daemon ({error.message})"
    if probed.uuid is not None:
        return f"an FTL of the daemon, {probed.name!r} with uuid {probed.uuid}"
    if probed.cache_of is not None:
        return f"the nv cache of FTL {probed.cache_of} of the daemon"
    port = BlockPort(reactor, media, name=bdev.name)
    try:
        return await find_foreign(port)
    finally:
        await port.close()
