"""The scrub: reads and verifies all valid data on the base, at least once in conf scrub_days, and on order.

A round goes through the bands by their seq, oldest first, up to the seq that the next band to be opened had when the
round began. Data that is written or moved later is new, and was verified when it was moved. So the progress of a round
is one number. It is in the superblock, and has the same meaning after a load, however the life before has ended.

The scrub does not judge damage: the shim reports the band as unreadable, and the band manager moves it.

More than 500 lines by a few: a round's progress and its pace are in scrub_round, and the rest changes together.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import numpy as np

from ... import _shim
from ...errors import FtlError
from ...nvme.wire import status_text
from ...runtime.pulse import on_beat
from ...runtime.tasks import end_tasks, to_its_end
from ...time_limit import time_limit
from ..media.band import BAND_ROW, CLOSED, CLOSING, FAULTED, MOVING, OPEN, SHIM_STATES, Bands
from .scrub_round import DAY_S, ROUND_PART, SEQ_MAX, Round, iso, pace

log = logging.getLogger(__name__)

TICK_S: Final = 10.0
"""How often the pace is adjusted."""
BUSY_PAUSE_S: Final = 10.0
"""The delay before a band is tried again, if the base was too busy to read it."""
SAVE_S: Final = 600.0
"""The shortest interval of superblocks that are written to save the progress of a round."""
SAVE_SOON_S: Final = 60.0
"""The same at the end of a round."""
SAVE_ORDER_S: Final = 1.0
"""The same for an order and its end, because its requester relies on it."""
SLOW_BANDS_MAX: Final = 4
"""Bands in a round that are moved because they are slow to read. The limit keeps the FTL from copying a whole base that
gets slow."""
SKIPPED_MAX: Final = 64
"""Bands that no longer exist, in one turn of the event loop."""
_READABLE: Final = (OPEN, CLOSING, CLOSED)
_COUNTERS: Final = ("scrub_read_blocks", "scrub_bad_blocks", "scrub_bad_metadata")


class Scrub:
    """Call start() and stop() on the asyncio loop; order() and cancel() in between."""

    def __init__(
        self,
        name: str,
        core: _shim.FtlCore,
        bands: Bands,
        *,
        scrub_days: int,
        next_band_seq: Callable[[], int],
        take_account: Callable[[], object],
        wanted: Callable[[], object],
        save: Callable[[], Awaitable[object]],
        can_move: Callable[[], bool] = lambda: True,
        stored: Any = None,
    ) -> None:
        """take_account() brings bands up to date. wanted() is called when another band has to be moved; save() writes a
        superblock with to_dict(), or raises FtlError. can_move(): bands are still moved. stored: from the superblock of
        a device that is loaded; None: the device is new."""
        self.clock: Callable[[], float] = time.time
        """Unix time. May be changed."""
        self.rounds = 0
        """Rounds completed in this life."""
        self.superblocks = 0
        """Superblocks written by the scrub in this life."""
        self.scrub_days = scrub_days
        self._name = name
        self._core = core
        self._bands = bands
        self._next_band_seq = next_band_seq
        self._take_account = take_account
        self._wanted = wanted
        self._save_it = save
        self._can_move = can_move
        self._round: Round | None = None
        self._last: Round | None = None
        self._since_s = int(self.clock())
        """When the last completed round began. The time until the next round counts from here."""
        self._number = 0
        self._queue = np.zeros(0, np.int64)
        """Bands of the round, by seq."""
        self._queue_seqs = np.zeros(0, np.int64)
        self._queue_at = 0
        """The next one of them."""
        self._band: tuple[int, int] | None = None
        """Seq and number of the band that is being read."""
        self._passed: dict[int, int] = {}
        """Bands of the round, by seq, that are being moved, or will be, and were not read."""
        self._stays = False
        """The band that is being read is not moved, whatever is found."""
        self._ended = 0
        self._counted = dict.fromkeys(_COUNTERS, 0)
        self._leaving = False
        """The shim was told to stop reading the band."""
        self._rate = 0
        self._slow_limit_logged = False
        self._not_before = 0.0
        """Before this time (of the loop's clock) nothing is started."""
        self._saved_at = 0.0
        self._saved: dict[str, Any] = {}
        self._save_every_s = SAVE_S
        self._ordered_save = False
        self._written_at = -SAVE_ORDER_S
        self._stopped = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        if stored is not None:
            self._restore(stored)

    def _restore(self, stored: Any) -> None:
        """An invalid state starts a new round, at once."""
        self._since_s = int(self.clock() - self.scrub_days * DAY_S * ROUND_PART)
        if not isinstance(stored, Mapping):
            return
        since = stored.get("since")
        if type(since) is int and 0 <= since <= SEQ_MAX:
            self._since_s = min(since, int(self.clock()))
        self._last = Round.parse(stored.get("last"))
        self._round = Round.parse(stored.get("round"))
        if self._round is not None and self._round.end_seq > self._next_band_seq():
            self._round = None
        self._number = max((each.number for each in (self._round, self._last) if each is not None), default=0)

    def to_dict(self) -> dict[str, Any]:
        """For the superblock."""
        current = self._round
        if current is not None and (passed := self._still_passed()):
            # If a crash ends a move, the round reads its band.
            current = dataclasses.replace(current, position=min(current.position, passed[0] - 1))
        return {
            "since": self._since_s,
            "round": None if current is None else dataclasses.asdict(current),
            "last": None if self._last is None else dataclasses.asdict(self._last),
        }

    # --- life

    def start(self) -> None:
        """Once."""
        loop = asyncio.get_running_loop()
        self._saved_at, self._saved = loop.time(), self.to_dict()
        self._counted = self._counters()
        self._ended = self._core.scrub_status().ended
        self._task = loop.create_task(self._run(), name=f"{self._name} scrub")

    def stop(self) -> None:
        """Nothing is started from now on. Idempotent; ended() waits for what is in progress."""
        if self._task is not None and not self._stopped:
            self._stopped = True
            self._core.stop_scrub()
            self._task.cancel()

    async def ended(self) -> None:
        """After stop(): waits until a superblock write in progress has ended. Idempotent."""
        if self._task is not None:
            await end_tasks([self._task])

    def wake(self) -> None:
        """The shim may have finished a band."""
        self._woken.set()

    # --- orders

    def order(self) -> None:
        """Reads all valid data now, as fast as the base allows besides host I/O. An order that is in progress
        continues."""
        if self._round is None or not self._round.ordered:
            self._begin(ordered=True)
            self._ordered_save = True
            log.info("%s: scrub %d begins, as ordered", self._name, self._number)
        self._not_before = 0.0
        self.wake()

    def set_days(self, scrub_days: int) -> None:
        """Applies from now on; a round in progress continues at another pace."""
        self.scrub_days = scrub_days
        self.wake()

    def cancel(self) -> None:
        """Cancels an order: the round continues at its own pace, or ends here if conf has none. Idempotent."""
        if self._round is not None and self._round.ordered:
            self._round.ordered = False
            self._ordered_save = True
            log.info("%s: scrub %d is no longer on order", self._name, self._round.number)
        self.wake()

    @property
    def ordered(self) -> bool:
        """An ordered round is in progress."""
        return self._round is not None and self._round.ordered

    # --- descriptions

    def status(self) -> dict[str, Any]:
        """JSON-able. state: "running", "waiting" (for the next round), or "off"."""
        status: dict[str, Any] = {
            "state": "off",
            "scrub_days": self.scrub_days,
            "progress": None,
            "rate_blocks_per_s": 0,
        }
        current = self._round
        if self._stopped:
            status["state"] = "off"
        elif current is not None:
            now = dataclasses.replace(current)
            now.add(self._counters(), self._counted)
            left = max(0, self._remaining() - (now.read_blocks - current.read_blocks))
            done = now.read_blocks / (now.read_blocks + left) if now.read_blocks + left else 0.0
            status.update(state="running", progress=round(done, 4), left_blocks=left, **now.describe())
            status["rate_blocks_per_s"] = self._rate
        elif self.scrub_days:
            status["state"] = "waiting"
        if self.scrub_days and current is None and not self._stopped:
            status["next"] = iso(int(self._due_s()))
        status["last"] = None if self._last is None else self._last.describe()
        return status

    # --- one band after the other

    async def _run(self) -> None:
        while not self._stopped:
            delay_s = self._pump()
            save_in_s = self._save_in_s()
            if save_in_s is not None and save_in_s <= 0:
                await to_its_end(self._save())
                save_in_s = self._save_in_s()
            if self._round is None and self._band is None and save_in_s is None and delay_s >= TICK_S:
                await self._rest()
            else:
                with contextlib.suppress(asyncio.TimeoutError):
                    async with time_limit(delay_s if save_in_s is None else min(delay_s, save_in_s)):
                        await self._woken.wait()
            self._woken.clear()

    async def _rest(self) -> None:
        """No round is in progress, and none is due within TICK_S."""
        end = on_beat(TICK_S, self._look)
        try:
            await self._woken.wait()
        finally:
            end()

    def _look(self) -> None:
        """As _pump(), which wakes the reactor's thread, but only if there is something to do soon."""
        now = self.clock()
        if now < self._since_s or (self.scrub_days and self._due_s() - now < TICK_S):
            self.wake()

    def _pump(self) -> float:
        """Starts what is due; returns when to look again, in seconds."""
        # A clock that was ahead and is set back must not delay the next round until it reaches that time again.
        self._since_s = min(self._since_s, int(self.clock()))
        status = self._core.scrub_status()
        if self._band is not None and status.ended != self._ended:
            self._ended = status.ended
            self._band_done(*self._band, status)
        if self._round is not None and not self._round.ordered and not self.scrub_days:
            self._drop()
        if self._band is not None:
            if self._of_another_round() and not self._leaving:
                self._leaving = True
                self._core.stop_scrub()
            self._set_pace()
            return TICK_S
        if self._round is None:
            wait_s = self._due_s() - self.clock() if self.scrub_days else TICK_S
            if not self.scrub_days or wait_s > 0:
                return max(0.0, min(wait_s, TICK_S))
            self._begin(ordered=False)
        wait_s = self._not_before - asyncio.get_running_loop().time()
        if wait_s > 0:
            return min(wait_s, TICK_S)
        return self._next()

    def _of_another_round(self) -> bool:
        """The shim reads a band that is not the round's next one: another round has begun, or none is in progress."""
        return self._band is not None and self._head() != self._band

    def _begin(self, *, ordered: bool) -> None:
        now = int(self.clock())
        if self._round is None:
            # If a round became due while the device was off, its time has run since then.
            self._since_s = int(min(now, self._due_s())) if self.scrub_days else now
        self._count()
        self._number += 1
        self._round = Round(self._number, now, self._next_band_seq(), ordered=ordered)
        self._slow_limit_logged = False
        self._passed = {}
        self._line_up()

    def _drop(self) -> None:
        self._count()
        self._round = None
        self._passed = {}
        self._queue = self._queue_seqs = np.zeros(0, np.int64)
        self._queue_at = 0

    def _still_passed(self) -> list[int]:
        """The bands in _passed that still exist and have valid data: their seqs, in ascending order."""
        bands = self._bands
        self._passed = {
            seq: number for seq, number in self._passed.items() if bands.seq[number] == seq and bands.valid[number] > 0
        }
        return sorted(self._passed)

    def _to_be_moved(self) -> Any:
        """A bool per band."""
        return self._bands.faulted if self._can_move() else np.zeros_like(self._bands.faulted)

    def _line_up(self) -> None:
        assert self._round is not None
        self._take_account()
        bands = self._bands
        faulted = self._to_be_moved()
        there = bands.closed & ~faulted
        for band in bands.in_state(OPEN, CLOSING):
            there[band.index] = True
        due = (bands.seq > self._round.position) & (bands.seq < self._round.end_seq)
        passed = [(int(bands.seq[number]), int(number)) for number in np.flatnonzero(faulted & due & (bands.valid > 0))]
        passed += [(band.seq, band.index) for band in bands.in_state(MOVING) if due[band.index] and band.valid > 0]
        there &= due
        for seq in self._still_passed():
            # Bands are no longer moved, or a move was given up: the round reads the band after all.
            number = self._passed[seq]
            there[number] = bands.closed[number] and not faulted[number]
        self._passed.update(passed)
        numbers = np.flatnonzero(there)
        self._queue = numbers[np.argsort(bands.seq[numbers], kind="stable")]
        self._queue_seqs = bands.seq[self._queue]
        self._queue_at = 0

    def _head(self) -> tuple[int, int] | None:
        """Seq and number of the next band; None: there is none."""
        if self._queue_at >= len(self._queue):
            return None
        return int(self._queue_seqs[self._queue_at]), int(self._queue[self._queue_at])

    def _next(self) -> float:
        """Starts the next band that still exists; without one, the round has ended."""
        assert self._round is not None
        if self._head() is None:
            # A round of the previous life; or the last band of a round has been read, and this confirms it.
            self._line_up()
        skipped = 0
        while (head := self._head()) is not None:
            if skipped == SKIPPED_MAX:
                # Apparently most of them no longer exist.
                self._line_up()
                return 0.0
            seq, number = head
            state = self._state_of(seq, number)
            self._stays = not self._can_move()
            if state in _READABLE or (self._stays and state == FAULTED):
                try:
                    self._core.start_scrub(number, self._stays)
                except (BlockingIOError, ValueError) as error:
                    log.debug("%s: can't scrub band %d now: %s", self._name, number, error)
                    return TICK_S
                self._band, self._leaving = (seq, number), False
                self._set_pace()
                return TICK_S
            # It is or was moved or reset: its content is new, and was verified.
            self._done_with(seq, number, read=state is None)
            skipped += 1
        self._end()
        return 0.0

    def _state_of(self, seq: int, number: int) -> str | None:
        """None: that band no longer has valid data."""
        row = self._core.band_rows(number, 1).view(BAND_ROW)[0]
        return SHIM_STATES[row["state"]] if int(row["seq"]) == seq and int(row["valid"]) > 0 else None

    def _done_with(self, seq: int, number: int, *, read: bool) -> None:
        assert self._round is not None
        self._passed.pop(seq, None)
        if not read:
            self._passed[seq] = number
        self._round.position = max(self._round.position, seq)
        self._queue_at += 1

    def _band_done(self, seq: int, number: int, status: _shim.ScrubStatus) -> None:
        of_another = self._of_another_round()
        self._band = None
        self._count()
        if status.slow:
            self._found_slow(number, status)
        if status.end == _shim.ScrubEnd.BAD:
            log.warning(
                "%s: the scrub found bad block %s (band %d): %s; that band %s",
                self._name,
                status.address,
                number,
                status_text(status.status),
                "can no longer be relocated" if self._stays else "is relocated",
            )
            if self._round is not None and not self._stays:
                self._round.relocated_bands += 1
        if of_another or self._leaving:
            return
        if status.end == _shim.ScrubEnd.BUSY:
            log.debug("%s: can't scrub band %d: the base is busy", self._name, number)
            self._not_before = asyncio.get_running_loop().time() + BUSY_PAUSE_S
            return
        # If the band is moved because of damage, the move reads the rest.
        self._done_with(
            seq, number, read=status.end == _shim.ScrubEnd.READ or (status.end == _shim.ScrubEnd.BAD and self._stays)
        )

    def _found_slow(self, number: int, status: _shim.ScrubStatus) -> None:
        if self._round is None:
            return
        self._round.slow_bands += 1
        if self._stays:
            return  # The band stays.
        if self._round.slow_bands <= SLOW_BANDS_MAX:
            log.warning(
                "%s: block %s (band %d) is slow: two reads took more than a second; that band is relocated",
                self._name,
                status.address,
                number,
            )
            self._round.relocated_bands += 1
            self._bands.want_empty(number)
            self._wanted()
        elif not self._slow_limit_logged:
            self._slow_limit_logged = True
            log.warning("%s: further slow bands of this round are only counted", self._name)

    def _end(self) -> None:
        current = self._round
        assert current is not None
        self._count()
        current.ended_s = max(current.began_s, int(self.clock()))
        if not self._can_move():
            current.unread_bands = len(self._still_passed())
        self._last, self._round = current, None
        self._passed = {}
        self._since_s = current.began_s
        self.rounds += 1
        self._save_every_s = min(self._save_every_s, SAVE_SOON_S)
        bad = current.bad_blocks + current.bad_metadata + current.unread_bands
        log.log(
            logging.WARNING if bad or current.slow_bands else logging.INFO,
            "%s: scrub %d read %d blocks in %d s: %d bad blocks, %d bad metadata blocks, %d slow bands; %d bands "
            "are relocated, %d bands were not read and can't be relocated",
            self._name,
            current.number,
            current.read_blocks,
            current.ended_s - current.began_s,
            current.bad_blocks,
            current.bad_metadata,
            current.slow_bands,
            current.relocated_bands,
            current.unread_bands,
        )

    # --- numbers

    def _counters(self) -> dict[str, int]:
        stats = self._core.stats()
        return {name: getattr(stats, name) for name in _COUNTERS}

    def _count(self) -> None:
        """Takes what the shim has counted since the last time, and adds it to the round in progress."""
        now, before = self._counters(), self._counted
        self._counted = now
        if self._round is not None:
            self._round.add(now, before)

    def _remaining(self) -> int:
        """An upper bound of the blocks that the round still has to read."""
        if self._round is None:
            return 0
        bands, first, end = self._bands, self._round.position, self._round.end_seq
        chosen = bands.closed & ~self._to_be_moved() & (bands.seq > first) & (bands.seq < end)
        written = (band for band in bands.in_state(OPEN, CLOSING) if first < band.seq < end)
        return int(bands.valid[chosen].sum()) + sum(band.valid for band in written)

    def _due_s(self) -> float:
        return self._since_s + self.scrub_days * DAY_S * ROUND_PART

    def _set_pace(self) -> None:
        self._rate = self._pace() if self._round is not None else 0
        self._core.set_scrub_rate(self._rate)

    def _pace(self) -> int:
        """Blocks a second; 0: as fast as possible."""
        assert self._round is not None
        if self._round.ordered:
            return 0
        spent_s = self.clock() - min(self._since_s, self.clock())
        return pace(self._round.read_blocks, self._remaining(), self.scrub_days * DAY_S, spent_s)

    # --- the superblock

    def _save_in_s(self) -> float | None:
        """When the superblock has to be written because of changes; None: nothing has changed."""
        if self.to_dict() == self._saved:
            return None
        due = self._saved_at + self._save_every_s
        if self._ordered_save:
            due = min(due, self._written_at + SAVE_ORDER_S)
        return due - asyncio.get_running_loop().time()

    async def _save(self) -> None:
        self._saved_at, self._saved = asyncio.get_running_loop().time(), self.to_dict()
        self._written_at, self._save_every_s, self._ordered_save = self._saved_at, SAVE_S, False
        self.superblocks += 1
        try:
            await self._save_it()
        except FtlError as error:
            # Nothing depends on it: reading some blocks again does no harm.
            log.warning("%s: could not save the progress of the scrub: %s", self._name, error.message)
