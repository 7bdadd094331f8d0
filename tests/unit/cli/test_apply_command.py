"""`spdk-ftl apply`: what programs read where the daemon can't be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli import commands
from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.errors import FtlError

PLAN = '{"targets": [{"address": "/t.sock", "ftls": [{"name": "ftl0", "base": "Nvme0n1"}]}]}'


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--check"]])
def test_without_a_daemon_the_object_says_why(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(PLAN)
    arguments = ["apply", str(plan), "--socket", str(tmp_path / "nobody"), *options]
    assert cli.main(arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert "nobody" in line
    assert cli.main([*arguments, "--json"]) == 1
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert told.err == f"spdk-ftl: {document['error']}\n" == line + "\n"
    assert (document["changed"], document["failed"], document["dry_run"]) == (False, True, bool(options))
    assert document["steps"] == document["problems"] == document["ftls"] == document["extra"] == []


def test_a_daemon_that_goes_away_meanwhile_leaves_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    created: list[str] = []

    def call(_: object, method: str, params: Mapping[str, Any] | None = None) -> Any:
        if created:
            raise FtlError("the daemon is gone")
        if method == "bdev_ftl_create":
            created.append(method)
        return []

    monkeypatch.setattr(commands.DaemonClient, "call", call)
    plan = tmp_path / "plan.json"
    plan.write_text(PLAN)
    assert cli.main(["apply", str(plan), "--socket", "/nowhere", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["error"], document["changed"]) == ("the daemon is gone", True)
    assert [step["done"] for step in document["steps"]] == [True]
