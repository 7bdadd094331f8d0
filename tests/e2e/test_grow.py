"""bdev_ftl_grow and `spdk-ftl grow`, with daemon, target and rpc.py as processes of their own; and a base that has
grown, which is loaded and checked as what it was."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e.ftl_world import FtlWorld, ftl_world
from support.drive import HOST_NQN, write_and_verify

MIB = 1 << 20
BEFORE, AFTER = 64 * MIB, 96 * MIB
ZONES = ("--zone-capacity", "256")


def spdk_ftl(*arguments: str) -> Any:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def make_base(world: FtlWorld, path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)
    world.call("bdev_aio_create", name="Aio0", filename=str(path), block_size=4096)


def test_a_base_is_made_larger_and_the_ftl_on_it_when_somebody_says_so(folder: Path) -> None:
    base = folder / "base"
    with ftl_world(folder) as world:
        make_base(world, base, BEFORE)
        uuid = world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", *ZONES, "--host", HOST_NQN)["uuid"]
        before = world.devices()["ftl0"]["num_blocks"]
        world.rpc("bdev_ftl_delete", "-b", "ftl0")
        world.call("bdev_aio_delete", name="Aio0")
        make_base(world, base, AFTER)
        report = spdk_ftl("check", "Aio0", "-s", str(world.target.socket), *ZONES, "--json")
        assert (report["result"], report["num_blocks"], report["num_zones"]) == ("clean", before, BEFORE // MIB)
        world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", *ZONES, "-u", uuid, "--host", HOST_NQN)
        device = world.devices()["ftl0"]
        assert device["num_blocks"] == world.call("bdev_get_bdevs", name="ftl0")[0]["num_blocks"] == before

        told = world.rpc("bdev_ftl_grow", "-b", "ftl0")
        assert told["num_blocks"] > before * 1.4
        assert told == {
            "name": "ftl0",
            "num_blocks": told["num_blocks"],
            "changed": True,
            "target_num_blocks": told["num_blocks"],
        }
        assert world.call("bdev_get_bdevs", name="ftl0")[0]["num_blocks"] == told["num_blocks"]
        export = device["export"]
        done = asyncio.run(
            write_and_verify(export["traddr"], export["trsvcid"], export["subnqn"], random_writes=1000, flush=True)
        )
        assert done["verified"] == told["num_blocks"]
        again = spdk_ftl("grow", "-b", "ftl0", "--socket", str(world.daemon.socket))
        assert again == {**told, "changed": False}
        world.rpc("bdev_ftl_delete", "-b", "ftl0")
        report = spdk_ftl("check", "Aio0", "-s", str(world.target.socket), *ZONES, "--json")
        assert (report["result"], report["num_zones"]) == ("clean", AFTER // MIB)
