"""FtlDevice: one FTL while it runs, until its halt. Owns the shim's FtlCore and gives it orders."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import functools
import logging
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from .. import _shim
from ..conf import FtlConf, can_collect_garbage, write_buffer_blocks
from ..errors import FlushDoubtError, FlushRefusedError, FtlError, MediaError, ParameterError, RoomError
from ..nvme.wire import Status, status_text
from ..runtime.reactor import ReactorLoop
from . import properties
from . import stats as stats_module
from .cache.nv_cache_keeper import CacheKeeper, CacheState
from .gc.manager import CHANGES_MAX, BandManager
from .gc.scrub import Scrub
from .gc.spare_zones import SpareZones
from .gc.zone_watch import ZoneWatch
from .halt_log import HaltLog
from .life import FtlState, Life
from .load import checkpoint
from .load.write_buffer_file import BufferFiles
from .media.band import BAND_ROW, CLOSING, FREE, MOVING, OPEN, RESETTING, SHIM_STATES, Band, Bands
from .media.blockdev import BlockPort
from .media.geometry import BLOCK_BYTES, Geometry
from .media.superblock import SuperblockTooLongError, SuperblockWriter

log = logging.getLogger(__name__)

LOST_BLOCKS_LOGGED_MAX: Final = 16
FAILED_FLUSHES_MAX: Final = 8
"""Failed flushes in a row, before resets or for the write buffer, after which the base counts as failed."""
CLOSE_TIMEOUT_S: Final = 10.0
CLOSE_INTERVAL_S: Final = 0.002
_OF_THE_CORE: Final = (
    *("lba_rsvd", "write_buffer_size", "band_thld", "max_reloc_qdepth", "nv_cache", "use_append", "verify_reads"),
)
"""Settings that the core gets at its construction."""


class FtlDevice:
    """Made by ``creation.create()`` or ``loading.load()``; ended by ``halt()``, or by ``abort()`` when its base is
    gone. ``core`` is the device to export."""

    def __init__(
        self,
        reactor: ReactorLoop,
        port: BlockPort,
        core: _shim.FtlCore,
        *,
        name: str,
        uuid: UUID,
        conf: FtlConf,
        geometry: Geometry,
        superblock: SuperblockWriter,
        next_band_seq: int = 1,
        incarnation: int = 1,
        buffer_files: BufferFiles | None = None,
        buffer_blocks: int = 0,
        cache: CacheKeeper,
        lost_before: int = 0,
        no_data: bool = False,
        scrub: object = None,
    ) -> None:
        """buffer_blocks: of the core, if it has more than conf and geometry say. lost_before: blocks that a load found
        lost. no_data: of the core; the device keeps nothing, so it writes no superblock. scrub: from the superblock;
        None: the FTL is new."""
        self.core = core
        self.no_data = no_data
        self.name = name
        self.uuid = uuid
        self.conf = conf
        self._conf_of_core = conf
        self._conf_turn = asyncio.Lock()
        self.geometry = geometry
        self.block_count = geometry.block_count
        self.life = Life(name)
        self._lost_before = lost_before
        self._lost_told = 0
        self.zone_faults = 0
        """Zones that failed, without those that the base has finished by itself."""
        self.unreadable_bands = 0
        """Bands in which a host or the scrub could not read a block; each band counts once until its reset."""
        self.checkpoint_part = 0.0
        """How much of the L2P checkpoint is written, during a halt."""
        self.restored: dict[str, Any] | None = None
        """The result of the load; None for a device that was created."""
        self.loaded_without_room = False
        """The load found no free band."""
        self.incarnation = incarnation
        """Greater with every load, and never used twice. Part of the name of the write buffer file."""
        self.cache = cache
        self._buffer_files = buffer_files
        self._reactor = reactor
        self._port = port
        self._superblock = superblock
        self._superblock_turn = asyncio.Lock()
        self._spares = SpareZones(name, geometry, port)
        self._bands = Bands(geometry)
        self._manager = BandManager(
            core,
            geometry,
            conf,
            self._bands,
            buffer_blocks=buffer_blocks or write_buffer_blocks(conf, geometry),
            on_stuck=self._stuck,
            on_broken=self._mend,
            next_band_seq=next_band_seq,
        )
        self.zone_watch = ZoneWatch(name, geometry, port, core, self._bands, self._spares, self._manager.pump)
        self.scrub = Scrub(
            name,
            core,
            self._bands,
            scrub_days=0 if no_data else conf.scrub_days,
            next_band_seq=lambda: self._manager.next_band_seq,
            take_account=self._manager.take_account,
            wanted=self._manager.wake,
            save=self._note_scrub,
            can_move=lambda: self.state is not FtlState.READ_ONLY,
            stored=scrub,
        )
        self._failed_flushes = 0
        self._faulty_told: set[int | None] = set()
        """Zones whose failure was logged."""
        self._drained: dict[int, asyncio.Future[int | None]] = {}
        """None: the answer may have been dropped."""
        self._drains_done: dict[int, int] = {}
        """Status by ticket."""
        self._mending: asyncio.Task[None] | None = None
        self._core_closed = False
        reactor.subscribe(core.id, self._on_event)

    # --- life cycle

    @property
    def state(self) -> FtlState:
        return self.life.state

    @property
    def failure(self) -> FtlError | None:
        """Why it has failed, or is read-only."""
        return self.life.failure

    @property
    def failed(self) -> asyncio.Event:
        """Set when the device has stopped serving; ``failure`` says why."""
        return self.life.failed

    @property
    def halted_cleanly(self) -> bool:
        """Everything accepted is on media, and the superblock says so."""
        return self.life.halted_cleanly

    async def bands_loaded(self) -> None:
        """Call it when the core knows all bands, and before anything is served."""
        for _ in range(0, len(self._bands), CHANGES_MAX):
            self._manager.take_account()
            await asyncio.sleep(0)
        self._bands.retire_empty()

    def zones_changed(self, zones: list[int] | None, *, log_read: bool) -> None:
        """The base reports that zones have changed: these numbers, or (None) any zone. See ZoneWatch.changed()."""
        if self.life.serving:
            self.zone_watch.changed(zones, log_read=log_read)

    def zone_failed(self, start: int, status: int) -> None:
        """A zone of a closed band (given by its first block) is not to be trusted: its band is moved before others."""
        place = self._spares.place(start // self.geometry.zone_size, self._bands)
        if place is not None:
            self.core.fault_zone(place[0].index, place[1], status)

    def start(self) -> None:
        """Logs the device, once, when it matches its superblock."""
        self.life.start()
        self._manager.start()
        self.zone_watch.start()
        if not self.no_data:
            self.scrub.start()
        self.cache.complete(drain=self._drain_core, write_superblock=lambda: self.write_superblock(clean=False))
        log.info(
            "%s: %d blocks on %d bands of %d zones, %d spare zones, streams %s",
            self.name,
            self.block_count,
            self.geometry.band_count,
            self.geometry.punits,
            len(self._spares),
            "shared" if self.geometry.shared_stream else "separate",
        )

    async def halt(self) -> None:
        """Writes everything accepted to media, then a clean superblock. Writes that arrive meanwhile are refused with
        Namespace Not Ready.

        However this ends, the device is halted, and everything is released. Raises BusyError on every call but the
        first, and FtlError if acknowledged writes could not be made durable; a device that failed before has reported
        that before.
        """
        can_write = self.life.begin_halt()
        self.zone_watch.stop()
        self.scrub.stop()
        try:
            await self.scrub.ended()
            async with self._conf_turn:
                # Nothing may be written after the clean superblock.
                pass
            if can_write:
                self.core.refuse_writes()
                await self._drain()
                await self._stop_mending()
                await self.cache.settled()
                await self._finish_writing()
                self.life.halted_cleanly = True
        finally:
            told = HaltLog(self._bands, self._manager)
            try:
                await told.take(self.core)
            finally:
                try:
                    await self._release()
                finally:
                    self.life.end_halt()
                    await told.write(self.name, clean=self.halted_cleanly)

    async def abort(self, reason: str) -> None:
        """The base is gone: every I/O fails from now on, and nothing is written any more. Idempotent; halt() releases
        the rest."""
        if self.state is FtlState.HALTED:
            return
        self._fail(MediaError(f"{self.name}: {reason}", status=Status.PATH_ERROR))
        # Not closed: outstanding I/O of hosts has to be completed.
        self.core.fail(Status.PATH_ERROR)

    async def _drain(self) -> None:
        """Returns when everything accepted is durable. Raises the failure that prevents it."""
        self._manager.drain()
        status = await self._drain_core()
        if status:
            raise MediaError(
                f"{self.name}: the base device can't flush, so acknowledged writes are not durable: "
                f"{status_text(status)}",
                status=status,
            )

    async def make_durable(self) -> None:
        """Returns when everything accepted so far is durable on the base. Raises FtlError if that is not possible; the
        device continues."""
        status = await self._drain_core()
        if status:
            raise MediaError(f"{self.name}: the base device can't flush: {status_text(status)}", status=status)

    async def _drain_core(self) -> int:
        """The status of the flush after everything accepted so far. Raises the failure that prevents it."""
        status: int | None = None
        while status is None:
            status = await self._drain_once()
            if self.failure is not None:
                raise self.failure
        return status

    async def _drain_once(self) -> int | None:
        """None: the answer may have been dropped, or there will be none."""
        ticket = self.core.drain()
        if ticket in self._drains_done:
            return self._drains_done[ticket]
        drained: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._drained[ticket] = drained
        ended = asyncio.ensure_future(self.life.writes_ended.wait())
        try:
            waits: list[asyncio.Future[Any]] = [drained, ended]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        return drained.result() if drained.done() else None

    async def _finish_writing(self) -> None:
        """The last write. The data path is closed before, so that nothing is written after the superblock that is
        called clean."""
        self._manager.stop()
        await self._close_core()
        self._raise_what_failed()
        await self.cache.finish()
        if self.no_data:
            return
        content = self._superblock_content()
        place = await checkpoint.write(
            self._port,
            dataclasses.replace(self.geometry, bands=self._bands.zones()),
            self._superblock.media_uuid,
            self._superblock.generation + 1,
            self.core,
            with_crcs=self.conf.verify_reads,
            refused=self._bands.broken_numbers(),
            progress=self._checkpoint_told,
        )
        if place is not None and self._superblock.takes({**content, "checkpoint": place}):
            content["checkpoint"] = place
        await self._superblock.write(content, clean=True)
        if self._buffer_files is not None:
            self._buffer_files.remove()

    def _raise_what_failed(self) -> None:
        """After the drain, a flush can still be in doubt: then blocks that relocation has just written may be lost, and
        the L2P must not be called clean."""
        if self.failed.is_set() and self.failure is not None:
            raise self.failure
        status = self.core.failure
        if status not in (Status.SUCCESS, Status.NAMESPACE_NOT_READY):
            raise FlushDoubtError(
                f"{self.name}: the base device failed during the halt ({status_text(status)}), and data in its "
                "volatile cache may be lost: load the FTL again by its uuid",
                status=status,
            )

    def _checkpoint_told(self, step: str, part: float) -> None:
        self.checkpoint_part = part

    async def _release(self) -> None:
        """Idempotent."""
        self._manager.stop()
        self.zone_watch.stop()
        self.scrub.stop()
        await self.scrub.ended()
        await self._stop_mending()
        try:
            await self._close_core()
        finally:
            self._reactor.unsubscribe(self.core.id)
            if self._buffer_files is not None:
                self._buffer_files.release()
            await self.cache.close()
            await self._port.close()

    async def _close_core(self) -> None:
        """Idempotent. Raises MediaError if the base does not complete outstanding I/O; then the core stays closed to
        all I/O, and is released when the base is."""
        self._core_closed = True
        clock = asyncio.get_running_loop().time
        until = clock() + CLOSE_TIMEOUT_S
        while not self.core.begin_close():
            if clock() > until:
                raise MediaError(
                    f"{self.name}: the base device has not answered for {CLOSE_TIMEOUT_S:g} s: outstanding I/O cannot "
                    "complete until it answers"
                )
            await asyncio.sleep(CLOSE_INTERVAL_S)

    def _fail(self, error: FtlError) -> None:
        self._manager.stop()
        self.zone_watch.stop()
        self.scrub.stop()
        if self.life.fail(error):
            log.error("%s: failed: %s", self.name, error.message)

    def _stuck(self, reason: str) -> None:
        """No write can continue. If there are enough zones, a base that finishes zones by itself has taken the room of
        bands that were counted on. A load resets bands without valid data at once, while a running device has to wait
        for newer data first. If this life already began without room and has freed nothing, another load would not
        help."""
        geometry = self.geometry
        bands_left = int(self._bands.capacity_to_come.sum()) // geometry.band_blocks
        enough = can_collect_garbage(dataclasses.replace(geometry, bands=geometry.bands[:bands_left]))
        freed = not self.loaded_without_room or self.core.stats()["zone_resets"] > 0
        if enough and freed and not self.no_data:
            self._fail_with_core(RoomError(f"{self.name}: {reason}; a load can free bands"))
        elif enough:
            self._out_of_space(
                f"{reason}: crashes, or zones that the base finished by itself, have used up all bands",
                remedy="create the FTL again",
            )
        else:
            self._out_of_space(f"{reason}: too many zones have failed for the logical capacity")

    def _out_of_space(self, reason: str, *, remedy: str = "replace the device") -> None:
        """Writes fail for good, and report why; data on media stays readable. remedy: for a user who has copied that
        data."""
        log.error("%s: read-only: %s", self.name, reason)
        told = f"{self.name}: {reason}: copy its data elsewhere and {remedy}"
        self.life.run_out_of_space(FtlError(told, errno=errno.ENOSPC))
        self.core.fail_writes(Status.CAPACITY_EXCEEDED)

    # --- events

    def _on_event(self, event: _shim.Event) -> None:
        kind = event.kind
        if kind == _shim.EV_BAND_NEXT_NEEDED:
            self._manager.band_wanted(event.a)
        elif kind == _shim.EV_ZONE_FAULT:
            self._zone_fault(event.a, event.b, event.c)
        elif kind == _shim.EV_ZONE_FINISHED:
            zone = self._bands[event.a].zones[event.b]
            log.info("%s: the base finished zone %s of band %d", self.name, zone, event.a)
        elif kind == _shim.EV_BAND_RESET_DONE and not self._band_reset(event.a, event.b, event.c):
            return
        elif kind == _shim.EV_BLOCK_LOST:
            self._block_lost(event.a, event.b, event.c)
        elif kind == _shim.EV_SCRUB_DONE:
            self.scrub.wake()
            return
        elif kind == _shim.EV_BAND_UNREADABLE:
            self._band_unreadable(event.a, event.b, event.c)
        elif kind == _shim.EV_DRAINED:
            done = self._drained.pop(event.a, None)
            if done is None:
                self._drains_done[event.a] = event.b
            elif not done.done():
                done.set_result(event.b)
        elif kind == _shim.EV_CORE_FAILED:
            self._core_failed(event.a, by_flush=bool(event.b))
            return
        elif kind == _shim.EV_CACHE_FAILED:
            self._cache_failed(event.a)
        elif kind == _shim.EV_FLUSH_FAILED and self._flush_failed(event.a, event.b):
            return
        elif kind == _shim.EV_OVERFLOW:
            self._overflowed()
        self._manager.wake()

    def _overflowed(self) -> None:
        """Recovers the content of dropped events."""
        failure = self.core.failure
        if failure and not self._core_closed:
            # With a status that is neither "gone" nor "busy", only a flush makes the core fail.
            kind = _shim.error_class(failure, op=_shim.OP_FLUSH)
            self._core_failed(failure, by_flush=kind == _shim.ERROR_DOUBT)
            return
        # A drain covers earlier ones: each waiting caller orders a new one.
        drained, self._drained = self._drained, {}
        for each in drained.values():
            if not each.done():
                each.set_result(None)
        self._manager.want_all()
        self.scrub.wake()
        if self.cache.has_failed:
            self._cache_failed(Status.INTERNAL_ERROR)

    def _core_failed(self, status: int, *, by_flush: bool = False) -> None:
        if by_flush:
            told = f"the base device can't flush ({status_text(status)}): data in its volatile cache may be lost"
            self._fail(FlushDoubtError(f"{self.name}: {told}", status=status))
        else:
            self._fail(MediaError(f"{self.name}: the base device failed: {status_text(status)}", status=status))

    def _cache_failed(self, status: int) -> None:
        self.cache.failed(
            status,
            drain=self._drain_core,
            write_superblock=lambda: self.write_superblock(clean=False),
            fail=self._fail_with_core,
        )

    def _fail_with_core(self, error: FtlError) -> None:
        if error is not self.failure:
            self._fail(error)
            self.core.fail(getattr(error, "status", 0) or Status.INTERNAL_ERROR)

    def _block_lost(self, lba: int, address: int, status: int) -> None:
        self._lost_told += 1
        if self._lost_told <= LOST_BLOCKS_LOGGED_MAX:
            log.error("%s: block %d lost at address %d: %s", self.name, lba, address, status_text(status))
        if self._lost_told == LOST_BLOCKS_LOGGED_MAX:
            log.error("%s: further lost blocks are only counted (see its statistics)", self.name)

    def _band_unreadable(self, index: int, address: int, status: int) -> None:
        """Reported once for each band until its reset. The band is moved because of its state."""
        self.unreadable_bands += 1
        text = f"block at address {address} (band {index}) could not be read: {status_text(status)}"
        log.error("%s: %s; relocating the rest of that band", self.name, text)

    def _zone_fault(self, index: int, punit: int, status: int) -> None:
        band = self._bands[index]
        self.zone_faults += 1
        self._faulty_told.add(band.zones[punit])
        if status == Status.ZONE_OFFLINE:
            log.error("%s: zone %s of band %d is offline: its data is lost", self.name, band.zones[punit], index)
            return
        log.warning("%s: zone %s of band %d failed: %s", self.name, band.zones[punit], index, status_text(status))

    def _band_reset(self, index: int, status: int, punit: int) -> bool:
        """False: the device has failed because of this."""
        if self.state is FtlState.READ_ONLY:
            return True
        if status == 0:
            self._failed_flushes = 0
            return True
        if punit < self.geometry.punits:
            # A zone that had failed before is already logged and counted.
            if self._bands[index].zones[punit] not in self._faulty_told:
                self._zone_fault(index, punit, status)
            return True
        # No zone failed: the flush before the reset did. The band is unchanged, and is reset again.
        self._failed_flushes += 1
        return not self._flush_failed(status, self._failed_flushes)

    def _flush_failed(self, status: int, in_a_row: int) -> bool:
        """True: the device has failed because of this. Without a flush no band is reset, and the write buffer stays
        full."""
        if in_a_row < FAILED_FLUSHES_MAX:
            return False
        told = f"{self.name}: the base device can't flush: {status_text(status)}"
        self._fail(FlushRefusedError(told, status=status))
        self.core.fail(status)
        return True

    # --- scrub

    def order_scrub(self, *, stop: bool = False) -> dict[str, Any]:
        """Orders a scrub of all valid data now; stop: cancels the order, except for what conf scrub_days requires. If a
        scrub is already ordered, that one continues. Returns status(). Raises BusyError if the device does not run,
        ParameterError with no_data."""
        if self.no_data:
            raise ParameterError(f"{self.name}: was created with no_data, so it keeps nothing to verify")
        self.life.require_serving("it can't be scrubbed now")
        if stop:
            self.scrub.cancel()
        else:
            self.scrub.order()
        return self.scrub.status()

    async def _note_scrub(self) -> None:
        if self.state is FtlState.RUNNING:
            await self.write_superblock(clean=False)

    # --- bad zones

    def _mend(self) -> None:
        """Replaces the bad zones of bands that have become free, in the background. Does nothing once a halt has closed
        the core: events may still arrive then, but nothing may be written after the clean superblock."""
        if self._mending is not None or self._manager.stopped:
            return
        broken = self._bands.to_mend()
        if broken and self.state in (FtlState.RUNNING, FtlState.HALTING):
            self._mending = asyncio.get_running_loop().create_task(self._mend_bands(broken), name=f"{self.name} mend")

    async def _mend_bands(self, broken: list[Band]) -> None:
        """A band is opened again only when the superblock knows its zones; until then bad_punits keeps it closed."""
        try:
            for band in broken:
                for punit in sorted(band.bad_punits):
                    tell_core = functools.partial(self.core.replace_zone, band.index, punit)
                    await self._spares.replace(band, punit, tell_core)
                    # At once: a report about the old zone must not be taken for one about the new zone.
                    self._bands.rezone(band)
            await self.write_superblock(clean=False)
        except SuperblockTooLongError as error:
            # Nothing was written to the new zones yet, and the bands stay closed, so media match the superblock.
            self._mending = None
            self._manager.stop()
            self._out_of_space(error.message)
            return
        except FtlError as error:
            self._fail_with_core(error)
            return
        for band in broken:
            self._bands.mended(band)
            # Its zones may have failed again meanwhile.
            self._bands.refresh(self.core.band_rows(band.index, 1))
        self._mending = None
        # Other bands may have become free, or may have failed zones, meanwhile.
        self._manager.pump()

    async def _stop_mending(self) -> None:
        while self._mending is not None and not self._mending.done():
            await asyncio.wait({self._mending})

    # --- settings

    def takes(self, conf: FtlConf) -> bool:
        """Whether set_conf() can apply the conf; otherwise the FTL must be loaded again with it."""
        made = self._conf_of_core
        cached = self.cache.state in (CacheState.IN_USE, CacheState.FAILING)
        counts = [name for name in _OF_THE_CORE if cached or name != "nv_cache"]
        same = all(getattr(conf, name) == getattr(made, name) for name in counts)
        return same and conf.max_active_relocs <= made.max_active_relocs

    async def set_conf(self, conf: FtlConf) -> None:
        """conf: as check_geometry() returns it; takes() must accept it. The superblock is written before the conf takes
        effect. Raises BusyError if the device does not run, and FtlError if the superblock can't be written: then
        nothing has changed."""
        async with self._conf_turn:
            self.life.require_serving("its settings can't be changed now")
            before, self.conf = self.conf, conf
            try:
                await self.write_superblock(clean=False)
            except BaseException:
                self.conf = before
                raise
            self._manager.set_conf(conf)
            self.scrub.set_days(0 if self.no_data else conf.scrub_days)

    async def rename(self, name: str) -> None:
        """The name in the superblock from now on. Raises what set_conf() raises."""
        async with self._conf_turn:
            self.life.require_serving("it can't be renamed now")
            before = self.name
            self.name = self.life.name = name
            try:
                await self.write_superblock(clean=False)
            except BaseException:
                self.name = self.life.name = before
                raise

    # --- what others want to know

    async def write_superblock(self, *, clean: bool) -> None:
        """Writes the current superblock; clean: nothing is written after it. Does nothing with no_data. If its flush
        fails and leaves in doubt what is lost, the device ends, because the core may rely on lost data."""
        if self.no_data:
            return
        try:
            async with self._superblock_turn:
                await self._superblock.write(self._superblock_content(), clean=clean)
        except FlushDoubtError as error:
            if self.state is not FtlState.CREATING:
                self._fail_with_core(error)
            raise

    def _superblock_content(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "geometry": {**self.geometry.to_dict(), "replaced": self._bands.replaced},
            "bad_zones": self._spares.bad_zones,
            "conf": self.conf.to_dict(),
            "next_seq": self.core.next_seq,
            "next_band_seq": self._manager.next_band_seq,
            "incarnation": self.incarnation,
            "nv_cache": self.cache.to_dict(),
            "scrub": self.scrub.to_dict(),
        }

    @property
    def lost_blocks(self) -> int:
        """Blocks that media lost: those that the load found, and later ones. Events may report fewer if there are very
        many."""
        return self._lost_before + self.core.stats()["lost_blocks"]

    def stats(self) -> dict[str, Any]:
        """JSON-able: SPDK's groups, and those of this package. Works in every state except after halt()."""
        core: Mapping[str, int] = self.core.stats()
        bands = self._bands.counts()
        return {
            "name": self.name,
            "uuid": str(self.uuid),
            "state": self.state.value,
            **stats_module.spdk_groups(core, self.cache.stats()),
            **stats_module.summary(core),
            "free_bands": bands.get(FREE, 0),
            "limit_free_bands": self._manager.free_bands,
            "bands": bands,
            "active_relocs": self._bands.count(MOVING),
            "relocs_started": self._manager.moves_started,
            "limit": self._manager.applied.name,
            "user_share": self._manager.applied.user_share,
            "limits_applied": dict(self._manager.limits_applied),
            "lost_blocks": self.lost_blocks,
            "zone_faults": self.zone_faults,
            "zones_finished_by_base": core["zones_finished"],
            "zone_watch": self.zone_watch.stats(),
            "unreadable_bands": self.unreadable_bands,
            "spare_zones": len(self._spares),
            "scrub": self.scrub.status(),
            "core": dict(core),
        }

    def properties(self) -> dict[str, Any]:
        """JSON-able, in SPDK's shape: {"name", "properties": [{"name", "value", "unit", "desc", "read-only"}]}."""
        state = {
            "state": self.state.value,
            "failure": self.failure.message if self.failure else None,
            "no_data": self.no_data,
            "restored": self.restored,
            "write_buffer_size": self.core.stats()["write_buffer_blocks"] * BLOCK_BYTES,
            "cache_device": self.cache.describe(),
            "zone_watch": self.zone_watch.stats(),
            "scrub": self.scrub.status(),
        }
        entries = properties.describe(state, self.geometry, self.conf, self._spares, self._bands)
        return {"name": self.name, "uuid": str(self.uuid), "properties": entries}

    @property
    def zones(self) -> tuple[tuple[int | None, ...], ...]:
        """Numbers of the zones of each band, by punit; None where one is missing."""
        return self._bands.zones()

    @property
    def bad_zones(self) -> list[int]:
        """Numbers of zones that are given up."""
        return self._spares.bad_zones

    def knows_bad(self, zone: int) -> bool:
        """Whether a zone of a band that is not being written or reset is known to have failed, or is in no band."""
        place = self._spares.place(zone, self._bands)
        if place is None:
            return True
        band, punit = place
        row = self.core.band_rows(band.index, 1).view(BAND_ROW)[0]
        busy = SHIM_STATES[row["state"]] in (OPEN, CLOSING, RESETTING)
        return busy or bool(int(row["faulted_punits"]) >> punit & 1)

    @property
    def missing_zones(self) -> int:
        """Zones that failed and could not be replaced."""
        return self._bands.missing_zones
