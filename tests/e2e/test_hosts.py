"""Who may connect to an FTL, as a user says it with spdk-rpc and spdk-ftl; and what an upgrade makes of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from e2e.test_peer_loss import (
    HOSTNQN,
    POLL_S,
    USER_NQN,
    WAIT_S,
    Peers,
    VerifyingHost,
    in_thread,
    kill,
    peers,
    under_load,
)
from spdk_ftl_py.nvme.host.discovery import discover
from spdk_ftl_py.nvme.wire import CommandError, Status
from spdk_ftl_py.spdk.attach import controller_name
from support.drive import HOST_NQN, write_and_verify
from support.system import TargetClient


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS) as world:
        yield world


def spdk_ftl(world: FtlWorld, *arguments: str) -> str:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments, "--socket", world.daemon.socket]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=world.folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_host_gets_in_when_it_is_added_and_out_when_it_is_removed(world: FtlWorld) -> None:
    world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1")
    export = world.devices()["ftl0"]["export"]
    where = (export["traddr"], export["trsvcid"])

    def drive() -> None:
        asyncio.run(write_and_verify(*where, export["subnqn"], blocks=64))

    def refused() -> None:
        assert asyncio.run(discover(*where, HOST_NQN)) == []
        with pytest.raises(CommandError) as caught:
            drive()
        assert caught.value.status == Status.CONNECT_INVALID_HOST

    refused()
    assert world.rpc("bdev_ftl_add_host", "-b", "ftl0", "--host", HOST_NQN) is True
    assert [entry.subnqn for entry in asyncio.run(discover(*where, HOST_NQN))] == [export["subnqn"]]
    drive()
    told = json.loads(spdk_ftl(world, "hosts", "ftl0", "--json"))
    assert told == {**world.rpc("bdev_ftl_get_hosts", "-b", "ftl0"), "controllers": told["controllers"]}
    assert [host["nqn"] for host in told["hosts"]][1:] == [HOST_NQN]
    assert [each["hostnqn"] for each in told["controllers"]] == [told["hosts"][0]["nqn"]]
    assert [(each["hostnqn"], each["count"]) for each in told["refused"]] == [(HOST_NQN, 1)]
    assert [(each["hostnqn"], each["write_blocks"]) for each in told["disconnected"]] == [(HOST_NQN, 64)]
    shown = "".join(spdk_ftl(world, "hosts", "ftl0").split())
    for part in ("theSPDKtargetitself", "connected", "refused", "gone"):
        assert part in shown
    assert world.rpc("bdev_ftl_remove_host", "-b", "ftl0", "--host", HOST_NQN) is True
    refused()
    assert spdk_ftl(world, "allow-any-host", "-b", "ftl0", "--allow-any-host") == "true\n"
    drive()
    assert spdk_ftl(world, "allow-any-host", "-b", "ftl0", "--no-allow-any-host") == "true\n"
    refused()
    assert spdk_ftl(world, "add-host", "-b", "ftl0", "--host", HOST_NQN) == "true\n"
    drive()
    assert spdk_ftl(world, "remove-host", "-b", "ftl0", "--host", HOST_NQN) == "true\n"
    refused()
    world.rpc("bdev_ftl_delete", "-b", "ftl0")


def attach_as_older_daemons_did(target: TargetClient, device: dict[str, Any]) -> str:
    """The target chooses its host NQN, which is returned."""
    controller = controller_name("ftl0", UUID(device["uuid"]))
    export = device["export"]
    path = {"trtype": "TCP", "adrfam": "IPv4", **{key: export[key] for key in ("traddr", "trsvcid", "subnqn")}}
    target.call("bdev_passthru_delete", name="ftl0")
    target.call("bdev_nvme_detach_controller", name=controller)
    lasting = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1, "fast_io_fail_timeout_sec": 120}
    target.call("bdev_nvme_attach_controller", name=controller, **path, **lasting)
    target.call("bdev_passthru_create", base_bdev_name=f"{controller}n1", name="ftl0", uuid=device["uuid"])
    (found,) = target.call("bdev_nvme_get_controllers", name=controller)
    return str(found["ctrlrs"][0]["host"]["nqn"])


def forget_the_list(folder: Path) -> None:
    """What the daemon was: one that knew of none."""
    path = folder / "state" / "state.json"
    state = json.loads(path.read_text())
    for device in state["devices"]:
        del device["allowed"]
    path.write_text(json.dumps(state))


def upgraded(world: Peers) -> dict[str, Any]:
    kill(world.daemon)
    forget_the_list(world.folder)
    world.start_daemon()
    return world.wait_for("online")


def test_the_bdev_of_the_target_goes_on_through_an_upgrade(folder: Path) -> None:
    with peers(folder) as world:
        world.create(allow_any_host=True)
        chosen = attach_as_older_daemons_did(world.target, world.device())
        port = world.target.export("ftl0", USER_NQN)

        async def body(host: VerifyingHost) -> None:
            device = await in_thread(lambda: upgraded(world))
            assert device["hosts"] == [{"nqn": chosen, "is_target": True}]
            assert "let any host connect" in world.daemon.log_tail()
            await host.moves()
            assert host.host.losses == 0

        under_load(world, body, {"traddr": "127.0.0.1", "trsvcid": port, "subnqn": USER_NQN})
        world.target.call("nvmf_delete_subsystem", nqn=USER_NQN)
        world.close()


def test_a_host_that_an_upgrade_locks_out_goes_on_when_it_is_added(folder: Path) -> None:
    with peers(folder) as world:
        world.create(allow_any_host=True)
        attach_as_older_daemons_did(world.target, world.device())

        async def body(host: VerifyingHost) -> None:
            await in_thread(lambda: upgraded(world))
            deadline = time.monotonic() + WAIT_S
            while not world.client.call("bdev_ftl_get_hosts", {"name": "ftl0"})["refused"]:
                assert time.monotonic() < deadline
                await asyncio.sleep(POLL_S)
            told = world.daemon.log_tail()
            assert f"hosts that were connected (the target among them): {HOSTNQN}" in told or f", {HOSTNQN}" in told
            world.client.call("bdev_ftl_add_host", {"name": "ftl0", "host": HOSTNQN})

        under_load(world, body, world.device()["export"])
        world.close()
