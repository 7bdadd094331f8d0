"""What a load knows of each LBA, beside a model in numpy; and which parts of ranges are left."""

from __future__ import annotations

import random
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.layout import ENTRY, cut_crcs
from unit.ftl.media.summaries import build_summary
from unit.shim.ftl.core_bench import Bench
from unit.shim.ftl.core_model import recover, restarted

BLOCKS = 40
NARROW, COMPACT, WIDE = 1 << 20, 1 << 31, 1 << 33
HEADER = (1 << 64) - 1


def rows(*each: tuple[int, int]) -> NDArray[np.uint8]:
    """(lba, seq)"""
    entries = np.zeros(len(each), ENTRY)
    for entry, (lba, seq) in zip(entries, each, strict=True):
        entry["lba"], entry["seq"], entry["crc"] = lba, seq, (lba * 977 + seq * 65537) & 0xFFFFFFFF
    return entries.view(np.uint8).reshape(-1, ENTRY.itemsize)


def u64(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)


@pytest.mark.parametrize("base_blocks", [NARROW, COMPACT, WIDE])
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
    counts = l2p.count(2, 40)
    assert (counts.blocks.tolist()[:3], counts.records.tolist()[38:]) == ([2, 1, 1], [1, 2])
    assert l2p.count(3, 27).records.tolist()[25:] == [1, 2]
    assert (counts.known, counts.content) == (7, 6)
    with pytest.raises(IndexError, match="behind the last zone"):
        l2p.count(2, 39)
    l2p.put(u64(7), u64(_shim.SLOT_FLAG))
    with pytest.raises(IndexError, match="not an address"):
        l2p.count(2, 40)
    l2p.put(u64(7), u64(_shim.ADDRESS_INVALID))
    assert l2p.supersede(u64(0, 7), u64(5, 1), u64(13, 1)).tolist() == [3, 1]
    assert l2p.l2p(0, 8).tolist() == [_shim.ADDRESS_INVALID] * 3 + [3, lost, 5, lost, _shim.ADDRESS_INVALID]


