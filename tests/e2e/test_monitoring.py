"""`spdk-ftl health` and metrics over TCP, with daemon and target as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from e2e.ftl_world import ZNS, FtlWorld
from spdk_ftl_py.client import DaemonClient
from support.processes import Daemon, target_process


def health(world: FtlWorld, *arguments: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "health", *arguments, "--socket", world.daemon.socket]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def scraped(url: str, name: str, **labels: str) -> float:
    with urllib.request.urlopen(url, timeout=20) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    (value,) = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
    return value


def test_health_and_metrics_of_an_ftl_that_is_well_of_one_that_failed_and_of_one_that_waits(folder: Path) -> None:
    with target_process(folder, "--zns", ZNS) as target, Daemon(folder, "--metrics", "0") as daemon:
        world = FtlWorld(folder, target, daemon)
        world.tcp()
        world.call("bdev_null_create", name="N0", num_blocks=16384, block_size=4096)
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
        world.rpc("bdev_ftl_create", "-b", "ftl1", "-d", "N0", "--zone-capacity", "192", "--no-data")
        url = DaemonClient(daemon.socket).ftl_get_daemon()["urls"]["metrics"]
        assert url.startswith("http://127.0.0.1:")

        code, lines = health(world)
        assert code == 0, lines
        assert [line.split()[0] for line in lines] == ["healthy"] * 3
        stats = world.rpc("bdev_ftl_get_stats", "-b", "ftl0")
        assert scraped(url, "spdk_ftl_free_bands", ftl="ftl0") == stats["free_bands"]
        assert scraped(url, "spdk_ftl_state", ftl="ftl0", state="online") == 1

        world.call("bdev_null_delete", name="N0")
        world.wait_for_end("ftl1")
        world.call("ftltgt_zns_delete", name="Nvme0n1")
        world.wait_for_state("ftl0", "waiting")
        code, (line,) = health(world, "ftl0")
        assert code == 3
        assert line.startswith("degraded  ftl0 waiting")
        assert "bring base bdev Nvme0n1" in line
        code, (line,) = health(world, "ftl1")
        assert code == 4
        assert line.startswith("failed    ftl1 failed")
        assert "no_data keeps nothing" in line
        code, lines = health(world, "--json")
        told = json.loads("\n".join(lines))
        assert (code, told["health"]) == (4, "failed")
        assert {each["name"]: each["health"] for each in told["ftls"]} == {"ftl0": "degraded", "ftl1": "failed"}
        assert scraped(url, "spdk_ftl_state", ftl="ftl0", state="waiting") == 1
        assert scraped(url, "spdk_ftl_state", ftl="ftl1", state="failed") == 1
