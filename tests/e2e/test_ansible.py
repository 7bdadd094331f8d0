"""The Ansible module, with ansible-core, against the embedded target: twice, in check mode, and away again."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.ftl_world import ZNS, FtlWorld, ftl_world
from support.system import surroundings

COLLECTION = Path(__file__).resolve().parents[2] / "packaging" / "ansible"
MODULE = "spdk_ftl.ftl.spdk_ftl"


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS, "--malloc", "name=Malloc0,size=64M") as world:
        collections = folder / "collections" / "ansible_collections" / "spdk_ftl"
        collections.mkdir(parents=True)
        (collections / "ftl").symlink_to(COLLECTION)
        # The package under test, whether there is an installed command or not.
        command = folder / "spdk-ftl"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m spdk_ftl_py.cli "$@"\n')
        command.chmod(0o755)
        yield world


def ansible(world: FtlWorld, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = surroundings(
        LC_ALL="C.UTF-8",
        HOME=str(world.folder),
        ANSIBLE_HOME=str(world.folder / "ansible"),
        ANSIBLE_COLLECTIONS_PATH=str(world.folder / "collections"),
        ANSIBLE_LOCALHOST_WARNING="0",
        ANSIBLE_NOCOLOR="1",
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
        SPDK_FTL_SOCK=world.daemon.socket,
        PATH=f"{world.folder}{os.pathsep}{os.environ['PATH']}",
    )
    return subprocess.run(
        [sys.executable, "-m", f"ansible.cli.{program}", *arguments],
        cwd=world.folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def run(world: FtlWorld, playbook: Any, *options: str) -> str:
    """What was printed."""
    path = world.folder / "play.yml"
    path.write_text(json.dumps(playbook))
    done = ansible(world, "playbook", "-i", "localhost,", "-c", "local", str(path), *options)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{world.daemon.log_tail()}"
    return done.stdout + done.stderr


def changed(told: str) -> int:
    found = re.search(r"\bchanged=(\d+)", told)
    assert found, told
    return int(found[1])


def test_the_playbook_makes_the_ftl_once_and_check_mode_changes_nothing(world: FtlWorld) -> None:
    playbook = yaml.safe_load((COLLECTION / "playbook.yml").read_text())
    playbook[0]["tasks"][0][MODULE]["target"] = world.target.socket
    before = world.snapshot()
    told = run(world, playbook, "--check", "--diff")
    assert changed(told) == 1
    assert "+ftl0: load it from, or create it on Nvme0n1" in told
    assert (world.snapshot(), world.devices()) == (before, {})
    assert changed(run(world, playbook)) == 1
    (device,) = world.devices().values()
    assert device["state"] == "online"
    assert device["hosts"][1]["nqn"] == "nqn.2026-11.com.example:db"
    told = run(world, playbook)
    assert changed(told) == 0
    assert device["export"]["subnqn"] in told
    assert world.devices()["ftl0"]["uuid"] == device["uuid"]


def tasks(world: FtlWorld, *each: dict[str, Any], **common: Any) -> list[dict[str, Any]]:
    """A playbook with a task for each: options of the module, and under "task" those of the task."""
    made = []
    for number, options in enumerate(each):
        task = options.pop("task", {})
        made.append(
            {
                "name": f"task {number}",
                MODULE: {"name": "ftl0", "target": world.target.socket, **options},
                "register": f"told{number}",
                **common,
                **task,
            }
        )
    show = {"name": "told", "ansible.builtin.debug": {"msg": [f"{{{{ told{i}.changed }}}}" for i in range(len(made))]}}
    return [{"hosts": "all", "gather_facts": False, "tasks": [*made, show]}]


def test_absent_is_once_and_keeps_the_data(world: FtlWorld) -> None:
    uuid = "5b0c4f6e-6c5e-4c7a-9d7f-3d0f2f6a1b11"
    told = run(
        world,
        tasks(
            world,
            {"base": "Nvme0n1", "new_uuid": uuid},
            {"state": "absent", "task": {"check_mode": True}},
            {"base": "Nvme0n1"},
            {"state": "absent"},
            {"state": "absent"},
            {"base": "Nvme0n1", "uuid": uuid},
        ),
    )
    assert re.findall("true|false", told.partition('"msg": [')[2].lower()) == [
        "true",
        "true",
        "false",
        "true",
        "false",
        "true",
    ]
    assert world.devices()["ftl0"]["uuid"] == uuid


def test_what_can_not_be_is_told(world: FtlWorld) -> None:
    late = {"base": "Late", "zone_capacity": "192"}
    told = run(
        world,
        tasks(
            world,
            {**late},
            {**late, "wait": 1},
            {**late, "base": "Other"},
            {**late, "conf": {"colour": 1}},
            {},
            ignore_errors=True,
        ),
    )
    assert "ftl0 is deferred: base bdev Late does not exist yet\n" in told
    assert "ftl0 is deferred: base bdev Late does not exist yet (after 1 s)" in told
    assert "that can't be changed" in told
    assert "unknown parameter" in told
    assert "state is present but all of the following are missing: base" in told
    assert "ignored=4" in told
    assert list(world.devices()) == ["ftl0"]


def test_the_documentation_is_that_of_the_options(world: FtlWorld) -> None:
    done = ansible(world, "doc", "--json", MODULE)
    assert done.returncode == 0, done.stderr
    documented = json.loads(done.stdout)[MODULE]["doc"]["options"]
    spec = importlib.util.spec_from_file_location("module", COLLECTION / "plugins" / "modules" / "spdk_ftl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patched:

        def note(**options: Any) -> None:
            given.update(options["argument_spec"])
            raise KeyboardInterrupt

        patched.setattr(module, "AnsibleModule", note)
        with pytest.raises(KeyboardInterrupt):
            module.main()
    assert {name: (each["type"], each.get("default")) for name, each in documented.items()} == {
        name: (each["type"], each.get("default")) for name, each in given.items()
    }
    from spdk_ftl_py.plan.model import plan_schema

    assert set(module.ENTRY) == set(plan_schema()["$defs"]["ftl"]["properties"])
