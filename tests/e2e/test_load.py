"""An FTL outlives its deletion, its daemon and the daemon's death: it is loaded again, and everything is there."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.ftl_world import POLL_S, WAIT_S, ZNS, FtlWorld, ftl_world
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import FtlError
from support.drive import HOST_NQN, digest, write_and_verify
from support.processes import daemon_process, target_process

OTHER = "b286d19a-0059-4709-abcd-9f7732b1567d"


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS, "--malloc", "name=M0,size=64M", "--malloc", "name=C0,size=64M") as world:
        yield world


def create(world: FtlWorld, *arguments: str) -> str:
    created = world.rpc("bdev_ftl_create", "-b", "ftl0", "--host", HOST_NQN, *arguments)
    assert created["name"] == "ftl0"
    return str(created["uuid"])


def export_of(world: FtlWorld) -> dict[str, Any]:
    export: dict[str, Any] = world.devices()["ftl0"]["export"]
    return export


def fill(world: FtlWorld) -> str:
    """Writes half of it, and a part of that again, and flushes; returns what is there."""
    export = export_of(world)
    where = (export["traddr"], export["trsvcid"], export["subnqn"])
    blocks = world.devices()["ftl0"]["num_blocks"] // 2
    asyncio.run(write_and_verify(*where, blocks=blocks, random_writes=blocks // 2, flush=True))
    return asyncio.run(digest(*where))


def content(world: FtlWorld) -> str:
    export = export_of(world)
    return asyncio.run(digest(export["traddr"], export["trsvcid"], export["subnqn"]))


def delete(world: FtlWorld) -> None:
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0") is True


@pytest.mark.parametrize(
    "base", [("-d", "Nvme0n1", "--num-punits", "2"), ("-d", "M0", "--zone-capacity", "192")], ids=["zns", "emulated"]
)
def test_a_deleted_ftl_is_loaded_by_its_uuid(world: FtlWorld, base: tuple[str, ...]) -> None:
    before = world.snapshot()
    uuid = create(world, *base)
    written = fill(world)
    delete(world)
    for _ in range(2):
        assert create(world, *base, "-u", uuid) == uuid
        assert content(world) == written
        properties = world.rpc("bdev_ftl_get_properties", "-b", "ftl0")["properties"]
        restored = next(entry["value"] for entry in properties if entry["name"] == "restored")
        assert (restored["clean"], restored["damage_count"]) == (True, 0)
        delete(world)
        assert world.snapshot() == before


def test_creating_over_an_ftl_asks_for_force(world: FtlWorld) -> None:
    for base in (("-d", "Nvme0n1"), ("-d", "M0", "--zone-capacity", "192")):
        uuid = create(world, *base)
        delete(world)
        before = world.snapshot()
        error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", *base)
        assert f"-u {uuid} to load it, or --force" in error["message"]
        assert error["code"] == -17
        assert world.snapshot() == before
        fresh = create(world, *base, "--force")
        assert fresh != uuid
        delete(world)
        assert uuid in world.rpc.fails("bdev_ftl_create", "-b", "ftl0", *base, "-u", uuid)["message"]
        assert create(world, *base, "-u", fresh) == fresh
        delete(world)


def test_what_can_not_be_loaded_is_refused_and_nothing_is_changed(world: FtlWorld) -> None:
    error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "-u", OTHER)
    assert "holds no FTL" in error["message"]
    uuid = create(world, "-d", "Nvme0n1", "--overprovisioning", "25", "--num-punits", "2")
    written = fill(world)
    delete(world)
    before = world.snapshot()
    for arguments, expected in (
        (("-u", OTHER), f"uuid {uuid}: give that uuid"),
        (("-u", uuid, "--overprovisioning", "30"), "lba_rsvd = 30: the FTL was created with 25"),
        (("-u", uuid, "--overprovisioning", "20"), "lba_rsvd = 20: the FTL was created with 25"),
        (("-u", uuid, "--num-punits", "3"), "has 2 parallel units"),
    ):
        error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", *arguments)
        assert expected in error["message"]
        assert world.snapshot() == before
    create(world, "-d", "Nvme0n1", "-u", uuid)
    assert content(world) == written


@pytest.mark.parametrize("how", ["kill", "halt"])
def test_devices_come_back_with_the_daemon(world: FtlWorld, how: str) -> None:
    uuid = create(world, "-d", "Nvme0n1", "--num-punits", "2", "-c", "C0")
    written = fill(world)
    export = export_of(world)
    if how == "kill":
        world.daemon.kill()
    else:
        world.daemon.process.send_signal(signal.SIGTERM)
        assert world.daemon.process.wait(60) == 0
    with daemon_process(world.folder):
        assert world.wait_for_state("ftl0", "online")["uuid"] == uuid
        assert export_of(world) == export
        assert content(world) == written
        assert world.call("bdev_get_bdevs", name="ftl0")[0]["uuid"] == uuid
        delete(world)
    with daemon_process(world.folder):
        assert world.devices() == {}


def test_a_device_waits_for_its_base_when_the_daemon_comes_back_first(folder: Path) -> None:
    drive = folder / "drive"
    base = ("-d", "Nvme0n1", "--num-punits", "2")
    with ftl_world(folder, "--zns", f"{ZNS},path={drive}") as world:
        uuid = create(world, *base)
        written = fill(world)
        world.daemon.kill()
        world.target.kill()
        with daemon_process(folder):
            (device,) = DaemonClient(world.daemon.socket).call("ftl_get_devices")
            assert device["state"] in ("deferred", "creating")  # it tries now and then
            assert device["uuid"] == uuid
            with target_process(folder, "--zns", f"{ZNS},path={drive}") as again:
                again.call("nvmf_create_transport", trtype="TCP")
                world.target = again
                assert world.wait_for_state("ftl0", "online")["uuid"] == uuid
                assert content(world) == written
                delete(world)


def test_what_a_write_buffer_alone_holds_is_not_deleted_without_force(world: FtlWorld) -> None:
    uuid = create(world, "-d", "Nvme0n1")
    export = export_of(world)
    where = (export["traddr"], export["trsvcid"], export["subnqn"])
    asyncio.run(write_and_verify(*where, blocks=16))
    world.target.kill()
    client = DaemonClient(world.daemon.socket)
    deadline = time.monotonic() + WAIT_S
    while client.call("ftl_get_devices")[0]["state"] != "waiting":
        assert time.monotonic() < deadline
        time.sleep(POLL_S)
    with pytest.raises(FtlError, match="16 blocks in ") as refused:
        client.call("bdev_ftl_delete", {"name": "ftl0"})
    assert refused.value.code == -16
    spdk_ftl = [sys.executable, "-m", "spdk_ftl_py.cli"]

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [*spdk_ftl, *arguments, "--socket", world.daemon.socket]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    done = command("delete", "-b", "ftl0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--force" in done.stderr
    assert json.loads(command("status", "--json").stdout)["unneeded_buffers"] == []
    done = command("delete", "-b", "ftl0", "--force")
    assert (done.returncode, done.stderr) == (0, "")
    assert "16 blocks in " in done.stdout
    assert f"-u {uuid}" in done.stdout
    (left,) = json.loads(command("status", "--json").stdout)["unneeded_buffers"]
    assert (left["uuid"], left["held_blocks"]) == (uuid, 16)
    done = command("remove-buffers")
    assert (done.returncode, done.stdout) == (1, "")
    assert "16 blocks in " in done.stderr
    done = command("remove-buffers", uuid, "--force", "--json")
    assert json.loads(done.stdout) == {"removed": [left]}
    assert not Path(left["path"]).exists()
    assert command("remove-buffers").stdout == "nothing to remove\n"
