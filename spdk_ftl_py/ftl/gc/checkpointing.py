"""When the running checkpoint is written, and in which bands it is (docs/checkpoint.md)."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from ... import _shim
from ...conf import FtlConf
from ...errors import FlushDoubtError, FtlError
from ...runtime.reactor import ReactorLoop
from ...runtime.tasks import end_tasks
from ..load.running import KEY, Turn, TurnWriter, why_not
from ..media.band import Bands
from ..media.blockdev import BlockPort
from ..media.geometry import Geometry
from .manager import BandManager

log = logging.getLogger(__name__)

FIRST_PART: Final = 8
"""Without a turn that counts, the first one of a life begins after this part of what is written between two turns."""
WRITE_PART: Final = 2
"""The pages of a turn go out while hosts write this part of that."""
PAUSE_S: Final = 0.005
"""Between two steps, if hosts write less: a turn ends, even if they write nothing more."""
PORT_DEPTH: Final = 4
BUSY_PATIENCE_S: Final = 2.0
"""A turn is given up when the base has been busy so long."""
BAND_POLL_S: Final = 0.05
"""A turn that waits for a band asks again so often."""
ASK_S: Final = 0.01
"""Whether a turn is due, at most so often."""
STARVED_S: Final = 0.25
"""If hosts or moves wait for a band so long, the checkpoint gives up bands: those of the turn that is being written
first."""


class _NeededElsewhereError(FtlError):
    """The turn is given up before it is whole."""


class Checkpointing:
    """The running checkpoint of one device. look() is called after each decision of the band manager."""

    def __init__(
        self,
        name: str,
        reactor: ReactorLoop,
        base: _shim.BlockDevice,
        core: _shim.FtlCore,
        geometry: Callable[[], Geometry],
        uuid: UUID,
        bands: Bands,
        manager: BandManager,
        *,
        conf: Callable[[], FtlConf],
        may_write: Callable[[], bool],
        drain: Callable[[], Awaitable[None]],
        save: Callable[[], Awaitable[None]],
        fail: Callable[[FtlError], None],
    ) -> None:
        """uuid: in records. may_write: the state of the device allows it. drain() makes everything accepted durable,
        save() writes a superblock with to_dict(), fail() ends the device if that can't be written."""
        self.turn: Turn | None = None
        """The one that a load would use."""
        self.turns = 0
        self.written_blocks = 0
        self.given_up = 0
        """Turns that did not become whole."""
        self.pause_s = PAUSE_S
        self.ask_s = ASK_S
        self._name = name
        self._reactor = reactor
        self._base = base
        self._port: BlockPort | None = None
        """Of its own, as it is less patient with a busy base. Made for the first turn."""
        self._core = core
        self._geometry = geometry
        self._uuid = uuid
        self._bands = bands
        self._manager = manager
        self._conf = conf
        self._may_write = may_write
        self._drain = drain
        self._save = save
        self._fail = fail
        self._held: list[int] = []
        """Bands of the turn that counts."""
        self._taken: list[int] = []
        """Bands of the turn that is being written."""
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._needed = False
        """Nothing goes on without the bands that it has."""
        self._first = True
        """No turn was begun, or given up."""
        self._began_at = 0
        """Blocks that hosts had written when the last turn began, or was given up."""
        self._asked_at = -ASK_S
        self._starved_since: float | None = None
        self._refused: str | None = None

    def loaded(self, turn: Turn) -> None:
        """A load has used this turn, and it still counts. Call it when the bands are known, before anything is
        opened."""
        self.turn = turn
        zones = set(turn.zones)
        self._held = [
            number
            for number, band in enumerate(self._geometry().bands)
            if not zones.isdisjoint(zone for zone in band if zone is not None)
        ]
        for number in self._held:
            self._bands.keep(number)

    def to_dict(self) -> dict[str, Any]:
        """For the superblock."""
        return {} if self.turn is None else {KEY: self.turn.to_dict()}

    def status(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "turns": self.turns,
            "turns_given_up": self.given_up,
            "written_blocks": self.written_blocks,
            "whole": self.turn is not None,
            "bands": self._bands.kept_count,
            "refused": self._refused,
        }

    def stop(self) -> None:
        """No new turn begins, and one in progress ends soon. Idempotent."""
        self._stopped = True

    def give_up(self) -> bool:
        """Nothing goes on without the bands that it has, so it gives them back, even after stop(). Call it again, as a
        turn that is being written only gives up its own. False: it has none."""
        if not self._held and not self._taken:
            return False
        self._needed = True
        if self._task is None:
            self._begin(self._let_go)
        return True

    async def ended(self) -> None:
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """After stop(). Idempotent."""
        await self.ended()
        if self._port is not None:
            await self._port.close()

    # --- when

    @property
    def _interval(self) -> int:
        """Blocks that hosts write from one turn to the next."""
        return max(1, self._geometry().block_count * self._conf().checkpoint_percent // 100)

    def look(self) -> None:
        if self._stopped or (self.turn is None and not self._conf().checkpoint_percent):
            return
        starved = self._is_starved()
        if self._task is not None or not self._may_write():
            return
        work: Callable[[], Awaitable[None]]
        if self.turn is not None and (starved or not self._conf().checkpoint_percent):
            work = self._let_go
        elif not starved and self._is_due() and self._is_possible():
            work = self._write_turn
        else:
            return
        self._begin(work)

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(work), name=f"{self._name} checkpoint")

    def _is_starved(self) -> bool:
        """Hosts or moves have waited for a band for a while, and none is free, or none will be."""
        if self._needed:
            return True
        there = self._bands.free_count > 0 and self._bands.freeing_count > 0
        reserve = self._manager.reserve
        if there or not (reserve.user_starved() or reserve.moves_starved()):
            self._starved_since = None
            return False
        now = asyncio.get_running_loop().time()
        self._starved_since = now if self._starved_since is None else self._starved_since
        return now - self._starved_since >= STARVED_S

    def _is_due(self) -> bool:
        if not self._conf().checkpoint_percent:
            return False
        # Decisions are frequent, and the core has to be asked.
        now = asyncio.get_running_loop().time()
        if now < self._asked_at + self.ask_s:
            return False
        self._asked_at = now
        written = self._core.stats().user_written_blocks - self._began_at
        # What a turn that is given up has written counts, too.
        return written >= (self._interval // FIRST_PART if self._first and self.turn is None else self._interval)

    def _is_possible(self) -> bool:
        why = why_not(
            *(self._geometry(), self._conf(), self._manager.limits.start_bands),
            emulated=isinstance(self._base, _shim.ZonedOverlay),
        )
        if why is not None and why != self._refused:
            log.warning("%s: no running checkpoint: %s", self._name, why)
        self._refused = why
        if why is not None:
            self._began_at = self._core.stats().user_written_blocks
        return why is None

    # --- a turn

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._task = None
            self._needed &= bool(self._held)

    async def _let_go(self) -> None:
        """The bands are needed, or it is off."""
        self.turn = None
        self._first = False
        self._began_at = self._core.stats().user_written_blocks
        if not await self._saved():
            return
        log.info("%s: the running checkpoint was given up", self._name)
        self._give_back(self._held)
        self._give_back(self._taken)

    async def _write_turn(self) -> None:
        self._first = False
        self._began_at = self._core.stats().user_written_blocks
        try:
            turn = await self._written()
        except _NeededElsewhereError as error:
            log.debug("%s: %s", self._name, error.message)
            turn = None
        except FlushDoubtError as error:
            # The port's own flush: the core may rely on what was lost.
            self._fail(error)
            return
        except FtlError as error:
            level = logging.WARNING if self._may_write() else logging.DEBUG
            log.log(level, "%s: a turn of the running checkpoint was given up: %s", self._name, error.message)
            turn = None
        except _shim.PageFileError as error:
            # The core has failed, or will.
            log.debug("%s: a turn of the running checkpoint was given up: %s", self._name, error.strerror)
            turn = None
        except MemoryError:
            log.warning("%s: a turn of the running checkpoint was given up: there is not enough memory", self._name)
            turn = None
        finally:
            self._manager.kept_wanted = 0
        if turn is None:
            self.given_up += 1
            self._give_back(self._taken)
            return
        self.turn = turn
        if not await self._saved():
            return
        self.turns += 1
        old, self._held = self._held, self._taken
        self._taken = []
        self._give_back(old)

    async def _saved(self) -> bool:
        """False: the device has failed. A load may then find either turn, and both are whole."""
        try:
            await self._save()
        except FtlError as error:
            self._fail(error)
            return False
        return True

    async def _written(self) -> Turn:
        geometry, conf = self._geometry(), self._conf()
        zones: list[int] = []
        if self._port is None:
            self._port = BlockPort(
                self._reactor, self._base, name=self._name, depth=PORT_DEPTH, patience_s=BUSY_PATIENCE_S
            )
        writer = TurnWriter(
            *(self._port, geometry, self._uuid, self._core),
            with_crcs=conf.verify_reads,
            next_zone=functools.partial(self._next_zone, zones),
        )
        over = self._interval // WRITE_PART
        written_before = 0
        try:
            await writer.begin()
            more = True
            while more:
                self._check_wanted()
                more = await writer.step()
                self.written_blocks += writer.blocks - written_before
                written_before = writer.blocks
                done = self._core.stats().user_written_blocks - self._began_at
                await asyncio.sleep(0 if done > over * writer.part_done else self.pause_s)
        finally:
            await writer.end()
        self._check_wanted()
        # What was accepted while pages were copied is durable before the turn counts, and so are the pages.
        await self._drained()
        self._check_wanted()
        return writer.turn()

    async def _drained(self) -> None:
        """What was accepted is durable; or it may never be, as somebody waits for the bands."""
        drain = asyncio.ensure_future(self._drain())
        try:
            while not drain.done():
                self._check_wanted()
                await asyncio.wait({drain}, timeout=BAND_POLL_S)
        finally:
            await end_tasks([drain])
        drain.result()

    def _check_wanted(self) -> None:
        if self._stopped or not self._may_write():
            raise _NeededElsewhereError("the device stops, so its turn of the running checkpoint ends")
        if self._is_starved():
            raise _NeededElsewhereError("hosts or moves wait for the bands of a turn of the running checkpoint")

    async def _next_zone(self, zones: list[int]) -> int:
        """Of a band that is taken for this turn. zones: what is left of the last one."""
        while not zones:
            self._check_wanted()
            number = self._manager.keep_band()
            if number is None:
                self._manager.kept_wanted = 1
                await asyncio.sleep(BAND_POLL_S)
                continue
            self._manager.kept_wanted = 0
            self._taken.append(number)
            zones += [zone for zone in self._geometry().bands[number] if zone is not None]
        return zones.pop(0)

    def _give_back(self, numbers: list[int]) -> None:
        """Empties the list, too."""
        there, numbers[:] = list(numbers), []
        if there:
            self._manager.give_back(there)
