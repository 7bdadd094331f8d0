"""Zones as a writer leaves them, and a port that counts what a walk reads of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media import layout
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.ftl.media.geometry import BLOCK_BYTES, summary_blocks

DEVICE = UUID("c3a79a9e-7f0a-4f0e-a9a1-1c2f6c8e2b11")
CAPACITY, ZONE_SIZE = 13_000, 16_384
DATA = CAPACITY - summary_blocks(CAPACITY)
BAND_SEQ = 5
UNREADABLE = 0x281
GEOMETRY: Any = SimpleNamespace(
    data_blocks=DATA, summary_blocks=summary_blocks(CAPACITY), zone_capacity=CAPACITY, punits=1
)


@dataclass
class Written:
    """What is put into a zone, block by block."""

    append: bool = False
    band_seq: int = BAND_SEQ
    blocks: list[bytes] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    entries: int = 0

    def batch(self, count: int, *, zeroes: bool = False) -> int:
        """Returns the offset of its header."""
        at = len(self.blocks)
        data = [bytes(BLOCK_BYTES) if zeroes else random.Random(at + i).randbytes(BLOCK_BYTES) for i in range(count)]
        entries = np.zeros(count, layout.ENTRY)
        entries["lba"] = np.arange(self.entries, self.entries + count)
        entries["seq"] = entries["lba"] + 1
        entries["crc"] = [_shim.crc32c(block) for block in data]
        header = layout.build_batch_header(
            DEVICE,
            band=0,
            punit=0,
            band_seq=self.band_seq,
            address=0 if self.append else at,
            kind=layout.KIND_DATA,
            stream=0,
            entries=entries,
        )
        self.headers.append(at)
        self.blocks += [header.tobytes(), *data]
        self.entries += count
        return at

    def lose(self, first: int, count: int = 1, content: bytes = bytes(BLOCK_BYTES)) -> None:
        self.blocks[first : first + count] = [content] * count


class CountingPort(BlockPort):
    """Counts what is read."""

    reads = 0
    blocks_read = 0

    async def _submit_once(
        self, op: _shim.Op, lba: int, block_count: int, buffer: Any, **options: Any
    ) -> tuple[int, int]:
        if op == _shim.Op.READ:
            self.reads += 1
            self.blocks_read += block_count
        return await super()._submit_once(op, lba, block_count, buffer, **options)

    async def read_each(self, addresses: Sequence[int], block_count: int = 1) -> NDArray[np.uint8] | None:
        self.reads += 1
        self.blocks_read += len(addresses) * block_count
        return await super().read_each(addresses, block_count)
