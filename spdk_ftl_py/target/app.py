"""The target as a whole: what RPCs act on, how they are dispatched, how everything starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any

from ..errors import JSONRPC_METHOD_NOT_FOUND
from ..runtime.reactor import ReactorLoop
from . import emulated, faults, framework, nvme_bdev, nvmf, virtual
from .bdevs import BdevLayer
from .jsonrpc import JsonRpcServer, RpcError
from .methods import METHODS, Params, decode_params

logger = logging.getLogger(__name__)

METHOD_MODULES = (emulated, faults, framework, nvme_bdev, nvmf, virtual)
"""Importing them fills METHODS."""


class Target:
    """>>> target = Target("/tmp/spdk.sock")
    >>> await target.start()
    >>> await target.dispatch("bdev_malloc_create", {"num_blocks": 1024, "block_size": 4096})
    >>> await target.close()
    """

    def __init__(self, rpc_path: str, *, reactor: ReactorLoop | None = None) -> None:
        self.rpc_path = rpc_path
        self.reactor = reactor if reactor is not None else ReactorLoop("target")
        self.bdevs = BdevLayer()
        self.virtual = virtual.VirtualBdevs(self)
        self.nvme = nvme_bdev.NvmeControllers(self)
        self.nvmf = nvmf.Nvmf(self)
        self.malloc_count = 0
        self.started = asyncio.Event()
        self.stopping = asyncio.Event()
        self.lock = asyncio.Lock()
        """Held by whatever changes the target: one RPC at a time, and events from drives between them."""
        self._saved: dict[str, tuple[str, Params]] = {}
        self._server = JsonRpcServer(rpc_path, self.dispatch)

    async def start(self, *, listen: bool = True) -> None:
        """Raises FtlError when the RPC socket can't be had; nothing is left then. listen=False: without a socket."""
        if listen:
            await self._server.start()
        await self.reactor.start()
        self.started.set()

    async def close(self) -> None:
        """Ends connections, exports and drives, upper ones first. Idempotent."""
        self.stopping.set()
        await self._server.close()
        async with self.lock:
            # Each step alone: one that fails must not keep what the others hold.
            for what, step in (
                ("exports", self.nvmf.close),
                ("controllers", self.nvme.close),
                ("bdevs", self.bdevs.close),
                ("reactor", self.reactor.stop),
            ):
                try:
                    await step()
                except Exception:
                    logger.exception("closing the target's %s failed", what)

    async def dispatch(self, method_name: str, params: Any) -> Any:
        """Runs one RPC. Raises FtlError with the code and message that SPDK would answer."""
        method = METHODS.get(method_name)
        if method is None:
            raise RpcError(JSONRPC_METHOD_NOT_FOUND, "Method not found")
        decoded = decode_params(method, params)
        async with self.lock if method.exclusive else contextlib.nullcontext():
            return await method.handler(self, decoded)

    def kill(self, signal_number: int) -> None:
        """spdk_kill_instance: the signal comes once the reply had its chance."""
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal_number)

    def remember(self, bdev_name: str, method: str, params: Params) -> None:
        """What framework_get_config says of a bdev, as JSON takes it."""
        self._saved[bdev_name] = (
            method,
            {name: value if isinstance(value, (bool, int, str)) else str(value) for name, value in params.items()},
        )

    def forget(self, bdev_name: str) -> None:
        self._saved.pop(bdev_name, None)

    def saved_bdevs(self) -> list[dict[str, Any]]:
        return [{"method": method, "params": dict(params)} for method, params in self._saved.values()]
