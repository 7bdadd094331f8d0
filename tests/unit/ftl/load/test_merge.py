"""What the merge decides about versions that are on media more than once, however many there are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl import loading
from spdk_ftl_py.ftl.load import merge as merging
from spdk_ftl_py.ftl.load.merge import Merge
from spdk_ftl_py.ftl.media.layout import ENTRY, crcs
from spdk_ftl_py.runtime import turns

BANDS, ZONE = 4, 4096
BLOCKS = 2000
WHOLE = 0xA5
"""Each byte of a block that matches its CRC."""
CRC = int(crcs(np.full((1, 4096), WHOLE, np.uint8))[0])


class Reader:
    """Of one zone for each band; headers stand where ``headers`` says."""

    def __init__(self) -> None:
        self.broken: set[int] = set()
        self.headers: set[int] = set()
        self.reads = 0

    async def blocks(self, address: int, count: int) -> NDArray[np.uint8]:
        self.reads += 1
        blocks = np.full((count, 4096), WHOLE, np.uint8)
        blocks[[at for at in range(count) if address + at in self.broken]] = 0
        return blocks

    async def blocks_read(self, address: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return await self.blocks(address, count), np.ones(count, bool)

    def header_in_place(self, block: NDArray[np.uint8], address: int) -> Any:
        return SimpleNamespace(band=address // ZONE, band_seq=1) if address in self.headers else None


def merge_of(reader: Reader) -> Merge:
    geometry: Any = SimpleNamespace(
        punits=1,
        band_count=BANDS,
        block_count=BLOCKS,
        zone_count=BANDS,
        zone_size=ZONE,
        zone_capacity=ZONE,
        data_blocks=ZONE - 100,
        bands=[[number] for number in range(BANDS)],
    )
    superblock: Any = SimpleNamespace(uuid=UUID(int=1), media_uuid=UUID(int=1))
    fake: Any = reader
    merge = Merge(
        *(fake, superblock, geometry, []),
        sequential=True,
        max_io_blocks=32,
        base_blocks=BANDS * ZONE,
        report=lambda step, part: None,
    )
    merge._band_seqs = [1] * BANDS
    return merge


def broken(*each: tuple[int, int, int, bool]) -> NDArray[Any]:
    """(lba, seq, address, cut)"""
    rows = np.zeros(len(each), merging._BROKEN)
    for row, (lba, seq, address, cut) in zip(rows, each, strict=True):
        row["lba"], row["seq"], row["address"], row["band"], row["cut"] = lba, seq, address, address // ZONE, cut
    return rows


@pytest.mark.parametrize("came", [10, ZONE + 10])
async def test_a_damaged_block_is_lost_though_a_copy_of_it_never_came(came: int) -> None:
    reader = Reader()
    reader.headers = {10, ZONE + 10} - {came}
    merge = merge_of(reader)
    merge._broken = [broken((5, 9, 10, False), (5, 9, ZONE + 10, False), (5, 8, 40, False), (6, 7, 50, True))]
    await merge._settle_broken()
    assert merge._l2p.entries_of(np.array([5, 6], np.uint64)).tolist() == [
        _shim.LOST_FLAG | came,
        _shim.ADDRESS_INVALID,
    ]
    assert (merge._lost, merge._torn, merge._damaged_bands) == (1, 1, {came // ZONE})


async def test_of_two_torn_copies_one_counts() -> None:
    reader = Reader()
    reader.headers = {10, ZONE + 10}
    merge = merge_of(reader)
    merge._broken = [broken((5, 9, 10, False), (5, 9, ZONE + 10, False), (5, 8, 40, True))]
    await merge._settle_broken()
    assert (merge._lost, merge._torn, merge._damage) == (0, 2, [])


@pytest.mark.parametrize("whole", [True, False])
async def test_very_many_damaged_copies_of_one_version_are_read_together(whole: bool) -> None:
    copies = 1000
    reader = Reader()
    reader.broken = set(range(copies))
    merge = merge_of(reader)
    entries = np.zeros(copies + 1, ENTRY)
    entries["lba"], entries["seq"], entries["crc"] = 7, 3, CRC
    addresses = np.arange(copies + 1, dtype=np.uint64)
    if not whole:
        reader.broken.add(copies)
    merge._l2p.add(entries.view(np.uint8).reshape(-1, ENTRY.itemsize), addresses, all_doubtful=False)
    rows = merge._rows_of_copies()
    rows["in_table"], rows["crc"] = 0, CRC
    await merge._settle_copies(1, rows, np.zeros(BANDS, bool))
    expected = copies if whole else _shim.LOST_FLAG | copies
    assert merge._l2p.entries_of(np.array([7], np.uint64)).tolist() == [expected]
    assert merge._lost == (not whole)
    assert reader.reads < 2 * copies / merging.VERIFY_RUN_BLOCKS + 4


async def test_a_load_looks_for_room_in_a_large_l2p_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    async def aside(items: int, work: Any) -> bool:
        given.append(items)
        return False

    monkeypatch.setattr(loading, "aside", aside)
    found: Any = SimpleNamespace(
        bands_to_reset=[],
        superblock=SimpleNamespace(clean=False),
        geometry=SimpleNamespace(zone_count=3688),
        table=SimpleNamespace(block_count=1 << 30),
    )
    base: Any = None
    port: Any = None
    assert not await loading._make_room(base, port, "ftl0", found)
    assert given[0] >= turns.ASIDE_MIN


async def test_addresses_of_held_rows_have_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NumPy 1, a start below 2^32 plus an offset of 32 bits would wrap: of a zone that crosses 16 TiB."""
    merge = merge_of(Reader())
    summary: Any = SimpleNamespace(row_count=300, rows=lambda numbers: np.zeros(len(numbers), ENTRY).view(np.uint8))
    start = 2**32 - 100
    zone: Any = SimpleNamespace(summary=summary, start=start, band=0, walked=False, entries=[], addresses=[])
    geometry: Any = merge._geometry
    geometry.zone_size = start
    merge._l2p = SimpleNamespace(  # type: ignore[assignment]
        add_summary=lambda *args, **options: (np.array([7, 200], np.uint32), 300, 0.0)
    )
    given = []

    async def taken(zone: Any, entries: Any, addresses: NDArray[np.uint64], unsure: bool) -> None:
        given.append(addresses)

    monkeypatch.setattr(merge, "_merge_verified", taken)
    await merge._add(zone, 0)
    assert given[0].dtype == np.uint64
    assert given[0].tolist() == [start + 7, start + 200]
