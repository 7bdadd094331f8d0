"""Restore: determines the state of an FTL from its superblock and the records of its bands. The newest seq wins; see
docs/restore.md.

Writes nothing, so it may be interrupted and repeated. Memory: the L2P, 8 B for each LBA, and what is read at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import FtlConf
from ...errors import ConfError, FtlError, NotFoundError
from ...runtime.progress import Progress
from ...runtime.turns import aside
from ..media import superblock as superblocks
from ..media.band import CLOSED, FAULTED, FREE
from ..media.blockdev import QUEUE_DEPTH, BlockPort, side_by_side
from ..media.geometry import Geometry
from ..media.superblock import Superblock
from ..media.superblock_content import counter, geometry_of, merge_conf, stored_conf
from ..media.zone import FULL, OFFLINE, UNUSABLE_STATES, Zone
from . import checkpoint as checkpoints
from . import running, summaries
from .checkpoint import Checkpoint
from .held import HeldSource
from .history import estimated, unpacked
from .merge import Merge
from .pages import NO_PAGES, Pages, page_options
from .restored import LoadedBand, Restored, open_zones, used_spares
from .zone_walk import ZoneContent, ZoneReader

ROWS_AT_A_TIME: Final = 1 << 20
"""Rows of summaries that are read at a time, at least those of one band."""
ROW_BYTES: Final = 100
"""Of a summary's row while it is read."""
SEQ_BYTES: Final = 8
"""Of an LBA's seq while zones are merged."""
BLANK_ZONES: Final = 512
"""Zones that are read together, so that the read queue seldom runs empty: 4 MiB of blocks."""


Room = Callable[[int], Awaitable[None]]
"""Returns when a load may take so many bytes beside its L2P, instead of what it had before."""


async def restore(
    port: BlockPort,
    uuid: UUID,
    *,
    settings: Mapping[str, Any] | None = None,
    num_punits: int | None = None,
    use_checkpoint: bool = True,
    progress: Progress | None = None,
    sources: Sequence[HeldSource] = (),
    room: Room | None = None,
    pages: Pages | None = None,
) -> Restored:
    """Reads everything and decides; writes nothing. pages: where the L2P may be if conf l2p_dram_limit is set; None:
    it is in memory whatever the conf says.

    use_checkpoint: False reads the bands even if there is an L2P checkpoint. sources: where held writes may be, besides
    media. room: asked before zones are merged; without an error the caller says when the memory is free again.

    settings: of the conf, as FtlConf.from_dict() takes them; they override the superblock. Raises NotFoundError if the
    base holds no FTL with that uuid, UnsupportedError for another format version, GeometryError if the device has
    changed, ConfError if settings contradict what can no longer be changed, FtlError with a list if records are damaged
    and allow_open_bands is not set, MediaError if the base does not answer.
    """
    report = progress or (lambda step, part: None)
    base = port.device
    zones = await port.zones(lambda part: report("zone report", part))
    found = await superblocks.find(port, zones, uuid)
    if found is None:
        raise await _not_found(port, zones, uuid)
    superblock, which, used, damage, beside = found
    if damage is not None:
        # A clean superblock that is not the newest does not describe what came after it.
        superblock = dataclasses.replace(superblock, clean=False)
    geometry = await aside(len(zones), lambda: geometry_of(superblock, zones, base, name=port.name))
    # Zones that were added to the base are not read.
    zones = zones[: geometry.zone_count]
    conf = merge_conf(stored_conf(superblock, geometry), settings or {}).check_geometry(geometry)
    if num_punits is not None and num_punits != geometry.punits:
        raise ConfError(
            f"num_punits = {num_punits}: FTL {uuid} has {geometry.punits} parallel units, which can't be changed: "
            "leave it out"
        )
    sequential = not isinstance(base, _shim.ZonedOverlay)
    paged = NO_PAGES if pages is None else page_options(pages, conf, geometry)
    # If there is a checkpoint, the shutdown was clean, and nothing is held.
    held = [await source(superblock, geometry) for source in sources]
    checkpoint = None
    if use_checkpoint:
        checkpoint = await checkpoints.read(
            port,
            geometry,
            superblock,
            zones,
            sequential=sequential,
            need_crcs=conf.verify_reads,
            progress=progress,
            pages=paged,
        )
    if checkpoint is not None:
        whole = checkpoint
        restored = await aside(
            len(zones), lambda: _from_checkpoint(whole, superblock, geometry, conf, zones, which, used)
        )
        restored.superblock_beside = beside
        return restored
    if room is not None:
        await room(bytes_beside_l2p(geometry, emulated=not sequential))
    begin_with = None
    if use_checkpoint and sequential and damage is None:
        begin_with = await running.read(
            port, geometry, superblock, zones, need_crcs=conf.verify_reads, progress=progress, pages=paged
        )
    reader = ZoneReader(port, geometry, superblock.media_uuid, sequential=sequential, use_append=conf.use_append)
    merging = functools.partial(
        Merge,
        reader,
        superblock,
        geometry,
        zones,
        sequential=sequential,
        max_io_blocks=base.max_io_blocks,
        base_blocks=base.block_count,
        report=report,
        held=[each for each in held if each is not None],
        damage=[] if damage is None else [damage],
        with_crcs=conf.verify_reads,
        begin_with=begin_with,
        pages=paged,
    )
    merge = await aside(len(zones) + sum(len(each.blocks) for each in held if each is not None), merging)
    await _read_bands(reader, geometry, zones, merge, report, but=begin_with.seqs if begin_with else ())
    restored = await merge.run(conf, which, used)
    restored.superblock_beside = beside
    return restored


