"""bdev_ftl_create to bdev_ftl_delete on a live target, driven by stock spdk-rpc, every program a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import BusyError, FtlError
from spdk_ftl_py.version import __version__
from support.drive import HOST_NQN, write_and_verify
from support.processes import daemon_process


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS, "--malloc", "name=M0,size=64M", "--malloc", "name=C0,size=64M") as world:
        yield world


def create(world: FtlWorld, *arguments: str) -> dict[str, Any]:
    created: dict[str, Any] = world.rpc("bdev_ftl_create", "-b", "ftl0", *arguments)
    return created


def verify(export: dict[str, Any]) -> None:
    asyncio.run(write_and_verify(export["traddr"], export["trsvcid"], export["subnqn"]))


def test_every_release_of_spdk_rpc_creates_shows_and_deletes(world: FtlWorld, release: str) -> None:
    rpc = world.client(release)
    before = world.snapshot()
    created = rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
    assert set(created) == {"name", "uuid"}
    assert created["name"] == "ftl0"
    (bdev,) = world.call("bdev_get_bdevs", name="ftl0")
    assert (bdev["name"], bdev["uuid"], bdev["block_size"], bdev["zoned"]) == ("ftl0", created["uuid"], 4096, False)
    (base,) = world.call("bdev_get_bdevs", name="Nvme0n1")
    assert (base["claimed"], base["claim_type"]) == (True, "exclusive_write")
    stats = rpc("bdev_ftl_get_stats", "-b", "ftl0")
    assert stats["name"] == "ftl0"
    properties = rpc("bdev_ftl_get_properties", "-b", "ftl0")
    assert properties["state"] == "online"
    assert {"num_bands", "zone_capacity"} <= {entry["name"] for entry in properties["properties"]}
    (device,) = rpc("ftl_get_devices")
    assert device["num_blocks"] == bdev["num_blocks"]
    assert rpc("bdev_ftl_delete", "-b", "ftl0") is True
    assert world.snapshot() == before
    assert world.devices() == {}


def test_dry_run_of_every_release_sends_nothing(world: FtlWorld, release: str) -> None:
    before = world.snapshot()
    done = world.client(release).run("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", global_options=["--dry-run"])
    assert done.returncode == 0
    request = json.loads(done.stdout.removeprefix("Request:\n"))
    assert request["params"]["target"] == world.target.socket
    assert (world.snapshot(), world.devices()) == (before, {})


def test_server_mode_of_every_release_survives_a_refusal(world: FtlWorld, release: str) -> None:
    rpc = world.client(release)
    line = f"-s {world.target.socket} --plugin spdk_ftl_py"
    script = "\n".join(
        f"{line} {command}"
        for command in (
            "bdev_ftl_create -b ftl0 -d Nope -c Nope",
            "bdev_ftl_create -b ftl0 -d Nvme0n1 --no-attach",
            "bdev_ftl_create -b ftl0 -d Nvme0n1",
            "bdev_ftl_delete -b ftl0",
        )
    )
    done = rpc.run("--server", stdin=script + "\n")
    states = [line for line in done.stdout.splitlines() if line.startswith("**STATUS=")]
    assert states == ["**STATUS=1", "**STATUS=0", "**STATUS=1", "**STATUS=0"], done.stdout


@pytest.mark.parametrize("batch_release", ["26.5", "26.9"])
def test_in_batch_mode_an_ftl_is_made_of_what_the_batch_created(world: FtlWorld, batch_release: str) -> None:
    script = "\n".join(
        (
            "bdev_malloc_create -b Late 64 4096",
            "bdev_ftl_create -b ftl0 -d Late --zone-capacity 192",
            "bdev_get_bdevs -b ftl0",
        )
    )
    done = world.client(batch_release).run(stdin=script + "\n", global_options=["--batch-mode"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"product_name": "passthru"' in done.stdout
    world.rpc("bdev_ftl_delete", "-b", "ftl0")


def test_the_export_takes_verified_io_and_so_does_the_bdev(world: FtlWorld) -> None:
    create(world, "-d", "Nvme0n1", "--host", HOST_NQN)
    verify(world.devices()["ftl0"]["export"])
    # The very bdev ftl0 of the target, exported by the target as a user would.
    nqn = "nqn.2016-06.io.spdk:user"
    port = world.target.export("ftl0", nqn)
    asyncio.run(write_and_verify("127.0.0.1", port, nqn))
    stats = world.rpc("bdev_ftl_get_stats", "-b", "ftl0")
    assert stats["core"]["user_written_blocks"] > 0
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    assert "ftl0" not in {bdev["name"] for bdev in world.call("bdev_get_bdevs")}


def test_no_attach_only_exports(world: FtlWorld) -> None:
    before = world.snapshot()
    create(world, "-d", "Nvme0n1", "--no-attach", "--host", HOST_NQN)
    device = world.devices()["ftl0"]
    assert device["attached"] is False
    after = world.snapshot()
    assert {bdev["name"] for bdev in after["bdevs"]} == {bdev["name"] for bdev in before["bdevs"]}
    assert after["controllers"] == before["controllers"]
    verify(device["export"])
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    assert world.snapshot() == before


def test_zones_are_emulated_on_a_conventional_bdev(world: FtlWorld) -> None:
    before = world.snapshot()
    create(world, "-d", "M0", "--zone-capacity", "192", "--optimal-open-zones", "2", "--host", HOST_NQN)
    properties = {
        entry["name"]: entry["value"] for entry in world.rpc("bdev_ftl_get_properties", "-b", "ftl0")["properties"]
    }
    assert (properties["zone_size"], properties["zone_capacity"]) == (256, 192)
    assert properties["num_punits"] == 2
    verify(world.devices()["ftl0"]["export"])
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    assert world.snapshot() == before


def test_punits_limits_and_conf_are_those_given(world: FtlWorld) -> None:
    options = (
        "--num-punits 2 --overprovisioning 40 --limit crit:1,high:10 --limit-threshold start:6 --conf band_thld=80"
    )
    created = create(world, "-d", "Nvme0n1", *options.split())
    properties = {
        entry["name"]: entry["value"] for entry in world.rpc("bdev_ftl_get_properties", "-b", "ftl0")["properties"]
    }
    assert properties["num_punits"] == 2
    assert properties["conf"]["lba_rsvd"] == 40
    assert properties["conf"]["band_thld"] == 80
    assert properties["conf"]["limits"]["crit"]["limit"] == 1
    assert properties["conf"]["limits"]["high"]["limit"] == 10
    assert properties["conf"]["limits"]["start"]["thld"] == 6
    assert world.call("bdev_get_bdevs", name="ftl0")[0]["uuid"] == created["uuid"]


def test_a_listen_address_is_taken_as_given(world: FtlWorld) -> None:
    created = create(world, "-d", "Nvme0n1", "--listen-address", "127.0.0.1:0")
    export = world.devices()["ftl0"]["export"]
    assert export["traddr"] == "127.0.0.1"
    assert export["subnqn"].endswith(created["uuid"])
    port = export["trsvcid"]
    error = world.rpc.fails(
        "bdev_ftl_create", "-b", "ftl1", "-d", "M0", "--zone-capacity", "192", "--listen-address", f"127.0.0.1:{port}"
    )
    assert f"127.0.0.1:{port}" in error["message"]
    assert world.call("bdev_get_bdevs", name="M0")[0]["claimed"] is False


def test_a_cache_is_held_and_let_go(world: FtlWorld) -> None:
    before = world.snapshot()
    create(world, "-d", "Nvme0n1", "-c", "C0")
    assert world.call("bdev_get_bdevs", name="C0")[0]["claim_type"] == "exclusive_write"
    cache = world.rpc("bdev_ftl_get_properties", "-b", "ftl0")["cache"]
    assert (cache["bdev"], cache["kind"]) == ("C0", "non_vss")
    assert (cache["state"], cache["failure"]) == ("in_use", None)
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    assert world.snapshot() == before


def test_a_second_ftl_can_have_neither_name_nor_bdevs_of_the_first(world: FtlWorld) -> None:
    created = create(world, "-d", "Nvme0n1", "-c", "C0")
    before = world.snapshot()
    error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "M0", "--zone-capacity", "192")
    assert (error["code"], "name ftl0" in error["message"]) == (-17, True)
    for arguments in ("-d Nvme0n1", "-d M0 --zone-capacity 192 -c C0", "-d C0 --zone-capacity 192"):
        error = world.rpc.fails("bdev_ftl_create", "-b", "ftl1", *arguments.split())
        assert error["code"] == -1
        assert "already claimed (exclusive_write) by NVMe-oF subsystem" in error["message"]
        assert created["uuid"] in error["message"]
    assert world.snapshot() == before
    assert world.devices()["ftl0"]["state"] == "online"


def test_a_second_delete_is_refused_while_the_first_is_at_it(world: FtlWorld) -> None:
    create(world, "-d", "Nvme0n1")
    # The superblock's last write takes its time, so the first delete does.
    world.call("ftltgt_inject_fault", name="Nvme0n1", op="write", latency_us=3_000_000, times=1)
    client = DaemonClient(world.daemon.socket)
    outcome: list[Any] = []
    first = threading.Thread(target=lambda: outcome.append(client.call("bdev_ftl_delete", {"name": "ftl0"})))
    first.start()
    world.wait_for_state("ftl0", "deleting")
    with pytest.raises(FtlError, match="already being deleted") as caught:
        client.call("bdev_ftl_delete", {"name": "ftl0"})
    assert caught.value.errno == BusyError.errno
    first.join(60)
    assert outcome == [True]


def test_create_and_delete_can_be_repeated(world: FtlWorld) -> None:
    before = world.snapshot()
    uuids = set()
    for _ in range(3):
        uuids.add(UUID(create(world, "-d", "Nvme0n1", "--force")["uuid"]))
        world.rpc("bdev_ftl_delete", "-b", "ftl0")
        assert world.snapshot() == before
    assert len(uuids) == 3


def test_other_signals_end_neither_daemon_nor_target(world: FtlWorld) -> None:
    create(world, "-d", "Nvme0n1")
    for number in (signal.SIGUSR2, signal.SIGUSR1):
        world.daemon.process.send_signal(number)
        world.target.process.send_signal(number)
    assert world.devices()["ftl0"]["state"] == "online"
    assert world.call("bdev_get_bdevs", name="ftl0")
    log = world.daemon.log_tail()
    assert "SIGUSR2: ignored" in log
    assert "ftl0: online since " in log
    assert f"on Nvme0n1 of the target at {world.target.socket}" in log


def test_the_successor_of_a_killed_daemon_takes_over_what_it_left(world: FtlWorld) -> None:
    before = world.snapshot()
    created = create(world, "-d", "Nvme0n1", "-c", "C0")
    world.daemon.kill()
    assert world.snapshot() != before
    with daemon_process(world.folder):
        assert world.wait_for_state("ftl0", "online")["uuid"] == created["uuid"]
        world.rpc("bdev_ftl_delete", "-b", "ftl0")
        assert world.snapshot() == before


def test_a_device_whose_target_is_lost_waits_for_it_and_can_be_deleted(world: FtlWorld) -> None:
    create(world, "-d", "Nvme0n1")
    world.target.kill()
    client = DaemonClient(world.daemon.socket)
    ended = threading.Event()
    for _ in range(1200):
        (device,) = client.call("ftl_get_devices")
        if device["state"] == "waiting":
            break
        ended.wait(0.05)  # polling another process
    assert device["state"] == "waiting", device
    assert "Nvme0n1" in device["error"]
    assert client.call("bdev_ftl_delete", {"name": "ftl0"}) is True
    assert client.call("ftl_get_devices") == []


def test_the_command_line_shows_what_the_daemon_has(world: FtlWorld) -> None:
    def cli(*arguments: str) -> str:
        command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments, "--socket", world.daemon.socket]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=world.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    created = json.loads(cli("create", "-s", world.target.socket, "-b", "ftl0", "-d", "Nvme0n1"))
    assert json.loads(cli("devices", "--json"))[0]["uuid"] == created["uuid"]
    assert "ftl0" in cli("devices")
    assert "online" in cli("list")
    assert json.loads(cli("stats", "ftl0", "--json"))["name"] == "ftl0"
    assert "num_blocks" in cli("properties", "ftl0")
    (under,) = world.call("bdev_get_bdevs", name=f"{controller_of(world, 'ftl0')}n1")
    told = under["driver_specific"]["nvme"][0]["ctrlr_data"]
    uuid = created["uuid"]
    assert (told["model_number"], told["serial_number"]) == ("spdk-ftl-py FTL", uuid.replace("-", "")[:20])
    assert (told["firmware_revision"], told["subnqn"]) == (__version__, f"nqn.2026-11.io.spdk-ftl:{uuid}")
    assert json.loads(cli("status", "--json"))["devices"] == 1
    assert cli("delete", "-b", "ftl0").strip() == "true"


def controller_of(world: FtlWorld, name: str) -> str:
    """The controller under the FTL's bdev in the target."""
    (controller,) = (each["name"] for each in world.call("bdev_nvme_get_controllers") if each["name"].startswith(name))
    return str(controller)


