"""The plugin under SPDK's own rpc.py: replaced subcommands, dry run, server and batch mode, exit codes, messages.

The daemon's side is its real control socket with methods that note what they were asked; the target's side is a socket
that answers like one, as rpc.py connects to its target before it runs any command.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.daemon.server import RpcServer
from spdk_ftl_py.errors import ExistsError

RPC_PLUGINS = Path(__file__).resolve().parents[2] / "rpc_plugins"
LIBRARIES = ("jsonschema", "requests", "requests_unixsocket")
PLUGIN_METHODS = (
    "bdev_ftl_create",
    "bdev_ftl_delete",
    "bdev_ftl_get_stats",
    "bdev_ftl_scrub",
    "bdev_ftl_grow",
    "bdev_ftl_get_properties",
    "bdev_ftl_add_host",
    "bdev_ftl_remove_host",
    "bdev_ftl_allow_any_host",
    "bdev_ftl_add_listener",
    "bdev_ftl_remove_listener",
    "bdev_ftl_set_ana_state",
    "bdev_ftl_get_hosts",
    "ftl_get_devices",
)
NQN = "nqn.2026-11.io.example:host"


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class World:
    """A daemon's control socket and a target's RPC socket, and what they were asked."""

    folder: Path
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    target_calls: list[Any] = field(default_factory=list)
    answer: Any = field(default_factory=lambda: {"name": "ftl0", "uuid": "b286d19a-0059-4709-abcd-9f7732b1567d"})

    async def rpc(
        self, *arguments: str, stdin: str = "", daemon: bool = True, path: Sequence[Path] | None = None
    ) -> Result:
        """path: PYTHONPATH, and nothing else on it."""
        environment = {**os.environ, "SPDK_FTL_SOCK": str(self.folder / ("daemon" if daemon else "nobody"))}
        if path is not None:
            environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
        environment["http_proxy"] = environment["HTTP_PROXY"] = "http://127.0.0.1:9"
        process = await asyncio.create_subprocess_exec(
            *rpc_command(),
            *arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=self.folder,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())

    async def serve_target(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = ""
        while data := await reader.read(65536):
            buffer += data.decode()
            try:
                request = json.loads(buffer)
            except ValueError:
                continue
            buffer = ""
            self.target_calls.append(request)
            batch = request if isinstance(request, list) else [request]
            replies = [{"jsonrpc": "2.0", "id": entry["id"], **self.reply(entry)} for entry in batch]
            writer.write(json.dumps(replies if isinstance(request, list) else replies[0]).encode() + b"\n")
            await writer.drain()
        writer.close()

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["method"] == "bdev_malloc_delete":
            return {"error": {"code": -19, "message": "No such device"}}
        return {"result": f"did {request['method']}"}


def rpc_command() -> list[str]:
    return [sys.executable, "-c", "from spdk.spdk_rpc import main; main()"]


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[World]:
    here = World(folder)

    def method(name: str) -> Callable[[dict[str, Any]], Awaitable[Any]]:
        async def note(params: dict[str, Any]) -> Any:
            here.calls.append((name, params))
            if isinstance(here.answer, Exception):
                raise here.answer
            return here.answer

        return note

    daemon = RpcServer(folder / "daemon", {name: method(name) for name in schema.methods()})
    await daemon.start()
    target = await asyncio.start_unix_server(here.serve_target, str(folder / "target"))
    try:
        yield here
    finally:
        target.close()
        await daemon.close()


@pytest.fixture
def world(tmp_path: Path) -> AbstractAsyncContextManager[World]:
    return listening(tmp_path)


def at(world: World, *arguments: str) -> list[str]:
    return ["-s", str(world.folder / "target"), "--plugin", "spdk_ftl_py", *arguments]


def checkout(tmp_path: Path, *missing: str) -> list[Path]:
    """The PYTHONPATH of somebody who has a checkout, but neither its extension nor the given modules."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {("spdk_ftl_py._shim", *missing)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
    )
    return [RPC_PLUGINS, tmp_path]


