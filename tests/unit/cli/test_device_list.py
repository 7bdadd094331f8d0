"""`spdk-ftl devices`: a table that fits a terminal, and lines with whole values for programs."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from spdk_ftl_py.cli import commands
from spdk_ftl_py.cli import main as cli

LONG = "n" * 63
TARGET = "/var/tmp/" + "t" * 80 + ".sock"
DEVICE = {
    "name": "ftl0", "state": "online", "base_bdev": "Nvme0n1", "cache": None, "target": "/var/tmp/spdk.sock",
    "num_blocks": 100142, "num_bands": 62, "free_bands": 60, "error": None,
    "export": {"traddr": "127.0.0.1", "trsvcid": "37559"},
}  # fmt: skip
LINE = "ftl0\tonline\tNvme0n1\t-\t410181632\t60\t62\t127.0.0.1:37559\t/var/tmp/spdk.sock\t-"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(devices: list[dict[str, Any]], *, terminal: bool) -> list[str]:
        monkeypatch.setattr(commands.DaemonClient, "call", lambda *_: devices)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("NO_COLOR", "1")
        assert cli.main(["devices"]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_a_pipe_gets_one_line_of_whole_values_for_each(listed: Any) -> None:
    waiting = {**DEVICE, "name": LONG, "state": "waiting", "target": TARGET, "error": "it is\tgone\n", "cache": "C0"}
    deferred = {"name": "d", "state": "deferred", "base_bdev": "B", "target": "/t", "waiting_for": "its base"}
    lines = listed([DEVICE, waiting, deferred], terminal=False)
    assert lines[0] == LINE
    fields = [line.split("\t") for line in lines]
    assert [len(each) for each in fields] == [10, 10, 10]
    assert (fields[1][0], fields[1][3], fields[1][8], fields[1][9]) == (LONG, "C0", TARGET, r"it is\tgone\n")
    assert fields[2] == ["d", "deferred", "B", "-", "-", "-", "-", "-", "/t", "its base"]


def test_a_terminal_gets_a_table_of_80_columns(listed: Any) -> None:
    lines = listed([DEVICE, {**DEVICE, "name": "ftl1", "allow_any_host": True, "no_data": True}], terminal=True)
    assert lines[0] == "FTLs of the SPDK target at /var/tmp/spdk.sock"
    assert lines[1].split() == ["name", "state", "base", "size", "free", "bands", "export"]
    assert lines[2].split() == ["ftl0", "online", "Nvme0n1", "391", "MiB", "60/62", "127.0.0.1:37559"]
    assert "no data, any host" in lines[3]
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80


def test_long_names_and_reasons_fit_it_too(listed: Any) -> None:
    long = {**DEVICE, "name": LONG, "base_bdev": "b" * 200, "cache": "c" * 100, "error": "it is gone " * 20}
    lines = listed([DEVICE, long], terminal=True)
    assert max(map(len, lines)) <= 80
    assert "".join(line.strip() for line in lines).count("it is gone") > 10


def test_each_target_has_its_table(listed: Any) -> None:
    lines = listed([DEVICE, {**DEVICE, "target": "/b.sock"}, {**DEVICE, "name": "ftl1"}], terminal=True)
    assert [line for line in lines if line.startswith("FTLs of")] == [
        "FTLs of the SPDK target at /var/tmp/spdk.sock",
        "FTLs of the SPDK target at /b.sock",
    ]
    assert sum("ftl" in line for line in lines if not line.startswith("FTLs")) == 3


def test_addresses_are_shown_as_they_are_typed(listed: Any) -> None:
    device = {**DEVICE, "export": {"traddr": "::1", "trsvcid": "4420"}}
    assert "[::1]:4420" in listed([device], terminal=False)[0].split("\t")
    assert " [::1]:4420" in listed([device], terminal=True)[2]


def test_no_ftls_are_no_lines_for_programs(listed: Any) -> None:
    assert listed([], terminal=False) == []
    assert listed([], terminal=True) == ["the daemon has no FTLs"]
