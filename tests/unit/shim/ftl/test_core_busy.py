"""FtlCore and a base that is busy: it is waited for, and nothing is given up meanwhile."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.cache_bench import CacheBench
from unit.shim.ftl.core_bench import BLOCK, Bench, content
from unit.shim.ftl.core_model import recover, restarted
from unit.shim.ftl.test_core_faults import corrupt, fill_one_band, overwrite
from unit.shim.ftl.test_nv_cache import MODES
from unit.shim.stepped import Stepped

INTERNAL_ERROR = 0x006
PATH_ERROR = 0x370
WRITE_FAULT = 0x280
UNRECOVERED_READ = 0x281
GUARD_CHECK = 0x282
ZONE_INVALID_WRITE = 0x1BC
BUSY = [INTERNAL_ERROR, 0x004, 0x007, 0x008, 0x01B, 0x021, 0x022, 0x024, 0x082, 0x1BD, 0x1BE, 0x300, 0x302, 0x303]
NOT_CARRIED_OUT = [status for status in BUSY if status not in (0x004, INTERNAL_ERROR, 0x1BD, 0x1BE)]
IN_DOUBT = [0x004, INTERNAL_ERROR, 0x1BD, 0x1BE, WRITE_FAULT, 0x7FF]
"""Of a flush."""
ABORTED = 0x007
NOT_READY = 0x082
WINDOW_STEPS = 2_000
"""20 ms."""
LONG_STEP_NS = 50_000_000


@contextmanager
def busy(bench: Bench, media: _shim.EmulatedMedia | None = None, **fault: Any) -> Iterator[None]:
    """20 ms behind the body it is over."""
    drive = media or bench.media
    number = drive.inject_fault(**({"status": INTERNAL_ERROR} | fault))
    yield
    for _ in range(WINDOW_STEPS):
        bench.step()
    drive.clear_faults(number)


def submit_writes(bench: Bench, lbas: range, version: int) -> list[int]:
    return [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, version)) for lba in lbas]


def long_until(bench: Bench, condition: Callable[[], bool], seconds: float) -> float:
    """In long steps; returns how long it took."""
    began = bench.now_ns
    while not condition():
        assert bench.now_ns - began < seconds * 1e9
        bench.now_ns += LONG_STEP_NS
        bench.step()
    return (bench.now_ns - began) / 1e9


def behind_superblocks(bench: Bench) -> dict[str, int]:
    """All blocks but those of the first two zones."""
    first = 2 * bench.zone_size
    return {"lba": first, "block_count": bench.media.block_count - first}


def nothing_was_given_up(bench: Bench) -> None:
    stats = bench.core.stats()
    assert stats.busy_answers > 0
    assert (stats.write_errors, stats.read_errors, stats.lost_blocks) == (0, 0, 0)
    assert bench.take(_shim.EventKind.ZONE_FAULT) == []
    assert bench.take(_shim.EventKind.BLOCK_LOST) == []
    assert [event.status for event in bench.take(_shim.EventKind.BAND_RESET_DONE) if event.status] == []


# --- writes


@pytest.mark.parametrize("use_append", [False, True])
@pytest.mark.parametrize("status", BUSY, ids=hex)
def test_a_write_to_a_busy_base_is_repeated_in_its_place(status: int, use_append: bool) -> None:
    with Bench(use_append=use_append, schedule_seed=status) as bench:
        model = [0] * bench.block_count
        op = _shim.Op.APPEND if use_append else _shim.Op.WRITE
        version = overwrite(bench, model, 40, random.Random(status))
        with busy(bench, op=op, status=status):
            tickets = submit_writes(bench, range(40), version)
        model[:40] = [version] * 40
        assert {bench.wait(ticket).status for ticket in tickets} == {0}
        overwrite(bench, model, bench.block_count, random.Random(1), version + 1)
        assert bench.flush() == 0
        nothing_was_given_up(bench)
        assert bench.versions() == model


@pytest.mark.parametrize("seed", range(3))
def test_garbage_collection_goes_on_where_a_busy_base_left_it(seed: int) -> None:
    """Whatever it was that met busy: batches, summaries, reads, resets, finishes, flushes."""
    rng = random.Random(seed)
    with Bench(zone_capacity=40, media_zone_capacity=48, finish_zones=True, schedule_seed=seed) as bench:
        model = [0] * bench.block_count
        version = overwrite(bench, model, 2 * bench.block_count, rng)
        for op in (_shim.Op.WRITE, _shim.Op.READ, _shim.Op.ZONE_SEND, _shim.Op.FLUSH, None) * 2:
            with busy(bench, op=op, status=rng.choice(NOT_CARRIED_OUT if op in (_shim.Op.FLUSH, None) else BUSY)):
                tickets = submit_writes(bench, range(30), version)
            model[:30] = [version] * 30
            assert {bench.wait(ticket).status for ticket in tickets} == {0}
            version = overwrite(bench, model, 200, rng, version + 1)
        assert bench.flush() == 0
        nothing_was_given_up(bench)
        assert bench.versions() == model
        assert bench.core.stats().zone_resets > 0
        bench.audit()


def test_do_not_retry_makes_an_error_final() -> None:
    with Bench() as bench:
        bench.media.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR, do_not_retry=True, times=1)
        bench.put(0, 1)
        assert bench.flush() == 0
        assert [event.status for event in bench.take(_shim.EventKind.ZONE_FAULT)] == [INTERNAL_ERROR]
        assert bench.core.stats().busy_answers == 0
        assert bench.versions(0, 1) == [1]


def zone_being_written(bench: Bench) -> int:
    """The start of the zone that has the newest block."""
    bench.put(0, 1)
    assert bench.flush() == 0
    return bench.address(0) // bench.zone_size * bench.zone_size


def test_a_zone_that_stays_busy_is_given_up_after_a_minute() -> None:
    with Bench() as bench:
        start = zone_being_written(bench)
        bench.media.inject_fault(op=_shim.Op.WRITE, lba=start, block_count=bench.zone_size, status=INTERNAL_ERROR)
        given_up = lambda: any(event.kind == _shim.EventKind.ZONE_FAULT for event in bench.events)  # noqa: E731
        began = bench.now_ns
        for step in itertools.count():
            if step % 100 == 0:
                # The base takes what goes to other zones.
                bench.put(step // 100, 1)
            bench.now_ns += LONG_STEP_NS
            bench.step()
            if given_up():
                break
        assert 60 <= (bench.now_ns - began) / 1e9 < 62
        assert bench.flush() == 0
        assert [event.status for event in bench.take(_shim.EventKind.ZONE_FAULT)] == [INTERNAL_ERROR]
        assert not bench.failed


@pytest.mark.parametrize("status", [INTERNAL_ERROR, NOT_READY], ids=hex)
def test_a_base_that_takes_no_write_for_a_minute_is_gone_and_no_zone_is_given_up(status: int) -> None:
    with Bench() as bench:
        zone_being_written(bench)
        bench.media.inject_fault(op=_shim.Op.WRITE, status=status)
        tickets = submit_writes(bench, range(20), 2)
        ticket = bench.port.submit(_shim.Op.FLUSH)
        assert 60 <= long_until(bench, lambda: bench.failed, 70) < 61
        assert bench.wait(ticket).status == status
        assert {bench.wait(each).status for each in tickets} <= {0, status}
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []


@pytest.mark.parametrize("status", [0x1BD, 0x1BE], ids=hex)
def test_a_core_whose_own_zones_are_too_many_does_not_wait_for_itself(status: int) -> None:
    with Bench() as bench:
        start = zone_being_written(bench)
        bench.media.inject_fault(op=_shim.Op.WRITE, lba=start, block_count=bench.zone_size, status=status)
        for lba in range(30):
            bench.put(lba, 2)
        ticket = bench.port.submit(_shim.Op.FLUSH)
        assert 1 <= long_until(bench, lambda: ticket in bench.completed, 5) < 2
        assert bench.wait(ticket).status == 0
        assert [event.status for event in bench.take(_shim.EventKind.ZONE_FAULT)] == [status]
        assert bench.versions(0, 30) == [2] * 30


@pytest.mark.parametrize("status", [0x1BD, 0x1BE], ids=hex)
def test_a_base_that_was_busy_has_time_to_make_room_for_a_zone(status: int) -> None:
    """The wait for room begins when the base says that it has none, not when it began to be busy."""
    with Bench() as bench:
        zone_being_written(bench)
        bench.media.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR)
        tickets = submit_writes(bench, range(20), 2)
        ticket = bench.port.submit(_shim.Op.FLUSH)
        for answer, seconds in ((INTERNAL_ERROR, 2), (status, 0.5), (INTERNAL_ERROR, 2), (status, 0.5)):
            bench.media.clear_faults()
            bench.media.inject_fault(op=_shim.Op.WRITE, status=answer)
            until_ns = bench.now_ns + int(seconds * 1e9)
            while bench.now_ns < until_ns:
                bench.now_ns += LONG_STEP_NS
                bench.step()
            assert bench.take(_shim.EventKind.ZONE_FAULT) == []
        bench.media.clear_faults()
        assert {bench.wait(each).status for each in (*tickets, ticket)} == {0}
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []
        assert bench.versions(0, 20) == [2] * 20


def test_a_base_that_is_gone_is_not_waited_for() -> None:
    with Bench() as bench:
        number = bench.media.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR)
        bench.put(0, 1)
        ticket = bench.port.submit(_shim.Op.FLUSH)
        for _ in range(1000):
            bench.step()
        assert bench.core.stats().busy_answers > 0
        bench.media.clear_faults(number)
        bench.media.inject_fault(op=_shim.Op.WRITE, status=PATH_ERROR)
        assert bench.wait(ticket).status == PATH_ERROR
        assert bench.failed


@pytest.mark.parametrize("use_append", [False, True])
def test_a_write_that_happened_although_it_failed_costs_a_zone_and_no_data(use_append: bool) -> None:
    """Its repetition is refused by the write pointer, or lands behind it: the batch goes to another zone, and media
    have it twice, with the same seqs."""
    rng = random.Random(3)
    with Bench(use_append=use_append) as bench:
        model = [0] * bench.block_count
        op = _shim.Op.APPEND if use_append else _shim.Op.WRITE
        version = overwrite(bench, model, 30, rng)
        assert bench.run(_shim.Op.DEALLOCATE, 3, 2) == 0
        model[3:5] = [0, 0]
        assert bench.flush() == 0
        bench.media.inject_fault(op=op, status=0x007, times=2, takes_effect=True)
        for lba in range(8):
            bench.put(lba, version)
            model[lba] = version
        assert bench.flush() == 0
        faults = bench.take(_shim.EventKind.ZONE_FAULT)
        assert {event.status for event in faults} == {ZONE_INVALID_WRITE}
        assert bench.core.stats().busy_answers == 2
        assert bench.versions() == model
        bench.media.power_cut(1)
        bench.close()
        bench.media.power_on()
        recovered = recover(bench)
        assert recovered.versions == model
        again = restarted(bench, recovered, use_append=use_append)
        assert again.versions() == model
        overwrite(again, model, 3 * bench.block_count, rng, version + 1)
        assert again.flush() == 0
        assert again.versions() == model
        again.close()


# --- what GC reads


@pytest.mark.parametrize("status", BUSY, ids=hex)
def test_what_a_busy_base_does_not_read_is_not_lost(status: int) -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        valid = bench.core.bands()[band].valid
        with busy(bench, op=_shim.Op.READ, status=status):
            bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert (done.band, done.moved_blocks, done.lost_blocks) == (band, valid, 0)
        nothing_was_given_up(bench)


@pytest.mark.parametrize("part", ["summary", "data", "header"])
def test_whatever_the_base_is_busy_with_nothing_is_lost(part: str) -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        for start in bench.zones[band]:
            if part == "header":  # walked, for want of a summary
                corrupt(bench, start + bench.data_blocks, bytes(4096))
            places = {"summary": (bench.data_blocks, 1), "data": (1, bench.data_blocks - 1), "header": (0, 1)}
            first, count = places[part]
            bench.media.inject_fault(
                op=_shim.Op.READ, lba=start + first, block_count=count, status=INTERNAL_ERROR, times=4
            )
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        nothing_was_given_up(bench)


def test_a_block_that_can_not_be_read_once_is_read_again_later() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        lba = next(lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == band)
        bench.media.inject_fault(
            op=_shim.Op.READ, lba=bench.address(lba), block_count=1, status=UNRECOVERED_READ, times=1
        )
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        assert bench.take(_shim.EventKind.BLOCK_LOST) == []


def test_a_single_block_is_lost_only_when_it_could_not_be_read_twice() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        inside = [lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == band]
        for lba in inside[1:]:
            bench.put(lba, 2)
        assert bench.flush() == 0
        address = bench.address(inside[0])
        bench.media.inject_fault(op=_shim.Op.READ, lba=address, block_count=1, status=UNRECOVERED_READ)
        reads = bench.core.stats().reloc_reads
        began = bench.now_ns
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 1
        assert bench.core.stats().reloc_reads - reads == 2
        assert bench.now_ns - began >= 10_000_000
        assert [(event.lba, event.status) for event in bench.take(_shim.EventKind.BLOCK_LOST)] == [
            (inside[0], UNRECOVERED_READ)
        ]


def test_metadata_that_can_not_be_read_once_cost_nothing() -> None:
    """Neither the summary nor the headers: all of them are read again before anything is declared lost."""
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        for start in bench.zones[band]:
            bench.media.inject_fault(
                op=_shim.Op.READ,
                lba=start + bench.data_blocks,
                block_count=1,
                status=UNRECOVERED_READ,
                times=1,
            )
            bench.media.inject_fault(op=_shim.Op.READ, lba=start, block_count=1, status=UNRECOVERED_READ, times=1)
        valid = bench.core.bands()[band].valid
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert (done.moved_blocks, done.lost_blocks) == (valid, 0)
        assert bench.take(_shim.EventKind.BLOCK_LOST) == []
        assert bench.core.stats().read_errors > 0


def test_a_block_that_a_busy_base_never_reads_is_lost_after_a_while_and_its_neighbours_are_not() -> None:
    """As an SPDK target answers for a bad block."""
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        inside = [lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == band]
        bad = inside[5:8]
        for lba in bad:
            bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(lba), block_count=1, status=INTERNAL_ERROR)
        bench.core.start_move(band)
        took = long_until(bench, lambda: any(event.kind == _shim.EventKind.MOVE_DONE for event in bench.events), 70)
        assert took >= 60, "the first is waited for"
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == len(bad)
        assert {event.lba for event in bench.take(_shim.EventKind.BLOCK_LOST)} == set(bad)
        assert not bench.failed


def test_a_minute_is_waited_once_and_not_in_every_band() -> None:
    with Bench() as bench:
        bands, lba = [fill_one_band(bench)], 200
        while not (closed := bench.take(_shim.EventKind.BAND_CLOSED)):
            bench.put(lba := lba + 1, 1)
        bands.append(closed[0].band)
        assert bench.flush() == 0
        inside = [[lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == b] for b in bands]
        assert all(inside)
        for lbas in inside:
            bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(lbas[0]), block_count=1, status=INTERNAL_ERROR)
        times = []
        for band in bands:
            bench.core.start_move(band)
            times.append(long_until(bench, lambda: any(e.kind == _shim.EventKind.MOVE_DONE for e in bench.events), 70))
            assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 1
        assert times[0] >= 60
        assert 1 <= times[1] < 4


@pytest.mark.parametrize("seconds", [59.0, 60.5, 61.5, 62.5])
def test_what_a_base_refuses_no_more_when_something_else_is_asked_for_is_not_lost(seconds: float) -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        for start in bench.zones[band]:
            bench.media.inject_fault(op=_shim.Op.READ, lba=start, block_count=bench.data_blocks, status=INTERNAL_ERROR)
        bench.media.inject_fault(op=_shim.Op.READ, lba=0, block_count=2 * bench.zone_size, status=INTERNAL_ERROR)
        valid = bench.core.bands()[band].valid
        bench.core.start_move(band)
        began = bench.now_ns
        long_until(bench, lambda: bench.now_ns - began >= seconds * 1e9, seconds + 1)
        assert not bench.failed
        bench.media.clear_faults()
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert (done.moved_blocks, done.lost_blocks) == (valid, 0)
        assert bench.core.stats().busy_answers > 0
        nothing_was_given_up(bench)


@pytest.mark.parametrize("status", [INTERNAL_ERROR, NOT_READY], ids=hex)
@pytest.mark.parametrize("part", ["data", "all"])
def test_a_base_that_reads_nothing_is_gone_and_no_block_is_lost(part: str, status: int) -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        if part == "all":
            bench.media.inject_fault(op=_shim.Op.READ, status=status)
        else:
            for start in bench.zones[band]:
                bench.media.inject_fault(op=_shim.Op.READ, lba=start, block_count=bench.data_blocks, status=status)
            bench.media.inject_fault(op=_shim.Op.READ, lba=0, block_count=2 * bench.zone_size, status=status)
        bench.core.start_move(band)
        assert long_until(bench, lambda: bench.failed, 70) >= 60
        assert bench.take(_shim.EventKind.BLOCK_LOST) == []
        assert bench.core.stats().lost_blocks == 0


# --- flushes and resets


@pytest.mark.parametrize("status", NOT_CARRIED_OUT, ids=hex)
def test_a_flush_that_was_not_carried_out_is_repeated(status: int) -> None:
    with Bench() as bench:
        bench.put(0, 1)
        with busy(bench, op=_shim.Op.FLUSH, status=status):
            ticket = bench.port.submit(_shim.Op.FLUSH)
        assert bench.wait(ticket).status == 0
        assert bench.core.stats().busy_answers > 0
        assert bench.take(_shim.EventKind.FLUSH_FAILED) == []


def test_a_base_that_does_not_flush_for_a_minute_is_gone() -> None:
    with Bench() as bench:
        bench.put(0, 1)
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=NOT_READY)
        ticket = bench.port.submit(_shim.Op.FLUSH)
        assert 60 <= long_until(bench, lambda: bench.failed, 70) < 61
        assert bench.wait(ticket).status == NOT_READY
        (failed,) = bench.take(_shim.EventKind.CORE_FAILED)
        assert (failed.status, failed.by_flush) == (NOT_READY, 0), "it was never carried out"


@pytest.mark.parametrize("do_not_retry", [False, True])
@pytest.mark.parametrize("status", IN_DOUBT, ids=hex)
def test_a_flush_in_doubt_fails_the_core_which_goes_on_holding_what_it_held(status: int, do_not_retry: bool) -> None:
    with Bench() as bench:
        for lba in range(8):
            bench.put(lba, 1)
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=status, do_not_retry=do_not_retry, times=1)
        assert bench.wait(bench.port.submit(_shim.Op.FLUSH)).status == status
        (failed,) = bench.take(_shim.EventKind.CORE_FAILED)
        assert (failed.status, failed.by_flush) == (status, 1)
        assert bench.core.stats().write_buffer_landed == 8


def test_a_close_does_not_hide_that_a_flush_was_in_doubt() -> None:
    bench = Bench()
    bench.put(0, 1)
    bench.media.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR, latency_us=1_000, times=1)
    bench.port.submit(_shim.Op.FLUSH)
    for _ in range(50):
        bench.step()
    assert bench.core.stats().base_flushes == 1
    while not bench.core.begin_close():
        bench.step()
    assert bench.core.failure == INTERNAL_ERROR
    bench.close()


@pytest.mark.parametrize("status", [INTERNAL_ERROR, NOT_READY])
def test_a_zone_whose_finish_stays_refused_holds_its_band_for_a_minute_only(status: int) -> None:
    """Six tries of a minute each would leave the user without a band."""
    with Bench(zone_capacity=40, media_zone_capacity=48, finish_zones=True) as bench:
        bench.gc = bench.auto_reset = False
        bench.put(0, 1)
        assert bench.flush() == 0
        band = bench.zone_of(bench.address(0))[0]
        bench.media.inject_fault(op=_shim.Op.ZONE_SEND, lba=bench.zones[band][0], block_count=64, status=status)
        bench.write_to_the_end_of(band)
        assert long_until(bench, lambda: bench.core.bands()[band].state != _shim.BandState.CLOSING, 65) >= 55
        assert bench.core.bands()[band].faulted_punits == [0]


def test_a_base_that_refuses_everything_while_a_zone_is_finished_has_failed_and_its_zones_have_not() -> None:
    with Bench(zone_capacity=40, media_zone_capacity=48, finish_zones=True) as bench:
        bench.gc = bench.auto_reset = False
        bench.put(0, 1)
        assert bench.flush() == 0
        band = bench.zone_of(bench.address(0))[0]
        bench.media.inject_fault(op=_shim.Op.ZONE_SEND, status=NOT_READY)
        bench.write_to_the_end_of(band)
        assert bench.flush() == 0
        for op in (_shim.Op.READ, _shim.Op.WRITE, _shim.Op.FLUSH):
            bench.media.inject_fault(op=op, status=NOT_READY)
        assert 60 <= long_until(bench, lambda: bench.failed, 70) < 63
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []


@pytest.mark.parametrize("busy_s", [2.5, 4, 15])
def test_behind_a_block_that_stays_bad_a_base_that_is_busy_for_a_while_is_still_waited_for(busy_s: float) -> None:
    """The block has cost reads their patience, not the base."""
    with Bench() as bench:
        bench.gc = False
        for lba in range(2):
            bench.put(lba, 1)
        assert bench.flush() == 0
        bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(0), block_count=1, status=INTERNAL_ERROR)
        bad = bench.port.submit(_shim.Op.READ, 0, 1, bytearray(BLOCK))
        assert long_until(bench, lambda: bad in bench.completed, 30) >= 20
        everything = bench.media.inject_fault(op=_shim.Op.READ, status=0x303)
        good = bench.port.submit(_shim.Op.READ, 1, 1, bytearray(BLOCK))
        until_ns = bench.now_ns + int(busy_s * 1e9)
        long_until(bench, lambda: bench.now_ns >= until_ns, busy_s + 1)
        bench.media.clear_faults(everything)
        assert bench.wait(good).status == 0
        assert bench.core.failure == 0


@pytest.mark.parametrize("times", [0, 1])
def test_a_flush_that_is_refused_for_good_is_told(times: int) -> None:
    with Bench() as bench:
        bench.put(0, 1)
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=ABORTED, do_not_retry=True, times=times)
        assert bench.wait(bench.port.submit(_shim.Op.FLUSH)).status == ABORTED
        assert not bench.failed


def test_a_reset_by_a_busy_base_is_repeated_and_no_zone_fails() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).band == band
        with busy(bench, op=_shim.Op.ZONE_SEND):
            bench.core.reset_band(band)
        done = bench.until(_shim.EventKind.BAND_RESET_DONE)
        assert (done.band, done.status) == (band, 0)
        assert bench.core.stats().busy_answers > 0
        assert bench.core.bands()[band].faulted_punits == []


@pytest.mark.parametrize("alive", [True, False])
def test_a_zone_whose_reset_stays_refused_has_failed_if_the_base_does_anything_else(alive: bool) -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).band == band
        assert bench.flush() == 0
        bench.manage = lambda: None  # type: ignore[method-assign]
        bench.media.inject_fault(op=_shim.Op.ZONE_SEND, lba=bench.zones[band][0], block_count=1, status=INTERNAL_ERROR)
        bench.core.reset_band(band)
        while not bench.core.stats().busy_answers:
            bench.step()
        if not alive:
            bench.media.inject_fault(status=NOT_READY)
        reset = lambda: any(event.kind == _shim.EventKind.BAND_RESET_DONE for event in bench.events)  # noqa: E731
        assert 60 <= long_until(bench, lambda: bench.failed or reset(), 70) < 63
        assert bench.failed is not alive
        if alive:
            assert [event.status for event in bench.take(_shim.EventKind.BAND_RESET_DONE)] == [INTERNAL_ERROR]


# --- reads of the host


@pytest.mark.parametrize("status", BUSY, ids=hex)
def test_a_read_from_a_busy_base_is_repeated(status: int) -> None:
    with Bench() as bench:
        for lba in range(8):
            bench.put(lba, 1)
        assert bench.flush() == 0
        data = bytearray(8 * 4096)
        with busy(bench, op=_shim.Op.READ, status=status):
            ticket = bench.port.submit(_shim.Op.READ, 0, 8, data)
        assert bench.wait(ticket).status == 0
        assert bytes(data) == b"".join(content(lba, 1) for lba in range(8))
        assert bench.core.stats().read_errors == 0


@pytest.mark.parametrize("reads", [1, 3000])
def test_reads_from_a_base_that_stays_busy_fail_before_hosts_give_up(reads: int) -> None:
    """Of its data, that is: it reads superblocks. Also those that wait until others end: there are only so many at a
    time."""
    with Bench() as bench:
        hosts = Stepped(bench.reactor, bench.core, depth=reads)
        bench.ports.append(hosts)
        for lba in range(0, bench.block_count, 2):
            bench.put(lba, 1)
        assert bench.flush() == 0
        fault = bench.media.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR, **behind_superblocks(bench))
        for i in range(reads):
            hosts.port.submit(_shim.Op.READ, 2 * i % bench.block_count // 2 * 2, 1, bytearray(4096))
        took = long_until(bench, lambda: len(hosts.completed) == reads, 30)
        assert 20 <= took < 25
        # But for a few that the write buffer still has.
        failed = [done.status for done in hosts.completed.values() if done.status]
        assert set(failed) == {INTERNAL_ERROR}
        assert len(failed) >= reads - bench.core.stats().reads_rescued
        bench.media.clear_faults(fault)
        assert bench.versions(0, 2) == [1, 0]
        hosts.port.close()


@pytest.mark.parametrize("reads", [1, 3000])
def test_a_base_that_reads_nothing_is_gone_and_no_read_of_a_host_is_answered_before(reads: int) -> None:
    """Behind a gate those wait for the base, then."""
    with Bench() as bench:
        hosts = Stepped(bench.reactor, bench.core, depth=reads)
        bench.ports.append(hosts)
        for lba in range(0, bench.block_count, 2):
            bench.put(lba, 1)
        assert bench.flush() == 0
        bench.media.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR)
        for i in range(reads):
            hosts.port.submit(_shim.Op.READ, 2 * i % bench.block_count // 2 * 2, 1, bytearray(4096))
        took = long_until(bench, lambda: bench.failed or len(hosts.completed) > 0, 30)
        assert 20 <= took < 25
        assert bench.failed
        long_until(bench, lambda: len(hosts.completed) == reads, 5)
        assert 0 not in {done.status for done in hosts.completed.values()}
        hosts.port.close()


@pytest.mark.parametrize("seconds", [19.0, 20.5, 21.5])
def test_a_host_reads_what_a_base_refuses_no_more_when_something_else_is_asked_for(seconds: float) -> None:
    with Bench() as bench:
        bench.put(0, 1)
        assert bench.flush() == 0
        fault = bench.media.inject_fault(op=_shim.Op.READ, status=INTERNAL_ERROR)
        data = bytearray(4096)
        ticket = bench.port.submit(_shim.Op.READ, 0, 1, data)
        began = bench.now_ns
        long_until(bench, lambda: bench.now_ns - began >= seconds * 1e9, seconds + 1)
        bench.media.clear_faults(fault)
        long_until(bench, lambda: ticket in bench.completed, 2)
        assert bench.completed[ticket].status == 0
        assert bytes(data) == content(0, 1)
        assert bench.core.stats().read_errors == 0


@pytest.mark.parametrize("closed", [False, True])
def test_what_waits_for_a_busy_base_ends_with_the_core(closed: bool) -> None:
    with Bench() as bench:
        bench.put(0, 1)
        assert bench.flush() == 0
        bench.manage = lambda: None  # type: ignore[method-assign]
        bench.media.inject_fault(status=INTERNAL_ERROR)
        read = bench.port.submit(_shim.Op.READ, 0, 1, bytearray(4096))
        bench.port.submit(_shim.Op.WRITE, 1, 1, content(1, 1))
        flush = bench.port.submit(_shim.Op.FLUSH)
        for _ in range(1000):
            bench.step()
        assert not {read, flush} & set(bench.completed)
        if closed:
            while not bench.core.begin_close():
                bench.step()
        else:
            bench.core.fail(PATH_ERROR)
        for _ in range(10):
            bench.step()
        status = 0x082 if closed else PATH_ERROR
        assert [bench.completed[ticket].status for ticket in (read, flush)] == [status, status]
        answers = bench.core.stats().busy_answers
        for _ in range(WINDOW_STEPS):
            bench.step()
        assert bench.core.stats().busy_answers == answers, "nothing is sent any more"


# --- the nv cache


@MODES
@pytest.mark.parametrize("op", [_shim.Op.WRITE, _shim.Op.FLUSH, None])
def test_a_busy_cache_is_waited_for(metadata_bytes: int, op: _shim.Op | None) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, cache_volatile=True, ring=60) as bench:
        for version in range(1, 8):  # over the end of the ring, so that headers are written as well
            with busy(bench, bench.cache, op=op, status=INTERNAL_ERROR if op == _shim.Op.WRITE else NOT_READY):
                tickets = submit_writes(bench, range(20), version)
            assert {bench.wait(ticket).status for ticket in tickets} == {0}
        assert bench.stats().state == _shim.NvCacheState.ACTIVE
        assert bench.stats().write_errors == 0
        assert bench.stats().busy_answers > 0
        assert bench.stats().lap > 0
        assert bench.take(_shim.EventKind.CACHE_FAILED) == []
        assert bench.versions(0, 20) == [7] * 20


def test_a_cache_whose_flush_is_in_doubt_is_given_up() -> None:
    with CacheBench(metadata_bytes=8, cache_volatile=True) as bench:
        bench.cache.inject_fault(op=_shim.Op.FLUSH, status=INTERNAL_ERROR, times=1)
        ticket = bench.port.submit(_shim.Op.WRITE, 3, 1, content(3, 1))
        bench.until(_shim.EventKind.CACHE_FAILED)
        assert ticket not in bench.completed
        assert bench.flush() == 0
        bench.core.forget_cache()
        assert bench.wait(ticket).status == 0
        assert bench.versions(3, 1) == [1]


def test_a_cache_that_stays_busy_is_given_up() -> None:
    with CacheBench(metadata_bytes=8) as bench:
        bench.cache.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR)
        ticket = bench.port.submit(_shim.Op.WRITE, 3, 1, content(3, 1))
        failed = lambda: any(event.kind == _shim.EventKind.CACHE_FAILED for event in bench.events)  # noqa: E731
        assert 60 <= long_until(bench, failed, 70) < 61
        bench.core.forget_cache()
        assert bench.wait(ticket).status == 0
        assert bench.versions(3, 1) == [1]


def test_what_a_busy_cache_holds_back_is_answered_when_the_core_fails() -> None:
    with CacheBench(metadata_bytes=8) as bench:
        bench.cache.inject_fault(op=_shim.Op.WRITE, status=INTERNAL_ERROR)
        ticket = bench.port.submit(_shim.Op.WRITE, 3, 1, content(3, 1))
        for _ in range(1000):
            bench.step()
        bench.core.fail(PATH_ERROR)
        assert bench.wait(ticket).status == PATH_ERROR
        sent = bench.cache.operations
        for _ in range(WINDOW_STEPS):
            bench.step()
        assert bench.cache.operations == sent
