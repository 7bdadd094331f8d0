"""What bash completes, asked of bash itself."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from spdk_ftl_py.cli import main as cli


@pytest.fixture(scope="module")
def script() -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["completion", "bash"]) == 0
    return out.getvalue()


def completed(script: str, folder: Path, *words: str) -> set[str]:
    """Of the last of the words behind spdk-ftl."""
    typed = " ".join(map(shlex.quote, ("spdk-ftl", *words)))
    asked = f'COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _spdk_ftl; printf "%s\\n" "${{COMPREPLY[@]}}"'
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


def test_commands_and_their_options_are_completed(script: str, tmp_path: Path) -> None:
    assert {"serve", "create", "check", "completion", "--help"} <= completed(script, tmp_path, "")
    assert completed(script, tmp_path, "dev") == {"devices"}
    assert completed(script, tmp_path, "serve", "--monitor-") == {"--monitor-socket", "--monitor-group"}
    assert "--zone-capacity" in completed(script, tmp_path, "create", "--")
    assert completed(script, tmp_path, "nonsense", "--") == set()


def test_values_are_completed_where_they_are_known(script: str, tmp_path: Path) -> None:
    (tmp_path / "drive.json").touch()
    assert completed(script, tmp_path, "torture", "--cache", "") == {"none", "vss", "non-vss"}
    assert completed(script, tmp_path, "completion", "z") == {"zsh"}
    assert completed(script, tmp_path, "torture", "--json", "dr") == {"drive.json"}
    assert completed(script, tmp_path, "create", "--psk", "dr") == {"drive.json"}
    assert completed(script, tmp_path, "torture", "--seed", "") == set()


def test_every_command_has_its_options(script: str, tmp_path: Path) -> None:
    for name in (command for _, commands in cli._MODULES for command in commands):
        assert "--help" in completed(script, tmp_path, name, "--h"), name


def test_the_script_of_zsh_is_one(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "zsh"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("autoload -Uz bashcompinit && bashcompinit\n")
    assert told.endswith(script)
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-f", "-n"], input=told, text=True, timeout=60, check=True)
