"""A drive that grows between two lives of its FTL, and the FTL, which a later load grows."""

from __future__ import annotations

import contextlib
import random
from typing import Final
from uuid import UUID

import numpy as np

from .. import _shim
from ..errors import MediaError
from ..ftl.device import FtlDevice
from ..ftl.load.grow import Grow
from ..ftl.media.blockdev import BlockPort
from ..ftl.media.geometry import BLOCK_BYTES, summary_blocks
from ..ftl.media.layout import ENTRY, KIND_DATA, build_batch_header
from ..runtime.reactor import ReactorLoop
from .model import Model, Violation
from .result import WorldResult
from .shape import SUPERBLOCK_ZONES, Shape

GROWING_WORLDS: Final = 0.4
DRIVE_GROWS: Final = 0.4
"""In such a world, the part of the loads before which the drive grows, until it has."""
FTL_GROWS: Final = 0.6
"""The part of the loads on a grown drive that are asked to grow the FTL."""
GROWTHS_CRASHED: Final = 0.7
"""The part of the loads that are crashed until the FTL has grown."""
FORGED: Final = 0.5
"""The part of the new zones that hold forged data, which looks like this FTL's and newer than all of it, as an earlier
growth may leave."""
FORGED_BLOCKS_MAX: Final = 4
FORGED_SEQ: Final = 1 << 40


class Growing:
    """Uses a random generator of its own, so that worlds without growth stay the same."""

    def __init__(self, rng: random.Random) -> None:
        self.grow: Grow | None = None
        """The option of the load that begins now."""
        self._rng = rng
        self._wanted = rng.random() < GROWING_WORLDS
        self._hidden = 0
        self._zones = 0
        """The zones of the drive, once it has grown."""
        self._drive_has_grown = False
        self._asked = False
        """A load was asked to grow the FTL, whatever its result."""
        self._done = not self._wanted

    def media(self, shape: Shape, reactor: ReactorLoop) -> _shim.EmulatedMedia:
        self._hidden = self._rng.randint(1, 8 * shape.punits) if self._wanted else 0
        self._zones = shape.zone_count + self._hidden
        return shape.media(reactor, hidden_zones=self._hidden)

    def crashes(self, part: float) -> float:
        """The part of the loads to crash; ``part`` is the usual one."""
        return part if self._done or not self._drive_has_grown else GROWTHS_CRASHED

    def operations(self, operations: int) -> int:
        """The expected drive I/Os of the next load. operations: those of the last load."""
        return operations if self._done or not self._drive_has_grown else operations + 2 * self._hidden

    async def before_load(self, reactor: ReactorLoop, media: _shim.EmulatedMedia, shape: Shape, uuid: UUID) -> None:
        """The drives must have power, and nobody may use them."""
        self.grow = None
        if not self._wanted:
            return
        if not self._drive_has_grown and self._rng.random() < DRIVE_GROWS:
            self._drive_has_grown = True
            media.grow()
            await self._forge(reactor, media, shape, uuid)
        if self._drive_has_grown and self._rng.random() < FTL_GROWS:
            self._asked = True
            self.grow = Grow(force=True)

    def loaded(self, device: FtlDevice, model: Model, result: WorldResult) -> list[Violation]:
        """Checks the size of a device that was just loaded. Adapts the model to it."""
        if device.block_count < model.block_count:
            return [Violation("lost", device.block_count, f"the FTL has shrunk from {model.block_count} blocks")]
        if not self._wanted:
            return []
        has_all = device.geometry.zone_count == self._zones
        if has_all and not self._asked:
            return [Violation("given_up", -1, "the FTL has grown, although nobody asked for it")]
        if self.grow is not None and not has_all:
            return [Violation("refused", -1, "the FTL has not grown as requested")]
        if has_all and not self._done:
            self._done = True
            result.growths += 1
        if device.block_count > model.block_count:
            model.grow(device.block_count)
        return []

    async def _forge(self, reactor: ReactorLoop, media: _shim.EmulatedMedia, shape: Shape, uuid: UUID) -> None:
        """Writes forged data to new zones, and flushes. A drive that cannot open another zone may refuse the writes."""
        port = BlockPort(reactor, media, name="somebody")
        size = shape.used_zone_size
        data_blocks = shape.zone_capacity - summary_blocks(shape.zone_capacity)
        try:
            for zone in range(shape.zone_count, self._zones):
                if self._rng.random() >= FORGED:
                    continue
                band, punit = divmod(zone - SUPERBLOCK_ZONES, shape.punits)
                entries = np.zeros(self._rng.randint(1, min(FORGED_BLOCKS_MAX, data_blocks - 1)), ENTRY)
                data = np.frombuffer(self._rng.randbytes(len(entries) * BLOCK_BYTES), np.uint8).reshape(-1, BLOCK_BYTES)
                entries["lba"] = np.arange(len(entries)) + self._rng.randrange(8)
                entries["seq"] = FORGED_SEQ + zone * FORGED_BLOCKS_MAX + np.arange(len(entries))
                entries["crc"] = [_shim.crc32c(block.tobytes()) for block in data]
                header = build_batch_header(
                    uuid,
                    band=band,
                    punit=punit,
                    band_seq=FORGED_SEQ,
                    address=0 if shape.conf.use_append else zone * size,
                    kind=KIND_DATA,
                    stream=_shim.STREAM_USER,
                    entries=entries,
                )
                blocks = np.zeros((shape.zone_capacity, BLOCK_BYTES), np.uint8)
                blocks[0], blocks[1 : 1 + len(data)] = header, data
                with contextlib.suppress(MediaError):
                    for first in range(0, len(blocks), shape.max_io_blocks):
                        await port.write(zone * size + first, blocks[first : first + shape.max_io_blocks].reshape(-1))
            await port.flush()
        finally:
            await port.close()
