"""The scrub of a band: what is in force is read where it stands, what is bad is told, and nothing is declared lost."""

from __future__ import annotations

import random

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, STEP_NS, Bench

UNRECOVERED_READ = 0x281
GUARD_CHECK = 0x282
ABORTED = 0x007
ZONE_OFFLINE = 0x1BB
SECOND_NS = 1_000_000_000
STEPS_MAX = 60_000


def fill(bench: Bench) -> None:
    """Every LBA once, at random, and some of them again."""
    rng = random.Random(20261128)
    lbas = list(range(bench.block_count))
    rng.shuffle(lbas)
    for version, lba in enumerate(lbas + lbas[: bench.block_count // 4], 1):
        bench.put(lba, version)
    assert bench.flush() == 0
    bench.settle()


def closed_bands(bench: Bench) -> list[int]:
    return [
        number for number, band in enumerate(bench.core.bands()) if band.state == _shim.BandState.CLOSED and band.valid
    ]


def fullest(bench: Bench) -> int:
    bands = bench.core.bands()
    return max(closed_bands(bench), key=lambda number: int(str(bands[number].valid)))


def lbas_of(bench: Bench, band: int) -> list[int]:
    return [
        lba
        for lba in range(bench.block_count)
        if bench.address(lba) < 1 << 62 and bench.zone_of(bench.address(lba))[0] == band
    ]


def scrub(bench: Bench, band: int, *, step_ns: int = STEP_NS) -> _shim.ScrubStatus:
    bench.core.start_scrub(band)
    return end(bench, step_ns=step_ns)


def end(bench: Bench, *, step_ns: int = STEP_NS) -> _shim.ScrubStatus:
    for _ in range(STEPS_MAX):
        bench.now_ns += step_ns - STEP_NS
        bench.step()
        if bench.take(_shim.EventKind.SCRUB_DONE):
            status = bench.core.scrub_status()
            assert status.under_way is False
            return status
    raise AssertionError("the scrub does not end")


def delta(bench: Bench, before: _shim.CoreStats) -> dict[str, int]:
    return {
        name: value - getattr(before, name)
        for name, value in bench.core.stats().as_dict().items()
        if name.startswith("scrub_")
    }


def test_all_data_in_force_of_every_band_is_read_also_of_those_being_written() -> None:
    with Bench() as bench:
        fill(bench)
        before = bench.core.stats()
        states = set()
        for number, band in enumerate(bench.core.bands()):
            if band.valid and band.state in (_shim.BandState.OPEN, _shim.BandState.CLOSING, _shim.BandState.CLOSED):
                states.add(band.state)
                assert scrub(bench, number).end == _shim.ScrubEnd.READ
        assert states >= {_shim.BandState.OPEN, _shim.BandState.CLOSED}
        assert delta(bench, before)["scrub_read_blocks"] == bench.block_count
        assert not bench.take(_shim.EventKind.BAND_UNREADABLE)
        after = bench.core.stats()
        assert after.reloc_moved_blocks == before.reloc_moved_blocks, "nothing is moved"
        bench.audit()


def test_one_band_at_a_time_and_only_one_that_has_data() -> None:
    with Bench() as bench:
        fill(bench)
        free = next(number for number, band in enumerate(bench.core.bands()) if band.state == _shim.BandState.FREE)
        with pytest.raises(ValueError, match="neither closed nor being written"):
            bench.core.start_scrub(free)
        first, second = closed_bands(bench)[:2]
        bench.core.start_scrub(first)
        with pytest.raises(BlockingIOError):
            bench.core.start_scrub(second)
        assert end(bench).band == first


@pytest.mark.parametrize("verify_reads", [True, False])
def test_rot_is_found_without_a_hosts_read_and_its_band_is_to_be_moved(verify_reads: bool) -> None:
    with Bench(verify_reads=verify_reads) as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        lba = lbas_of(bench, band)[7]
        address = bench.address(lba)
        bench.media.rot(address, 12345)
        before = bench.core.stats()
        found = scrub(bench, band)
        assert (found.end, found.status, found.address) == (_shim.ScrubEnd.BAD, GUARD_CHECK, address)
        assert delta(bench, before)["scrub_bad_blocks"] == 1
        told = bench.take(_shim.EventKind.BAND_UNREADABLE)
        assert [(event.band, event.address, event.status) for event in told] == [(band, address, GUARD_CHECK)]
        assert bench.core.bands()[band].state == _shim.BandState.FAULTED
        assert bench.core.stats().lost_blocks == 0, "the scrub declares nothing lost"


def test_what_can_be_read_the_second_time_is_not_bad() -> None:
    with Bench() as bench:
        fill(bench)
        for fault in ({"flip": True}, {"status": UNRECOVERED_READ}):
            bench.media.inject_fault(op=_shim.Op.READ, skip=1, times=1, **fault)
            assert scrub(bench, fullest(bench)).end == _shim.ScrubEnd.READ
        assert not bench.take(_shim.EventKind.BAND_UNREADABLE)


def test_a_block_that_media_refuse_costs_no_neighbour() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        address = bench.address(lbas_of(bench, band)[3])
        bench.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=UNRECOVERED_READ)
        found = scrub(bench, band)
        assert (found.end, found.status, found.address) == (_shim.ScrubEnd.BAD, UNRECOVERED_READ, address)


def test_a_rotten_summary_is_found_and_the_data_all_the_same() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        summary = bench.zones[band][1] + bench.data_blocks
        bench.media.rot(summary, 8 * 2000 + 1)
        before = bench.core.stats()
        valid = len(lbas_of(bench, band))
        found = scrub(bench, band)
        assert (found.end, found.status, found.address) == (_shim.ScrubEnd.BAD, GUARD_CHECK, summary)
        assert delta(bench, before)["scrub_bad_metadata"] == 1
        assert delta(bench, before)["scrub_read_blocks"] == 2 * valid, "it has two looks at such a band"


def test_data_that_no_metadata_tell_of_are_missed() -> None:
    """A zone without a summary, in which a header rots: what stands behind it is found by a search, or counted."""
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        zone = bench.zones[band][0]
        for block in range(bench.data_blocks, bench.zone_capacity):
            bench.media.inject_fault(op=_shim.Op.READ, lba=zone + block, block_count=1, status=UNRECOVERED_READ)
        bench.media.rot(zone, 8 * 100)
        found = scrub(bench, band)
        assert found.end == _shim.ScrubEnd.BAD
        assert bench.core.stats().scrub_bad_metadata == 1


@pytest.mark.parametrize("zone", [0, 1])
def test_rot_in_the_header_of_a_zone_finished_early_is_missed_by_counting(zone: int) -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        start = bench.zones[band][zone]
        # As if no summary had ever been written there.
        for block in range(bench.data_blocks, bench.zone_capacity):
            for bit in range(8 * 80):
                bench.media.rot(start + block, bit)
        assert scrub(bench, band).end == _shim.ScrubEnd.READ, "headers tell all of it"
        bench.media.rot(start, 8 * 100)
        found = scrub(bench, band)
        assert (found.end, found.status) == (_shim.ScrubEnd.BAD, GUARD_CHECK)


def test_overwrites_meanwhile_are_no_gap() -> None:
    """Whatever is passed, or not yet, when it is overwritten."""
    rng = random.Random(3)
    with Bench() as bench:
        fill(bench)
        bench.gc = bench.auto_reset = False
        band = fullest(bench)
        lbas = lbas_of(bench, band)
        rng.shuffle(lbas)
        bench.core.set_scrub_rate(20_000)
        before = bench.core.stats()
        bench.core.start_scrub(band)
        for lba in lbas[: len(lbas) // 2]:
            bench.put(lba, 5000 + lba)
            for _ in range(rng.randrange(20)):
                bench.step()
        if not bench.take(_shim.EventKind.SCRUB_DONE):
            assert end(bench).end == _shim.ScrubEnd.READ
        assert bench.core.scrub_status().end == _shim.ScrubEnd.READ
        assert bench.core.stats().scrub_bad_metadata == 0
        assert delta(bench, before)["scrub_read_blocks"] <= len(lbas), "one look is enough"
        bench.audit()


@pytest.mark.parametrize("what", ["moved", "stopped"])
def test_a_band_that_is_moved_or_a_stop_ends_it_and_a_reset_waits_for_its_reads(what: str) -> None:
    with Bench() as bench:
        fill(bench)
        band = closed_bands(bench)[0]
        bench.media.inject_fault(op=_shim.Op.READ, latency_us=1000)
        bench.core.start_scrub(band)
        while not bench.core.bands()[band].readers:
            bench.step()
        if what == "stopped":
            bench.core.stop_scrub()
        else:
            bench.core.start_move(band)
        assert end(bench).end == _shim.ScrubEnd.LEFT
        assert bench.core.bands()[band].readers == 0
        bench.media.clear_faults()
        bench.settle(20_000)
        assert scrub(bench, closed_bands(bench)[0]).end == _shim.ScrubEnd.READ


def test_it_keeps_to_its_rate_and_another_rate_counts_at_once() -> None:
    with Bench() as bench:
        fill(bench)
        band = fullest(bench)
        bench.core.set_scrub_rate(100)
        began = bench.now_ns
        before = bench.core.stats().scrub_read_blocks
        assert scrub(bench, band, step_ns=1_000_000).end == _shim.ScrubEnd.READ
        blocks = bench.core.stats().scrub_read_blocks - before
        assert bench.now_ns - began >= (blocks - 32) * SECOND_NS // 100
        bench.core.set_scrub_rate(1)
        bench.core.start_scrub(band)
        for _ in range(1000):
            bench.step()
        assert bench.core.scrub_status().under_way
        bench.core.set_scrub_rate(0)
        began = bench.now_ns
        assert end(bench).end == _shim.ScrubEnd.READ
        assert bench.now_ns - began < SECOND_NS


def test_a_busy_base_is_waited_for_and_decides_nothing() -> None:
    with Bench() as bench:
        fill(bench)
        band = fullest(bench)
        bench.media.inject_fault(op=_shim.Op.READ, status=ABORTED, times=8)
        assert scrub(bench, band, step_ns=1_000_000).end == _shim.ScrubEnd.READ
        fault = bench.media.inject_fault(op=_shim.Op.READ, status=ABORTED)
        assert scrub(bench, band, step_ns=20_000_000).end == _shim.ScrubEnd.BUSY
        assert bench.core.failure == 0, "although it read nothing at all"
        assert bench.core.bands()[band].readers == 0
        assert not bench.take(_shim.EventKind.BAND_UNREADABLE)
        bench.media.clear_faults(fault)
        assert scrub(bench, band).end == _shim.ScrubEnd.READ


def test_a_block_that_the_base_is_too_busy_for_is_bad_where_it_reads_others() -> None:
    """As a target says it of a bad block: for ever."""
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        address = bench.address(lbas_of(bench, band)[5])
        bench.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=ABORTED)
        before = bench.core.stats()
        found = scrub(bench, band, step_ns=20_000_000)
        assert (found.end, found.status, found.address) == (_shim.ScrubEnd.BAD, ABORTED, address)
        assert delta(bench, before)["scrub_bad_blocks"] == 1, "and its neighbours are not"
        assert [event.band for event in bench.take(_shim.EventKind.BAND_UNREADABLE)] == [band]
        assert bench.core.failure == 0


def test_a_summary_that_the_base_is_too_busy_for_is_bad_where_it_reads_others() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        summary = bench.zones[band][1] + bench.data_blocks
        bench.media.inject_fault(op=_shim.Op.READ, lba=summary, block_count=1, status=ABORTED)
        before = bench.core.stats()
        found = scrub(bench, band, step_ns=20_000_000)
        assert (found.end, found.status, found.address) == (_shim.ScrubEnd.BAD, ABORTED, summary)
        assert delta(bench, before)["scrub_bad_metadata"] == 1
        assert bench.core.failure == 0


@pytest.mark.parametrize("metadata", [False, True])
def test_what_is_read_elsewhere_to_see_whether_the_base_is_busy_is_not_the_block(metadata: bool) -> None:
    """The band is left while that is under way."""
    with Bench() as bench:
        fill(bench)
        bench.gc = bench.auto_reset = False
        band = fullest(bench)
        address = bench.zones[band][0] + bench.data_blocks if metadata else bench.address(lbas_of(bench, band)[5])
        bench.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=ABORTED)
        bench.media.inject_fault(op=_shim.Op.READ, lba=0, block_count=1, latency_us=2_000_000)
        bench.core.start_scrub(band)
        busy = bench.core.stats().busy_answers
        quiet = 0
        while quiet < 50:  # nothing is sent again any more: it is read elsewhere
            bench.now_ns += 20_000_000
            bench.step()
            now = bench.core.stats().busy_answers
            quiet, busy = (quiet + 1 if now == busy and now else 0), now
        bench.core.stop_scrub()
        assert end(bench, step_ns=20_000_000).end in (_shim.ScrubEnd.LEFT, _shim.ScrubEnd.BUSY)
        assert not bench.take(_shim.EventKind.BAND_UNREADABLE)
        assert bench.core.bands()[band].readers == 0
        bench.media.clear_faults()
        began = bench.now_ns
        assert scrub(bench, band).end == _shim.ScrubEnd.READ
        assert bench.now_ns - began < 50_000_000, "in one look: nothing is left over from the other band"


