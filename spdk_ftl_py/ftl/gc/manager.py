"""The band manager: which band is written next, which is relocated, which is reset, and which share user writes get.

It is level-triggered. Each decision uses the shim's own account of the bands, so an event that is lost, repeated or
late only changes when the decision is made. The shim reports the bands that changed since it was last asked, so the
time of a decision depends on the number of changes, not of bands. However many events arrive at once, one decision is
made, in the next turn of the event loop; a decision that is too long for one turn continues in the next. docs/ftl.md
has the policy, and the proof that it can't deadlock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ... import _shim
from ...conf import RESERVED_BANDS, FtlConf, is_small, least_gain_blocks
from ..media.band import CLOSED, MOVING, OPEN, QUEUED, RESETTING, Band, Bands
from ..media.geometry import Geometry
from ..policy.guard import Guard
from ..policy.interface import Placement
from ..policy.limits import NO_LIMIT, UNLIMITED, Applied, Limits
from ..policy.pacing import AIM, Pace, level
from .moves import Moves
from .reloc import Selector, reclaimed, surroundings, table
from .seam import LOOP_TURNS, Core, Handle, Turns
from .wear import PACE as WEAR_PACE
from .wear import REST as WEAR_REST
from .wear import Levelling

log = logging.getLogger(__name__)

STARVED_POLL_S: Final = 0.05
"""While the user stream has no band, there may be no event, although trims and overwrites in the write buffer can make
a victim at any time."""
PACE_POLL_S: Final = 0.005
"""While bands are moved, the pace is adjusted at least this often."""
IDLE_POLL_S: Final = 1.0
IDLE_POLL_MAX_S: Final = 8.0
"""While nothing changes, each pause is twice as long as the one before, up to this. An event ends it."""
STUCK_S: Final = 1.0
"""A device without free bands, on which nothing in progress can free one, is out of space after this time."""
STUCK_BUSY_S: Final = 5.0
"""The same, while moves or resets are in progress that can't end: the base may just be slow."""
MOVES_IN_LINE: Final = 2
"""Moves that are in progress at a time. The core carries them out one after the other: several at a time would be no
faster, but would hold more space until the first of them ends. The second is there so that relocation does not pause
until the event loop has its turn."""
EARLY_BLOCKS: Final = 8192
"""A stream whose band has no more room than this gets its next band before it asks, so that it does not wait for a turn
of the event loop."""
CLASSES_PART: Final = 16
"""Bands that are kept free so that each of several classes has its own are at most this part of the spare bands: with
few spare bands, separation gains less than the space costs."""
CAREFUL_BANDS: Final = 64
"""While so many bands are opened after a crash, or after zones ended before they were full, the reserve is counted in
whole bands: the same may happen again, and takes the rests of bands that are being written."""
CHANGES_MAX: Final = 1024
"""Bands whose account is taken in one turn of the event loop: some 4 ms if the state of each has changed."""
RESETS_MAX: Final = 256
"""Bands that are reset at the same time. The base also has host I/O to do, and each reset is an event."""


