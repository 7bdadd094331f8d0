"""`spdk-ftl scrub` and bdev_ftl_scrub, with daemon, target and rpc.py as processes of their own."""

from __future__ import annotations

import asyncio
import json
import mmap
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from spdk_ftl_py.ftl.media import layout
from support.drive import HOST_NQN, write_and_verify


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", f"{ZNS},path={folder / 'drive'}") as world:
        how = ("--num-punits", "2", "--conf", "scrub_days=0", "--host", HOST_NQN)
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", *how)
        device = world.devices()["ftl0"]
        blocks = device["num_blocks"] // 2
        where = (device["export"]["traddr"], device["export"]["trsvcid"], device["export"]["subnqn"])
        asyncio.run(write_and_verify(*where, blocks=blocks, random_writes=blocks // 2, flush=True))
        yield world


def scrub(world: FtlWorld, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "scrub", "ftl0", "--socket", str(world.daemon.socket)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)


def test_an_ftl_that_is_served_is_scrubbed_on_order(world: FtlWorld) -> None:
    done = scrub(world, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    last: dict[str, Any] = json.loads(done.stdout)
    assert last["round"] == 1
    assert last["read_blocks"] >= world.devices()["ftl0"]["num_blocks"] // 2
    assert world.rpc("bdev_ftl_get_stats", "-b", "ftl0")["scrub"]["last"] == {
        key: value for key, value in last.items() if key != "name"
    }
    # Slow, so that something is under way.
    world.call("ftltgt_inject_fault", name="Nvme0n1", op="read", latency_us=100_000)
    assert world.rpc("bdev_ftl_scrub", "-b", "ftl0")["round"] == 2
    again = scrub(world, "--no-wait", "--json")
    assert (again.returncode, json.loads(again.stdout)["round"]) == (0, 2)
    assert json.loads(scrub(world, "--stop", "--json").stdout)["ordered"] is False


def test_rot_that_no_host_has_read_is_exit_code_1(world: FtlWorld) -> None:
    with (world.folder / "drive").open("r+b") as file, mmap.mmap(file.fileno(), 0) as drive:
        header = -1
        for _ in range(20):
            header = drive.find(layout.BATCH_MAGIC, header + 1)
            for block in range(1, 9):
                drive[header + 4096 * block + 99] ^= 1
    done = scrub(world, "--json")
    assert done.returncode == 1
    last: dict[str, Any] = json.loads(done.stdout)
    assert last["bad_blocks"] > 0
    assert last["relocated_bands"] > 0
    assert world.rpc("bdev_ftl_get_stats", "-b", "ftl0")["unreadable_blocks"] == 0
