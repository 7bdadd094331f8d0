"""One drive, one FTL on it and one host, through life after life: traffic, a crash, a load (perhaps crashed as well),
and everything compared with the model. All of it follows from the seed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import hashlib
import random
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from .. import _shim
from ..conf import can_collect_garbage
from ..errors import ConfError, FlushDoubtError, FtlError, MediaError, RoomError
from ..ftl import creation, loading
from ..ftl.cache.nv_cache_keeper import CacheState
from ..ftl.check import check
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.media.blockdev import BlockPort
from ..runtime.reactor import ReactorLoop
from .buffer_dir import BufferDir
from .clock import SimulatedClock
from .content import Content
from .copying import Copying, random_uuid
from .crash import Crash, Kind, Where, choose, choose_in_load, random_operations
from .fault import (
    BUSY_LIVES,
    FLUSH_REFUSED,
    ROTTEN_LIVES,
    SLOW_US_MAX,
    ZONE_EVENT_OPERATIONS_MAX,
    Busy,
    Injected,
    ZoneEvent,
    inject,
    rot,
    slow_down,
    summarised_zones,
)
from .growing import Growing
from .model import Model, Violation
from .reading import read_versions
from .result import SUMMED_STATS, WorldResult
from .scrubbing import Scrubbing
from .shape import SUPERBLOCK_ZONES, Shape
from .workload import WEDGED_STEPS, Workload

NAME: Final = "ftl0"
LANDING_STEPS: Final = 64
"""Of the reactor; after so many nothing is in flight any more, but for what is slow."""
LANDING_STEPS_MAX: Final = 20_000
SLOW_LIVES: Final = 0.4
"""Part of the lives in which some writes of the drive are slow. Not of those that end in a halt: closing a core waits
for the base in real time."""
IDLE_STEPS_MAX: Final = 4000
CLEAN_HALTS: Final = 0.12
"""Part of the lives that end in a halt without a crash."""
HALTS_UNDER_TRAFFIC: Final = 0.06
"""Part of the lives that end in one of these while the host goes on writing."""
FAULTS_PER_WORLD: Final = 6
FAULTY_LIVES: Final = 0.5
BUSY_LOADS: Final = 0.2
"""Part of the loads, with faults, in which a drive is busy for a while."""
ZONE_WATCH_ROUND_S: Final = 0.002
"""Simulated. Lives last some tenths of a second."""
ZONE_EVENTS_TOLD: Final = 0.5
"""Part of the drive's changes that hosts hear of by an asynchronous event."""
UNNOTICED_ROUNDS_MAX: Final = 4
LOADS_CRASHED: Final = 0.25
LOADS_CRASHED_IN_A_ROW_MAX: Final = 4
CHECKED: Final = 0.25
"""Part of the lives behind which the checker reads the drive; with all that ended in a halt."""
VIOLATIONS_MAX: Final = 16
CACHE_LOST: Final = (CacheState.FAILING, CacheState.GIVEN_UP)
ROTTEN_BLOCK: Final = re.compile(r"block (\d+) \(band \d+\): (?:data of )?LBA (\d+)\b")
LOST_LBAS: Final = re.compile(r"LBAs? (\d+)(?: to (\d+))? (?:is|are) lost")
"""As the checker has it."""


