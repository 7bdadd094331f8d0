"""`spdk-ftl`: help that teaches, exit codes, and commands that do not fall with each other."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import spdk_ftl_py
from spdk_ftl_py.cli import commands
from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.errors import FtlError

COMMANDS = [command for _, commands in cli._MODULES for command in commands]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")


def test_help_shows_every_command_and_how_it_goes_together() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", done.stdout)
    for text in ("nvmf_create_transport -t TCP", "--plugin spdk_ftl_py bdev_ftl_create", "exit codes", "SPDK_FTL_SOCK"):
        assert text in done.stdout
    assert "not available" not in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 8


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in ((), ("nonsense",), ("stats",), ("devices", "--colour")):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: spdk-ftl" in done.stderr


def test_a_failure_is_exit_code_1_with_one_line_on_stderr(tmp_path: Path) -> None:
    done = run("devices", "--socket", str(tmp_path / "nobody"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("spdk-ftl: spdk-ftl daemon at ")
    assert done.stderr.count("\n") == 1


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"spdk-ftl {spdk_ftl_py.__version__}\n"
    pyproject = Path(__file__).resolve().parents[3] / "pyproject.toml"
    assert f'version = "{spdk_ftl_py.__version__}"' in pyproject.read_text().splitlines()


def test_a_command_that_can_not_be_imported_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def without_target(name: str, package: str | None = None) -> object:
        if name == "spdk_ftl_py.target.command":
            raise ImportError("No module named 'something'")
        return real(name, package)

    monkeypatch.setattr(cli.importlib, "import_module", without_target)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert "not available: No module named 'something'" in capsys.readouterr().out
    assert cli.main(["target"]) == 1
    assert "No module named 'something'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--help"])
    assert ended.value.code == 0


def test_errors_and_interrupts_of_a_command_become_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for raised, code in ((FtlError("no"), 1), (KeyboardInterrupt(), 130)):

        def fail(_args: object, raised: BaseException = raised) -> int:
            raise raised

        monkeypatch.setattr("spdk_ftl_py.daemon.command.run", fail)
        assert cli.main(["serve"]) == code


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("demo", "--help")])
def test_output_that_nobody_takes_is_no_traceback(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "spdk_ftl_py.cli", *arguments]
    env = {**os.environ, "PYTHONUNBUFFERED": ""}  # set, argparse would swallow the error
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed, open("/dev/full", "w") as full:
        for stdout, said in ((closed, ""), (full, "No space left on device")):
            done = subprocess.run(
                command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd="/", env=env
            )
            assert done.returncode == 1
            assert done.stderr.count("\n") == (1 if said else 0)
            assert said in done.stderr


@pytest.mark.parametrize("arguments", [("create", "-b", "x", "-d", "y"), ("delete", "-b", "x"), ("check", "x")])
def test_an_empty_target_is_not_the_current_directory(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "-s", ""])
    assert ended.value.code == 2
    assert re.search(r"argument -s/--target\S*: an empty address", capsys.readouterr().err)


def test_a_missing_extension_is_a_failure_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_args: object) -> int:
        raise ImportError("cannot import name '_shim'")

    monkeypatch.setattr("spdk_ftl_py.daemon.command.run", fail)
    assert cli.main(["serve"]) == 1
    assert "spdk-ftl: serve: cannot import name '_shim'; is the package installed" in capsys.readouterr().err


def test_a_missing_openssl_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No wheel has it in it."""

    def fail(module: str) -> None:
        raise ImportError("libssl.so.3: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(importlib, "import_module", fail)
    assert cli.main(["serve"]) == 1
    assert "libssl.so.3: cannot open shared object file: No such file or directory; install OpenSSL 3" in (
        capsys.readouterr().err
    )


def test_tables_of_hosts_escape_what_strangers_chose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    hostile = "nqn.x:[red]\x1b[31m\n[/red]"
    io = {"read_blocks": 256, "write_blocks": 512, "errors": 3, "commands": 7}
    controller = {"hostnqn": hostile, "traddr": "::1", "trsvcid": "5", "age_s": 61.4, "num_io_qpairs": 2, **io}
    told: dict[str, Any] = {
        "allow_any_host": False,
        "hosts": [{"nqn": "nqn.t", "is_target": True}, {"nqn": hostile, "is_target": False}],
        "controllers": [controller],
        "refused": [{"hostnqn": hostile, "traddr": "10.0.0.9", "reason": hostile, "count": 5, "last": "then"}],
        "disconnected": [{**controller, "ended": "later", "reason": hostile}],
    }
    monkeypatch.setattr(commands.DaemonClient, "call", lambda *_: told)
    assert cli.main(["hosts", "ftl0"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count(r"nqn.x:[red]\x1b[31m\n[/red]") == 6
    for row in (
        ("nqn.t", "the SPDK target itself"),
        (r"[/red]", "[::1]:5", "2", "7", "1.0", "2.0", "3", "61"),
        (r"[/red]", "10.0.0.9", "5", "then"),
        (r"[/red]", "[::1]:5", "1.0", "2.0", "3", "later"),
    ):
        pattern = ".*".join(re.escape(cell) for cell in row)
        assert re.search(pattern, shown), row
    told |= {"hosts": [], "controllers": [], "refused": [], "disconnected": []}
    assert cli.main(["hosts", "ftl0"]) == 0
    assert capsys.readouterr().out == "no host may connect: spdk-ftl add-host -b ftl0 --host NQN\n"
    told["allow_any_host"] = True
    assert cli.main(["hosts", "ftl0"]) == 0
    assert capsys.readouterr().out == "any host may connect\n"


def test_tables_show_properties_one_by_one_and_cut_nothing_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    told = {"export": {"subnqn": "z" * 80}, "properties": [{"name": "num_punits", "value": 2}], "bands": [{"id": 0}]}
    commands.show_mapping(told, "ftl0", as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("z") == 80
    assert re.search(r"properties\.num_punits\s+│ 2 ", shown)
    assert re.search(r"bands\s+│ 1 entries", shown)


BUFFER = {"path": "/dev/shm/x.7.wbuf", "uuid": "b286d19a-0059-4709-abcd-9f7732b1567d", "bytes": 3 << 20}


def test_status_shows_write_buffers_that_no_ftl_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    daemon = {"pid": 5, "unneeded_buffers": [{**BUFFER, "held_blocks": 37, "held_records": None}]}
    monkeypatch.setattr(commands.DaemonClient, "call", lambda *_: dict(daemon))
    assert cli.main(["status"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"/dev/shm/x\.7\.wbuf +│ +3\.0 +│ +37 +│ +\? ", shown)
    assert "remove-buffers" in shown
    assert cli.main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == daemon
    monkeypatch.setattr(commands.DaemonClient, "call", lambda *_: {"pid": 5})  # a daemon of an older release
    assert cli.main(["status"]) == 0
    assert "remove-buffers" not in capsys.readouterr().out


def test_removing_write_buffers_says_what_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    called: list[tuple[str, object]] = []
    removed: list[dict[str, object]] = [{**BUFFER, "held_blocks": 0, "held_records": 0}]

    def call(_: object, method: str, params: object) -> object:
        called.append((method, params))
        return {"removed": removed}

    monkeypatch.setattr(commands.DaemonClient, "call", call)
    assert cli.main(["remove-buffers", str(BUFFER["uuid"]), "--force"]) == 0
    assert "/dev/shm/x.7.wbuf" in capsys.readouterr().out
    assert cli.main(["remove-buffers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": removed}
    removed.clear()
    assert cli.main(["remove-buffers"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert called == [
        ("ftl_remove_buffers", {"uuid": BUFFER["uuid"], "force": True}),
        ("ftl_remove_buffers", {}),
        ("ftl_remove_buffers", {}),
    ]
    with pytest.raises(SystemExit):
        cli.main(["remove-buffers", "all"])
    assert "argument UUID: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("stats", "ftl0"),
        ("properties", "ftl0"),
        ("hosts", "ftl0"),
        ("scrub", "ftl0", "--no-wait"),
        ("delete", "-b", "ftl0"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_take_a_name_say_on_which_target(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def call(_client: object, _method: str, params: Any) -> Any:
        asked.append(params)
        raise FtlError("enough")

    monkeypatch.setattr(commands.DaemonClient, "call", call)
    assert cli.main([*arguments, "-s", "/run/t.sock"]) in (1, 2)
    assert cli.main([*arguments]) in (1, 2)
    assert asked == [{"name": "ftl0", "target": "/run/t.sock"}, {"name": "ftl0"}]
    assert "enough" in capsys.readouterr().err


def test_a_creation_that_was_waited_for_in_vain_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer: dict[str, Any] = {"name": "ftl0", "uuid": "u", "state": "deferred", "waiting_for": "base bdev y is away"}
    monkeypatch.setattr(commands.DaemonClient, "call", lambda *_: answer)
    arguments = ["create", "-b", "ftl0", "-d", "y"]
    assert cli.main([*arguments, "--wait", "3"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out) == answer
    assert told.err.startswith("spdk-ftl: FTL bdev ftl0: deferred after 3 s: base bdev y is away; ")
    assert told.err.count("\n") == 1
    answer |= {"state": "online", "waiting_for": None}
    assert cli.main([*arguments, "--wait", "3"]) == 0
    assert capsys.readouterr().err == ""
