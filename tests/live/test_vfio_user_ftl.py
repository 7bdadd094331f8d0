"""ftl0 by vfio-user in a real spdk_tgt: shared memory, no TCP port, and kill -9 of whoever is in it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from live.spdk_target import SpdkTarget
from live.test_crash import running, under_load
from spdk_ftl_py.under_test.restartable import DaemonUnderTest
from support.system import Daemon

TARGET_NQN = "nqn.2026-11.io.spdk-ftl:lvol-on-ftl0"
FILE_BYTES = 192 << 20
BACK_S = 60.0
ZONES = ("--zone-capacity", "256", "--num-punits", "2")


def device_of(target: SpdkTarget, daemon: Daemon) -> dict[str, Any]:
    (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
    told: dict[str, Any] = device
    return told


def keeper_of(endpoint: str) -> int | None:
    """The pid of the process that holds the endpoint."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if endpoint.encode() in words:
            return int(path.parent.name)
    return None


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BACK_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # other processes get there; nothing announces it


@pytest.fixture
def base(folder: Path) -> Callable[[SpdkTarget], None]:
    file = folder / "base"
    with file.open("wb") as new:
        new.truncate(FILE_BYTES)

    def configure(target: SpdkTarget) -> None:
        target.call("bdev_aio_create", name="Aio0", filename=str(file), block_size=4096)

    return configure


@pytest.fixture
def daemons(folder: Path) -> Iterator[DaemonUnderTest]:
    """One after the other, with the same state."""
    daemons = DaemonUnderTest(folder)
    yield daemons
    daemons.stop()


def create(target: SpdkTarget, daemon: Daemon) -> dict[str, Any]:
    target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", *ZONES, "--transport", "vfio-user")
    device = device_of(target, daemon)
    assert (device["attached"], device["transport"], device["export"]["trtype"]) == (True, "vfio-user", "VFIOUSER")
    assert device["listeners"] == []
    return device


def test_an_lvol_on_it_goes_on_when_the_daemon_is_killed(
    spdk_program: str, folder: Path, base: Callable[[SpdkTarget], None], daemons: DaemonUnderTest
) -> None:
    with running(spdk_program, folder, base) as target:
        spdk = target.spdk
        device = create(spdk, daemons.now)
        keeper = keeper_of(device["endpoint"])
        spdk.call("bdev_lvol_create_lvstore", bdev_name="ftl0", lvs_name="lvs0", cluster_sz=1 << 20)
        spdk.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="l0", size_in_mib=24)
        port = spdk.export("lvs0/l0", TARGET_NQN)
        under_load(("127.0.0.1", str(port), TARGET_NQN), daemons.kill_and_restart, seed=5, times=2)
        assert keeper_of(device["endpoint"]) == keeper
        spdk.call("nvmf_delete_subsystem", nqn=TARGET_NQN)
        spdk.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
        spdk.ftl(daemons.now, "bdev_ftl_delete", "-b", "ftl0")
        assert spdk.bdev("ftl0") is None
        eventually(lambda: keeper_of(device["endpoint"]) is None)
        assert not Path(device["endpoint"]).exists()


def test_a_target_that_was_killed_gets_it_again(
    spdk_program: str, folder: Path, base: Callable[[SpdkTarget], None], daemons: DaemonUnderTest
) -> None:
    with running(spdk_program, folder, base) as target:
        create(target.spdk, daemons.now)
        target.kill_and_restart()
        assert target.spdk.call("bdev_get_bdevs", name="ftl0", timeout=60_000)[0]["name"] == "ftl0"
        assert device_of(target.spdk, daemons.now)["transport"] == "vfio-user"
        target.spdk.ftl(daemons.now, "bdev_ftl_delete", "-b", "ftl0")


def test_a_keeper_that_was_killed_is_replaced(
    spdk_program: str, folder: Path, base: Callable[[SpdkTarget], None], daemons: DaemonUnderTest
) -> None:
    with running(spdk_program, folder, base) as target:
        endpoint = create(target.spdk, daemons.now)["endpoint"]
        keeper = keeper_of(endpoint)
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: keeper_of(endpoint) not in (None, keeper))
        eventually(lambda: device_of(target.spdk, daemons.now)["attached"])
        assert target.spdk.bdev("ftl0") is not None
        target.spdk.ftl(daemons.now, "bdev_ftl_delete", "-b", "ftl0")
