"""A drive that gets larger between two lives of its FTL, and the FTL, which is grown by a load behind that."""

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
"""Part of the loads, in such a world, before which the drive does, until it has."""
FTL_GROWS: Final = 0.6
"""Part of the loads on it that are told to."""
GROWTHS_CRASHED: Final = 0.7
"""Part of the loads that are crashed until the FTL has grown."""
FORGED: Final = 0.5
"""Part of the new zones that hold what looks like this FTL's, and newer than all of it: as left by an earlier
growth."""
FORGED_BLOCKS_MAX: Final = 4
FORGED_SEQ: Final = 1 << 40


class Growing:
    """Chooses by a generator of its own: worlds in which nothing grows are what they were."""

    def __init__(self, rng: random.Random) -> None:
        self.grow: Grow | None = None
        """What the load that begins now is told."""
        self._rng = rng
        self._wanted = rng.random() < GROWING_WORLDS
        self._hidden = 0
        self._zones = 0
        """Of the drive, once it has grown."""
        self._drive_has_grown = False
        self._asked = False
        """A load was told to, whatever became of it."""
        self._done = not self._wanted

    def media(self, shape: Shape, reactor: ReactorLoop) -> _shim.EmulatedMedia:
        self._hidden = self._rng.randint(1, 8 * shape.punits) if self._wanted else 0
        self._zones = shape.zone_count + self._hidden
        return shape.media(reactor, hidden_zones=self._hidden)

    def crashes(self, part: float) -> float:
        """Part of the loads that are crashed, where it is ``part`` of others."""
        return part if self._done or not self._drive_has_grown else GROWTHS_CRASHED

    def operations(self, operations: int) -> int:
        """Of the drive in the next load, where the last one had so many."""
        return operations if self._done or not self._drive_has_grown else operations + 2 * self._hidden

    async def before_load(self, reactor: ReactorLoop, media: _shim.EmulatedMedia, shape: Shape, uuid: UUID) -> None:
        """The drives have power, and nobody is on them."""
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
        """What is wrong with the size of a device that was just loaded; the model is as large as that from now on."""
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
        """What is written is durable. A drive that has no zone to spare for it takes it or not."""
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
