"""compare_write and write_uncorrectable of an FtlCore, and the number of blocks that are allocated."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.cache_bench import CacheBench
from unit.shim.ftl.core_bench import BLOCK, Bench, content
from unit.shim.ftl.core_model import LOST, recover, restarted
from unit.shim.stepped import Stepped

SAME_FAILS = 0x285
UNREADABLE = 0x281


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made  # type: ignore[misc]


def compare_write(bench: Bench, lba: int, expected: bytes, data: bytes, *, fua: bool = False) -> int:
    """The ticket."""
    return bench.port.submit(_shim.Op.COMPARE_WRITE, lba, 1, expected + data, fua=fua)


def mapped(bench: Bench) -> int:
    """By brute force."""
    entries = bench.core.l2p(0, bench.block_count)
    return int(np.count_nonzero((entries != _shim.ADDRESS_INVALID) & (entries >> np.uint64(62) != 2)))


@pytest.mark.parametrize("flushed", [False, True])
def test_compare_write_writes_only_if_the_block_is_as_expected(bench: Bench, flushed: bool) -> None:
    bench.put(3, 1)
    if flushed:
        assert bench.flush() == 0
        assert bench.on_media([3])
    assert bench.wait(compare_write(bench, 3, content(3, 1), content(3, 2))).status == 0
    assert bench.versions(3, 1) == [2]
    assert bench.wait(compare_write(bench, 3, content(3, 1), content(3, 3))).status == SAME_FAILS
    assert bench.versions(3, 1) == [2]
    assert bench.wait(compare_write(bench, 4, bytes(BLOCK), content(4, 9), fua=True)).status == 0
    assert bench.versions(3, 2) == [2, 9]


def test_one_different_byte_is_enough(bench: Bench) -> None:
    bench.put(0, 5)
    almost = bytearray(content(0, 5))
    almost[-1] ^= 1
    assert bench.wait(compare_write(bench, 0, bytes(almost), content(0, 6))).status == SAME_FAILS


@pytest.mark.parametrize("op", [_shim.Op.WRITE, _shim.Op.DEALLOCATE, _shim.Op.WRITE_UNCORRECTABLE])
def test_nothing_comes_between_the_comparison_and_the_write(op: _shim.Op) -> None:
    statuses = []
    for seed in range(12):
        with Bench(schedule_seed=seed) as bench:
            bench.put(7, 1)
            assert bench.flush() == 0
            ticket = compare_write(bench, 7, content(7, 1), content(7, 2))
            for _ in range(seed % 3):
                bench.step()
            assert bench.wait(bench.port.submit(op, 7, 1, content(7, 8) if op == _shim.Op.WRITE else None)).status == 0
            statuses.append(bench.wait(ticket).status)
            # Before the other command, or not at all.
            if op == _shim.Op.WRITE_UNCORRECTABLE:
                assert bench.read_status(7) == UNREADABLE
            else:
                assert bench.versions(7, 1) == [8 if op == _shim.Op.WRITE else 0]
    assert (UNREADABLE if op == _shim.Op.WRITE_UNCORRECTABLE else SAME_FAILS) in statuses, statuses


@pytest.mark.parametrize("flushed", [False, True])
def test_of_many_with_the_same_expectation_one_wins(bench: Bench, flushed: bool) -> None:
    bench.put(5, 1)
    if flushed:
        assert bench.flush() == 0
    tickets = [compare_write(bench, 5, content(5, 1), content(5, 10 + i)) for i in range(50)]
    statuses = [bench.wait(ticket).status for ticket in tickets]
    assert sorted(statuses) == [0] + [SAME_FAILS] * 49
    assert bench.versions(5, 1) == [10 + statuses.index(0)]


def test_compare_writes_among_writes_that_fill_the_buffer_all_end(bench: Bench) -> None:
    """A counter that only compare_write raises counts every success."""
    rng = random.Random(3)
    bench.put(0, 1)
    counter, pending, raised = 1, None, 0
    writes: list[int] = []
    for _ in range(1500):
        if pending is None:
            pending = compare_write(bench, 0, content(0, counter), content(0, counter + 1), fua=rng.random() < 0.1)
        if len(writes) < 40:
            writes.append(bench.port.submit(_shim.Op.WRITE, rng.randrange(1, bench.block_count), 1, content(0, 7)))
        bench.step()
        writes = [ticket for ticket in writes if bench.completed.pop(ticket, None) is None]
        done = bench.completed.pop(pending, None)
        if done is not None:
            assert done.status == 0
            counter, pending, raised = counter + 1, None, raised + 1
    for ticket in writes:
        bench.wait(ticket)
    assert raised > 50
    assert bench.versions(0, 1)[0] in (counter, counter + 1)


def test_compare_write_refuses_more_than_a_block(bench: Bench) -> None:
    assert bench.core.compare_write_blocks == 1
    assert bench.wait(bench.port.submit(_shim.Op.COMPARE_WRITE, 0, 2, bytes(4 * BLOCK))).status == 0x014
    assert bench.wait(compare_write(bench, bench.block_count, bytes(BLOCK), bytes(BLOCK))).status == 0x080


def test_a_failed_core_gives_back_compares_that_are_being_read(bench: Bench) -> None:
    bench.put(1, 1)
    assert bench.flush() == 0
    tickets = [compare_write(bench, 1, content(1, 1), content(1, 2)) for _ in range(20)]
    bench.core.fail(0x060)
    assert {bench.wait(ticket).status for ticket in tickets} <= {0x060}


def test_an_uncorrectable_block_reads_as_an_error_until_it_is_written_or_deallocated(bench: Bench) -> None:
    bench.put(8, 1, 8)
    assert bench.run(_shim.Op.WRITE_UNCORRECTABLE, 10, 3) == 0
    assert [bench.read_status(lba) for lba in range(8, 16)] == [0, 0, *[UNREADABLE] * 3, 0, 0, 0]
    assert bench.read_status(8, 8) == UNREADABLE
    assert bench.flush() == 0
    assert bench.read_status(10) == UNREADABLE
    bench.put(10, 2)
    assert bench.run(_shim.Op.DEALLOCATE, 11, 1) == 0
    assert bench.versions(10, 2) == [2, 0]
    assert bench.read_status(12) == UNREADABLE
    assert not any(event.kind == _shim.EventKind.BAND_UNREADABLE for event in bench.events)


def test_an_uncorrectable_block_survives_a_loss_of_power_after_a_flush(bench: Bench) -> None:
    bench.put(0, 1, 8)
    assert bench.run(_shim.Op.WRITE_UNCORRECTABLE, 2, 4) == 0
    assert bench.flush() == 0
    bench.put(3, 2)
    assert bench.run(_shim.Op.DEALLOCATE, 4, 1) == 0
    assert bench.flush() == 0
    bench.media.power_cut(1)
    bench.close()
    bench.media.power_on()
    recovered = recover(bench)
    assert recovered.versions[:8] == [1, 1, LOST, 2, 0, LOST, 1, 1]
    with restarted(bench, recovered) as again:
        assert [again.read_status(lba) for lba in range(8)] == [0, 0, UNREADABLE, 0, 0, UNREADABLE, 0, 0]
        assert again.core.allocated_blocks() == mapped(again) == 7  # type: ignore[arg-type]


def test_garbage_collection_keeps_uncorrectable_blocks(bench: Bench) -> None:
    last = bench.block_count - 1
    assert bench.run(_shim.Op.WRITE_UNCORRECTABLE, last - 40, 41) == 0
    assert bench.flush() == 0
    rng = random.Random(1)
    for version in range(1, 1200):
        bench.put(rng.randrange(last - 40), version)
    assert bench.core.stats().zone_resets > 20
    assert {bench.read_status(lba) for lba in range(last - 40, last + 1)} == {UNREADABLE}
    assert bench.core.stats().lost_blocks == 0
    bench.audit()


def test_allocated_blocks_are_counted(bench: Bench) -> None:
    rng = random.Random(2)
    assert bench.core.thin
    assert bench.core.allocated_blocks() == 0
    for version in range(1, 1500):
        lba = rng.randrange(bench.block_count - 16)
        op = rng.choice(["write"] * 12 + [_shim.Op.DEALLOCATE, _shim.Op.WRITE_ZEROES, _shim.Op.WRITE_UNCORRECTABLE])
        if op == "write":
            bench.put(lba, version)
        else:
            assert bench.run(op, lba, rng.randrange(1, 16)) == 0
        if version % 100 == 0:
            assert bench.core.allocated_blocks() == mapped(bench) == bench.core.stats().mapped_blocks
    assert bench.core.stats().zone_resets > 0


@pytest.mark.parametrize("found", [2, 1, 9], ids=["its own write", "what it compared with", "a later write"])
def test_a_compare_write_whose_core_is_lost_happens_once(found: int) -> None:
    """The core is lost after it has accepted the write, and before that is durable. found: what the next core has."""
    with Bench() as first, Bench(reactor=first.reactor) as second:
        first.manage = lambda: None  # type: ignore[method-assign]
        first.put(3, 1)
        gate = _shim.Gate(first.reactor, first.core)
        host = Stepped(first.reactor, gate)
        second.ports.append(host)
        ticket = host.port.submit(_shim.Op.COMPARE_WRITE, 3, 1, content(3, 1) + content(3, 2), fua=True)
        for _ in range(3):
            first.reactor.step()  # nobody opens a band there, so it can't become durable
        assert first.versions(3, 1) == [2]
        first.core.fail(0x370)
        second.put(3, found)
        assert gate.held == 1
        gate.set_device(second.core)
        # Both take events of both: what failed is the first, and what wants a band the second.
        second.failed = False
        second.wanting.add(_shim.STREAM_USER)
        for _ in range(2000):
            second.step()
            if host.completed:
                break
        assert {number: done.status for number, done in host.completed.items()} == {ticket: 0}
        assert second.versions(3, 1) == [9 if found == 9 else 2]
        host.port.close()


def test_a_compare_write_that_an_earlier_core_accepted_does_not_wait_for_the_cache() -> None:
    """It has nothing in the ring of the next core, and a trim has the newest seq. The base has to be flushed for it."""
    with CacheBench(metadata_bytes=0) as first, CacheBench(metadata_bytes=0, reactor=first.reactor) as second:
        first.manage = lambda: None  # type: ignore[method-assign]
        first.put(3, 1)
        second.put(3, 9)
        second.put(20, 1)
        assert second.flush() == 0
        assert second.on_media([3])
        first.cache.inject_fault(op=_shim.Op.WRITE, latency_us=1000)
        gate = _shim.Gate(first.reactor, first.core)
        host = Stepped(first.reactor, gate)
        second.ports.append(host)
        compare = host.port.submit(_shim.Op.COMPARE_WRITE, 3, 1, content(3, 1) + content(3, 2))
        for _ in range(3):
            second.step()
        assert not host.completed
        first.core.fail(0x370)
        for _ in range(3):
            second.step()
        trim = host.port.submit(_shim.Op.DEALLOCATE, 20, 1)
        second.step()
        assert gate.held == 2
        second.media.inject_fault(op=_shim.Op.READ, latency_us=300)
        flushes = second.core.stats().base_flushes
        gate.set_device(second.core)
        second.failed = False
        for _ in range(2000):
            second.step()
        assert {number: done.status for number, done in host.completed.items()} == {compare: 0, trim: 0}
        assert second.versions(3, 1) == [9]
        assert second.core.stats().base_flushes > flushes
        host.port.close()
