"""flush_zone_starts: nothing is written behind the first batch of a zone before a flush has made it durable."""

from __future__ import annotations

import random

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, Bench, content
from unit.shim.ftl.test_core_classes import bench_of, only
from unit.shim.ftl.test_core_faults import overwrite

SLOW_US = 20_000
SLOTS = 256
INVALID_FIELD = 0x002
FLUSH_FAILED = 0x006


def pointers(bench: Bench) -> list[int]:
    """Blocks on media, of each zone with any."""
    return [pointer for band in bench.core.bands() for pointer in band.write_pointers if pointer]


def write_slowly(bench: Bench, count: int) -> list[int]:
    data = b"".join(content(lba, 1) for lba in range(count))
    tickets = [
        bench.port.submit(_shim.Op.WRITE, lba, 4, data[lba * BLOCK :][: 4 * BLOCK]) for lba in range(0, count, 4)
    ]
    for _ in range(500):
        bench.step()
    return tickets


def wait_for(bench: Bench, tickets: list[int]) -> None:
    for ticket in tickets:
        assert bench.wait(ticket).status == 0
    assert bench.flush() == 0


@pytest.mark.parametrize("use_append", [False, True])
def test_a_second_batch_waits_for_the_flush_behind_the_first(use_append: bool) -> None:
    with Bench(flush_zone_starts=True, use_append=use_append, write_buffer_blocks=SLOTS) as bench:
        fault = bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=SLOW_US)
        tickets = write_slowly(bench, 80)
        first = pointers(bench)
        assert len(first) == bench.punits
        assert max(first) <= 16
        bench.media.clear_faults(fault)
        wait_for(bench, tickets)
        assert max(pointers(bench)) > 16
        assert bench.versions(0, 80) == [1] * 80


def test_without_it_or_without_a_cache_nothing_waits() -> None:
    for options in ({}, {"flush_zone_starts": True, "volatile_cache": False}):
        with Bench(write_buffer_blocks=SLOTS, **options) as bench:
            bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=SLOW_US)
            tickets = write_slowly(bench, 80)
            assert max(pointers(bench)) > 16
            bench.media.clear_faults()
            wait_for(bench, tickets)


def test_a_summary_waits_too() -> None:
    """A zone that one batch fills."""
    with Bench(flush_zone_starts=True, zone_capacity=16, zone_size=16, write_buffer_blocks=SLOTS) as bench:
        fault = bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=SLOW_US)
        tickets = write_slowly(bench, 60)
        assert max(pointers(bench)) == bench.data_blocks
        bench.media.clear_faults(fault)
        wait_for(bench, tickets)
        assert max(pointers(bench)) == 16


def test_a_base_that_refuses_the_flush_gets_nothing_more_in_that_zone() -> None:
    with Bench(flush_zone_starts=True, write_buffer_blocks=SLOTS) as bench:
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=INVALID_FIELD, do_not_retry=True)
        for lba in range(64):
            bench.put(lba, 1)
        bench.settle()
        assert max(pointers(bench)) <= 16
        bench.media.clear_faults()
        assert bench.flush() == 0
        assert bench.versions(0, 64) == [1] * 64
        assert bench.take(_shim.EventKind.ZONE_FAULT) == []


def test_a_flush_in_doubt_fails_the_core() -> None:
    with Bench(flush_zone_starts=True) as bench:
        bench.media.inject_fault(op=_shim.Op.FLUSH, status=FLUSH_FAILED, times=1)
        bench.put(0, 1)
        (failed,) = [bench.until(_shim.EventKind.CORE_FAILED)]
        assert (failed.status, failed.by_flush) == (FLUSH_FAILED, 1)


def test_a_zone_is_closed_on_order_behind_that_flush() -> None:
    with Bench(flush_zone_starts=True) as bench:
        bench.gc = bench.auto_reset = False
        fault = bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=SLOW_US)
        tickets = write_slowly(bench, 16)
        band, punit = bench.zone_of(bench.address(0))
        assert bench.core.close_zone(band, punit) is True
        bench.media.clear_faults(fault)
        wait_for(bench, tickets)
        for lba in range(16, 40):
            bench.put(lba, 1)
        assert bench.flush() == 0
        bench.settle()
        assert bench.core.bands()[band].write_pointers[punit] == 16
        assert bench.core.close_zone(band, punit) is False
        assert bench.versions(0, 40) == [1] * 40


def test_a_class_that_goes_away_meanwhile_leaves_no_band_behind() -> None:
    """As a change of the policy under I/O does."""
    with bench_of(flush_zone_starts=True, write_buffer_blocks=SLOTS) as bench:
        regions = np.array([0, 1] + [0] * 20, np.uint8)
        for turn in range(8):
            bench.place(((0, 1), (1 << 40,)), only(2), regions=regions, region_blocks=16, user_classes=2)
            fault = bench.media.inject_fault(op=_shim.Op.FLUSH, latency_us=SLOW_US)
            data = b"".join(content(lba, turn + 1) for lba in range(16, 32))
            tickets = [bench.port.submit(_shim.Op.WRITE, 16, 16, data)]
            for _ in range(400):
                bench.step()
            bench.place(only(0), only(1), user_classes=1)
            bench.media.clear_faults(fault)
            wait_for(bench, tickets)
            bench.settle()
            assert _shim.BandState.CLOSING not in [band.state for band in bench.core.bands()]


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_stall_a_full_device(seed: int) -> None:
    rng = random.Random(seed)
    with Bench(flush_zone_starts=True, schedule_seed=seed, use_append=seed % 2 == 1) as bench:
        model = [0] * bench.block_count
        version = 1
        for _ in range(40):
            version = overwrite(bench, model, 40, rng, version)
        assert bench.flush() == 0
        assert bench.versions() == model
        bench.audit()