async def test_the_built_in_commands_are_replaced_by_ours(world: World) -> None:
    helped = await world.rpc("--plugin", "spdk_ftl_py", "--help")
    assert helped.code == 0
    assert [line for line in helped.out.splitlines() if "bdev_ftl_create" in line and "Create an FTL" in line]
    for method in PLUGIN_METHODS:
        assert method in helped.out
    assert "FTL unmap" not in helped.out
    assert "bdev_malloc_create" in helped.out


@pytest.mark.parametrize("method", PLUGIN_METHODS)
async def test_help_of_each_command_comes_from_its_schema(method: str, world: World) -> None:
    helped = await world.rpc("--plugin", "spdk_ftl_py", method, "--help")
    assert helped.code == 0
    text = " ".join(helped.out.split())
    for parameter in schema.load(method).parameters:
        for flag in parameter.flags:
            assert flag in text
    assert schema.load(method).description.split(",")[0] in text


async def test_create_sends_what_was_given_and_prints_name_and_uuid(tmp_path: Path, world: World) -> None:
    options = "-b ftl0 -d Nvme0n1 -c Cache0 -o --use_append --overprovisioning 30 --num-punits 4 --no-attach"
    more = "--limit crit:0,high:20 --limit low=80 --limit-threshold crit:1,high:2,low:3,start:4"
    conf = "--conf band_thld=80,verify_reads=off,nv_cache.max_request_cnt=64 --conf nv_cache.max_request_size:8"
    zones = "--zone-capacity 512 --optimal-open-zones 2 --listen-address 127.0.0.1:4420"
    uuid = "-u b286d19a-0059-4709-abcd-9f7732b1567d"
    hosts = f"--host {NQN}1 --host {NQN}2 --psk /p --secure-channel --target-psk /t"
    done = await world.rpc(*at(world, "bdev_ftl_create", *f"{options} {more} {conf} {zones} {uuid} {hosts}".split()))
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == world.answer
    assert world.calls == [
        (
            "bdev_ftl_create",
            {
                "name": "ftl0",
                "base_bdev": "Nvme0n1",
                "cache": "Cache0",
                "uuid": "b286d19a-0059-4709-abcd-9f7732b1567d",
                "allow_open_bands": True,
                "force": False,
                "if_absent": False,
                "load_or_create": False,
                "without_cache": False,
                "no_data": False,
                "use_append": True,
                "overprovisioning": 30,
                "num_punits": 4,
                "no_attach": True,
                "hosts": [f"{NQN}1", f"{NQN}2"],
                "psk": "/p",
                "secure_channel": True,
                "target_psk": "/t",
                "allow_any_host": False,
                "limit_crit": 0,
                "limit_high": 20,
                "limit_low": 80,
                "limit_crit_threshold": 1,
                "limit_high_threshold": 2,
                "limit_low_threshold": 3,
                "limit_start_threshold": 4,
                "conf": {
                    "band_thld": 80,
                    "verify_reads": False,
                    "nv_cache.max_request_cnt": 64,
                    "nv_cache.max_request_size": 8,
                },
                "zone_capacity": 512,
                "optimal_open_zones": 2,
                "listen_address": "127.0.0.1:4420",
                "target": str(tmp_path / "target"),
            },
        )
    ]
    assert world.target_calls == []


async def test_scripts_for_spdks_own_ftl_and_for_that_of_2020_are_taken(tmp_path: Path, world: World) -> None:
    target = {"target": str(tmp_path / "target")}
    uuid = "b286d19a-0059-4709-abcd-9f7732b1567d"
    spdks = "--l2p-dram-limit 512 --core-mask [0] -f"
    its = {"l2p_dram_limit": 512, "core_mask": "[0]", "fast_shutdown": True}
    for command, method, params in (
        (f"bdev_ftl_create -b f -d B {spdks}", "bdev_ftl_create", {"name": "f", "base_bdev": "B", **its}),
        ("construct_ftl_bdev -b f -d B -c C", "bdev_ftl_create", {"name": "f", "base_bdev": "B", "cache": "C"}),
        ("bdev_ftl_delete -b f -f", "bdev_ftl_delete", {"name": "f", "fast_shutdown": True}),
        ("delete_ftl_bdev -b f", "bdev_ftl_delete", {"name": "f"}),
        (
            f"bdev_ftl_load -b f -d B -u {uuid} -c C {spdks}",
            "bdev_ftl_load",
            {"name": "f", "base_bdev": "B", "uuid": uuid, "cache": "C", **its},
        ),
        ("bdev_ftl_unload -b f -f", "bdev_ftl_unload", {"name": "f", "fast_shutdown": True}),
        ("bdev_ftl_unmap -b f --lba 0 --num-blocks 7", "bdev_ftl_unmap", {"name": "f", "lba": 0, "num_blocks": 7}),
        (
            "bdev_ftl_set_property -b f -p band_thld -v 80",
            "bdev_ftl_set_property",
            {"name": "f", "ftl_property": "band_thld", "value": "80"},
        ),
    ):
        done = await world.rpc(*at(world, *command.split()))
        assert (done.code, done.err) == (0, ""), command
        called, sent = world.calls.pop()
        assert called == method
        assert sent.items() >= {**params, **target}.items()


