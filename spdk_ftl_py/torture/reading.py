"""Reads all blocks of a device."""

from __future__ import annotations

import asyncio

from ..errors import MediaError
from ..ftl.media.blockdev import BlockPort
from .content import Content
from .model import READ_ERROR
from .workload import READ_BLOCKS_MAX


async def read_versions(port: BlockPort, content: Content, block_count: int) -> list[int]:
    """The version of each of the first blocks: 0 for zeroes, GARBAGE or READ_ERROR."""
    step = min(READ_BLOCKS_MAX, port.device.max_io_blocks)
    parts = [(first, min(step, block_count - first)) for first in range(0, block_count, step)]
    found = await asyncio.gather(*(_read(port, content, *part) for part in parts))
    return [version for part in found for version in part]


async def _read(port: BlockPort, content: Content, first: int, block_count: int) -> list[int]:
    try:
        return content.versions(first, await port.read(first, block_count))
    except MediaError:
        if block_count == 1:
            return [READ_ERROR]
    lbas = range(first, first + block_count)
    return [version for lba in lbas for version in await _read(port, content, lba, 1)]
