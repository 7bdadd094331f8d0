"""What a bdev must be like to serve as the nv cache. The rules are the seed's (ftl_dev_init_nv_cache), but for
metadata:
NVMe-oF carries no separate metadata, so it is interleaved (VSS) or there is none (headers between the blocks:
non-VSS)."""

from __future__ import annotations

from typing import Final

from ..errors import ParameterError, UnsupportedError
from .geometry import BLOCK_BYTES, Geometry

METADATA_BYTES_MIN: Final = 8
BANDS_MIN: Final = 2
"""What is in the cache may be overwritten once its band is closed, so one band is filled from one half while the other
half
is protected by the cache."""
HEADER_BLOCKS: Final = 1

VSS: Final = "vss"
NON_VSS: Final = "non_vss"


def blocks_needed(geometry: Geometry) -> int:
    """Blocks the cache has at least: two full bands, and its header."""
    return BANDS_MIN * geometry.punits * geometry.zone_capacity + HEADER_BLOCKS


def check_cache(
    name: str,
    *,
    base_name: str,
    block_bytes: int,
    block_count: int,
    metadata_bytes: int = 0,
    metadata_interleaved: bool = False,
    dif_type: int = 0,
    zoned: bool = False,
    geometry: Geometry | None = None,
) -> str:
    """ "vss" or "non_vss". block_bytes is the data part of a block. Without a geometry the size is not checked.

    Raises ParameterError or UnsupportedError naming the bdev, what is wrong with it and the remedy.
    """
    if name == base_name:
        raise ParameterError(f"cache bdev {name} is the base bdev too: give another one")
    if zoned:
        raise UnsupportedError(f"cache bdev {name} is zoned: the cache overwrites in place, give a conventional bdev")
    if block_bytes != BLOCK_BYTES:
        raise ParameterError(
            f"cache bdev {name} has blocks of {block_bytes} bytes, an FTL needs {BLOCK_BYTES}: format it with 4 KiB "
            "blocks, or "
            f"give another bdev"
        )
    if metadata_bytes and not metadata_interleaved:
        raise UnsupportedError(
            f"cache bdev {name} has separate metadata ({metadata_bytes} B), which NVMe-oF can't carry: use "
            "interleaved metadata of "
            f"at least {METADATA_BYTES_MIN} B, or none"
        )
    if dif_type:
        raise ParameterError(
            f"cache bdev {name} has DIF type {dif_type}: its metadata would not be ours to use; create it without DIF"
        )
    if 0 < metadata_bytes < METADATA_BYTES_MIN:
        raise ParameterError(
            f"cache bdev {name} has {metadata_bytes} B of metadata for each block: at least {METADATA_BYTES_MIN} B, "
            "or none"
        )
    if geometry is not None and block_count < blocks_needed(geometry):
        needed = blocks_needed(geometry)
        raise ParameterError(
            f"cache bdev {name} has {block_count} blocks, needs {needed} (two bands of "
            f"{geometry.punits * geometry.zone_capacity} blocks and a header): give one of at least "
            f"{-(-needed * BLOCK_BYTES >> 20)} MiB, or use fewer parallel units"
        )
    return VSS if metadata_bytes else NON_VSS
