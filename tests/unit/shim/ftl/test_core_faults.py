"""FtlCore and a base that fails: zones, blocks, metadata, the connection, space."""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, Bench, content, version_of
from unit.shim.ftl.core_model import LOST, recover, restarted

ABORTED = 0x007
WRITE_FAULT = 0x280
UNRECOVERED_READ = 0x281
GUARD_CHECK = 0x282
PATH_ERROR = 0x370
POWER_LOSS = 0x005
INVALID_NAMESPACE = 0x00B
CAPACITY_EXCEEDED = 0x081
INVALID_OPCODE = 0x001
INVALID_FIELD = 0x002
LBA_OUT_OF_RANGE = 0x080
USER_RECORDS_MAX = 1536  # kUserRecordsMax in shim/ftl/records.hpp
EVENT_RING = 8192  # Reactor::kEventRing


def overwrite(bench: Bench, model: list[int], blocks: int, rng: random.Random, first_version: int = 1) -> int:
    """Random writes; returns the next version."""
    version = first_version
    while blocks > 0:
        count = rng.choice([1, 1, 2, 8])
        lba = rng.randrange(bench.block_count - count + 1)
        bench.put(lba, version, count)
        model[lba : lba + count] = [version] * count
        version += 1
        blocks -= count
    return version


def fill_one_band(bench: Bench) -> int:
    """Writes LBAs in sequence until a band is closed; returns that band. GC stays off."""
    bench.gc = False
    bench.auto_reset = False
    lba = 0
    while not (closed := bench.take(_shim.EventKind.BAND_CLOSED)):
        bench.put(lba, 1)
        lba += 1
    return int(closed[0].band)