def test_where_nothing_is_moved_any_more_all_of_a_band_is_read_whatever_is_bad() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        lbas = lbas_of(bench, band)
        for lba in (lbas[0], lbas[40], lbas[-1]):
            bench.media.rot(bench.address(lba), 77)
        for _ in range(2):
            before = bench.core.stats()
            bench.core.start_scrub(band, stays=True)
            assert end(bench).end == _shim.ScrubEnd.BAD
            counted = delta(bench, before)
            assert (counted["scrub_bad_blocks"], counted["scrub_read_blocks"]) == (3, len(lbas) - 3)
            assert bench.core.bands()[band].state == _shim.BandState.FAULTED
        with pytest.raises(ValueError, match="neither closed nor being written"):
            bench.core.start_scrub(band)


def test_a_reset_waits_for_its_reads() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = bench.auto_reset = False
        band = fullest(bench)
        lbas = lbas_of(bench, band)
        bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(lbas[5]), block_count=1, latency_us=2_000_000)
        bench.core.start_scrub(band)
        for _ in range(50):
            bench.step()
        for lba in lbas:
            bench.put(lba, 9999)
        assert bench.flush() == 0
        bench.core.reset_band(band)
        for _ in range(2000):
            bench.step()
        assert bench.core.bands()[band].state == _shim.BandState.RESETTING
        assert not [event for event in bench.take(_shim.EventKind.BAND_RESET_DONE) if event.band == band]
        assert end(bench, step_ns=10_000_000).end == _shim.ScrubEnd.LEFT
        while bench.until(_shim.EventKind.BAND_RESET_DONE).band != band:
            pass


