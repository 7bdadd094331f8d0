"""Statistics in the format of SPDK's bdev_ftl_get_stats, and additional ones."""

from __future__ import annotations

from typing import Any

from .._shim import CoreStats, NvCacheStats
from .gc.manager import BandManager
from .media.band import FREE, MOVING, Bands

Group = dict[str, Any]


def io_group(
    *,
    read_blocks: int = 0,
    read_ios: int = 0,
    read_media_errors: int = 0,
    read_crc_errors: int = 0,
    write_blocks: int = 0,
    write_ios: int = 0,
    write_media_errors: int = 0,
) -> Group:
    """One of SPDK's groups: {"read": {ios, blocks, errors}, "write": {ios, blocks, errors}}."""
    return {
        "read": {
            "ios": read_ios,
            "blocks": read_blocks,
            "errors": {"media": read_media_errors, "crc": read_crc_errors, "other": 0},
        },
        "write": {"ios": write_ios, "blocks": write_blocks, "errors": {"media": write_media_errors, "other": 0}},
    }


def write_amplification(core: CoreStats, checkpoint_blocks: int = 0) -> float:
    """Blocks written to media for each block the user wrote; 0.0 before the first. checkpoint_blocks: of the running
    checkpoint."""
    user = core.user_written_blocks
    return (core.media_written_blocks + checkpoint_blocks) / user if user else 0.0


def spdk_groups(core: CoreStats, cache: NvCacheStats | None = None) -> dict[str, Group]:
    """The groups SPDK prints, and nv_cache: what user data went there. cmp stays zero: nothing is compacted from the nv
    cache, the base has its blocks from the write buffer. So does l2p: all of it is in memory."""
    # Headers with trim records are headers, too.
    metadata = core.media_header_blocks + core.media_summary_blocks
    return {
        "user": io_group(
            read_blocks=core.user_read_blocks,
            read_ios=core.user_reads,
            read_media_errors=core.read_errors,
            read_crc_errors=core.user_crc_errors,
            write_blocks=core.user_written_blocks,
            write_ios=core.user_writes,
        ),
        "cmp": io_group(),
        "gc": io_group(
            read_blocks=core.reloc_read_blocks,
            read_ios=core.reloc_reads,
            read_crc_errors=core.crc_errors - core.user_crc_errors,
            write_blocks=core.media_reloc_blocks,
            write_ios=core.reloc_batches,
        ),
        "md_base": io_group(write_blocks=metadata, write_ios=core.batches, write_media_errors=core.write_errors),
        "md_nv_cache": io_group()
        if cache is None
        else io_group(write_blocks=cache.metadata_blocks + cache.header_writes, write_ios=cache.header_writes),
        "nv_cache": io_group()
        if cache is None
        else io_group(
            write_blocks=cache.written_blocks, write_ios=cache.write_ios, write_media_errors=cache.write_errors
        ),
        "l2p": io_group(),
    }


def of_bands(bands: Bands, manager: BandManager) -> dict[str, Any]:
    """The numbers by which the band manager decides, and its decisions."""
    counts = bands.counts()
    return {
        "free_bands": counts.get(FREE, 0),
        "limit_free_bands": manager.free_bands,
        "bands": counts,
        "active_relocs": bands.count(MOVING),
        "relocs_started": manager.moves_started,
        "limit": manager.applied.name,
        "user_share": manager.applied.user_share,
        "limits_applied": dict(manager.limits_applied),
        "limits": manager.limits.to_dict(),
        "moves": manager.moves.tell(bands),
        "policy_in_use": manager.policy.in_use,
        "policy_replaced": manager.policy.replaced,
    }


def wear(bands: Bands, moves: int, rated_resets: int) -> dict[str, Any]:
    """Resets of bands since the FTL was created. moves: to level wear, since the load. rated_resets: 0 if unknown."""
    resets = bands.resets[bands.capacity > 0]
    most = int(resets.max(initial=0))
    return {
        "resets_least": int(resets.min()) if len(resets) else 0,
        "resets_mean": round(float(resets.mean()), 2) if len(resets) else 0.0,
        "resets_most": most,
        "moves": moves,
        "percent_used": 100 * most // rated_resets if rated_resets else None,
    }


def summary(core: CoreStats, checkpoint_blocks: int = 0) -> dict[str, Any]:
    """Additional counters without groups: what users ask for first."""
    return {
        "host_read_blocks": core.user_read_blocks,
        "host_written_blocks": core.user_written_blocks,
        "host_trimmed_blocks": core.user_trimmed_blocks,
        "media_written_blocks": core.media_written_blocks + checkpoint_blocks,
        "write_amplification": round(write_amplification(core, checkpoint_blocks), 4),
        "gc_moved_blocks": core.reloc_moved_blocks,
        "zone_resets": core.zone_resets,
        "flushes": core.flushes,
        "unreadable_blocks": core.unreadable_blocks,
        "reads_repeated": core.reads_repeated,
        "reads_rescued": core.reads_rescued,
        "throttled_ms": core.throttled_ns // 1_000_000,
    }
