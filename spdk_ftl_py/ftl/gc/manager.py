"""The band manager: which band is written next, which is relocated, which is reset, what share the user gets.

Level-triggered: each decision is made from the shim's own account of the bands, so an event that got lost, came twice
or
came late changes nothing but when the decision is made. Policy and proof that it can't wedge: docs/ftl.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ... import _shim
from ...conf import RESERVED_BANDS, FtlConf
from ..media.band import BEING_WRITTEN, CLOSED, CLOSING, FAULTED, FREE, MOVING, OPEN, QUEUED, RESETTING, Band, Bands
from ..media.geometry import Geometry
from .limits import NO_LIMIT, UNLIMITED, Applied, Limits
from .reloc import Selector

log = logging.getLogger(__name__)

STARVED_POLL_S: Final = 0.05
"""While the user has no band nothing may happen that sends an event, although trims and overwrites in the write buffer
can
make a victim any time."""
IDLE_POLL_S: Final = 1.0
STUCK_S: Final = 1.0
"""A device without free bands, and with nothing under way that gives one back, is declared out of space after this."""
STUCK_BUSY_S: Final = 5.0
"""The same while moves or resets are under way that can't end: here the base may just be slow."""


class BandManager:
    """Gives orders to an FtlCore. Runs on the asyncio loop; nothing in it waits but the poll timer.

    buffer_blocks: of the write buffer. on_stuck(reason) is called once, when the user's writes can't go on and nothing
    can be freed any more.
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
        self._shared = geometry.shared_stream
        self._selector = Selector(conf, geometry.punits)
        self._streams = (_shim.STREAM_USER,) if self._shared else (_shim.STREAM_USER, _shim.STREAM_RELOC)
        self._wanting: set[int] = set()
        self._on_stuck = on_stuck
        self._share = UNLIMITED
        self._standing_still: tuple[float, tuple[int, int, int]] | None = None
        self._reset_later = False
        self._moving_allowed = True
        self._draining = False
        self._started = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None

    # --- what the device calls

    def start(self) -> None:
        """Opens the first band of each stream, and begins to watch. No order is given before."""
        self._started = True
        self._wanting.update(self._streams)
        self.pump()

    def stop(self) -> None:
        """No order is given after this. Idempotent."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
        self.pump()

    def want_all(self) -> None:
        """Events were lost: every stream without a queued band may have asked for one."""
        self._wanting.update(self._streams)
        self.pump()

    def pump(self) -> None:
        """Looks at every band and gives all orders that are due."""
        if self._stopped or not self._started:
            return
        self.bands.refresh(self._core.bands())
        self._reset_emptied()
        self._feed_streams()
        self._start_moves()
        self._set_share()
        self._watch()

    @property
    def free_bands(self) -> int:
        """Free bands as limits count them: what waits in reloc's queue still serves as reserve."""
        return len(self.bands.free()) + self._reloc_queued()

    # --- decisions

    def _reset_emptied(self) -> None:
        self._reset_later = False
        for band in self.bands.in_state(CLOSED, FAULTED):
            if band.valid != 0:
                continue
            try:
                self._core.reset_band(band.index)
            except ValueError:
                # Something in it came into force since we looked, or is about to: trim records are being spread.
                self._reset_later = True
                continue
            band.state = RESETTING

    def _feed_streams(self) -> None:
        # Reloc first: without it nothing is ever freed.
        for stream in sorted(self._wanting, reverse=True):
            free = self.bands.free()
            if any(band.state == QUEUED and band.stream == stream for band in self.bands):
                self._wanting.discard(stream)
                continue
            if not free or not self._may_take(stream, free[0]):
                continue
            band = free[0]
            try:
                self._core.open_band(stream, band.index, self.next_band_seq)
            except BlockingIOError:
                self._wanting.discard(stream)
                continue
            self.next_band_seq += 1
            band.state, band.stream, band.written = QUEUED, stream, 0
            self._wanting.discard(stream)

    def _may_take(self, stream: int, band: Band) -> bool:
        """Reloc takes what it needs. The user leaves the reserve alone, and what moves that were begun still need;
        unless a
        reset or a halt waits for his blocks: then there are at most a write buffer of them."""
        if stream == _shim.STREAM_RELOC or self._draining:
            return True
        if self.free_bands - 1 >= RESERVED_BANDS and self._reloc_room() - band.capacity >= self._committed():
            return True
        if self._has_room(stream):
            return False
        if self._shared:
            return bool(self.bands.in_state(RESETTING, MOVING))
        # Trim records alone go to relocation's band.
        return bool(self.bands.in_state(RESETTING)) and self._core.stats()["write_buffer_used"] > 0

    def _start_moves(self) -> None:
        starved = self._starved()
        if not self._moving_allowed and not starved:
            return
        urgent = starved or self.limits.urgent(self.free_bands)
        while True:
            moving = self.bands.count((MOVING,))
            coming = self.free_bands + self.bands.count((RESETTING,))
            wanted = self.limits.start_bands + 1 - coming
            if starved and not moving:
                wanted = max(1, wanted)
            endangered = any(band.endangered for band in self.bands)
            if moving >= min(self._conf.max_active_relocs, max(wanted, int(endangered))):
                return
            victim = self._selector.choose(
                (band for band in self.bands if wanted > 0 or band.endangered),
                room=self._reloc_room() - self._committed() - self._buffered(),
                next_band_seq=self.next_band_seq,
                urgent=urgent,
            )
            if victim is None:
                return
            try:
                self._core.start_move(victim.index)
            except (BlockingIOError, ValueError):
                # The shim is ahead of us: it has as many moves as it can, or the band has changed.
                return
            victim.state = MOVING
            self.moves_started += 1

    def _set_share(self) -> None:
        applied = self.limits.apply(self.free_bands)
        if applied.name != self.applied.name:
            self.limits_applied[applied.name] = self.limits_applied.get(applied.name, 0) + 1
        self.applied = applied
        share = applied.user_share
        freeing = bool(self.bands.in_state(MOVING, RESETTING))
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
            done = (core["media_written_blocks"], core["zone_resets"], core["busy_answers"])
            if self._standing_still is None or self._standing_still[1] != done:
                self._standing_still = (now, done)
            elif now - self._standing_still[0] > patience:
                self.stop()
                self._on_stuck(
                    f"no free band is left ({len(self.bands)} bands, {self.bands.count((CLOSED,))} of them closed), "
                    "and "
                    f"none can be freed: too many zones have failed for the logical capacity"
                )
                return
        if self._timer is not None:
            self._timer.cancel()
        busy = patience is not None or self._starved() or self._draining or self._reset_later
        self._timer = asyncio.get_running_loop().call_later(STARVED_POLL_S if busy else IDLE_POLL_S, self.pump)

    def _patience_s(self) -> float | None:
        """How long nothing may happen until it is sure that nothing will; None while something is bound to."""
        if any(band.state == FREE and band.bad_punits for band in self.bands):
            return None
        starved = self._starved()
        if starved and not self.bands.in_state(MOVING, RESETTING):
            return STUCK_S
        # Moves, and resets that wait for the user's data, need a band. They always have one unless zones failed that
        # were counted on.
        if self.bands.free():
            return None
        reloc = self._streams[-1]
        moves_starved = reloc in self._wanting and not self._has_room(reloc) and self.bands.in_state(MOVING)
        resets_starved = starved and not self._has_room(reloc)
        return STUCK_BUSY_S if moves_starved or resets_starved else None

    # --- numbers they are made from

    def _reloc_queued(self) -> int:
        stream = _shim.STREAM_USER if self._shared else _shim.STREAM_RELOC
        return sum(1 for band in self.bands if band.state == QUEUED and band.stream == stream)

    def _reloc_room(self) -> int:
        """Blocks reloc can surely write: what is left of its bands, and all free bands."""
        stream = _shim.STREAM_USER if self._shared else _shim.STREAM_RELOC
        own = sum(band.room for band in self.bands if band.state in (OPEN, QUEUED) and band.stream == stream)
        return own + sum(band.capacity for band in self.bands.free())

    def _committed(self) -> int:
        """Blocks that moves under way may still have to write."""
        return sum(band.valid + self._selector.least_gain for band in self.bands.in_state(MOVING))

    def _buffered(self) -> int:
        """Blocks of the user that a reset may have to wait for, and that may have to go to relocation's band."""
        if self._share == 0 or self._starved():
            return self._core.stats()["write_buffer_used"]
        return self._buffer_blocks

    def _room_is_tight(self) -> bool:
        """Whether the user must not be given more, so that after the moves under way another one can be begun."""
        return self._reloc_room() < self._committed() + self._band_blocks + self._buffer_blocks

    def _has_room(self, stream: int) -> bool:
        return any(
            band.state in BEING_WRITTEN - {CLOSING} and band.stream == stream and band.room > 0 for band in self.bands
        )

    def _starved(self) -> bool:
        """The user has asked for a band and has nothing to write to until he gets one."""
        return _shim.STREAM_USER in self._wanting and not self._has_room(_shim.STREAM_USER)
