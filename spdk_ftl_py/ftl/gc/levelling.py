"""Wear levelling: which band is moved only because it was reset too rarely, and when there is room for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..media.band import OPEN, Band, Bands
from .classes import Classes
from .moves import Moves
from .reserve import Reserve

BANDS_PER_MOVE: Final = 50
"""At most one in so many bands that are opened is written with data that is moved to level wear: 2 % of all writes."""
ASK_BANDS: Final = 8
"""The policy is asked once while so many bands are opened: it looks at all bands."""
SAVING_BANDS: Final = 10
"""Of BANDS_PER_MOVE: while so many are opened, relocation keeps more space free, so that such a move can begin."""
REST: Final = 2
"""At most this part of relocation's band is given up, so that cold data gets a band of its own."""
PACE: Final = 500
"""Blocks for each 1000 that hosts write, while nothing else is moved. There is no hurry."""


@dataclass(frozen=True)
class WearMove:
    """A move that is due, and has room."""

    victim: int
    waits: bool
    """For moves in line to end. No other begins meanwhile."""
    give_up: list[Band]
    """Relocation's band, whose rest is given up so that cold data gets a band of its own. With several classes of
    relocated blocks, cold data has its class."""


class Levelling:
    """Names the band that is moved although that gains little or nothing.

    worn(): the policy's choice, or None. It is not asked before anything was earned.
    """

    def __init__(self, bands: Bands, next_band_seq: int, worn: Callable[[], int | None]) -> None:
        self.moves_started = 0
        self._bands = bands
        self._worn = worn
        self._spent = next_band_seq
        """The bands opened since then earn the next move."""
        self._asked = next_band_seq - ASK_BANDS
        self._victim: int | None = None
        self.saving = 0
        """Bands that are to be free besides, so that the move that is due can begin."""

    def earned(self, next_band_seq: int) -> bool:
        return next_band_seq - self._spent >= BANDS_PER_MOVE

    def victim(self, next_band_seq: int) -> int | None:
        if not self.earned(next_band_seq):
            return None
        if next_band_seq - self._asked >= ASK_BANDS:
            self._asked = next_band_seq
            self._victim = self._worn()
        number = self._victim
        # Since then it may have been emptied.
        return number if number is not None and self._bands.closed[number] and self._bands.valid[number] > 0 else None

    def taken_back(self) -> None:
        """A band was opened for nothing."""
        self._spent += 1

    def may_save(self, next_band_seq: int) -> bool:
        """Whether relocation may keep more space free for the move that is due. If that is of no use, it has an end."""
        return (next_band_seq - self._spent) % BANDS_PER_MOVE < SAVING_BANDS

    def may_rest(self, number: int) -> bool:
        """Whether a band was reset so often that cold data should have it: at least half way from the mean to the most.
        Few bands are free at a time, so the most worn one of these need not be worn."""
        resets = self._bands.resets
        return 2 * int(resets[number]) >= float(resets.mean()) + int(resets.max())

    def due(
        self, moves: Moves, reserve: Reserve, classes: Classes, *, next_band_seq: int, user_stopped: bool
    ) -> WearMove | None:
        """None: no such move can begin soon. user_stopped: as for Reserve.buffered().

        Such a move need not gain anything. So it begins only while another one, which gains, could begin after it. Its
        data gets a band of its own: cold data in the same band as other data would be copied again and again with that.
        So the move begins when relocation's band is nearly full, and the rest of that band is given up."""
        bands = self._bands
        victim = self.victim(next_band_seq)
        if victim is None or bands.any_endangered() or any(moves.worn(bands)):
            return None
        target = bands.last_free()
        if target is None or not self.may_rest(target):
            return None
        only = len(classes.reloc) == 1
        open_bands = [band for band in bands.in_state(OPEN) if only and band.stream in classes.reloc]
        if len(open_bands) > 1:
            # Of classes that there were. Relocation fills them first.
            return None
        self.saving = int(only and self.may_save(next_band_seq))
        buffered = reserve.buffered(user_stopped=user_stopped)
        in_line = moves.in_line(bands)
        left = sum(move.left for move in in_line)
        # As they will be when the moves in line have ended.
        rest = (sum(band.room for band in open_bands) - left) % bands.whole_capacity if only else 0
        room = reserve.reloc_room() - rest - left + sum(move.capacity for move in in_line)
        # What user streams gave back is for moves that gain space.
        room -= len(reserve.given_back) * bands.whole_capacity
        needed = int(bands.valid[victim]) + reserve.least_valid(victim) + 2 * reserve.least_gain
        if room - buffered < needed or rest > bands.whole_capacity // REST:
            return None
        return WearMove(victim, bool(in_line), open_bands)

    def started(self, next_band_seq: int) -> None:
        """What was earned long ago is forfeited: a long time without room is not followed by many moves."""
        self._spent = max(self._spent + BANDS_PER_MOVE, next_band_seq - BANDS_PER_MOVE)
        self._victim = None
        self.moves_started += 1
