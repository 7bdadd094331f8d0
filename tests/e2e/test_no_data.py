"""bdev_ftl_create --no-data: an FTL for benchmarks, on a bdev that keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import FtlWorld, ftl_world
from support.drive import HOST_NQN, write_at_random
from support.processes import daemon_process

HOST = ("--host", HOST_NQN)
HOW = ("bdev_ftl_create", "-b", "ftl0", "-d", "N0", "--zone-capacity", "192", *HOST, "--no-data")


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder) as world:
        world.call("bdev_null_create", name="N0", num_blocks=16384, block_size=4096)
        yield world


def test_a_null_bdev_carries_an_ftl_that_relocates_and_says_that_it_keeps_nothing(world: FtlWorld) -> None:
    before = world.snapshot()
    world.rpc(*HOW)
    device = world.devices()["ftl0"]
    assert (device["state"], device["no_data"]) == ("online", True)
    told = {entry["name"]: entry for entry in world.rpc("bdev_ftl_get_properties", "-b", "ftl0")["properties"]}
    assert told["no_data"]["value"] is True
    assert "neither keeps nor verifies what is written" in told["no_data"]["desc"]
    assert "neither keeps nor verifies what is written" in world.daemon.log_tail()
    export = device["export"]
    asyncio.run(write_at_random(export["traddr"], export["trsvcid"], export["subnqn"], times=4))
    stats = world.rpc("bdev_ftl_get_stats", "-b", "ftl0")
    assert stats["core"]["reloc_moved_blocks"] > 0
    assert (stats["lost_blocks"], stats["zone_faults"]) == (0, 0)
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0") is True
    assert world.snapshot() == before


def test_it_can_be_neither_loaded_nor_cached(world: FtlWorld) -> None:
    uuid = world.rpc(*HOW)["uuid"]
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    error = world.rpc.fails(*HOW, "-u", uuid)
    assert "no_data creates an FTL that can't be loaded again" in error["message"]
    error = world.rpc.fails(*HOW, "-c", "C0")
    assert "no_data keeps nothing" in error["message"]
    error = world.rpc.fails(*HOW[: HOW.index("--no-data")], "-u", uuid)
    assert "holds no FTL" in error["message"]


@pytest.mark.parametrize("killed", [True, False])
def test_with_the_daemon_it_is_gone_and_so_is_what_is_left_in_the_target(world: FtlWorld, killed: bool) -> None:
    before = world.snapshot()
    world.rpc(*HOW)
    if killed:
        world.daemon.kill()
    else:
        world.daemon.process.terminate()
        assert world.daemon.process.wait(60) == 0
    with daemon_process(world.folder) as successor:
        assert world.devices() == {}
        assert world.snapshot() == before
        assert ("was created with no_data, so it is gone" in successor.log_tail()) is killed


def test_with_its_base_it_fails_and_does_not_come_back(world: FtlWorld) -> None:
    world.rpc(*HOW)
    world.call("bdev_null_delete", name="N0")
    world.call("bdev_null_create", name="N0", num_blocks=16384, block_size=4096)
    device = world.wait_for_end("ftl0")
    assert device["state"] == "failed"
    assert "no_data keeps nothing, so the FTL can't come back" in device["error"]
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0") is True
    world.rpc(*HOW)
