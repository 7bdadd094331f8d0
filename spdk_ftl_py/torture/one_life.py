"""One life of a drive, its FTL and its host: traffic, faults, and checks."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import hashlib
import random
from collections.abc import Callable
from typing import Final

from .. import _shim
from ..conf import can_collect_garbage
from ..errors import FlushDoubtError, FtlError, RoomError
from ..ftl.cache.nv_cache_keeper import CacheState
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.media.blockdev import BlockPort
from ..runtime.reactor import ReactorLoop
from .buffer_dir import BufferDir
from .clock import SimulatedClock
from .content import Content
from .copying import Copying, random_uuid
from .crash import Crash
from .fault import (
    BUSY_LIVES,
    ROTTEN_LIVES,
    ZONE_EVENT_OPERATIONS_MAX,
    Busy,
    Injected,
    ZoneEvent,
    inject,
    rot,
    summarised_zones,
)
from .fronts import Fronts
from .growing import Growing
from .model import Model, Violation
from .placing import Placing
from .reading import read_versions
from .result import WorldResult
from .scrubbing import Scrubbing
from .shape import L2P_FORMS, PAGED_L2P, Shape
from .turning import Turning
from .workload import Workload

RARE_WORLDS: Final = 0.3
"""In these worlds hosts also compare and write, and declare blocks uncorrectable."""
NAME: Final = "ftl0"
FAULTS_PER_WORLD: Final = 6
FAULTY_LIVES: Final = 0.5
ZONE_WATCH_ROUND_S: Final = 0.002
"""In simulated time. Lives last some tenths of a second."""
ZONE_EVENTS_TOLD: Final = 0.5
"""The part of the drive's zone changes that it reports with an asynchronous event."""
UNNOTICED_ROUNDS_MAX: Final = 4
VIOLATIONS_MAX: Final = 16
CACHE_LOST: Final = (CacheState.FAILING, CacheState.GIVEN_UP)


