"""The target as a whole: dispatch of RPCs, start and end."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from ..errors import JSONRPC_METHOD_NOT_FOUND
from ..runtime.reactor import ReactorLoop
from .jsonrpc import JsonRpcServer, RpcError
from .methods import METHODS, decode_params
from .rpcs import bench, emulated, faults, framework, iostat, keyring, logs, nbd, nvme_bdev, nvmf, parts, raid, virtual
from .state import TargetState

logger = logging.getLogger(__name__)

METHOD_MODULES = (bench, emulated, faults, framework, iostat, keyring, logs, nbd, nvme_bdev, nvmf, parts, raid, virtual)
"""Importing them fills METHODS."""


class Target(TargetState):
    """>>> target = Target("/tmp/spdk.sock")
    >>> await target.start()
    >>> await target.dispatch("bdev_malloc_create", {"num_blocks": 1024, "block_size": 4096})
    >>> await target.close()
    """

    def __init__(self, rpc_path: str, *, reactor: ReactorLoop | None = None) -> None:
        super().__init__(reactor if reactor is not None else ReactorLoop("target"))
        self._server = JsonRpcServer(rpc_path, self.dispatch)

    async def start(self, *, listen: bool = True) -> None:
        """Starts the target. listen=False: without an RPC socket. Raises FtlError if it cannot have the socket; nothing
        is left behind then."""
        if listen:
            await self._server.start()
        await self.reactor.start()
        self.started.set()

    async def close(self) -> None:
        """Ends connections, exports and drives, from the top down. Idempotent."""
        self.stopping.set()
        await self._server.close()
        self.errors.abort_pending()
        async with self.lock:
            # Each step on its own: a step that fails must not keep the others from releasing what they hold.
            for what, step in (
                ("exports", self.nvmf.close),
                ("NBD exports", self.nbd.close),
                ("controllers", self.nvme.close),
                ("raids", self.raids.close),
                ("bdevs", self.bdevs.close),
                ("reactor", self.reactor.stop),
            ):
                try:
                    await step()
                except Exception:
                    logger.exception("closing the target's %s failed", what)

    async def dispatch(self, method_name: str, params: Any) -> Any:
        """Runs one RPC. Raises FtlError with the code and message of SPDK's answer."""
        method = METHODS.get(method_name)
        if method is None:
            raise RpcError(JSONRPC_METHOD_NOT_FOUND, "Method not found")
        decoded = decode_params(method, params)
        async with self.lock if method.exclusive else contextlib.nullcontext():
            return await method.handler(self, decoded)
