"""Pages of the running checkpoint, made from a core's L2P and taken by a load; and entries that count as versions."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.layout import CHECKPOINT, ENTRY
from spdk_ftl_py.runtime.reactor import ReactorLoop

BLOCKS = 6000
UUID = bytes(range(16))
NUMBER = 1 << 63 | 5
ZONES = 20


@pytest.fixture(params=[1 << 10, 1 << 27], ids=["narrow", "wide"])
def zone_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def entries_for(zone_size: int) -> np.ndarray:
    """Blocks, trims, lost LBAs, and some that were never written."""
    rng = np.random.default_rng(1)
    zones = rng.integers(2, ZONES, BLOCKS, dtype=np.uint64)
    entries = zones * np.uint64(zone_size) + rng.integers(0, 900, BLOCKS, dtype=np.uint64)
    kind = rng.integers(0, 10, BLOCKS)
    entries[kind == 7] |= np.uint64(_shim.TRIM_FLAG)
    entries[kind == 8] |= np.uint64(_shim.LOST_FLAG)
    entries[kind == 9] = _shim.ADDRESS_INVALID
    # Not a single page of these.
    entries[2016:4032] = _shim.ADDRESS_INVALID
    return entries


def core_with(reactor: ReactorLoop, zone_size: int, entries: np.ndarray, crcs: np.ndarray) -> _shim.FtlCore:
    media = _shim.EmulatedMedia.zns(reactor.shim, ZONES, zone_size, 1000, max_open_zones=14, max_active_zones=14)
    config = _shim.CoreConfig(
        uuid=UUID,
        block_count=BLOCKS,
        bands=[[zone * zone_size] for zone in range(2, ZONES)],
        zone_size=zone_size,
        zone_capacity=1000,
    )
    core = _shim.FtlCore(reactor.shim, media, config)
    for band in range(ZONES - 2):
        core.load_band(band, _shim.BandState.CLOSED, band + 1, [900])
    core.load_l2p(0, entries, crcs)
    return core


async def test_pages_there_and_back(reactor: ReactorLoop, zone_size: int) -> None:
    entries = entries_for(zone_size)
    has_block = (entries & np.uint64(_shim.LOST_FLAG)) == 0
    crcs = np.where(has_block, np.arange(BLOCKS, dtype=np.uint16) | np.uint16(1), np.uint16(0)).astype(np.uint16)
    core = core_with(reactor, zone_size, entries, crcs)
    assert core.zone_pointers(0, ZONES - 2).tolist() == [900] * (ZONES - 2)
    wide = zone_size > 1 << 20
    made = [
        _shim.checkpoint_pages(
            core, first, min(4032, BLOCKS - first),
            media_end=ZONES * zone_size, uuid=UUID, generation=NUMBER, wide=wide,
        )
        for first in (0, 4032)
    ]  # fmt: skip
    core.close()
    blocks = np.concatenate(made)
    sections = blocks.view(CHECKPOINT)["section"].reshape(-1).tolist()
    # 0 to 2015 and from 4032 on, then their CRCs.
    assert sections == ([4] * 4 + [5] + [4] * 4 + [5] if wide else [3] * 2 + [5] + [3] * 2 + [5])
    _shim.seal_pages(blocks, 700, 3)
    usable = np.ones(ZONES, bool)
    usable[5] = False
    table = _shim.RestoredL2p(BLOCKS, ZONES * zone_size, with_crcs=True, many_seqs=False)
    has_crcs = np.zeros(3, bool)

    def take(blocks: np.ndarray, **changed: object) -> bool:
        how = {
            "uuid": UUID, "generation": NUMBER, "wide": wide, "address": 700, "index": 3, "zone_size": zone_size,
            "zones": usable, "has_crcs": has_crcs, **changed,
        }  # fmt: skip
        return _shim.take_pages(table, blocks, **how)  # type: ignore[arg-type]

    assert take(blocks)
    assert has_crcs.tolist() == [True, False, True]
    zones = (entries & ~np.uint64(_shim.LOST_FLAG)) // np.uint64(zone_size)
    wanted = np.where(zones == 5, np.uint64(_shim.ADDRESS_INVALID), entries)
    assert np.array_equal(table.l2p(0, BLOCKS), wanted)
    assert np.array_equal(table.crcs(0, BLOCKS), crcs)
    for wrong in (
        {"uuid": bytes(16)}, {"generation": NUMBER + 1}, {"wide": not wide}, {"address": 701}, {"index": 2},
        {"has_crcs": np.zeros(2, bool)},
    ):  # fmt: skip
        assert not take(blocks, **wrong), wrong
    for byte in (0, 9, 13, 20, 33, 41, 49, 57, 61, 63, 64, 4095):
        rotten = blocks.copy()
        rotten[1, byte] ^= 1
        assert not take(rotten), byte


async def test_pages_begin_where_a_page_does(reactor: ReactorLoop, zone_size: int) -> None:
    entries = entries_for(zone_size)
    core = core_with(reactor, zone_size, entries, np.ones(BLOCKS, np.uint16))
    how = {"media_end": 1, "uuid": UUID, "generation": 1, "wide": False}
    with pytest.raises(ValueError, match="no page begins"):
        _shim.checkpoint_pages(core, 1008, 10, **how)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beyond the last LBA"):
        _shim.checkpoint_pages(core, 4032, BLOCKS, **how)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beyond the last band"):
        core.zone_pointers(0, ZONES)
    assert len(_shim.checkpoint_pages(core, 0, 100, **how)) == 0, "no entry is below media_end"  # type: ignore[arg-type]
    core.close()


def rows(*versions: tuple[int, int]) -> np.ndarray:
    made = np.zeros(len(versions), ENTRY)
    made["lba"], made["seq"] = zip(*versions, strict=True)
    return made.view(np.uint8).reshape(-1, ENTRY.itemsize)


def test_entries_count_as_versions_with_the_seq_before_s0() -> None:
    """LBAs 0 to 3 have an entry, 4 and 5 do not."""
    table = _shim.RestoredL2p(8, 1000, many_seqs=False)
    table.put_range(0, np.array([[100, 101, 102, 103]], np.uint64), 4)
    table.assume(49)
    addresses = np.array([200, 201, 202, 203], np.uint64)
    # An old copy, the same seq, a newer version; and any version where there is no entry.
    table.add(rows((0, 30), (1, 49), (2, 50), (4, 3)), addresses, all_doubtful=False)
    assert table.l2p(0, 6).tolist() == [100, 101, 202, 103, 203, _shim.ADDRESS_INVALID]
    assert table.seqs_of(np.arange(6, dtype=np.uint64)).tolist() == [49, 49, 50, 49, 3, 0]
    assert len(table.copies()) == 32, "of LBA 1"
    trim = np.uint64(_shim.TRIM_FLAG | 300)
    one = np.ones(1, np.uint64)
    table.apply_records(np.zeros(1, np.uint64), one * np.uint64(6), one * np.uint64(48), np.array([trim]))
    assert table.l2p(0, 6).tolist() == [100, 101, 202, 103, int(trim), int(trim)]
    table.apply_records(one * np.uint64(3), one, one * np.uint64(60), np.array([trim]))
    assert table.l2p(3, 1).tolist() == [int(trim)]
    held = table.supersede(np.zeros(1, np.uint64), one * np.uint64(2), one * np.uint64(49))
    assert held.tolist() == [0], "nothing held is newer"
    assert table.supersede(np.zeros(1, np.uint64), one * np.uint64(2), one * np.uint64(50)).tolist() == [2]
