"""`--engine native` before the embedded target, which has no FTL of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world

OF_ITS_OWN = "has no FTL of its own (no method bdev_ftl_create): leave out --engine native to use the daemon's FTL"
MALLOC = ("--malloc", "name=B0,size=20G", "--malloc", "name=C0,size=5G")


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS, *MALLOC) as world:
        yield world


def test_each_command_says_in_one_line_that_there_is_none(world: FtlWorld) -> None:
    before = world.snapshot()
    create = ("-b", "n0", "-c", "C0", "--engine", "native")
    for method, *arguments in (
        ("bdev_ftl_create", *create, "-d", "B0"),
        ("bdev_ftl_create", *create, "-d", "Nvme0n1", "--force"),
        ("construct_ftl_bdev", *create, "-d", "B0"),
        ("bdev_ftl_load", *create, "-d", "B0", "-u", "b286d19a-0059-4709-abcd-9f7732b1567d"),
        ("bdev_ftl_delete", "-b", "n0", "--engine", "native"),
        ("bdev_ftl_unload", "-b", "n0", "--engine", "native"),
        ("bdev_ftl_get_stats", "-b", "n0", "--engine", "native"),
        ("bdev_ftl_get_properties", "-b", "n0", "--engine", "native"),
        ("bdev_ftl_set_property", "-b", "n0", "-p", "verbose_mode", "-v", "true", "--engine", "native"),
        ("bdev_ftl_unmap", "-b", "n0", "--lba", "0", "--num-blocks", "1024", "--engine", "native"),
    ):
        error = world.rpc.fails(method, *arguments)
        assert error["code"] == -95, method
        assert OF_ITS_OWN in error["message"], method
        assert "\n" not in error["message"]
    assert world.snapshot() == before
    assert world.devices() == {}


def test_what_makes_no_sense_is_refused_before_the_target_is_asked(world: FtlWorld) -> None:
    native = ("-b", "n0", "-d", "B0", "--engine", "native")
    for arguments, told in (
        ((), "cache (-c) is missing"),
        (("-c", "C0", "--zone-capacity", "192"), "zone_capacity (--zone-capacity): SPDK's own FTL has no such option"),
        (("-c", "C0", "--host", "nqn.2026-11.io.example:h"), "hosts (--host): SPDK's own FTL has no such option"),
        (("-c", "C0", "--conf", "band_thld=80"), "conf: SPDK's own FTL has no such option"),
    ):
        error = world.rpc.fails("bdev_ftl_create", *native, *arguments)
        assert error["code"] == -32602
        assert told in error["message"]
    error = world.rpc.fails("bdev_ftl_create", "-b", "n0", "-d", "B0", "--engine", "zoned")
    assert error["message"] == 'bdev_ftl_create: engine (--engine) is "zoned": must be one of daemon, native'


def test_the_daemons_engine_may_be_said(world: FtlWorld) -> None:
    created = world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--engine", "daemon")
    assert world.rpc("bdev_ftl_get_stats", "-b", "ftl0", "--engine", "daemon")["uuid"] == created["uuid"]
    # Whose it is, is not a question of the target's FTL.
    error = world.rpc.fails("bdev_ftl_delete", "-b", "ftl0", "--engine", "native")
    assert OF_ITS_OWN in error["message"]
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0", "--engine", "daemon") is True
    error = world.rpc.fails("bdev_ftl_delete", "-b", "ftl0")
    assert (error["code"], error["message"]) == (-19, "FTL bdev ftl0: no such FTL; the daemon has: none")
