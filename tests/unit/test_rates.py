"""Rates and latencies between two answers of bdev_ftl_get_stats."""

from __future__ import annotations

from typing import Any

import pytest

from spdk_ftl_py.rates import between, percentile


def stats(
    reads: int = 0, writes: int = 0, media: int = 0, *, buckets: list[list[Any]] | None = None, above: int = 0,
    uuid: str = "u",
) -> dict[str, Any]:  # fmt: skip
    latency = {} if buckets is None else {
        "latency": {
            "read": {"count": buckets[-1][1] + above, "buckets": buckets},
            "write": {"count": 0, "buckets": [[bound, 0] for bound, _ in buckets]},
        }
    }  # fmt: skip
    return {
        "uuid": uuid,
        "user": {"read": {"ios": reads, "blocks": 2 * reads}, "write": {"ios": writes, "blocks": writes}},
        "media_written_blocks": media,
        "gc_moved_blocks": media // 2,
        "throttled_ms": media,
        **latency,
    }


def test_rates_are_those_of_the_interval() -> None:
    rates = between(stats(100, 1000, 3000), stats(300, 1256, 3512), 2.0)
    assert rates is not None
    assert (rates.read_iops, rates.write_iops) == (100.0, 128.0)
    assert (rates.read_mib_s, rates.write_mib_s) == (pytest.approx(200 * 4096 / 2**20), 0.5)
    assert (rates.media_mib_s, rates.gc_mib_s) == (1.0, 0.5)
    assert rates.write_amplification == 2.0
    assert rates.throttled == pytest.approx(0.256)
    assert rates.read_p50_us is None


def test_an_interval_without_writes_has_no_write_amplification() -> None:
    rates = between(stats(0, 5, 5), stats(0, 5, 50), 1.0)
    assert rates is not None
    assert rates.write_amplification is None
    assert rates.write_iops == 0


@pytest.mark.parametrize("after", [stats(9, 10, 10), stats(10, 9, 10), stats(10, 10, 9), stats(20, 20, 20, uuid="v")])
def test_an_ftl_that_began_again_has_no_rates(after: dict[str, Any]) -> None:
    assert between(stats(10, 10, 10), after, 1.0) is None
    assert between(stats(10, 10, 10), stats(10, 10, 10), 0.0) is None


def test_percentiles_are_those_of_what_was_added() -> None:
    before = [[1, 0], [2, 100], [4, 100], [8, 100]]
    after = [[1, 0], [2, 100], [4, 150], [8, 200]]
    assert percentile(before, after, 0.5) == 4.0
    assert percentile(before, after, 0.25) == 3.0
    assert percentile(before, after, 0.75) == 6.0
    assert percentile(before, after, 1.0) == 8.0
    assert percentile([], after, 0.5) == 2.0
    assert percentile(after, after, 0.5) is None
    assert percentile([], [], 0.5) is None


@pytest.mark.parametrize("unbounded", [None, "+Inf", float("inf")])
def test_a_bucket_without_bound_counts_as_its_lower_bound(unbounded: object) -> None:
    assert percentile([], [[8, 1], [unbounded, 100]], 0.99) == 8.0


def test_latencies_come_from_the_histograms() -> None:
    rates = between(stats(buckets=[[64, 0], [128, 0]]), stats(buckets=[[64, 0], [128, 10]]), 1.0)
    assert rates is not None
    assert rates.read_p50_us == 96.0
    assert rates.read_p99_us == pytest.approx(127.36)
    assert rates.write_p99_us is None


def test_latencies_above_all_bounds_count_too() -> None:
    rates = between(stats(buckets=[[1, 0], [2, 0]]), stats(buckets=[[1, 100], [2, 100]], above=100), 1.0)
    assert rates is not None
    assert rates.read_p50_us == 1.0
    assert rates.read_p99_us == 2.0
    rates = between(stats(buckets=[[1, 7], [2, 8]]), stats(buckets=[[1, 7], [2, 8]], above=1), 1.0)
    assert rates is not None
    assert rates.read_p50_us == 2.0
