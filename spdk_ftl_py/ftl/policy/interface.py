"""The interface of a policy: which band is relocated next, which class of bands a block goes to, how fast relocation
goes, and which band is moved to level wear. docs/policies.md shows how to write one.

A policy decides only what it may decide freely. Whether a move is allowed at all, which bands are in reserve, and that
data is durable before a reset is not its business (docs/ftl.md, "Why it can't wedge"). So a policy can cost speed, but
never data.

Time is counted in blocks that hosts have written (the difference of two seqs), because only that ages data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .limits import Limits
from .pacing import MoveSize, Pace, decide
from .wear import cold_age, most_lagging


@dataclass(frozen=True)
class Surroundings:
    """What a policy may know of its FTL from the start."""

    band_count: int
    band_blocks: int
    """Data blocks that a band holds."""
    block_count: int
    """Logical blocks."""
    classes_max: int
    """Bands that can be written side by side; 1: hosts' writes and relocation share one."""


@dataclass(frozen=True)
class BandTable:
    """All bands, as read-only arrays of shape (bands,)."""

    valid: NDArray[np.int64]
    """Data blocks that are in force."""
    capacity: NDArray[np.int64]
    """Data blocks that the band holds when it is full."""
    age: NDArray[np.int64]
    """Blocks that hosts have written since the band was opened; at least 1."""
    data_age: NDArray[np.int64]
    """Blocks that hosts have written since the band's blocks were written by hosts, on average; at least 1. Relocation
    does not make a block younger."""
    band_class: NDArray[np.uint8]
    """The class that the band was opened for."""
    resets: NDArray[np.uint32]
    """How often the band was reset since the FTL was created."""
    closed: NDArray[np.bool_]
    """Only these can be moved."""


@dataclass(frozen=True)
class AgeClasses:
    """A class for each age: classes[i] up to limits[i] (exclusive), classes[-1] from limits[-1] on. Ages in blocks
    that hosts have written. ``limits`` ascend, and are one fewer than ``classes``."""

    classes: tuple[int, ...] = (0,)
    limits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Which class of bands a block is written to. The shim looks it up for each block; no Python runs.

    Classes 0 to user_classes - 1 take what hosts write, the others what relocation copies. If a class has no band and
    gets none, because space is short, its blocks go to another class of the same side.
    """

    classes: int = 2
    user_classes: int = 1
    user: AgeClasses = AgeClasses()
    """For a host's write, by the age of the version that it replaces (data_age of the band which that is in)."""
    unwritten: int = 0
    """For a host's write to an LBA without an older version."""
    relocated: tuple[AgeClasses, ...] = field(default_factory=lambda: (AgeClasses((1,)), AgeClasses((1,))))
    """For a copied block: by the class of the band that it was in, then by its own age."""
    regions: NDArray[np.uint8] | None = None
    """For a host's write, by LBA // region_blocks, instead of ``user`` and ``unwritten``; 255: by these after all."""
    region_blocks: int = 1


@dataclass(frozen=True)
class Reclaimed:
    """A band whose space is about to be free again: its move begins, or it is reset since nothing in it is in force."""

    number: int
    band_class: int
    age: int
    """As BandTable.age."""
    valid: int
    capacity: int


class Policy:
    """The base of all policies. Each method has a default, so a policy overrides only what it cares about.

    One instance belongs to one FTL. Methods run on the daemon's event loop: they must be quick (less than a
    millisecond, vectorised over all bands), and must not wait. A policy that raises, returns nonsense or is slow is
    replaced by the default policy, and the log and the FTL's properties say so.
    """

    name: ClassVar[str] = ""
    """Of a policy that ships with this package."""

    def __init__(self, surroundings: Surroundings) -> None:
        """What follows the name in conf reloc_policy (``d_choices:d=10``) is passed by name: a policy with parameters
        takes them after ``surroundings``, each with a default, and raises ValueError for a bad one."""
        self.surroundings = surroundings

    def merit(self, bands: BandTable) -> NDArray[Any]:
        """Of all bands, shape (bands,): the allowed band with the greatest merit is relocated next."""
        return bands.capacity - bands.valid

    def placement(self) -> Placement:
        """Asked for at the start, and after reclaimed() has returned true."""
        return Placement()

    def reclaimed(self, band: Reclaimed) -> bool:
        """True: placement() has changed."""
        return False

    def pace(self, limits: Limits, level: float, moves: Sequence[MoveSize]) -> Pace:
        """While bands are moved: the hosts' share of all writes, and how many blocks are relocated beside them. Asked
        for several times for each band. level: free space in bands (pacing.level). If what is returned would hold back
        both sides, relocation is not held back."""
        return decide(limits, level, moves)

    def worn(self, bands: BandTable) -> int | None:
        """The number of a closed band that is moved only because it was reset too rarely; None: wear is even enough.
        Asked for now and then. By default the band that lags furthest behind."""
        age = cold_age(self.surroundings.block_count)
        return most_lagging(bands.resets, bands.age, bands.closed, cold_age=age)
