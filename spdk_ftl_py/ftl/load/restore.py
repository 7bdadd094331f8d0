"""Restore: determines the state of an FTL from its superblock and the records of its bands. The newest seq wins; see
docs/restore.md.

Writes nothing, so it may be interrupted and repeated. Memory: some 60 B for each block of data on media.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import numpy as np

from ... import _shim
from ...conf import FtlConf
from ...errors import ConfError, FtlError, NotFoundError
from ...runtime.progress import Progress
from ...runtime.turns import aside
from ..media import superblock as superblocks
from ..media.band import CLOSED, FAULTED, FREE
from ..media.blockdev import BlockPort, side_by_side
from ..media.geometry import Geometry
from ..media.superblock import Superblock
from ..media.superblock_content import counter, geometry_of, merge_conf, stored_conf
from ..media.zone import FULL, OFFLINE, UNUSABLE_STATES, Zone
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .held import HeldSource
from .history import estimated, unpacked
from .merge import ITEM_BLOCKS, Merge
from .restored import LoadedBand, Restored, open_zones, used_spares
from .zone_walk import ZoneContent, ZoneReader

log = logging.getLogger(__name__)

BLANK_ZONES: Final = 512
"""Zones that are read together, so that the read queue seldom runs empty: 4 MiB of blocks."""


async def restore(
    port: BlockPort,
    uuid: UUID,
    *,
    settings: Mapping[str, Any] | None = None,
    num_punits: int | None = None,
    use_checkpoint: bool = True,
    progress: Progress | None = None,
    sources: Sequence[HeldSource] = (),
) -> Restored:
    """Reads everything and decides; writes nothing.

    use_checkpoint: False reads the bands even if there is an L2P checkpoint. sources: where held writes may be, besides
    media.

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
        )
    if checkpoint is not None:
        whole = checkpoint
        restored = await aside(
            len(zones), lambda: _from_checkpoint(whole, superblock, geometry, conf, zones, which, used)
        )
        restored.superblock_beside = beside
        return restored
    reader = ZoneReader(port, geometry, superblock.media_uuid, sequential=sequential, use_append=conf.use_append)
    contents = await _read_bands(reader, geometry, zones, report)
    merging = functools.partial(
        Merge,
        reader,
        superblock,
        geometry,
        contents,
        zones,
        sequential=sequential,
        max_io_blocks=base.max_io_blocks,
        report=report,
        held=[each for each in held if each is not None],
        damage=[] if damage is None else [damage],
        with_crcs=conf.verify_reads,
    )
    merge = await aside(len(zones) + geometry.block_count // ITEM_BLOCKS, merging)
    restored = await merge.run(conf, which, used)
    restored.superblock_beside = beside
    return restored


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
        l2p=checkpoint.l2p,
        crcs=checkpoint.crcs if conf.verify_reads else None,
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
    reader: ZoneReader, geometry: Geometry, zones: Sequence[Zone], report: Progress
) -> list[list[ZoneContent | None]]:
    """By band and punit; None if a zone is missing, or was not written. Bands that were not written share one list:
    with very many of them, the garbage collector would take long otherwise."""
    nothing: list[ZoneContent | None] = [None] * geometry.punits

    def prepared() -> list[tuple[int, int, int]]:
        places = ((b, p, zone) for b, band in enumerate(geometry.bands) for p, zone in enumerate(band))
        return [
            (b, p, zone)
            for b, p, zone in places
            if zone is not None and (zones[zone].written > 0 or zones[zone].state == OFFLINE)
        ]

    work = await aside(len(zones), prepared)
    total = len(work)
    contents = [nothing] * geometry.band_count
    done = itertools.count(1)

    async def read_one(item: tuple[int, int, int]) -> None:
        band, punit, index = item
        zone = zones[index]
        written = 0 if zone.state == OFFLINE else min(zone.written, geometry.zone_capacity)
        full = zone.state == FULL or zone.state in UNUSABLE_STATES
        content = await reader.read_zone(band, punit, zone.start, written, full=full)
        if zone.state == OFFLINE:
            content.damage.append(f"zone {index} (band {band}) is offline: its content is unknown")
        if contents[band] is nothing:
            contents[band] = nothing.copy()
        contents[band][punit] = content
        report("bands", next(done) / total)

    if reader.knows_blank:
        places = await aside(
            total, lambda: sorted((item for item in work if zones[item[2]].state == FULL), key=lambda item: item[2])
        )
        is_blank = np.zeros((geometry.band_count, geometry.punits), bool)
        for first in range(0, len(places), BLANK_ZONES):
            part = places[first : first + BLANK_ZONES]
            blank = await reader.blank([zones[zone].start for _, _, zone in part])
            for (band, punit, _), found in zip(part, blank.tolist(), strict=True):
                is_blank[band, punit] = found
            report("bands", min(1.0, (first + BLANK_ZONES) / total))
        done = itertools.count(1 + int(np.count_nonzero(is_blank)))
        # One for all of them, too.
        same = ZoneContent(-1, -1, 0, geometry.zone_capacity)
        whole: list[ZoneContent | None] = [same] * geometry.punits

        def sorted_out() -> list[tuple[int, int, int]]:
            for band in np.flatnonzero(is_blank.any(axis=1)).tolist():
                contents[band] = [same if mark else None for mark in is_blank[band].tolist()]
            for band in np.flatnonzero(is_blank.all(axis=1)).tolist():
                contents[band] = whole
            marks = is_blank.tolist()
            return [item for item in work if not marks[item[0]][item[1]]]

        work = await aside(total, sorted_out)
    await side_by_side(read_one, work)
    return contents
