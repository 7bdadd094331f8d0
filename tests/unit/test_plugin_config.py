"""SPDK's own save_config and load_config under our plugin: what is the daemon's goes to the daemon, all else is theirs.

The world is that of test_plugin.py; its target tells a configuration.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.errors import TargetError
from unit.test_plugin import LIBRARIES, World, at, checkout, listening

BDEV = {"subsystem": "bdev", "config": [{"method": "bdev_malloc_create", "params": {"name": "M0"}}]}
OURS = {"method": "bdev_passthru_create", "params": {"name": "ftl0"}}
SECTION = {"subsystem": "ftl", "config": [{"method": "ftl_create_bdev", "params": {"name": "ftl0"}}]}
NVMF: dict[str, Any] = {"subsystem": "nvmf", "config": None}
SAVED = {"subsystems": [BDEV, NVMF, SECTION]}
LOADED = {"loaded": [{"name": "ftl0"}], "unchanged": []}


def tells(request: dict[str, Any]) -> dict[str, Any]:
    """A target that has what the daemon made."""
    names = [{"subsystem": "bdev", "depends_on": []}, {"subsystem": "nvmf", "depends_on": ["bdev"]}]
    configs = {"bdev": [*BDEV["config"], OURS], "nvmf": None}
    method = request["method"]
    if method == "framework_get_config":
        return {"result": configs[request["params"]["name"]]}
    known = ["bdev_malloc_create", "framework_get_config"]
    return {"result": {"framework_get_subsystems": names, "rpc_get_methods": known}.get(method, True)}


@pytest.fixture
def world(tmp_path: Path) -> AbstractAsyncContextManager[World]:
    return listening(tmp_path)


def prepare(world: World, answer: Any) -> None:
    world.reply = tells  # type: ignore[method-assign]
    world.answer = answer


def called(world: World) -> list[str]:
    """Of the target."""
    return [request["method"] for request in world.target_calls]


async def test_save_config_prints_what_the_daemon_leaves_of_it(world: World) -> None:
    prepare(world, SAVED)
    done = await world.rpc(*at(world, "save_config"))
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == SAVED
    assert done.out == json.dumps(SAVED, indent=2) + "\n"
    assert world.calls == [("ftl_save_config", {"target": str(world.folder / "target"), "with_batches": False})]
    assert "framework_get_config" not in called(world)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-i", "-1"), json.dumps(SAVED) + "\n"),
        (("-s", "bdev"), json.dumps({"subsystems": [BDEV]}, indent=2) + "\n"),
        (("--subsystems", "ftl"), json.dumps(SAVED, indent=2) + "\n"),
        (("--indent", "1", "-s", "nvmf"), json.dumps({"subsystems": [BDEV, NVMF]}, indent=1) + "\n"),
    ],
)
async def test_its_own_options_go_on_working(options: tuple[str, ...], expected: str, world: World) -> None:
    prepare(world, SAVED)
    done = await world.rpc(*at(world, "save_config", *options))
    assert (done.code, done.out, done.err) == (0, expected, "")


async def test_batches_are_asked_of_the_daemon(world: World) -> None:
    prepare(world, SAVED)
    done = await world.rpc(*at(world, "save_config", "--with-batches"))
    assert done.code == 0
    assert world.calls[0][1]["with_batches"] is True


@pytest.mark.parametrize("name", ["bdev", "ftl"])
async def test_one_subsystem_is_saved_in_the_same_way(name: str, world: World) -> None:
    prepare(world, SAVED)
    done = await world.rpc(*at(world, "save_subsystem_config", "-n", name))
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"bdev": BDEV, "ftl": SECTION}[name]


async def test_without_a_daemon_nothing_is_left_out_and_that_is_said(world: World) -> None:
    prepare(world, SAVED)
    done = await world.rpc(*at(world, "save_config"), daemon=False)
    assert done.code == 0
    assert json.loads(done.out) == {"subsystems": [{**BDEV, "config": [*BDEV["config"], OURS]}, NVMF]}
    (line,) = done.err.splitlines()
    assert line.startswith(
        "spdk_ftl_py: this is the target's whole configuration, without a section for FTLs: spdk-ftl daemon at "
    )
    assert "is not running" in line


async def test_a_daemon_that_can_not_is_an_error(world: World) -> None:
    prepare(world, TargetError("SPDK target at X: no reply", errno=110))
    done = await world.rpc(*at(world, "save_config"))
    assert done.code == 1
    assert '"message": "SPDK target at X: no reply"' in done.out
    assert "subsystems" not in done.out


async def test_in_a_script_the_commands_behind_it_reach_the_target(world: World) -> None:
    prepare(world, SAVED)
    done = await world.rpc(*at(world), stdin="save_config -i -1\nframework_get_config bdev\n")
    assert (done.code, done.err) == (0, "")
    first, rest = done.out.split("\n", 1)
    assert json.loads(first) == SAVED
    assert json.loads(rest) == [*BDEV["config"], OURS]


async def test_a_dry_run_asks_nobody(world: World) -> None:
    prepare(world, SAVED)
    await world.rpc("--dry-run", *at(world, "save_config"))
    await world.rpc("--dry-run", *at(world, "load_config", "-j", json.dumps(SAVED)))
    assert (world.calls, world.target_calls) == ([], [])


@pytest.mark.parametrize("source", ["file", "text", "stdin"])
async def test_load_config_gives_the_daemon_its_section_behind_the_rest(source: str, world: World) -> None:
    prepare(world, LOADED)
    text = json.dumps(SAVED)
    (world.folder / "saved.json").write_text(text)
    options = {"file": ("-j", "saved.json"), "text": ("-j", text), "stdin": ()}[source]
    done = await world.rpc(*at(world, "load_config", *options), stdin=text if source == "stdin" else "")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == LOADED
    assert called(world).count("bdev_malloc_create") == 1
    params = {"config": SECTION["config"], "target": str(world.folder / "target")}
    assert world.calls == [("ftl_load_config", params)]


async def test_without_a_section_no_daemon_is_needed(world: World) -> None:
    prepare(world, LOADED)
    for text in (json.dumps({"subsystems": [BDEV]}), json.dumps({"subsystems": [BDEV, {**SECTION, "config": []}]})):
        done = await world.rpc(*at(world, "load_config", "-j", text), daemon=False)
        assert (done.code, done.out, done.err) == (0, "", "")
    assert called(world).count("bdev_malloc_create") == 2


async def test_with_a_section_and_no_daemon_the_rest_is_loaded_and_that_is_said(world: World) -> None:
    prepare(world, LOADED)
    done = await world.rpc(*at(world, "load_config", "-j", json.dumps(SAVED)), daemon=False)
    assert done.code == 1
    assert "is not running" in done.out
    assert "SPDK's part of the configuration is loaded, the FTLs are not" in done.err
    assert called(world).count("bdev_malloc_create") == 1


async def test_our_section_alone_can_be_loaded(world: World) -> None:
    prepare(world, LOADED)
    done = await world.rpc(*at(world, "load_subsystem_config", "-j", json.dumps(SECTION)))
    assert (done.code, done.err) == (0, "")
    assert [name for name, _ in world.calls] == ["ftl_load_config"]
    assert world.target_calls == []


@pytest.mark.parametrize("text", ["{", "[]", "5"])
async def test_what_is_no_configuration_fails(text: str, world: World) -> None:
    prepare(world, LOADED)
    done = await world.rpc(*at(world, "load_config", "-j", text))
    assert done.code == 1
    assert world.calls == []


@pytest.mark.parametrize("command", ["save_config", "load_config", "save_subsystem_config", "load_subsystem_config"])
async def test_without_libraries_there_is_help_and_nothing_is_saved_that_would_do_harm(
    command: str, tmp_path: Path, world: World
) -> None:
    path = checkout(tmp_path, *LIBRARIES)
    helped = await world.rpc("--plugin", "spdk_ftl_py", command, "--help", path=path)
    assert (helped.code, helped.err) == (0, "")
    name = ("-n", "bdev") if command == "save_subsystem_config" else ()
    done = await world.rpc(*at(world, command, *name), path=path)
    assert (done.code, done.out) == (1, "")
    assert "has no module jsonschema" in done.err
