"""The bench measures: `spdk-ftl bench` an FTL that exists, bench/run.py all that it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from spdk_ftl_py.bench import script
from spdk_ftl_py.bench.rows import load
from spdk_ftl_py.bench.workloads import HOST_NQN


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS) as world:
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
        yield world


def bench(world: FtlWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "bench", "ftl0", "--socket", str(world.daemon.socket)]
    options = ("--seconds", "0.1", "--repeats", "1", *arguments)
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)


def test_an_ftl_is_measured_and_written_only_on_order(world: FtlWorld) -> None:
    refused = bench(world, "--only", "read-qd1")
    assert refused.returncode == 1
    assert f"add-host -b NAME --host {HOST_NQN}" in refused.stderr
    world.rpc("bdev_ftl_add_host", "-b", "ftl0", "--host", HOST_NQN)

    forbidden = bench(world, "--only", "write-qd1")
    assert forbidden.returncode == 2
    assert "--write allows writes" in forbidden.stderr
    read = bench(world, "--only", "read-qd32-4q", "--json")
    assert (read.returncode, read.stderr) == (0, "")
    assert world.rpc("bdev_ftl_get_stats", "-b", "ftl0")["host_written_blocks"] == 0

    rows = {row["metric"]: row for row in json.loads(read.stdout)}
    assert rows["iops"]["name"] == "ftl0/read-qd32-4q"
    assert rows["iops"]["ftl"] > 100
    assert 0 < rows["p50_us"]["ftl"] <= rows["p99_99_us"]["ftl"]
    assert rows["cpu_us_daemon"]["ftl"] > 0
    assert rows["cpu_us_client"]["ftl"] > 0

    written = bench(world, "--only", "fsync-qd1", "--write")
    assert written.returncode == 0
    assert "destroys all data on ftl0" in written.stderr
    assert "fsync-qd1" in written.stdout
    stats = world.rpc("bdev_ftl_get_stats", "-b", "ftl0")
    assert stats["host_written_blocks"] > 0
    assert stats["flushes"] > 0


def test_raw_bdev_and_ftl_are_measured_side_by_side(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "BASE_MIB_MIN", 64)
    file = folder / "b.json"
    how = ["--target", "embedded", "--base-mib", "128", "--seconds", "0.1", "--repeats", "2", "--json", str(file)]
    # On machines with one core, too.
    how += ["--cores", "0,0,0"]
    assert script.main("", [*how, "--only", "write-qd32,read-qd1,gc/write-qd32"]) == 0
    rows = {(row.name, row.metric): row for row in load(file)}
    for name in ("fresh/write-qd32", "fresh/read-qd1", "gc/write-qd32"):
        row = rows[f"embedded/tcp/{name}", "iops"]
        assert row.raw is not None
        assert row.ftl is not None
        assert row.repeats == 2
    # The FTL relocates in one state, and not in the other.
    fresh = rows["embedded/tcp/fresh/write-qd32", "write_amplification"].ftl
    gc = rows["embedded/tcp/gc/write-qd32", "write_amplification"].ftl
    assert fresh is not None
    assert gc is not None
    assert fresh < 1.5 < gc
    assert rows["embedded/tcp/gc/write-qd32", "media_writes_to_fresh"].goal == ">= 0.8"
    assert "**goals**" in capsys.readouterr().out
