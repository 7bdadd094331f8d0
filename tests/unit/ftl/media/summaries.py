"""Summaries of zones as the shim writes them (docs/media-layout.md), for media that no core has written."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from spdk_ftl_py.ftl.media import layout


def build_summary(
    uuid: UUID, *, band: int, punit: int, band_seq: int, entries: NDArray[Any], summary_blocks: int
) -> NDArray[np.uint8]:
    """All blocks of a zone's summary, (summary_blocks, 4096); entries describe the data area from its start."""
    blocks = np.zeros((summary_blocks, layout.BLOCK_BYTES), np.uint8)
    for index in range(summary_blocks):
        part = entries[index * layout.SUMMARY_ENTRIES : (index + 1) * layout.SUMMARY_ENTRIES]
        record = layout.new_record(layout.SUMMARY, layout.SUMMARY_MAGIC, uuid)
        record["band_seq"] = band_seq
        record["index"] = index
        record["count"] = len(part)
        record["band"] = band
        record["punit"] = punit
        record["entries"][0, : len(part)] = part
        blocks[index] = layout.seal(record)
    return blocks
