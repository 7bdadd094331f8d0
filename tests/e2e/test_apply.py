"""`spdk-ftl apply` with a daemon and the embedded target: once, twice, dry, pruned, after everything was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.ftl_world import FtlWorld, ftl_world
from support.processes import daemon_process, target_process
from support.system import surroundings

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "plan.yaml"
NQN = "nqn.2026-11.io.example:host"
DRIVES = (
    *("--zns", "name=Nvme0n1,zones=64,zone_size=1M,capacity=768K,max_open=14,path=drive"),
    *("--malloc", "name=Malloc0,size=64M", "--malloc", "name=Cache0,size=64M"),
)


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, *DRIVES) as world:
        yield world


def run(world: FtlWorld, plan: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """plan: its text, or the address of the target is put in for /var/tmp/spdk.sock."""
    path = world.folder / "plan.yaml"
    path.write_text(plan.replace("/var/tmp/spdk.sock", world.target.socket))
    return subprocess.run(
        [sys.executable, "-m", "spdk_ftl_py.cli", "apply", str(path), "--socket", world.daemon.socket, *arguments],
        cwd=world.folder,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def apply(world: FtlWorld, plan: str, *arguments: str, code: int = 0) -> str:
    done = run(world, plan, *arguments)
    assert done.returncode == code, f"{done.stdout}{done.stderr}\n{world.daemon.log_tail()}"
    return done.stdout if code in (0, 3) else done.stderr


def small(**entry: Any) -> str:
    ftl = {"name": "ftl0", "base": "Nvme0n1", **entry}
    return json.dumps({"targets": [{"address": "/var/tmp/spdk.sock", "ftls": [ftl]}]})


def test_the_example_makes_what_it_says_and_changes_nothing_the_second_time(world: FtlWorld) -> None:
    plan = EXAMPLE.read_text(encoding="utf-8")
    before = world.snapshot()
    shown = apply(world, plan, "--dry-run")
    assert shown.endswith("4 changes would be made\n")
    assert apply(world, plan, "--check", code=3) == shown
    assert (world.snapshot(), world.devices()) == (before, {})
    assert apply(world, plan) == shown.replace("would be made", "made")
    devices = world.devices()
    assert {name: device["state"] for name, device in devices.items()} == {"ftl0": "online", "scratch": "online"}
    assert devices["scratch"]["uuid"] == "5b0c4f6e-6c5e-4c7a-9d7f-3d0f2f6a1b11"
    assert [host["nqn"] for host in devices["ftl0"]["hosts"] if not host["is_target"]] == [
        "nqn.2014-08.org.nvmexpress:uuid:b286d19a-0059-4709-abcd-9f7732b1567d",
        "nqn.2026-11.com.example:backup",
    ]
    for option in (), ("--dry-run",), ("--check",), ("--prune",):
        assert apply(world, plan, *option) == "no changes\n"
    assert world.devices() == devices
    told = json.loads(apply(world, plan, "--json"))
    assert (told["changed"], told["failed"], len(told["ftls"])) == (False, False, 2)


def test_applied_again_after_all_was_lost_but_the_drive_it_loads_what_is_there(folder: Path) -> None:
    with ftl_world(folder, *DRIVES) as world:
        apply(world, small(hosts=[NQN]))
        uuid = world.devices()["ftl0"]["uuid"]
    # Another machine, as it were: the daemon knows nothing of it.
    (folder / "state").rename(folder / "state.old")
    with target_process(folder, *DRIVES) as target, daemon_process(folder) as daemon:
        world = FtlWorld(folder, target, daemon)
        # Its target is not ready yet, and then it is.
        done = run(world, small(hosts=[NQN]))
        assert (done.returncode, "no TCP transport" in done.stderr) == (3, True), done
        world.tcp()
        assert apply(world, small(hosts=[NQN]), "--wait", "60") == "no changes\n"
        assert world.devices()["ftl0"]["uuid"] == uuid
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0


def test_what_can_be_changed_is_changed_and_what_can_not_is_refused_before(world: FtlWorld) -> None:
    apply(world, small(hosts=[NQN]))
    before = world.devices()
    error = apply(world, small(hosts=[], allow_any_host=True, cache="Cache0"), code=1)
    assert 'cache is none, requested: "Cache0"; that can\'t be changed' in error
    assert error.endswith("nothing was changed\n")
    assert world.devices() == before
    told = apply(world, small(hosts=[], allow_any_host=True))
    assert told.count("\n~ ") + told.startswith("~ ") == 2
    device = world.devices()["ftl0"]
    assert (device["allow_any_host"], [host["is_target"] for host in device["hosts"]]) == (True, [True])


def test_what_the_plan_lacks_goes_only_with_prune_and_keeps_its_data(world: FtlWorld) -> None:
    apply(world, small())
    uuid = world.devices()["ftl0"]["uuid"]
    nothing = json.dumps({"targets": [{"address": "/var/tmp/spdk.sock", "ftls": []}]})
    assert apply(world, nothing) == (
        f"? ftl0 on {world.target.socket}: not in the plan, left as it is (--prune deletes it)\nno changes\n"
    )
    assert apply(world, nothing, "--prune").endswith("1 change made\n")
    assert world.devices() == {}
    apply(world, small(uuid=uuid))
    assert world.devices()["ftl0"]["uuid"] == uuid


def test_a_fault_in_a_plan_is_wrong_usage_and_nothing_is_asked(world: FtlWorld) -> None:
    error = apply(world, small(colour=1), code=2)
    assert "plan.yaml, line 1: targets[0].ftls[0].colour: unknown key: use one of name, base" in error
    assert error.count("\n") == 1
    done = run(world, small(), "--socket", str(world.folder / "nobody"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_failure_half_way_says_what_was_done(world: FtlWorld) -> None:
    psk = world.folder / "no-key"
    plan = small(hosts=[NQN, {"nqn": f"{NQN}2", "dhchap_key": str(psk)}])
    error = apply(world, plan, code=1)
    assert "2 of 3 changes are done; apply the plan again to make the rest" in error
    assert str(psk) in error
    assert apply(world, small(hosts=[NQN])) == "no changes\n"


def test_create_waits_for_a_base_that_comes_and_fails_for_one_that_does_not(world: FtlWorld) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "spdk_ftl_py.cli", "create", "--socket", world.daemon.socket),
            *("-s", world.target.socket, "-b", "late", "-d", "Late", "--zone-capacity", "192", "--wait", "1"),
        ],
        cwd=world.folder, env=surroundings(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["waiting_for"] == "base bdev Late does not exist yet"
    assert "late: deferred after 1 s: base bdev Late does not exist yet" in done.stderr
    world.call("bdev_malloc_create", name="Late", num_blocks=16384, block_size=4096)
    created = world.rpc("bdev_ftl_create", "-b", "late", "-d", "Late", "--wait", "60", "--if-absent")
    assert (created["state"], created["changed"]) == ("online", False)
