"""`spdk-ftl save-config` and `load-config`: what they ask for, and the file, which is whole or as it was."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli import commands
from spdk_ftl_py.cli import main as cli

SECTION = [{"method": "ftl_create_bdev", "params": {"name": "ftl0"}}]
DOCUMENT = {"subsystems": [{"subsystem": "bdev", "config": None}, {"subsystem": "ftl", "config": SECTION}]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Of the daemon, which answers with a document."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def call(_: object, method: str, params: dict[str, Any]) -> Any:
        calls.append((method, params))
        return DOCUMENT

    monkeypatch.setattr(commands.DaemonClient, "call", call)
    return calls


def run(*arguments: str) -> int:
    return cli.main([*arguments, "--socket", "/nowhere"])


def test_it_is_printed(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("save-config", "-s", "t.sock") == 0
    assert capsys.readouterr().out == json.dumps(DOCUMENT, indent=2) + "\n"
    assert asked == [("ftl_save_config", {"target": str(Path("t.sock").absolute())})]


def test_a_file_is_of_its_owner_alone_and_replaced_as_a_whole(
    asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "saved.json"
    path.write_text("before")
    path.chmod(0o644)
    before = path.stat().st_ino
    assert run("save-config", "-o", str(path)) == 0
    assert json.loads(path.read_text()) == DOCUMENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_ino != before
    assert [each.name for each in tmp_path.iterdir()] == ["saved.json"]
    assert capsys.readouterr().out == ""
    assert asked == [("ftl_save_config", {})]


def test_a_file_that_can_not_be_written_stays_as_it_was(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "saved.json"
    path.write_text("before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run("save-config", "-o", str(path)) == 1
    assert capsys.readouterr().err == f"spdk-ftl: {path} can't be written: No space left on device\n"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("saved.json", "before")]
    assert run("save-config", "-o", str(tmp_path / "no" / "saved.json")) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_the_section_of_a_file_is_loaded(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(DOCUMENT))
    assert run("load-config", str(path), "-s", "/t.sock") == 0
    assert asked == [("ftl_load_config", {"config": SECTION, "target": "/t.sock"})]
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_a_file_without_a_section_says_so(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps({"subsystems": DOCUMENT["subsystems"][:1]}))
    assert run("load-config", str(path)) == 0
    assert asked == [("ftl_load_config", {"config": []})]
    told = f'configuration {path} has no section "ftl", so there is nothing to load: save one with spdk-ftl save-config'
    assert capsys.readouterr().err == f"spdk-ftl: {told}\n"
    path.write_text(json.dumps(DOCUMENT))
    assert run("load-config", str(path)) == 0
    assert capsys.readouterr().err == ""


def test_a_file_that_is_none_asks_nobody(asked: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved.json"
    assert run("load-config", str(path)) == 1
    assert capsys.readouterr().err == f"spdk-ftl: configuration {path}: No such file or directory\n"
    path.write_text("{")
    assert run("load-config", str(path)) == 1
    assert f"configuration {path} is not JSON" in capsys.readouterr().err
    assert asked == []