def test_a_reset_does_not_wait_for_what_the_base_is_too_busy_for() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = bench.auto_reset = False
        band = fullest(bench)
        lbas = lbas_of(bench, band)
        bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(lbas[5]), block_count=1, status=ABORTED)
        bench.core.start_scrub(band)
        for _ in range(50):
            bench.step()
        for lba in lbas:
            bench.put(lba, 9999)
        assert bench.flush() == 0
        bench.core.reset_band(band)
        began = bench.now_ns
        end(bench, step_ns=1_000_000)
        assert bench.now_ns - began < SECOND_NS
        while bench.until(_shim.EventKind.BAND_RESET_DONE).band != band:
            pass


def test_a_band_that_is_slow_twice_while_the_base_is_not_is_told() -> None:
    with Bench() as bench:
        fill(bench)
        band = fullest(bench)
        address = bench.address(lbas_of(bench, band)[5])
        slow = {"op": _shim.Op.READ, "latency_us": 1_500_000}
        bench.media.inject_fault(lba=address, block_count=1, times=1, **slow)
        assert scrub(bench, band, step_ns=1_000_000).slow is False, "once is no matter"
        bench.media.inject_fault(lba=address, block_count=1, **slow)
        found = scrub(bench, band, step_ns=1_000_000)
        assert (found.end, found.slow) == (_shim.ScrubEnd.READ, True)
        assert bench.core.stats().scrub_slow_reads == 1
        bench.media.clear_faults()
        bench.media.inject_fault(**slow)
        assert scrub(bench, band, step_ns=10_000_000).slow is False, "all of the base is slow"


