"""Placements of a world: bands of several classes, chosen at random, which change while hosts write."""

from __future__ import annotations

import dataclasses
import random
from typing import Final

import numpy as np

from ..conf import CLASSES_MAX, RESERVED_BANDS
from ..ftl.device import FtlDevice
from ..ftl.policy.interface import AgeClasses, Placement
from .shape import RESERVE_MOST, SUPERBLOCK_ZONES, Shape

PLACED_WORLDS: Final = 0.3
"""The part of worlds with more than two classes, unless an option says how many."""
CHANGES: Final = 0.0005
"""Changes of the placement in each step of a life."""
TWO: Final = 2


class Placing:
    """How many classes the bands of one world have, and which."""

    def __init__(self, rng: random.Random, classes: int | None) -> None:
        """classes: the most; None: in part of the worlds as many as may be."""
        self._rng = rng
        wanted = rng.random() < PLACED_WORLDS
        self._most = rng.randint(TWO + 1, CLASSES_MAX) if classes is None and wanted else classes or TWO

    def shape(self, shape: Shape) -> Shape:
        """With zones and space for them. A world in two classes has the shape that it had."""
        if self._most == TWO:
            return shape
        open_zones = self._rng.choice(((self._most + 1) * shape.punits + 1, 0))
        bands = (shape.zone_count - SUPERBLOCK_ZONES) // shape.punits
        # The thresholds, too, must be below what can be free.
        spare = self._most + RESERVED_BANDS + self._rng.choice((3, 3, 4))
        reserve = min(max(shape.conf.lba_rsvd, -(-100 * spare // bands)), RESERVE_MOST)
        return dataclasses.replace(shape, open_zones=open_zones, conf=dataclasses.replace(shape.conf, lba_rsvd=reserve))

    def begin(self, device: FtlDevice) -> None:
        """The device was just created or loaded."""
        if self._most > TWO:
            self._change(device)

    def pump(self, device: FtlDevice) -> None:
        """Called in each step of a life."""
        if self._most > TWO and self._rng.random() < CHANGES:
            self._change(device)

    def _change(self, device: FtlDevice) -> None:
        most = min(self._most, device.classes_max)
        if most >= TWO:
            device.set_placement(self._choose(most, device.block_count))

    def _choose(self, most: int, block_count: int) -> Placement:
        rng = self._rng
        # Mostly all of them, because few would often leave enough room.
        classes = most if rng.random() < 0.7 else rng.randint(TWO, most)
        user_classes = rng.randint(1, classes - 1)
        user, reloc = range(user_classes), range(user_classes, classes)

        def table(side: range) -> AgeClasses:
            count = rng.randint(1, 4)
            limits = sorted(rng.sample(range(1, 4 * block_count + 4), count - 1))
            return AgeClasses(tuple(rng.choice(side) for _ in range(count)), tuple(limits))

        regions = None
        if rng.random() < 0.5:
            regions = np.array([rng.choice((*user, 255)) for _ in range(rng.randint(1, 16))], np.uint8)
        return Placement(
            classes=classes,
            user_classes=user_classes,
            user=table(user),
            unwritten=rng.choice(user),
            relocated=tuple(table(reloc) for _ in range(rng.choice((1, classes)))),
            regions=regions,
            region_blocks=rng.choice((1, 4, max(1, block_count // 8))),
        )
