"""What is on media stays held until a base flush that began after it landed has succeeded (docs/durability.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load.write_buffer_file import BufferFiles
from unit.shim.ftl.core_bench import UUID_OF_TESTS, Bench

ABORTED = 0x007
WRITE_FAULT = 0x280
FLUSH_RETRY_NS = 100_000_000


def landed(bench: Bench, lbas: range) -> None:
    for lba in lbas:
        bench.put(lba, lba + 1)
    bench.now_ns += 10_000_000  # batches of this age go without company
    bench.settle()
    assert bench.on_media(lbas)


def held(files: BufferFiles, bench: Bench) -> int:
    found = files.read(1, bench.block_count)
    assert found is not None
    return len(found.blocks) + len(found.records)


def test_a_landed_slot_and_record_stay_held_until_a_flush(tmp_path: Path) -> None:
    files = BufferFiles(tmp_path, UUID_OF_TESTS)
    with Bench(write_buffer_blocks=64, write_buffer_path=str(files.path(1))) as bench:
        landed(bench, range(5))
        assert bench.run(_shim.Op.DEALLOCATE, 3, 2) == 0
        bench.now_ns += 10_000_000
        bench.settle()
        stats = bench.core.stats()
        assert (stats.write_buffer_used, stats.write_buffer_landed, stats.base_flushes) == (0, 5, 0)
        assert held(files, bench) == 6
        assert bench.flush() == 0
        assert bench.core.stats().write_buffer_landed == held(files, bench) == 0


def test_without_a_volatile_cache_landing_is_enough(tmp_path: Path) -> None:
    files = BufferFiles(tmp_path, UUID_OF_TESTS)
    with Bench(write_buffer_blocks=64, write_buffer_path=str(files.path(1)), volatile_cache=False) as bench:
        landed(bench, range(5))
        assert bench.run(_shim.Op.DEALLOCATE, 3, 2) == 0
        bench.now_ns += 10_000_000
        bench.settle()
        assert bench.core.stats().write_buffer_landed == held(files, bench) == 0


def test_a_fourth_of_the_slots_is_flushed_without_anybody_asking() -> None:
    with Bench(write_buffer_blocks=64) as bench:
        landed(bench, range(15))
        assert bench.core.stats().base_flushes == 0
        landed(bench, range(15, 16))
        assert bench.core.stats().base_flushes == 1
        assert bench.core.stats().write_buffer_landed == 0


def test_what_lands_while_a_flush_is_under_way_waits_for_the_next() -> None:
    with Bench(write_buffer_blocks=64) as bench:
        landed(bench, range(3))
        bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=1_000_000, times=1)
        first = bench.port.submit(_shim.Op.FLUSH)
        for _ in range(20):
            bench.step()
        landed(bench, range(3, 5))
        bench.now_ns += 2_000_000_000
        assert bench.wait(first).status == 0
        assert bench.core.stats().write_buffer_landed == 2
        assert bench.flush() == 0
        assert bench.core.stats().write_buffer_landed == 0


def test_a_flush_that_fails_frees_nothing_and_the_next_one_does() -> None:
    with Bench(write_buffer_blocks=64) as bench:
        landed(bench, range(5))
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=ABORTED, do_not_retry=True, times=1)
        assert bench.flush() == ABORTED
        assert bench.core.stats().write_buffer_landed == 5
        assert not bench.take(_shim.EventKind.FLUSH_FAILED), "nothing waited for it but the user, who knows"
        assert bench.flush() == 0
        assert bench.core.stats().write_buffer_landed == 0


def test_flushes_for_the_buffer_are_tried_again_and_counted() -> None:
    with Bench(write_buffer_blocks=16) as bench:
        fault = bench.media.inject_fault(op=_shim.Op.FLUSH, status=ABORTED, do_not_retry=True)
        landed(bench, range(6))
        for _ in range(3):
            bench.now_ns += FLUSH_RETRY_NS
            bench.settle()
        failed = bench.take(_shim.EventKind.FLUSH_FAILED)
        assert [(event.status, event.failures) for event in failed] == [(ABORTED, n) for n in range(1, 5)]
        bench.media.clear_faults(fault)
        bench.now_ns += FLUSH_RETRY_NS
        bench.settle()
        assert bench.core.stats().write_buffer_landed == 0
        assert bench.versions(0, 6) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("options", [{"write_buffer_blocks": 8}, {"write_buffer_blocks": 8, "use_append": True}])
def test_writes_that_wait_for_slots_are_not_stuck_behind_landed_ones(options: dict[str, object]) -> None:
    with Bench(fill_percent=50, **options) as bench:  # type: ignore[arg-type]
        for round_ in range(4):
            tickets = [
                bench.port.submit(_shim.Op.WRITE, lba, 8, bytes(8 * 4096))
                for lba in range(0, min(bench.block_count, 400) - 8, 8)
            ]
            assert [bench.wait(ticket).status for ticket in tickets] == [0] * len(tickets), round_


def test_trims_without_end_are_not_stuck_behind_landed_records() -> None:
    with Bench(write_buffer_blocks=64) as bench:
        for n in range(3000):
            bench.put(n % 50, 1 + n)
            assert bench.run(_shim.Op.DEALLOCATE, n % 50, 1) == 0


def test_a_core_that_fails_or_is_closed_keeps_what_it_held(tmp_path: Path) -> None:
    files = BufferFiles(tmp_path, UUID_OF_TESTS)
    for close in (False, True):
        bench = Bench(write_buffer_blocks=64, write_buffer_path=str(files.path(1)))
        landed(bench, range(5))
        bench.put(9, 9)
        flush = bench.port.submit(_shim.Op.FLUSH)
        if not close:
            bench.core.fail(WRITE_FAULT)
            assert bench.wait(flush).status == WRITE_FAULT
        bench.close()
        assert held(files, bench) == 6
