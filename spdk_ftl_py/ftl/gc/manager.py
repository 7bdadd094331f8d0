"""The band manager: which band is written next, which is relocated, which is reset, what share the user gets.

Level-triggered: each decision is made from the shim's own account of the bands, so an event that got lost, came twice
or came late changes nothing but when the decision is made. The shim tells of bands that have changed since it was last
asked, whatever became of the events; so a decision takes as long as there is change, not as there are bands. However
many events come at once, one decision is made, in the next turn of the event loop; what is too much for one turn is
continued in the following. Policy and proof that it can't wedge: docs/ftl.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ... import _shim
from ...conf import RESERVED_BANDS, FtlConf
from ..media.band import CLOSED, MOVING, QUEUED, RESETTING, Bands
from ..media.geometry import Geometry
from .limits import NO_LIMIT, UNLIMITED, Applied, Limits
from .reloc import Selector

log = logging.getLogger(__name__)

STARVED_POLL_S: Final = 0.05
"""While the user has no band nothing may happen that sends an event, although trims and overwrites in the write buffer
can make a victim any time."""
IDLE_POLL_S: Final = 1.0
STUCK_S: Final = 1.0
"""A device without free bands, and with nothing under way that gives one back, is declared out of space after this."""
STUCK_BUSY_S: Final = 5.0
"""The same while moves or resets are under way that can't end: here the base may just be slow."""
CHANGES_MAX: Final = 1024
"""Bands whose account is taken in one turn of the event loop: some 4 ms if each of them has come to another state."""
RESETS_MAX: Final = 256
"""Bands that are reset at a time. A base has I/O of hosts to do beside them, and each is an event."""


