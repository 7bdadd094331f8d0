"""One drive, one FTL and one host, for one life after the other: traffic, a crash, and a load, which may be crashed as
well. Everything is compared with the model, and follows from the seed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from .. import _shim
from ..errors import ConfError, FtlError
from ..ftl import creation, loading
from ..ftl.check import check
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..runtime.reactor import ReactorLoop
from .buffer_dir import BufferDir
from .crash import Crash, Kind, Where, choose, choose_in_load, random_operations
from .fault import (
    FLUSH_REFUSED,
    SLOW_US_MAX,
    Busy,
    Injected,
    slow_down,
)
from .model import Model, Violation
from .one_life import NAME, OneLife
from .result import SUMMED_STATS, WorldResult
from .shape import SUPERBLOCK_ZONES, Shape
from .workload import WEDGED_STEPS

LANDING_STEPS: Final = 64
"""Steps of the reactor after which nothing but slow I/O is in flight."""
LANDING_STEPS_MAX: Final = 20_000
SLOW_LIVES: Final = 0.4
"""The part of the lives in which some writes of the drive are slow. Lives that end in a halt have none: closing a core
waits for the base in real time."""
IDLE_STEPS_MAX: Final = 4000
CLEAN_HALTS: Final = 0.12
"""The part of the lives that end in a halt without a crash."""
HALTS_UNDER_TRAFFIC: Final = 0.06
"""The part of the lives that end in such a halt while the host still writes."""
BUSY_LOADS: Final = 0.2
"""The part of the loads, with faults, in which a drive is busy for a while."""
LOADS_CRASHED: Final = 0.25
LOADS_CRASHED_IN_A_ROW_MAX: Final = 4
CHECKED: Final = 0.25
"""The part of the lives after which the checker reads the drive, in addition to those that ended in a halt."""
ROTTEN_BLOCK: Final = re.compile(r"block (\d+) \(band \d+\): (?:data of )?LBA (\d+)\b")
LOST_LBAS: Final = re.compile(r"LBAs? (\d+)(?: to (\d+))? (?:is|are) lost")
"""The checker's text for lost LBAs."""


