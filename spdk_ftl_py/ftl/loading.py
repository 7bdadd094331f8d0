"""Loads an FTL from its device: turns the result of restore() into a device that runs."""

from __future__ import annotations

import errno
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from uuid import UUID

from .. import _shim
from ..conf import FtlConf, write_buffer_blocks
from ..errors import FtlError, MediaError, MemoryShortError, NotFoundError, ParameterError
from ..ignored_settings import ignored_in_superblock
from ..runtime.progress import Progress
from ..runtime.reactor import ReactorLoop
from ..runtime.steps import Steps
from ..runtime.turns import Turns, aside
from .base import check_base
from .cache.nv_cache_keeper import CacheKeeper
from .core import close_core, make_core
from .device import FtlDevice
from .gc.reloc import surroundings
from .load.grow import Grow, plan_growth, take_zones
from .load.held import HeldWrites, Recovered, RecoveredBlock
from .load.pages import NO_PAGES, Pages, file_error, page_options, pages_needed
from .load.restore import Room, restore
from .load.restored import Restored
from .load.room import lacks_room, make_room
from .load.running import KEY
from .load.summaries import bytes_for, write_summaries
from .load.write_buffer_file import BufferFiles
from .media.blockdev import BlockPort
from .media.geometry import BLOCK_BYTES, Geometry
from .media.superblock import Superblock, SuperblockWriter
from .policy.guard import Guard

log = logging.getLogger(__name__)

INCARNATION_GAP_MAX: Final = 1 << 32
FINISH_ATTEMPTS: Final = 3
ITEM_BLOCKS: Final = 256
"""Entries of the L2P that are looked at in about 1 us."""
BANDS_STEP: Final = 1 << 12


P = ParamSpec("P")
T = TypeVar("T")


