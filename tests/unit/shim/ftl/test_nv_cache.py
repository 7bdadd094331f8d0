"""The nv cache's ring as the core writes it: what completes when, what may be overwritten, what a failure does."""

from __future__ import annotations

import random

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.cache_bench import ID, CacheBench
from unit.shim.ftl.core_bench import Bench, content

MODES = pytest.mark.parametrize("metadata_bytes", [8, 16, 64, 0])


@MODES
def test_a_write_completes_when_the_cache_has_it(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes) as bench:
        bench.put(3, 1)
        assert bench.stats().written_blocks == 1
        bench.put(7, 2, block_count=5)
        assert bench.newest() == {3: 1, **{7 + i: 2 for i in range(5)}}
        assert bench.versions(3, 1) == [1]


@MODES
def test_a_write_waits_for_the_cache(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes) as bench:
        fault = bench.cache.inject_fault(op=_shim.Op.WRITE, latency_us=1000)
        ticket = bench.port.submit(_shim.Op.WRITE, 3, 1, content(3, 1))
        for _ in range(90):
            bench.step()
        assert ticket not in bench.completed
        assert bench.versions(3, 1) == [1]
        bench.cache.clear_faults(fault)
        assert bench.wait(ticket).status == 0


@MODES
@pytest.mark.parametrize(("request_count", "in_flight"), [(1, 1), (3, 3), (8, 8), (20, 8)])
def test_no_more_requests_are_in_flight_than_was_asked_for(
    metadata_bytes: int, request_count: int, in_flight: int
) -> None:
    """Beyond eight only full ones are sent, and these are never full."""
    with CacheBench(metadata_bytes=metadata_bytes, request_count=request_count) as bench:
        fault = bench.cache.inject_fault(op=_shim.Op.WRITE, latency_us=100_000)
        tickets = []
        for lba in range(20):
            tickets.append(bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 1)))
            for _ in range(10):
                bench.step()
        assert bench.stats().write_ios == in_flight
        bench.cache.clear_faults(fault)
        assert {bench.wait(ticket).status for ticket in tickets} == {0}
        assert bench.newest() == dict.fromkeys(range(20), 1)


@MODES
@pytest.mark.parametrize("request_blocks", [1, 4, 16])
def test_a_request_has_at_most_the_blocks_that_were_asked_for(metadata_bytes: int, request_blocks: int) -> None:
    options = {"request_blocks": request_blocks, "request_count": 1, "write_buffer_blocks": 64}
    with CacheBench(metadata_bytes=metadata_bytes, **options) as bench:
        bench.cache.inject_fault(op=_shim.Op.WRITE, latency_us=1000)
        # The first one goes alone, the others wait for it together.
        tickets = [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 1)) for lba in range(33)]
        assert {bench.wait(ticket).status for ticket in tickets} == {0}
        stats = bench.stats()
        assert (stats.write_ios, stats.written_blocks) == (1 + 32 // request_blocks, 33)


@MODES
@pytest.mark.parametrize("seed", range(2))
def test_the_ring_wraps_and_whatever_is_not_on_media_is_in_it(metadata_bytes: int, seed: int) -> None:
    rng = random.Random(seed)
    with CacheBench(metadata_bytes=metadata_bytes, ring=83, request_blocks=5, schedule_seed=seed) as bench:
        bench.cache.set_schedule(seed)
        expected = [0] * bench.block_count
        for version in range(1, 500):
            if rng.random() < 0.05:
                lba = rng.randrange(bench.block_count - 8)
                assert bench.run(_shim.Op.DEALLOCATE, lba, 8) == 0
                expected[lba : lba + 8] = [0] * 8
                continue
            block_count = rng.choice([1, 1, 3, 8])
            lba = rng.randrange(bench.block_count - block_count)
            bench.put(lba, version, block_count)
            expected[lba : lba + block_count] = [version] * block_count
            if version % 50 == 0:
                held = [lba for lba in range(bench.block_count) if bench.address(lba) >> 62 == 1]
                newest = bench.newest()
                assert {lba: newest.get(lba) for lba in held} == {lba: expected[lba] for lba in held}
        assert bench.stats().lap >= 8
        assert bench.header_lap() == bench.stats().lap
        assert bench.versions() == expected


@MODES
def test_a_place_is_overwritten_only_when_what_stood_there_is_durable(metadata_bytes: int) -> None:
    """No band to write to: the ring fills up, writes wait, and nothing of the ring is lost."""
    with CacheBench(metadata_bytes=metadata_bytes, ring=24, write_buffer_blocks=64, batch_blocks=2) as bench:
        manage, bench.manage = bench.manage, lambda: None  # type: ignore[method-assign]
        tickets = [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 1)) for lba in range(40)]
        for _ in range(2000):
            bench.step()
        done = [lba for lba, ticket in enumerate(tickets) if ticket in bench.completed]
        assert 8 <= len(done) < 25
        assert bench.stats().ring_waits > 0
        assert set(done) <= set(bench.newest())
        bench.manage = manage  # type: ignore[method-assign]
        for ticket in tickets:
            assert bench.wait(ticket).status == 0
        assert bench.versions(0, 40) == [1] * 40