class BandManager:
    """Gives orders to an FtlCore. Runs on the asyncio loop; only the poll timer waits.

    buffer_blocks: of the write buffer. policy: by default as the conf says. on_stuck(reason) is called once, when user
    writes can't continue and nothing can be freed; on_broken() when free bands have bad zones; on_replaced(reason) when
    the policy was replaced; on_decided() when orders were given.
    """

    def __init__(
        self,
        core: Core,
        geometry: Geometry,
        conf: FtlConf,
        bands: Bands,
        *,
        buffer_blocks: int,
        policy: Guard | None = None,
        on_stuck: Callable[[str], None],
        on_broken: Callable[[], None] = lambda: None,
        on_replaced: Callable[[str], None] = lambda why: None,
        on_decided: Callable[[], None] = lambda: None,
        next_band_seq: int = 1,
        crashed: bool = False,
        turns: Turns = LOOP_TURNS,
    ) -> None:
        self.bands = bands
        self.limits = self._limits(geometry, conf)
        self.next_band_seq = next_band_seq
        self.applied = Applied(NO_LIMIT, UNLIMITED)
        self.limits_applied: dict[str, int] = {}
        """How often each limit came into effect."""
        self.moves_started = 0
        self.moves = Moves()
        self._core = core
        self._turns = turns
        self._conf = conf
        self._buffer_blocks = buffer_blocks
        self._band_blocks = geometry.band_blocks
        self._punits = geometry.punits
        self._for_classes_most = geometry.spare_bands // CLASSES_PART
        self._shared = geometry.shared_stream
        self._geometry = geometry
        self._surroundings = surroundings(geometry, conf)
        policy = policy or Guard.loaded(conf.reloc_policy, self._surroundings)
        policy.on_replaced = self._replaced
        self._selector = Selector(conf, geometry.punits, policy)
        self._told: set[int] = set()
        """Bands of which the policy knows that they are reclaimed, until their reset."""
        self.placement = Placement()
        """What the core was told last."""
        # Classes of bands. Each is a stream of the shim.
        self._user: tuple[int, ...] = (_shim.STREAM_USER,)
        self._reloc: tuple[int, ...] = self._user if self._shared else (_shim.STREAM_RELOC,)
        self._streams: tuple[int, ...] = self._user if self._shared else (*self._user, *self._reloc)
        self._one_each = True
        """Each side has one class."""
        self.levelling = Levelling(bands, next_band_seq, self._worn)
        self._saving = 0
        """Bands that are to be free besides, so that a move that levels wear can begin."""
        self._wanting: set[int] = set()
        self._small = self._is_small(geometry)
        self._careful_until = next_band_seq + CAREFUL_BANDS if crashed else 0
        self._on_stuck = on_stuck
        self._on_broken = on_broken
        self._on_replaced = on_replaced
        self._on_decided = on_decided
        self._pace = Pace()
        self._standing_still: tuple[float, tuple[int, int, int]] | None = None
        self._reset_later = False
        self._resets_due = 0
        """Bands to reset when others are done."""
        self._moving_allowed = True
        self._draining = False
        self._started = False
        self._stopped = False
        self._timer: Handle | None = None
        self._idle_s = IDLE_POLL_S
        self._changes = 0
        """Of the core's bands, as of the last account."""
        self._woken: Handle | None = None

    @staticmethod
    def _is_small(geometry: Geometry) -> bool:
        return is_small(geometry.spare_bands - geometry.open_bands)

    @classmethod
    def _limits(cls, geometry: Geometry, conf: FtlConf) -> Limits:
        return Limits(conf, aim=0 if cls._is_small(geometry) else AIM)

    # --- what the device calls

    @property
    def classes_max(self) -> int:
        """As Surroundings.classes_max."""
        return self._surroundings.classes_max

    @property
    def policy(self) -> Guard:
        return self._selector.guard

    def needs_new_policy(self, conf: FtlConf) -> bool:
        """Whether the policy can't go on with this conf: it is another one, or has another number of classes."""
        return conf.reloc_policy != self._conf.reloc_policy or surroundings(self._geometry, conf) != self._surroundings

    def new_policy(self, conf: FtlConf) -> Guard:
        """For set_conf(). Raises ConfError."""
        return Guard.new(conf.reloc_policy, surroundings(self._geometry, conf), self.policy.memory)

    def set_conf(self, conf: FtlConf, policy: Guard | None = None) -> None:
        """Applies a conf from now on, for the same geometry; max_active_relocs must not exceed that of the core.
        policy: another one, from new_policy(); one is needed if needs_new_policy()."""
        self._conf = conf
        self._surroundings = surroundings(self._geometry, conf)
        self.limits = self._limits(self._geometry, conf)
        self._selector = Selector(conf, self._punits, policy or self.policy)
        self._selector.least_gain = least_gain_blocks(self._punits, len(self._reloc))
        self.policy.on_replaced = self._replaced
        if policy is not None and self._started:
            self._place()
        self.wake()

    def set_placement(self, placement: Placement) -> None:
        """Which class of bands blocks go to from now on; at any time. Not used if the streams share a band.

        ValueError if it makes no sense, or has more classes than classes_max; then nothing has changed."""
        if self._shared or self._stopped:
            return
        if placement.classes > self.classes_max:
            raise ValueError(
                f"a placement in {placement.classes} classes: this FTL has bands for {self.classes_max} at most"
            )
        self._core.set_placement(
            classes=placement.classes,
            user_classes=placement.user_classes,
            user=(placement.user.classes, placement.user.limits),
            unwritten=placement.unwritten,
            relocated=[(each.classes, each.limits) for each in placement.relocated],
            regions=placement.regions,
            region_blocks=placement.region_blocks,
        )
        self.placement = placement
        user, reloc = range(placement.user_classes), range(placement.user_classes, placement.classes)
        if (tuple(user), tuple(reloc)) == (self._user, self._reloc):
            return
        self._user, self._reloc = tuple(user), tuple(reloc)
        self._streams = (*self._user, *self._reloc)
        self._one_each = len(self._user) == len(self._reloc) == 1
        self._selector.least_gain = least_gain_blocks(self._punits, len(reloc))
        # Bands that are being written may be of another class now. Classes that need a band ask again.
        for band in self.bands.in_state(OPEN, QUEUED):
            self.bands.refresh(self._core.band_rows(band.index, 1))
        self._wanting.clear()
        if self._started:
            self.wake()

    def start(self) -> None:
        """Opens the first band of each side, and starts to watch. No order is given before."""
        self._started = True
        self._place()
        self._wanting.update((self._user[0], self._reloc[0]))
        self.pump()

    def stop(self) -> None:
        """No order is given after this. Idempotent."""
        self._stopped = True
        for handle in (self._timer, self._woken):
            if handle is not None:
                handle.cancel()
        self._timer = self._woken = None

    @property
    def stopped(self) -> bool:
        return self._stopped

    def drain(self) -> None:
        """For a halt: no new relocations except those that a starved stream needs, and no limit on user writes, which
        may also take reserve bands."""
        self._draining = True
        self._moving_allowed = False
        self.pump()

    def band_wanted(self, stream: int) -> None:
        """The shim's band_next_needed."""
        # A class may have asked that no longer exists.
        if self._shared or stream in self._streams:
            self._wanting.add(_shim.STREAM_USER if self._shared else stream)
        self.wake()

    def zone_ended(self) -> None:
        """A zone that was being written ended before it was full, or failed: others may, too."""
        self._careful_until = self.next_band_seq + CAREFUL_BANDS

    def want_all(self) -> None:
        """Events were lost: every stream without a queued band may have asked for one."""
        self._wanting.update(self._streams if self._one_each else self._core.asking())
        self.wake()

    def wake(self) -> None:
        """Something has happened: pump() runs once in the next turn of the event loop."""
        if self._woken is None and not self._stopped:
            self._woken = self._turns.soon(self.pump)

    def pump(self) -> None:
        """Takes the account of changed bands, and gives the orders that are due. The next turn continues with what is
        left."""
        if self._woken is not None:
            self._woken.cancel()
            self._woken = None
        if self._stopped or not self._started:
            return
        if self.take_account():
            self.wake()
        self._reset_emptied()
        self._feed_streams()
        self._start_moves()
        self._set_share()
        self._watch()
        if self.bands.any_to_mend():
            self._on_broken()
        self._on_decided()

    async def bands_loaded(self) -> None:
        """The core has been told of all bands, and nothing is served yet. The loop turns meanwhile."""
        for _ in range(0, len(self.bands), CHANGES_MAX):
            self.take_account()
            await asyncio.sleep(0)
        self.bands.retire_empty()

    def take_account(self) -> bool:
        """Takes the account of at most CHANGES_MAX bands. True: there may be more, for which an older account is used.
        This does no harm: it is as if the events had arrived later."""
        self._changes = self._core.band_changes
        taken = self.bands.refresh(self._core.changed_bands(CHANGES_MAX))
        if taken:
            self._idle_s = IDLE_POLL_S
        if taken < CHANGES_MAX:
            return False
        # Except for how much can still be written: that is less than was known.
        for stream in self._streams:
            for number in self.bands.being_written(stream):
                self.bands.refresh(self._core.band_rows(number, 1))
        return True

    @property
    def free_bands(self) -> int:
        """Free bands as limits count them: bands in the queue of relocation still count as reserve. Reported as
        limit_free_bands; free_bands are those that are free."""
        return self.bands.free_count + self.bands.queued_count(*self._reloc)

    # --- decisions

    def _reset_emptied(self) -> None:
        numbers = self.bands.emptied(max(0, RESETS_MAX - self.bands.count(RESETTING)))
        refused = set(self._core.reset_bands(numbers)) if numbers else set()
        next_seq = self._core.next_seq if numbers else 0
        placed_anew = False
        for number in numbers:
            if number not in refused:
                placed_anew |= self._tell(number, next_seq)
                self._told.discard(number)
                self.bands.ordered(number, RESETTING)
        if placed_anew:
            self._place()
        # A block in it became valid since the last account, or will: trim records are being spread.
        self.bands.put_off(refused)
        self._reset_later = bool(refused)
        self._resets_due = self.bands.emptied_count - len(refused)

    def _feed_streams(self) -> None:
        # Relocation first: without it nothing is ever freed. Then classes without any band.
        soon: set[int] = set() if self._homeless else self._wanting_soon()
        for stream in sorted(self._wanting | soon, key=self._turn):
            if self.bands.queued_count(stream):
                self._wanting.discard(stream)
                continue
            number = self._band_for(stream)
            if number is None and self._stuck_moves():
                number = self._take_from_user()
            if number is None or not self._may_take(stream, number):
                continue
            if stream not in self._wanting and self._room_is_tight(int(self.bands.capacity[number])):
                continue
            try:
                self._core.open_band(stream, number, self.next_band_seq)
            except BlockingIOError:
                self._wanting.discard(stream)
                continue
            self.next_band_seq += 1
            self.bands.ordered(number, QUEUED, stream=stream)
            self._wanting.discard(stream)

    def _turn(self, stream: int) -> tuple[bool, bool, int]:
        return stream in self._user, bool(self.bands.being_written(stream)), -stream

    def _band_for(self, stream: int) -> int | None:
        """Cold data rests in the band that was reset most; anything else goes to the one that was reset least."""
        cold = stream not in self._user and self.moves.worn(self.bands)[:1] == [True]
        if cold and self.moves.in_line(self.bands)[0].left > self.bands.room(stream):
            return self.bands.last_free()
        return self.bands.first_free()

    def _wanting_soon(self) -> set[int]:
        """Streams that will ask for a band so soon that this may be too late for them. A band is not taken early if
        that makes relocation begin."""
        soon = min(EARLY_BLOCKS, self._band_blocks // 2)
        moving = self.bands.count(MOVING) > 0
        plenty = moving or self.free_bands - 1 > self.limits.start_bands
        # One of several classes may have no data at all.
        return {
            stream
            for stream in self._streams
            if self.bands.room(stream) <= soon
            and (plenty if stream in self._user else moving)
            and (self._one_each or self.bands.being_written(stream))
        }

    def _take_from_user(self) -> int | None:
        """The user stream's next band, to which nothing was written yet. Zones have failed that the moves in progress
        counted on. Without these zones nothing would ever be freed, for user writes either."""
        if self._shared:
            return None
        for stream in self._user:
            number = self._core.take_queued(stream)
            if number is not None:
                self._wanting.add(stream)
                self.bands.refresh(self._core.band_rows(number, 1))
                return self.bands.first_free()
        return None

    def _may_take(self, stream: int, number: int) -> bool:
        """Relocation takes what it needs. User writes leave the reserve bands, and what moves in progress still need,
        unless a reset or a halt waits for user blocks: then these are at most one write buffer.

        While a class has no band, its blocks go to bands of the other classes of its side. So reserve bands are only
        for a side that has no room at all."""
        side = self._user if stream in self._user else self._reloc
        others = [each for each in side if each != stream]
        if others and self.bands.free_count - 1 < RESERVED_BANDS and self._has_room(*others):
            return False
        if stream not in self._user or self._draining:
            return True
        left = self._reloc_room() - int(self.bands.capacity[number])
        if self.free_bands - 1 >= RESERVED_BANDS and left >= self._committed():
            return True
        if not self._in_whole_bands and not self._room_is_tight(int(self.bands.capacity[number])):
            return True
        if self._has_room(*side):
            return False
        if self._shared:
            return self.bands.count(RESETTING, MOVING) > 0
        # If there are only trim records, they go to relocation's band. So does user data if moves in progress, and the
        # one after them, may need this band.
        waits = self.bands.count(RESETTING) > 0 and self._core.stats().write_buffer_used > 0
        return waits and (self._in_whole_bands or left >= self._committed() + self._buffer_blocks)

    def _start_moves(self) -> None:
        self._saving = 0
        starved = self._starved()
        if not self._moving_allowed and not starved:
            return
        urgent = starved or self.limits.urgent(self.free_bands)
        if self._moving_allowed and not starved and self._level_wear():
            return
        # Moves that begin do not change the level.
        in_line = self._moves_in_line()
        while True:
            worn = sum(self.moves.worn(self.bands))
            # Moves that level wear come on top of those that gain space.
            moving = self.bands.count(MOVING) - worn
            coming = self.free_bands + self.bands.count(RESETTING) + self._resets_due
            wanted = self.limits.start_bands + 1 + self._for_classes(*self._reloc) + self._saving - coming
            if wanted > 0:
                wanted = max(wanted, in_line)
            if starved and not moving:
                wanted = max(1, wanted)
            endangered = self.bands.any_endangered()
            most = max(wanted, int(endangered)) if endangered else min(wanted, in_line)
            if moving >= min(self._conf.max_active_relocs - worn, most):
                return
            victim = self._selector.choose(
                self.bands,
                room=self._reloc_room() - self._committed() - self._buffered(),
                next_seq=self._core.next_seq,
                urgent=urgent,
                endangered_only=wanted <= 0,
            )
            if victim is None or not self._start_move(victim, urgent=urgent):
                return

    def _start_move(self, victim: int, *, urgent: bool = False, worn: bool = False) -> bool:
        try:
            self._core.start_move(victim)
        except (BlockingIOError, ValueError):
            # The shim is ahead: it has as many moves as it can, or the band has changed.
            return False
        merit = 0.0 if worn else self._selector.merit
        self.moves.began(self.bands, victim, merit, next_band_seq=self.next_band_seq, urgent=urgent, worn=worn)
        if worn:
            # How long this data was valid says nothing about when data is overwritten.
            self._told.add(victim)
        elif self._tell(victim, self._core.next_seq):
            self._place()
        self.bands.ordered(victim, MOVING)
        self.moves_started += 1
        return True

    def _worn(self) -> int | None:
        return self.policy.worn(table(self.bands, self._core.next_seq))

    def _level_wear(self) -> bool:
        """True: no other move may begin now, so that one that levels wear can begin soon.

        Such a move need not gain anything. So it begins only while another one, which gains, could begin after it. Its
        data gets a band of its own: cold data in the same band as other data would be copied again and again with that.
        So the move begins when relocation's band is nearly full, and the rest of that band is given up. With several
        classes of relocated blocks, cold data has its class."""
        # A second move must be possible beside it.
        if self._shared or self._conf.max_active_relocs < 2:
            return False
        victim = self.levelling.victim(self.next_band_seq)
        if victim is None or self.bands.any_endangered() or any(self.moves.worn(self.bands)):
            return False
        target = self.bands.last_free()
        if target is None or not self.levelling.may_rest(target):
            return False
        only = len(self._reloc) == 1
        open_bands = [band for band in self.bands.in_state(OPEN) if only and band.stream in self._reloc]
        if len(open_bands) > 1:
            # Of classes that there were. Relocation fills them first.
            return False
        self._saving = int(only and self.levelling.may_save(self.next_band_seq))
        moves = self.moves.in_line(self.bands)
        left = sum(move.left for move in moves)
        # As they will be when the moves in line have ended.
        rest = (sum(band.room for band in open_bands) - left) % self._band_blocks if only else 0
        room = self._reloc_room() - rest - left + sum(move.capacity for move in moves) - self._buffered()
        needed = int(self.bands.valid[victim]) + self._least_valid(victim) + 2 * self._selector.least_gain
        if room < needed or rest > self._band_blocks // WEAR_REST:
            return False
        if moves:
            return True
        if only:
            self._give_up_rest(self._reloc[0], open_bands)
        if self._start_move(victim, worn=True):
            self.levelling.started(self.next_band_seq)
        self.wake()
        return True

    def _least_valid(self, victim: int | None = None) -> int:
        """Of the closed bands without this one, and without empty ones."""
        others = self.bands.closed & (self.bands.valid > 0)
        if victim is not None:
            others[victim] = False
        return int(self.bands.valid.min(where=others, initial=self.bands.whole_capacity))

    def _give_up_rest(self, stream: int, open_bands: list[Band]) -> None:
        """The stream's blocks go to a band that is opened after this."""
        for band in open_bands:
            for punit in range(self._punits):
                self._core.close_zone(band.index, punit)
            self.bands.refresh(self._core.band_rows(band.index, 1))
        number = self._core.take_queued(stream)
        if number is not None:
            self.bands.refresh(self._core.band_rows(number, 1))
        self._wanting.add(stream)

    def _tell(self, number: int, next_seq: int) -> bool:
        """The policy learns that the band is reclaimed, once. True: its placement has changed."""
        if number in self._told:
            return False
        self._told.add(number)
        return self.policy.reclaimed(reclaimed(self.bands, number, next_seq))

    def _place(self) -> None:
        """Tells the core what the policy says about placement."""
        try:
            self.set_placement(self.policy.placement())
        except ValueError as error:
            if self.policy.replaced is not None:
                raise
            self.policy.refused(str(error))

    def _replaced(self) -> None:
        self._on_replaced(str(self.policy.replaced))
        if self._started:
            self._place()

    def _moves_in_line(self) -> int:
        return MOVES_IN_LINE if self.level - self._saving < self.limits.start_bands else 1

    def _set_share(self) -> None:
        applied = self.limits.apply(self.free_bands)
        if applied.name != self.applied.name:
            self.limits_applied[applied.name] = self.limits_applied.get(applied.name, 0) + 1
        self.applied = applied
        pace = Pace()
        freeing = self.bands.count(MOVING, RESETTING) > 0
        # A limit makes way for relocation. If nothing can be relocated, it would only stop user writes for nothing.
        if freeing and not self._draining:
            # A reset that waits for user data has it written to relocation's band if there is no other: then nothing
            # more is accepted, so that this is at most one write buffer, however many resets are in progress.
            coming = 0 if self._in_whole_bands or self._starved() else self.bands.resetting_capacity()
            tight = self._room_is_tight(coming=coming)
            pace = Pace(user_share=0) if tight else self._fitting_pace()
        if pace != self._pace:
            self._core.set_pace(pace.user_share, pace.reloc_per_thousand)
            self._pace = pace

    def _fitting_pace(self) -> Pace:
        sizes = self.moves.in_line(self.bands)
        pace = self.policy.pace(self.limits, self.level - self._saving, sizes)
        # Data in danger, even if it is behind in line, and writes that stand still do not wait for more writes.
        if self._starved() or self.moves.endangered(self.bands) or self.bands.any_endangered():
            return Pace(pace.user_share)
        # Unless both would wait for each other.
        if sizes and all(self.moves.worn(self.bands)) and pace.user_share * (1000 + WEAR_PACE) > 100 * 1000:
            return Pace(pace.user_share, WEAR_PACE)
        return pace

    @property
    def level(self) -> float:
        """Free space in bands, with the parts of bands that are being written or moved (pacing.level)."""
        coming = self.bands.resetting_capacity() + self._resets_due * self._band_blocks
        return level(
            free=self.bands.free_capacity + coming,
            room=self.bands.room(*self._streams),
            moves=self.moves.in_line(self.bands),
            band_blocks=self._band_blocks,
            open_bands=self._open_bands,
        )

    @property
    def _open_bands(self) -> int:
        """Classes with bands that are being written, or that should have one."""
        if self._one_each:
            return len(self._streams)
        # pacing.level() takes half a band for each.
        whole = 2 * self._for_classes(*self._streams)
        return whole + sum(1 for stream in self._streams if self.bands.being_written(stream))

    def _for_classes(self, *streams: int) -> int:
        """Whole bands that several classes need beyond what one class of each side needs: those that are queued for
        these streams, because no other class can use them; one for each class that has none; and one that is there when
        a class asks. Without them, many blocks go to bands of other classes, and data is no longer separate."""
        if self._one_each:
            return 0
        return min(self.bands.queued_count(*streams) + self._homeless + 1, self._for_classes_most)

    @property
    def _in_whole_bands(self) -> bool:
        """The reserve is two whole bands. It is less if it is counted in blocks, but then the rests of bands that are
        being written are part of it."""
        return self._shared or self._small or self.next_band_seq < self._careful_until

    @property
    def _homeless(self) -> int:
        """Of several classes, those that ask for a band and have none. Their blocks are among those of other classes,
        so relocation frees bands for them, too."""
        if self._one_each:
            return 0
        return sum(1 for stream in self._wanting if not self.bands.being_written(stream))

    def _watch(self) -> None:
        patience = self._patience_s()
        if patience is None:
            self._standing_still = None
        else:
            now = self._turns.time()
            core = self._core.stats()
            # If the base reports busy, the manager waits: something makes progress there.
            done = (core.media_written_blocks, core.zone_resets, core.busy_answers)
            if self._standing_still is None or self._standing_still[1] != done:
                self._standing_still = (now, done)
            elif now - self._standing_still[0] > patience:
                why = (
                    f"no free band is left ({len(self.bands)} bands, {self.bands.count(CLOSED)} of them closed), "
                    "and none can be freed"
                )
                if self._one_each:
                    self.stop()
                    self._on_stuck(why)
                    return
                # Hosts' writes of all classes then share a band, and relocation fills the bands that it has.
                self._standing_still = None
                self.policy.out_of_space(why)
        if self._timer is not None:
            self._timer.cancel()
        busy = patience is not None or self._starved() or self._draining or self._reset_later
        moving = self.bands.count(MOVING) > 0
        if moving or busy:
            self._idle_s = IDLE_POLL_S
            self._timer = self._turns.later(PACE_POLL_S if moving else STARVED_POLL_S, self.pump)
        else:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self._turns.at_beat(self._idle_s, self._look)
        self._idle_s = min(2 * self._idle_s, IDLE_POLL_MAX_S)

    def _look(self) -> None:
        """As pump(), which wakes the reactor's thread, but only if there may be something to decide."""
        if (
            self._core.band_changes == self._changes
            and not self._wanting
            and not self.bands.count(MOVING, RESETTING)
            and not self.bands.any_to_mend()
        ):
            self._look_later()
        else:
            self.pump()

    def _patience_s(self) -> float | None:
        """How long there may be no progress until it is certain that there will be none; None while progress is
        certain."""
        if self.bands.any_to_mend():
            return None
        starved = self._starved()
        if starved and not self.bands.count(MOVING, RESETTING):
            return STUCK_S
        # Moves, and resets that wait for user data, need a band. There always is one, unless zones failed that were
        # counted on.
        if self.bands.free_count:
            return None
        resets_starved = starved and not self._has_room(*self._reloc)
        return STUCK_BUSY_S if self._stuck_moves() or resets_starved else None

    # --- numbers for the decisions

    def _reloc_room(self) -> int:
        """Blocks that relocation can certainly write: the rest of its bands, and all free bands."""
        return self.bands.room(*self._reloc) + self.bands.free_capacity

    def _committed(self) -> int:
        """Blocks that moves in progress may still have to write."""
        return sum(int(self.bands.valid[number]) + self._selector.least_gain for number in self.bands.moving())

    def _buffered(self) -> int:
        """User blocks that a reset may have to wait for, and that may have to go to relocation's band."""
        if self._pace.user_share == 0 or self._starved():
            return self._core.stats().write_buffer_used
        return self._buffer_blocks

    def _room_is_tight(self, less: int = 0, coming: int = 0) -> bool:
        """Whether user writes must get no further band, so that moves in progress and resets can end, and another move
        can begin then. less: blocks that relocation is about to lose. coming: that it will have for that other move."""
        moves, worn = self.moves.in_line(self.bands), self.moves.worn(self.bands)
        other = self._band_blocks
        if len(moves) > 1 and not worn[-1]:
            # The last move in line is that other one.
            other -= moves[-1].left + self._selector.least_gain
        elif any(worn):
            # What was left for it when this move began.
            other = min(other, self._least_valid() + self._selector.least_gain)
        spare = self._reloc_room() - less - self._committed() - self._buffer_blocks
        return spare < 0 or spare + coming < other

    def _has_room(self, *streams: int) -> bool:
        return self.bands.room(*streams) > 0

    def _stuck_moves(self) -> bool:
        """Moves are in progress that have no band to write to."""
        wanting = not self._wanting.isdisjoint(self._reloc)
        return wanting and not self._has_room(*self._reloc) and self.bands.count(MOVING) > 0

    def _starved(self) -> bool:
        """The user stream has asked for a band, and has nothing to write to until it gets one."""
        return not self._wanting.isdisjoint(self._user) and not self._has_room(*self._user)
