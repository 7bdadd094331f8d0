"""The NBD exports of the target, on top of nbd/server.py: at most one for each bdev."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .. import _shim
from ..errors import ClaimedError, ExistsError, NotFoundError
from ..nbd.export import NbdExport
from ..nbd.server import NbdServer
from ..runtime.reactor import ReactorLoop
from .bdevs import BdevLayer, Descriptor

logger = logging.getLogger(__name__)


class NbdExports:
    """The state of the ftltgt_nbd_* methods."""

    def __init__(self, reactor: ReactorLoop, bdevs: BdevLayer) -> None:
        self._reactor = reactor
        self._bdevs = bdevs
        self._exports: dict[Descriptor, NbdServer] = {}

    async def start(self, name: str, path: Path, *, read_only: bool) -> dict[str, Any]:
        """Opens the bdev and, unless read_only, claims it. Returns what describe() says. Raises FtlError; nothing has
        changed then."""
        bdev = self._bdevs.get(name)
        for descriptor, server in self._exports.items():
            if descriptor.bdev is bdev:
                raise ExistsError(f"bdev {bdev.name} is already served by NBD, at {server.path}")
        if not read_only and bdev.claim is not None:
            raise ClaimedError(f"bdev {bdev.name} is claimed by {bdev.claim.owner}: NBD can only read it (read_only)")
        descriptor = self._bdevs.open(bdev.name, f"NBD export at {path}", write=not read_only)
        export = NbdExport(
            lambda: bdev.name,
            bdev.device,
            bdev.product_name,
            read_only=read_only,
            trim="unmap" in bdev.io_types,
            write_zeroes="write_zeroes" in bdev.io_types,
            fast_zero=isinstance(bdev.lower, _shim.EmulatedMedia),
        )
        server = NbdServer(self._reactor, export, path, remedy="give another path")
        try:
            if not read_only:
                self._bdevs.claim(descriptor)
            await server.start()
        except BaseException:
            descriptor.close()
            raise

        async def bdev_goes() -> None:
            logger.info("bdev %s was removed, and with it its NBD export at %s", bdev.name, path)
            await self._end(descriptor)

        descriptor.on_remove = bdev_goes
        self._exports[descriptor] = server
        return self._describe(descriptor, server)

    async def stop(self, name: str) -> None:
        """Raises NotFoundError, or what NbdServer.close() raises; the export has ended then, too."""
        bdev = self._bdevs.get(name)
        found = next((descriptor for descriptor in self._exports if descriptor.bdev is bdev), None)
        if found is None:
            raise NotFoundError(f"bdev {bdev.name} is not served by NBD")
        await self._end(found)

    async def close(self) -> None:
        """Idempotent."""
        for descriptor in list(self._exports):
            await self._end(descriptor)

    def describe(self, name: str | None) -> list[dict[str, Any]]:
        """Each export, or that of one bdev. Raises NotFoundError if there is no such bdev."""
        bdev = None if name is None else self._bdevs.get(name)
        return [
            self._describe(descriptor, server)
            for descriptor, server in self._exports.items()
            if bdev is None or descriptor.bdev is bdev
        ]

    def _describe(self, descriptor: Descriptor, server: NbdServer) -> dict[str, Any]:
        return {"name": descriptor.bdev.name, **server.describe()}

    async def _end(self, descriptor: Descriptor) -> None:
        server = self._exports.pop(descriptor, None)
        try:
            if server is not None:
                await server.close()
        finally:
            descriptor.close()
