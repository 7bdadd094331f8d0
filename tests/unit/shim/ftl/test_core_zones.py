"""Zones that the drive finishes by itself, or wants to have finished; that fail a finish; that are read-only or offline
without anybody writing to them; and how little GC reads of a zone that is full before its end."""

from __future__ import annotations

import random

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, Bench, content
from unit.shim.ftl.core_model import recover, restarted
from unit.shim.ftl.test_core_faults import corrupt, fill_one_band, overwrite
from unit.shim.stepped import ZSA_FINISH

WRITE_FAULT = 0x280
UNRECOVERED_READ = 0x281
ZONE_FULL = 0x1B9
ZONE_READ_ONLY = 0x1BA
ZONE_OFFLINE = 0x1BB


def state_of(bench: Bench, start: int) -> str:
    return next(state for zone, state, _ in bench.media.zone_states() if zone == start)


def open_zones(bench: Bench) -> list[int]:
    return [start // bench.zone_size for start, state, _ in bench.media.zone_states() if state == "implicitly_open"]


@pytest.mark.parametrize("use_append", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_zones_that_the_drive_finishes_are_as_good_as_any(seed: int, use_append: bool) -> None:
    rng = random.Random(seed)
    with Bench(use_append=use_append, schedule_seed=seed) as bench:
        model = [0] * bench.block_count
        version = 1
        for _ in range(40):
            version = overwrite(bench, model, 40, rng, version)
            if zones := open_zones(bench):
                bench.media.set_zone_state(rng.choice(zones), "full")
        version = overwrite(bench, model, bench.block_count, rng, version)
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []
        assert bench.flush() == 0
        assert bench.versions() == model
        stats = bench.core.stats()
        finished = bench.take(_shim.EventKind.ZONE_FINISHED)
        assert 10 < len(finished) == stats.zones_finished
        assert stats.write_errors == 0
        assert not any(event.status for event in bench.take(_shim.EventKind.BAND_RESET_DONE))
        assert not any(band.faulted_punits for band in bench.core.bands())
        bench.audit()


def test_what_is_in_a_zone_that_the_drive_finished_survives_a_crash() -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        for lba in range(20):
            bench.put(lba, 1)
        for zone in open_zones(bench):
            bench.media.set_zone_state(zone, "full")
        for lba in range(10, 30):
            bench.put(lba, 2)
        assert bench.flush() == 0
        bench.media.power_cut(1)
        bench.core.fail(0x005)
        bench.media.power_on()
        found = recover(bench)
        with restarted(bench, found) as again:
            assert again.versions(0, 30) == [1] * 10 + [2] * 20


def test_a_zone_that_is_full_whenever_it_is_to_be_written_is_given_up() -> None:
    """It would be opened and reset for ever."""
    with Bench() as bench:
        bench.media.inject_fault(op=_shim.Op.WRITE, lba=bench.zones[0][0], block_count=64, status=ZONE_FULL)
        faults: list[_shim.Event] = []
        rng = random.Random(1)
        model = [0] * bench.block_count
        version = 1
        for _ in range(400):
            version = overwrite(bench, model, 20, rng, version)
            if faults := bench.take(_shim.EventKind.ZONE_FAULT):
                break
        assert [(event.band, event.punit, event.status) for event in faults] == [(0, 0, ZONE_FULL)]
        assert [(event.band, event.punit) for event in bench.take(_shim.EventKind.ZONE_FINISHED)] == [(0, 0)] * 2
        assert bench.versions() == model


# --- finish


@pytest.mark.parametrize("failures", [1, 5])
def test_a_finish_that_fails_is_repeated_and_its_band_is_not_closed_before(failures: int) -> None:
    """Open, the zone would be one more than the drive allows, and healthy ones would fail their first write."""
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        bench.media.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT, skip=3, times=1)
        bench.media.inject_fault(op=_shim.Op.ZONE_SEND, status=WRITE_FAULT, times=failures)
        waited = False
        lba = 0
        while not (faults := bench.take(_shim.EventKind.ZONE_FAULT)):
            bench.put(lba, 1)
            lba += 1
        (fault,) = faults
        # On to its end, in the other zone.
        while bench.core.bands()[fault.band].state == _shim.BandState.OPEN:
            bench.put(lba, 1)
            lba += 1
        for _ in range(50_000):
            state = bench.core.bands()[fault.band].state
            if state_of(bench, bench.zones[fault.band][fault.punit]) == "full" and state != _shim.BandState.CLOSING:
                break
            if state_of(bench, bench.zones[fault.band][fault.punit]) != "full":
                assert state == _shim.BandState.CLOSING
                waited = True
            bench.step()
        assert waited or failures == 1
        assert state_of(bench, bench.zones[fault.band][fault.punit]) == "full"
        assert bench.core.bands()[fault.band].state == _shim.BandState.FAULTED
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []


def test_a_healthy_zone_that_cant_be_finished_is_reset_soon() -> None:
    """Its band is moved first, as those with a failed zone are."""
    with Bench(zone_capacity=40, media_zone_capacity=48, finish_zones=True) as bench:
        bench.gc = bench.auto_reset = False
        bench.put(0, 1)
        assert bench.flush() == 0
        band = bench.zone_of(bench.address(0))[0]
        bench.media.inject_fault(op=_shim.Op.ZONE_SEND, lba=bench.zones[band][0], block_count=64, status=WRITE_FAULT)
        bench.write_to_the_end_of(band)
        assert bench.until(_shim.EventKind.BAND_CLOSED, steps=50_000).band == band
        assert [(event.band, event.punit) for event in bench.take(_shim.EventKind.ZONE_FAULT)] == [(band, 0)]
        assert bench.core.bands()[band].state == _shim.BandState.FAULTED
        bench.media.clear_faults()
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        bench.core.reset_band(band)
        assert bench.until(_shim.EventKind.BAND_RESET_DONE).status == 0
        assert state_of(bench, bench.zones[band][0]) == "empty"


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_zone_is_closed_on_order_behind_what_is_on_its_way(in_flight: bool) -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        bench.put(0, 1, 8)
        assert bench.flush() == 0
        band, punit = bench.zone_of(bench.address(0))
        if in_flight:
            bench.media.inject_fault(op=_shim.Op.WRITE, latency_us=1000, times=1)
            ticket = bench.port.submit(_shim.Op.WRITE, 8, 8, b"".join(content(8 + i, 1) for i in range(8)))
            flush = bench.port.submit(_shim.Op.FLUSH)
            for _ in range(20):
                bench.step()
            other = 1 - punit
            assert bench.core.close_zone(band, other) is True
            assert bench.wait(ticket).status == bench.wait(flush).status == 0
            punit = other
        else:
            assert bench.core.close_zone(band, punit) is True
        bench.settle()
        start = bench.zones[band][punit]
        assert state_of(bench, start) == "full"
        assert bench.core.close_zone(band, punit) is False
        for lba in range(16, 40):
            bench.put(lba, 1)
        assert bench.flush() == 0
        assert bench.core.bands()[band].write_pointers[punit] == 9
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []
        assert bench.versions(0, 40) == [1] * (16 if in_flight else 8) + [0] * (0 if in_flight else 8) + [1] * 24


# --- read-only, offline


def test_the_base_may_say_that_a_zone_of_a_closed_band_has_failed() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.core.fault_zone(band, 1, ZONE_READ_ONLY) is True
        assert bench.core.fault_zone(band, 1, ZONE_READ_ONLY) is False, "that is known"
        its = bench.core.bands()[band]
        assert (its.state, its.faulted_punits) == (_shim.BandState.FAULTED, [1])
        faults = bench.take(_shim.EventKind.ZONE_FAULT)
        bench.step()
        faults += bench.take(_shim.EventKind.ZONE_FAULT)
        assert [(event.band, event.punit, event.status) for event in faults] == [(band, 1, ZONE_READ_ONLY)]
        free = next(n for n, its in enumerate(bench.core.bands()) if its.state == _shim.BandState.FREE)
        assert bench.core.fault_zone(free, 0, ZONE_READ_ONLY) is True
        bench.put(200 % bench.block_count, 1)
        assert bench.flush() == 0
        open_band = next(n for n, its in enumerate(bench.core.bands()) if its.state == _shim.BandState.OPEN)
        assert bench.core.fault_zone(open_band, 0, ZONE_READ_ONLY) is False, "a write will tell"
        for call in (bench.core.fault_zone, lambda b, p, _: bench.core.close_zone(b, p)):
            with pytest.raises(ValueError, match="no punit 2"):
                call(band, 2, 0)


def test_an_offline_zone_costs_one_read() -> None:
    with Bench(band_count=6, punits=1, zone_size=4096, zone_capacity=4000) as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        bench.media.set_zone_state(bench.zones[band][0] // bench.zone_size, "offline")
        before = bench.media.operations
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert done.lost_blocks > 2000
        assert bench.core.stats().lost_blocks == done.lost_blocks
        # Two looks at the zone, and one write for the records of what is lost.
        assert bench.media.operations - before <= 4


# --- how far a zone is walked


CAPACITY = 4000


def partly_written(bench: Bench, blocks: int = 60) -> int:
    """Writes some blocks to one band, finishes its zones as a load does; returns it."""
    bench.gc = bench.auto_reset = False
    for lba in range(blocks):
        bench.put(lba, 1)
    assert bench.flush() == 0
    band = bench.zone_of(bench.address(0))[0]
    for start in bench.zones[band]:
        if state_of(bench, start) == "implicitly_open":
            assert bench.base.zone_send(start, ZSA_FINISH) == 0
    return band


def reloaded(bench: Bench, band: int, pointer: int | None) -> Bench:
    """What a load makes of it. pointer: as the zone report has it, or None: as they are."""
    again = Bench(
        media=bench.media, reactor=bench.reactor, band_count=8, punits=2, zone_size=4096, zone_capacity=CAPACITY,
        first_band_seq=100, next_seq=bench.core.next_seq,
    )  # fmt: skip
    its = bench.core.bands()[band]
    l2p, crcs = bench.core.l2p(0, bench.block_count), bench.core.crcs(0, bench.block_count)
    pointers = its.write_pointers if pointer is None else [pointer] * 2
    bench.close()
    again.core.load_band(band, _shim.BandState.CLOSED, its.seq, pointers)
    again.core.load_l2p(0, l2p, crcs)
    again.gc = again.auto_reset = False
    return again


@pytest.mark.parametrize("told", ["how far it is written", "that it is full"])
def test_gc_of_zones_that_were_finished_early_reads_little(told: str) -> None:
    """It was one read for each block up to the zone's end, one behind the other."""
    first = Bench(band_count=8, punits=2, zone_size=4096, zone_capacity=CAPACITY)
    band = partly_written(first)
    written = first.core.bands()[band].write_pointers
    batches = first.core.stats().batches
    with reloaded(first, band, None if told == "how far it is written" else CAPACITY) as bench:
        assert sum(written) > 60
        before = bench.media.operations
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert (done.moved_blocks, done.lost_blocks) == (60, 0)
        operations = bench.media.operations - before
        # A header and a run of blocks each, what is written elsewhere, and where the zones' ends are not known a look
        # for their summaries and one behind the last batch.
        assert operations <= 3 * batches + 10, operations
        assert bench.versions(0, 60) == [1] * 60
        assert bench.core.stats().crc_errors == 0


@pytest.mark.parametrize("hurt", ["nothing", "zeroed", "unreadable"])
def test_gc_reads_several_short_batches_at_a_time(hurt: str) -> None:
    """Valid are only blocks at the end, and one in the middle, whose header may be damaged."""
    first = Bench(band_count=8, punits=2, zone_size=4096, zone_capacity=CAPACITY)
    first.gc = first.auto_reset = False
    for version in range(1, 400):
        first.put(40 if version == 200 else version % 4, version)
        assert first.flush() == 0
    versions = dict(zip((*range(4), 40), first.versions(0, 4) + first.versions(40, 1), strict=True))
    middle = first.address(40)
    band = first.zone_of(middle)[0]
    assert all(first.zone_of(first.address(lba))[0] == band for lba in versions)
    for start in first.zones[band]:
        assert first.base.zone_send(start, ZSA_FINISH) == 0
    with reloaded(first, band, None) as bench:
        if hurt == "zeroed":
            rewritten_with_zeroes(bench, middle - 1)
        elif hurt == "unreadable":
            bench.media.inject_fault(op=_shim.Op.READ, lba=middle - 1, block_count=1, status=UNRECOVERED_READ)
        before = bench.media.operations
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        operations = bench.media.operations - before
        if hurt == "nothing":
            # 32 headers of each zone, then 64 blocks at a time; and what is written elsewhere.
            assert operations <= 2 * (32 + 7) + 20, operations
        else:
            assert bench.read_status(40) == UNRECOVERED_READ
            del versions[40]
        assert (done.moved_blocks, done.lost_blocks) == (len(versions), int(hurt != "nothing"))
        assert {lba: bench.versions(lba, 1)[0] for lba in versions} == versions


def rewritten_with_zeroes(bench: Bench, address: int) -> None:
    """The same zone, but for this block of it, and finished again."""
    start = address // bench.zone_size * bench.zone_size
    raw = bytearray(b"".join(bench.base.read(start + i) for i in range(512)))
    raw[(address - start) * BLOCK : (address - start + 1) * BLOCK] = bytes(BLOCK)
    assert bench.base.zone_send(start, 4) == 0
    for i in range(0, 512, 64):
        assert bench.base.write(start + i, bytes(raw[i * BLOCK : (i + 64) * BLOCK])) == 0
    assert bench.base.zone_send(start, ZSA_FINISH) == 0


@pytest.mark.parametrize("how", ["zeroed", "unreadable"])
def test_what_stands_behind_a_damaged_header_is_found_in_large_pieces(how: str) -> None:
    first = Bench(band_count=8, punits=2, zone_size=4096, zone_capacity=CAPACITY)
    band = partly_written(first)
    header = first.zones[band][0]
    behind = [lba for lba in range(60) if first.zone_of(first.address(lba)) == (band, 0)]
    hurt = [lba for lba in behind if first.address(lba) - header < 16]
    with reloaded(first, band, CAPACITY) as bench:
        if how == "zeroed":
            states = {start: pointer for start, _, pointer in bench.media.zone_states()}
            written = states[header] - header
            raw = bytearray(b"".join(bench.base.read(header + i) for i in range(written)))
            raw[:BLOCK] = bytes(BLOCK)
            assert bench.base.zone_send(header, 4) == 0
            for i in range(0, written, 64):
                assert bench.base.write(header + i, bytes(raw[i * BLOCK : (i + 64) * BLOCK])) == 0
            assert bench.base.zone_send(header, ZSA_FINISH) == 0
        else:
            bench.media.inject_fault(op=_shim.Op.READ, lba=header, block_count=1, status=UNRECOVERED_READ)
            # Hidden in the first large piece behind it.
            bench.media.inject_fault(op=_shim.Op.READ, lba=header + 3, block_count=1, status=UNRECOVERED_READ)
        before = bench.media.operations
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        lost = {event.lba for event in bench.take(_shim.EventKind.BLOCK_LOST)}
        assert lost <= set(hurt)
        assert 0 < len(lost) == done.lost_blocks < len(behind)
        assert all(bench.versions(lba, 1) == [1] for lba in range(60) if lba not in lost)
        # The rest of the zone, 64 blocks at a time.
        assert bench.media.operations - before < CAPACITY // 8


def test_a_block_of_a_host_is_not_taken_for_a_header() -> None:
    """One that says that it was appended, where nothing is: its maker need not know where it will stand."""
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        bench.put(0, 1)
        assert bench.flush() == 0
        header = bench.base.read(bench.address(0) - 1)
        band = bench.zone_of(bench.address(0))
        forged = bytearray(header)
        forged[40:48] = bytes(8)  # the address
        forged[64 + 8 : 64 + 16] = (1 << 40).to_bytes(8, "little")
        forged[12:16] = bytes(4)
        forged[12:16] = _shim.crc32c(bytes(forged)).to_bytes(4, "little")
        assert bench.write(1, bytes(forged)) == 0
        while not (closed := bench.take(_shim.EventKind.BAND_CLOSED)):
            lba = 2 + bench.core.stats().user_written_blocks % (bench.block_count - 2)
            bench.put(lba, 1)
        assert closed[0].band == band[0] == bench.zone_of(bench.address(1))[0]
        assert bench.flush() == 0
        # Without the header before it, and without a summary, a walk comes to it.
        place = bench.address(1)
        start = bench.zones[band[0]][bench.zone_of(place)[1]]
        corrupt(bench, start + bench.data_blocks, bytes(BLOCK))
        corrupt(bench, place - 1, bytes(BLOCK))
        bench.core.start_move(band[0])
        bench.until(_shim.EventKind.MOVE_DONE)
        assert bench.read_status(1) == UNRECOVERED_READ, "nothing whole tells of it any more"
        assert bench.versions(0, 1) == [1]
