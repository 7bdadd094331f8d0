"""SepBIT: blocks that will be overwritten at about the same time share a band.

Wang et al., "Separating Data via Block Invalidation Time Inference for Write Amplification Reduction in Log-Structured
Storage", FAST '22, algorithm 1. Our class c is the paper's class c + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numpy.typing import NDArray

from .interface import AgeClasses, BandTable, Placement, Policy, Reclaimed, Surroundings
from .shipped import CostBenefit, Greedy, Seed

LIFESPANS: Final = 16
"""Reclaimed bands of class 0 that one estimate is the average of."""
AGES: Final = (4, 16)
"""Relocated blocks of hosts' class 1, or relocated before, are separated by age at these multiples of the estimate."""
CLASSES: Final = 6
VICTIMS: Final[dict[str, type[Policy]]] = {each.name: each for each in (Greedy, Seed, CostBenefit)}


class SepBit(Policy):
    """A host's write goes to class 0 if the version that it replaces lived less than l, the average lifespan of the
    last 16 reclaimed bands of class 0; otherwise, and if there is no older version, to class 1. A relocated block of
    class 0 goes to class 2; others go to 3, 4 or 5, by their age: below 4 l, below 16 l, or older. Before the first
    estimate, l is infinite.

    With fewer classes than six the classes of old blocks are put together: with five there are two for relocated blocks
    that are not of class 0 (below 4 l, and older), with four there is one, and with three all relocated blocks share
    one. With two or fewer nothing is left to separate: one class for hosts, one for relocation.

    victim: how bands are chosen, as the policy of that name does (greedy, seed, cost_benefit). The paper evaluates
    greedy, and gp x age / (1 - gp) with gp the invalid part, which is ``seed``.
    """

    name = "sepbit"

    def __init__(self, surroundings: Surroundings, victim: str = Seed.name) -> None:
        super().__init__(surroundings)
        if victim not in VICTIMS:
            raise ValueError(f"victim = {victim}: must be one of {', '.join(VICTIMS)}")
        self._merit: Callable[[BandTable], NDArray[Any]] = VICTIMS[victim](surroundings).merit
        self.classes = min(CLASSES, surroundings.classes_max)
        self.lifespan: int | None = None
        """l, in blocks that hosts have written; None: infinite."""
        self._lived = 0
        self._reclaimed = 0

    def merit(self, bands: BandTable) -> NDArray[Any]:
        return self._merit(bands)

    def placement(self) -> Placement:
        if self.classes <= 2:
            return Placement()
        short = self.lifespan
        user = AgeClasses((0,)) if short is None else AgeClasses((0, 1), (short,))
        if self.classes == 3:
            others = AgeClasses((2,))
        else:
            classes = tuple(range(3, self.classes))
            limits = tuple(times * (short or 0) for times in AGES[: len(classes) - 1])
            others = AgeClasses((3,)) if short is None else AgeClasses(classes, limits)
        return Placement(
            classes=self.classes,
            user_classes=2,
            user=user,
            unwritten=1,
            relocated=(AgeClasses((2,)), *(others for _ in range(1, self.classes))),
        )

    def reclaimed(self, band: Reclaimed) -> bool:
        if band.band_class != 0 or self.classes <= 2:
            return False
        self._lived += band.age
        self._reclaimed += 1
        if self._reclaimed < LIFESPANS:
            return False
        self.lifespan = max(1, self._lived // self._reclaimed)
        self._lived = self._reclaimed = 0
        return True
