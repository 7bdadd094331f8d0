"""The daemon beside a real spdk_tgt is restarted in order, as by `systemctl restart`: what stands on ftl0 keeps
standing, and nobody's I/O fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from live.spdk_target import STOP_TIMEOUT_S, SpdkTarget
from live.test_crash import HOSTS, LOAD_NQN, under_load
from spdk_ftl_py.client import DaemonClient
from support.system import Daemon

FILE_BYTES = 160 << 20
CLUSTER_BYTES = 1 << 20
VOLUME_MIB = 16
VOLUME = "lvs0/v"
USER_NQN = "nqn.2016-06.io.spdk:user"


class Daemons:
    """One after the other, with the same state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.now = Daemon(folder)

    def restart(self) -> None:
        self.end()
        self.now = Daemon(self._folder)

    def end(self) -> None:
        self.now.close()
        assert self.now.process.returncode == 0, self.now.log_tail()


def make_ftl0(target: SpdkTarget, daemon: Daemon, folder: Path) -> None:
    base = folder / "base"
    with base.open("wb") as file:
        file.truncate(FILE_BYTES)
    allowed = [word for number in range(HOSTS) for word in ("--host", LOAD_NQN.format(number))]
    target.call("nvmf_create_transport", trtype="TCP")
    target.call("bdev_aio_create", name="Aio0", filename=str(base), block_size=4096)
    target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Aio0", "--zone-capacity", "256", *allowed)


def on_lvol_store(target: SpdkTarget) -> tuple[str, str, str]:
    target.call("bdev_lvol_create_lvstore", bdev_name="ftl0", lvs_name="lvs0", cluster_sz=CLUSTER_BYTES)
    target.call("bdev_lvol_create", lvol_name="v", lvs_name="lvs0", size_in_mib=VOLUME_MIB)
    return "127.0.0.1", str(target.export(VOLUME, USER_NQN)), USER_NQN


def on_export_of_target(target: SpdkTarget) -> tuple[str, str, str]:
    target.call("bdev_raid_create", name="Concat0", raid_level="concat", strip_size_kb=64, base_bdevs=["ftl0"])
    return "127.0.0.1", str(target.export("Concat0", USER_NQN)), USER_NQN


@pytest.mark.parametrize("above", [on_lvol_store, on_export_of_target, None], ids=["lvol", "export", "own export"])
def test_what_stands_on_ftl0_survives_an_orderly_restart_under_io(
    spdk_target: SpdkTarget, folder: Path, above: Callable[[SpdkTarget], tuple[str, str, str]] | None
) -> None:
    daemons = Daemons(folder)
    try:
        make_ftl0(spdk_target, daemons.now, folder)
        (device,) = json.loads(spdk_target.ftl(daemons.now, "ftl_get_devices"))
        own = device["export"]["traddr"], device["export"]["trsvcid"], device["export"]["subnqn"]
        address = own if above is None else above(spdk_target)
        before = standing(spdk_target)
        under_load(address, daemons.restart, seed=3)
        assert standing(spdk_target) == before
        assert "its bdev and claims stay for the next daemon, asked for by SIGTERM" in daemons.now.log()
        assert "loaded after a clean shutdown" in daemons.now.log()
        assert "loaded after a dirty shutdown" not in daemons.now.log()
        if above is not None:
            spdk_target.call("nvmf_delete_subsystem", nqn=USER_NQN)
        if above is on_lvol_store:
            spdk_target.call("bdev_lvol_delete_lvstore", lvs_name="lvs0")
        if above is on_export_of_target:
            spdk_target.call("bdev_raid_delete", name="Concat0")
        DaemonClient(daemons.now.socket).call("ftl_halt")
        assert daemons.now.process.wait(STOP_TIMEOUT_S) == 0
        assert spdk_target.bdev("ftl0") is None
    finally:
        daemons.now.close()


def standing(target: SpdkTarget) -> Any:
    bdevs = sorted((bdev["name"], bdev["uuid"], bdev["claimed"]) for bdev in target.call("bdev_get_bdevs"))
    subsystems = sorted(each["nqn"] for each in target.call("nvmf_get_subsystems"))
    return bdevs, subsystems


def test_a_target_whose_ftls_are_halted_first_ends_at_once(spdk_program: str, folder: Path) -> None:
    """As a machine goes down, with an lvol store on ftl0: what the target writes as it ends would wait for a daemon."""
    daemons = Daemons(folder)
    try:
        with SpdkTarget(spdk_program, folder) as target:
            make_ftl0(target, daemons.now, folder)
            on_lvol_store(target)
            DaemonClient(daemons.now.socket).call("ftl_halt")
            assert daemons.now.process.wait(STOP_TIMEOUT_S) == 0
            began = time.monotonic()
        assert time.monotonic() - began < STOP_TIMEOUT_S
    finally:
        daemons.now.close()