def corrupt(bench: Bench, address: int, data: bytes) -> None:
    """Rewrites a block behind the FTL's back: the zone is reset and written again, with that block replaced."""
    start = address // bench.zone_size * bench.zone_size
    state, pointer = next((s, p) for z, s, p in bench.media.zone_states() if z == start)
    written = bench.zone_capacity if state == "full" else pointer - start
    raw = bytearray(b"".join(bench.base.read(start + i) for i in range(written)))
    raw[(address - start) * BLOCK : (address - start + 1) * BLOCK] = data
    assert bench.base.zone_send(start, 4) == 0
    assert bench.base.write(start, bytes(raw)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_zone_that_fails_a_write_is_given_up_and_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    with Bench(schedule_seed=seed) as bench:
        model = [0] * bench.block_count
        version = overwrite(bench, model, 300, rng)
        bench.media.inject_fault(op=_shim.Op.WRITE, status=WRITE_FAULT, skip=20, times=3)
        version = overwrite(bench, model, 2 * bench.block_count, rng, version)
        faults = bench.take(_shim.EventKind.ZONE_FAULT)
        assert [event.status for event in faults] == [WRITE_FAULT] * 3
        assert bench.flush() == 0
        assert bench.versions() == model
        assert bench.core.stats().write_errors == 3


@pytest.mark.parametrize("use_append", [False, True])
def test_a_zone_that_fails_a_write_is_active_no_more(use_append: bool) -> None:
    """The base's limit counts on it: the next band's first write would fail, too."""
    with Bench(use_append=use_append) as bench:
        bench.gc = bench.auto_reset = False
        op = _shim.Op.APPEND if use_append else _shim.Op.WRITE
        bench.media.inject_fault(op=op, status=WRITE_FAULT, skip=3, times=1)
        for lba in range(bench.block_count // 2):
            bench.put(lba, 1)
        assert bench.flush() == 0
        (fault,) = bench.take(_shim.EventKind.ZONE_FAULT)
        failed = bench.zones[fault.band][fault.punit]
        (state,) = (state for start, state, _ in bench.media.zone_states() if start == failed)
        assert state == "full"
        assert bench.core.bands()[fault.band].state == _shim.BandState.FAULTED


def test_a_read_only_zone_is_given_up_and_its_band_can_be_moved() -> None:
    rng = random.Random(5)
    with Bench() as bench:
        model = [0] * bench.block_count
        version = overwrite(bench, model, 200, rng)
        bands = enumerate(bench.core.bands())
        number = next(n for n, band in bands if band.state == _shim.BandState.OPEN and band.stream == _shim.STREAM_USER)
        bench.media.set_zone_state(bench.zones[number][1] // bench.zone_size, "read_only")
        overwrite(bench, model, 3 * bench.block_count, rng, version)
        fault = bench.take(_shim.EventKind.ZONE_FAULT)
        assert [(event.band, event.punit) for event in fault] == [(number, 1)]
        assert bench.versions() == model
        assert bench.core.stats().crc_errors == 0
        failed = [event for event in bench.take(_shim.EventKind.BAND_RESET_DONE) if event.status]
        assert [(event.band, event.failed_punit) for event in failed] == [(number, 1)], (
            "moved, and reset but for that zone"
        )


def test_a_band_in_which_a_whole_zone_went_offline_loses_just_that_zones_blocks() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        hurt = [lba for lba in range(bench.block_count) if bench.address(lba) < 1 << 62]
        gone = [lba for lba in hurt if bench.zone_of(bench.address(lba)) == (band, 0)]
        kept = [lba for lba in hurt if lba not in gone]
        assert gone
        assert kept
        bench.media.set_zone_state(bench.zones[band][0] // bench.zone_size, "offline")
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert (done.band, done.lost_blocks) == (band, len(gone))
        assert {event.lba for event in bench.take(_shim.EventKind.BLOCK_LOST)} == set(gone)
        assert all(bench.read_status(lba) == UNRECOVERED_READ for lba in gone)
        assert all(bench.versions(lba, 1) == [1] for lba in kept)
        assert bench.core.bands()[band].valid == 0
        bench.put(gone[0], 9)
        assert bench.run(_shim.Op.DEALLOCATE, gone[1], 1) == 0
        assert bench.versions(gone[0], 1) == [9]
        assert bench.versions(gone[1], 1) == [0]


def test_a_corrupt_block_is_never_passed_on_and_stays_lost_after_a_crash() -> None:
    with Bench() as bench:
        bench.put(0, 1)
        assert bench.flush() == 0, "an older version, in the same band as it happens"
        band = fill_one_band(bench)
        victim = next(lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == band)
        corrupt(bench, bench.address(victim), content(victim + 1, 77))
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        lost = bench.take(_shim.EventKind.BLOCK_LOST)
        assert done.lost_blocks == 1
        assert [(event.lba, event.status) for event in lost] == [(victim, GUARD_CHECK)]
        assert bench.read_status(victim) == UNRECOVERED_READ
        assert bench.core.stats().crc_errors == 1
        bench.core.reset_band(band)
        assert bench.until(_shim.EventKind.BAND_RESET_DONE).status == 0
        bench.media.power_cut(1)
        bench.close()
        bench.media.power_on()
        recovered = recover(bench)
        assert recovered.versions[victim] == LOST
        again = restarted(bench, recovered)
        assert again.read_status(victim) == UNRECOVERED_READ
        again.close()


def test_unreadable_blocks_cost_only_themselves() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        inside = [lba for lba in range(bench.block_count) if bench.address(lba) < 1 << 62]
        inside = [lba for lba in inside if bench.zone_of(bench.address(lba))[0] == band]
        bad = inside[5]
        bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(bad), block_count=1, status=UNRECOVERED_READ)
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 1
        assert [event.lba for event in bench.take(_shim.EventKind.BLOCK_LOST)] == [bad]
        for lba in inside:
            if lba != bad:
                assert bench.versions(lba, 1) == [1]


@pytest.mark.parametrize("what", ["summary", "header"])
def test_a_band_with_damaged_metadata_is_walked(what: str) -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        inside = [lba for lba in range(bench.block_count) if bench.address(lba) < 1 << 62]
        inside = [lba for lba in inside if bench.zone_of(bench.address(lba))[0] == band]
        start = bench.zones[band][0]
        corrupt(bench, start + bench.data_blocks, bytes(BLOCK))
        expected_lost: list[int] = []
        if what == "header":
            first_batch = range(start + 1, start + 1 + 15)
            corrupt(bench, start, bytes(BLOCK))
            expected_lost = [lba for lba in inside if bench.address(lba) in first_batch]
            assert expected_lost
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == len(expected_lost)
        assert sorted(event.lba for event in bench.take(_shim.EventKind.BLOCK_LOST)) == expected_lost
        for lba in inside:
            if lba in expected_lost:
                assert bench.read_status(lba) == UNRECOVERED_READ
            else:
                assert bench.versions(lba, 1) == [1]


def test_trims_whose_records_are_damaged_stay_trims() -> None:
    with Bench() as bench:
        bench.put(bench.block_count - 8, 1, 8)
        assert bench.flush() == 0
        assert bench.run(_shim.Op.DEALLOCATE, bench.block_count - 6, 4) == 0
        assert bench.flush() == 0
        trimmed = range(bench.block_count - 6, bench.block_count - 2)
        (header,) = {bench.address(lba) & ~_shim.TRIM_FLAG for lba in trimmed}
        band = fill_one_band(bench)
        assert bench.zone_of(header)[0] == band
        assert bench.core.bands()[band].references == 4
        corrupt(bench, header, bytes(BLOCK))
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        for lba in trimmed:
            assert bench.versions(lba, 1) == [0]
            assert bench.zone_of(bench.address(lba) & ~_shim.TRIM_FLAG)[0] != band
        assert bench.core.bands()[band].valid == 0


def test_the_loss_of_the_base_fails_everything_at_once() -> None:
    with Bench() as bench:
        bench.put(1, 1)
        ticket = bench.port.submit(_shim.Op.FLUSH)
        bench.core.fail(PATH_ERROR)
        assert bench.wait(ticket).status == PATH_ERROR
        assert bench.write(2, content(2, 1)) == PATH_ERROR
        assert bench.read_status(1) == PATH_ERROR
        assert [event.status for event in bench.take(_shim.EventKind.CORE_FAILED)] == [PATH_ERROR]


@pytest.mark.parametrize("status", [PATH_ERROR, POWER_LOSS, INVALID_NAMESPACE])
def test_a_base_that_is_gone_fails_the_core(status: int) -> None:
    with Bench() as bench:
        bench.media.inject_fault(op=_shim.Op.WRITE, status=status, times=1)
        bench.put(1, 1)
        assert bench.flush() == status
        assert bench.failed


def test_a_core_whose_base_did_not_answer_when_it_was_closed_goes_when_it_does() -> None:
    """By then the reactor may be the last that has it (a use after free, which ASan sees)."""
    bench = Bench()
    bench.media.inject_fault(op=_shim.Op.WRITE, latency_us=1_000_000)
    bench.put(0, 1)
    for _ in range(2000):
        bench.step()
    with pytest.raises(RuntimeError, match="has not completed outstanding I/O"):
        bench.core.close()
    bench.port.close()
    reactor, now_ns = bench.reactor, bench.now_ns
    bench.base.port.close()
    del bench
    gc.collect()
    reactor.step(now_ns + 2_000_000_000)
    for _ in range(10):
        reactor.step()


def test_flushes_do_not_outlast_the_core_because_the_base_does_not_answer() -> None:
    with Bench() as bench:
        bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=1_000_000)
        bench.put(0, 1)
        waiting = [bench.port.submit(_shim.Op.FLUSH), bench.port.submit(_shim.Op.WRITE, 1, 1, content(1, 1), fua=True)]
        for _ in range(2000):
            bench.step()
        assert bench.core.stats().base_flushes == 1
        bench.core.fail(PATH_ERROR)
        for _ in range(3):
            bench.step()
        assert [bench.completed[ticket].status for ticket in waiting] == [PATH_ERROR] * 2
        bench.now_ns += 2_000_000_000  # it does, in the end
        bench.step()


def test_a_flush_that_the_base_refuses_fails_and_the_next_one_counts() -> None:
    with Bench() as bench:
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=ABORTED, do_not_retry=True, times=1)
        bench.put(1, 1)
        assert bench.flush() == ABORTED
        assert bench.flush() == 0


def test_without_space_writes_and_flushes_fail_and_reads_go_on() -> None:
    with Bench() as bench:
        bench.gc = False
        model = [0] * bench.block_count
        bench.wanting.clear()
        lba = 0
        tickets: list[int] = []
        for _ in range(20_000):
            if len(tickets) > 40:
                break
            tickets = [ticket for ticket in tickets if ticket not in bench.completed]
            tickets.append(bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 1)))
            lba = (lba + 1) % bench.block_count
            bench.step()
        assert len(tickets) > 40, "all bands but the reserve are written"
        flush = bench.port.submit(_shim.Op.FLUSH)
        bench.settle()
        bench.full = True
        bench.core.fail_writes(CAPACITY_EXCEEDED)
        assert bench.wait(flush).status == CAPACITY_EXCEEDED
        statuses = {bench.wait(ticket).status for ticket in tickets}
        assert CAPACITY_EXCEEDED in statuses
        assert statuses <= {0, CAPACITY_EXCEEDED}
        assert bench.write(0, content(0, 2)) == CAPACITY_EXCEEDED
        assert bench.run(_shim.Op.DEALLOCATE, 0, 1) == CAPACITY_EXCEEDED
        assert len(bench.versions()) == len(model)


