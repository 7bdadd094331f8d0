"""FtlDevice: one FTL while it runs, until its halt. Owns the shim's FtlCore and gives it orders.

More than 500 lines by a few: it joins its parts (the modules beside it, gc/ and cache/), and a halt needs them all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any
from uuid import UUID

from .. import _shim
from ..conf import DEFAULT_RELOC_POLICY, FtlConf, can_collect_garbage, default_thresholds_of, write_buffer_blocks
from ..errors import FlushDoubtError, FtlError, MediaError, ParameterError
from ..nvme.wire import Status, status_text
from ..runtime.reactor import ReactorLoop
from . import properties, stats
from .cache.nv_cache_keeper import CacheKeeper, CacheState
from .core import core_serves, end_core
from .drains import Drains
from .failing import Failing
from .gc.checkpointing import Checkpointing
from .gc.manager import BandManager
from .gc.mending import Mending
from .gc.scrub import Scrub
from .gc.spare_zones import SpareZones
from .gc.wear import WearKeeper
from .gc.zone_watch import ZoneWatch
from .halt_log import HaltLog
from .life import FtlState, Life
from .load import checkpoint
from .load.running import KEY
from .load.write_buffer_file import BufferFiles
from .media.band import Bands
from .media.blockdev import BlockPort
from .media.geometry import BLOCK_BYTES, Geometry
from .media.superblock import SuperblockTooLongError, SuperblockWriter
from .media.superblock_content import conf_beside, conf_to_store
from .media.zone_map import ZoneMap
from .media.zone_wear import ZoneWear
from .media_errors import MediaErrors
from .policy.guard import Guard
from .policy.interface import Placement

log = logging.getLogger(__name__)


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
        policy: Guard | None = None,
        wear: object = None,
        crashed: bool = False,
    ) -> None:
        """buffer_blocks: of the core, if it has more than conf and geometry say. lost_before: blocks that a load found
        lost. no_data: of the core; the device keeps nothing, so it writes no superblock. scrub, wear: from the
        superblock; None: the FTL is new. policy: by default as the conf says."""
        self.core = core
        self.no_data = no_data
        self.name = name
        self.uuid = uuid
        self.conf = conf
        self._conf_of_core = conf
        self._conf_turn = asyncio.Lock()
        self.geometry = geometry
        self.block_count = geometry.block_count
        self.life = Life()
        self._lost_before = lost_before
        self.checkpoint_part = 0.0
        """How much of the L2P checkpoint is written, during a halt."""
        self.checkpoint_steps = 0
        """Counted while it is written, so that a halt can be seen to move on."""
        self._leave_out_checkpoint = False
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
        self._superblock.flush = self.flush_base
        self._superblock_turn = asyncio.Lock()
        self.zone_map = ZoneMap(geometry)
        self._bands = Bands(geometry, self.zone_map, ZoneWear(geometry.zone_count, wear))
        self.wear = WearKeeper(
            name,
            geometry,
            port,
            self._bands,
            may_save=lambda: self.state is FtlState.RUNNING and not no_data,
            rotate=lambda: self._mending.rotate(),
            save=lambda: self.write_superblock(clean=False),
        )
        self._manager = BandManager(
            core,
            geometry,
            conf,
            self._bands,
            buffer_blocks=buffer_blocks or write_buffer_blocks(conf, geometry),
            on_stuck=self._stuck,
            policy=policy,
            on_broken=lambda: self._mending.begin(),
            on_replaced=self._policy_replaced,
            on_decided=self._on_decided,
            give_up_kept=lambda: self.checkpointing.give_up(),
            next_band_seq=next_band_seq,
            crashed=crashed,
        )
        self.zone_watch = ZoneWatch(name, geometry, port, core, self._bands, self._manager.pump)
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
        self._errors = MediaErrors()
        self.failing = Failing(lambda: self.name, core, self.life, self._stop)
        self._drains = Drains(core, self.life)
        self._mending = Mending(
            name,
            core,
            self._bands,
            SpareZones(name, geometry, port, self.zone_map),
            self._manager,
            may_mend=lambda: self.state in (FtlState.RUNNING, FtlState.HALTING),
            write_superblock=lambda: self.write_superblock(clean=False),
            out_of_space=self.failing.out_of_space,
            fail=self.failing.fail_with_core,
        )
        self.checkpointing = Checkpointing(
            *(name, reactor, port.device, core),
            lambda: dataclasses.replace(self.geometry, bands=self.zone_map.bands()),
            superblock.media_uuid,
            self._bands,
            self._manager,
            conf=lambda: self.conf,
            may_write=lambda: self.state is FtlState.RUNNING and not no_data,
            drain=self.make_durable,
            save=lambda: self.write_superblock(clean=False),
            fail=self.failing.fail_with_core,
        )
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

    @property
    def bands(self) -> Bands:
        """Read-only for others."""
        return self._bands

    @property
    def next_band_seq(self) -> int:
        """Of the band that is opened next; the age of a band is how many were opened since."""
        return self._manager.next_band_seq

    async def bands_loaded(self) -> None:
        """Call it when the core knows all bands, and before anything is served."""
        await self._manager.bands_loaded()

    def zones_changed(self, zones: list[int] | None, *, log_read: bool) -> None:
        """The base reports that zones have changed: these numbers, or (None) any zone. See ZoneWatch.changed()."""
        if self.life.serving:
            self.zone_watch.changed(zones, log_read=log_read)

    def start(self) -> None:
        """Logs the device, once, when it matches its superblock."""
        self.life.start()
        self._manager.start()
        self.zone_watch.start()
        if not self.no_data:
            self.scrub.start()
        self.cache.complete(drain=self._drains.drain, write_superblock=lambda: self.write_superblock(clean=False))
        log.info(
            "%s: %d blocks on %d bands of %d zones, %d spare zones, streams %s",
            self.name,
            self.block_count,
            self.geometry.band_count,
            self.geometry.punits,
            self.zone_map.spare_count,
            "shared" if self.geometry.shared_stream else "separate",
        )

    async def halt(self) -> None:
        """Writes everything accepted to media, then a clean superblock. Writes that arrive meanwhile are refused with
        Namespace Not Ready.

        However this ends, the device is halted, and everything is released. Raises BusyError on every call but the
        first, and FtlError if acknowledged writes could not be made durable; a device that failed before has reported
        that before.
        """
        can_write = self.life.begin_halt(self.name)
        self.zone_watch.stop()
        self.scrub.stop()
        self.checkpointing.stop()
        try:
            await self.scrub.ended()
            await self.checkpointing.ended()
            async with self._conf_turn:
                # Nothing may be written after the clean superblock.
                pass
            if can_write:
                self.core.refuse_writes()
                await self._drain()
                await self.checkpointing.ended()
                await self._mending.ended()
                await self.wear.ended()
                await self.cache.settled()
                await self._finish_writing()
                self.life.wrote_all()
        finally:
            halt_log = HaltLog(self._bands, self._manager)
            try:
                await halt_log.take(self.core)
            finally:
                try:
                    await self._release()
                finally:
                    self.life.end_halt()
                    await halt_log.write(self.name, clean=self.halted_cleanly)

    async def abort(self, reason: str) -> None:
        """The base is gone: every I/O fails from now on, and nothing is written any more. Idempotent; halt() releases
        the rest."""
        if self.state is FtlState.HALTED:
            return
        self.failing.fail(MediaError(f"{self.name}: {reason}", status=Status.PATH_ERROR))
        # Not closed: outstanding I/O of hosts has to be completed.
        self.core.fail(Status.PATH_ERROR)

    def leave_out_checkpoint(self) -> None:
        """For a halt that takes too long: it ends without the checkpoint, as cleanly as otherwise. The next load reads
        the bands."""
        self._leave_out_checkpoint = True

    async def _drain(self) -> None:
        """Returns when everything accepted is durable. Raises the failure that prevents it."""
        self._manager.drain()
        status = await self._drains.drain()
        if status:
            raise MediaError(
                f"{self.name}: the base device can't flush, so acknowledged writes are not durable: "
                f"{status_text(status)}",
                status=status,
            )

    async def make_durable(self) -> None:
        """Returns when everything accepted so far is durable on the base. Raises FtlError if that is not possible; the
        device continues."""
        status = await self._drains.drain()
        if status:
            raise MediaError(f"{self.name}: the base device can't flush: {status_text(status)}", status=status)

    async def flush_base(self) -> None:
        """Like port.flush(), but through the core. If a separate flush failed, data that the core has written could be
        lost with it, and the core's next flush would succeed all the same. Raises MediaError and FlushDoubtError."""
        status = await self._drains.flush_base()
        if status:
            raise MediaError(f"{self.name}: the base device can't flush: {status_text(status)}", status=status)

    async def _finish_writing(self) -> None:
        """The last write. The data path is closed before, so that nothing is written after the superblock that is
        called clean."""
        self._manager.stop()
        await self._close_core()
        self.failing.raise_what_failed()
        self._superblock.flush = self._port.flush
        await self.cache.finish()
        if self.no_data:
            return
        # Resets that ended with the core count in the superblock.
        await self._manager.take_last_account()
        content = self._superblock_content()
        place = await checkpoint.write(
            self._port,
            dataclasses.replace(self.geometry, bands=self.zone_map.bands()),
            self._superblock.media_uuid,
            self._superblock.generation + 1,
            self.core,
            with_crcs=self.conf.verify_reads,
            refused=self._bands.broken_numbers(),
            progress=self._on_checkpoint_progress,
        )
        if place is not None:
            whole = {**content, "checkpoint": place}
            whole.pop(KEY, None)
            if self._superblock.takes(whole):
                content = whole
        await self._write_content(content, clean=True)
        if self._buffer_files is not None:
            self._buffer_files.remove()

    def _on_checkpoint_progress(self, step: str, part: float) -> None:
        self.checkpoint_part = part
        self.checkpoint_steps += 1
        if self._leave_out_checkpoint and part < 1:
            raise FtlError(f"there is no time for the rest of it, {1 - part:.0%}")

    async def _release(self) -> None:
        """Idempotent."""
        self._stop()
        await self.scrub.ended()
        await self.checkpointing.ended()
        await self._mending.ended()
        await self.wear.ended()
        try:
            await self._close_core()
        finally:
            self._reactor.unsubscribe(self.core.id)
            if self._buffer_files is not None:
                self._buffer_files.release()
            await self.cache.close()
            await self.checkpointing.close()
            await self._port.close()

    async def _close_core(self) -> None:
        """Idempotent. Raises MediaError if the base does not complete outstanding I/O; then the core stays closed to
        all I/O, and is released when the base is."""
        self._core_closed = True
        await end_core(self.core, self.name)

    def _stop(self) -> None:
        """Ends the background work. Idempotent."""
        self._manager.stop()
        self.zone_watch.stop()
        self.scrub.stop()
        self.checkpointing.stop()

    def _on_decided(self) -> None:
        self.wear.look()
        self.checkpointing.look()

    def _stuck(self, reason: str) -> None:
        """No write can continue. If there are enough zones, a base that finishes zones by itself has taken the room of
        bands that were counted on. A load resets bands without valid data at once, while a running device has to wait
        for newer data first. If this life already began without room and has freed nothing, another load would not
        help."""
        geometry = self.geometry
        bands_left = int(self._bands.capacity_to_come.sum()) // geometry.band_blocks
        enough = can_collect_garbage(dataclasses.replace(geometry, bands=geometry.bands[:bands_left]))
        freed = not self.loaded_without_room or self.core.stats().zone_resets > 0
        self.failing.no_room(reason, enough_zones=enough, load_helps=enough and freed and not self.no_data)

    def _policy_replaced(self, why: str) -> None:
        log.error(
            "%s: policy %s is replaced by %s: %s. No data is in danger. It is used again when reloc_policy is set, "
            "or after a restart of the daemon",
            self.name,
            self.conf.reloc_policy,
            DEFAULT_RELOC_POLICY,
            why,
        )

    # --- events

    def _on_event(self, event: _shim.Event) -> None:
        kind = event.kind
        if kind == _shim.EventKind.BAND_NEXT_NEEDED:
            self._manager.band_wanted(event.stream)
        elif kind == _shim.EventKind.ZONE_FAULT:
            self._manager.zone_ended()
            self._errors.zone_failed(self.name, self._bands[event.band], event.punit, event.status)
        elif kind == _shim.EventKind.ZONE_FINISHED:
            self._manager.zone_ended()
            zone = self._bands[event.band].zones[event.punit]
            log.info("%s: the base finished zone %s of band %d", self.name, zone, event.band)
        elif kind == _shim.EventKind.BAND_RESET_DONE:
            if not self._band_reset(event.band, event.status, event.failed_punit):
                return
        elif kind == _shim.EventKind.BLOCK_LOST:
            self._errors.block_lost(self.name, event.lba, event.address, event.status)
        elif kind == _shim.EventKind.SCRUB_DONE:
            self.scrub.wake()
            return
        elif kind == _shim.EventKind.BAND_UNREADABLE:
            self._errors.band_unreadable(self.name, event.band, event.address, event.status)
        elif kind == _shim.EventKind.DRAINED:
            self._drains.ended(event.ticket, event.status)
        elif kind == _shim.EventKind.CORE_FAILED:
            self.failing.core_failed(event.status, by_flush=event.by_flush)
            return
        elif kind == _shim.EventKind.CACHE_FAILED:
            self._cache_failed(event.status)
        elif kind == _shim.EventKind.FLUSH_FAILED:
            if self.failing.flush_failed(event.status, event.failures):
                return
        elif kind == _shim.EventKind.OVERFLOW:
            self._overflowed()
        self._manager.wake()

    def _overflowed(self) -> None:
        """Recovers the content of dropped events."""
        failure = self.core.failure
        if failure and not self._core_closed:
            # With a status that is neither "gone" nor "busy", only a flush makes the core fail.
            kind = _shim.error_class(failure, op=_shim.Op.FLUSH)
            self.failing.core_failed(failure, by_flush=kind == _shim.ErrorClass.DOUBT)
            return
        self._drains.overflowed()
        self._manager.want_all()
        self.scrub.wake()
        if self.cache.has_failed:
            self._cache_failed(Status.INTERNAL_ERROR)

    def _cache_failed(self, status: int) -> None:
        self.cache.failed(
            status,
            drain=self._drains.drain,
            write_superblock=lambda: self.write_superblock(clean=False),
            fail=self.failing.fail_with_core,
        )

    def _band_reset(self, index: int, status: int, punit: int | None) -> bool:
        """False: the device has failed because of this."""
        if self.state is FtlState.READ_ONLY:
            return True
        if status == 0:
            self._failed_flushes = 0
            return True
        if punit is not None:
            self._errors.reset_failed(self.name, self._bands[index], punit, status)
            return True
        # No zone failed: the flush before the reset did. The band is unchanged, and is reset again.
        self._failed_flushes += 1
        return not self.failing.flush_failed(status, self._failed_flushes)

    # --- scrub

    def order_scrub(self, *, stop: bool = False) -> dict[str, Any]:
        """Orders a scrub of all valid data now; stop: cancels the order, except for what conf scrub_days requires. If a
        scrub is already ordered, that one continues. Returns status(). Raises BusyError if the device does not run,
        ParameterError with no_data."""
        if self.no_data:
            raise ParameterError(f"{self.name}: was created with no_data, so it keeps nothing to verify")
        self.life.require_serving(self.name, "it can't be scrubbed now")
        if stop:
            self.scrub.cancel()
        else:
            self.scrub.order()
        return self.scrub.status()

    async def _note_scrub(self) -> None:
        if self.state is FtlState.RUNNING:
            await self.write_superblock(clean=False)

    # --- settings

    def takes(self, conf: FtlConf) -> bool:
        """Whether set_conf() can apply the conf; otherwise the FTL must be loaded again with it."""
        cached = self.cache.state in (CacheState.IN_USE, CacheState.FAILING)
        return core_serves(self._conf_of_core, conf, cached=cached)

    async def set_conf(self, conf: FtlConf, *, new_policy: bool = False) -> None:
        """conf: as check_geometry() returns it; takes() must accept it. new_policy: its policy begins anew, even if it
        is the same. The superblock is written before the conf takes effect. Raises BusyError if the device does not
        run, ConfError if its policy can't be made, and FtlError if the superblock can't be written: then nothing has
        changed."""
        async with self._conf_turn:
            self.life.require_serving(self.name, "its settings can't be changed now")
            policy = None
            if new_policy or self._manager.needs_new_policy(conf):
                policy = self._manager.new_policy(conf)
            before, self.conf = self.conf, conf
            try:
                await self.write_superblock(clean=False)
            except BaseException:
                self.conf = before
                raise
            if policy is not None:
                policy.memory.pop(conf.reloc_policy, None)
            self._manager.set_conf(conf, policy)
            self.scrub.set_days(0 if self.no_data else conf.scrub_days)

    @property
    def classes_max(self) -> int:
        """Classes of bands that a placement may have."""
        return self._manager.classes_max

    @property
    def placement(self) -> Placement:
        """In use."""
        return self._manager.placement

    def set_placement(self, placement: Placement) -> None:
        """Which class of bands blocks go to from now on. ValueError as BandManager.set_placement()."""
        self._manager.set_placement(placement)

    async def rename(self, name: str) -> None:
        """The name in the superblock from now on. Raises what set_conf() raises."""
        async with self._conf_turn:
            self.life.require_serving(self.name, "it can't be renamed now")
            before = self.name
            self.name = name
            try:
                await self.write_superblock(clean=False)
            except BaseException:
                self.name = before
                raise

    # --- descriptions

    async def write_superblock(self, *, clean: bool) -> None:
        """Writes the current superblock; clean: nothing is written after it. Does nothing with no_data. If its flush
        fails and leaves in doubt what is lost, the device ends, because the core may rely on lost data."""
        if self.no_data:
            return
        try:
            async with self._superblock_turn:
                await self._write_content(self._superblock_content(), clean=clean)
        except FlushDoubtError as error:
            if self.state is not FtlState.CREATING:
                self.failing.fail_with_core(error)
            raise

    async def _write_content(self, content: dict[str, Any], *, clean: bool) -> None:
        try:
            await self._superblock.write(content, clean=clean)
        except SuperblockTooLongError:
            # What data depends on comes first.
            await self._superblock.write({**content, "wear": self._bands.wear.to_short_dict()}, clean=clean)

    def _superblock_content(self) -> dict[str, Any]:
        self.wear.take()
        return {
            "name": self.name,
            "geometry": {**self.geometry.to_dict(), "replaced": self.zone_map.replaced},
            "bad_zones": self.zone_map.bad_zones,
            "conf": conf_to_store(self.conf),
            **conf_beside(self.conf),
            "default_thresholds": default_thresholds_of(self.geometry),
            "next_seq": self.core.next_seq,
            "next_band_seq": self._manager.next_band_seq,
            "incarnation": self.incarnation,
            "nv_cache": self.cache.to_dict(),
            "scrub": self.scrub.to_dict(),
            "wear": self._bands.wear.to_dict(),
            **self.checkpointing.to_dict(),
        }

    @property
    def zone_faults(self) -> int:
        """Zones that failed, without those that the base has finished by itself."""
        return self._errors.zone_faults

    @property
    def lost_blocks(self) -> int:
        """Blocks that media lost: those that the load found, and later ones. Events may report fewer if there are very
        many."""
        return self._lost_before + self.core.stats().lost_blocks

    def wear_told(self) -> dict[str, Any]:
        """JSON-able; as in stats()."""
        return stats.wear(self._bands, self._manager.levelling.moves_started, self.conf.rated_resets)

    def stats(self) -> dict[str, Any]:
        """JSON-able: SPDK's groups, and those of this package. Works in every state except after halt()."""
        core = self.core.stats()
        return {
            "name": self.name,
            "uuid": str(self.uuid),
            "state": self.state.value,
            **stats.spdk_groups(core, self.cache.stats()),
            **stats.summary(core, self.checkpointing.written_blocks),
            **stats.of_bands(self._bands, self._manager),
            "wear": self.wear_told(),
            "lost_blocks": self.lost_blocks,
            "zone_faults": self._errors.zone_faults,
            "zones_finished_by_base": core.zones_finished,
            "zone_watch": self.zone_watch.stats(),
            "unreadable_bands": self._errors.unreadable_bands,
            "spare_zones": self.zone_map.spare_count,
            "scrub": self.scrub.status(),
            "checkpoint": self.checkpointing.status(),
            "core": core.as_dict(),
        }

    @property
    def media_uuid(self) -> UUID:
        """As in Superblock: not for hosts."""
        return self._superblock.media_uuid

    def properties(self) -> dict[str, Any]:
        """JSON-able, in SPDK's shape: {"name", "properties": [{"name", "value", "unit", "desc", "read-only"}]}."""
        state = {
            "superblock_version": self._superblock.version,
            "state": self.state.value,
            "failure": self.failure.message if self.failure else None,
            "no_data": self.no_data,
            "restored": self.restored,
            "write_buffer_size": self.core.stats().write_buffer_blocks * BLOCK_BYTES,
            "cache_device": self.cache.describe(),
            "zone_watch": self.zone_watch.stats(),
            "scrub": self.scrub.status(),
            "policy_in_use": self._manager.policy.in_use,
            "policy_replaced": self._manager.policy.replaced,
            "wear": self.wear_told(),
        }
        entries = properties.describe(state, self.geometry, self.conf, self._bands)
        return {"name": self.name, "uuid": str(self.uuid), "properties": entries}
