"""The result of bdev_ftl_get_properties for a device, in SPDK's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..conf import LIMIT_NAMES, FtlConf
from .media.band import Band, Bands
from .media.geometry import BLOCK_BYTES, Geometry

READ_CRC_BYTES: Final = 2
BANDS_TOLD_MAX: Final = 1024

SETTINGS: Final = {
    "invalid_thld": "percent",
    "write_buffer_size": "bytes",
    "band_thld": "percent",
    "max_reloc_qdepth": "",
    "max_active_relocs": "bands",
    "max_io_channels": "",
    "nv_cache.max_request_cnt": "requests",
    "nv_cache.max_request_size": "blocks",
    "reloc_policy": "",
    "verify_reads": "",
    "scrub_days": "days",
    "rated_resets": "resets",
    "l2p_dram_limit": "MiB",
    "running_checkpoint": "percent",
}
"""Members of conf that may be changed while the FTL runs, besides the limits, and their units."""

ALWAYS: Final = {
    "verbose_mode": "SPDK's option: this FTL always lists all properties",
    "prep_upgrade_on_shutdown": "SPDK's option: every clean halt writes everything to the base for any version to load",
}
"""Properties of SPDK's own FTL that are always true here."""

DESCRIPTIONS: Final = {
    "no_data": "For benchmarks: the FTL neither keeps nor verifies what is written, and can't be loaded again",
    "restored": "Result of the load; null for a device that was just created",
    "write_buffer_size": "Bytes in use: conf write_buffer_size, but at most half a band",
    "cache_device": "The nv cache; null without one",
    "zone_watch": "Zones that the base reported as changed, and what the FTL did",
    "scrub": "Progress of the scrub, and the result of the last round",
    "policy_in_use": "reloc_policy, or the default in its place",
    "policy_replaced": "Why the default is in place of reloc_policy; null if it is not",
    "wear": "Resets of bands since the FTL was created; percent_used is null unless conf rated_resets is set",
}


def describe(state: Mapping[str, Any], geometry: Geometry, conf: FtlConf, bands: Bands) -> list[dict[str, object]]:
    """JSON-able: {"name", "value", "unit", "desc", "read-only"} each, unit and desc only if there is one.

    state: values of the device that change, by name.
    """
    return [
        *(
            _one(name, value, SETTINGS.get(name, ""), DESCRIPTIONS.get(name, ""), read_only=name not in SETTINGS)
            for name, value in state.items()
        ),
        _one("block_size", BLOCK_BYTES, "bytes"),
        _one("num_blocks", geometry.block_count, "blocks", "Logical capacity"),
        _one("zone_size", geometry.zone_size, "blocks"),
        _one("zone_capacity", geometry.zone_capacity, "blocks", "Smallest capacity of all zones in use"),
        _one("num_zones", geometry.zone_count),
        _one("num_punits", geometry.punits, "zones", "Number of zones in a band, which are written in parallel"),
        _one("num_bands", geometry.band_count),
        _one("band_blocks", geometry.band_blocks, "blocks", "Data that a band holds"),
        _one("spare_bands", geometry.spare_bands, "", "Bands in addition to those that hold every block once"),
        _one("spare_zones", bands.zone_map.spare_count, "", "Zones that replace failed zones"),
        _one("bad_zones", bands.zone_map.bad_zones),
        _one("open_zones_max", geometry.open_zones, "zones", "Most zones that are open or active at the same time"),
        _one("shared_stream", geometry.shared_stream, "", "User and relocation data share a band"),
        _one("l2p_entry_size", geometry.l2p_entry_bytes, "bytes"),
        _one(
            "read_crc_size",
            READ_CRC_BYTES if conf.verify_reads else 0,
            "bytes",
            "Memory for each block to verify reads",
        ),
        _one("address_bits", geometry.address_bits),
        _one("conf", conf.to_dict()),
        *_settings(conf, listed=state),
        _one("base_device", _base_device(bands)),
    ]


def _settings(conf: FtlConf, *, listed: Mapping[str, Any]) -> list[dict[str, object]]:
    """Each setting under the name that bdev_ftl_set_property takes, except for those that are listed already."""
    limits = []
    for name in LIMIT_NAMES:
        limit = conf.limits[name]
        limits += [
            _one(f"limit_{name}", limit.limit, "percent", read_only=False),
            _one(f"limit_{name}_threshold", limit.thld, "bands", read_only=False),
        ]
    return [
        *limits,
        *(
            _one(name, conf.setting(name), unit, read_only=False)
            for name, unit in SETTINGS.items()
            if name not in listed
        ),
        _one("overprovisioning", conf.lba_rsvd, "percent", "Determines the capacity"),
        _one("cores", conf.cores, "", "Reactors that serve hosts, if the daemon has as many"),
        _one("use_append", conf.use_append, "", "Determines the size of batches"),
        _one("allow_open_bands", conf.allow_open_bands, "", "Applies to this load only"),
        *(_one(name, True, "", desc) for name, desc in ALWAYS.items()),
    ]


def _one(name: str, value: object, unit: str = "", desc: str = "", *, read_only: bool = True) -> dict[str, object]:
    entry: dict[str, object] = {"name": name, "value": value, "unit": unit, "desc": desc, "read-only": read_only}
    return {key: part for key, part in entry.items() if part != ""}


def _base_device(bands: Bands) -> dict[str, object]:
    """The first bands only: with very many bands, a list of all would take too much time of the daemon and of its
    reader."""
    shown = min(len(bands), BANDS_TOLD_MAX)
    left_out = {"bands_left_out": len(bands) - shown} if shown < len(bands) else {}
    return {"bands": [_band(bands[number], int(bands.resets[number])) for number in range(shown)], **left_out}


def _band(band: Band, resets: int) -> dict[str, object]:
    return {
        "id": band.index,
        "state": band.reported_state,
        "validity": round(band.valid / band.capacity, 4) if band.capacity else 0.0,
        "zones": band.zones,
        "resets": resets,
    }