def _shortage_named(load: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Where memory runs out in a load, or the file of L2P pages fails, the error names it. What the load has taken is
    given back by then."""

    @functools.wraps(load)
    async def named(*args: P.args, **options: P.kwargs) -> T:
        try:
            return await load(*args, **options)
        except MemoryError as error:
            raise MemoryShortError(
                f"{options['name']}: there is not enough memory to load FTL {options['uuid']}: end other programs, or "
                "load it on a machine with more memory; the load can be repeated"
            ) from error
        except _shim.PageFileError as error:
            raise FtlError(file_error(error, str(options["name"])), errno=error.errno) from error

    return named


@_shortage_named
async def load(
    reactor: ReactorLoop,
    base: _shim.BlockDevice,
    *,
    name: str,
    uuid: UUID,
    settings: Mapping[str, Any] | None = None,
    num_punits: int | None = None,
    progress: Progress | None = None,
    buffer_dir: Path | None = None,
    cache: _shim.BlockDevice | None = None,
    without_cache: bool = False,
    cache_scrubbed: bool = False,
    on_lossy: Callable[[], object] = lambda: None,
    grow: Grow | None = None,
    life: int = 0,
    replaced_policies: dict[str, str] | None = None,
    room: Room | None = None,
    pages: Pages | None = None,
) -> FtlDevice:
    """Loads the FTL with that uuid, in the state of its halt, or of its crash. With the same buffer_dir no acknowledged
    write is missing. An earlier device of this process for the same FTL must be closed. cache: the nv cache of the FTL,
    or a new one; cache_scrubbed: the new cache is scrubbed already. without_cache: the FTL gives its cache up, and data
    that only the cache holds is lost. on_lossy is called if writes that hosts did not flush may be lost, before the new
    superblock is written: a load that is repeated after that would not know. grow: onto the whole base; without it,
    zones that the superblock does not name are left alone. pages: where the L2P may be if conf l2p_dram_limit is set;
    otherwise the limit is ignored, with a line in the log. life: the least incarnation that the FTL must have; an older
    state is refused. room: asked before the load takes memory beside the L2P, and with 0 when it has none any more.

    settings: of the conf, as FtlConf.from_dict() takes them. They override the superblock, including settings with
    default values. If the policy can't be had, the default takes its place, and the log says so. replaced_policies: why
    one was replaced before (memory of Guard). Raises what restore() raises; before restore() ends nothing is written,
    and load() may be interrupted and repeated at any point. With grow it also raises what plan_growth() raises. Raises
    MemoryShortError if memory runs out.
    """
    report = progress or (lambda step, part: None)
    given = FtlConf.from_dict(settings or {})
    given.check()
    async with Steps(f"load of {name}") as steps:
        port = BlockPort(reactor, base, name=name)
        steps.on_undo("use the base", port.close)
        keeper = CacheKeeper(reactor, cache, name=name)
        steps.on_undo("use the nv cache", keeper.close)
        # The superblock says how much of the base belongs to the FTL.
        check_base(name, base, given, used_blocks=0)
        files: BufferFiles | None = None
        if buffer_dir is not None:
            files = BufferFiles.acquire(buffer_dir, uuid)
            steps.on_undo("lock the write buffer's file", files.release)
        buffer: HeldWrites | None = None

        async def read_buffer(superblock: Superblock, geometry: Geometry) -> HeldWrites | None:
            nonlocal buffer
            if files is not None and not superblock.clean:
                buffer = files.read(superblock.incarnation, geometry.block_count)
            return buffer

        read_cache = keeper.source(without_cache=without_cache, scrubbed=cache_scrubbed, progress=report)
        found = await restore(
            port, uuid, settings=settings, num_punits=num_punits, progress=progress, sources=(read_buffer, read_cache),
            room=room, pages=pages,
        )  # fmt: skip
        if room is not None:
            await room(bytes_for(found.geometry) if found.walked else 0)
        if pages is None and pages_needed(found.conf, found.geometry):
            log.warning("%s: conf l2p_dram_limit has no effect: there is no directory for pages (l2p_dir)", name)
        for line in ignored_in_superblock(found.superblock.content["conf"]):
            log.warning("%s: %s", name, line)
        # A damaged superblock does not mean that this is a copy: then the one before counts, as always.
        if found.superblock.incarnation < life and not found.damage:
            raise NotFoundError(
                f"{name}: the base bdev holds an older state of FTL {uuid} (incarnation "
                f"{found.superblock.incarnation}, the last one was {life}), so it may be a copy: give the right base "
                "bdev"
            )
        await keeper.fetch()
        zone_count = found.geometry.zone_count
        if grow is not None:
            found = await plan_growth(port, found, grow, settings or {})
            keeper.check(found.geometry)
        if found.geometry.zone_count != zone_count or found.zones_to_take or not found.conf.running_checkpoint:
            found.give_up_turn()
        check_base(name, base, found.conf, used_blocks=found.geometry.block_end)
        if found.conf.use_append and found.geometry.batch_blocks > base.max_append_blocks:
            raise ParameterError(
                f"{name}: the base bdev takes appends of {base.max_append_blocks} blocks, but took "
                f"{found.geometry.batch_blocks} when FTL {uuid} was created: give a device that takes as many"
            )
        # A damaged block of the write buffer is an acknowledged write, too.
        whole = buffer is not None and not buffer.damaged and not buffer.damage
        lossy = not found.superblock.clean and not whole and not keeper.recovering
        alarm = on_lossy if lossy else None
        if buffer is not None and found.recovered:
            keeper.lacks_recovered()
        grown = found.geometry.zone_count != zone_count or bool(found.zones_to_take)
        # A superblock may be a stranger's: it does not decide what code runs here.
        ordered = (settings or {}).get("reloc_policy") == found.conf.reloc_policy
        policy = Guard.loaded(
            *(found.conf.reloc_policy, surroundings(found.geometry, found.conf), replaced_policies),
            may_import=ordered,
            ftl=name,
        )
        device = await _loaded(
            *(steps, reactor, base, port, name, found, report, files, keeper, policy),
            alarm=alarm,
            grown=grown,
            room=room,
            pages=pages,
        )
    device.start()
    return device


async def _loaded(
    steps: Steps,
    reactor: ReactorLoop,
    base: _shim.BlockDevice,
    port: BlockPort,
    name: str,
    found: Restored,
    report: Progress,
    files: BufferFiles | None,
    keeper: CacheKeeper,
    policy: Guard,
    *,
    alarm: Callable[[], object] | None,
    grown: bool,
    room: Room | None,
    pages: Pages | None,
) -> FtlDevice:
    uuid = found.superblock.uuid
    superblock = SuperblockWriter(
        port,
        found.geometry,
        uuid,
        media_uuid=found.superblock.media_uuid,
        generation=found.superblock.generation,
        zone=found.superblock_zone,
        written=found.superblock_used,
        beside=found.superblock_beside,
    )
    # The load relies on data in the base's volatile cache instead of the same data in the old file. So this data must
    # be durable before the superblock, which makes the new file the valid one. The superblock that was found must be
    # durable as well, before files of other incarnations are removed. And what is walked must be durable before its
    # summaries.
    await port.flush()
    report("l2p", 0.0)
    if found.walked and isinstance(base, _shim.ZonedOverlay):
        await write_summaries(
            *(reactor, base, found.walked, found.geometry, found.superblock.media_uuid),
            name=name,
            report=lambda part: report("l2p", 0.0),
        )
    if room is not None:
        await room(0)
    without_room = await _make_room(base, port, name, found)
    if files is not None:
        # Loads that were killed have left these files.
        files.remove(but=found.superblock.incarnation)
    # Never the incarnation of a load that was killed before it wrote its superblock: its file may still appear.
    incarnation = found.superblock.incarnation + 1 + secrets.randbelow(INCARNATION_GAP_MAX)
    # Recovered data was held by a buffer of at most half a band, too.
    buffer_blocks = max(write_buffer_blocks(found.conf, found.geometry), found.recovered_blocks)
    # The core takes over a table that has its pages.
    takes_all = found.table.has_crcs or not found.conf.verify_reads
    core = await make_core(
        reactor,
        base,
        uuid,
        found.conf,
        found.geometry,
        next_seq=keeper.next_seq(found.next_seq, clean=found.superblock.clean),
        buffer=files.path(incarnation) if files else None,
        buffer_blocks=buffer_blocks,
        media_uuid=found.superblock.media_uuid,
        pages=NO_PAGES if pages is None or takes_all else page_options(pages, found.conf, found.geometry),
    )
    written = "make the write buffer's file"
    if files is not None:
        steps.on_undo(written, functools.partial(files.path(incarnation).unlink, missing_ok=True))
    steps.on_undo("make the core", functools.partial(close_core, reactor, core))
    device = FtlDevice(
        reactor,
        port,
        core,
        name=name,
        uuid=uuid,
        conf=found.conf,
        geometry=found.geometry,
        superblock=superblock,
        next_band_seq=found.next_band_seq,
        incarnation=incarnation,
        buffer_files=files,
        buffer_blocks=buffer_blocks,
        cache=keeper,
        lost_before=found.lost_blocks,
        scrub=found.superblock.content.get("scrub") or {},
        policy=policy,
        wear=found.superblock.content.get("wear"),
        crashed=not found.superblock.clean,
    )
    await _empty_bands(port, found.geometry, found.bands_to_reset)
    report("l2p", 0.0)
    await take_zones(port, found)
    report("l2p", 0.0)
    await _fill(core, found, report)
    await device.bands_loaded()
    if found.turn is not None:
        device.checkpointing.loaded(found.turn)
    # The core gets no orders before this: a band that its L2P does not need may hold the newest durable version.
    await _recover(core, name, found.recovered)
    await keeper.start(core, uuid, found.conf.nv_cache, report)
    await _tidy(port, device, found)
    if alarm is not None:
        alarm()
    # It may count from now on, whatever the error is.
    steps.keep(written)
    # If the newest superblock can't be read, a load takes the one before. That one must also know the bands of a
    # growth, or what is written to them from now on would be lost.
    for _ in range(2 if grown else 1):
        await device.write_superblock(clean=False)
    if files is not None:
        files.remove(but=incarnation)
    report("superblock", 1.0)
    await _reset_spares(port, base, found)
    device.restored = found.describe(name, lossy=alarm is not None)
    device.loaded_without_room = without_room
    return device


async def _make_room(base: _shim.BlockDevice, port: BlockPort, name: str, found: Restored) -> bool:
    """Whether no band was free."""
    without_room = bool(found.bands_to_reset)
    looked_at = functools.partial(lacks_room, found)
    items = found.geometry.zone_count + found.table.block_count // ITEM_BLOCKS
    if not (without_room or found.superblock.clean) and await aside(items, looked_at):
        without_room = True
        # Until the next superblock, the next load may rely on closed bands being as they were when a turn began.
        impossible = isinstance(base, _shim.ZonedOverlay) or found.damage or KEY in found.superblock.content
        emptied = None if impossible else await make_room(port, found)
        outcome = "and none can be emptied" if emptied is None else f"band {emptied} was emptied"
        log.warning("%s: no band is free: %s", name, outcome)
    return without_room


async def _fill(core: _shim.FtlCore, found: Restored, report: Progress) -> None:
    """Passes the bands and the L2P to the core."""
    turns = Turns()
    states, seqs, pointers = await aside(found.geometry.zone_count, found.band_arrays)
    for first in range(0, len(states), BANDS_STEP):
        part = slice(first, first + BANDS_STEP)
        core.load_bands(first, states[part], seqs[part], pointers[part])
        known = found.history
        core.load_history(first, known.classes[part], known.opened_seqs[part], known.data_seqs[part])
        await turns()
    counts = found.counts
    if counts is None:
        geometry = found.geometry
        counting = functools.partial(found.table.count, geometry.zone_size, geometry.zone_count)
        counts = await aside(geometry.block_count // ITEM_BLOCKS, counting)
    core.take_l2p(found.table, counts)
    found.mapped_blocks = counts.known
    report("l2p", 1.0)


async def _recover(core: _shim.FtlCore, name: str, items: list[Recovered]) -> None:
    turns = Turns()
    for item in items:
        await turns()
        taken = (
            core.recover_block(item.lba, item.seq, item.crc, item.data)
            if isinstance(item, RecoveredBlock)
            else core.recover_record(item.lba, item.block_count, item.seq, item.flags)
        )
        if not taken:
            raise FtlError(
                f"{name}: {len(items)} blocks and records must be recovered, more than the write buffer can hold: "
                "another software wrote this data",
                errno=errno.ENOSPC,
            )


async def _empty_bands(port: BlockPort, geometry: Geometry, numbers: list[int]) -> None:
    """Resets bands that media alone do not need. Held writes that replace them are durable by now."""
    if numbers:
        zones = [zone for number in numbers for zone in geometry.bands[number] if zone is not None]
        await port.reset_zones([geometry.zone_start(zone) for zone in zones])


async def _tidy(port: BlockPort, device: FtlDevice, found: Restored) -> None:
    """Finishes and resets zones before the superblock is written. After a loss of power zones that were full may be
    active again. If there are more of them than the device allows, the superblock could not begin its other zone."""
    for start in found.zones_to_finish:
        failed: MediaError | None = None
        for _ in range(FINISH_ATTEMPTS):
            failed = await _tidy_zone(port, _shim.ZoneAction.FINISH, start)
            if failed is None:
                break
        if failed is not None:
            # The zone may count as active until its reset; its band is moved before all others.
            device.zone_watch.failed_amid_load(start, failed.status)
    for start in found.zones_to_empty:
        await _tidy_zone(port, _shim.ZoneAction.RESET, start)


async def _reset_spares(port: BlockPort, base: _shim.BlockDevice, found: Restored) -> None:
    """Resets spare zones. Called after the superblock, which no longer names the checkpoint in them."""
    for start in found.zones_to_reset:
        await _tidy_zone(port, _shim.ZoneAction.RESET, start)
        if isinstance(base, _shim.ZonedOverlay):
            # A reset of an emulated zone does not erase anything. If the newest superblock cannot be read, an older one
            # must not find the checkpoint that it names. This is only a second line of defence, so a failed write here
            # is ignored.
            await _tidied(port, start, port.write(start, bytes(BLOCK_BYTES)))
            await _tidy_zone(port, _shim.ZoneAction.RESET, start)


async def _tidy_zone(port: BlockPort, action: _shim.ZoneAction, start: int) -> MediaError | None:
    """A zone that was being written is no longer written, and must not count against the device's limits. If it can't
    be reset, its first write fails, and it is replaced then."""
    return await _tidied(port, start, port.zone_action(action, start))


async def _tidied(port: BlockPort, start: int, work: Awaitable[object]) -> MediaError | None:
    try:
        await work
    except MediaError as error:
        if _shim.base_gone(error.status):
            raise
        log.warning("%s: zone at block %d: %s", port.name, start, error)
        return error
    return None
