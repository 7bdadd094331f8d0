"""Notices when user writes can't continue, because no band is free and none can be freed."""

from __future__ import annotations

from typing import Final

from ..media.band import Bands
from .classes import Classes
from .reserve import Reserve
from .seam import Core, Turns

STUCK_S: Final = 1.0
"""A device without free bands, on which nothing in progress can free one, is out of space after this time."""
STUCK_BUSY_S: Final = 5.0
"""The same, while moves or resets are in progress that can't end: the base may just be slow."""


class Standstill:
    """Of one device. look() is called after each decision of the band manager."""

    def __init__(self, core: Core, turns: Turns, bands: Bands, classes: Classes, reserve: Reserve) -> None:
        self._core = core
        self._turns = turns
        self._bands = bands
        self._classes = classes
        self._reserve = reserve
        self._since: tuple[float, tuple[int, int, int]] | None = None
        """When what the base had done was noted, and that."""
        self.possible = False
        """Nothing makes it certain that there will be progress."""

    def look(self) -> bool:
        """True: there was no progress for so long that there will be none. Then the time starts anew."""
        patience_s = self._patience_s()
        self.possible = patience_s is not None
        if patience_s is None:
            self._since = None
            return False
        now = self._turns.time()
        core = self._core.stats()
        # If the base reports busy, the manager waits: something makes progress there.
        done = (core.media_written_blocks, core.zone_resets, core.busy_answers)
        if self._since is None or self._since[1] != done:
            self._since = (now, done)
            return False
        if now - self._since[0] <= patience_s:
            return False
        self._since = None
        return True

    def _patience_s(self) -> float | None:
        """How long there may be no progress until it is certain that there will be none; None while progress is
        certain."""
        starved = self._reserve.user_starved()
        if (self._bands.free_count and not starved) or self._bands.any_to_mend():
            return None
        if starved and not self._bands.freeing_count:
            return STUCK_S
        # Moves, and resets that wait for user data, need a band. There always is one, unless zones failed that were
        # counted on.
        if self._bands.free_count:
            return None
        resets_starved = starved and not self._reserve.has_room(*self._classes.reloc)
        return STUCK_BUSY_S if self._reserve.moves_starved() or resets_starved else None
