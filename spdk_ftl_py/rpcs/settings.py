"""Further FTL configuration. Made from schemas/*.json by docs/generate_client.py."""

from __future__ import annotations

from typing import TypedDict

_Dotted = TypedDict(
    "_Dotted",
    {
        # Outstanding writes to the nv cache, limited to what the write buffer can fill (max_request_cnt of cache_device
        # in bdev_ftl_get_properties) (1 to 65536; default 2048).
        "nv_cache.max_request_cnt": int,
        # Blocks of data in one write to the nv cache, limited to the largest write of the cache bdev, and to 168 if its
        # blocks have no metadata (max_request_size of cache_device in bdev_ftl_get_properties) (1 to 256; default 16).
        "nv_cache.max_request_size": int,
    },
    total=False,
)


class FtlSettings(_Dotted, total=False):
    """conf of bdev_ftl_create(): what is not given has its default."""

    invalid_thld: int
    """Percentage of invalid blocks from which on a band may be relocated (0 to 99; default 10)."""
    write_buffer_size: int
    """Size of the write buffer in bytes, a multiple of 4096. At most half a band is used (write_buffer_size in
    bdev_ftl_get_properties) (32768 to 1073741824; default 6291456)."""
    band_thld: int
    """Fill level of a band, in percent, at which the next band is opened (1 to 100; default 90)."""
    max_reloc_qdepth: int
    """Outstanding I/Os for each band being relocated (1 to 1024; default 32)."""
    max_active_relocs: int
    """Number of bands being relocated at the same time (1 to 64; default 3)."""
    user_io_pool_size: int
    """A setting of SPDK's FTL of 2020, accepted for compatibility. It has no effect: an I/O queue of a host has one I/O
    for each entry (0 to 4294967295)."""
    max_io_channels: int
    """Number of host I/O queues that the export accepts (1 to 1024; default 128)."""
    cores: int
    """Number of the daemon's reactors (serve --reactors) over which host I/O queues are spread; one of them also runs
    the FTL itself (1 to 64; default 1)."""
    reloc_policy: str
    """The policy: which band the FTL relocates next, and which data shares a band (docs/policies.md). MODULE:CLASS runs
    code in the daemon (default "seed")."""
    verify_reads: bool
    """Verify the CRC of every block that a host reads. Takes 2 bytes of memory for each block, 512 MiB for each TiB
    (default true)."""
    scrub_days: int
    """Number of days in which a background scrub reads and verifies all valid data and metadata on the base at least
    once; 0: only bdev_ftl_scrub starts a scrub (0 to 365; default 14)."""
    rated_resets: int
    """Resets that each zone of the base stands, by its data sheet; 0: unknown. Percentage Used of the SMART log is the
    part that the most worn band has had (0 to 10000000; default 0)."""
    l2p_dram_limit: int
    """MiB of memory that the L2P may take, with the CRCs of verify_reads; 0: all that they need. The pages of it that
    were not used for the longest time are in a file in the daemon's --l2p-dir then, and a read or write that needs one
    of them waits for that drive (docs/l2p-paging.md) (0 to 1048576; default 0)."""
    running_checkpoint: int
    """A copy of the L2P is written each time hosts have written this percentage of the capacity, so that a load after a
    crash reads little (docs/checkpoint.md); 0: never. By default a new FTL of at least 64 GiB writes one as often as
    costs at most 1 percent of what hosts write (15, or 25 from 4 TiB of base; 10 and 20 without verify_reads), if its
    zones are not emulated and it has bands to spare (at least 32 spare bands for each band of a copy); other FTLs write
    none (0 to 100)."""
