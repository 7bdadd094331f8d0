"""`--engine native` before a real spdk_tgt, which has an FTL of its own.

That keeps files in /dev/hugepages, where a machine that runs tests has nothing mounted, as a rule: hugepages.c has them
somewhere else. Without a C compiler, and of a target in a container (ci/live), only what is refused is tested.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live.spdk_target import SpdkTarget
from support.native_ftl import PROPERTIES
from support.spdk_ftl_rpcs import GROUP, STATS
from support.system import Daemon

GIB = 1 << 30
BASE_GIB = 20
CACHE_GIB = 5
ELF = b"\x7fELF"
PROBLEM = re.compile(r"spdk_ftl_py: |Got JSON-RPC error response\nresponse:\n")


@pytest.fixture(scope="session")
def program_with_hugepages(spdk_program: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """spdk_tgt, for which /dev/hugepages is a folder of this run's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("SPDK'S OWN FTL IS NOT TESTED: install a C compiler (cc)")
    with Path(spdk_program).open("rb") as file:
        if file.read(len(ELF)) != ELF:
            pytest.skip(f"SPDK'S OWN FTL IS NOT TESTED: {spdk_program} runs the target somewhere else")
    folder = tmp_path_factory.mktemp("hugepages")
    library = folder / "hugepages.so"
    source = Path(__file__).with_name("hugepages.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    script = folder / "spdk_tgt"
    script.write_text(f'#!/bin/sh\nLD_PRELOAD={library} FTL_HUGEPAGES={folder} exec {spdk_program} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(folder)
    try:
        yield daemon
    finally:
        daemon.close()


def make_bdevs(target: SpdkTarget, folder: Path) -> None:
    """Of files of which nothing is written but where something is."""
    target.call("nvmf_create_transport", trtype="TCP")
    for name, gib in (("B0", BASE_GIB), ("C0", CACHE_GIB)):
        path = folder / name
        with path.open("ab") as file:
            file.truncate(gib * GIB)
        # With fallocate, the scrub of the cache is a moment's work.
        target.call("bdev_aio_create", name=name, filename=str(path), block_size=4096, fallocate=True)


def refused(target: SpdkTarget, daemon: Daemon, *arguments: str) -> dict[str, Any]:
    done = target.rpc(*arguments, daemon=daemon)
    assert done.returncode == 1, done.stdout
    error: dict[str, Any] = json.loads(PROBLEM.sub("", done.stdout or done.stderr))
    return error


CREATE = ("bdev_ftl_create", "-b", "n0", "-d", "B0", "-c", "C0", "--engine", "native")


def test_what_it_would_not_take_is_refused_before_it_is_asked(
    spdk_target: SpdkTarget, daemon: Daemon, folder: Path
) -> None:
    make_bdevs(spdk_target, folder)
    spdk_target.call("bdev_null_create", name="N0", num_blocks=1 << 19, block_size=4096)
    spdk_target.call("bdev_null_create", name="V0", num_blocks=1 << 21, block_size=4096, md_size=64)
    spdk_target.call("bdev_null_create", name="Z0base", num_blocks=6 << 20, block_size=4096)
    spdk_target.call(
        "bdev_zone_block_create", name="Z0", base_bdev="Z0base", zone_capacity=1 << 16, optimal_open_zones=1
    )
    before = spdk_target.state()
    for arguments, told in (
        (("-d", "Z0", "-c", "C0"), "base bdev Z0 is zoned (zone_block), but SPDK's own FTL supports only conventional"),
        (("-d", "Z0base", "-c", "C0"), "base bdev Z0base of the SPDK target"),
        (("-d", "N0", "-c", "C0"), "base bdev N0 has 2.00 GiB: SPDK's own FTL needs at least 20 GiB"),
        (("-d", "B0", "-c", "N0"), "cache bdev N0 has 2.00 GiB: SPDK's own FTL needs at least 5 GiB"),
        (("-d", "B0"), "cache (-c) is missing"),
        (("-d", "B0", "-c", "nope"), "cache bdev nope: no such bdev"),
        (("-d", "B0", "-c", "V0"), "interleaved metadata"),
    ):
        error = refused(spdk_target, daemon, "bdev_ftl_create", "-b", "n0", *arguments, "--engine", "native")
        assert told in error["message"], error
    for role, name, magic in (("base", "B0", b"XFSB"), ("cache", "C0", b"SPDKBLOB")):
        with (folder / name).open("r+b", buffering=0) as file:
            file.write(magic)
            error = refused(spdk_target, daemon, *CREATE)
            assert error["code"] == -17
            assert f"{role} bdev {name} holds an " in error["message"]
            file.seek(0)
            file.write(bytes(len(magic)))
    assert spdk_target.state() == before


def test_its_own_refusal_is_told_in_its_own_words(spdk_target: SpdkTarget, daemon: Daemon, folder: Path) -> None:
    """It has no hugetlbfs here; where there is one, its base holds no FTL to be loaded."""
    make_bdevs(spdk_target, folder)
    before = spdk_target.state()
    error = refused(spdk_target, daemon, *CREATE, "-u", "b286d19a-0059-4709-abcd-9f7732b1567d")
    assert error["code"] == -5
    assert "refused bdev_ftl_create: Failed to create FTL bdev: " in error["message"]
    assert "(code -32603). This is the error of the target's own FTL" in error["message"]
    assert spdk_target.state() == before
    assert json.loads(spdk_target.ftl(daemon, "ftl_get_devices")) == []


def test_it_is_made_asked_saved_loaded_and_deleted(program_with_hugepages: str, daemon: Daemon, folder: Path) -> None:
    config = folder / "saved.json"
    with SpdkTarget(program_with_hugepages, folder) as target:
        make_bdevs(target, folder)
        before = target.state()
        made = json.loads(target.ftl(daemon, *CREATE, "--overprovisioning", "30", "--l2p-dram-limit", "64"))
        assert set(made) == {"name", "uuid"}
        assert made["name"] == "n0"
        bdev = target.bdev("n0")
        assert bdev is not None
        assert (bdev["product_name"], bdev["uuid"]) == ("FTL disk", made["uuid"])
        assert bdev["driver_specific"] == {"ftl": {"base_bdev": "B0", "cache": "C0"}}
        assert target.state()["subsystems"] == before["subsystems"]
        assert json.loads(target.ftl(daemon, "ftl_get_devices")) == []
        assert "claimed" in refused(target, daemon, *CREATE[:2], "n1", *CREATE[3:])["message"]
        assert "has a bdev of that name (FTL disk)" in refused(target, daemon, *CREATE)["message"]
        check_answers(target, daemon)
        saved = json.loads(target.ftl(daemon, "save_config"))
        (call,) = (
            call
            for each in saved["subsystems"]
            for call in each["config"] or ()
            if isinstance(call, dict) and call["method"] == "bdev_ftl_create"
        )
        params = call["params"]
        assert (params["name"], params["uuid"], params["overprovisioning"]) == ("n0", made["uuid"], 30)
        assert (params["base_bdev"], params["cache"]) == ("B0", "C0")
        (section,) = (each for each in saved["subsystems"] if each["subsystem"] == "ftl")
        assert section["config"] == []
        config.write_text(json.dumps(saved))
    with SpdkTarget(program_with_hugepages, folder, "-c", str(config)) as target:
        bdev = target.call("bdev_get_bdevs", name="n0", timeout=60_000)[0]
        assert (bdev["product_name"], bdev["uuid"]) == ("FTL disk", made["uuid"])
        assert target.ftl(daemon, "bdev_ftl_unload", "-b", "n0").strip() == "true"
        assert target.bdev("n0") is None
        assert target.state() == before
        # It is known by what is on the bdevs, and erased by nobody who does not say so.
        assert "holds an FTL of SPDK" in refused(target, daemon, *CREATE)["message"]
        loaded = target.ftl(
            daemon, "bdev_ftl_load", "-b", "n0", "-d", "B0", "-c", "C0", "-u", made["uuid"], "--engine", "native"
        )
        assert json.loads(loaded) == made
        assert target.ftl(daemon, "bdev_ftl_delete", "-b", "n0", "--engine", "native").strip() == "true"
        assert target.state() == before


def check_answers(target: SpdkTarget, daemon: Daemon) -> None:
    """By its name alone, and as the fake of the unit tests has them."""
    stats = json.loads(target.ftl(daemon, "bdev_ftl_get_stats", "-b", "n0"))
    assert list(stats) == ["name", *STATS]
    for group in STATS:
        assert shape(stats[group]) == shape(GROUP)
    told = json.loads(target.ftl(daemon, "bdev_ftl_get_properties", "-b", "n0", "--engine", "native"))
    assert told == {"name": "n0", "properties": PROPERTIES}
    set_property = ("bdev_ftl_set_property", "-b", "n0", "-v", "true", "-p")
    assert target.ftl(daemon, *set_property, "verbose_mode").strip() == "true"
    told = json.loads(target.ftl(daemon, "bdev_ftl_get_properties", "-b", "n0"))
    assert {"base_device", "cache_device"} <= {each["name"] for each in told["properties"]}
    for name in ("band_thld", "superblock_version"):
        error = refused(target, daemon, *set_property, name)
        assert "refused bdev_ftl_set_property: Operation not permitted (code -1)" in error["message"]
    unmap = ("bdev_ftl_unmap", "-b", "n0", "--lba", "1024", "--num-blocks")
    assert target.ftl(daemon, *unmap, "1024").strip() == "true"
    assert "(code -22)" in refused(target, daemon, *unmap, "1")["message"]
    assert "which does not support bdev_ftl_grow" in refused(target, daemon, "bdev_ftl_grow", "-b", "n0")["message"]


def shape(value: Any) -> Any:
    return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else type(value)
