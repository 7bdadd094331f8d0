"""RPCs about the hosts that may connect to an FTL, and about those that are connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ..text import show_name
from .device import ManagedDevice
from .requester import requester
from .requests import AnyHostRequest, FtlRequest, HostRequest, NewHostRequest, takes
from .server import Method

Find = Callable[[FtlRequest], ManagedDevice]

log = logging.getLogger(__name__)


class HostRpcs:
    """``methods``, by RPC name, for the registry."""

    def __init__(self, find: Find, find_to_change: Find) -> None:
        self._find = find
        self._find_to_change = find_to_change

    @property
    def methods(self) -> dict[str, Method]:
        return {
            "bdev_ftl_add_host": takes(NewHostRequest, self.add_host),
            "bdev_ftl_remove_host": takes(HostRequest, self.remove_host),
            "bdev_ftl_allow_any_host": takes(AnyHostRequest, self.allow_any_host),
            "bdev_ftl_get_hosts": takes(FtlRequest, self.get_hosts),
        }

    async def add_host(self, request: NewHostRequest) -> bool:
        device = self._find_to_change(request)
        # The requester may have disconnected: the host is allowed, or not, and nothing in between.
        await asyncio.shield(device.allow_host(request.host, request.dhchap_key, request.dhchap_ctrlr_key, request.psk))
        proof = (", with its key" if request.dhchap_key else "") + (", by TLS" if request.psk else "")
        log.info("%s: host %s may connect%s, asked for by %s", device, show_name(request.host), proof, requester())
        return True

    async def remove_host(self, request: HostRequest) -> bool:
        device = self._find_to_change(request)
        # The requester may have disconnected: the host's connections end anyway.
        await asyncio.shield(device.disallow_host(request.host))
        log.info("%s: host %s may no longer connect, asked for by %s", device, show_name(request.host), requester())
        return True

    async def allow_any_host(self, request: AnyHostRequest) -> bool:
        device = self._find_to_change(request)
        allow = request.allow_any_host
        await asyncio.shield(device.allow_any_host(allow))
        who = "any host" if allow else "only hosts in its list"
        log.info("%s: %s may connect, asked for by %s", device, who, requester())
        return True

    async def get_hosts(self, request: FtlRequest) -> dict[str, Any]:
        return self._find(request).tell_hosts()
