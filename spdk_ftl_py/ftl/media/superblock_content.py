"""The content of a superblock: conf, geometry, counters. A valid CRC does not make the content sensible: it is checked,
by itself and against the device, before it is used."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ... import _shim
from ...conf import (
    DEFAULT_RELOC_POLICY,
    L2P_DRAM_LIMIT_MAX,
    RUNNING_CHECKPOINT_MAX,
    FtlConf,
    former_default_thresholds,
)
from ...errors import ConfError, FtlError, GeometryError
from .geometry import BATCH_BLOCKS, BATCH_BLOCKS_MIN, BLOCK_BYTES, SUPERBLOCK_ZONES, Geometry, usable_blocks
from .layout import SEQ_MAX
from .superblock import Superblock
from .zone import Zone

log = logging.getLogger(__name__)

BESIDE: Final = {"running_checkpoint_percent": "running_checkpoint", "l2p_dram_limit_mib": "l2p_dram_limit"}
"""Members of the superblock's content that are settings, and their names in FtlConf. 0 is not stored."""
_GEOMETRY_CONF: Final = {
    "lba_rsvd": "overprovisioning determines the capacity",
    "use_append": "it determines the size of batches",
}

_GEOMETRY_NUMBERS: Final = (
    "zone_size",
    "zone_capacity",
    "zone_count",
    "punits",
    "band_count",
    "batch_blocks",
    "block_count",
)


def conf_to_store(conf: FtlConf) -> dict[str, Any]:
    """For the superblock. Earlier versions refuse settings that they don't know, so a new one is left out where it has
    no effect."""
    stored = conf.to_dict()
    if not conf.rated_resets:
        del stored["rated_resets"]
    for name in BESIDE.values():
        del stored[name]
    return stored


def conf_beside(conf: FtlConf) -> dict[str, Any]:
    """Settings for the superblock's content itself: earlier versions ignore them there, and load the FTL without."""
    return {key: value for key, name in BESIDE.items() if (value := getattr(conf, name))}


def stored_conf(superblock: Superblock, geometry: Geometry) -> FtlConf:
    """Default thresholds are not set in it: those that count are the defaults of the version that loads the FTL. A
    policy that can have no such name is no reason not to load the data: the default takes its place."""
    stored = dict(_part(superblock, "conf"))
    try:
        FtlConf.from_dict({"reloc_policy": stored.get("reloc_policy", DEFAULT_RELOC_POLICY)}).check()
    except ConfError as error:
        log.error("FTL %s: its superblock: %s: %s is used", superblock.uuid, error.message, DEFAULT_RELOC_POLICY)
        stored["reloc_policy"] = DEFAULT_RELOC_POLICY
    # Without a percentage there is no running checkpoint: creation decides once.
    for key, name in BESIDE.items():
        value = superblock.content.get(key, 0)
        most = RUNNING_CHECKPOINT_MAX if name == "running_checkpoint" else L2P_DRAM_LIMIT_MAX
        stored[name] = int(value) if isinstance(value, int) and 0 <= value <= most else 0
    conf = FtlConf.from_dict(stored)
    conf.check()
    if "default_thresholds" in superblock.content:
        defaults = _part(superblock, "default_thresholds")
    else:
        # Written by an earlier version, which also called what is `seed` now cost_benefit.
        defaults = former_default_thresholds(geometry.spare_bands - geometry.open_bands)
        if conf.reloc_policy == "cost_benefit":
            conf = replace(conf, reloc_policy=DEFAULT_RELOC_POLICY)
    return conf.without_thresholds(defaults)


def merge_conf(stored: FtlConf, settings: Mapping[str, Any]) -> FtlConf:
    """Settings that are given override the superblock, including default values; allow_open_bands applies to this load
    only. Raises ConfError if a setting differs that can no longer be changed."""
    # What only creation decides is decided. Another setting that is None is refused.
    settings = {name: value for name, value in settings.items() if (name, value) != ("running_checkpoint", None)}
    merged = stored.changed({"allow_open_bands": False, **settings})
    for name, why in _GEOMETRY_CONF.items():
        value, was = getattr(merged, name), getattr(stored, name)
        if value != was:
            raise ConfError(
                f"conf {name} = {value}: the FTL was created with {was}, and {why}: leave it out to load the FTL"
            )
    return merged


def counter(superblock: Superblock, name: str) -> int:
    """next_seq or next_band_seq: no record has that number, or a greater one."""
    return _number(superblock, superblock.content, name)


