"""The RPCs that SPDK has for its own FTL, as module/bdev/ftl/bdev_ftl_rpc.c and lib/ftl/utils/ftl_property.c of v26.05
have them. A target can tell their names and parameters (tests/live/test_ftl_rpcs.py); of an FTL of its own it needs
/dev/hugepages, 20 GiB and a cache of 5 GiB, so what those that ask one answer is from the source."""

from __future__ import annotations

from typing import Any, Final

CREATE: Final[dict[str, Any]] = {
    "name": "x",
    "base_bdev": "nope",
    "cache": "nope2",
    "uuid": "b286d19a-0059-4709-abcd-9f7732b1567d",
    "overprovisioning": 20,
    "l2p_dram_limit": 512,
    "core_mask": "[0]",
    "fast_shutdown": True,
}

RPCS: Final[dict[str, tuple[dict[str, Any], set[str]]]] = {
    "bdev_ftl_create": (CREATE, {"name", "base_bdev"}),
    "bdev_ftl_delete": ({"name": "x", "fast_shutdown": True}, {"name"}),
    "bdev_ftl_unmap": ({"name": "x", "lba": 0, "num_blocks": 1024}, {"name", "lba", "num_blocks"}),
    "bdev_ftl_get_stats": ({"name": "x"}, {"name"}),
    "bdev_ftl_get_properties": ({"name": "x"}, {"name"}),
    "bdev_ftl_set_property": (
        {"name": "x", "ftl_property": "verbose_mode", "value": "true"},
        {"name", "ftl_property", "value"},
    ),
}
"""All parameters with a value each, and those that are required. (There a cache is, too.)"""

OLD: Final[dict[str, tuple[dict[str, Any], set[str]]]] = {
    "bdev_ftl_load": (CREATE, {"name", "base_bdev", "uuid"}),
    "bdev_ftl_unload": ({"name": "x", "fast_shutdown": True}, {"name"}),
    "construct_ftl_bdev": (CREATE, {"name", "base_bdev"}),
    "delete_ftl_bdev": ({"name": "x"}, {"name"}),
}
"""Of earlier releases."""

STATS: Final = ("user", "cmp", "gc", "md_base", "md_nv_cache", "l2p")
GROUP: Final = {
    "read": {"ios": 0, "blocks": 0, "errors": {"media": 0, "crc": 0, "other": 0}},
    "write": {"ios": 0, "blocks": 0, "errors": {"media": 0, "other": 0}},
}
PROPERTY: Final = {"name", "value", "unit", "desc", "read-only"}
"""unit, desc and read-only only where there is one."""
PROPERTIES: Final = {
    *("superblock_version", "base_device", "cache_device"),
    *("prep_upgrade_on_shutdown", "verbose_mode"),
}
