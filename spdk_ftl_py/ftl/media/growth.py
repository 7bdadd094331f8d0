"""A larger geometry for an FTL whose base has more zones than before: existing bands stay where they are, and new bands
come after them. See docs/provisioning.md, "Grow"."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...conf import FtlConf, Limit, default_thresholds_of
from ...errors import GeometryError
from .geometry import BANDS_MAX, SUPERBLOCK_ZONES, Geometry
from .zone import Zone


@dataclass(frozen=True)
class Growth:
    geometry: Geometry
    """The larger geometry."""
    taken: tuple[int, ...]
    """Zones that did not belong to the FTL, or were spares, ascending. They must be empty before the FTL knows them."""


def grown(old: Geometry, zones: Sequence[Zone], *, lba_rsvd: int) -> Growth | None:
    """The geometry on a base with these zones; None if the base has no more zones than the geometry.

    Bands stay as they are, including those that lack a zone, and so do parallel units, batches and capacities of zones.
    Spare and new zones make further bands, as in a new device; the rest are spares. Zones that were lost count: the
    first new blocks replace the reserve that was lost with them. Raises GeometryError if none of the new zones is
    usable, or there would be too many bands.
    """
    if len(zones) <= old.zone_count:
        return None
    new = zones[old.zone_count :]
    good = [zone.index for zone in new if zone.usable and zone.capacity >= old.zone_capacity]
    if not good:
        raise GeometryError(
            f"none of the {len(new)} added zones of the base bdev is usable: each is read-only, offline, or smaller "
            f"than the {old.zone_capacity} blocks of the other zones"
        )
    bands, spares, replaced = _lay_out(old, good, len(zones))
    if len(bands) > BANDS_MAX:
        raise GeometryError(f"{len(bands)} bands are more than {BANDS_MAX}: make the base bdev smaller")
    zones_there = sum(zone is not None for band in bands for zone in band)
    block_count = zones_there * old.zone_blocks * (100 - lba_rsvd) // 100
    geometry = dataclasses.replace(
        old,
        zone_count=len(zones),
        bands=bands,
        spare_zones=spares,
        bad_zones=tuple(sorted({*old.bad_zones, *(zone.index for zone in new if not zone.usable)})),
        replaced=replaced,
        block_count=max(old.block_count, block_count),
        finish_zones=old.finish_zones or any(zones[index].capacity > old.zone_capacity for index in good),
    )
    in_new_bands = {zone for band in bands[old.band_count :] for zone in band if zone is not None}
    return Growth(geometry, tuple(sorted({*in_new_bands, *good})))


def _lay_out(
    old: Geometry, good: Sequence[int], zone_count: int
) -> tuple[tuple[tuple[int | None, ...], ...], tuple[int, ...], dict[int, int]]:
    """Bands, spares, and the zones that replace others: failed ones, or zones that are already in an older band."""
    first = len(SUPERBLOCK_ZONES) + old.band_count * old.punits
    free = sorted({*old.spare_zones, *good})
    count = min(len(free), zone_count - first) // old.punits
    nominal = range(first, first + count * old.punits)
    others = [zone for zone in free if zone not in nominal]
    there = set(free)
    replaced = dict(old.replaced)
    flat: list[int] = []
    for zone in nominal:
        if zone not in there:
            replaced[zone] = others.pop(0)
        flat.append(replaced[zone] if zone not in there else zone)
    bands = tuple(tuple(flat[b * old.punits : (b + 1) * old.punits]) for b in range(count))
    return (*old.bands, *bands), tuple(others), replaced


def conf_of(conf: FtlConf, settings: Mapping[str, Any], old: Geometry, new: Geometry) -> FtlConf:
    """The conf of the old geometry, for the new one: thresholds with default values get the new defaults. Raises
    ConfError."""
    defaults = default_thresholds_of(old)
    given = settings.get("limits") or {}

    def threshold(name: str, limit: Limit) -> int | None:
        asked = isinstance(given.get(name), Mapping) and given[name].get("thld") is not None
        return limit.thld if asked or limit.thld != defaults[name] else None

    limits = {name: Limit(limit.limit, threshold(name, limit)) for name, limit in conf.limits.items()}
    return dataclasses.replace(conf, limits=limits).check_geometry(new)