def test_ranges_and_arrays_that_do_not_fit_are_refused() -> None:
    l2p = _shim.RestoredL2p(8, NARROW)
    for refused in (
        lambda: l2p.hold(u64(8), u64(1)),
        lambda: l2p.apply_records(u64(3), u64(HEADER), u64(1), u64(1)),
        lambda: l2p.supersede(u64(9), u64(0), u64(1)),
        lambda: l2p.put(u64(8), u64(0)),
        lambda: l2p.put_range(7, u64(1, 2).reshape(1, 2), 2),
        lambda: l2p.put_range(7, u64(1, 2).reshape(2, 1).astype(np.uint32), 2),
        lambda: l2p.put_crcs(8, np.zeros((1, 1), np.uint16), 1),
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
    for count, entries in ((3, u64(1, 2).reshape(1, 2)), (1, u64(1, 2, 3, 4).reshape(1, 4)[:, ::2])):
        with pytest.raises(ValueError, match="more entries than there are, or apart"):
            l2p.put_range(0, entries, count)
    for zone_size, chunk in ((0, 4), (2, 0), (2, 3), (2, 256)):
        with pytest.raises(ValueError, match=r"^count: "):
            l2p.count(zone_size, 8, trim_chunk=chunk)
    l2p.drop_seqs()
    with pytest.raises(ValueError, match="the seqs were dropped"):
        l2p.merge(rows((1, 1)), u64(1))


@pytest.mark.parametrize("base_blocks", [NARROW, COMPACT, WIDE])
def test_a_larger_device_has_the_same_entries(base_blocks: int) -> None:
    l2p = _shim.RestoredL2p(1 << 20, NARROW, with_crcs=True)
    some = u64(0, (1 << 19) - 1, 1 << 19, (1 << 20) - 1)
    entries = u64(1, 2, _shim.TRIM_FLAG | 3, 4)
    l2p.put(some, entries, crcs=np.array([5, 6, 7, 8], np.uint16))
    larger = l2p.grown((1 << 20) + 9, base_blocks)
    assert np.array_equal(larger.entries_of(some), entries)
    assert larger.crcs(1 << 19, 1).tolist() == [7]
    assert larger.l2p(1 << 20, 9).tolist() == [_shim.ADDRESS_INVALID] * 9
    with pytest.raises(ValueError, match="smaller"):
        l2p.grown(1 << 19, NARROW)


@pytest.mark.parametrize("base_blocks", [NARROW, COMPACT, WIDE])
@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_rows_of_entries_may_have_something_between_them(base_blocks: int, dtype: str) -> None:
    l2p = _shim.RestoredL2p(BLOCKS, base_blocks, with_crcs=True, with_seqs=False)
    blocks = np.zeros((3, 8), dtype)
    blocks[:, 3:] = np.arange(15).reshape(3, 5)
    blocks[1, 4] = np.iinfo(dtype).max
    l2p.put_range(2, blocks[:, 3:], 12)
    expected = [*range(6), _shim.ADDRESS_INVALID, *range(7, 12)]
    assert l2p.l2p(0, BLOCKS).tolist() == [*[_shim.ADDRESS_INVALID] * 2, *expected, *[_shim.ADDRESS_INVALID] * 26]
    l2p.put_crcs(2, np.arange(16, dtype=np.uint16).reshape(2, 8)[:, 2:], 9)
    assert l2p.crcs(1, 11).tolist() == [0, 2, 3, 4, 5, 6, 7, 10, 11, 12, 0]


# --- the core takes it


def loaded(bench: Bench) -> tuple[Bench, Bench]:
    """What bench has on media, in two cores: one visits each entry, the other takes the table."""
    bench.media.power_cut(1)
    bench.close()
    bench.media.power_on()
    recovered = recover(bench)
    options = {"trim_chunk": bench.trim_chunk, "media": bench.media, "reactor": bench.reactor}
    visits = Bench(next_seq=recovered.next_seq, first_band_seq=recovered.next_band_seq, **options)
    for number, (state, seq, pointers) in enumerate(recovered.bands):
        visits.core.load_band(number, state, seq, pointers)
    visits.core.load_l2p(0, recovered.entries, recovered.crcs)
    return visits, restarted(bench, recovered, trim_chunk=bench.trim_chunk)


@pytest.mark.parametrize("trim_chunk", [1, 8, 128])
def test_a_core_that_takes_the_table_knows_what_one_knows_that_visits_its_entries(trim_chunk: int) -> None:
    with Bench(trim_chunk=trim_chunk) as bench:
        rng = random.Random(trim_chunk)
        for version in range(1, 400):
            bench.put(rng.randrange(bench.block_count), version)
            if version % 20 == 0:
                assert bench.run(_shim.Op.DEALLOCATE, rng.randrange(bench.block_count - 70), rng.randrange(70)) == 0
        bench.put(0, 900)
        assert bench.flush() == 0
        visits, takes = loaded(bench)
        assert len({int(entry) >> 62 for entry in takes.core.l2p(0, bench.block_count)}) >= 3, "data, trims, nothing"
        for core in (visits.core, takes.core):
            assert core.allocated_blocks() > 0
        assert visits.core.allocated_blocks() == takes.core.allocated_blocks()
        assert np.array_equal(visits.core.l2p(0, bench.block_count), takes.core.l2p(0, bench.block_count))
        assert np.array_equal(visits.core.crcs(0, bench.block_count), takes.core.crcs(0, bench.block_count))
        for one, other in zip(visits.core.bands(), takes.core.bands(), strict=True):
            assert (one.valid, one.references, one.written, one.state) == (
                *(other.valid, other.references, other.written, other.state),
            )
        visits.close()
        # The chunks' counts say when a trim finds nothing.
        takes.put(bench.block_count // 2, 901)
        assert takes.run(_shim.Op.DEALLOCATE, 0, bench.block_count) == 0
        assert takes.core.allocated_blocks() == 0
        takes.settle()
        takes.audit()
        assert takes.versions() == [0] * bench.block_count
        takes.close()


def test_a_core_refuses_a_table_that_is_not_its_own_or_was_not_counted_as_it_is() -> None:
    with Bench() as bench:
        zones = bench.media.block_count // bench.zone_size
        where = bench.zones[0][0]

        def table(blocks: int = bench.block_count, base: int = bench.media.block_count) -> _shim.RestoredL2p:
            return _shim.RestoredL2p(blocks, base, with_crcs=True, with_seqs=False)

        def refused(l2p: _shim.RestoredL2p, counts: _shim.L2pCounts, message: str) -> None:
            with pytest.raises(ValueError, match=message):
                bench.core.take_l2p(l2p, counts)
            assert bench.core.allocated_blocks() == 0
            assert not any(band.valid or band.references for band in bench.core.bands())

        for other in (table(bench.block_count + 1), table(base=WIDE), table(base=COMPACT)):
            refused(other, other.count(bench.zone_size, zones), "of another device")
        good = table()
        good.put(u64(5), u64(where), crcs=np.array([1], np.uint16))
        refused(good, good.count(bench.zone_size * 2, zones), "not those of the table")
        stale = good.count(bench.zone_size, zones)
        good.put(u64(6), u64(where + 1), crcs=np.array([1], np.uint16))
        refused(good, stale, "not those of the table")
        good.put(u64(6), u64(0), crcs=np.array([1], np.uint16))
        refused(good, good.count(bench.zone_size, zones), "not an address in a band")
        bare = _shim.RestoredL2p(bench.block_count, bench.media.block_count, with_seqs=False)
        bare.put(u64(5), u64(where))
        refused(bare, bare.count(bench.zone_size, zones), "blocks need their CRCs")
        good.put(u64(6), u64(where + 1))
        # Counts of other chunks are made anew.
        bench.core.take_l2p(good, good.count(bench.zone_size, zones, trim_chunk=bench.trim_chunk // 2))
        assert bench.core.allocated_blocks() == 2
        assert good.l2p(5, 2).tolist() == [_shim.ADDRESS_INVALID] * 2, "its memory is the core's"
        with pytest.raises(ValueError, match="has an L2P already"):
            bench.core.take_l2p(good, good.count(bench.zone_size, zones))


# --- forms in memory

ZONE_SIZE, ZONE_CAPACITY = 1 << 19, 275_712
"""2 GiB and 1077 MiB."""
FORMS = {
    # base blocks, zone size, zone capacity, bytes of an entry
    "narrow": (NARROW, 64, 48, 4),
    "narrow-to-the-last": ((1 << 30) - 8192, 1 << 20, 1 << 20, 4),
    "numbered": (3616 * ZONE_SIZE, ZONE_SIZE, ZONE_CAPACITY, 4),
    "numbered-zones-of-any-size": (3616 * 500_009, 500_009, ZONE_CAPACITY + 1, 4),
    "compact": (COMPACT, 1 << 20, 1 << 20, 4),
    "compact-with-holes": (15_300 * ZONE_SIZE, ZONE_SIZE, ZONE_CAPACITY, 4),
    "compact-zones-of-any-size": (15_300 * 500_009, 500_009, ZONE_CAPACITY + 1, 4),
    "compact-to-the-last": ((1 << 32) - (1 << 24) - (1 << 14), 1 << 14, 1 << 14, 4),
    "compact-with-an-early-end": (2 * (1 << 31) + 77, 1 << 31, (1 << 31) - (1 << 25), 4),
    "wide": ((1 << 32) - (1 << 24), 1 << 14, 1 << 14, 8),
    "wide-with-holes": (16_384 * ZONE_SIZE, ZONE_SIZE, ZONE_CAPACITY, 8),
}


@st.composite
def entries_of_form(draw: st.DrawFn, base: int, zone_size: int, capacity: int) -> int:
    last = (base - 1) // zone_size
    zone = draw(st.sampled_from([0, 1, last]) | st.integers(0, last))
    room = min(capacity, base - zone * zone_size)
    offset = draw(st.sampled_from([0, room - 1]) | st.integers(0, room - 1))
    address = zone * zone_size + offset
    flag = draw(st.sampled_from([0, _shim.TRIM_FLAG, _shim.LOST_FLAG]))
    slot = _shim.SLOT_FLAG | draw(st.sampled_from([0, (1 << 24) - 1]) | st.integers(0, (1 << 24) - 1))
    # A record that is not on media: at the top of the payloads.
    record = draw(st.sampled_from([0, 8189]) | st.integers(0, 8189))
    pending = draw(st.sampled_from([_shim.TRIM_FLAG, _shim.LOST_FLAG])) | ((1 << 62) - 2 - record)
    return draw(st.sampled_from([flag | address, slot, pending, _shim.ADDRESS_INVALID]))


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_each_form_gives_back_what_it_got(form: str, data: st.DataObject) -> None:
    base, zone_size, capacity, width = FORMS[form]
    assert _shim.l2p_entry_bytes(base, zone_size, capacity) == width
    table = _shim.RestoredL2p(BLOCKS, base, zone_size=zone_size, zone_capacity=capacity, with_seqs=False)
    known = [_shim.ADDRESS_INVALID] * BLOCKS
    entry = entries_of_form(base, zone_size, capacity)
    for lba, value in data.draw(st.lists(st.tuples(st.integers(0, BLOCKS - 1), entry), max_size=60)):
        table.put(u64(lba), u64(value))
        known[lba] = value
    assert table.l2p(0, BLOCKS).tolist() == known
    zones = -(-base // zone_size)
    on_media = [value for value in known if value >> 62 != 1 and value & ((1 << 62) - 1) < base]
    if all(value in on_media or value == _shim.ADDRESS_INVALID for value in known):
        counts = table.count(zone_size, zones)
        blocks, records = np.zeros(zones, np.uint64), np.zeros(zones, np.uint64)
        for value in on_media:
            (records if value >> 62 else blocks)[(value & ((1 << 62) - 1)) // zone_size] += 1
        assert np.array_equal(counts.blocks, blocks)
        assert np.array_equal(counts.records, records)
    else:
        with pytest.raises(IndexError):
            table.count(zone_size, zones)


@pytest.mark.parametrize("form", FORMS)
def test_an_entry_that_is_in_no_zone_fails_the_count_instead_of_becoming_another(form: str) -> None:
    base, zone_size, capacity, _ = FORMS[form]
    wrong = [base, base + zone_size - 1, 1 << 61]
    if capacity < zone_size and form.startswith(("numbered", "compact")):
        wrong.append(capacity)
    for payload in wrong:
        for flag in (0, _shim.TRIM_FLAG, _shim.LOST_FLAG):
            for put in ("put", "put_range", "apply_records"):
                table = _shim.RestoredL2p(BLOCKS, base, zone_size=zone_size, zone_capacity=capacity)
                entry = u64(flag | payload)
                if put == "put":
                    table.put(u64(3), entry)
                elif put == "put_range":
                    table.put_range(3, entry.reshape(1, 1), 1)
                else:
                    table.apply_records(u64(3), u64(1), u64(1), entry)
                with pytest.raises(IndexError):
                    table.count(zone_size, base // zone_size)


def test_narrow_entries_of_a_checkpoint_are_addresses_in_every_form() -> None:
    for base, zone_size, capacity, _ in FORMS.values():
        if base < 1 << 21:
            continue
        table = _shim.RestoredL2p(8, base, zone_size=zone_size, zone_capacity=capacity)
        zone = min((1 << 30) // zone_size, base // zone_size) - 1
        entries = [5, zone * zone_size + capacity - 1, 2 << 30 | zone * zone_size, 3 << 30 | 7, (1 << 32) - 1]
        if zone < 0:
            entries = [5, capacity // 4, 2 << 30 | 9, 3 << 30 | 7, (1 << 32) - 1]
        table.put_range(1, np.array([entries], np.uint32), 5)
        wanted = [
            _shim.ADDRESS_INVALID if entry == (1 << 32) - 1 else (entry >> 30) << 62 | (entry & ((1 << 30) - 1))
            for entry in entries
        ]
        assert table.l2p(1, 5).tolist() == wanted


def test_records_take_memory_only_where_they_are() -> None:
    """Two bits for each LBA, in pages of 16,384 LBAs, in the compact form; nothing in the others."""
    blocks = 1 << 22

    def resident() -> int:
        with open("/proc/self/smaps_rollup") as told:
            return next(int(line.split()[1]) for line in told if line.startswith("Rss:")) << 10

    def taken(flag: int) -> int:
        table = _shim.RestoredL2p(blocks, COMPACT, with_seqs=False)
        every = np.arange(blocks, dtype=np.uint64)
        entries = every | np.uint64(flag)
        before = resident()
        table.put(every, entries)
        return resident() - before

    plain, trimmed = taken(0), taken(_shim.TRIM_FLAG)
    assert plain < 4.1 * blocks + (1 << 20)
    assert 4.2 * blocks - (1 << 20) < trimmed < 4.3 * blocks + (1 << 20)


# --- ranges


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
