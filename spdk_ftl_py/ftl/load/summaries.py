"""Writes summaries of the emulated zones that a load has read to their end, so that no later load reads all of them
again (docs/restore.md, "Walks")."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ... import _shim
from ...errors import MediaError
from ...runtime.progress import PartDone
from ...runtime.reactor import ReactorLoop
from ...runtime.turns import aside
from ..media.blockdev import QUEUE_DEPTH, BlockPort, side_by_side
from ..media.geometry import BLOCK_BYTES, SUMMARY_ENTRIES, Geometry
from ..media.layout import (
    ENTRY,
    KIND_PAD,
    KIND_TRIM,
    SUMMARY,
    SUMMARY_FLAG_HEADER,
    SUMMARY_MAGIC,
    crcs,
    new_record,
)
from .zone_walk import ZoneContent

log = logging.getLogger(__name__)

ROWS_AT_A_TIME: Final = 1 << 20
"""Rows of summaries that are made at a time, at least those of one zone."""
ROW_BYTES: Final = 96
"""Of a row: as the walk found it, and in the summary that is made of it."""
ITEM_ROWS: Final = 16
"""Rows of a summary that are made in about 1 us."""


@dataclass(frozen=True, slots=True)
class WalkedZone:
    """What a load has accepted of a zone that has no summary."""

    band: int
    punit: int
    start: int
    band_seq: int
    addresses: NDArray[np.uint64]
    entries: NDArray[Any]
    """Of the data blocks at ``addresses``."""
    record_headers: NDArray[np.uint64]
    """Addresses."""

    @classmethod
    def of(cls, zone: ZoneContent, refused: NDArray[np.uint64]) -> WalkedZone:
        """refused: addresses of blocks that do not match their CRC."""
        addresses, entries = zone.addresses, zone.entries
        if len(refused):
            accepted = ~np.isin(addresses, refused)
            addresses, entries = addresses[accepted], entries[accepted]
        headers = np.array([address for address, _ in zone.records], np.uint64)
        return cls(zone.band, zone.punit, zone.start, zone.band_seq, addresses, entries, headers)

    def summary(self, geometry: Geometry, uuid: UUID) -> NDArray[np.uint8]:
        """Its blocks, (summary_blocks, 4096). Where the zone has neither accepted data nor records, the summary says
        that there is padding."""
        rows = np.zeros(geometry.summary_blocks * SUMMARY_ENTRIES, ENTRY)
        used = rows[: geometry.data_blocks]
        used["lba"], used["flags"] = np.iinfo(np.uint64).max, SUMMARY_FLAG_HEADER | KIND_PAD
        used["flags"][self._offsets(self.record_headers)] = SUMMARY_FLAG_HEADER | KIND_TRIM
        used[self._offsets(self.addresses)] = self.entries
        blocks = np.repeat(new_record(SUMMARY, SUMMARY_MAGIC, uuid), geometry.summary_blocks)
        blocks["band_seq"], blocks["band"], blocks["punit"] = self.band_seq, self.band, self.punit
        blocks["index"] = np.arange(len(blocks))
        blocks["count"] = SUMMARY_ENTRIES
        blocks["count"][-1] = geometry.data_blocks - (len(blocks) - 1) * SUMMARY_ENTRIES
        blocks["entries"] = rows.reshape(len(blocks), SUMMARY_ENTRIES)
        data = blocks.view(np.uint8).reshape(len(blocks), BLOCK_BYTES)
        blocks["crc"] = crcs(data)
        return data

    def _offsets(self, addresses: NDArray[np.uint64]) -> NDArray[np.intp]:
        offsets: NDArray[np.intp] = (addresses - np.uint64(self.start)).astype(np.intp)
        return offsets


def bytes_for(geometry: Geometry) -> int:
    """The most memory that walked zones take until their summaries are written."""
    return ROW_BYTES * min(geometry.zone_count * geometry.data_blocks, max(ROWS_AT_A_TIME, geometry.data_blocks))


async def write_summaries(
    reactor: ReactorLoop,
    base: _shim.ZonedOverlay,
    walked: list[WalkedZone],
    geometry: Geometry,
    uuid: UUID,
    *,
    name: str,
    report: PartDone,
) -> None:
    """Writes the summaries of ``walked``, which is empty then. uuid: the media uuid. Called after a flush: what a
    summary says must be durable before it.

    May be interrupted and repeated. The next load walks a zone whose summary is missing, or torn, and finds what this
    one has found; so a zone that can't be written is no reason to refuse the device. Raises MediaError if the base is
    gone.
    """
    failed: list[MediaError] = []
    total = len(walked)
    # The emulated zones are full, as far as anybody knows.
    port = BlockPort(reactor, base.base, name=name)
    step = port.device.max_io_blocks

    async def write(zone: WalkedZone) -> None:
        blocks = await aside(geometry.data_blocks // ITEM_ROWS, lambda: zone.summary(geometry, uuid))
        first = zone.start + geometry.data_blocks
        try:
            for i in range(0, len(blocks), step):
                await port.write(first + i, blocks[i : i + step])
        except MediaError as error:
            if _shim.base_gone(error.status):
                raise
            failed.append(error)
        report(1 - len(walked) / total)

    try:
        zones = (walked.pop() for _ in range(total))
        await side_by_side(write, zones, depth=max(1, min(QUEUE_DEPTH, ROWS_AT_A_TIME // geometry.data_blocks)))
    finally:
        await port.close()
    _tell(name, failed)


def _tell(name: str, failed: Sequence[MediaError]) -> None:
    if failed:
        log.warning(
            "%s: the summaries of %d zones could not be written, so the next load reads all of these zones again: %s",
            name,
            len(failed),
            failed[0].message,
        )
