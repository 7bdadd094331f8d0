"""How the zones of the base bdev become bands: parallel units, spare zones, open zones, logical blocks. See
docs/media-layout.md.

The seed takes punits from optimal_open_zones, which is 0 on every NVMe ZNS bdev. Here 0 means that the FTL chooses, so
that the zones written at the same time fit into the device's limit of open zones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...conf import CLASSES_MAX, spare_bands_needed
from ...errors import GeometryError
from .zone import Zone

BLOCK_BYTES: Final = _shim.BLOCK_BYTES
SUPERBLOCK_ZONES: Final = (0, 1)
SUMMARY_ENTRIES: Final = 168
"""Entries of a summary block: (4096 - 64) / 24."""
BATCH_BLOCKS: Final = 128
"""A full batch, header included."""
BATCH_BLOCKS_MIN: Final = 2

ZONE_CAPACITY_MIN: Final = 4
"""Blocks: a header, a block of data, a summary, and one for short batches."""
BANDS_MAX: Final = 1 << 20
PUNITS_MAX: Final = 64
PUNITS_CHOSEN_MAX: Final = 8
"""Used if the device sets no limit: enough zones in parallel to hide the latency of a write."""
BANDS_WANTED: Final = 60
"""With fewer bands than this, fewer parallel units are chosen: otherwise open and reserved bands would take too large a
part of the spare space."""

SUPERBLOCK_OPEN_ZONES: Final = 1
OPEN_BANDS_SPLIT: Final = 3
"""Bands whose zones are open at the same time: one of user writes, one of relocation, and one being closed."""
OPEN_BANDS_SHARED: Final = 2


@dataclass(frozen=True)
class Geometry:
    """The use of each zone. All lengths are in blocks."""

    zone_size: int
    zone_capacity: int
    """The smallest capacity of all zones in use."""
    zone_count: int
    punits: int
    bands: tuple[tuple[int | None, ...], ...]
    """Zone numbers; bands[b][p] is 2 + b * punits + p unless that zone is in ``replaced``; None for a missing zone
    (never in a new device)."""
    spare_zones: tuple[int, ...]
    bad_zones: tuple[int, ...]
    """Read-only or offline zones, which are not used."""
    replaced: dict[int, int]
    """Failed zone of a band -> spare zone in its place."""
    shared_stream: bool
    batch_blocks: int
    block_count: int
    """Logical blocks that the FTL offers."""
    finish_zones: bool = False
    """Some zone has a greater capacity than the part in use: it has to be finished, or stays active."""
    open_zones_limit: int = 0
    """The base's limit of open or active zones; 0: none. Not in the superblock: the base may change."""

    @property
    def band_count(self) -> int:
        return len(self.bands)

    @property
    def open_bands(self) -> int:
        return 1 if self.shared_stream else 2

    @property
    def open_zones(self) -> int:
        """The most zones that are ever open or active at the same time with two classes."""
        streams = OPEN_BANDS_SHARED if self.shared_stream else OPEN_BANDS_SPLIT
        return streams * self.punits + SUPERBLOCK_OPEN_ZONES

    @property
    def classes_max(self) -> int:
        """Classes of bands that can be written side by side within that limit, while one more band is being closed;
        1: the streams share a band."""
        if self.shared_stream:
            return 1
        if not self.open_zones_limit:
            return CLASSES_MAX
        fitting = (self.open_zones_limit - SUPERBLOCK_OPEN_ZONES) // self.punits - 1
        return max(2, min(CLASSES_MAX, fitting))

    @property
    def summary_blocks(self) -> int:
        return summary_blocks(self.zone_capacity)

    @property
    def data_blocks(self) -> int:
        """Data area of a zone: headers and data."""
        return self.zone_capacity - self.summary_blocks

    @property
    def zone_blocks(self) -> int:
        """Data blocks that a zone holds if it is written in full batches."""
        return usable_blocks(self.zone_capacity, self.batch_blocks)

    @property
    def band_blocks(self) -> int:
        """Data blocks that a band with all its zones holds."""
        return self.zone_blocks * self.punits

    @property
    def spare_bands(self) -> int:
        return self.band_count - -(-self.block_count // self.band_blocks)

    @property
    def block_end(self) -> int:
        """The block after its last zone; the base may be larger."""
        return self.zone_count * self.zone_size

    @property
    def address_bits(self) -> int:
        return self.block_end.bit_length()

    @property
    def l2p_entry_bytes(self) -> int:
        """Of the L2P in memory, which leaves out the holes behind zones' capacities."""
        return _shim.l2p_entry_bytes(self.block_end, self.zone_size, self.zone_capacity)

    @property
    def checkpoint_entry_bytes(self) -> int:
        """Of the L2P on media: an address and two tag bits (docs/media-layout.md)."""
        return 4 if self.block_end < 1 << 30 else 8

    def zone_start(self, zone: int) -> int:
        return zone * self.zone_size

    def band_zone_starts(self) -> NDArray[np.uint64]:
        """(bands, punits): as FtlCore takes them."""
        missing = self.zone_count
        try:
            numbers = np.array(self.bands, np.uint64)
        except TypeError:
            # Some are None.
            numbers = np.array([[missing if zone is None else zone for zone in band] for band in self.bands], np.uint64)
        starts: NDArray[np.uint64] = numbers * np.uint64(self.zone_size)
        starts[numbers == missing] = _shim.ADDRESS_INVALID
        return starts

    def used_zones(self) -> list[int]:
        """Superblock, bands and spares, ascending."""
        in_bands = (zone for band in self.bands for zone in band if zone is not None)
        return sorted({*SUPERBLOCK_ZONES, *in_bands, *self.spare_zones})

    def to_dict(self) -> dict[str, Any]:
        """The part that the superblock stores: enough for a load to find every zone without planning again."""
        return {
            "zone_size": self.zone_size,
            "zone_capacity": self.zone_capacity,
            "zone_count": self.zone_count,
            "punits": self.punits,
            "band_count": self.band_count,
            "shared_stream": self.shared_stream,
            "batch_blocks": self.batch_blocks,
            "finish_zones": self.finish_zones,
            "block_count": self.block_count,
            "replaced": sorted([bad, spare] for bad, spare in self.replaced.items()),
        }


def summary_blocks(zone_capacity: int) -> int:
    """The smallest T with T * 168 >= zone_capacity - T."""
    return -(-zone_capacity // (SUMMARY_ENTRIES + 1))


def usable_blocks(zone_capacity: int, batch_blocks: int = BATCH_BLOCKS) -> int:
    """Data blocks in a zone whose batches are all full except the last."""
    data_blocks = zone_capacity - summary_blocks(zone_capacity)
    full, rest = divmod(data_blocks, batch_blocks)
    return full * (batch_blocks - 1) + max(rest - 1, 0)


def plan(
    zones: Sequence[Zone],
    *,
    zone_size: int,
    max_open_zones: int = 0,
    max_active_zones: int = 0,
    lba_rsvd: int = 20,
    num_punits: int | None = None,
    optimal_open_zones: int = 0,
    batch_blocks: int = BATCH_BLOCKS,
) -> Geometry:
    """Chooses the geometry for a new device. Limits of 0 mean no limit, as in BlockDeviceInfo.

    num_punits is the user's choice, and binding; optimal_open_zones is the device's, and used as far as the limits
    allow. Raises GeometryError, which names the remedy, if no geometry is possible.
    """
    _check_zones(zones, zone_size)
    limit = min((n for n in (max_open_zones, max_active_zones) if n), default=0)
    good = [zone.index for zone in zones if zone.usable and zone.index not in SUPERBLOCK_ZONES]
    if not good:
        raise GeometryError(
            f"all {len(zones)} zones except the superblock's are read-only or offline: replace the device"
        )
    capacity = min(zone.capacity for zone in zones if zone.usable)
    if usable_blocks(capacity, batch_blocks) < 1:
        raise GeometryError(
            f"the smallest zone has a capacity of {capacity} blocks: an FTL needs at least {ZONE_CAPACITY_MIN}: use "
            "larger zones"
        )
    punits, shared = _choose_punits(len(good), limit, lba_rsvd, num_punits, optimal_open_zones)
    bands, spares, replaced = _lay_out(good, punits)
    if len(bands) > BANDS_MAX:
        raise GeometryError(f"{len(bands)} bands are more than {BANDS_MAX}: use more parallel units (num_punits)")
    block_count = len(bands) * punits * usable_blocks(capacity, batch_blocks) * (100 - lba_rsvd) // 100
    if block_count == 0:
        raise GeometryError(f"lba_rsvd = {lba_rsvd} leaves no user capacity: lower it, or use a larger device")
    return Geometry(
        zone_size=zone_size,
        zone_capacity=capacity,
        zone_count=len(zones),
        punits=punits,
        bands=bands,
        spare_zones=spares,
        bad_zones=tuple(zone.index for zone in zones if not zone.usable),
        replaced=replaced,
        shared_stream=shared,
        batch_blocks=batch_blocks,
        block_count=block_count,
        finish_zones=any(zone.usable and zone.capacity > capacity for zone in zones),
        open_zones_limit=limit,
    )


def _check_zones(zones: Sequence[Zone], zone_size: int) -> None:
    if zone_size <= 0:
        raise GeometryError("the base bdev has no zones: use a zoned bdev, or give --zone-capacity to emulate zones")
    if len(zones) <= len(SUPERBLOCK_ZONES):
        raise GeometryError(
            f"the base bdev has {len(zones)} zones: the superblock needs two, and bands need more: use a larger "
            "device, or smaller zones"
        )
    for index in SUPERBLOCK_ZONES:
        if not zones[index].usable:
            raise GeometryError(
                f"zone {index} of the base bdev is {zones[index].state}: zones 0 and 1 hold the superblock: replace "
                "the device"
            )


def _choose_punits(
    zone_count: int, limit: int, lba_rsvd: int, num_punits: int | None, optimal_open_zones: int
) -> tuple[int, bool]:
    """(punits, shared stream) for this number of band zones and this limit of open zones."""
    if num_punits is not None:
        return _wished_punits(zone_count, limit, num_punits)
    if limit:
        room = limit - SUPERBLOCK_OPEN_ZONES
        split = room // OPEN_BANDS_SPLIT
        most = split or room // OPEN_BANDS_SHARED
        if most == 0:
            least = OPEN_BANDS_SHARED + SUPERBLOCK_OPEN_ZONES
            raise GeometryError(
                f"the base bdev allows {limit} open zones: an FTL needs {least} (a band being written, one being "
                "closed, and the superblock): use a device or namespace with a higher limit"
            )
        shared = split == 0
    else:
        most, shared = zone_count, False
    if optimal_open_zones:
        return max(1, min(optimal_open_zones, most, PUNITS_MAX, zone_count)), shared
    most = min(most, PUNITS_CHOSEN_MAX, zone_count)
    for punits in range(most, 1, -1):
        bands = zone_count // punits
        spare = bands * lba_rsvd // 100
        if bands >= BANDS_WANTED and spare > spare_bands_needed(1 if shared else 2):
            return punits, shared
    return 1, shared


def _wished_punits(zone_count: int, limit: int, num_punits: int) -> tuple[int, bool]:
    if not 1 <= num_punits <= PUNITS_MAX:
        raise GeometryError(f"num_punits = {num_punits}: must be 1..{PUNITS_MAX}")
    if num_punits > zone_count:
        raise GeometryError(
            f"num_punits = {num_punits}: the base bdev has only {zone_count} zones for bands: use fewer"
        )
    if not limit or OPEN_BANDS_SPLIT * num_punits + SUPERBLOCK_OPEN_ZONES <= limit:
        return num_punits, False
    if OPEN_BANDS_SHARED * num_punits + SUPERBLOCK_OPEN_ZONES <= limit:
        return num_punits, True
    most = (limit - SUPERBLOCK_OPEN_ZONES) // OPEN_BANDS_SHARED
    raise GeometryError(
        f"num_punits = {num_punits}: needs {OPEN_BANDS_SHARED * num_punits + SUPERBLOCK_OPEN_ZONES} open zones, but "
        f"the base bdev allows {limit}: "
        + (f"use at most {most}, or leave it out" if most else "no FTL is possible on it")
    )


def _lay_out(good: Sequence[int], punits: int) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...], dict[int, int]]:
    """Bands in zone order; a failed zone within their range is replaced by the first good one after it."""
    band_count = len(good) // punits
    first = len(SUPERBLOCK_ZONES)
    nominal = range(first, first + band_count * punits)
    usable = set(good)
    spares = [zone for zone in good if zone not in nominal]
    replaced = {}
    flat = []
    for zone in nominal:
        if zone not in usable:
            replaced[zone] = spares.pop(0)
        flat.append(replaced.get(zone, zone))
    bands = tuple(tuple(flat[b * punits : (b + 1) * punits]) for b in range(band_count))
    return bands, tuple(spares), replaced
