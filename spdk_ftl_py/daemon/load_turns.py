"""Which FTLs are loaded at the same time: a bound on how many, and on the memory that they take beside their L2P."""

from __future__ import annotations

import asyncio
from typing import Final

from ..errors import ParameterError

LOADS_DEFAULT: Final = 4
"""Each reads with 32 I/Os at a time, and parses what it reads in a thread."""
LOADS_MAX: Final = 256
MEMORY_DEFAULT_MIB: Final = 1024
STALL_S: Final = 5.0
"""A load that makes no progress for this time leaves its place to another one."""
HOLD_S: Final = 60.0
"""And after this time hosts no longer expect it to end. Some steps of a large FTL take much longer than STALL_S, and
report nothing meanwhile; a base that hangs is given up after this time, too."""
PATIENT_S: Final = 30.0
"""Who has waited for this time is served in the order of arrival, and is not overtaken any more."""
PARKED_MAX: Final = 16
"""Loads that have begun and wait for memory. Each keeps its list of zones and bands."""
LOOK_S: Final = 0.25
"""How often those who wait are looked at, besides when a load ends."""
_MIB: Final = 1 << 20


class LoadTurn:
    """The turn of one load, from LoadTurns.turn(). Inside it the load runs."""

    def __init__(self, turns: LoadTurns, block_count: int, *, first: bool, at_once: bool, failed_before: bool) -> None:
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._first = first or at_once
        self.at_once = at_once
        self._failed_before = failed_before
        self._size = block_count
        self._arrived_at = self._waiting_since = self._moved_at = self._loop.time()
        self._number = turns.number_of_next()
        self.granted: asyncio.Future[None] | None = None
        """While it waits."""
        self.has_begun = False
        self.byte_count = 0
        """Memory that it has."""
        self.wanted_bytes = 0
        """Memory that it has or waits for."""

    # --- the load's side

    async def __aenter__(self) -> LoadTurn:
        """Waits for a place."""
        try:
            await self._turns.wait(self)
        except BaseException:
            self._turns.end(self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._turns.end(self)

    def moved(self) -> None:
        """The load has made progress."""
        self._moved_at = self._loop.time()

    async def room(self, byte_count: int) -> None:
        """Returns when the load may take so many bytes beside its L2P, instead of what it took before. Meanwhile
        another load has its place."""
        self.wanted_bytes = byte_count
        if byte_count <= self.byte_count:
            self.byte_count = byte_count
            self._turns.look()
        else:
            self.byte_count = 0
            await self._turns.wait(self)

    @property
    def waits(self) -> bool:
        return self.granted is not None

    @property
    def moves(self) -> bool:
        """Whether hosts can expect it to end: it waits for its turn, or makes progress."""
        return self.waits or self._loop.time() - self._moved_at < self._turns.hold_s

    @property
    def waits_for(self) -> str:
        """For people; empty while it does not wait."""
        return self._turns.why(self) if self.waits else ""

    # --- for LoadTurns

    @property
    def stands_still(self) -> bool:
        return self._loop.time() - self._moved_at >= self._turns.stall_s

    @property
    def is_patient(self) -> bool:
        return self._loop.time() - self._waiting_since >= PATIENT_S

    @property
    def key(self) -> tuple[bool, bool, bool, bool, int, int]:
        """Who is served first: whose hosts or caller wait for an order; who has waited long; who has begun; whose last
        load did not fail, as that of a base that hangs does; the smallest, so that most are online soon."""
        if self.is_patient:
            return not self._first, False, False, False, 0, self._number
        return not self._first, True, not self.has_begun, self._failed_before, self._size, self._number

    def begin_wait(self) -> asyncio.Future[None]:
        self._waiting_since = self._loop.time()
        self.granted = self._loop.create_future()
        return self.granted

    def end_wait(self) -> None:
        granted, self.granted = self.granted, None
        self.has_begun = True
        self.byte_count = self.wanted_bytes
        self.moved()
        if granted is not None and not granted.done():
            granted.set_result(None)


class LoadTurns:
    """The loads of one daemon.

    >>> async with turns.turn(block_count) as turn:
    ...     await load(..., room=turn.room)  # calls turn.moved() again and again

    A load that is larger than the whole memory is alone with it. A load that stands still keeps its memory, but does
    not count until it moves again, so a base that hangs does not keep others from their turn.
    """

    def __init__(
        self,
        most: int = LOADS_DEFAULT,
        memory_mib: int = MEMORY_DEFAULT_MIB,
        *,
        stall_s: float = STALL_S,
        hold_s: float = HOLD_S,
    ) -> None:
        """most: loads at a time. memory_mib: what they take together beside their L2P. stall_s, hold_s: as STALL_S and
        HOLD_S. Raises ParameterError."""
        if not 1 <= most <= LOADS_MAX:
            raise ParameterError(f"{most} loads: there can be 1 to {LOADS_MAX} at a time")
        if memory_mib < 1:
            raise ParameterError(f"{memory_mib} MiB for loads: must be at least 1")
        self.most = most
        self.memory_bytes = memory_mib * _MIB
        self.stall_s = stall_s
        self.hold_s = hold_s
        self._turns: list[LoadTurn] = []
        self._last_number = 0
        self._timer: asyncio.TimerHandle | None = None

    def turn(
        self, block_count: int, *, first: bool = False, at_once: bool = False, failed_before: bool = False
    ) -> LoadTurn:
        """For one load, as a context manager. block_count: of the base. first: before all others. at_once: before all
        others, and it waits for no place, only for memory. failed_before: this load is tried again."""
        return LoadTurn(self, block_count, first=first, at_once=at_once, failed_before=failed_before)

    # --- for LoadTurn

    async def wait(self, turn: LoadTurn) -> None:
        """Returns when it is that one's turn."""
        if turn not in self._turns:
            self._turns.append(turn)
        granted = turn.begin_wait()
        self.look()
        await granted

    def end(self, turn: LoadTurn) -> None:
        """Idempotent."""
        if turn in self._turns:
            self._turns.remove(turn)
            self.look()

    def look(self) -> None:
        """Grants what can be granted."""
        barred = False
        parked = sum(turn.has_begun for turn in self._waiting)
        for turn in sorted(self._waiting, key=lambda turn: turn.key):
            if len(self.running) >= self.most and not turn.at_once:
                continue
            if turn.wanted_bytes:
                if barred or not self._fits(turn):
                    barred = barred or turn.is_patient
                    continue
                parked -= 1
            elif parked >= PARKED_MAX and not turn.at_once:
                continue
            turn.end_wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self.look)

    def why(self, turn: LoadTurn) -> str:
        """What a turn waits for."""
        before = sum(other.key < turn.key for other in self._waiting)
        if turn.wanted_bytes and not self._fits(turn):
            taken = self._taken(turn) // _MIB
            return (
                f"memory to load: it takes {-(-turn.wanted_bytes // _MIB)} MiB beside its L2P, and other loads have "
                f"{taken} of {self.memory_bytes // _MIB} MiB (serve --load-memory)"
            )
        return (
            f"its turn to load: {len(self.running)} FTLs are being loaded, at most {self.most} at a time (serve "
            f"--loads), and {before} are before it"
        )

    @property
    def running(self) -> list[LoadTurn]:
        """Those that count: they do not wait, and move."""
        return [turn for turn in self._turns if not turn.waits and not turn.stands_still]

    @property
    def taken_bytes(self) -> int:
        """Memory that loads may have taken beside their L2P."""
        return self._taken()

    def number_of_next(self) -> int:
        self._last_number += 1
        return self._last_number

    @property
    def _waiting(self) -> list[LoadTurn]:
        return [turn for turn in self._turns if turn.waits]

    def _taken(self, but: LoadTurn | None = None) -> int:
        return sum(turn.byte_count for turn in self._turns if turn is not but)

    def _fits(self, turn: LoadTurn) -> bool:
        taken = self._taken(turn)
        return not taken or taken + turn.wanted_bytes <= self.memory_bytes
