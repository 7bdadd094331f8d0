"""Makes room if a load finds no free band: copies the valid data of one band to unused blocks of other bands, which
would not be written any more (docs/restore.md, "Room")."""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import FlushDoubtError, MediaError
from ...nvme.wire import Status
from ...runtime.turns import aside
from ..media.band import CLOSED, FREE
from ..media.blockdev import BlockPort
from ..media.geometry import BLOCK_BYTES
from ..media.layout import ENTRY, KIND_DATA, KIND_PAD, build_batch_header
from ..media.zone import ACTIVE_STATES
from .restored import Restored
from .zone_walk import ZoneReader

log = logging.getLogger(__name__)


@dataclass
class _Place:
    """A zone of a closed band that can still be written."""

    band: int
    punit: int
    start: int
    offset: int
    """The distance of its write pointer from start."""
    missing: int
    """Blocks that are missing from its last batch, which was cut off. A load would not find data that is written
    there."""


def lacks_room(found: Restored) -> bool:
    """Whether no band is free, and none can be freed by a reset alone. Looks at every zone."""
    zones = found.geometry.bands
    if any(band.state == FREE and any(band_zones) for band, band_zones in zip(found.bands, zones, strict=True)):
        return False
    valid, referenced = _in_force(found)
    closed = np.array([band.state == CLOSED for band in found.bands])
    # If data has to be recovered, a reset waits for it, and the recovery waits for a band.
    return bool(found.recovered) or not (closed & (valid == 0) & ~referenced).any()


async def make_room(port: BlockPort, found: Restored) -> int | None:
    """Empties the band with the fewest valid blocks, and updates ``found``; None if there is no room for them.

    On a base with sequential zones, after a flush. May be interrupted and repeated, because copies keep their seq.
    Raises MediaError if the base is gone, or if a flush leaves in doubt what is lost: a zone that can't be written or
    reset is no reason to refuse the device.
    """
    try:
        return await _make_room(port, found)
    except FlushDoubtError:
        raise
    except MediaError as error:
        if _shim.base_gone(error.status):
            raise
        log.warning("could not empty a band; the next load tries again: %s", error.message)
        return None


async def _make_room(port: BlockPort, found: Restored) -> int | None:
    superblock = found.superblock
    reader = ZoneReader(port, found.geometry, superblock.media_uuid, sequential=True, use_append=found.conf.use_append)
    places = await _places(port, found, reader)
    valid, referenced = await aside(found.geometry.zone_count, functools.partial(_in_force, found))
    for victim in np.argsort(valid, kind="stable").tolist():
        # A band without valid data only needs a reset, which happens anyway.
        if found.bands[victim].state != CLOSED or referenced[victim] or not valid[victim]:
            continue
        there = [place for place in places if place.band != victim]
        if int(valid[victim]) > sum(_data_blocks(found, place, _batch_blocks(port, found)) for place in there):
            return None
        entries, addresses = await _entries(reader, found, victim)
        if len(entries) != valid[victim]:
            continue
        blocks = [await reader.blocks(int(address), 1) for address in addresses]
        if any(_shim.crc32c(memoryview(b[0])) != int(e["crc"]) for b, e in zip(blocks, entries, strict=True)):
            continue
        await _copy(port, found, there, entries, blocks)
        await port.flush()
        await _empty(port, found, victim)
        return int(victim)
    return None


def _in_force(found: Restored) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """By band: blocks of data, and whether it has records (of trims and lost blocks)."""
    geometry = found.geometry
    # One more for the zones that are missing.
    band_of = np.full(geometry.zone_count + 1, geometry.band_count, np.int64)
    zones = [geometry.zone_count if zone is None else zone for band in geometry.bands for zone in band]
    band_of[zones] = np.repeat(np.arange(geometry.band_count), geometry.punits)
    band_of[-1] = geometry.band_count
    counts = found.table.count(geometry.zone_size, geometry.zone_count)
    bands = band_of[:-1]
    valid = np.bincount(bands, counts.blocks, minlength=geometry.band_count + 1)[: geometry.band_count].astype(np.int64)
    referenced = np.bincount(bands, counts.records, minlength=geometry.band_count + 1)[: geometry.band_count] > 0
    return valid, referenced


