"""Crashes: what ends, when, and what is lost with it."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Final

AFTER_MAX: Final = 1200
"""Media operations of a life, at most, where they are chosen at random."""

AT_SUPERBLOCK: Final = 0.25
"""Of the crashes in loads."""


class Kind(enum.Enum):
    POWER = "power"
    """Everything: volatile caches are lost, and the write buffer file."""
    TARGET = "target"
    """The target or its drive, perhaps with the daemon: volatile caches are lost, the write buffer file is not."""
    DAEMON = "daemon"
    """The daemon: media keep what they have, and so does the write buffer file."""
    MACHINE = "machine"
    """The daemon's machine, with the write buffer file; the drive is in another one."""

    @property
    def power_fails(self) -> bool:
        """The drive's."""
        return self in (Kind.POWER, Kind.TARGET)

    @property
    def keeps_buffer(self) -> bool:
        return self in (Kind.TARGET, Kind.DAEMON)

    @property
    def forgetful(self) -> bool:
        """What was acknowledged but not durable may be gone."""
        return not self.keeps_buffer


class Where(enum.Enum):
    TRAFFIC = "traffic"
    IDLE = "idle"
    """No I/O of the host any more; garbage collection goes on."""
    HALT = "halt"
    LOAD = "load"
    SUPERBLOCK = "superblock"
    """In a load that has written its superblock: what that replaces has to be durable by then, and kept until then."""


@dataclass(frozen=True)
class Crash:
    kind: Kind
    where: Where
    after_operations: int
    """Of the media, since the load (or, in a halt or load, since that began). 0: where says when."""
    seed: int
    """Of what is lost; with an nv cache an odd one counts its I/Os instead of the drive's."""

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
    """operations: of the drive, in a whole load; the last of them write, where much is decided as well. superblock:
    that place is possible, too."""
    if superblock and rng.random() < AT_SUPERBLOCK:
        return Crash(_kind(rng), Where.SUPERBLOCK, 0, rng.getrandbits(62) * 2)
    near_end = rng.random() < 0.4
    after = max(1, operations - rng.randint(0, 8)) if near_end else random_operations(rng, max(operations, 20))
    return Crash(_kind(rng), Where.LOAD, after, rng.getrandbits(62) * 2)


def random_operations(rng: random.Random, most: int) -> int:
    """1 … most, small numbers as likely as large ones: first operations are where much is decided."""
    return max(1, round(most ** rng.random())) if rng.random() < 0.3 else rng.randint(1, most)


def _kind(rng: random.Random) -> Kind:
    return rng.choices((Kind.POWER, Kind.TARGET, Kind.DAEMON, Kind.MACHINE), (40, 30, 20, 10))[0]
