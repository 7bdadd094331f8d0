"""The band manager: which band is written next, which is relocated, which is reset, and which share user writes get.

It is level-triggered. Each decision uses the shim's own account of the bands, so an event that is lost, repeated or
late only changes when the decision is made. The shim reports the bands that changed since it was last asked, so the
time of a decision depends on the number of changes, not of bands. However many events arrive at once, one decision is
made, in the next turn of the event loop; a decision that is too long for one turn continues in the next. docs/ftl.md
has the policy, and the proof that it can't deadlock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ...conf import FtlConf
from ..media.band import CLOSED, MOVING, OPEN, QUEUED, RESETTING, Band, Bands
from ..media.geometry import Geometry
from ..policy.guard import Guard
from ..policy.interface import Placement
from ..policy.limits import NO_LIMIT, UNLIMITED, Applied
from ..policy.pacing import Pace
from .classes import Classes
from .feeding import Feeding
from .levelling import PACE as WEAR_PACE
from .levelling import Levelling
from .moves import Moves
from .reloc import Selector, reclaimed, surroundings, table
from .reserve import Reserve, limits_of
from .seam import LOOP_TURNS, Core, Handle, Turns
from .standstill import Standstill

STARVED_POLL_S: Final = 0.05
"""While the user stream has no band, there may be no event, although trims and overwrites in the write buffer can make
a victim at any time."""
PACE_POLL_S: Final = 0.005
"""While bands are moved, the pace is adjusted at least this often."""
IDLE_POLL_S: Final = 1.0
IDLE_POLL_MAX_S: Final = 8.0
"""While nothing changes, each pause is twice as long as the one before, up to this. An event ends it."""
MOVES_IN_LINE: Final = 2
"""Moves that are in progress at a time. The core carries them out one after the other: several at a time would be no
faster, but would hold more space until the first of them ends. The second is there so that relocation does not pause
until the event loop has its turn."""
CHANGES_MAX: Final = 1024
"""Bands whose account is taken in one turn of the event loop: some 4 ms if the state of each has changed."""
RESETS_MAX: Final = 256
"""Bands that are reset at the same time. The base also has host I/O to do, and each reset is an event."""


class BandManager:
    """Gives orders to an FtlCore. Runs on the asyncio loop; only the poll timer waits.

    buffer_blocks: of the write buffer. policy: by default as the conf says. on_stuck(reason) is called once, when user
    writes can't continue and nothing can be freed; on_broken() when free bands have bad zones; on_replaced(reason) when
    the policy was replaced; on_decided() when orders were given. give_up_kept() is called before on_stuck(): the bands
    of keep_band() are given back; False: there are none.
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
        give_up_kept: Callable[[], bool] = lambda: False,
        next_band_seq: int = 1,
        crashed: bool = False,
        turns: Turns = LOOP_TURNS,
    ) -> None:
        self.bands = bands
        self.limits = limits_of(geometry, conf)
        self.applied = Applied(NO_LIMIT, UNLIMITED)
        self.limits_applied: dict[str, int] = {}
        """How often each limit came into effect."""
        self.moves_started = 0
        self.moves = Moves()
        self.classes = Classes(shared=geometry.shared_stream)
        self.reserve = Reserve(
            core, geometry, bands, self.moves, self.classes,
            buffer_blocks=buffer_blocks, next_band_seq=next_band_seq, crashed=crashed,
        )  # fmt: skip
        self.levelling = Levelling(bands, next_band_seq, self._worn)
        self._feeding = Feeding(core, bands, self.moves, self.classes, self.reserve, next_band_seq)
        self._standstill = Standstill(core, turns, bands, self.classes, self.reserve)
        self._core = core
        self._turns = turns
        self._conf = conf
        self._punits = geometry.punits
        self._geometry = geometry
        self._surroundings = surroundings(geometry, conf)
        policy = policy or Guard.loaded(conf.reloc_policy, self._surroundings)
        policy.on_replaced = self._replaced
        self._selector = Selector(conf, geometry.punits, policy)
        self._told: set[int] = set()
        """Bands of which the policy knows that they are reclaimed, until their reset."""
        self.placement = Placement()
        """What the core was told last."""
        self._on_stuck = on_stuck
        self._on_broken = on_broken
        self._on_replaced = on_replaced
        self._on_decided = on_decided
        self._give_up_kept = give_up_kept
        self._pace = Pace()
        self._level: float | None = None
        """As level, if this decision has it: moves that begin do not change it."""
        self._reset_later = False
        self._resets_due = 0
        """Bands to reset when others are done."""
        self._moving_allowed = True
        self._draining = False
        self.kept_wanted = 0
        """Bands that the running checkpoint waits for: as many more are freed."""
        self._started = False
        self._stopped = False
        self._timer: Handle | None = None
        self._idle_s = IDLE_POLL_S
        self._changes = 0
        """Of the core's bands, as of the last account."""
        self._woken: Handle | None = None

    # --- what the device calls

    @property
    def next_band_seq(self) -> int:
        """Of the next band that is opened."""
        return self._feeding.next_band_seq

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
        self.limits = limits_of(self._geometry, conf)
        self._selector = Selector(conf, self._punits, policy or self.policy)
        self._selector.least_gain = self.reserve.least_gain
        self.policy.on_replaced = self._replaced
        if policy is not None and self._started:
            self._place()
        self.wake()

    def set_placement(self, placement: Placement) -> None:
        """Which class of bands blocks go to from now on; at any time. Not used if the streams share a band.

        ValueError if it makes no sense, or has more classes than classes_max; then nothing has changed."""
        if self.classes.shared or self._stopped:
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
        if not self.classes.number(placement.classes, placement.user_classes):
            return
        self.reserve.classes_numbered()
        self._level = None
        self._selector.least_gain = self.reserve.least_gain
        # Bands that are being written may be of another class now.
        for band in self.bands.in_state(OPEN, QUEUED):
            self.bands.refresh(self._core.band_rows(band.index, 1))
        if self._started:
            self.wake()

    def start(self) -> None:
        """Opens the first band of each side, and starts to watch. No order is given before."""
        self._started = True
        self._place()
        self.classes.wanting.update((self.classes.user[0], self.classes.reloc[0]))
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
        self.classes.asks(stream)
        self.wake()

    def keep_band(self) -> int | None:
        """A free band for the running checkpoint, until give_back(); None: none can be spared now."""
        number = self.bands.first_free()
        if self._stopped or self._draining or number is None or not self.reserve.may_keep(number):
            return None
        self.bands.keep(number)
        return number

    def give_back(self, numbers: Sequence[int]) -> None:
        """Bands of the running checkpoint are no longer needed: they are reset. Not once the manager is stopped: the
        next load resets them."""
        if self._stopped:
            return
        refused = set(self._core.reset_bands(numbers))
        for number in numbers:
            if number not in refused:
                self.bands.give_back(number)
        self.wake()

    def zone_ended(self) -> None:
        """A zone that was being written ended before it was full, or failed: others may, too."""
        self.reserve.zone_ended(self.next_band_seq)

    def want_all(self) -> None:
        """Events were lost: every stream without a queued band may have asked for one."""
        self.classes.wanting.update(self.classes.all if self.classes.one_each else self._core.asking())
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
        self._feeding.feed(self.limits, draining=self._draining)
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
        for stream in self.classes.all:
            for number in self.bands.being_written(stream):
                self.bands.refresh(self._core.band_rows(number, 1))
        return True

    async def take_last_account(self) -> None:
        """Of all bands, when the core has stopped. The event loop turns meanwhile."""
        for _ in range(0, len(self.bands), CHANGES_MAX):
            if not self.take_account():
                break
            await asyncio.sleep(0)

    @property
    def free_bands(self) -> int:
        """As limits count them. Reported as limit_free_bands; free_bands are those that are free."""
        return self.reserve.free_bands

    # --- decisions

    def _reset_emptied(self) -> None:
        if not self.bands.emptied_count:
            self._reset_later, self._resets_due = False, 0
            return
        numbers = self.bands.emptied(max(0, RESETS_MAX - self.bands.resetting_count))
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

    def _start_moves(self) -> None:
        reserve = self.reserve
        self.levelling.saving = 0
        self._level = None
        starved = reserve.user_starved()
        if not self._moving_allowed and not starved:
            return
        if starved and not self._user_stopped:
            # Otherwise hosts fill the write buffer between the look at it and the move that counts on what was seen.
            self._pace = Pace(user_share=0)
            self._core.set_pace(self._pace.user_share, self._pace.reloc_per_thousand)
        urgent = starved or self.limits.urgent(reserve.free_bands)
        if self._moving_allowed and not starved and self._level_wear():
            return
        bands = self.bands
        in_line = 0
        while True:
            worn = sum(self.moves.worn(bands))
            # Moves that level wear come on top of those that gain space.
            moving = bands.moving_count - worn
            coming = reserve.free_bands + bands.resetting_count + self._resets_due
            for_classes = reserve.for_classes(*self.classes.reloc)
            wanted = self.limits.start_bands + 1 + for_classes + self._saving - coming
            endangered = bands.any_endangered()
            alone = starved and not moving
            if not endangered and (moving >= MOVES_IN_LINE or (wanted <= 0 and not alone)):
                return
            in_line = in_line or self._moves_in_line()
            if wanted > 0:
                wanted = max(wanted, in_line)
            if alone:
                wanted = max(1, wanted)
            most = max(wanted, int(endangered)) if endangered else min(wanted, in_line)
            if moving >= min(self._conf.max_active_relocs - worn, most):
                return
            buffered = reserve.buffered(user_stopped=self._user_stopped)
            victim = self._selector.choose(
                bands,
                room=reserve.reloc_room() - reserve.committed() - buffered,
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
        """True: no other move may begin now."""
        # A second move must be possible beside it.
        if self.classes.shared or self._conf.max_active_relocs < 2:
            return False
        due = self.levelling.due(
            self.moves, self.reserve, self.classes, next_band_seq=self.next_band_seq, user_stopped=self._user_stopped
        )
        if due is None:
            return False
        if due.waits:
            return True
        if len(self.classes.reloc) == 1:
            self._give_up_rest(self.classes.reloc[0], due.give_up)
        if self._start_move(due.victim, worn=True):
            self.levelling.started(self.next_band_seq)
        self.wake()
        return True

    def _give_up_rest(self, stream: int, open_bands: list[Band]) -> None:
        """The stream's blocks go to a band that is opened after this."""
        for band in open_bands:
            for punit in range(self._punits):
                self._core.close_zone(band.index, punit)
            self.bands.refresh(self._core.band_rows(band.index, 1))
        number = self._core.take_queued(stream)
        if number is not None:
            self.bands.refresh(self._core.band_rows(number, 1))
        self.classes.wanting.add(stream)

    def _tell(self, number: int, next_seq: int) -> bool:
        """The policy learns that the band is reclaimed, once. True: its placement has changed."""
        if number in self._told:
            return False
        self._told.add(number)
        return self.policy.wants_reclaimed and self.policy.reclaimed(reclaimed(self.bands, number, next_seq))

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
        self._level = self.level
        return MOVES_IN_LINE if self._level - self._saving < self.limits.start_bands else 1

    @property
    def level(self) -> float:
        """As Reserve.level()."""
        return self.reserve.level(self._resets_due)

    @property
    def _saving(self) -> int:
        """Bands that are to be free beyond what the thresholds say."""
        return self.levelling.saving + self.kept_wanted

    @property
    def _user_stopped(self) -> bool:
        return self._pace.user_share == 0

    def _set_share(self) -> None:
        applied = self.limits.apply(self.reserve.free_bands)
        if applied.name != self.applied.name:
            self.limits_applied[applied.name] = self.limits_applied.get(applied.name, 0) + 1
        self.applied = applied
        pace = Pace()
        freeing = self.bands.freeing_count > 0
        # A limit makes way for relocation. If nothing can be relocated, it would only stop user writes for nothing.
        if freeing and not self._draining:
            # A reset that waits for user data has it written to relocation's band if there is no other: then nothing
            # more is accepted, so that this is at most one write buffer, however many resets are in progress.
            all_needed = self.reserve.in_whole_bands(self.next_band_seq) or self.reserve.user_starved()
            tight = self._is_tight(0 if all_needed else self.bands.resetting_capacity())
            pace = Pace(user_share=0) if tight else self._fitting_pace()
        if pace != self._pace:
            self._core.set_pace(pace.user_share, pace.reloc_per_thousand)
            self._pace = pace

    def _is_tight(self, coming: int) -> bool:
        """As Reserve.is_tight(), when user streams have given back what they can do without."""
        while self.reserve.is_tight(coming=coming):
            stream = self._feeding.take_back()
            if stream is None:
                return True
            self.reserve.taken_back(stream, self.next_band_seq)
            self.levelling.taken_back()
        return False

    def _fitting_pace(self) -> Pace:
        sizes = self.moves.in_line(self.bands)
        level, self._level = self.level if self._level is None else self._level, None
        pace = self.policy.pace(self.limits, level - self._saving, sizes)
        # Data in danger, even if it is behind in line, and writes that stand still do not wait for more writes.
        if self.reserve.user_starved() or self.moves.endangered(self.bands) or self.bands.any_endangered():
            return Pace(pace.user_share)
        # Unless both would wait for each other.
        if sizes and all(self.moves.worn(self.bands)) and pace.user_share * (1000 + WEAR_PACE) > 100 * 1000:
            return Pace(pace.user_share, WEAR_PACE)
        return pace

    def _watch(self) -> None:
        if self._standstill.look() and not self._give_up_kept():
            why = (
                f"no free band is left ({len(self.bands)} bands, {self.bands.count(CLOSED)} of them closed), "
                "and none can be freed"
            )
            if self.classes.one_each:
                self.stop()
                self._on_stuck(why)
                return
            # Hosts' writes of all classes then share a band, and relocation fills the bands that it has.
            self.policy.out_of_space(why)
        if self._timer is not None:
            self._timer.cancel()
        busy = self._standstill.possible or self.reserve.user_starved() or self._draining or self._reset_later
        moving = self.bands.moving_count > 0
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
            and not self.classes.wanting
            and not self.bands.freeing_count
            and not self.bands.any_to_mend()
        ):
            self._look_later()
        else:
            self.pump()