def test_without_space_a_trim_that_waits_for_a_record_fails() -> None:
    with Bench(band_count=4, zone_size=1024, zone_capacity=1000) as bench:
        bench.put(0, 1, 16)
        assert bench.flush() == 0
        bench.manage = lambda: None  # type: ignore[method-assign]
        lba = 16
        while bench.core.stats().write_buffer_used < 16:  # until the first band is full
            bench.put(lba, 1, 16)
            lba += 16
            for _ in range(600):
                bench.step()
        assert lba > USER_RECORDS_MAX + 3
        for trimmed in range(USER_RECORDS_MAX):
            assert bench.run(_shim.Op.DEALLOCATE, trimmed, 1) == 0
        waiting = [bench.port.submit(_shim.Op.DEALLOCATE, USER_RECORDS_MAX + n, 1) for n in range(3)]
        bench.settle()
        assert not set(waiting) & set(bench.completed)
        bench.core.fail_writes(CAPACITY_EXCEEDED)
        assert [bench.wait(ticket).status for ticket in waiting] == [CAPACITY_EXCEEDED] * 3


def test_io_that_completes_behind_a_flood_of_lost_blocks_is_reported() -> None:
    """Whoever waits for an I/O would wait for ever."""
    with Bench(band_count=4, zone_size=8192, zone_capacity=8000) as bench:
        bench.gc = bench.auto_reset = False
        lba = 0
        while not (closed := bench.take(_shim.EventKind.BAND_CLOSED)):
            bench.put(lba, 1, 16)
            lba += 16
        band = int(closed[0].band)
        for zone in bench.zones[band]:
            bench.media.set_zone_state(zone // bench.zone_size, "offline")
        free = next(number for number, its in enumerate(bench.core.bands()) if its.state == _shim.BandState.FREE)
        bench.core.open_band(_shim.STREAM_RELOC, free, 100)
        bench.core.start_move(band)

        def step(count: int) -> None:  # nobody looks at the events meanwhile
            for _ in range(count):
                bench.now_ns += 10_000
                bench.reactor.step(bench.now_ns)

        for _ in range(1000):
            step(100)
            if bench.core.bands()[band].state != _shim.BandState.MOVING:
                break
        read = bench.base.port.submit(_shim.Op.READ, 0, 1, bytearray(BLOCK))
        drain = bench.core.drain()
        step(2000)
        events = bench.reactor.events()
        assert [event.status for event in events if event.kind == _shim.EventKind.IO_DONE and event.ticket == read] == [
            0
        ]
        assert [
            event.status for event in events if event.kind == _shim.EventKind.DRAINED and event.ticket == drain
        ] == [0]
        (moved,) = [event for event in events if event.kind == _shim.EventKind.MOVE_DONE]
        assert moved.lost_blocks > EVENT_RING
        assert bench.core.stats().lost_blocks == moved.lost_blocks, "each is counted, told or not"
        assert events[-1].kind == _shim.EventKind.OVERFLOW, "that some were dropped is told"


@pytest.mark.parametrize("fails_last", ["older", "newer"])
def test_a_reset_ends_in_whatever_order_the_batches_that_it_waits_for_fail(fails_last: str) -> None:
    """Both zones of the user's band fail, and there is no other band: what the reset waits for goes to relocation's."""
    with Bench(write_buffer_blocks=64, volatile_cache=False) as bench:
        bench.gc = bench.auto_reset = False
        bench.core.open_band(_shim.STREAM_RELOC, 11, 1000)
        for version in (1, 2):
            for lba in range(0, 90, 15):
                bench.put(lba, version, 15)
            bench.settle()
        for _ in range(1000):
            bench.step()
        assert bench.core.stats().write_buffer_used == 0
        bands = list(enumerate(bench.core.bands()))
        empty = next(number for number, band in bands if band.state == _shim.BandState.CLOSED and band.valid == 0)
        current = next(number for number, band in bands if band.state == _shim.BandState.OPEN and band.stream == 0)
        bench.manage = lambda: None  # type: ignore[method-assign]
        for zone in bench.zones[current]:
            bench.media.inject_fault(op=_shim.Op.WRITE, lba=zone, block_count=64, status=WRITE_FAULT)
        older, newer = (3000, 500) if fails_last == "older" else (500, 3000)
        slow = bench.media.inject_fault(op=_shim.Op.WRITE, latency_us=older, times=1)
        bench.port.submit(_shim.Op.WRITE, 0, 15, b"".join(content(lba, 8) for lba in range(15)))
        for _ in range(4):
            bench.step()
        bench.media.clear_faults(slow)
        bench.media.inject_fault(op=_shim.Op.WRITE, latency_us=newer, times=1)
        bench.core.reset_band(empty)
        bench.port.submit(_shim.Op.WRITE, 15, 15, b"".join(content(lba, 8) for lba in range(15, 30)))
        assert bench.until(_shim.EventKind.BAND_RESET_DONE).band == empty
        assert len(bench.take(_shim.EventKind.ZONE_FAULT)) == 2
        assert bench.versions(0, 15) == [8] * 15


def test_io_beyond_its_bounds_is_refused() -> None:
    with Bench() as bench:
        end = bench.block_count
        assert bench.write(end, content(0, 1)) == LBA_OUT_OF_RANGE
        assert bench.read_status(end - 1, 2) == LBA_OUT_OF_RANGE
        assert bench.run(_shim.Op.DEALLOCATE, end - 1, 2) == LBA_OUT_OF_RANGE
        assert bench.read_status((1 << 64) - 1) == LBA_OUT_OF_RANGE
        assert bench.read_status(0, bench.core.max_io_blocks + 1) == INVALID_FIELD
        assert bench.zone_send(0, 4) == INVALID_OPCODE


def test_orders_that_make_no_sense_are_refused() -> None:
    with Bench() as bench:
        core: Any = bench.core
        bench.put(0, 1)
        assert bench.flush() == 0
        used = bench.zone_of(bench.address(0))[0]
        with pytest.raises(ValueError, match="not free"):
            core.open_band(0, used, 99)
        with pytest.raises(ValueError, match="not closed"):
            core.start_move(used)
        with pytest.raises(ValueError, match="in use"):
            core.reset_band(used)
        with pytest.raises(ValueError, match="beyond the last"):
            core.reset_band(1000)
        with pytest.raises(ValueError, match="not free"):
            core.replace_zone(used, 0, None)
        free = next(n for n, b in enumerate(core.bands()) if b.state == _shim.BandState.FREE)
        with pytest.raises(ValueError, match="another band uses the zone"):
            core.replace_zone(free, 0, bench.zones[used][0])
        with pytest.raises(ValueError, match="not an address in a band"):
            core.load_l2p(0, core.l2p(0, 1) * 0)


def test_a_band_with_anything_in_force_is_not_reset() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        with pytest.raises(ValueError, match="move it first"):
            bench.core.reset_band(band)


def test_a_moved_blocks_new_place_holds_the_same_version() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        before = {lba: bench.address(lba) for lba in range(bench.block_count) if bench.address(lba) < 1 << 62}
        bench.core.start_move(band)
        assert bench.until(_shim.EventKind.MOVE_DONE).lost_blocks == 0
        for lba, address in before.items():
            data = bench.base.read(bench.address(lba))
            assert version_of(lba, data) == 1
            assert (bench.address(lba) != address) == (bench.zone_of(address)[0] == band)


def test_a_band_is_not_reset_under_a_read() -> None:
    with Bench() as bench:
        band = fill_one_band(bench)
        assert bench.flush() == 0
        inside = [lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == band]
        slow = inside[7]
        data = bytearray(BLOCK)
        bench.media.inject_fault(op=_shim.Op.READ, lba=bench.address(slow), block_count=1, latency_us=50_000, times=1)
        read = bench.port.submit(_shim.Op.READ, slow, 1, data)
        bench.step()
        assert bench.core.bands()[band].readers == 1
        for lba in inside:
            bench.put(lba, 2)
        assert bench.flush() == 0
        assert bench.core.bands()[band].valid == 0
        bench.core.reset_band(band)
        bench.settle(500)
        assert read not in bench.completed
        assert bench.core.bands()[band].state == _shim.BandState.RESETTING
        assert bench.core.stats().zone_resets == 0
        assert bench.wait(read).status == 0
        assert version_of(slow, bytes(data)) == 1
        assert bench.until(_shim.EventKind.BAND_RESET_DONE).band == band


def test_zones_of_more_than_the_common_capacity_do_not_stay_active() -> None:
    rng = random.Random(6)
    with Bench(zone_capacity=40, media_zone_capacity=48, finish_zones=True) as bench:
        model = [0] * bench.block_count
        overwrite(bench, model, 3 * bench.block_count, rng)
        assert bench.versions() == model
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []
        assert bench.core.stats().zone_resets > 0


def test_a_band_whose_reset_failed_once_is_reset_again_where_the_base_has_no_volatile_cache() -> None:
    """There nothing is flushed before a reset, so nothing says anew how that went."""
    with Bench(volatile_cache=False) as bench:
        band, punit = 3, 1
        bench.media.inject_fault(
            op=_shim.Op.ZONE_SEND, lba=bench.zones[band][punit], block_count=1, status=0x1BF, times=1
        )
        for version in range(1, 9):
            for lba in range(0, bench.block_count - 8, 8):
                bench.put(lba, version, 8)
        resets = [
            (event.band, event.status, event.failed_punit) for event in bench.take(_shim.EventKind.BAND_RESET_DONE)
        ]
        assert [reset for reset in resets if reset[1]] == [(band, 0x1BF, punit)]
        assert [reset for reset in resets if reset[0] == band][-1][1] == 0


def test_a_queued_band_can_be_taken_back_and_used_for_the_other_stream() -> None:
    with Bench(band_count=16) as bench:
        bench.gc = bench.auto_reset = False
        bench.put(0, 1)
        while not {_shim.BandState.CLOSING, _shim.BandState.QUEUED} <= {each.state for each in bench.core.bands()}:
            bench.put(1, 1)
        (queued,) = [number for number, each in enumerate(bench.core.bands()) if each.state == _shim.BandState.QUEUED]
        bench.take(_shim.EventKind.BAND_NEXT_NEEDED)
        assert bench.core.take_queued(_shim.STREAM_RELOC) is None
        assert bench.core.take_queued(_shim.STREAM_USER) == queued
        assert bench.core.take_queued(_shim.STREAM_USER) is None
        assert bench.core.bands()[queued].state == _shim.BandState.FREE
        for _ in range(20):
            bench.step()
        assert bench.take(_shim.EventKind.BAND_NEXT_NEEDED) == [], "who took it knows"
        victim = next(
            number
            for number, each in enumerate(bench.core.bands())
            if each.state in (_shim.BandState.CLOSING, _shim.BandState.CLOSED)
        )
        bench.core.open_band(_shim.STREAM_RELOC, queued, 900)
        other = next(number for number, each in enumerate(bench.core.bands()) if each.state == _shim.BandState.FREE)
        bench.core.open_band(_shim.STREAM_USER, other, 901)
        n = 2
        while bench.core.bands()[victim].state != _shim.BandState.CLOSED:
            bench.put(n % bench.block_count, 7)
            n += 1
        bench.core.start_move(victim)
        assert bench.until(_shim.EventKind.MOVE_DONE).band == victim
        assert bench.core.bands()[queued].valid > 0
        with pytest.raises(ValueError, match="no stream"):
            bench.core.take_queued(7)
