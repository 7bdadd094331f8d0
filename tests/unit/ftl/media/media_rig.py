"""A small ZNS drive, and a port to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.runtime.reactor import ReactorLoop

UUID_A = UUID("b286d19a-0059-4709-abcd-9f7732b1567d")
ZONES, ZONE_SIZE, ZONE_CAPACITY = 130, 64, 48


@asynccontextmanager
async def opened_port(reactor: ReactorLoop, media: _shim.BlockDevice) -> AsyncIterator[BlockPort]:
    port = BlockPort(reactor, media, name="base", depth=4)
    try:
        yield port
    finally:
        await port.close()
