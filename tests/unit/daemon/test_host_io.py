"""Latencies and errors of hosts' I/O in bdev_ftl_get_stats."""

from __future__ import annotations

from spdk_ftl_py import results
from spdk_ftl_py.daemon.host_io import BOUNDS_US
from support.typed_values import mismatches
from unit.daemon.registry_rig import World, create, write


async def test_statistics_tell_what_hosts_had(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    before = await daemon.call("bdev_ftl_get_stats", name="ftl0")
    await write(here, daemon, 20)
    stats = await daemon.call("bdev_ftl_get_stats", name="ftl0")
    assert mismatches(stats, results.Stats) == []
    latency = stats["latency"]["write"]
    assert (before["latency"]["write"]["count"], latency["count"]) == (0, 20)
    assert [bound for bound, _ in latency["buckets"]] == list(BOUNDS_US) == [2**power for power in range(25)]
    counts = [count for _, count in latency["buckets"]]
    assert counts == sorted(counts)
    assert counts[-1] == 20
    assert 0 < latency["p50_us"] <= latency["p90_us"] <= latency["p99_us"] <= latency["p99_9_us"] <= latency["max_us"]
    assert abs(latency["mean_us"] * 20 - latency["sum_us"]) < 0.1
    assert not any(count for kind in stats["host_errors"].values() for count in kind.values())
    assert stats["host_io"] == {"gate": "open", "held": 0}
    assert stats["reactor"]["busy_us"] > before["reactor"]["busy_us"] >= 0
    await daemon.halt()