def bytes_beside_l2p(geometry: Geometry, *, emulated: bool = False) -> int:
    """The most memory that a load without a checkpoint takes beside the L2P. Write buffer and nv cache not counted,
    which have bounds of their own."""
    rows = geometry.zone_count * geometry.zone_capacity
    at_a_time = min(rows, max(ROWS_AT_A_TIME, geometry.punits * geometry.zone_capacity))
    walked = summaries.bytes_for(geometry) if emulated else 0
    return SEQ_BYTES * geometry.block_count + ROW_BYTES * at_a_time + walked


def _from_checkpoint(
    checkpoint: Checkpoint,
    superblock: Superblock,
    geometry: Geometry,
    conf: FtlConf,
    zones: Sequence[Zone],
    superblock_zone: int,
    superblock_used: int,
) -> Restored:
    held = set(checkpoint.zones)
    bands = []
    for number, band in enumerate(geometry.bands):
        band_zones = [None if zone is None or zone in held else zones[zone] for zone in band]
        pointers = [0 if zone is None else min(zone.written, geometry.zone_capacity) for zone in band_zones]
        state = CLOSED if any(pointers) else FREE
        if checkpoint.faulted[number] or any(zone is not None and not zone.usable for zone in band_zones):
            state = FAULTED
        bands.append(LoadedBand(state, checkpoint.band_seqs[number], pointers))
    to_finish, to_empty = open_zones(geometry, zones, bands, held)
    next_seq, next_band_seq = counter(superblock, "next_seq"), counter(superblock, "next_band_seq")
    history = unpacked(checkpoint.history, next_seq)
    if history is None:
        history = estimated(np.array(checkpoint.band_seqs, np.uint64), next_seq, next_band_seq)
    return Restored(
        superblock=superblock,
        superblock_zone=superblock_zone,
        superblock_used=superblock_used,
        geometry=geometry,
        conf=conf,
        bands=bands,
        table=checkpoint.table,
        counts=checkpoint.counts,
        next_seq=next_seq,
        next_band_seq=next_band_seq,
        history=history,
        zones_to_finish=to_finish,
        zones_to_empty=to_empty,
        zones_to_reset=[zones[index].start for index in checkpoint.zones] + used_spares(geometry, zones),
        from_checkpoint=True,
    )


# --- reading


