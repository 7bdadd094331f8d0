"""The reserve: how much room relocation has and needs, and what part of it the user stream must leave. docs/ftl.md has
the proof that this is enough ("Why it can't wedge")."""

from __future__ import annotations

from typing import Final

from ...conf import RESERVED_BANDS, FtlConf, is_small, least_gain_blocks
from ..media.band import Bands
from ..media.geometry import Geometry
from ..policy.limits import Limits
from ..policy.pacing import AIM, level
from .classes import Classes
from .moves import Moves
from .seam import Core

CLASSES_PART: Final = 16
"""Bands that are kept free so that each of several classes has its own are at most this part of the spare bands: with
few spare bands, separation gains less than the space costs."""
CAREFUL_BANDS: Final = 64
"""While so many bands are opened after a crash, or after zones ended before they were full, the reserve is counted in
whole bands: the same may happen again, and takes the rests of bands that are being written."""


def is_short(geometry: Geometry) -> bool:
    """Space is short: so few bands can be free on a full device that more of them are kept free."""
    return is_small(geometry.spare_bands - geometry.open_bands)


def limits_of(geometry: Geometry, conf: FtlConf) -> Limits:
    return Limits(conf, aim=0 if is_short(geometry) else AIM)


class Reserve:
    """Of one device. Lengths are in blocks; next_band_seq: of the next band that is opened."""

    def __init__(
        self,
        core: Core,
        geometry: Geometry,
        bands: Bands,
        moves: Moves,
        classes: Classes,
        *,
        buffer_blocks: int,
        next_band_seq: int,
        crashed: bool,
    ) -> None:
        """buffer_blocks: of the write buffer."""
        self._core = core
        self._bands = bands
        self._moves = moves
        self._classes = classes
        self._buffer_blocks = buffer_blocks
        self._band_blocks = geometry.band_blocks
        self._punits = geometry.punits
        self._for_classes_most = geometry.spare_bands // CLASSES_PART
        self._short = is_short(geometry)
        self._careful_until = next_band_seq + CAREFUL_BANDS if crashed else 0
        self.given_back: set[int] = set()
        """User streams that had their next band early, gave it back, and have not got another one."""
        self.least_gain = 0
        """As least_gain_blocks(), for the classes that there are."""
        self.classes_numbered()

    def classes_numbered(self) -> None:
        """There are more or fewer classes."""
        self.given_back.clear()
        self.least_gain = least_gain_blocks(self._punits, len(self._classes.reloc))

    def zone_ended(self, next_band_seq: int) -> None:
        """A zone that was being written ended before it was full, or failed: others may, too."""
        self._careful_until = next_band_seq + CAREFUL_BANDS

    def taken_back(self, stream: int, next_band_seq: int) -> None:
        """A band was opened for nothing."""
        self.given_back.add(stream)
        if next_band_seq < self._careful_until:
            self._careful_until += 1

    def in_whole_bands(self, next_band_seq: int) -> bool:
        """The reserve is two whole bands. It is less if it is counted in blocks, but then the rests of bands that are
        being written are part of it."""
        return self._classes.shared or self._short or next_band_seq < self._careful_until

    # --- room

    @property
    def free_bands(self) -> int:
        """Free bands as limits count them: bands in the queue of relocation still count as reserve."""
        return self._bands.free_count + self._bands.queued_count(*self._classes.reloc)

    def reloc_room(self) -> int:
        """Blocks that relocation can certainly write: the rest of its bands, and all free bands."""
        return self._bands.room(*self._classes.reloc) + self._bands.free_capacity

    def committed(self) -> int:
        """Blocks that moves in progress may still have to write."""
        return self._bands.moving_valid() + self._bands.moving_count * self.least_gain

    def buffered(self, *, user_stopped: bool) -> int:
        """User blocks that a reset may have to wait for, and that may have to go to relocation's band. user_stopped:
        the core accepts nothing more. Call it before reloc_room()."""
        if not user_stopped:
            return self._buffer_blocks
        used = self._core.stats().write_buffer_used
        # Looked at after it: user blocks may have gone to relocation's bands since the last account. They count twice
        # then, rather than not at all.
        for stream in self._classes.reloc:
            for number in self._bands.being_written(stream):
                self._bands.refresh(self._core.band_rows(number, 1))
        return used

    def least_valid(self, without: int | None = None) -> int:
        """Of the closed bands without this one, and without empty ones."""
        others = self._bands.closed & (self._bands.valid > 0)
        if without is not None:
            others[without] = False
        return int(self._bands.valid.min(where=others, initial=self._bands.whole_capacity))

    def is_tight(self, less: int = 0, coming: int = 0) -> bool:
        """Whether user writes must get no further band, so that moves in progress and resets can end, and another move
        can begin then. less: blocks that relocation is about to lose. coming: that it will have for that other move."""
        spare = self.reloc_room() - less - self.committed() - self._buffer_blocks
        other = self._band_blocks
        if spare < 0 or spare + coming >= other:
            return spare < 0
        moves, worn = self._moves.in_line(self._bands), self._moves.worn(self._bands)
        if len(moves) > 1 and not worn[-1]:
            # The last move in line is that other one.
            other -= moves[-1].left + self.least_gain
        elif any(worn):
            # What was left for it when this move began.
            other = min(other, self.least_valid() + self.least_gain)
        return spare + coming < other

    def may_take(self, stream: int, number: int, *, next_band_seq: int, draining: bool) -> bool:
        """Whether the stream gets this free band. Relocation takes what it needs. User writes leave the reserve bands,
        and what moves in progress still need, unless a reset or a halt (draining) waits for user blocks: then these
        are at most one write buffer.

        While a class has no band, its blocks go to bands of the other classes of its side. So reserve bands are only
        for a side that has no room at all."""
        bands, classes = self._bands, self._classes
        side = classes.user if stream in classes.user else classes.reloc
        if len(side) > 1 and bands.free_count - 1 < RESERVED_BANDS:
            others = [each for each in side if each != stream]
            if self.has_room(*others):
                return False
        if stream not in classes.user or draining:
            return True
        capacity = bands.one.capacity[number]
        left = self.reloc_room() - capacity
        if self.free_bands - 1 >= RESERVED_BANDS and left >= self.committed():
            return True
        in_whole_bands = self.in_whole_bands(next_band_seq)
        if not in_whole_bands and not self.is_tight(capacity):
            return True
        if self.has_room(*side):
            return False
        if classes.shared:
            return bands.freeing_count > 0
        # If there are only trim records, they go to relocation's band. So does user data if moves in progress, and the
        # one after them, may need this band.
        waits = bands.resetting_count > 0 and self._core.stats().write_buffer_used > 0
        return waits and (in_whole_bands or left >= self.committed() + self._buffer_blocks)

    def may_keep(self, number: int) -> bool:
        """Whether the running checkpoint gets this free band: as if the user stream took it, and nobody waits. What
        user streams gave back is not for it."""
        left = self.reloc_room() - int(self._bands.capacity[number]) - len(self.given_back) * self._band_blocks
        return (
            self.free_bands - 1 - len(self.given_back) >= RESERVED_BANDS
            and left >= self.committed() + self._buffer_blocks
            and not self.user_starved()
            and not self.moves_starved()
        )

    # --- who lacks it

    def has_room(self, *streams: int) -> bool:
        return self._bands.room(*streams) > 0

    def moves_starved(self) -> bool:
        """Moves are in progress that have no band to write to."""
        classes = self._classes
        wanting = not classes.wanting.isdisjoint(classes.reloc)
        return wanting and not self.has_room(*classes.reloc) and self._bands.moving_count > 0

    def user_starved(self) -> bool:
        """The user stream has asked for a band, and has nothing to write to until it gets one."""
        classes = self._classes
        return not classes.wanting.isdisjoint(classes.user) and not self.has_room(*classes.user)

    @property
    def homeless(self) -> int:
        """Of several classes, those that ask for a band and have none. Their blocks are among those of other classes,
        so relocation frees bands for them, too."""
        if self._classes.one_each:
            return 0
        return sum(1 for stream in self._classes.wanting if not self._bands.is_written(stream))

    # --- free space

    def level(self, resets_due: int) -> float:
        """Free space in bands, with the parts of bands that are being written or moved (pacing.level). resets_due:
        bands to reset when others are done."""
        coming = self._bands.resetting_capacity() + resets_due * self._band_blocks
        return level(
            free=self._bands.free_capacity + coming,
            room=self._bands.room(*self._classes.all),
            moves=self._moves.in_line(self._bands),
            band_blocks=self._band_blocks,
            open_bands=self._open_bands,
        )

    @property
    def _open_bands(self) -> int:
        """Classes with bands that are being written, or that should have one."""
        streams = self._classes.all
        if self._classes.one_each:
            return len(streams)
        # pacing.level() takes half a band for each.
        whole = 2 * self.for_classes(*streams)
        return whole + sum(1 for stream in streams if self._bands.is_written(stream))

    def for_classes(self, *streams: int) -> int:
        """Whole bands that several classes need beyond what one class of each side needs: those that are queued for
        these streams, because no other class can use them; one for each class that has none; and one that is there when
        a class asks. Without them, many blocks go to bands of other classes, and data is no longer separate."""
        if self._classes.one_each:
            return 0
        return min(self._bands.queued_count(*streams) + self.homeless + 1, self._for_classes_most)
