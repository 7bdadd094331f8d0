"""What is held elsewhere than on media, merged: newest seq wins, and a whole copy over one that is damaged."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load.held import HELD_BLOCK, HELD_RECORD, HeldIndex, HeldWrites, RecoveredBlock, RecoveredRecord
from spdk_ftl_py.ftl.media.layout import ENTRY_FLAG_LOST, ENTRY_FLAG_TRIM

NOTHING = _shim.ADDRESS_INVALID


def held(
    *, blocks: list[tuple[int, int]] = (), records: list[tuple[int, int, int, int]] = (), damaged: list[int] = ()
) -> HeldWrites:  # fmt: skip
    """blocks: (lba, seq). records: (lba, seq, block_count, flags)."""
    return HeldWrites(
        blocks=np.array([(lba, seq, seq) for lba, seq in blocks], HELD_BLOCK),
        data=np.array([np.full(4096, seq % 251, np.uint8) for _, seq in blocks]).reshape(-1, 4096),
        records=np.array(list(records), HELD_RECORD),
        damaged={seq: f"seq {seq} is damaged" for seq in damaged},
    )


def supersede(sources: list[HeldWrites], media: list[int]) -> tuple[list[int], list[object], list[str]]:
    index = HeldIndex(sources, len(media))
    lbas = np.arange(len(media), dtype=np.uint64)
    l2p = _shim.RestoredL2p(len(media), 1 << 20)
    l2p.put(lbas, lbas, seqs=np.array(media, np.uint64))
    found = index.supersede(l2p)
    return l2p.l2p(0, len(media)).tolist(), list(found), index.damage


@pytest.mark.parametrize("first", [0, 1])
def test_a_block_that_is_damaged_in_one_source_comes_whole_from_another(first: int) -> None:
    sources = [held(records=[(1, 9, 1, ENTRY_FLAG_LOST)], damaged=[9]), held(blocks=[(1, 9)])]
    entries, found, damage = supersede(sources[first:] + sources[:first], [5, 5])
    assert (entries, damage) == ([0, NOTHING], [])
    (block,) = found
    assert isinstance(block, RecoveredBlock)
    assert (block.lba, block.seq) == (1, 9)


def test_a_block_that_is_damaged_everywhere_is_lost_and_told() -> None:
    entries, found, damage = supersede([held(records=[(1, 9, 1, ENTRY_FLAG_LOST)], damaged=[9])], [5, 5])
    assert (entries, damage) == ([0, NOTHING], ["seq 9 is damaged"])
    assert found == [RecoveredRecord(1, 1, 9, ENTRY_FLAG_LOST)]


def test_only_what_is_newer_than_media_and_than_each_other_is_recovered_in_order_of_seq() -> None:
    sources = [
        held(blocks=[(0, 4), (2, 8), (2, 12)], records=[(1, 10, 2, ENTRY_FLAG_TRIM)]),
        held(blocks=[(3, 3), (1, 7)]),
    ]
    entries, found, _ = supersede(sources, [5, 5, 5, 2])
    assert entries == [0, NOTHING, NOTHING, NOTHING]
    assert [(type(each).__name__, each.lba, each.seq) for each in found] == [  # type: ignore[attr-defined]
        ("RecoveredBlock", 3, 3),
        ("RecoveredRecord", 1, 10),
        ("RecoveredBlock", 2, 12),
    ]


def test_blocks_alone_are_indexed_as_beside_records_but_without_a_map_of_ranges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An nv cache may hold very many of them."""
    rng = np.random.default_rng(3)
    blocks = [(int(lba), seq) for seq, lba in enumerate(rng.integers(0, 40, 100), 1)]
    media = rng.integers(0, 100, 64).tolist()
    entries, found, _ = supersede([held(blocks=blocks), held(records=[(63, 1, 1, ENTRY_FLAG_TRIM)])], [*media[:63], 2])
    monkeypatch.delattr(_shim, "uncovered_parts")
    assert supersede([held(blocks=blocks)], [*media[:63], 2])[0] == entries
    again = supersede([held(blocks=blocks[:60]), held(blocks=blocks[60:])], [*media[:63], 2])[1]
    names = [[(each.lba, each.seq) for each in some] for some in (found, again)]  # type: ignore[attr-defined]
    assert names[0] == names[1] != []