@MODES
def test_the_header_of_a_lap_is_durable_before_its_first_block(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, ring=40, cache_volatile=True) as bench:
        bench.cache.inject_fault(op=_shim.Op.WRITE, lba=0, block_count=2, latency_us=2000)
        tickets = [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 1)) for lba in range(60)]
        for _ in range(100):
            bench.step()
        assert bench.stats().lap == 0
        assert bench.stats().written_blocks < 40
        for ticket in tickets:
            assert bench.wait(ticket).status == 0
        assert bench.stats().lap >= 1


@MODES
def test_a_volatile_cache_is_flushed_before_a_write_completes(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, cache_volatile=True) as bench:
        bench.cache.inject_fault(op=_shim.Op.FLUSH, latency_us=300)
        for seed in range(5):
            tickets = [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, seed + 1)) for lba in range(8)]
            for ticket in tickets:
                assert bench.wait(ticket).status == 0
            flushes = bench.stats().flushes
            bench.cache.power_cut(seed)
            bench.cache.power_on()
            assert bench.newest() == dict.fromkeys(range(8), seed + 1)
        assert flushes < 40, "commits are grouped"


@MODES
def test_with_a_cache_a_trim_that_has_completed_is_durable(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes) as bench:
        bench.put(3, 1)
        flushes = bench.core.stats().base_flushes
        assert bench.run(_shim.Op.DEALLOCATE, 3, 1) == 0
        assert bench.core.stats().base_flushes > flushes
        assert bench.core.stats().media_trim_blocks == 1


@MODES
@pytest.mark.parametrize("op", [_shim.Op.WRITE, _shim.Op.FLUSH])
def test_when_the_cache_fails_writes_wait_until_the_superblock_says_so(metadata_bytes: int, op: _shim.Op) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, cache_volatile=op == _shim.Op.FLUSH) as bench:
        bench.put(3, 1)
        bench.cache.inject_fault(op=op, status=0x280)
        tickets = [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 2)) for lba in range(20)]
        event = bench.until(_shim.EventKind.CACHE_FAILED)
        assert event.status == 0x280
        # The base takes them all the same, and a flush is a flush.
        ticket = bench.core.drain()
        assert bench.until(_shim.EventKind.DRAINED).ticket == ticket
        assert bench.flush() == 0
        assert not set(tickets) & set(bench.completed)
        bench.core.forget_cache()
        for ticket in tickets:
            assert bench.wait(ticket).status == 0
        bench.put(50, 3)
        assert bench.stats().state == _shim.NvCacheState.OFF
        assert bench.versions(0, 20) == [2] * 20


def test_what_was_held_back_is_answered_when_the_core_fails() -> None:
    with CacheBench(metadata_bytes=8) as bench:
        bench.cache.inject_fault(op=_shim.Op.WRITE, latency_us=1000)
        ticket = bench.port.submit(_shim.Op.WRITE, 3, 1, content(3, 1))
        for _ in range(5):
            bench.step()
        bench.core.fail(0x370)
        assert bench.wait(ticket).status == 0x370
        for _ in range(200):
            bench.step()


def test_what_was_held_back_is_answered_when_there_is_no_more_space() -> None:
    with CacheBench(metadata_bytes=8) as bench:
        bench.cache.inject_fault(op=_shim.Op.WRITE, status=0x280)
        ticket = bench.port.submit(_shim.Op.WRITE, 3, 1, content(3, 1))
        bench.until(_shim.EventKind.CACHE_FAILED)
        assert ticket not in bench.completed
        bench.core.fail_writes(0x81)
        assert bench.wait(ticket).status == 0x81


@MODES
def test_writes_that_wait_for_a_full_ring_are_answered_when_there_is_no_more_space(metadata_bytes: int) -> None:
    with CacheBench(metadata_bytes=metadata_bytes, ring=24, write_buffer_blocks=64, batch_blocks=2) as bench:
        bench.manage = lambda: None  # type: ignore[method-assign]
        tickets = [bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 1)) for lba in range(40)]
        for _ in range(2000):
            bench.step()
        done = [ticket for ticket in tickets if ticket in bench.completed]
        assert 8 <= len(done) < 25
        bench.core.fail_writes(0x81)
        assert {bench.wait(ticket).status for ticket in tickets if ticket not in done} == {0x81}
        assert {bench.completed[ticket].status for ticket in done} == {0}


@pytest.mark.parametrize(
    ("metadata_bytes", "block_count", "options", "told"),
    [
        (0, 3, {}, "too small for a ring"),
        (4, 100, {}, "metadata"),
        (8, 100, {"request_blocks": 0}, "max_request_size and max_request_cnt must be at least 1"),
        (8, 100, {"request_count": 0}, "max_request_size and max_request_cnt must be at least 1"),
    ],
)
def test_what_can_not_be_a_cache_is_refused(
    metadata_bytes: int, block_count: int, options: dict[str, int], told: str
) -> None:
    with Bench() as bench:
        media = _shim.EmulatedMedia.conventional(bench.reactor, block_count, metadata_bytes=metadata_bytes)
        with pytest.raises(ValueError, match=told):
            bench.core.use_cache(media, _shim.NvCacheConfig(id=ID, generation=0, lap=0, **options))
        with pytest.raises(ValueError, match="zoned"):
            bench.core.use_cache(bench.media, _shim.NvCacheConfig(id=ID, generation=0, lap=0))
        with pytest.raises(ValueError, match="16 bytes"):
            _shim.NvCacheConfig(id=b"", generation=0, lap=0)
        assert bench.core.cache_stats() is None
        bench.put(0, 1)
