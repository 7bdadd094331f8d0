"""How fast relocation and user writes may go. One of the two follows the other, so that the free space stays the same.
docs/ftl.md, "Pacing", has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from .limits import UNLIMITED, Limits

OPEN_PART: Final = 0.5
"""Of a band that is being written or moved, the part that counts as free on average. It is taken off again, so that the
level is as large as the number of free bands is on average."""
AIM: Final = 0.8
"""Of a band: so far below `start` relocation keeps the level, unless space is short. Free space beyond what promises
and the event loop need costs write amplification, and this is enough (docs/ftl.md, "Pacing")."""
FACTOR_MIN: Final = 0.25
"""A move that has begun goes on at this part of the natural pace at least, however many bands are free."""
FACTOR_MAX: Final = 4.0
PACE_MAX: Final = 1_000_000_000
"""Per thousand: more than any base does, and less than what the core has no number for. Zones that fail during a move
can leave next to nothing to gain."""
DIGITS: Final = 2
"""Of the pace. More would only mean more orders."""


class Pace(NamedTuple):
    """The limits for the core."""

    user_share: int = UNLIMITED
    """Of all blocks written, in percent."""
    reloc_per_thousand: int | None = None
    """Blocks that are relocated for each 1000 that the user writes; None: as fast as the base allows."""


class MoveSize(NamedTuple):
    """Blocks: what was in force in the band when its move began, what still is, and what it holds when it is free."""

    valid: int
    left: int
    capacity: int

    @property
    def gained(self) -> float:
        """The part of the band that counts as free already."""
        return self.capacity * (1 - self.left / self.valid) if self.valid else self.capacity


def level(*, free: int, room: int, moves: Iterable[MoveSize], band_blocks: int, open_bands: int) -> float:
    """Free space in bands, as a number that changes with each block: free bands, the rest of bands that are being
    written, and what moves have gained so far. Without OPEN_PART it would jump at each band that is opened or freed.

    free: blocks of free bands, and of those that are being reset. room: blocks that can still be written to open and
    queued bands."""
    whole = free + room + sum([move.gained for move in moves])
    return whole / band_blocks - OPEN_PART * (open_bands + 1)


def decide(limits: Limits, at: float, moves: Iterable[MoveSize]) -> Pace:
    """While there is space, relocation follows the user: it moves as much as keeps the level, more below
    limits.aim_bands, less above. If the base is too slow for that, the level falls, and with it the user's share. As
    soon as that is what relocation needs to keep the level, relocation is not held back any more."""
    valid = gain = 0
    for move in moves:
        valid += move.valid
        gain += move.capacity - move.valid
    share = limits.share_at(at)
    # Without moves there is no gain.
    if gain <= 0 or share * (valid + gain) <= 100 * gain:
        return Pace(share)
    factor = 1 + (limits.aim_bands - at) / max(1, limits.start_bands - limits.low_bands)
    natural = valid / gain * min(max(factor, FACTOR_MIN), FACTOR_MAX)
    return Pace(share, _rounded(min(max(1, round(1000 * natural)), PACE_MAX)))


def _rounded(number: int) -> int:
    step: int = 10 ** max(0, len(str(number)) - DIGITS)
    return -(-number // step) * step