class World:
    def __init__(
        self,
        seed: int,
        number: int,
        *,
        every: int,
        use_append: bool,
        cache: str,
        faults: bool,
        clock: SimulatedClock,
    ) -> None:
        self.ending = False
        """Set, the world ends behind the life that it is in."""
        self.result = WorldResult()
        self._rng = random.Random(f"{seed}/{number}")
        self._scrub_rng = random.Random(f"{seed}/{number}/scrub")
        self._scrubbing: Scrubbing
        self._growing = Growing(random.Random(f"{seed}/{number}/grow"))
        self._every = every
        self._clock = clock
        self._faults, self._faults_left = faults, FAULTS_PER_WORLD if faults else 0
        self._fault = Injected.NOTHING
        """Of this life."""
        self._busy: Busy | None = None
        self._bad_at_birth = 0
        """Zones that were given up in earlier lives."""
        self._rotten: set[tuple[int, int]] = set()
        """Addresses at which a block has rotted, and its LBA."""
        self._zones_lost = 0
        """By the drive; at most, where zones are emulated."""
        self._zones_troubled = 0
        """That failed once, or for good: at most so many are given up for a spare."""
        self._read_only: list[tuple[int, int]] = []
        """Zones that became it in this life, while they were full; and how many rounds the zone watch had made."""
        self._shape = Shape.choose(self._rng, use_append=use_append, cache=cache)
        self._copying = Copying(random.Random(f"{seed}/{number}/copy"), random_uuid(self._rng))
        self._content = Content(self._rng.getrandbits(63))
        self._digest = hashlib.sha256()
        self._reactor: ReactorLoop
        self._media: _shim.EmulatedMedia
        self._cache: _shim.EmulatedMedia | None = None
        self._base: _shim.BlockDevice
        """As the FTL has it."""
        self._nv_cache: _shim.BlockDevice | None = None
        """The same."""
        self._buffer_dir: BufferDir
        self._device: FtlDevice
        self._workload: Workload
        self._model: Model
        self._forgetful = False
        """Since the last life something acknowledged may have been forgotten."""
        self._alarmed = False
        """Since the last life a load has said so."""
        self._slow = False
        self._load_operations = 0
        """Of the drive, in the last load that came to its end."""
        self._buffered = False
        """What is found after a load may be in the write buffer only."""

    async def run(self, crashes: int, progress: Callable[[], None]) -> WorldResult:
        """Until so many crashes have happened, or a promise was broken. progress is called after each life."""
        with BufferDir(self._rng) as self._buffer_dir:
            return await self._run(crashes, progress)

    async def _run(self, crashes: int, progress: Callable[[], None]) -> WorldResult:
        result = self.result
        self._reactor = ReactorLoop(NAME, stepped=True, clock=self._clock)
        await self._reactor.start()
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
        return result

    # --- births

    async def _create(self) -> None:
        """A drive and an FTL of some shape that is possible."""
        while not await self._create_in_shape():
            self._shape = Shape.choose(self._rng, use_append=self._shape.conf.use_append, cache=self._shape.cache)
        self.result.shape = str(self._shape)
        for media in self._drives():
            media.set_schedule(self._rng.getrandbits(63))
        self._model = Model(self._device.block_count)
        self._born()
        if self._rng.random() < 0.7:
            await self._fill()

    async def _create_in_shape(self) -> bool:
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
                    conf=shape.conf,
                    num_punits=shape.punits,
                    buffer_dir=self._buffer_dir.path,
                    cache=self._nv_cache,
                )
                return True
            shape = shape.with_more_reserve()
        return False

    # --- the way of I/O: here the FTL is on its drive, and the host at the FTL

    def _begin(self) -> None:
        """The reactor runs."""

    def _connect(self, *, new: bool) -> None:
        """Drives to the FTL that is created or loaded next."""
        self._base = self._shape.base(self._reactor, self._media, new=new)
        self._nv_cache = self._cache

    def _work(self) -> Workload:
        """A host of the FTL that was just created or loaded."""
        return Workload(self._reactor, self._device.core, self._model, self._content, self._rng)

    async def _settled(self) -> None:
        """Before a halt."""

    async def _kill(self, *, power_fails: bool) -> None:
        """The daemon, and whatever connects it to others. Idempotent."""

    @property
    def _landed(self) -> bool:
        """Nothing that a dead daemon has sent is under way any more."""
        return True

    # ---

    def _born(self) -> None:
        self._workload = self._work()
        self._workload.durable_when_acknowledged = self._device.cache.state is CacheState.IN_USE
        self._fault = Injected.NOTHING
        self._device_is_new()

    def _device_is_new(self) -> None:
        self._device.zone_watch.round_s = ZONE_WATCH_ROUND_S
        self._read_only = []
        self._bad_at_birth = len(self._device.bad_zones)
        self._scrubbing = Scrubbing(self._device, self._scrub_rng, self._rotten)

    def _drives(self) -> list[_shim.EmulatedMedia]:
        return [self._media] if self._cache is None else [self._media, self._cache]

    async def _fill(self) -> None:
        """Every block once: from here on there is garbage collection."""
        step = 8
        for lba in range(0, self._model.block_count, step):
            self._workload.write(lba, min(step, self._model.block_count - lba))
            while self._workload.outstanding > 16 and not self._workload.failed:
                await self._step()
        await self._answered()

    # --- lives

    async def _life(self, crashes: int) -> None:
        """Ends with the device crashed or halted, and the media on."""
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

    def _living(self) -> bool:
        """Whether nothing was found wrong in this life so far; else it ends here."""
        return not self.result.violations

    def _operations_from_now(self, operations: int, media: _shim.EmulatedMedia | None = None) -> Callable[[], bool]:
        drive = media or self._media
        until = drive.operations + operations
        return lambda: drive.operations >= until

    def _arm(self, crash: Crash) -> Callable[[], bool]:
        """Whether the moment has come; a loss of power comes by itself."""
        drives = self._drives()
        watched = drives[crash.seed % len(drives)]
        if crash.kind.power_fails:
            watched.cut_power_at(watched.operations + crash.after_operations, crash.seed)
        return self._operations_from_now(crash.after_operations, watched)

    def _cut_power(self, seed: int) -> None:
        for media in self._drives():
            media.power_cut(seed)

    async def _step(self) -> None:
        await asyncio.sleep(0)

    async def _traffic_until(self, reached: Callable[[], bool]) -> None:
        workload = self._workload
        if self._faults and self._rng.random() < BUSY_LIVES:
            self._fault = Injected.BUSY
            self._busy = Busy(self._drives(), self._shape, self._rng)
            self.result.faults += 1
        elif self._faults_left and self._rng.random() < FAULTY_LIVES:
            self._faults_left -= 1
            if self._rng.random() < ROTTEN_LIVES and await self._rot():
                self._fault = Injected.ROT
            else:
                self._fault = inject(self._media, self._shape, self._rng)
            self._zones_lost += self._fault is Injected.ZONE
            self._zones_troubled += self._fault in (Injected.ZONE, Injected.TROUBLED)
            workload.flushes_may_fail = self._fault is Injected.FLUSH
            self.result.faults += 1
        event = ZoneEvent.choose(self._rng) if self._fault is Injected.ZONE_EVENT else None
        due = self._operations_from_now(self._rng.randint(0, ZONE_EVENT_OPERATIONS_MAX))
        workload.change_mix()
        while not reached() and not workload.failed and self._living():
            workload.pump()
            self._violated(*self._scrubbing.pump())
            if event is not None and due() and self._happens(event):
                # A drive that finishes one zone finishes others.
                event = event if event is ZoneEvent.FINISHED else None
                due = self._operations_from_now(self._rng.randint(0, ZONE_EVENT_OPERATIONS_MAX))
            if self._read_only:
                self._check_noticed()
            if self._rng.random() < 0.0005:
                workload.change_mix()
            await self._step()
            if self._cache_is_lost and not reached():
                # Its drive, whose I/Os may be what is counted, has no more of them.
                self._check_busy_cost()
                if workload.failed:
                    await self._failed()
                return
        if not reached():
            await self._failed()

    def _happens(self, event: ZoneEvent) -> bool:
        """False: no zone is in the state that it needs, yet."""
        zone = event.happens(self._media, self._rng)
        if zone is not None and event is ZoneEvent.READ_ONLY:
            self._zones_lost += 1
            self._zones_troubled += 1
            self._read_only.append((zone, self._device.zone_watch.rounds))
        if zone is not None and self._rng.random() < ZONE_EVENTS_TOLD:
            told = self._rng.choice(([zone], None))
            self._device.zones_changed(told, log_read=told is not None)
        return zone is not None

    async def _rot(self) -> bool:
        """Some blocks rot; most are read soon. False: there is none of which a load knows that it was whole once: what
        it has to look at may be torn, for all it can tell."""
        if self._shape.emulated_zones:
            return False
        zones = summarised_zones(self._media, self._shape)
        port = BlockPort(self._reactor, self._media, name=NAME)
        try:
            await port.flush()
        except MediaError:
            return False
        finally:
            await port.close()
        rotten = rot(self._media, self._device.core, self._shape, zones, self._rng)
        self._rotten.update((address, lba) for lba, address in rotten.items())
        self.result.stats["rotten_blocks"] += len(rotten)
        for lba in rotten:
            self._model.rot(lba)
            if self._rng.random() < (0.2 if self._scrubbing.chosen else 0.7):
                self._workload.read(lba, 1)
        self._scrubbing.rot(rotten)
        return bool(rotten)

    async def _answered(self) -> None:
        while not self._workload.wait() and self._living():
            await self._step()
        if self._workload.failed:
            await self._failed()

    async def _failed(self) -> None:
        """An I/O was answered with an error, or something else is wrong."""
        self._violated(*self._workload.violations)
        self._workload.violations = []
        if self.result.violations:
            return
        if self._out_of_space_rightly():
            await self._verify_read_only()
            return
        failure = self._device.failure
        if self._hosts_may_notice(failure):
            # It is for a load to find out what the drive still has.
            return
        told = f"{self._workload.failure}; device is {self._device.state.value}: {failure and failure.message}"
        self._violated(Violation("io_error", -1, told))

    def _hosts_may_notice(self, failure: BaseException | None) -> bool:
        """Whether their I/O may fail with the device."""
        return self._load_helps(failure)

    def _load_helps(self, failure: BaseException | None) -> bool:
        """Whether the device has failed as it should: the drive has lost its cache with a flush, or taken the room of
        bands, by losing zones or finishing them."""
        if isinstance(failure, RoomError):
            return self._fault is Injected.ZONE_EVENT or self._zones_troubled > 0
        return self._fault is Injected.DOUBT and isinstance(failure, FlushDoubtError)

    def _out_of_space_rightly(self) -> bool:
        """Whether the device says that it has lost too many zones, and it has: with what the drive has left, no FTL of
        so many blocks would be created. It is the end of the world."""
        failure, geometry = self._device.failure, self._device.geometry
        if failure is None or failure.errno != errno.ENOSPC:
            return False
        bands_left = max(0, geometry.band_count * geometry.punits - self._zones_lost) // geometry.punits
        if can_collect_garbage(dataclasses.replace(geometry, bands=geometry.bands[:bands_left])):
            return False
        self.result.out_of_space = 1
        return True

    def _check_bands(self) -> None:
        """Of a device that was just loaded: no zone was given up but those that the drive has lost."""
        missing = self._device.missing_zones
        if missing > self._zones_lost:
            told = f"bands lack {missing} zones, but the drive has lost {self._zones_lost}"
            self._violated(Violation("given_up", -1, told))

    @property
    def _cache_is_lost(self) -> bool:
        return self._device.cache.state in CACHE_LOST

    def _check_busy_cost(self, *, power_fails: bool = False) -> None:
        """Of any life: the drive of the nv cache fails with its power only. Of one in which drives were busy: that
        costs no zone."""
        if not power_fails and self._cache_is_lost:
            self._violated(Violation("given_up", -1, f"the nv cache failed ({self._device.cache.failure})"))
        if self._fault is Injected.BUSY and self._device.zone_faults > self._zones_lost:
            told = f"{self._device.zone_faults} zones failed, but only {self._zones_lost} may; the drive was only busy"
            self._violated(Violation("given_up", -1, told))

    def _all_ready(self) -> None:
        """No drive is busy any more, and none fails."""
        if self._busy is not None:
            self._busy.end()
            self._busy = None
        for media in self._drives():
            media.clear_faults()

    def _check_zones(self) -> None:
        """Of a device that is about to end: which zones were given up."""
        # Zones that were given up before are not written any more: they can't be those that failed in this life.
        troubled = self._zones_troubled - self._bad_at_birth
        if self._device.zone_faults > troubled:
            told = f"the FTL counts {self._device.zone_faults} failed zones in this life, the drive has {troubled}"
            self._violated(Violation("given_up", -1, told))
        bad = len(self._device.bad_zones)
        if bad > self._zones_troubled:
            told = f"the FTL has given up {bad} zones, but {self._zones_troubled} have failed"
            self._violated(Violation("given_up", -1, told))

    def _check_noticed(self) -> None:
        """Zones that are read-only are known to be, once all zone reports were read a few times."""
        device = self._device
        for zone, rounds in list(self._read_only):
            if device.zone_watch.rounds - rounds <= UNNOTICED_ROUNDS_MAX or device.state is not FtlState.RUNNING:
                continue
            self._read_only.remove((zone, rounds))
            if not device.knows_bad(zone):
                told = f"the FTL has not noticed that zone {zone} of a closed band is read-only"
                self._violated(Violation("unnoticed", -1, told))

    def _violated(self, *violations: Violation) -> None:
        self.result.violations += violations
        del self.result.violations[VIOLATIONS_MAX:]

    # --- deaths

    async def _crash(self, crash: Crash) -> None:
        """The device is gone, whatever it was doing."""
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
        """What there is for the next load."""
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
        """What is left of a device that has ended one way or another."""
        await self._kill(power_fails=False)
        self._collect()
        # What the drive still has of the dead one lands before anybody comes back: a target ends the I/O of a
        # connection before it lets it go. The core answers everything once the base has given back what it holds.
        slow_ns = SLOW_US_MAX * 1000 if self._slow else 0
        until = self._clock.now_ns + slow_ns
        for step in range(LANDING_STEPS_MAX):
            ended = not self._workload.outstanding and self._landed
            if step >= LANDING_STEPS and ended and self._clock.now_ns > until:
                break
            await self._step()
        self._slow = False
        self._workload.close()
        # Of a failed device this only lets go of what it holds; it writes nothing.
        if self._device.state is not FtlState.HALTED:
            with contextlib.suppress(FtlError):
                await self._device.halt()

    def _collect(self) -> None:
        """From the workload and the core to the result; once for each life."""
        workload, result = self._workload, self.result
        self._violated(*workload.violations)
        result.blocks_verified += workload.blocks_verified
        result.io_count += workload.io_count
        workload.violations, workload.blocks_verified, workload.io_count = [], 0, 0
        self._sum_up()
        failure = self._device.failure
        if failure is not None and failure.errno == errno.ENOSPC and not self._out_of_space_rightly():
            self._violated(Violation("read_only", -1, failure.message))
        if self._device.lost_blocks > len(self._rotten):
            self._violated(Violation("damaged", -1, f"{self._device.lost_blocks} blocks lost on media without faults"))

    def _sum_up(self) -> None:
        """Stats of the device; once for each."""
        stats = self._device.core.stats()
        self.result.stats.update({name: stats[name] for name in SUMMED_STATS})
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
            # What a clean halt has left behind needs no power.
            self._cut_power(self._rng.getrandbits(63))
            for media in self._drives():
                media.power_on()

    async def _halt_under_traffic(self) -> None:
        """What is acknowledged until the device has ended counts, however late. Raises what halt() raises."""
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
        """Then what was accepted is in the write buffer's file, as behind a crash of the daemon."""
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
                pass  # before it was to halt
            elif not reached() and not (isinstance(error, FtlError) and self._halt_may_fail(error)):
                self._violated(Violation("refused", -1, f"halt: {error!r}"))
        halt.cancel()
        await self._crash(crash)
        await asyncio.gather(halt, return_exceptions=True)

    async def _until_done_or(self, task: asyncio.Future[Any], reached: Callable[[], bool]) -> bool:
        """False: neither came about."""
        for _ in range(WEDGED_STEPS):
            if task.done() or reached():
                return True
            await self._step()
        return False

    # --- resurrection

    async def _check_media(self) -> None:
        """What a halt, or a crash, leaves is no damage."""
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
        """Whether it is about a block that has rotted, or about LBAs that were lost to one."""
        if (lost := LOST_LBAS.match(damage)) is not None:
            first, last = int(lost[1]), int(lost[2] or lost[1])
            return all(self._model.may_be_lost(lba) for lba in range(first, last + 1))
        at = ROTTEN_BLOCK.match(damage)
        return at is not None and (int(at[1]), int(at[2])) in self._rotten

    async def _load_again(self, crashes: int) -> bool:
        """Loads the device, perhaps after crashes in the load. False: it can't be loaded."""
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
        """Write pointers of their zones."""
        return [pointer for _, _, pointer in self._media.zone_states()[:SUPERBLOCK_ZONES]]

    async def _load(self, crash: Crash | None) -> bool:
        """False: the crash came first, or a violation was found."""
        self._violated(*await self._copying.before_load(self._reactor, self._media, self._shape, self.result))
        await self._growing.before_load(self._reactor, self._media, self._shape, self._copying.origin)
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
            except Exception as error:  # whatever it is: the FTL can't be loaded
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
            cache=self._nv_cache,
            on_lossy=on_lossy,
            grow=self._growing.grow,
        )

    async def _verify(self) -> None:
        """Every block of a device that was just loaded."""
        versions = await self._versions()
        self._digest.update(np.array(versions, np.int64).tobytes())
        self._digest.update(str(self.result.last_crash).encode())
        self._violated(*self._model.check_restart(0, versions, forgetful=self._forgetful))
        if not self._alarmed and (forgotten := self._model.forgotten(versions)):
            told = f"{len(forgotten)} blocks are lost, but no host is told"
            self._violated(Violation("untold", forgotten[0], told))
        self._model.restart(versions, durable=not self._buffered)
        self._forgetful = self._buffered = self._alarmed = False

    def _alarm(self) -> None:
        self._alarmed = True

    async def _verify_read_only(self) -> None:
        """Every block of a device that is out of space, before the crash that was meant for this life."""
        for media in self._drives():
            media.cut_power_at(0, 0)
        floors = self._model.floors(0, self._model.block_count)
        self._violated(*self._model.check_read(0, floors, await self._versions()))

    async def _versions(self) -> list[int]:
        """Of every block."""
        port = BlockPort(self._reactor, self._device.core, name=NAME, patience_s=0)
        versions = await read_versions(port, self._content, self._model.block_count)
        await port.close()
        self.result.blocks_verified += len(versions)
        return versions

    async def _drop_device(self) -> None:
        """At the end of a world in which something is wrong: whatever is wrong, the device must not stay."""
        if not hasattr(self, "_workload") or self._device.state is FtlState.HALTED:
            return
        self._workload.stop()
        await self._device.abort("the world ends")
        await self._buried()

    async def _close_device(self) -> None:
        """The end of the world."""
        self._workload.stop()
        with contextlib.suppress(FtlError):
            await self._device.halt()
        await self._buried()