def test_an_offline_zone_is_bad() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        band = fullest(bench)
        bench.media.set_zone_state(bench.zones[band][0] // bench.zone_size, "offline")
        assert scrub(bench, band).status == ZONE_OFFLINE


def test_a_wrong_crc_in_memory_is_found_too() -> None:
    """As if memory had rotted: media have what was written, hosts would get an error."""
    with Bench() as first:
        fill(first)
        assert first.flush() == 0
        bands = first.core.bands()
        entries, crcs = first.core.l2p(0, first.block_count), first.core.crcs(0, first.block_count)
        band = fullest(first)
        lba = lbas_of(first, band)[0]
        crcs = crcs.copy()
        crcs[lba] ^= 0x8001
        with Bench(media=first.media, reactor=first.reactor, next_seq=1 << 20) as second:
            for number, each in enumerate(bands):
                state = _shim.BandState.FREE if each.state == _shim.BandState.FREE else _shim.BandState.CLOSED
                second.core.load_band(number, state, each.seq, each.write_pointers)
            second.core.load_l2p(0, entries, crcs)
            second.gc = False
            found = scrub(second, band)
            assert (found.end, found.address) == (_shim.ScrubEnd.BAD, int(entries[lba]))


def test_trims_in_force_are_read_too() -> None:
    with Bench() as bench:
        fill(bench)
        bench.gc = False
        assert bench.run(_shim.Op.DEALLOCATE, 0, 4) == 0
        assert bench.flush() == 0
        header = int(bench.core.l2p(0, 1)[0]) & ((1 << 62) - 1)
        band = bench.zone_of(header)[0]
        version = 9000
        while bench.core.bands()[band].state in (_shim.BandState.OPEN, _shim.BandState.CLOSING):
            bench.put(bench.block_count - 1, version)
            version += 1
        assert scrub(bench, band).end == _shim.ScrubEnd.READ
        bench.media.rot(header, 8 * 300)
        found = scrub(bench, band)
        assert (found.end, found.address) == (_shim.ScrubEnd.BAD, header)
        assert BLOCK == 4096


def test_with_no_data_there_is_nothing_to_read() -> None:
    with Bench(no_data=True) as bench:
        for lba in range(bench.block_count):
            bench.put(lba, 1)
        with pytest.raises(ValueError, match="the FTL keeps nothing to read"):
            bench.core.start_scrub(0)