async def test_hosts_are_added_removed_listed_and_any_of_them_allowed_or_not(tmp_path: Path, world: World) -> None:
    ftl = {"name": "ftl0", "target": str(tmp_path / "target")}
    for command, params in (
        (f"bdev_ftl_add_host -b ftl0 --host {NQN}", {"host": NQN}),
        (
            f"bdev_ftl_add_host -b ftl0 --host {NQN} --dhchap-key /k --dhchap-ctrlr-key /c --psk /p",
            {"host": NQN, "dhchap_key": "/k", "dhchap_ctrlr_key": "/c", "psk": "/p"},
        ),
        (f"bdev_ftl_remove_host -b ftl0 --host {NQN}", {"host": NQN}),
        ("bdev_ftl_allow_any_host -b ftl0 --allow-any-host", {"allow_any_host": True}),
        ("bdev_ftl_allow_any_host -b ftl0 --no-allow-any-host", {"allow_any_host": False}),
        ("bdev_ftl_add_listener -b ftl0 --listen-address 1.2.3.4", {"listen_address": "1.2.3.4"}),
        ("bdev_ftl_remove_listener -b ftl0 --listen-address 1.2.3.4:5", {"listen_address": "1.2.3.4:5"}),
        (
            "bdev_ftl_set_ana_state -b ftl0 --listen-address 1.2.3.4:5 --ana-state inaccessible",
            {"listen_address": "1.2.3.4:5", "ana_state": "inaccessible"},
        ),
        ("bdev_ftl_get_hosts -b ftl0", {}),
    ):
        done = await world.rpc(*at(world, *command.split()))
        assert (done.code, done.err) == (0, "")
        assert world.calls.pop() == (command.split()[0], {**ftl, **params})
    done = await world.rpc(*at(world, "bdev_ftl_allow_any_host", "-b", "ftl0"))
    assert done.code == 2
    assert "required: --allow-any-host" in done.err
    assert world.calls == []


async def test_a_relative_target_address_reaches_the_daemon_as_an_absolute_one(tmp_path: Path, world: World) -> None:
    done = await world.rpc("-s", "./target", "--plugin", "spdk_ftl_py", "bdev_ftl_create", "-b", "a", "-d", "b")
    assert done.code == 0
    assert world.calls[0][1]["target"] == str(tmp_path / "target")


