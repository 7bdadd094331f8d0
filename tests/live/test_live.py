"""An FTL in a real spdk_tgt, over the whole way a user goes: stock spdk-rpc, our plugin, the daemon, NVMe/TCP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from live.spdk_target import SpdkTarget
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import DaemonError, FtlError
from support.drive import write_and_verify
from support.system import Daemon, EmbeddedTarget

DRIVE_NQN = "nqn.2026-11.io.spdk-ftl:drive"
FTL_NQN = "nqn.2026-11.io.spdk-ftl:ftl0-of-the-real-target"
DRIVE = "name=Drive0,zones=40,zone_size=16M,capacity=12M,max_open=14"


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    with Daemon(folder) as daemon:
        yield daemon


@pytest.fixture
def zns_drive(folder: Path) -> Iterator[EmbeddedTarget]:
    """An emulated ZNS drive behind NVMe/TCP, as a drive in another box would be."""
    with EmbeddedTarget(folder, "--zns", DRIVE) as box:
        box.call("nvmf_create_transport", trtype="TCP")
        yield box


def attach(target: SpdkTarget, box: EmbeddedTarget) -> None:
    port = box.export("Drive0", DRIVE_NQN)
    names = target.call(
        "bdev_nvme_attach_controller",
        name="Nvme0",
        trtype="TCP",
        adrfam="IPv4",
        traddr="127.0.0.1",
        trsvcid=str(port),
        subnqn=DRIVE_NQN,
    )
    assert names == ["Nvme0n1"]


def check(target: SpdkTarget, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", "check", "--json", "-s", target.socket, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def verify_through(target: SpdkTarget, *, random_writes: int) -> dict[str, int]:
    """Writes and reads back the bdev ftl0 through the real target's own NVMe/TCP.

    A concat of one bdev stands between: bdev_passthru says that it takes admin commands when its base does, fails those
    it gets, and nvmf_tgt (seen with v26.05) asks such a bdev when a host identifies the namespace.
    """
    target.call("bdev_raid_create", name="Concat0", raid_level="concat", strip_size_kb=64, base_bdevs=["ftl0"])
    port = target.export("Concat0", FTL_NQN)
    done = asyncio.run(write_and_verify("127.0.0.1", port, FTL_NQN, random_writes=random_writes, timeout_s=240))
    target.call("nvmf_delete_subsystem", nqn=FTL_NQN)
    target.call("bdev_raid_delete", name="Concat0")
    return done


def test_a_zns_drive_becomes_the_bdev_ftl0_and_back(
    spdk_target: SpdkTarget, zns_drive: EmbeddedTarget, daemon: Daemon
) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    attach(spdk_target, zns_drive)
    drive = spdk_target.bdev("Nvme0n1")
    assert drive is not None
    assert drive["zoned"] is True
    before = spdk_target.state()

    created = json.loads(spdk_target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"))
    assert created["name"] == "ftl0"
    claimed = spdk_target.bdev("Nvme0n1")
    assert claimed is not None
    assert claimed["claimed"] is True
    ftl = spdk_target.bdev("ftl0")
    assert ftl is not None
    assert ftl["block_size"] == 4096
    done = verify_through(spdk_target, random_writes=ftl["num_blocks"] // 2)
    # The concat rounds down to whole strips of 16 blocks.
    assert done["verified"] == done["block_count"] == ftl["num_blocks"] // 16 * 16
    properties = json.loads(spdk_target.ftl(daemon, "bdev_ftl_get_properties", "-b", "ftl0"))
    assert created["uuid"] in json.dumps(properties)

    spdk_target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
    assert spdk_target.state() == before


def test_a_malloc_bdev_gets_its_zones_from_zone_capacity(spdk_target: SpdkTarget, daemon: Daemon) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=512 * 256, block_size=4096)
    before = spdk_target.state()
    for _ in range(2):  # whatever the first one left behind would hinder the second
        zones = ("--zone-capacity", "2048", "--optimal-open-zones", "2")
        spdk_target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Malloc0", *zones, "--force")
        base, ftl = spdk_target.bdev("Malloc0"), spdk_target.bdev("ftl0")
        assert base is not None
        assert ftl is not None
        assert base["claimed"] is True
        done = verify_through(spdk_target, random_writes=ftl["num_blocks"] // 2)
        assert done["verified"] == done["block_count"] == ftl["num_blocks"] // 16 * 16
        in_use = check(spdk_target, "Malloc0", "--zone-capacity", "2048")
        assert (in_use.returncode, "is already claimed" in in_use.stderr) == (2, True), in_use
        spdk_target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
        assert spdk_target.state() == before
        checked = check(spdk_target, "Malloc0", "--zone-capacity", "2048")
        assert checked.returncode == 0, checked
        report = json.loads(checked.stdout)
        assert (report["result"], report["l2p_checkpoint"]) == ("clean", "whole")
        assert report["mapped_blocks"] > 0
        assert spdk_target.state() == before


@pytest.mark.embedded
def test_a_claimed_bdev_is_refused_and_nothing_changes(spdk_target: SpdkTarget, daemon: Daemon) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=512 * 256, block_size=4096)
    spdk_target.export("Malloc0", "nqn.2026-11.io.spdk-ftl:somebody-else")
    before = spdk_target.state()
    refused = spdk_target.rpc(
        "bdev_ftl_create", "-b", "ftl0", "-d", "Malloc0", "--zone-capacity", "2048", daemon=daemon
    )
    assert refused.returncode == 1
    assert "Malloc0" in refused.stdout
    assert "claim" in refused.stdout
    assert "exclusive_write" in refused.stdout
    assert spdk_target.state() == before


def test_without_a_tcp_transport_the_remedy_is_named(spdk_target: SpdkTarget, daemon: Daemon) -> None:
    spdk_target.call("bdev_malloc_create", name="Malloc0", num_blocks=512 * 256, block_size=4096)
    before = spdk_target.state()
    refused = spdk_target.rpc(
        "bdev_ftl_create", "-b", "ftl0", "-d", "Malloc0", "--zone-capacity", "2048", daemon=daemon
    )
    assert refused.returncode == 1
    assert "nvmf_create_transport" in refused.stdout
    assert spdk_target.state() == before


@pytest.mark.embedded
def test_a_base_that_appears_later_is_waited_for(
    spdk_target: SpdkTarget, zns_drive: EmbeddedTarget, daemon: Daemon
) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    said = spdk_target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
    assert "FTL bdev: ftl0 creation deferred" in said
    attach(spdk_target, zns_drive)
    found = spdk_target.call("bdev_get_bdevs", name="ftl0", timeout=60_000)
    assert found[0]["name"] == "ftl0"
    spdk_target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
    assert spdk_target.bdev("ftl0") is None


def test_a_drive_that_goes_away_keeps_nobody_from_halting(
    spdk_target: SpdkTarget, zns_drive: EmbeddedTarget, daemon: Daemon
) -> None:
    spdk_target.call("nvmf_create_transport", trtype="TCP")
    attach(spdk_target, zns_drive)
    spdk_target.ftl(daemon, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
    zns_drive.kill()
    with pytest.raises(FtlError, match="halt the FTL"):
        DaemonClient(daemon.socket).call("ftl_halt")
    daemon.close()  # fails when it takes too long
    assert spdk_target.bdev("ftl0") is None


def test_the_sockets_of_a_real_target_and_the_daemon_are_told_apart(spdk_target: SpdkTarget, daemon: Daemon) -> None:
    with pytest.raises(
        DaemonError, match="the RPC socket of an SPDK target, not the control socket of a spdk-ftl daemon"
    ):
        DaemonClient(spdk_target.socket).call("ftl_get_daemon")
    params = {"name": "ftl0", "base_bdev": "Drive0", "target": daemon.socket}
    with pytest.raises(FtlError, match="control socket of a spdk-ftl daemon, not an SPDK target"):
        DaemonClient(daemon.socket).call("bdev_ftl_create", params)
