"""Further FTL configuration. Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

from typing import Literal, TypedDict

_Dotted = TypedDict(
    "_Dotted",
    {
        # Writes to the nv cache in flight at once, and never more than the write buffer can fill (max_request_cnt of
        # cache_device in bdev_ftl_get_properties) (1 to 65536; default 2048).
        "nv_cache.max_request_cnt": int,
        # Blocks of data in one write to the nv cache. Never more than the cache bdev takes at once, nor, where its
        # blocks have no metadata, than 168 (max_request_size of cache_device in bdev_ftl_get_properties) (1 to 256;
        # default 16).
        "nv_cache.max_request_size": int,
    },
    total=False,
)


class FtlSettings(_Dotted, total=False):
    """conf of bdev_ftl_create(): what is not given has its default."""

    invalid_thld: int
    """Percentage of invalid blocks at which a band is worth relocating (0 to 99; default 10)."""
    write_buffer_size: int
    """Write buffer in bytes, a multiple of 4096. Of more than half a band, half a band is used (write_buffer_size in
    bdev_ftl_get_properties) (32768 to 1073741824; default 6291456)."""
    band_thld: int
    """Percentage of a band that is filled when the next one is opened (1 to 100; default 90)."""
    max_reloc_qdepth: int
    """I/Os in flight per band being relocated (1 to 1024; default 32)."""
    max_active_relocs: int
    """Bands being relocated at once (1 to 64; default 3)."""
    user_io_pool_size: int
    """A setting of SPDK's FTL of 2020, taken for scripts' sake. Here it has no effect: an I/O queue of a host has as
    many I/Os as entries (0 to 4294967295)."""
    max_io_channels: int
    """Host queues of the export (1 to 1024; default 128)."""
    reloc_policy: Literal["cost_benefit", "greedy"]
    """How bands to relocate are chosen (default "cost_benefit")."""
    verify_reads: bool
    """Compare every block that a host reads with its CRC, on by default; takes 2 bytes of memory for each block, 512
    MiB for each TiB (default true)."""
    scrub_days: int
    """Days in which everything in force on the base is read and verified at least once, in the background; 0: only when
    bdev_ftl_scrub orders it (0 to 365; default 14)."""
