"""RPCs about the hosts that may connect to an FTL, and about those that are connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..text import show_name
from .device import ManagedDevice
from .requester import requester

Find = Callable[[dict[str, Any]], ManagedDevice]

log = logging.getLogger(__name__)


class HostRpcs:
    """``methods`` by RPC name, for the registry's."""

    def __init__(self, find: Find, find_to_change: Find) -> None:
        self._find = find
        self._find_to_change = find_to_change

    @property
    def methods(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        return {
            "bdev_ftl_add_host": self.add_host,
            "bdev_ftl_remove_host": self.remove_host,
            "bdev_ftl_allow_any_host": self.allow_any_host,
            "bdev_ftl_get_hosts": self.get_hosts,
        }

    async def add_host(self, params: dict[str, Any]) -> bool:
        device = self._find_to_change(params)
        keys = (params.get("dhchap_key"), params.get("dhchap_ctrlr_key"), params.get("psk"))
        device.admission.add(params["host"], *keys)
        proof = (", with its key" if keys[0] else "") + (", by TLS" if keys[2] else "")
        log.info("%s: host %s may connect%s, asked for by %s", device, show_name(params["host"]), proof, requester())
        return True

    async def remove_host(self, params: dict[str, Any]) -> bool:
        device = self._find_to_change(params)
        # The requester may have disconnected: the host's connections end anyway.
        await asyncio.shield(device.disallow_host(params["host"]))
        log.info("%s: host %s may no longer connect, asked for by %s", device, show_name(params["host"]), requester())
        return True

    async def allow_any_host(self, params: dict[str, Any]) -> bool:
        device = self._find_to_change(params)
        allow: bool = params["allow_any_host"]
        await asyncio.shield(device.allow_any_host(allow))
        who = "any host" if allow else "only hosts in its list"
        log.info("%s: %s may connect, asked for by %s", device, who, requester())
        return True

    async def get_hosts(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._find(params).tell_hosts()
