"""Further FTL configuration. Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

from typing import Literal, TypedDict


class FtlSettings(TypedDict, total=False):
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
    """I/Os a host queue may have in flight (1 to 65535; default 2048)."""
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
