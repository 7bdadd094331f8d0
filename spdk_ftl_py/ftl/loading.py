"""An FTL that is on its device already: what restore() found becomes a device that runs."""

from __future__ import annotations

import errno
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np

from .. import _shim
from ..conf import FtlConf, write_buffer_blocks
from ..errors import FtlError, MediaError, NotFoundError, ParameterError
from ..ignored_settings import ignored_in_superblock
from ..runtime.progress import Progress
from ..runtime.reactor import ReactorLoop
from ..runtime.turns import Turns, aside
from .base import check_base
from .cache.nv_cache_keeper import CacheKeeper
from .core import make_core
from .device import FtlDevice
from .load.grow import Grow, plan_growth, take_zones
from .load.held import HeldWrites, Recovered, RecoveredBlock
from .load.restore import Restored, restore
from .load.room import lacks_room, make_room
from .load.write_buffer_file import BufferFiles
from .media.blockdev import BASE_GONE, ZONE_FINISH, ZONE_RESET, BlockPort
from .media.geometry import BLOCK_BYTES, Geometry
from .media.superblock import Superblock, SuperblockWriter

log = logging.getLogger(__name__)

INCARNATION_GAP_MAX: Final = 1 << 32
FINISH_ATTEMPTS: Final = 3
L2P_STEP: Final = 1 << 18
"""Entries handed to the shim at a time: a few ms of the event loop."""
BANDS_STEP: Final = 1 << 12


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
) -> FtlDevice:
    """The FTL of that uuid, as it was when it was halted, or when whatever it was lost ended it. With the
    buffer_dir it had: as its hosts were told it is. A device that had it before, in this process, must be closed.
    cache: the nv cache it has, or one that it is to have; cache_scrubbed: such a one, on which nothing verifies.
    without_cache: it is given up, and what it alone holds is lost. on_lossy is called
    where writes that hosts did not flush may be lost, before anything says that this life of the FTL is over: a
    load that is repeated behind that does not know of it. grow: onto all that the base has got; without one, what its
    superblock does not name is left alone. life: the incarnation it has had, at least: an older state is refused.

    settings: of the conf, as FtlConf.from_dict() takes them: what is given replaces what the superblock has, also where
    it is the default. Raises what restore() raises; until it has ended nothing is written, and load() may be
    interrupted and repeated at any point. With grow also what plan_growth() raises.
    """
    report = progress or (lambda step, part: None)
    given = FtlConf.from_dict(settings or {})
    given.check()
    port = BlockPort(reactor, base, name=name)
    files: BufferFiles | None = None
    keeper = CacheKeeper(reactor, cache, name=name)
    try:
        # How much of the base is its, its superblock tells.
        check_base(name, base, given, used_blocks=0)
        files = None if buffer_dir is None else BufferFiles.acquire(buffer_dir, uuid)
        buffer: HeldWrites | None = None

        async def read_buffer(superblock: Superblock, geometry: Geometry) -> HeldWrites | None:
            nonlocal buffer
            if files is not None and not superblock.clean:
                buffer = files.read(superblock.incarnation, geometry.block_count)
            return buffer

        read_cache = keeper.source(without_cache=without_cache, scrubbed=cache_scrubbed, progress=report)
        found = await restore(
            port, uuid, settings=settings, num_punits=num_punits, progress=progress, sources=(read_buffer, read_cache)
        )
        for line in ignored_in_superblock(found.superblock.content["conf"]):
            log.warning("%s: %s", name, line)
        # A superblock that does not verify any more is no copy: there the one before counts, as ever.
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
        check_base(name, base, found.conf, used_blocks=found.geometry.block_end)
        if found.conf.use_append and found.geometry.batch_blocks > base.max_append_blocks:
            raise ParameterError(
                f"{name}: the base bdev takes appends of {base.max_append_blocks} blocks, but took "
                f"{found.geometry.batch_blocks} when FTL {uuid} was created: give a device that takes as many"
            )
        # A block of the buffer that is damaged is a write that was acknowledged, too.
        whole = buffer is not None and not buffer.damaged and not buffer.damage
        lossy = not found.superblock.clean and not whole and not keeper.recovering
        alarm = on_lossy if lossy else None
        if buffer is not None and found.recovered:
            keeper.lacks_recovered()
        grown = found.geometry.zone_count != zone_count or bool(found.zones_to_take)
        device = await _loaded(reactor, base, port, name, found, report, files, keeper, alarm=alarm, grown=grown)
    except BaseException:
        if files is not None:
            files.release()
        await keeper.close()
        await port.close()
        raise
    device.start()
    return device