class World(OneLife):
    async def run(self, crashes: int, progress: Callable[[], None]) -> WorldResult:
        """Runs until that many crashes have happened, or a promise was broken. progress is called after each life."""
        with BufferDir(self._rng) as self._buffer_dir:
            return await self._run(crashes, progress)

    async def _run(self, crashes: int, progress: Callable[[], None]) -> WorldResult:
        result = self.result
        self._reactor = ReactorLoop(NAME, stepped=True, clock=self._clock)
        await self._reactor.start()
        await self._fronts.start()
        self._begin()
        try:
            await self._create()
            while True:
                await self._life(crashes)
                if self._living() and self._rng.random() < CHECKED:
                    await self._check_media()
                if result.violations or not await self._load_again(crashes):
                    break
                await self._verify()
                self._check_bands()
                ended = result.crashes >= crashes or result.out_of_space or self.ending
                if result.violations or ended:
                    await self._close_device()
                    break
                progress()
        finally:
            self._all_ready()
            await self._drop_device()
            result.media_operations = self._media.operations
            result.digest = self._digest.hexdigest()
            await self._reactor.stop()
            await self._fronts.stop()
            _shim.limit_narrow_l2p()
        return result

    # --- creation

    async def _create(self) -> None:
        """Creates a drive and an FTL in a possible shape."""
        while not await self._create_in_shape():
            shape = Shape.choose(self._rng, use_append=self._shape.conf.use_append, cache=self._shape.cache)
            self._shape = self._shaped(shape)
        self.result.shape = str(self._shape)
        for media in self._drives():
            media.set_schedule(self._rng.getrandbits(63))
        self._model = Model(self._device.block_count)
        self._born()
        if self._rng.random() < 0.7:
            await self._fill()

    async def _create_in_shape(self) -> bool:
        _shim.limit_narrow_l2p(self._shape.narrow_blocks)
        self._media = self._growing.media(self._shape, self._reactor)
        self._cache = self._shape.cache_media(self._reactor)
        self._connect(new=True)
        shape: Shape | None = self._shape
        while shape is not None:
            self._shape = shape
            with contextlib.suppress(ConfError):
                self._device = await creation.create(
                    self._reactor,
                    self._base,
                    name=NAME,
                    uuid=self._copying.uuid,
                    media_uuid=self._copying.media_uuid,
                    conf=shape.conf,
                    num_punits=shape.punits,
                    buffer_dir=self._buffer_dir.path,
                    pages=shape.pages(self._buffer_dir.path),
                    cache=self._nv_cache,
                )
                return True
            shape = shape.with_more_reserve()
        return False

    # --- lives

    async def _life(self, crashes: int) -> None:
        """Ends with the device crashed or halted, and with power on the media."""
        rng = self._rng
        end = rng.random()
        if end < CLEAN_HALTS:
            await self._traffic_until(self._operations_from_now(random_operations(rng, 600)))
            await self._halt_cleanly(traffic=end < HALTS_UNDER_TRAFFIC)
            return
        crash = choose(rng, every=self._every)
        if crash.where is Where.HALT:
            await self._traffic_until(self._operations_from_now(random_operations(rng, 600)))
            await self._answered()
            if self._living():
                await self._crash_in_halt(crash)
            return
        if crash.where is Where.IDLE:
            await self._traffic_until(self._operations_from_now(random_operations(rng, 600)))
            await self._answered()
            reached = self._arm(crash)
            for _ in range(IDLE_STEPS_MAX):
                if reached():
                    break
                await self._step()
        else:
            self._slow = rng.random() < SLOW_LIVES
            if self._slow:
                slow_down(self._media, self._shape, rng)
            await self._traffic_until(self._arm(crash))
        if self._living():
            await self._crash(crash)

    # --- crashes and halts

    async def _crash(self, crash: Crash) -> None:
        """Ends the device, whatever it is doing."""
        self._count(crash)
        self._check_busy_cost(power_fails=crash.kind.power_fails)
        self._check_zones()
        self._workload.stop()
        self._buffer_dir.freeze()
        if crash.kind.power_fails:
            self._cut_power(crash.seed)
        await self._kill(power_fails=crash.kind.power_fails)
        await self._device.abort("crash")
        await self._buried()
        self._rise(crash)

    def _rise(self, crash: Crash) -> None:
        """Prepares drives and write buffer file for the next load."""
        self._all_ready()
        for media in self._drives():
            media.power_on()
        self._buffered = self._buffer_dir.thaw(kept=crash.kind.keeps_buffer)

    def _count(self, crash: Crash) -> None:
        self.result.crashes += 1
        self.result.kinds[crash.kind.value] += 1
        self.result.places[crash.where.value] += 1
        self.result.last_crash = str(crash)
        self._forgetful |= crash.kind.forgetful

    async def _buried(self) -> None:
        """Releases what is left of a device that has ended."""
        await self._kill(power_fails=False)
        self._collect()
        # The I/O of the ended device lands first: a target completes the I/O of a connection before it releases it. The
        # core answers all of its I/O once the base has returned what it holds.
        slow_ns = SLOW_US_MAX * 1000 if self._slow else 0
        until = self._clock.now_ns + slow_ns
        for step in range(LANDING_STEPS_MAX):
            ended = not self._workload.outstanding and self._landed
            if step >= LANDING_STEPS and ended and self._clock.now_ns > until:
                break
            await self._step()
        self._slow = False
        self._workload.close()
        # On a failed device this only releases resources. It writes nothing.
        if self._device.state is not FtlState.HALTED:
            with contextlib.suppress(FtlError):
                await self._device.halt()

    def _collect(self) -> None:
        """Adds the results of workload and core to those of the world; once for each life."""
        workload, result = self._workload, self.result
        self._violated(*workload.violations)
        result.blocks_verified += workload.blocks_verified
        result.io_count += workload.io_count
        workload.violations, workload.blocks_verified, workload.io_count = [], 0, 0
        self._sum_up()
        result.stats.update(self._fronts.count())
        failure = self._device.failure
        if failure is not None and failure.errno == errno.ENOSPC and not self._out_of_space_rightly():
            self._violated(Violation("read_only", -1, failure.message))
        if any(media.flushes_at_once > 1 for media in self._drives()):
            text = "a drive had two flushes at once: of one that fails, the other may hide what it has cost"
            self._violated(Violation("overlap", -1, text))
        if self._device.lost_blocks > len(self._rotten):
            self._violated(Violation("damaged", -1, f"{self._device.lost_blocks} blocks lost on media without faults"))

    def _sum_up(self) -> None:
        """Adds the statistics of the device; once for each device."""
        stats = self._device.core.stats()
        self.result.stats.update({name: getattr(stats, name) for name in SUMMED_STATS})
        self.result.stats["turns"] += self._device.checkpointing.turns
        restored = self._device.restored
        self.result.stats["loads_from_turn"] += bool(restored and restored["from_running_checkpoint"])
        self._violated(*self._scrubbing.alarms(stats))

    async def _halt_cleanly(self, *, traffic: bool) -> None:
        if not traffic:
            await self._answered()
        await self._settled()
        self._check_zones()
        if not self._living():
            return
        if self._load_helps(self._device.failure):
            await self._crash(Crash(Kind.DAEMON, Where.HALT, 0, 0))
            return
        try:
            await (self._halt_under_traffic() if traffic else self._device.halt())
        except FtlError as error:
            if self._halt_may_fail(error):
                await self._crash(Crash(Kind.DAEMON, Where.HALT, 0, 0))
                return
            self._violated(Violation("refused", -1, f"halt: {error.message}"))
        self._model.everything_durable()
        self.result.clean_halts += 1
        self._check_busy_cost()
        await self._buried()
        self._all_ready()
        await self._check_media()
        if self._rng.random() < 0.5:
            # After a clean halt a loss of power must cost nothing.
            self._cut_power(self._rng.getrandbits(63))
            for media in self._drives():
                media.power_on()

    async def _halt_under_traffic(self) -> None:
        """What is acknowledged before the device has ended counts, however late. Raises what halt() raises."""
        self._workload.halting = True
        halt = asyncio.ensure_future(self._device.halt())
        for _ in range(WEDGED_STEPS):
            if halt.done():
                break
            self._workload.pump()
            await self._step()
        else:
            self._violated(Violation("wedged", -1, "the halt under traffic does not end"))
            halt.cancel()
            await asyncio.gather(halt, return_exceptions=True)
            return
        await halt
        await self._answered()

    def _halt_may_fail(self, error: FtlError) -> bool:
        """Whether the error is allowed. The accepted data is in the write buffer file then, as after a crash of the
        daemon."""
        flush_failed = self._fault is Injected.FLUSH and getattr(error, "status", 0) == FLUSH_REFUSED
        return flush_failed or self._load_helps(error) or self._out_of_space_rightly()

    async def _crash_in_halt(self, crash: Crash) -> None:
        await self._settled()
        if not self._living():
            return
        reached = self._arm(crash)
        halt = asyncio.ensure_future(self._device.halt())
        if not await self._until_done_or(halt, reached):
            self._violated(Violation("wedged", -1, "the halt does not end"))
        if halt.done():
            error = halt.exception()
            if error is None and self._device.failure is None:
                self._model.everything_durable()
            elif self._load_helps(self._device.failure):
                pass  # failed before the halt began
            elif not reached() and not (isinstance(error, FtlError) and self._halt_may_fail(error)):
                self._violated(Violation("refused", -1, f"halt: {error!r}"))
        halt.cancel()
        await self._crash(crash)
        await asyncio.gather(halt, return_exceptions=True)

    async def _until_done_or(self, task: asyncio.Future[Any], reached: Callable[[], bool]) -> bool:
        """Returns False if neither happened."""
        for _ in range(WEDGED_STEPS):
            if task.done() or reached():
                return True
            await self._step()
        return False

    # --- loads

    async def _check_media(self) -> None:
        """Checks that neither a halt nor a crash leaves damage on media."""
        base = self._shape.base(self._reactor, self._media, new=False)
        try:
            report = await check(self._reactor, base, name=NAME, uuid=self._copying.uuid)
        except FtlError as error:
            self._violated(Violation("damaged", -1, f"the check: {error.message}"))
            return
        self.result.checks += 1
        if not all(self._explained(text) for text in report.damage):
            self._violated(Violation("damaged", -1, f"the check: {'; '.join(report.damage[:4])}"))

    def _explained(self, damage: str) -> bool:
        """Whether the damage is about a rotten block, or about LBAs that such a block has lost."""
        if (lost := LOST_LBAS.match(damage)) is not None:
            first, last = int(lost[1]), int(lost[2] or lost[1])
            cached = self._cache is not None
            return all(self._model.may_be_lost(lba, cached=cached) for lba in range(first, last + 1))
        at = ROTTEN_BLOCK.match(damage)
        return at is not None and (int(at[1]), int(at[2])) in self._rotten

    async def _load_again(self, crashes: int) -> bool:
        """Loads the device, perhaps after crashes during the load. Returns False if it cannot be loaded."""
        for _ in range(LOADS_CRASHED_IN_A_ROW_MAX):
            if self.result.crashes >= crashes or self._rng.random() >= self._growing.crashes(LOADS_CRASHED):
                break
            crash = choose_in_load(
                self._rng,
                operations=self._growing.operations(self._load_operations),
                superblock=not self._shape.emulated_zones,
            )
            if await self._load(crash):
                for media in self._drives():
                    media.cut_power_at(0, 0)
                return True
            if self.result.violations:
                return False
            self.result.loads_interrupted += 1
            self._count(crash)
            self._rise(crash)
        return await self._load(None)

    def _arm_in_load(self, crash: Crash) -> Callable[[], bool]:
        if crash.where is not Where.SUPERBLOCK:
            return self._arm(crash)
        before = self._superblocks_written()
        return lambda: self._superblocks_written() != before

    def _superblocks_written(self) -> list[int]:
        """The write pointers of the superblock zones."""
        return [zone.write_pointer for zone in self._media.zone_states()[:SUPERBLOCK_ZONES]]

    async def _load(self, crash: Crash | None) -> bool:
        """Returns False if the crash came first, or a violation was found."""
        self._violated(*await self._copying.before_load(self._reactor, self._media, self._shape, self.result))
        await self._growing.before_load(self._reactor, self._media, self._shape, self._copying.media_uuid)
        reached = self._arm_in_load(crash) if crash else lambda: False
        self._connect(new=False)
        began = self._media.operations
        if self._faults and self._rng.random() < BUSY_LOADS:
            self._busy = Busy(self._drives(), self._shape, self._rng)
        load = asyncio.ensure_future(self._loaded(self._alarm))
        ended = await self._until_done_or(load, reached)
        if not ended:
            self._violated(Violation("wedged", -1, "the load does not end"))
        if ended and load.done() and not reached():
            try:
                self._device = load.result()
            except Exception as error:  # any exception means that the FTL cannot be loaded
                self._violated(Violation("refused", -1, f"load: {error!r}"))
                return False
            self.result.loads += 1
            self._violated(*self._growing.loaded(self._device, self._model, self.result))
            self._load_operations = self._media.operations - began
            self._all_ready()
            self._born()
            return True
        self._buffer_dir.freeze()
        if crash is not None and crash.kind.power_fails:
            self._cut_power(crash.seed)
        await self._kill(power_fails=crash is not None and crash.kind.power_fails)
        load.cancel()
        (loaded,) = await asyncio.gather(load, return_exceptions=True)
        if isinstance(loaded, FtlDevice):
            await loaded.abort("crash")
            with contextlib.suppress(FtlError):
                await loaded.halt()
        elif not isinstance(loaded, FtlError | asyncio.CancelledError):
            self._violated(Violation("refused", -1, f"load: {loaded!r}"))
        for step in range(LANDING_STEPS_MAX):
            if step >= LANDING_STEPS and self._landed:
                break
            await self._step()
        return False

    async def _loaded(self, on_lossy: Callable[[], None]) -> FtlDevice:
        """Raises FtlError."""
        return await loading.load(
            self._reactor,
            self._base,
            name=NAME,
            uuid=self._copying.uuid,
            buffer_dir=self._buffer_dir.path,
            pages=self._shape.pages(self._buffer_dir.path),
            cache=self._nv_cache,
            on_lossy=on_lossy,
            grow=self._growing.grow,
        )

    async def _verify(self) -> None:
        """Verifies every block of a device that was just loaded."""
        versions = await self._versions()
        self._digest.update(np.array(versions, np.int64).tobytes())
        self._digest.update(str(self.result.last_crash).encode())
        self._violated(*self._model.check_restart(0, versions, forgetful=self._forgetful))
        if not self._alarmed and (forgotten := self._model.forgotten(versions)):
            text = f"{len(forgotten)} blocks are lost, but no host is told"
            self._violated(Violation("untold", forgotten[0], text))
        self._model.restart(versions, durable=not self._buffered)
        self._forgetful = self._buffered = self._alarmed = False

    def _alarm(self) -> None:
        self._alarmed = True

    async def _drop_device(self) -> None:
        """Releases the device at the end of a world with a violation, whatever is wrong."""
        if not hasattr(self, "_workload") or self._device.state is FtlState.HALTED:
            return
        self._workload.stop()
        await self._device.abort("the world ends")
        await self._buried()

    async def _close_device(self) -> None:
        """Releases the device at the end of the world."""
        self._workload.stop()
        with contextlib.suppress(FtlError):
            await self._device.halt()
        await self._buried()
