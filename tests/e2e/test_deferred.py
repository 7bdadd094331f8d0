"""A base bdev that does not exist yet: the creation is deferred, and done when it appears."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import FtlWorld, ftl_world
from support.processes import daemon_process

DEFERRED = "FTL bdev: ftl0 creation deferred"
EMULATED = ("--zone-capacity", "192")
BLOCKS = 16384


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder) as world:
        yield world


def defer(world: FtlWorld, *arguments: str) -> None:
    assert world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Late", *EMULATED, *arguments) == DEFERRED


def test_a_deferred_ftl_is_created_when_its_base_appears(world: FtlWorld) -> None:
    defer(world)
    assert world.devices()["ftl0"]["state"] == "deferred"
    world.call("bdev_malloc_create", name="Late", num_blocks=BLOCKS, block_size=4096)
    device = world.wait_for_state("ftl0", "online")
    assert world.call("bdev_get_bdevs", name="ftl0")[0]["uuid"] == device["uuid"]
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    assert [bdev["name"] for bdev in world.call("bdev_get_bdevs")] == ["Late"]


def test_a_deferred_ftl_claims_nothing_and_can_be_deleted(world: FtlWorld) -> None:
    world.call("bdev_malloc_create", name="C0", num_blocks=BLOCKS, block_size=4096)
    before = world.snapshot()
    defer(world, "-c", "C0")
    assert world.snapshot() == before
    assert "no statistics" in world.rpc.fails("bdev_ftl_get_stats", "-b", "ftl0")["message"]
    assert world.rpc("bdev_ftl_get_properties", "-b", "ftl0")["state"] == "deferred"
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0") is True
    world.call("bdev_malloc_create", name="Late", num_blocks=BLOCKS, block_size=4096)
    assert world.devices() == {}


def test_the_name_of_a_deferred_ftl_is_taken(world: FtlWorld) -> None:
    defer(world)
    error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Other", *EMULATED)
    assert error["code"] == -17
    assert "deferred" in error["message"]


def test_what_can_be_checked_is_checked_before_it_is_deferred(world: FtlWorld) -> None:
    for arguments, expected in (
        (("-c", "Late"), "also the base bdev"),
        (("-c", "Nope"), "cache bdev Nope: no such bdev"),
        (("--conf", "write_buffer_size=50000"), "write_buffer_size"),
        (("--limit-threshold", "crit:5,high:4"), "must descend"),
    ):
        error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Late", *EMULATED, *arguments)
        assert expected in error["message"]
    assert world.devices() == {}


def test_a_base_that_turns_out_unfit_fails_the_device_and_says_why(world: FtlWorld) -> None:
    defer(world)
    world.call("bdev_malloc_create", name="Late", num_blocks=BLOCKS, block_size=512)
    device = world.wait_for_state("ftl0", "failed")
    assert "512" in device["error"]
    assert world.call("bdev_get_bdevs", name="Late")[0]["claimed"] is False
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0") is True


def test_a_new_daemon_goes_on_waiting(world: FtlWorld) -> None:
    defer(world)
    uuid = world.devices()["ftl0"]["uuid"]
    world.daemon.process.send_signal(signal.SIGTERM)
    assert world.daemon.process.wait(60) == 0
    with daemon_process(world.folder):
        assert world.devices()["ftl0"]["state"] == "deferred"
        world.call("bdev_malloc_create", name="Late", num_blocks=BLOCKS, block_size=4096)
        assert world.wait_for_state("ftl0", "online")["uuid"] == uuid