async def _places(port: BlockPort, found: Restored, reader: ZoneReader) -> list[_Place]:
    geometry = found.geometry
    wanted = {start // geometry.zone_size for start in found.zones_to_finish}

    def numbered() -> dict[int | None, tuple[int, int]]:
        every = ((zone, b, p) for b, band in enumerate(geometry.bands) for p, zone in enumerate(band))
        return {zone: (b, p) for zone, b, p in every if zone in wanted}

    numbers = await aside(geometry.zone_count, numbered)
    places = []
    for start in found.zones_to_finish:
        zone = start // geometry.zone_size
        (now,) = await port.zone_report(zone, 1)
        band, punit = numbers[zone]
        if found.bands[band].state != CLOSED or now.state not in ACTIVE_STATES or not now.written:
            continue
        content = await reader.read_zone(band, punit, start, now.written, full=False)
        if content.band_seq != found.bands[band].seq or content.damage or content.checkpoint:
            continue
        last = content.torn_from
        if last == start + now.written:
            continue
        header = reader.header_at(content, (await reader.blocks(last, 1))[0], last)
        if header is not None:
            missing = last + header.block_count - start - now.written
            places.append(_Place(band, punit, start, now.written, missing))
    return places


def _batch_blocks(port: BlockPort, found: Restored) -> int:
    """Blocks of one write, including its header."""
    device = port.device
    most = device.max_append_blocks if found.conf.use_append else device.max_io_blocks
    return min(found.geometry.batch_blocks, most)


def _data_blocks(found: Restored, place: _Place, batch_blocks: int) -> int:
    room = max(0, found.geometry.data_blocks - place.offset - place.missing)
    return room - -(-room // batch_blocks)


async def _entries(reader: ZoneReader, found: Restored, victim: int) -> tuple[NDArray[Any], NDArray[np.uint64]]:
    """The valid blocks in the band, and where they are."""
    band = found.bands[victim]
    parts = []
    for punit, zone in enumerate(found.geometry.bands[victim]):
        written = band.write_pointers[punit]
        if zone is not None and written:
            content = await reader.read_zone(victim, punit, found.geometry.zone_start(zone), written, full=True)
            there, entries = content.data_blocks()
            mine = entries["lba"] < found.table.block_count
            mine[mine] = found.table.entries_of(entries["lba"][mine]) == there[mine]
            parts.append((entries[mine], there[mine]))
    if not parts:
        return np.empty(0, ENTRY), np.empty(0, np.uint64)
    return np.concatenate([each for each, _ in parts]), np.concatenate([each for _, each in parts])


async def _copy(
    port: BlockPort, found: Restored, places: list[_Place], entries: NDArray[Any], blocks: list[NDArray[np.uint8]]
) -> None:
    most = _batch_blocks(port, found)
    done = 0
    for place in places:
        while done < len(entries):
            room = found.geometry.data_blocks - place.offset - place.missing
            count = min(len(entries) - done, most - 1, room - 1)
            if count < 1:
                break
            # If there is a header in place of a block, a load concludes that the block was never written.
            for _ in range(place.missing):
                await _write(port, found, place, entries[:0], [])
            place.missing = 0
            part = entries[done : done + count].copy()
            part["flags"] = 0
            await _write(port, found, place, part, blocks[done : done + count])
            done += count


async def _write(
    port: BlockPort, found: Restored, place: _Place, entries: NDArray[Any], blocks: list[NDArray[np.uint8]]
) -> None:
    address = place.start + place.offset
    band = found.bands[place.band]
    header = build_batch_header(
        found.superblock.media_uuid,
        band=place.band,
        punit=place.punit,
        band_seq=band.seq,
        address=0 if found.conf.use_append else address,
        kind=KIND_DATA if blocks else KIND_PAD,
        stream=_shim.STREAM_RELOC,
        entries=entries,
    )
    batch = np.concatenate([header.reshape(1, BLOCK_BYTES), *(block[:, :BLOCK_BYTES] for block in blocks)])
    if found.conf.use_append:
        at = await port.append(place.start, batch)
        # SPDK passes on only the low half of the address.
        if at & 0xFFFFFFFF != address & 0xFFFFFFFF:
            message = f"{port.name}: an append landed at block {at} instead of {address}"
            raise MediaError(message, status=Status.ZONE_INVALID_WRITE)
    else:
        await port.write(address, batch)
    found.table.put(
        np.ascontiguousarray(entries["lba"]), np.arange(address + 1, address + 1 + len(entries), dtype=np.uint64)
    )
    place.offset += len(batch)
    pointers = list(band.write_pointers)
    pointers[place.punit] = place.offset
    found.bands[place.band] = dataclasses.replace(band, write_pointers=pointers)


async def _empty(port: BlockPort, found: Restored, victim: int) -> None:
    geometry = found.geometry
    starts = [geometry.zone_start(zone) for zone in geometry.bands[victim] if zone is not None]
    await port.reset_zones(starts)
    band = found.bands[victim]
    found.bands[victim] = dataclasses.replace(band, state=FREE, write_pointers=[0] * len(band.write_pointers))
    found.zones_to_finish = [start for start in found.zones_to_finish if start not in starts]
