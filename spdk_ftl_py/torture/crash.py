"""Crashes: what ends, at which point, and what is lost."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Final

AFTER_MAX: Final = 1200
"""The maximum number of media operations in a life, if it is random."""

AT_SUPERBLOCK: Final = 0.25
"""The part of the crashes in loads that come right after the superblock."""


class Kind(enum.Enum):
    POWER = "power"
    """Power fails everywhere. Volatile caches and the write buffer file are lost."""
    TARGET = "target"
    """The target or its drive ends, perhaps with the daemon. Volatile caches are lost; the write buffer file is not."""
    DAEMON = "daemon"
    """The daemon ends. Media and the write buffer file keep their data."""
    MACHINE = "machine"
    """The daemon's machine ends, and the write buffer file is lost. The drive is in another machine."""

    @property
    def power_fails(self) -> bool:
        """Whether the drive loses power."""
        return self in (Kind.POWER, Kind.TARGET)

    @property
    def keeps_buffer(self) -> bool:
        return self in (Kind.TARGET, Kind.DAEMON)

    @property
    def forgetful(self) -> bool:
        """Whether data that was acknowledged but not durable may be lost."""
        return not self.keeps_buffer


class Where(enum.Enum):
    TRAFFIC = "traffic"
    IDLE = "idle"
    """No host I/O is outstanding. Garbage collection continues."""
    HALT = "halt"
    LOAD = "load"
    SUPERBLOCK = "superblock"
    """Right after a load has written its superblock. Everything that this superblock relies on must be durable by then,
    and what it replaces must be kept until then."""


@dataclass(frozen=True)
class Crash:
    kind: Kind
    where: Where
    after_operations: int
    """Media operations since the load. In a halt or load: since its beginning. 0: ``where`` decides."""
    seed: int
    """Decides what is lost. With an nv cache, an odd seed counts the cache's I/Os instead of the drive's."""

    def __str__(self) -> str:
        after = f" after {self.after_operations} operations" if self.after_operations else ""
        return f"{self.kind.value} in {self.where.value}{after}"


def choose(rng: random.Random, *, every: int) -> Crash:
    """The next crash of a running device. every: media operations between crashes (0: at random)."""
    where = rng.choices((Where.TRAFFIC, Where.IDLE, Where.HALT), (80, 8, 12))[0]
    most = 40 if where is Where.HALT else AFTER_MAX
    after = every or random_operations(rng, most)
    return Crash(_kind(rng), where, after, rng.getrandbits(63))


def choose_in_load(rng: random.Random, *, operations: int, superblock: bool) -> Crash:
    """A crash in a load. operations: the drive's I/Os in a whole load. The last of them are writes, and crashes there
    are likely, too. superblock: a crash right after the superblock is possible."""
    if superblock and rng.random() < AT_SUPERBLOCK:
        return Crash(_kind(rng), Where.SUPERBLOCK, 0, rng.getrandbits(62) * 2)
    near_end = rng.random() < 0.4
    after = max(1, operations - rng.randint(0, 8)) if near_end else random_operations(rng, max(operations, 20))
    return Crash(_kind(rng), Where.LOAD, after, rng.getrandbits(62) * 2)


def random_operations(rng: random.Random, most: int) -> int:
    """1 … most, with more small numbers than a uniform choice gives: much is decided by the first operations."""
    return max(1, round(most ** rng.random())) if rng.random() < 0.3 else rng.randint(1, most)


def _kind(rng: random.Random) -> Kind:
    return rng.choices((Kind.POWER, Kind.TARGET, Kind.DAEMON, Kind.MACHINE), (40, 30, 20, 10))[0]
