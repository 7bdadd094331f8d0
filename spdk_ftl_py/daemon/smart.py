"""The health of an FTL as its export tells hosts: the SMART log, and the events when it gets worse."""

from __future__ import annotations

from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.media.geometry import BLOCK_BYTES
from ..nvme.logs import Smart


def warnings_depend_on(ftl: FtlDevice) -> object:
    """While that stays the same, so do the warnings of smart_of(). It does not wait for the reactor."""
    return ftl.core.troubles, ftl.lost_blocks, ftl.zone_map.spare_count, ftl.state


def smart_of(ftl: FtlDevice) -> Smart:
    """Counters count since the FTL was loaded. An FTL that was made without spare zones has lost none of them."""
    core = ftl.core.stats()
    # Of the zones in geometry.replaced, those that were swapped to level wear are spare ones now.
    bad = set(ftl.geometry.bad_zones)
    spares = len(ftl.geometry.spare_zones) + len(bad.intersection(ftl.geometry.replaced))
    return Smart(
        bytes_read=core.user_read_blocks * BLOCK_BYTES,
        bytes_written=core.user_written_blocks * BLOCK_BYTES,
        read_commands=core.user_reads,
        write_commands=core.user_writes,
        media_errors=core.unreadable_blocks + ftl.lost_blocks,
        spare_percent=100 * min(ftl.zone_map.spare_count, spares) // spares if spares else 100,
        degraded=core.unreadable_blocks > 0 or ftl.lost_blocks > 0,
        read_only=ftl.state is FtlState.READ_ONLY,
        percent_used=ftl.wear_told()["percent_used"] or 0,
    )