def geometry_of(superblock: Superblock, zones: Sequence[Zone], base: _shim.BlockDevice, *, name: str) -> Geometry:
    """The geometry in the superblock, checked against the device, which may have more zones by now; those are not part
    of it. Raises GeometryError, which names what has changed."""
    stored = _part(superblock, "geometry")
    numbers = {key: _number(superblock, stored, key) for key in _GEOMETRY_NUMBERS}
    try:
        replaced = {int(was): None if now is None else int(now) for was, now in stored["replaced"]}
        bad = {int(zone) for zone in superblock.content["bad_zones"]}
        shared, finish = bool(stored["shared_stream"]), bool(stored["finish_zones"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _nonsense(superblock, repr(error)) from error

    def changed(what: str, was: object, now: object) -> GeometryError:
        return GeometryError(
            f"the base bdev of {name}: {what} is {now}, but was {was} when FTL {superblock.uuid} was created: give "
            "the device and the settings that it was created with (for emulated zones: --zone-capacity "
            f"{numbers['zone_capacity']})"
        )

    if numbers["zone_size"] != base.zone_size:
        raise changed("its zone size", numbers["zone_size"], base.zone_size)
    zone_count = numbers["zone_count"]
    if zone_count > len(zones):
        raise _shrunk(superblock, zone_count - len(zones), zone_count, base, name)
    # Other zones belong to nobody, or to somebody else, until the FTL is grown.
    zones = zones[:zone_count]
    count, punits, capacity = numbers["band_count"], numbers["punits"], numbers["zone_capacity"]
    first = len(SUPERBLOCK_ZONES)
    if capacity > base.zone_size or first + count * punits > zone_count:
        raise _nonsense(
            superblock, f"{count} bands of {punits} zones of {capacity} blocks are more than the device has"
        )
    batch_blocks, block_count = numbers["batch_blocks"], numbers["block_count"]
    if not BATCH_BLOCKS_MIN <= batch_blocks <= BATCH_BLOCKS:
        raise _nonsense(superblock, f"batches of {batch_blocks} blocks")
    if block_count > count * punits * usable_blocks(capacity, batch_blocks):
        raise _nonsense(superblock, f"{block_count} blocks in {count} bands of {punits} zones of {capacity} blocks")
    flat = [replaced.get(zone, zone) for zone in range(first, first + count * punits)]
    in_bands = [zone for zone in flat if zone is not None]
    if len(set(in_bands)) != len(in_bands) or not all(first <= zone < zone_count for zone in in_bands):
        raise _nonsense(superblock, "a zone is used twice, or does not exist")
    for zone in (zones[index] for index in in_bands):
        if zone.usable and zone.capacity < capacity:
            raise changed(f"the capacity of zone {zone.index}", f"at least {capacity}", zone.capacity)
    taken = {*in_bands, *bad}
    limit = min((n for n in (base.max_open_zones, base.max_active_zones) if n), default=0)
    geometry = Geometry(
        zone_size=base.zone_size,
        zone_capacity=capacity,
        zone_count=zone_count,
        punits=punits,
        bands=tuple(tuple(flat[b * punits : (b + 1) * punits]) for b in range(count)),
        spare_zones=tuple(
            zone.index
            for zone in zones[first:]
            if zone.usable and zone.capacity >= capacity and zone.index not in taken
        ),
        bad_zones=tuple(sorted(bad)),
        replaced={was: now for was, now in replaced.items() if now is not None},
        shared_stream=shared,
        batch_blocks=batch_blocks,
        block_count=block_count,
        finish_zones=finish,
        open_zones_limit=limit,
    )
    if limit and geometry.open_zones > limit:
        raise changed("its limit of open zones", f"at least {geometry.open_zones}", limit)
    return geometry


def _shrunk(superblock: Superblock, missing: int, zone_count: int, base: _shim.BlockDevice, name: str) -> GeometryError:
    lost, size = missing * base.zone_size, zone_count * base.zone_size
    return GeometryError(
        f"the base bdev of {name} has shrunk by {missing} zones ({lost} blocks, {_sized(lost)}) to "
        f"{zone_count - missing}: FTL {superblock.uuid} uses {zone_count} zones, and gives up none of its data: "
        f"restore the bdev to at least {size} blocks ({_sized(size)}), with its data"
    )


def _sized(blocks: int) -> str:
    return f"{-(-blocks * BLOCK_BYTES >> 20)} MiB"


def _part(superblock: Superblock, name: str) -> dict[str, Any]:
    part = superblock.content.get(name)
    if not isinstance(part, dict):
        raise _nonsense(superblock, f"it has no {name}")
    return part


def _number(superblock: Superblock, part: Mapping[str, Any], name: str) -> int:
    number = part.get(name)
    if not isinstance(number, int) or not 1 <= number <= SEQ_MAX:
        raise _nonsense(superblock, f"its {name} is {number!r}")
    return number


def _nonsense(superblock: Superblock, what: str) -> FtlError:
    return FtlError(
        f"the superblock of FTL {superblock.uuid} is invalid ({what}), and another software wrote it: this software "
        "can't load that FTL; to erase it, create an FTL with --force"
    )
