"""Running checkpoints of a world: turns all the time, so that most crashes are near one."""

from __future__ import annotations

import dataclasses
import random
from typing import Final

from ..ftl.device import FtlDevice
from .shape import Shape

PERCENTS: Final = (1, 3, 10, 40)
"""Of the capacity, written from one turn to the next."""
PAUSES_S: Final = (0.0, 0.0002, 0.002)
"""Between steps of a turn, in simulated time."""
MORE_BANDS: Final = 4
"""Twice the bands of a turn, which is in one or two."""


class Turning:
    """Whether, and how often."""

    def __init__(self, rng: random.Random, *, wanted: bool) -> None:
        self._rng = rng
        self._wanted = wanted

    def shape(self, shape: Shape) -> Shape:
        """With the bands and the active zone that it takes."""
        if not self._wanted:
            return shape
        return dataclasses.replace(
            shape,
            zone_count=shape.zone_count + MORE_BANDS * shape.punits,
            open_zones=0 if shape.open_zones == 0 or self._rng.random() < 0.5 else 9 * shape.punits + 2,
            conf=dataclasses.replace(
                shape.conf,
                running_checkpoint=self._rng.choice(PERCENTS),
                lba_rsvd=max(shape.conf.lba_rsvd, self._rng.choice((35, 45, 60))),
            ),
        )

    def begin(self, device: FtlDevice) -> None:
        """The device was just created or loaded."""
        device.checkpointing.pause_s = self._rng.choice(PAUSES_S)
        device.checkpointing.ask_s = 0.0
