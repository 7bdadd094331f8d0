"""`spdk-ftl check` on a bdev of a live target: what it says, what it refuses, and that the target is as before."""

from __future__ import annotations

import asyncio
import json
import mmap
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from spdk_ftl_py.ftl.media import layout
from support.drive import HOST_NQN, write_and_verify

OTHER = "b286d19a-0059-4709-abcd-9f7732b1567d"
EMULATED = ("M0", "--zone-capacity", "192")


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", f"{ZNS},path={folder / 'drive'}", "--malloc", "name=M0,size=64M") as world:
        yield world


def check(world: FtlWorld, *arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "check", "-s", str(world.target.socket), *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


def checked(world: FtlWorld, *arguments: str, code: int) -> dict[str, Any]:
    done = check(world, *arguments, "--json")
    assert done.returncode == code, done
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def create_and_fill(world: FtlWorld, *base: str) -> str:
    uuid = str(world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", *base, "--host", HOST_NQN)["uuid"])
    export = world.devices()["ftl0"]["export"]
    blocks = world.devices()["ftl0"]["num_blocks"] // 2
    where = (export["traddr"], export["trsvcid"], export["subnqn"])
    asyncio.run(write_and_verify(*where, blocks=blocks, random_writes=blocks // 2, flush=True))
    return uuid


@pytest.mark.parametrize("base", [("Nvme0n1", "--num-punits", "2"), EMULATED], ids=["zns", "emulated"])
def test_a_deleted_ftl_is_clean_and_checking_changes_nothing(world: FtlWorld, base: tuple[str, ...]) -> None:
    emulation = base[1:] if base == EMULATED else ()
    uuid = create_and_fill(world, *base)
    in_use = check(world, base[0], *emulation)
    assert in_use.returncode == 2
    assert (
        f"already claimed (exclusive_write) by NVMe-oF subsystem nqn.2026-11.io.spdk-ftl:base:{uuid}" in in_use.stderr
    )
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    before = world.snapshot()
    content = (world.folder / "drive").read_bytes()
    reports = [checked(world, base[0], *emulation, code=0) for _ in range(2)]
    assert reports[0] == reports[1]
    assert (reports[0]["result"], reports[0]["uuid"], reports[0]["halted"]) == ("clean", uuid, True)
    assert reports[0]["l2p_checkpoint"] == "whole"
    assert reports[0]["mapped_blocks"] > 0
    table = check(world, base[0], *emulation)
    assert (table.returncode, table.stderr) == (0, "")
    assert "data_blocks" in table.stdout
    for how in ([], ["--json"]):
        with open("/dev/full", "w") as full:
            lost = check(world, base[0], *emulation, *how, stdout=full)
        assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)  # 1 would say that there is damage
        assert "can't be written: No space left on device" in lost.stderr
    assert world.snapshot() == before
    assert (world.folder / "drive").read_bytes() == content
    world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", *base, "-u", uuid)


def test_a_damaged_block_is_named(world: FtlWorld) -> None:
    create_and_fill(world, "Nvme0n1", "--num-punits", "2")
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    with (world.folder / "drive").open("r+b") as file, mmap.mmap(file.fileno(), 0) as drive:
        header = drive.find(layout.BATCH_MAGIC)
        block = int(np.frombuffer(drive[header : header + 4096], layout.BATCH_HEADER)["address"][0]) + 1
        drive[header + 4096 + 99] ^= 1
    report = checked(world, "Nvme0n1", code=1)
    assert (report["result"], report["damage_count"]) == ("damaged", 1)
    assert report["damage"][0].startswith(f"block {block} (band ")
    assert "does not match its CRC" in report["damage"][0]
    assert f"damaged: block {block} " in check(world, "Nvme0n1").stdout


def test_what_can_not_be_checked_is_refused_and_says_why(world: FtlWorld) -> None:
    before = world.snapshot()
    for arguments, expected in (
        (("Nvme0n1",), "holds no FTL"),
        (("Nvme1n1",), "base bdev Nvme1n1: no such bdev"),
        (("M0",), "is not zoned"),
        (EMULATED, "holds no FTL"),
        (("M0", "--zone-capacity", "0"), "argument --zone-capacity: 0: must be 1 to"),
        (("Nvme0n1", "--zone-capacity", "192"), "is zoned itself"),
    ):
        done = check(world, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert expected in done.stderr
    assert world.snapshot() == before
    create_and_fill(world, "Nvme0n1")
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    assert f"no FTL with uuid {OTHER}" in check(world, "Nvme0n1", "-u", OTHER).stderr
    assert world.snapshot() == before
    world.target.kill()
    gone = check(world, "Nvme0n1")
    assert gone.returncode == 2
    assert str(world.target.socket) in gone.stderr


@pytest.mark.parametrize(("how", "again"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_an_interrupted_check_lets_go_of_everything(
    world: FtlWorld, how: signal.Signals, again: signal.Signals
) -> None:
    before = world.snapshot()
    world.call("ftltgt_inject_fault", name="Nvme0n1", op="zone_report", latency_us=10_000_000)
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "check", "-s", str(world.target.socket), "Nvme0n1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as checking:
        world.wait_until_claimed("Nvme0n1")
        checking.send_signal(how)
        checking.send_signal(again)  # out of impatience; the same one twice could become one
        out, errors = checking.communicate(timeout=60)
    assert (checking.returncode, out, errors) == (130, "", "")
    assert world.snapshot() == before