class OneLife:
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
        cores: int = 1,
        classes: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        """cores: with more than one, hosts' I/O comes from further reactors. classes, checkpoint: as Options."""
        self.ending = False
        """If set, the world ends after the current life."""
        self.result = WorldResult()
        self._rng = random.Random(f"{seed}/{number}")
        self._scrub_rng = random.Random(f"{seed}/{number}/scrub")
        self._scrubbing: Scrubbing
        self._rare_commands = random.Random(f"{seed}/{number}/few use").random() < RARE_WORLDS
        self._growing = Growing(random.Random(f"{seed}/{number}/grow"))
        self._every = every
        self._clock = clock
        self._fronts = Fronts(cores, random.Random(f"{seed}/{number}/fronts"), clock)
        self._faults, self._faults_left = faults, FAULTS_PER_WORLD if faults else 0
        self._fault = Injected.NOTHING
        """The fault of this life."""
        self._busy: Busy | None = None
        self._bad_at_birth = 0
        """Zones that were given up in earlier lives."""
        self._rotten: set[tuple[int, int]] = set()
        """(address, LBA) of the blocks that have rotted."""
        self._zones_lost = 0
        """The zones that the drive has lost. With emulated zones this is an upper bound."""
        self._zones_troubled = 0
        """The zones that failed once or permanently. A spare may replace at most that many."""
        self._read_only: list[tuple[int, int]] = []
        """Full zones that became read-only in this life, and the number of zone watch rounds at that time."""
        self._placing = Placing(random.Random(f"{seed}/{number}/placement"), classes)
        self._turning = Turning(random.Random(f"{seed}/{number}/checkpoint"), wanted=checkpoint)
        l2p = random.Random(f"{seed}/{number}/l2p")
        self._l2p, self._paged_l2p = l2p.choice(L2P_FORMS), l2p.random() < PAGED_L2P
        self._shape = self._shaped(Shape.choose(self._rng, use_append=use_append, cache=cache))
        media_uuid = random_uuid(random.Random(f"{seed}/{number}/media"))
        self._copying = Copying(random.Random(f"{seed}/{number}/copy"), random_uuid(self._rng), media_uuid)
        self._content = Content(self._rng.getrandbits(63))
        self._digest = hashlib.sha256()
        self._reactor: ReactorLoop
        self._media: _shim.EmulatedMedia
        self._cache: _shim.EmulatedMedia | None = None
        self._base: _shim.BlockDevice
        """The base as the FTL sees it."""
        self._nv_cache: _shim.BlockDevice | None = None
        """The nv cache as the FTL sees it."""
        self._buffer_dir: BufferDir
        self._device: FtlDevice
        self._workload: Workload
        self._model: Model
        self._forgetful = False
        """Since the last life acknowledged data may have been lost."""
        self._alarmed = False
        """Since the last life a load has reported lost writes."""
        self._slow = False
        self._load_operations = 0
        """The drive's I/Os in the last complete load."""
        self._buffered = False
        """Data that is found after a load may be in the write buffer only."""

    def _shaped(self, shape: Shape) -> Shape:
        return dataclasses.replace(
            self._turning.shape(self._placing.shape(shape)), l2p=self._l2p, paged_l2p=self._paged_l2p
        )

    # --- the path of I/O: here the FTL uses its drive directly, and the host uses the FTL directly

    def _begin(self) -> None:
        """Called once the reactor runs."""

    def _connect(self, *, new: bool) -> None:
        """Connects the drives for the FTL that is created or loaded next."""
        self._base = self._shape.base(self._reactor, self._media, new=new)
        self._nv_cache = self._cache

    def _work(self) -> Workload:
        """Returns the host of the FTL that was just created or loaded."""
        # Without a gate: what waits at one would not fail with the core.
        places = self._fronts.cross(self._reactor, self._device.core, self._shape.conf.write_buffer_blocks)
        reactor, device = self._fronts.choose(places)
        return Workload(reactor, device, self._model, self._content, self._rng, rare_commands=self._rare_commands)

    async def _settled(self) -> None:
        """Called before a halt."""

    async def _kill(self, *, power_fails: bool) -> None:
        """Ends the daemon and its connections. Idempotent."""

    @property
    def _landed(self) -> bool:
        """No I/O of a daemon that has ended is in progress any more."""
        return True

    # --- one life

    def _born(self) -> None:
        self._workload = self._work()
        self._workload.durable_when_acknowledged = self._device.cache.state is CacheState.IN_USE
        self._fault = Injected.NOTHING
        self._device_is_new()

    def _device_is_new(self) -> None:
        self._device.zone_watch.round_s = ZONE_WATCH_ROUND_S
        self._read_only = []
        self._placing.begin(self._device)
        self._turning.begin(self._device)
        # A zone that failed when the last life ended, too late to be given up, fails again in the load, and is given up
        # before the device is here.
        failed_in_the_load = self._device.zone_faults
        self._bad_at_birth = max(0, len(self._device.zone_map.bad_zones) - failed_in_the_load)
        self._scrubbing = Scrubbing(self._device, self._scrub_rng, self._rotten)

    def _drives(self) -> list[_shim.EmulatedMedia]:
        return [self._media] if self._cache is None else [self._media, self._cache]

    async def _fill(self) -> None:
        """Writes every block once. Garbage collection is active from then on."""
        step = 8
        for lba in range(0, self._model.block_count, step):
            self._workload.write(lba, min(step, self._model.block_count - lba))
            while self._workload.outstanding > 16 and not self._workload.failed:
                await self._step()
        await self._answered()

    def _living(self) -> bool:
        """Whether this life goes on: a violation ends it."""
        return not self.result.violations

    def _operations_from_now(self, operations: int, media: _shim.EmulatedMedia | None = None) -> Callable[[], bool]:
        drive = media or self._media
        until = drive.operations + operations
        return lambda: drive.operations >= until

    def _arm(self, crash: Crash) -> Callable[[], bool]:
        """Prepares a crash. Returns a function that says whether its moment has come. A loss of power happens by
        itself."""
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
            self._placing.pump(self._device)
            self._violated(*self._scrubbing.pump())
            if event is not None and due() and self._happens(event):
                # A drive that finishes one zone by itself does so with others.
                event = event if event is ZoneEvent.FINISHED else None
                due = self._operations_from_now(self._rng.randint(0, ZONE_EVENT_OPERATIONS_MAX))
            if self._read_only:
                self._check_noticed()
            if self._rng.random() < 0.0005:
                workload.change_mix()
            await self._step()
            if self._cache_is_lost and not reached():
                # The lost cache has no further I/Os, and the crash may be due at a number of them.
                self._check_busy_cost()
                if workload.failed:
                    await self._failed()
                return
        if not reached():
            await self._failed()

    def _happens(self, event: ZoneEvent) -> bool:
        """Applies a zone event. Returns False if no zone is in the state that it needs yet."""
        zone = event.happens(self._media, self._rng)
        if zone is not None and event is ZoneEvent.READ_ONLY:
            self._zones_lost += 1
            self._zones_troubled += 1
            self._read_only.append((zone, self._device.zone_watch.rounds))
        if zone is not None and self._rng.random() < ZONE_EVENTS_TOLD:
            zones = self._rng.choice(([zone], None))
            self._device.zones_changed(zones, log_read=zones is not None)
        return zone is not None

    async def _rot(self) -> bool:
        """Corrupts some blocks; most are read soon. Returns False if there is none that a load knows to have been
        complete. A load cannot tell damage to other blocks from a torn write."""
        if self._shape.emulated_zones:
            return False
        zones = summarised_zones(self._media, self._shape)
        try:
            await self._device.flush_base()
        except FtlError:
            return False
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
        """Called after an I/O has failed, or something else is wrong."""
        self._violated(*self._workload.violations)
        self._workload.violations = []
        if self.result.violations:
            return
        if self._out_of_space_rightly():
            await self._verify_read_only()
            return
        failure = self._device.failure
        if self._hosts_may_notice(failure):
            # A load has to find out what the drive still holds.
            return
        text = f"{self._workload.failure}; device is {self._device.state.value}: {failure and failure.message}"
        self._violated(Violation("io_error", -1, text))

    def _hosts_may_notice(self, failure: BaseException | None) -> bool:
        """Whether host I/O may fail with the device."""
        return self._load_helps(failure)

    def _load_helps(self, failure: BaseException | None) -> bool:
        """Whether an injected fault explains the failure: the drive has lost its cache with a flush, or bands have run
        out because the drive lost or finished zones."""
        if isinstance(failure, RoomError):
            return self._fault is Injected.ZONE_EVENT or self._zones_troubled > 0
        return self._fault is Injected.DOUBT and isinstance(failure, FlushDoubtError)

    def _out_of_space_rightly(self) -> bool:
        """Whether the device correctly reports that it has lost too many zones: no FTL of this size could be created
        with the zones that are left. This ends the world."""
        failure, geometry = self._device.failure, self._device.geometry
        if failure is None or failure.errno != errno.ENOSPC:
            return False
        bands_left = max(0, geometry.band_count * geometry.punits - self._zones_lost) // geometry.punits
        if can_collect_garbage(dataclasses.replace(geometry, bands=geometry.bands[:bands_left])):
            return False
        self.result.out_of_space = 1
        return True

    def _check_bands(self) -> None:
        """Checks a device that was just loaded: it may only lack zones that the drive has lost."""
        missing = self._device.zone_map.missing_count
        if missing > self._zones_lost:
            text = f"bands lack {missing} zones, but the drive has lost {self._zones_lost}"
            self._violated(Violation("given_up", -1, text))

    @property
    def _cache_is_lost(self) -> bool:
        return self._device.cache.state in CACHE_LOST

    def _check_busy_cost(self, *, power_fails: bool = False) -> None:
        """Checks that the nv cache fails only with its power, and that a busy drive costs no zone."""
        if not power_fails and self._cache_is_lost:
            self._violated(Violation("given_up", -1, f"the nv cache failed ({self._device.cache.failure})"))
        if self._fault is Injected.BUSY and self._device.zone_faults > self._zones_lost:
            text = f"{self._device.zone_faults} zones failed, but only {self._zones_lost} may; the drive was only busy"
            self._violated(Violation("given_up", -1, text))

    def _all_ready(self) -> None:
        """Ends all faults, and all periods in which a drive is busy."""
        if self._busy is not None:
            self._busy.end()
            self._busy = None
        for media in self._drives():
            media.clear_faults()

    def _check_zones(self) -> None:
        """Checks the zones that a device has given up, before it ends."""
        # The FTL does not write zones that it gave up earlier, so they cannot be those that failed in this life.
        troubled = self._zones_troubled - self._bad_at_birth
        if self._device.zone_faults > troubled:
            text = f"the FTL counts {self._device.zone_faults} failed zones in this life, the drive has {troubled}"
            self._violated(Violation("given_up", -1, text))
        bad = len(self._device.zone_map.bad_zones)
        if bad > self._zones_troubled:
            text = f"the FTL has given up {bad} zones, but {self._zones_troubled} have failed"
            self._violated(Violation("given_up", -1, text))

    def _check_noticed(self) -> None:
        """Checks that the FTL knows about read-only zones after a few rounds of zone reports."""
        device = self._device
        for zone, rounds in list(self._read_only):
            if device.zone_watch.rounds - rounds <= UNNOTICED_ROUNDS_MAX or device.state is not FtlState.RUNNING:
                continue
            self._read_only.remove((zone, rounds))
            if not device.zone_watch.knows_bad(zone):
                text = f"the FTL has not noticed that zone {zone} of a closed band is read-only"
                self._violated(Violation("unnoticed", -1, text))

    def _violated(self, *violations: Violation) -> None:
        self.result.violations += violations
        del self.result.violations[VIOLATIONS_MAX:]

    async def _verify_read_only(self) -> None:
        """Verifies every block of a device that is out of space. The crash that was planned for this life is
        cancelled."""
        for media in self._drives():
            media.cut_power_at(0, 0)
        floors = self._model.floors(0, self._model.block_count)
        self._violated(*self._model.check_read(0, floors, await self._versions()))

    async def _versions(self) -> list[int]:
        """Returns the version of every block."""
        port = BlockPort(self._reactor, self._device.core, name=NAME, patience_s=0)
        versions = await read_versions(port, self._content, self._model.block_count)
        await port.close()
        self.result.blocks_verified += len(versions)
        return versions