async def _loaded(
    reactor: ReactorLoop,
    base: _shim.BlockDevice,
    port: BlockPort,
    name: str,
    found: Restored,
    report: Progress,
    files: BufferFiles | None,
    keeper: CacheKeeper,
    *,
    alarm: Callable[[], object] | None,
    grown: bool,
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
    )
    # What a crash left in the base's volatile cache counts, instead of what the old file holds of it: it has to be
    # durable before the superblock can be, which makes the new file count. So has the superblock that was found,
    # before the files of others go.
    await port.flush()
    without_room = bool(found.bands_to_reset)
    looked_at = functools.partial(lacks_room, found)
    if not (without_room or found.superblock.clean) and await aside(found.geometry.zone_count, looked_at):
        without_room = True
        emptied = None if isinstance(base, _shim.ZonedOverlay) or found.damage else await make_room(port, found)
        told_of = "and none can be emptied" if emptied is None else f"band {emptied} was emptied"
        log.warning("%s: no band is free: %s", name, told_of)
    if files is not None:
        # Loads that were killed have left them.
        files.remove(but=found.superblock.incarnation)
    # Never that of a load that was killed before its superblock was there: its file may turn up again.
    incarnation = found.superblock.incarnation + 1 + secrets.randbelow(INCARNATION_GAP_MAX)
    # What is recovered was held by a buffer of at most half a band, too.
    buffer_blocks = max(write_buffer_blocks(found.conf, found.geometry), found.recovered_blocks)
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
    )
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
    )
    told = False
    try:
        await _empty_bands(port, found.geometry, found.bands_to_reset)
        await take_zones(port, found)
        turns = Turns()
        states, seqs, pointers = await aside(found.geometry.zone_count, found.band_arrays)
        for first in range(0, len(states), BANDS_STEP):
            part = slice(first, first + BANDS_STEP)
            core.load_bands(first, states[part], seqs[part], pointers[part])
            await turns()
        for first in range(0, len(found.l2p), L2P_STEP):
            entries = found.l2p[first : first + L2P_STEP]
            if (entries != np.uint64(_shim.ADDRESS_INVALID)).any():
                crcs = None if found.crcs is None else found.crcs[first : first + L2P_STEP]
                core.load_l2p(first, entries, crcs)
            report("l2p", min(1.0, (first + L2P_STEP) / len(found.l2p)))
            await turns()
        await device.bands_loaded()
        # No order to the core before it is served: what its L2P does not need may be the newest that is durable.
        await _recover(core, name, found.recovered)
        await keeper.start(core, uuid, found.conf.nv_cache, report)
        # Before the superblock: after a loss of power zones that were full may be active again, and with more of
        # them than the device allows the superblock could not begin its other zone.
        for start in found.zones_to_finish:
            failed: MediaError | None = None
            for _ in range(FINISH_ATTEMPTS):
                failed = await _tidy_zone(port, ZONE_FINISH, start)
                if failed is None:
                    break
            if failed is not None:
                # It may count as active until it is reset: its band is moved first of all.
                device.zone_failed(start, failed.status)
        for start in found.zones_to_empty:
            await _tidy_zone(port, ZONE_RESET, start)
        if alarm is not None:
            alarm()
        told = True
        # If the newest can't be read a load takes the one before: that must know of the bands of a growth, too, or what
        # is written to them from now on would be forgotten.
        for _ in range(2 if grown else 1):
            await device.write_superblock(clean=False)
        if files is not None:
            files.remove(but=incarnation)
        report("superblock", 1.0)
        for start in found.zones_to_reset:
            await _tidy_zone(port, ZONE_RESET, start)
            if isinstance(base, _shim.ZonedOverlay):
                # There a reset erases nothing: if ever the newest superblock can't be read, an older one must not
                # find the checkpoint it names. A second line: who fails to write there goes on.
                await _tidied(port, start, port.write(start, bytes(BLOCK_BYTES)))
                await _tidy_zone(port, ZONE_RESET, start)
    except BaseException:
        reactor.unsubscribe(core.id)
        core.close()
        if files is not None and not told:
            # Later than that it may count, whatever the error was.
            files.path(incarnation).unlink(missing_ok=True)
        raise
    device.restored = found.told(name, lossy=alarm is not None)
    device.loaded_without_room = without_room
    return device


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
    """Of what media alone show, nothing needs them; that is durable by now."""
    if numbers:
        zones = [zone for number in numbers for zone in geometry.bands[number] if zone is not None]
        await port.reset_zones([geometry.zone_start(zone) for zone in zones])


async def _tidy_zone(port: BlockPort, action: int, start: int) -> MediaError | None:
    """A zone that was being written is not written any more: it must not count against the device's limits. One
    that can't be reset fails its first write, and is replaced then."""
    return await _tidied(port, start, port.zone_action(action, start))


async def _tidied(port: BlockPort, start: int, work: Awaitable[object]) -> MediaError | None:
    try:
        await work
    except MediaError as error:
        if error.status in BASE_GONE:
            raise
        log.warning("%s: zone at block %d: %s", port.name, start, error)
        return error
    return None
