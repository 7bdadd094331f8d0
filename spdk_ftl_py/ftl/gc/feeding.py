"""Gives each class the next band that is written, before it needs it."""

from __future__ import annotations

from typing import Final

from ..media.band import QUEUED, Bands
from ..policy.limits import Limits
from .classes import Classes
from .moves import Moves
from .reserve import Reserve
from .seam import Core

EARLY_BLOCKS: Final = 8192
"""A stream whose band has no more room than this gets its next band before it asks, so that it does not wait for a turn
of the event loop."""

ENOUGH_BLOCKS: Final = 256
"""A stream with so much room, beyond what is in the write buffer, does not wait for its next band in this turn."""


class Feeding:
    """Of one device."""

    def __init__(
        self, core: Core, bands: Bands, moves: Moves, classes: Classes, reserve: Reserve, next_band_seq: int
    ) -> None:
        self.next_band_seq = next_band_seq
        """Of the next band that is opened."""
        self._core = core
        self._bands = bands
        self._moves = moves
        self._classes = classes
        self._reserve = reserve

    def feed(self, limits: Limits, *, draining: bool) -> None:
        """Opens the bands that are wanted, as far as the reserve allows. draining: as for Reserve.may_take()."""
        bands, wanting, reserve = self._bands, self._classes.wanting, self._reserve
        streams = wanting.union(() if reserve.homeless else self._wanting_soon(limits))
        # Relocation first: without it nothing is ever freed. Then classes without any band.
        for stream in sorted(streams, key=self._turn) if len(streams) > 1 else streams:
            if bands.queued_count(stream):
                wanting.discard(stream)
                continue
            number = self._band_for(stream)
            if number is None and reserve.moves_starved():
                number = self._take_from_user()
            if number is None or not reserve.may_take(
                stream, number, next_band_seq=self.next_band_seq, draining=draining
            ):
                continue
            early = stream not in wanting or (self._can_wait(stream) and not draining)
            if early and reserve.is_tight(bands.one.capacity[number]):
                continue
            try:
                self._core.open_band(stream, number, self.next_band_seq)
            except BlockingIOError:
                wanting.discard(stream)
                continue
            self.next_band_seq += 1
            bands.ordered(number, QUEUED, stream=stream)
            wanting.discard(stream)
            reserve.given_back.discard(stream)

    def _can_wait(self, stream: int) -> bool:
        """A user stream asks before it needs the band."""
        return not self._classes.shared and stream in self._classes.user and self._bands.room(stream) >= ENOUGH_BLOCKS

    def _turn(self, stream: int) -> tuple[bool, bool, int]:
        return stream in self._classes.user, self._bands.is_written(stream), -stream

    def _band_for(self, stream: int) -> int | None:
        """Cold data rests in the band that was reset most; anything else goes to the one that was reset least."""
        if stream not in self._classes.user:
            cold = self._moves.worn(self._bands)[:1] == [True]
            if cold and self._moves.in_line(self._bands)[0].left > self._bands.room(stream):
                return self._bands.last_free()
        return self._bands.first_free()

    def _wanting_soon(self, limits: Limits) -> list[int]:
        """Streams that will ask for a band so soon that this may be too late for them. A band is not taken early if
        that makes relocation begin."""
        bands, classes = self._bands, self._classes
        soon = min(EARLY_BLOCKS, bands.whole_capacity // 2)
        moving = bands.moving_count > 0
        plenty = moving or self._reserve.free_bands - 1 > limits.start_bands
        # One of several classes may have no data at all.
        return [
            stream
            for stream in classes.all
            if (plenty if stream in classes.user else moving)
            and bands.room(stream) <= soon
            and (classes.one_each or bands.is_written(stream))
        ]

    def take_back(self) -> int | None:
        """Takes a user stream's next band, which it got early, and to which nothing was written yet: relocation needs
        the room now. The stream asks for it again, and can write on meanwhile. Returns the stream; None:
        there is no such band."""
        bands, classes = self._bands, self._classes
        if classes.shared:
            return None

        def left(stream: int) -> int:
            return bands.room(stream) - bands.whole_capacity

        streams = [stream for stream in classes.user if bands.queued_count(stream)]
        stream = max(streams, key=left, default=None)
        if stream is None or left(stream) < ENOUGH_BLOCKS + self._core.stats().write_buffer_used:
            return None
        return stream if self._take_queued(stream) else None

    def _take_queued(self, stream: int) -> bool:
        number = self._core.take_queued(stream)
        if number is None:
            return False
        self._classes.wanting.add(stream)
        self._bands.refresh(self._core.band_rows(number, 1))
        return True

    def _take_from_user(self) -> int | None:
        """The user stream's next band, to which nothing was written yet. Zones have failed that the moves in progress
        counted on. Without these zones nothing would ever be freed, for user writes either."""
        if self._classes.shared:
            return None
        if any(self._take_queued(stream) for stream in self._classes.user):
            return self._bands.first_free()
        return None