def test_a_name_whose_controller_was_detached_by_hand_is_free_after_the_delete(world: FtlWorld) -> None:
    before = world.snapshot()
    create(world, "-d", "Nvme0n1")
    world.call("bdev_nvme_detach_controller", name=controller_of(world, "ftl0"))
    assert "ftl0" not in {bdev["name"] for bdev in world.call("bdev_get_bdevs")}
    assert world.rpc("bdev_ftl_delete", "-b", "ftl0") is True
    assert world.snapshot() == before
    create(world, "-d", "Nvme0n1", "--force")
    assert world.call("bdev_get_bdevs", name="ftl0")[0]["product_name"] == "passthru"


def test_a_name_that_waits_for_a_strangers_base_is_refused_and_the_remedy_works(world: FtlWorld) -> None:
    world.call("bdev_passthru_create", base_bdev_name="Later", name="ftl0")
    before = world.snapshot()
    error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
    assert error["code"] == -17
    assert "keeps it for somebody else's passthru bdev" in error["message"]
    assert world.snapshot() == before
    world.call("bdev_null_create", name="Later", num_blocks=1, block_size=4096)
    world.call("bdev_passthru_delete", name="ftl0")
    world.call("bdev_null_delete", name="Later")
    create(world, "-d", "Nvme0n1", "--force")