async def _not_found(port: BlockPort, zones: list[Zone], uuid: UUID) -> FtlError:
    other = await superblocks.find(port, zones)
    if other is None:
        return NotFoundError(f"uuid {uuid}: the base bdev of {port.name} holds no FTL: to create one, leave --uuid out")
    return NotFoundError(
        f"uuid {uuid}: the base bdev of {port.name} holds FTL {other.superblock.content.get('name')!r} with uuid "
        f"{other.superblock.uuid}: give that uuid to load it"
    )


async def _read_bands(
    reader: ZoneReader,
    geometry: Geometry,
    zones: Sequence[Zone],
    merge: Merge,
    report: Progress,
    *,
    but: Collection[int] = (),
) -> None:
    """Reads the zones of all bands, except for some, and passes them to the merge, band by band."""

    def prepared() -> dict[int, list[tuple[int, int]]]:
        work: dict[int, list[tuple[int, int]]] = {}
        for number, band in enumerate(geometry.bands):
            for punit, zone in enumerate(() if number in but else band):
                if zone is not None and (zones[zone].written > 0 or zones[zone].state == OFFLINE):
                    work.setdefault(number, []).append((punit, zone))
        return work

    work = await aside(len(zones), prepared)
    total = sum(map(len, work.values()))
    done = itertools.count(1)
    is_blank = np.zeros(len(zones), bool)
    # One for all of them, as for bands that were not written (Merge).
    blank = ZoneContent(-1, -1, 0, geometry.zone_capacity)
    if reader.knows_blank:
        is_blank = await _blank_zones(reader, zones, work, total, report)
        done = itertools.count(1 + int(np.count_nonzero(is_blank)))

        def sorted_out() -> None:
            whole: list[ZoneContent | None] = [blank] * geometry.punits
            for number, band in [each for each in work.items() if is_blank[[zone for _, zone in each[1]]].all()]:
                merge.take_blank(number, whole if len(band) == geometry.punits else _some(band, blank, geometry))
                del work[number]

        await aside(total, sorted_out)

    async def read_band(item: tuple[int, list[tuple[int, int]]]) -> None:
        number, band = item
        contents: list[ZoneContent | None] = [None] * geometry.punits

        async def read_zone(place: tuple[int, int]) -> None:
            punit, index = place
            if is_blank[index]:
                contents[punit] = blank
                return
            zone = zones[index]
            written = 0 if zone.state == OFFLINE else min(zone.written, geometry.zone_capacity)
            full = zone.state == FULL or zone.state in UNUSABLE_STATES
            content = await reader.read_zone(number, punit, zone.start, written, full=full)
            if zone.state == OFFLINE:
                content.damage.append(f"zone {index} (band {number}) is offline: its content is unknown")
            contents[punit] = content
            report("bands", next(done) / total)

        await side_by_side(read_zone, band)
        await merge.take(number, contents)

    # Each row of a summary takes some 100 bytes while it is read.
    bands = max(1, min(QUEUE_DEPTH, ROWS_AT_A_TIME // (geometry.punits * geometry.zone_capacity)))
    await side_by_side(read_band, work.items(), depth=bands)


async def _blank_zones(
    reader: ZoneReader,
    zones: Sequence[Zone],
    work: dict[int, list[tuple[int, int]]],
    total: int,
    report: Progress,
) -> NDArray[np.bool_]:
    """By number of the zone: whether it was never written, though its state is full."""
    is_blank = np.zeros(len(zones), bool)

    def full() -> list[int]:
        return sorted(zone for band in work.values() for _, zone in band if zones[zone].state == FULL)

    places = await aside(total, full)
    for first in range(0, len(places), BLANK_ZONES):
        part = places[first : first + BLANK_ZONES]
        is_blank[part] = await reader.blank([zones[zone].start for zone in part])
        report("bands", min(1.0, (first + BLANK_ZONES) / total))
    return is_blank


def _some(band: list[tuple[int, int]], content: ZoneContent, geometry: Geometry) -> list[ZoneContent | None]:
    zones: list[ZoneContent | None] = [None] * geometry.punits
    for punit, _ in band:
        zones[punit] = content
    return zones
