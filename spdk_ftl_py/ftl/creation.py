"""Creates a new FTL on a zoned device, and erases what was there."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from .. import _shim
from ..conf import FtlConf
from ..errors import ParameterError
from ..runtime.progress import PartDone, Progress
from ..runtime.reactor import ReactorLoop
from ..runtime.steps import Steps
from ..runtime.turns import aside
from .base import check_base
from .cache.nv_cache_keeper import CacheKeeper
from .core import close_core, make_core
from .device import FtlDevice
from .gc.reloc import surroundings
from .load.pages import Pages, page_options
from .load.running import percent_by_size
from .load.write_buffer_file import BufferFiles
from .media.blockdev import BUSY_PATIENCE_S, BlockPort
from .media.geometry import BATCH_BLOCKS, BLOCK_BYTES, SUPERBLOCK_ZONES, Geometry, plan
from .media.retention import require_retention
from .media.superblock import SuperblockWriter
from .media.zone import EMPTY, FULL, Zone
from .policy.guard import Guard

CREATION_PATIENCE_S: Final = 1.0
"""How long a busy device is retried. Short, because somebody waits for the result, and a creation that fails costs
nothing."""


async def create(
    reactor: ReactorLoop,
    base: _shim.BlockDevice,
    *,
    name: str,
    conf: FtlConf,
    uuid: UUID | None = None,
    media_uuid: UUID | None = None,
    num_punits: int | None = None,
    optimal_open_zones: int = 0,
    progress: Progress | None = None,
    buffer_dir: Path | None = None,
    pages: Pages | None = None,
    cache: _shim.BlockDevice | None = None,
    base_name: str = "",
    cache_name: str = "",
    no_data: bool = False,
    zones: list[Zone] | None = None,
    replaced_policies: dict[str, str] | None = None,
) -> FtlDevice:
    """Makes a new, empty FTL on a zoned device. Everything on the device and on the nv cache is erased. uuid: by
    default a new one. media_uuid: the one in its records on the base, which no host may know (docs/media-layout.md,
    "Media uuid"); by default a random one. buffer_dir: the directory of its write buffer file, which outlives the
    process; None: no file. pages: where the L2P may be if conf l2p_dram_limit is set. cache: a conventional device
    that becomes its nv cache. base_name, cache_name: the names of their bdevs, for messages. no_data: for
    benchmarks on a device that does not have to keep anything; the FTL cannot be loaded again, and takes no cache.
    zones: from a recent zone report; None: this requests one. replaced_policies: for the next load in this process
    (memory of Guard).

    Raises ConfError, ParameterError or GeometryError before anything is erased if the device or conf is unsuitable,
    DataNotKeptError if base or cache do not keep data, and MediaError if the device fails. Nothing is left behind then
    but erased zones.
    """
    conf.check()
    check_base(name, base, conf)
    if no_data and cache is not None:
        raise ParameterError(f"{name}: no_data keeps nothing, so the FTL needs no nv cache: leave out the cache bdev")
    report = progress or (lambda step, part: None)
    async with Steps(f"creation of {name}") as steps:
        port = BlockPort(reactor, base, name=name, patience_s=CREATION_PATIENCE_S)
        steps.on_undo("use the base", port.close)
        keeper = CacheKeeper(reactor, cache, name=name, bdev_name=cache_name, patience_s=CREATION_PATIENCE_S)
        steps.on_undo("use the nv cache", keeper.close)
        zones = zones or await port.zones(lambda part: report("zone report", part))
        geometry = await _plan(base, zones, conf, num_punits=num_punits, optimal_open_zones=optimal_open_zones)
        conf = conf.check_geometry(geometry)
        if conf.running_checkpoint is None:
            emulated = isinstance(base, _shim.ZonedOverlay)
            percent = 0 if no_data else percent_by_size(geometry, conf, emulated=emulated)
            conf = dataclasses.replace(conf, running_checkpoint=percent)
        keeper.check(geometry)
        policy = Guard.new(conf.reloc_policy, surroundings(geometry, conf), replaced_policies)
        uuid = uuid or uuid4()
        media_uuid = media_uuid or uuid4()
        # Check everything that can be checked before anything is erased.
        paged = page_options(pages, conf, geometry)
        files = None
        if buffer_dir is not None and not no_data:
            files = BufferFiles.acquire(buffer_dir, uuid)
            steps.on_undo("lock the write buffer's file", files.release)
        buffer = files.path(1) if files else None
        core = await make_core(
            reactor, base, uuid, conf, geometry, media_uuid=media_uuid, buffer=buffer, no_data=no_data,
            pages=paged,
        )  # fmt: skip
        if files is not None:
            steps.on_undo("make the write buffer's file", files.remove)
        steps.on_undo("make the core", functools.partial(close_core, reactor, core))
        await _erase(port, zones, geometry, lambda part: report("zone reset", part))
        await _forget_older_superblocks(port, zones)
        if not no_data:
            await _require_retention(port, zones, base_name or f"of {name}")
        superblock = SuperblockWriter(port, geometry, uuid, media_uuid=media_uuid)
        await keeper.make(uuid, report)
        device = FtlDevice(
            reactor,
            port,
            core,
            name=name,
            uuid=uuid,
            conf=conf,
            geometry=geometry,
            superblock=superblock,
            buffer_files=files,
            cache=keeper,
            no_data=no_data,
            policy=policy,
        )
        await device.bands_loaded()
        await keeper.start(core, uuid, conf.nv_cache)
        await device.write_superblock(clean=False)
        report("superblock", 1.0)
        if files is not None:
            files.remove(but=device.incarnation)
    port.patience_s = BUSY_PATIENCE_S
    keeper.wait_longer()
    device.start()
    return device


async def _plan(
    base: _shim.BlockDevice, zones: list[Zone], conf: FtlConf, *, num_punits: int | None, optimal_open_zones: int
) -> Geometry:
    batch_blocks = min(BATCH_BLOCKS, base.max_append_blocks) if conf.use_append else BATCH_BLOCKS
    planned = functools.partial(
        plan,
        zones,
        zone_size=base.zone_size,
        max_open_zones=base.max_open_zones,
        max_active_zones=base.max_active_zones,
        lba_rsvd=conf.lba_rsvd,
        num_punits=num_punits,
        optimal_open_zones=optimal_open_zones,
        batch_blocks=batch_blocks,
    )
    return await aside(len(zones), planned)


async def _erase(port: BlockPort, zones: list[Zone], geometry: Geometry, progress: PartDone) -> None:
    used = await aside(len(zones), geometry.used_zones)
    bands = geometry.zone_start(len(SUPERBLOCK_ZONES))
    starts = await aside(len(zones), lambda: [zones[index].start for index in used if zones[index].state != EMPTY])
    # An older FTL must be erased before the first of its bands: a load must not find half of it.
    await port.reset_zones([start for start in starts if start < bands])
    await port.reset_zones([start for start in starts if start >= bands], progress)


async def _forget_older_superblocks(port: BlockPort, zones: list[Zone]) -> None:
    """Emulated zones keep their content over a reset, and are full afterwards. Otherwise a load would find an older FTL
    in the superblock zone that is not written now."""
    if not isinstance(port.device, _shim.ZonedOverlay):
        return
    for index in SUPERBLOCK_ZONES:
        if zones[index].state == FULL:
            await port.write(zones[index].start, bytes(BLOCK_BYTES), fua=True)
            await port.zone_action(_shim.ZoneAction.RESET, zones[index].start)


async def _require_retention(port: BlockPort, zones: list[Zone], base: str) -> None:
    """Checks the first superblock zone, which is empty before and after."""
    start = zones[SUPERBLOCK_ZONES[0]].start
    remedy = "use another bdev; or, for a benchmark, give --no-data"
    await require_retention(port, start, what=f"base bdev {base}", remedy=remedy)
    await port.zone_action(_shim.ZoneAction.RESET, start)
