"""What bash and zsh complete, asked of the shells themselves."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spdk_ftl_py.cli import completion_command
from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.daemon.server import RpcServer
from spdk_ftl_py.usage import commands_of
from support.tools import need

SHARED = Path(__file__).resolve().parents[3] / "packaging" / "completion"


def printed(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def bash(capsys: pytest.CaptureFixture[str]) -> str:
    return printed("bash", capsys)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """spdk-ftl, as a command of the shell. Its log has a line for each call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "spdk-ftl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {sys.executable} -m spdk_ftl_py.cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SPDK_FTL_SOCK", str(tmp_path / "s"))
    return program


def completed(script: str, folder: Path, *words: str) -> set[str]:
    """Of the last of the words behind spdk-ftl, by bash."""
    typed = " ".join(map(shlex.quote, ("spdk-ftl", *words)))
    asked = f'COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _shtab_spdk_ftl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"compopt() {{ :; }}\n{script}\n{asked}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=folder,
    )
    assert done.stderr == ""
    return {line for line in done.stdout.splitlines() if line}


def test_commands_and_their_options_are_completed(bash: str, tmp_path: Path) -> None:
    assert {"serve", "create", "check", "completion", "list", "--help"} <= completed(bash, tmp_path, "") | completed(
        bash, tmp_path, "--"
    )
    assert completed(bash, tmp_path, "dev") == {"devices"}
    assert completed(bash, tmp_path, "serve", "--monitor-") == {"--monitor-socket", "--monitor-group"}
    assert "--zone-capacity" in completed(bash, tmp_path, "create", "--")
    # The spellings of SPDK with _ work, but nobody wants to see each option twice.
    assert not [word for word in completed(bash, tmp_path, "create", "--") if "_" in word]


def test_values_are_completed_where_they_are_known(bash: str, tmp_path: Path) -> None:
    (tmp_path / "drive.json").touch()
    (tmp_path / "drives").mkdir()
    assert completed(bash, tmp_path, "torture", "--cache", "") == {"none", "vss", "non-vss"}
    assert completed(bash, tmp_path, "completion", "z") == {"zsh"}
    assert completed(bash, tmp_path, "torture", "--json", "dr") == {"drive.json", "drives"}
    assert completed(bash, tmp_path, "create", "--psk", "drive.") == {"drive.json"}
    assert completed(bash, tmp_path, "serve", "--state-dir", "dr") == {"drives"}
    assert completed(bash, tmp_path, "torture", "--seed", "") == set()


def test_every_command_has_its_options(bash: str, tmp_path: Path) -> None:
    names = " ".join(command for _, commands in cli._MODULES for command in commands)
    asked = (
        f"for name in {names}; do COMP_WORDS=(spdk-ftl $name --h); COMP_CWORD=2; _shtab_spdk_ftl; "
        'echo "$name ${COMPREPLY[*]}"; done'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", f"compopt() {{ :; }}\n{bash}\n{asked}"], capture_output=True, text=True, check=True
    )
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(told) == set(names.split()) == set(commands_of(cli.build_parser()))
    assert [name for name, words in told.items() if "--help" not in words.split()] == []


@pytest.fixture
def daemon(tmp_path: Path) -> RpcServer:
    async def devices(_params: object) -> object:
        return [{"name": "ftl0"}, {"name": "ftl1"}, {"name": "a b$(touch oops)"}]

    return RpcServer(tmp_path / "s", {"ftl_get_devices": devices})


async def test_names_of_ftls_are_those_of_the_daemon(
    daemon: RpcServer, command: Path, bash: str, tmp_path: Path
) -> None:
    await daemon.start()
    try:
        assert await asyncio.to_thread(completed, bash, tmp_path, "stats", "ft") == {"ftl0", "ftl1"}
        assert await asyncio.to_thread(completed, bash, tmp_path, "delete", "-b", "ftl1") == {"ftl1"}
    finally:
        await daemon.close()
    assert not (tmp_path / "oops").exists()
    # Without a daemon there are none, and nothing is said.
    assert await asyncio.to_thread(completed, bash, tmp_path, "stats", "ft") == set()


async def test_zsh_completes_in_a_terminal(daemon: RpcServer, command: Path, tmp_path: Path) -> None:
    """As a user has it: from the file below share/zsh/site-functions, at a prompt."""
    driver = """
zmodload zsh/zpty
zpty shell zsh -f -i
say() { zpty -w shell "$1" }
hear() { zpty -r -m shell line "*$1*" && print -r -- "$line" }
say "PROMPT=; fpath=($1 \\$fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=999; setopt no_beep; echo 'is'-ready"
hear is-ready >/dev/null
zpty -n -w shell $'spdk-ftl serve --monitor-s\\t\\C-aecho got: \\n'
hear 'got: spdk-ftl serve --monitor-socket'
zpty -n -w shell $'spdk-ftl unloa\\t-b ftl1\\t\\C-aecho got: \\n'
hear 'got: spdk-ftl unload -b ftl1'
zpty -d shell
"""
    await daemon.start()
    try:
        need("zsh")
        done = await asyncio.to_thread(
            subprocess.run,
            ["zsh", "-f", "-c", driver, "driver", str(SHARED)],
            capture_output=True,
            text=True,
            timeout=90,
            cwd=tmp_path,
        )
    finally:
        await daemon.close()
    assert "got: spdk-ftl serve --monitor-socket" in done.stdout, done
    assert "got: spdk-ftl unload -b ftl1" in done.stdout, done
    assert "completion zsh\n" in (tmp_path / "calls").read_text()


def test_bash_completion_reads_the_installed_file(command: Path, tmp_path: Path) -> None:
    script = (SHARED / "spdk-ftl").read_text()
    assert completed(script, tmp_path, "dev") == {"devices"}
    assert (tmp_path / "calls").read_text() == "completion bash\n"


def test_the_script_of_zsh_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed("zsh", capsys)
    assert "#compdef spdk-ftl" in told
    need("zsh")
    subprocess.run(["zsh", "-f", "-n"], input=told, text=True, timeout=60, check=True)


def test_a_daemon_that_hangs_delays_no_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completion_command.ANSWER_TIMEOUT_S < 5
    monkeypatch.setattr(completion_command, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setenv("SPDK_FTL_SOCK", str(tmp_path / "s"))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        assert cli.main(["completion", "ftls"]) == 0
    assert capsys.readouterr().out == ""
