"""What a load knows of each LBA, beside a model in numpy; and which parts of ranges are left."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.layout import ENTRY, cut_crcs
from unit.ftl.media.summaries import build_summary

BLOCKS = 40
NARROW, WIDE = 1 << 20, 1 << 31
HEADER = (1 << 64) - 1


def rows(*each: tuple[int, int]) -> NDArray[np.uint8]:
    """(lba, seq)"""
    entries = np.zeros(len(each), ENTRY)
    for entry, (lba, seq) in zip(entries, each, strict=True):
        entry["lba"], entry["seq"], entry["crc"] = lba, seq, (lba * 977 + seq * 65537) & 0xFFFFFFFF
    return entries.view(np.uint8).reshape(-1, ENTRY.itemsize)


def u64(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


@pytest.mark.parametrize("base_blocks", [NARROW, WIDE])
@given(
    zones=st.lists(st.lists(st.tuples(st.integers(0, BLOCKS + 2), st.integers(1, 30)), max_size=40), max_size=5),
    held=st.sets(st.integers(0, BLOCKS - 1), max_size=10),
)
def test_the_newest_row_counts_and_copies_and_held_lbas_are_told(
    base_blocks: int, zones: list[list[tuple[int, int]]], held: set[int]
) -> None:
    l2p = _shim.RestoredL2p(BLOCKS, base_blocks, with_crcs=True)
    l2p.hold(u64(*held), np.ones(len(held), np.uint64))
    newest: dict[int, tuple[int, int]] = {}
    copies = []
    for number, zone in enumerate(zones):
        addresses = np.arange(len(zone), dtype=np.uint64) + np.uint64(number * 1000)
        doubtful, blocks, seq_sum = l2p.add(rows(*zone), addresses, all_doubtful=False)
        known = [seq for lba, seq in zone if lba < BLOCKS]
        assert (blocks, seq_sum) == (len(known), sum(known))
        # As if all of them were whole.
        l2p.merge(rows(*zone)[doubtful], addresses[doubtful])
        in_doubt = set(doubtful.tolist())
        assert in_doubt <= {i for i, (lba, _) in enumerate(zone) if lba in held}
        order = [i for i in range(len(zone)) if i not in in_doubt] + sorted(in_doubt)
        for i in order:
            lba, seq = zone[i]
            if lba >= BLOCKS or (lba in held and i not in in_doubt):
                continue
            if seq > newest.get(lba, (0, 0))[0]:
                newest[lba] = (seq, number * 1000 + i)
            elif seq == newest[lba][0]:
                copies.append((lba, seq, number * 1000 + i))
    every = np.arange(BLOCKS, dtype=np.uint64)
    expected = [newest.get(lba, (0, _shim.ADDRESS_INVALID)) for lba in range(BLOCKS)]
    assert l2p.seqs_of(every).tolist() == [seq for seq, _ in expected]
    assert l2p.l2p(0, BLOCKS).tolist() == l2p.entries_of(every).tolist() == [address for _, address in expected]
    crcs = cut_crcs(rows(*((lba, seq) for lba, (seq, _) in newest.items())).view(ENTRY)["crc"].reshape(-1))
    assert [int(l2p.crcs(lba, 1)[0]) for lba in newest] == crcs.tolist()
    told = l2p.copies().view([("lba", "<u8"), ("seq", "<u8"), ("address", "<u8"), ("crc", "<u4"), ("in_table", "<u4")])
    assert [(int(each["lba"]), int(each["seq"]), int(each["address"])) for each in told] == copies
    assert (told["in_table"] == 0).all()


def test_with_all_doubtful_only_what_is_not_older_is_left_out() -> None:
    l2p = _shim.RestoredL2p(BLOCKS, NARROW)
    l2p.add(rows((1, 5), (2, 5)), u64(10, 11), all_doubtful=False)
    doubtful, blocks, _ = l2p.add(rows((1, 4), (2, 5), (3, 1), (HEADER, 0)), u64(20, 21, 22, 23), all_doubtful=True)
    assert (doubtful.tolist(), blocks) == ([1, 2], 3)
    assert l2p.entries_of(u64(1, 2, 3)).tolist() == [10, 11, _shim.ADDRESS_INVALID]


def test_the_row_of_a_header_is_no_block_whatever_its_lba() -> None:
    entries = np.zeros(3, ENTRY)
    entries["lba"], entries["seq"], entries["flags"] = (1, 2, HEADER), (7, 8, 0), (0, 0x10001, 0x10002)
    blocks = build_summary(uuid.UUID(int=5), band=3, punit=1, band_seq=9, entries=entries, summary_blocks=1)
    summary = _shim.Summary.of(blocks, uuid.UUID(int=5).bytes, 3, 1)
    assert summary is not None
    assert (summary.row_count, summary.record_headers, summary.highest_seq) == (3, [2], 8)
    l2p = _shim.RestoredL2p(BLOCKS, NARROW)
    assert l2p.add_summary(summary, 100, all_doubtful=False)[1:] == (1, 7.0)
    assert l2p.l2p(0, 3).tolist() == [_shim.ADDRESS_INVALID, 100, _shim.ADDRESS_INVALID]


def test_a_record_counts_where_nothing_is_newer_and_a_held_write_where_something_is_older() -> None:
    l2p = _shim.RestoredL2p(8, NARROW)
    l2p.add(rows(*((lba, 10 + lba) for lba in range(6))), np.arange(6, dtype=np.uint64), all_doubtful=False)
    trim, lost = _shim.TRIM_FLAG | 77, _shim.LOST_FLAG | 78
    l2p.apply_records(u64(2, 4), u64(2, 3), u64(12, 14), u64(trim, lost))
    assert l2p.l2p(0, 8).tolist() == [0, 1, trim, 3, lost, 5, lost, _shim.ADDRESS_INVALID]
    assert l2p.zone_use(2, 39 + 1)[0].tolist()[:3] == [2, 1, 1]
    assert l2p.zone_use(2, 40)[1].tolist()[38:] == [1, 2]
    assert l2p.zone_use(3, 27)[1].tolist()[25:] == [1, 2]
    with pytest.raises(IndexError, match="behind the last zone"):
        l2p.zone_use(2, 39)
    assert l2p.supersede(u64(0, 7), u64(5, 1), u64(13, 1)).tolist() == [3, 1]
    assert l2p.l2p(0, 8).tolist() == [_shim.ADDRESS_INVALID] * 3 + [3, lost, 5, lost, _shim.ADDRESS_INVALID]


def test_ranges_and_arrays_that_do_not_fit_are_refused() -> None:
    l2p = _shim.RestoredL2p(8, NARROW)
    for refused in (
        lambda: l2p.hold(u64(8), u64(1)),
        lambda: l2p.apply_records(u64(3), u64(HEADER), u64(1), u64(1)),
        lambda: l2p.supersede(u64(9), u64(0), u64(1)),
        lambda: l2p.put(u64(8), u64(0)),
        lambda: l2p.put_range(7, u64(1, 2)),
        lambda: l2p.l2p(0, 9),
        lambda: l2p.seqs_of(u64(8)),
    ):
        with pytest.raises(IndexError, match="beyond the last LBA"):
            refused()
    for wrong in (
        lambda: l2p.add(rows((1, 1)), u64(), all_doubtful=False),
        lambda: l2p.put(u64(1), u64(1), seqs=u64()),
        lambda: _shim.uncovered_parts(u64(1), u64(), 8),
    ):
        with pytest.raises(ValueError, match="different lengths"):
            wrong()
    l2p.drop_seqs()
    with pytest.raises(ValueError, match="the seqs were dropped"):
        l2p.merge(rows((1, 1)), u64(1))


def test_memory_below_an_lba_is_released_in_huge_pages_and_a_larger_device_has_the_same_entries() -> None:
    l2p = _shim.RestoredL2p(1 << 20, NARROW, with_crcs=True)
    some = u64(0, (1 << 19) - 1, 1 << 19, (1 << 20) - 1)
    l2p.put(some, u64(1, 2, 3, 4), crcs=np.array([5, 6, 7, 8], np.uint16))
    larger = l2p.grown((1 << 20) + 9, WIDE)
    assert larger.entries_of(some).tolist() == [1, 2, 3, 4]
    assert larger.crcs(1 << 19, 1).tolist() == [7]
    assert larger.l2p(1 << 20, 9).tolist() == [_shim.ADDRESS_INVALID] * 9
    l2p.release_below((1 << 19) + 5)
    assert l2p.entries_of(some).tolist() == [_shim.ADDRESS_INVALID] * 2 + [3, 4]
    with pytest.raises(ValueError, match="smaller"):
        l2p.grown(1 << 19, NARROW)


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 30)), max_size=30), st.integers(0, 64))
def test_each_lba_belongs_to_the_first_range_that_has_it(ranges: list[tuple[int, int]], end: int) -> None:
    owner: dict[int, int] = {}
    for number, (first, count) in enumerate(ranges):
        for lba in range(first, min(end, first + count)):
            owner.setdefault(lba, number)
    which, first, count = _shim.uncovered_parts(u64(*(r[0] for r in ranges)), u64(*(r[1] for r in ranges)), end)
    parts = list(zip(which.tolist(), first.tolist(), count.tolist(), strict=True))
    assert {lba: number for number, start, length in parts for lba in range(start, start + length)} == owner
    assert sum(length for _, _, length in parts) == len(owner)