async def test_a_deferred_creation_prints_the_daemons_line_as_it_is(world: World) -> None:
    world.answer = "FTL bdev: ftl0 creation deferred"
    done = await world.rpc(*at(world, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"))
    assert (done.code, done.out) == (0, "FTL bdev: ftl0 creation deferred\n")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ("-d x", 2, "required: -b/--name"),
        ("-b x", 2, "required: -d/--base-bdev"),
        ("-b x -d y --limit most:5", 2, "unknown limit 'most'; known: crit, high, low, start"),
        ("-b x -d y --limit-threshold most:5", 2, "unknown limit 'most'; known: crit, high, low, start"),
        ("-b x -d y --limit crit", 2, "not a whole number"),
        ("-b x -d y --limit crit:x", 2, "not a whole number"),
        ("-b x -d y --conf colour=5", 2, "unknown conf name 'colour'; known: invalid_thld"),
        ("-b x -d y --limit crit:101", 1, "limit_crit (--limit-crit) is 101: must be 0 to 100"),
        ("-b x -d y --limit crit:1 --limit-crit 2", 1, "limit_crit is given twice"),
        ("-b x -d y --limit crit:-1", 1, "limit_crit (--limit-crit) is -1: must be 0 to 100"),
        ("-b x -d y --conf verify_reads=maybe", 2, "verify_reads: 'maybe' is neither on nor off"),
        ("-b x -d y --conf nv_cache=5", 2, "unknown conf name 'nv_cache'; known: invalid_thld"),
        (
            "-b x -d y --conf nv_cache.max_request_size=257",
            1,
            "conf.nv_cache.max_request_size is 257: must be 1 to 256",
        ),
        ("-b x -d y --conf band_thld=-1", 1, "conf.band_thld is -1: must be 1 to 100"),
        ("-b x -d y --conf band_thld=5 --conf band_thld=6", 1, "conf band_thld is given twice: 5 and 6"),
        ("-b x -d y -u 123", 1, "must be a UUID such as"),
        ("-b x -d y --overprovisioning 100", 1, "must be 1 to 99"),
        ("-b x -d y --overprovisioning a", 2, "invalid int value: 'a'"),
        ("-b x -d y --conf band_thld=high", 1, "must be a whole number"),
        ("-b x/y -d y", 1, "1 to 63 letters"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    arguments: str, code: int, expected: str, world: World
) -> None:
    done = await world.rpc(*at(world, "bdev_ftl_create", *arguments.split()))
    assert done.code == code
    assert expected in done.out + done.err
    assert "Traceback" not in done.err
    assert world.calls == []


async def test_a_refusal_of_the_daemon_has_spdks_form_and_exit_code_1(world: World) -> None:
    world.answer = ExistsError("name ftl0: there is one")
    done = await world.rpc(*at(world, "bdev_ftl_create", "-b", "ftl0", "-d", "y"))
    assert (done.code, done.err) == (1, "")
    head, _, shown = done.out.partition("response:\n")
    assert head == "Got JSON-RPC error response\n"
    assert json.loads(shown) == {"code": -17, "message": "name ftl0: there is one"}


async def test_without_a_daemon_the_message_says_what_to_start(world: World) -> None:
    done = await world.rpc(*at(world, "bdev_ftl_get_stats", "-b", "ftl0"), daemon=False)
    assert done.code == 1
    assert "is not running" in done.out
    assert "start it with `spdk-ftl serve`" in done.out
    assert "Traceback" not in done.err


async def test_without_a_target_rpc_py_says_so(world: World) -> None:
    done = await world.rpc("-s", "/nowhere.sock", "--plugin", "spdk_ftl_py", "bdev_ftl_get_stats", "-b", "ftl0")
    assert done.code == 1
    assert "Is SPDK application running?" in done.out
    assert world.calls == []


@pytest.mark.parametrize("option", ["-v", "--verbose=DEBUG", "--verbose=ERROR", ""])
async def test_verbose_shows_our_requests_and_responses_as_those_of_the_target(option: str, world: World) -> None:
    arguments = [option] if option else []
    ours = await world.rpc(*at(world, *arguments, "bdev_ftl_add_host", "-b", "ftl0", "--host", NQN, "--psk", "/k"))
    theirs = await world.rpc("-s", str(world.folder / "target"), *arguments, "bdev_get_bdevs")
    assert (ours.code, theirs.code) == (0, 0)
    for done, method in ((ours, "bdev_ftl_add_host"), (theirs, "bdev_get_bdevs")):
        told = done.err
        if option in ("", "--verbose=ERROR"):
            assert told == ""
            continue
        assert told.index("INFO: Requests:\n{\n") < told.rindex(f'"method": "{method}"')
        assert told.rindex(f'"method": "{method}"') < told.index("INFO: response:\n{\n")
        assert ("DEBUG: " in told) == (option == "--verbose=DEBUG")
    if option == "-v":
        assert '"psk": "/k"' in ours.err
        world.answer = ExistsError("it is there, with DHHC-1:00:c2VjcmV0: as its key")
        failed = await world.rpc(*at(world, "-v", "bdev_ftl_delete", "-b", "ftl0"))
        assert failed.code == 1
        assert '"code": -17' in failed.err
        assert "DHHC-1:..." in failed.err
        assert "c2VjcmV0" not in failed.err


async def test_dry_run_shows_the_request_and_sends_nothing(tmp_path: Path, world: World) -> None:
    done = await world.rpc(*at(world, "--dry-run", "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"))
    assert (done.code, done.err) == (0, "")
    request = json.loads(done.out.removeprefix("Request:\n"))
    assert request["method"] == "bdev_ftl_create"
    assert request["params"] == {"name": "ftl0", "base_bdev": "Nvme0n1", "target": str(tmp_path / "target")}
    script = await world.rpc(*at(world, "--dry-run"), stdin="bdev_ftl_delete -b ftl0\n")
    assert script.code == 0
    assert '"bdev_ftl_delete"' in script.out
    assert (world.calls, world.target_calls) == ([], [])


async def test_a_script_on_stdin_goes_to_the_target_rpc_py_is_connected_to(tmp_path: Path, world: World) -> None:
    script = "# a comment\nbdev_get_bdevs\nbdev_ftl_delete -b ftl0\n"
    done = await world.rpc(*at(world), stdin=script)
    assert done.code == 0
    assert world.calls == [("bdev_ftl_delete", {"name": "ftl0", "target": str(tmp_path / "target"), "force": False})]
    assert [call["method"] for call in world.target_calls] == ["bdev_get_bdevs"]


async def test_server_mode_outlives_every_kind_of_failure(world: World) -> None:
    prefix = f"-s {world.folder / 'target'} --plugin spdk_ftl_py"
    lines = [
        f"{prefix} bdev_ftl_create -b ftl0 -d Nvme0n1",
        f"{prefix} bdev_ftl_create -b ftl0",
        f"{prefix} bdev_ftl_create -b ftl0 -d y -u 1",
        f"{prefix} bdev_ftl_create -b ftl0 -d y --limit most:1",
        f"{prefix} bdev_ftl_get_stats -b ftl0",
    ]
    done = await world.rpc("--server", stdin="\n".join(lines) + "\n")
    assert done.code == 0
    states = [line for line in done.out.splitlines() if line.startswith("**STATUS=")]
    assert states == ["**STATUS=0", "**STATUS=1", "**STATUS=1", "**STATUS=1", "**STATUS=0"]
    without = await world.rpc("--server", stdin="\n".join(lines[:1] * 2) + "\n", daemon=False)
    assert [line for line in without.out.splitlines() if line.startswith("**")] == ["**STATUS=1", "**STATUS=1"]


async def test_in_batch_mode_what_was_collected_before_is_sent_first(world: World) -> None:
    script = "bdev_get_bdevs\nbdev_ftl_create -b ftl0 -d M0\nspdk_get_version\n"
    done = await world.rpc(*at(world, "--batch-mode"), stdin=script)
    assert done.code == 0
    batches = [[call["method"] for call in batch] for batch in world.target_calls]
    assert batches == [["bdev_get_bdevs"], ["spdk_get_version"]]
    assert [name for name, _ in world.calls] == ["bdev_ftl_create"]
    order = [done.out.index(text) for text in ("did bdev_get_bdevs", '"ftl0"', "did spdk_get_version")]
    assert order == sorted(order)


async def test_in_batch_mode_a_failure_before_ours_stops_us(world: World) -> None:
    done = await world.rpc(*at(world, "--batch-mode"), stdin="bdev_malloc_delete M0\nbdev_ftl_create -b a -d M0\n")
    assert done.code == 1
    assert "No such device" in done.err
    assert world.calls == []


def test_importing_the_plugin_loads_nothing_heavy() -> None:
    heavy = ("numpy", "aiohttp", "asyncio", "jsonschema", "requests", "rich", "spdk_ftl_py._shim")
    code = f"import sys, spdk_ftl_py; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


async def test_a_checkout_needs_only_its_rpc_plugins_folder_on_the_path(tmp_path: Path, world: World) -> None:
    path = checkout(tmp_path)
    done = await world.rpc(*at(world, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"), path=path)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == world.answer
    assert [name for name, _ in world.calls] == ["bdev_ftl_create"]
    assert world.target_calls == []


@pytest.mark.parametrize("module", ["spdk_ftl_py", "ftltgt"])
def test_the_plugins_of_a_checkout_come_before_installed_ones(tmp_path: Path, module: str) -> None:
    # A program, as rpc.py is: with -c the working directory, and the package in it, would come first.
    program = tmp_path / "rpc.py"
    program.write_text(f"import inspect, {module} as m; print(inspect.getsourcefile(m.spdk_rpc_plugin_initialize))")
    done = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
        cwd=RPC_PLUGINS.parent,
        env={**os.environ, "PYTHONPATH": RPC_PLUGINS.name},
    )
    # Resolved: an editable install of this checkout comes before any path.
    assert Path(done.stdout.strip()).resolve().is_relative_to(RPC_PLUGINS.parent / "spdk_ftl_py")


@pytest.mark.parametrize("missing", [LIBRARIES, *[(name,) for name in LIBRARIES], ("jsonschema.protocols",)])
async def test_a_missing_library_is_one_line_and_nothing_is_sent(
    tmp_path: Path, missing: tuple[str, ...], world: World
) -> None:
    path = checkout(tmp_path, *missing)
    done = await world.rpc(*at(world, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"), path=path)
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert f"has no module {', '.join(missing)}: install with" in done.err
    assert "pip install 'jsonschema>=4' requests requests-unixsocket`" in done.err
    assert (world.calls, world.target_calls) == ([], [])


async def test_a_library_that_lacks_one_of_its_own_is_refused_by_the_name_of_that(tmp_path: Path, world: World) -> None:
    path = checkout(tmp_path, "urllib3")
    done = await world.rpc(*at(world, "bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1"), path=path)
    assert (done.code, done.out) == (1, "")
    assert "has no module urllib3: install with" in done.err


@pytest.mark.parametrize("method", PLUGIN_METHODS)
async def test_without_libraries_there_is_still_help(tmp_path: Path, method: str, world: World) -> None:
    path = checkout(tmp_path, *LIBRARIES)
    helped = await world.rpc("--plugin", "spdk_ftl_py", method, "--help", path=path)
    assert (helped.code, helped.err) == (0, "")
    assert schema.load(method).description.split(",")[0] in " ".join(helped.out.split())


@pytest.mark.parametrize("option", ["--dry-run", "--batch-mode"])
async def test_without_libraries_a_script_ends_at_our_command(tmp_path: Path, option: str, world: World) -> None:
    path = checkout(tmp_path, *LIBRARIES)
    script = "bdev_get_bdevs\nbdev_ftl_create -b ftl0 -d M0\nspdk_get_version\n"
    done = await world.rpc(*at(world, option), stdin=script, path=path)
    assert done.code == 1
    assert "has no module jsonschema" in done.err
    assert "Traceback" not in done.err
    assert "spdk_get_version" not in done.out
    assert (world.calls, world.target_calls) == ([], [])


async def test_without_libraries_server_mode_goes_on(tmp_path: Path, world: World) -> None:
    path = checkout(tmp_path, *LIBRARIES)
    prefix = f"-s {world.folder / 'target'} --plugin spdk_ftl_py"
    lines = f"{prefix} bdev_ftl_create -b ftl0 -d Nvme0n1\n{prefix} bdev_get_bdevs\n"
    done = await world.rpc("--server", stdin=lines, path=path)
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith("**")] == ["**STATUS=1", "**STATUS=0"]
    assert "has no module jsonschema" in done.err
    assert [call["method"] for call in world.target_calls] == ["bdev_get_bdevs"]


async def test_who_waited_in_vain_is_told_with_the_exit_code_of_a_failure(world: World) -> None:
    deferred = {"name": "ftl0", "uuid": "u", "state": "deferred", "waiting_for": "base bdev y does not exist yet"}
    for answer, code in ((deferred, 1), ({**deferred, "state": "online", "waiting_for": None}, 0)):
        world.answer = answer
        done = await world.rpc(*at(world, "bdev_ftl_create", "-b", "ftl0", "-d", "y", "--wait", "3"))
        assert done.code == code
        printed, end = json.JSONDecoder().raw_decode(done.out)
        assert printed == answer
        told = done.out[end:] + done.err
        assert ("FTL bdev ftl0: deferred after 3 s: base bdev y does not exist yet" in told) == (code == 1)
    assert world.calls[0][1]["wait"] == 3
