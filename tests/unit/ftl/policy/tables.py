"""Bands as a policy sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from spdk_ftl_py.ftl.policy.interface import BandTable, Surroundings


def around(*, classes_max: int = 6, band_blocks: int = 100, block_count: int = 1000) -> Surroundings:
    return Surroundings(band_count=16, band_blocks=band_blocks, block_count=block_count, classes_max=classes_max)


def table(valid: list[int], **columns: Any) -> BandTable:
    """Closed bands of 100 blocks, all as old as another, unless columns say otherwise."""
    count = len(valid)
    given = {"age": [1] * count, "closed": [True] * count, "capacity": [100] * count, **columns}
    return BandTable(
        valid=np.array(valid, np.int64),
        capacity=np.array(given["capacity"], np.int64),
        age=np.array(given["age"], np.int64),
        data_age=np.array(given.get("data_age", given["age"]), np.int64),
        band_class=np.zeros(count, np.uint8),
        resets=np.zeros(count, np.uint32),
        closed=np.array(given["closed"], bool),
    )