class BandManager:
    """Gives orders to an FtlCore. Runs on the asyncio loop; nothing in it waits but the poll timer.

    buffer_blocks: of the write buffer. on_stuck(reason) is called once, when the user's writes can't go on and nothing
    can be freed any more; on_broken() when there are free bands that have bad zones.
    """

    def __init__(
        self,
        core: _shim.FtlCore,
        geometry: Geometry,
        conf: FtlConf,
        bands: Bands,
        *,
        buffer_blocks: int,
        on_stuck: Callable[[str], None],
        on_broken: Callable[[], None] = lambda: None,
        next_band_seq: int = 1,
    ) -> None:
        self.bands = bands
        self.limits = Limits(conf)
        self.next_band_seq = next_band_seq
        self.applied = Applied(NO_LIMIT, UNLIMITED)
        self.limits_applied: dict[str, int] = {}
        """How often each limit came into force."""
        self.moves_started = 0
        self._core = core
        self._conf = conf
        self._buffer_blocks = buffer_blocks
        self._band_blocks = geometry.band_blocks
        self._punits = geometry.punits
        self._shared = geometry.shared_stream
        self._selector = Selector(conf, geometry.punits)
        self._streams = (_shim.STREAM_USER,) if self._shared else (_shim.STREAM_USER, _shim.STREAM_RELOC)
        self._reloc_stream = self._streams[-1]
        self._wanting: set[int] = set()
        self._on_stuck = on_stuck
        self._on_broken = on_broken
        self._share = UNLIMITED
        self._standing_still: tuple[float, tuple[int, int, int]] | None = None
        self._reset_later = False
        self._resets_due = 0
        """Bands that are to be reset when others have been."""
        self._moving_allowed = True
        self._draining = False
        self._started = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._woken: asyncio.Handle | None = None

    # --- what the device calls

    def set_conf(self, conf: FtlConf) -> None:
        """From now on; with the same geometry, and no more relocations at once than the core was made for."""
        self._conf = conf
        self.limits = Limits(conf)
        self._selector = Selector(conf, self._punits)
        self.wake()

    def start(self) -> None:
        """Opens the first band of each stream, and begins to watch. No order is given before."""
        self._started = True
        self._wanting.update(self._streams)
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
        """For a halt: no new relocations but those a starved stream needs, no limit on the user, the reserve is his
        too."""
        self._draining = True
        self._moving_allowed = False
        self.pump()

    def band_wanted(self, stream: int) -> None:
        """The shim's band_next_needed."""
        self._wanting.add(_shim.STREAM_USER if self._shared else stream)
        self.wake()

    def want_all(self) -> None:
        """Events were lost: every stream without a queued band may have asked for one."""
        self._wanting.update(self._streams)
        self.wake()

    def wake(self) -> None:
        """Something has happened: pump() in the next turn of the event loop, once."""
        if self._woken is None and not self._stopped:
            self._woken = asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Takes the account of bands that have changed, and gives the orders that are due. What is left over is for the
        next turn."""
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

    async def bands_loaded(self) -> None:
        """The core has been told of all bands, and nothing is served yet. The loop turns meanwhile."""
        for _ in range(0, len(self.bands), CHANGES_MAX):
            self.take_account()
            await asyncio.sleep(0)
        self.bands.retire_empty()

    def take_account(self) -> bool:
        """Of at most CHANGES_MAX bands. True: there may be more, of which an older account is all there is. That is no
        harm: as if the events had come later."""
        taken = self.bands.refresh(self._core.changed_bands(CHANGES_MAX))
        if taken < CHANGES_MAX:
            return False
        # But for how much can still be written: less than was known.
        for stream in self._streams:
            for number in self.bands.being_written(stream):
                self.bands.refresh(self._core.band_rows(number, 1))
        return True

    @property
    def free_bands(self) -> int:
        """Free bands as limits count them: what waits in reloc's queue still serves as reserve. Told as
        limit_free_bands; what is told as free_bands are those that are free in bands."""
        return self.bands.free_count + self.bands.queued_count(self._reloc_stream)

    # --- decisions

    def _reset_emptied(self) -> None:
        numbers = self.bands.emptied(max(0, RESETS_MAX - self.bands.count(RESETTING)))
        refused = set(self._core.reset_bands(numbers)) if numbers else set()
        for number in numbers:
            if number not in refused:
                self.bands.ordered(number, RESETTING)
        # Something in them came into force since we looked, or is about to: trim records are being spread.
        self.bands.put_off(refused)
        self._reset_later = bool(refused)
        self._resets_due = self.bands.emptied_count - len(refused)

    def _feed_streams(self) -> None:
        # Reloc first: without it nothing is ever freed.
        for stream in sorted(self._wanting, reverse=True):
            if self.bands.queued_count(stream):
                self._wanting.discard(stream)
                continue
            number = self.bands.first_free()
            if number is None and self._stuck_moves():
                number = self._take_from_user()
            if number is None or not self._may_take(stream, number):
                continue
            try:
                self._core.open_band(stream, number, self.next_band_seq)
            except BlockingIOError:
                self._wanting.discard(stream)
                continue
            self.next_band_seq += 1
            self.bands.ordered(number, QUEUED, stream=stream)
            self._wanting.discard(stream)

    def _take_from_user(self) -> int | None:
        """His next band, of which nothing was written yet. Zones have failed that moves under way counted on; without
        them nothing would ever be freed, for him either."""
        if self._shared:
            return None
        number = self._core.take_queued(_shim.STREAM_USER)
        if number is None:
            return None
        self._wanting.add(_shim.STREAM_USER)
        self.bands.refresh(self._core.band_rows(number, 1))
        return self.bands.first_free()

    def _may_take(self, stream: int, number: int) -> bool:
        """Reloc takes what it needs. The user leaves the reserve alone, and what moves that were begun still need;
        unless a reset or a halt waits for his blocks: then there are at most a write buffer of them."""
        if stream == _shim.STREAM_RELOC or self._draining:
            return True
        left = self._reloc_room() - int(self.bands.capacity[number])
        if self.free_bands - 1 >= RESERVED_BANDS and left >= self._committed():
            return True
        if self._has_room(stream):
            return False
        if self._shared:
            return self.bands.count(RESETTING, MOVING) > 0
        # Trim records alone go to relocation's band.
        return self.bands.count(RESETTING) > 0 and self._core.stats().write_buffer_used > 0

    def _start_moves(self) -> None:
        starved = self._starved()
        if not self._moving_allowed and not starved:
            return
        urgent = starved or self.limits.urgent(self.free_bands)
        while True:
            moving = self.bands.count(MOVING)
            coming = self.free_bands + self.bands.count(RESETTING) + self._resets_due
            wanted = self.limits.start_bands + 1 - coming
            if starved and not moving:
                wanted = max(1, wanted)
            endangered = self.bands.any_endangered()
            if moving >= min(self._conf.max_active_relocs, max(wanted, int(endangered))):
                return
            victim = self._selector.choose(
                self.bands,
                room=self._reloc_room() - self._committed() - self._buffered(),
                next_band_seq=self.next_band_seq,
                urgent=urgent,
                endangered_only=wanted <= 0,
            )
            if victim is None:
                return
            try:
                self._core.start_move(victim)
            except (BlockingIOError, ValueError):
                # The shim is ahead of us: it has as many moves as it can, or the band has changed.
                return
            self.bands.ordered(victim, MOVING)
            self.moves_started += 1

    def _set_share(self) -> None:
        applied = self.limits.apply(self.free_bands)
        if applied.name != self.applied.name:
            self.limits_applied[applied.name] = self.limits_applied.get(applied.name, 0) + 1
        self.applied = applied
        share = applied.user_share
        freeing = self.bands.count(MOVING, RESETTING) > 0
        if self._draining or not freeing:
            # A limit makes way for relocation; where there is none to make way for it would only stop the user for
            # nothing.
            share = UNLIMITED
        elif self.free_bands < RESERVED_BANDS or self._room_is_tight():
            share = 0
        if share != self._share:
            self._core.set_user_share(share)
            self._share = share

    def _watch(self) -> None:
        patience = self._patience_s()
        if patience is None:
            self._standing_still = None
        else:
            now = asyncio.get_running_loop().time()
            core = self._core.stats()
            # A base that answers that it is busy is waited for: something goes on there.
            done = (core.media_written_blocks, core.zone_resets, core.busy_answers)
            if self._standing_still is None or self._standing_still[1] != done:
                self._standing_still = (now, done)
            elif now - self._standing_still[0] > patience:
                self.stop()
                self._on_stuck(
                    f"no free band is left ({len(self.bands)} bands, {self.bands.count(CLOSED)} of them closed), "
                    "and none can be freed"
                )
                return
        if self._timer is not None:
            self._timer.cancel()
        busy = patience is not None or self._starved() or self._draining or self._reset_later
        self._timer = asyncio.get_running_loop().call_later(STARVED_POLL_S if busy else IDLE_POLL_S, self.pump)

    def _patience_s(self) -> float | None:
        """How long nothing may happen until it is sure that nothing will; None while something is bound to."""
        if self.bands.any_to_mend():
            return None
        starved = self._starved()
        if starved and not self.bands.count(MOVING, RESETTING):
            return STUCK_S
        # Moves, and resets that wait for the user's data, need a band. They always have one unless zones failed that
        # were counted on.
        if self.bands.free_count:
            return None
        reloc = self._reloc_stream
        resets_starved = starved and not self._has_room(reloc)
        return STUCK_BUSY_S if self._stuck_moves() or resets_starved else None

    # --- numbers they are made from

    def _reloc_room(self) -> int:
        """Blocks reloc can surely write: what is left of its bands, and all free bands."""
        return self.bands.room(self._reloc_stream) + self.bands.free_capacity

    def _committed(self) -> int:
        """Blocks that moves under way may still have to write."""
        return sum(band.valid + self._selector.least_gain for band in self.bands.in_state(MOVING))

    def _buffered(self) -> int:
        """Blocks of the user that a reset may have to wait for, and that may have to go to relocation's band."""
        if self._share == 0 or self._starved():
            return self._core.stats().write_buffer_used
        return self._buffer_blocks

    def _room_is_tight(self) -> bool:
        """Whether the user must not be given more, so that after the moves under way another one can be begun."""
        return self._reloc_room() < self._committed() + self._band_blocks + self._buffer_blocks

    def _has_room(self, stream: int) -> bool:
        return self.bands.room(stream) > 0

    def _stuck_moves(self) -> bool:
        """Moves are under way that have nothing to write to."""
        reloc = self._reloc_stream
        return reloc in self._wanting and not self._has_room(reloc) and self.bands.count(MOVING) > 0

    def _starved(self) -> bool:
        """The user has asked for a band and has nothing to write to until he gets one."""
        return _shim.STREAM_USER in self._wanting and not self._has_room(_shim.STREAM_USER)
