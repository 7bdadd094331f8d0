"""Common methods of everything with blocks: media, a namespace of a target, an FTL."""

from __future__ import annotations

import errno
from typing import Final

from .. import _shim
from ..errors import MediaError, ParameterError
from ..ftl.media.blockdev import BlockPort
from ..runtime.reactor import ReactorLoop
from ..runtime.tasks import to_its_end
from .closing import Closing

TRIM_BLOCKS: Final = 1 << 18
"""Blocks in one command, so that hosts do not wait long for it."""


class BlockDevice(Closing):
    """Blocks that can be read and written. Lengths and addresses are in blocks.

    Every method that does I/O raises MediaError, with the NVMe status, if the device answers with an error, and
    ParameterError for a range beyond the device. I/O may run in parallel; the order of overlapping I/O is undefined
    unless it is awaited. A cancelled method leaves its I/O to complete by itself.
    """

    def __init__(
        self, reactor: ReactorLoop, device: _shim.BlockDevice, *, name: str, patience_s: float | None = None
    ) -> None:
        """For this package. Scripts get an instance from a subclass."""
        self.name = name
        self.reactor = reactor
        self.device = device
        """The device of the data path; not for scripts."""
        self._patience_s = patience_s
        self._port: BlockPort | None = None
        self._closed = False

    @property
    def block_count(self) -> int:
        return self.device.block_count

    @property
    def block_bytes(self) -> int:
        """Bytes in a block, including metadata if the device interleaves any."""
        return self.device.block_bytes

    @property
    def zoned(self) -> bool:
        """Whether a zone can only be written at its write pointer."""
        return self.device.zoned

    async def read(self, lba: int, block_count: int = 1) -> bytes:
        """Returns block_count * block_bytes bytes. On an FTL, blocks that were never written, or were trimmed, read as
        zeroes."""
        self._check(lba, block_count)
        return (await self._io().read(lba, block_count)).tobytes()

    async def write(self, lba: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> None:
        """data: whole blocks, in one piece of memory, which must not change until this returns, or until close() if it
        is cancelled. fua: the blocks are durable on return; otherwise after a flush(). If a long write fails, some of
        its blocks may be written, but each block is old or new as a whole."""
        view = memoryview(data).cast("B")
        if not len(view) or len(view) % self.block_bytes:
            raise ParameterError(
                f"{self.name}: {len(view)} bytes are not a multiple of the block size {self.block_bytes}"
            )
        self._check(lba, len(view) // self.block_bytes)
        step = max(1, self.device.max_io_blocks)
        for first in range(0, len(view) // self.block_bytes, step):
            part = view[first * self.block_bytes : (first + step) * self.block_bytes]
            await self._io().write(lba + first, part, fua=fua)

    async def flush(self) -> None:
        """Makes earlier writes durable."""
        await self._io().flush()

    async def trim(self, lba: int, block_count: int = 1) -> None:
        """Trims blocks that are no longer needed. On an FTL they read as zeroes from now on."""
        self._check(lba, block_count)
        for first in range(lba, lba + block_count, TRIM_BLOCKS):
            await self._io().deallocate(first, min(TRIM_BLOCKS, lba + block_count - first))

    async def close(self) -> None:
        """Waits for I/O of this object. Idempotent; later I/O raises MediaError."""
        self._closed = True
        if self._port is not None:
            await to_its_end(self._port.close())

    def _io(self) -> BlockPort:
        if self._closed:
            raise MediaError(f"{self.name} is closed: open it again", errno=errno.ESHUTDOWN)
        if self._port is None:
            self._port = BlockPort(self.reactor, self.device, name=self.name)
            if self._patience_s is not None:
                self._port.patience_s = self._patience_s
        return self._port

    def _check(self, lba: int, block_count: int) -> None:
        if lba < 0 or block_count < 1 or lba + block_count > self.block_count:
            raise ParameterError(
                f"{self.name}: {block_count} blocks from block {lba} on exceed its blocks, 0 to {self.block_count - 1}"
            )
