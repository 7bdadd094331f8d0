"""`spdk-ftl health`: what is wrong, by lines and exit code."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli import health_command
from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.cli.health import Health, of_ftl, worst
from spdk_ftl_py.errors import BusyError, NoDaemonError, NotFoundError

DEVICE = {
    "name": "ftl0", "uuid": "209910f4-c9a2-45e6-8d45-201775a170b5", "target": "/t.sock", "base_bdev": "Nvme0n1",
    "cache": None, "state": "online", "error": None, "num_bands": 62, "free_bands": 60, "host_io": "open",
}  # fmt: skip
NO_ERRORS = {"gone": 0, "busy": 0, "doubt": 0, "command": 0, "block": 0, "zone": 0, "mistake": 0}
STATS: dict[str, Any] = {
    "lost_blocks": 0, "unreadable_blocks": 0, "zone_faults": 0, "spare_zones": 0, "limit": "none",
    "limit_free_bands": 60, "host_io": {"gate": "open", "held": 0},
    "host_errors": dict.fromkeys(("read", "write", "flush", "trim"), NO_ERRORS),
}  # fmt: skip
DAEMON = {"version": "1", "pid": 5, "devices": 1, "unneeded_buffers": []}

Answers = Callable[..., list[tuple[str, dict[str, Any]]]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    def use(*ftls: tuple[dict[str, Any], Any], daemon: Any = DAEMON, properties: Any = None) -> list[Any]:
        asked: list[tuple[str, dict[str, Any]]] = []

        def call(_self: object, method: str, params: dict[str, Any] | None = None) -> Any:
            asked.append((method, params or {}))
            if method == "ftl_get_devices":
                return [device for device, _ in ftls]
            if method == "ftl_get_daemon":
                if isinstance(daemon, Exception):
                    raise daemon
                return daemon
            if method == "bdev_ftl_get_properties":
                return properties
            (stats,) = [stats for device, stats in ftls if device["name"] == (params or {})["name"]]
            if isinstance(stats, Exception):
                raise stats
            return stats

        monkeypatch.setattr(health_command.DaemonClient, "call", call)
        return asked

    return use


def test_all_is_well(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    asked = answers((DEVICE, STATS))
    assert cli.main(["health"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "healthy   daemon 1 (pid 5), 1 FTLs",
        "healthy   ftl0 online, 60 of 62 bands free, limit none",
    ]
    assert asked[-1] == ("bdev_ftl_get_stats", {"name": "ftl0", "target": "/t.sock", "engine": "daemon"})


@pytest.mark.parametrize(
    ("device", "stats", "health", "told"),
    [
        ({"state": "failed", "error": "it broke"}, None, Health.FAILED, "it broke.*spdk-ftl load -b ftl0 -d Nvme0n1"),
        ({"state": "read_only", "error": "full"}, {}, Health.FAILED, "read-only.*full.*another drive"),
        (
            {"state": "waiting", "waiting_for": "Nvme0n1", "error": "lost", "host_io": "holding"}, None,
            Health.DEGRADED, r"waits for Nvme0n1 \(lost\): bring base bdev Nvme0n1 and the target at /t.sock back",
        ),
        (
            {"state": "waiting", "waiting_for": "Nvme0n1", "error": "lost", "host_io": "failing"}, None,
            Health.FAILED, "I/O of hosts fails",
        ),
        ({"state": "deferred", "waiting_for": "its base"}, None, Health.DEGRADED, "waits for its base"),
        ({"state": "creating", "progress": "reading 5%"}, None, Health.DEGRADED, "reading 5%"),
        ({"state": "deleting"}, None, Health.DEGRADED, "being deleted"),
        ({"error": "not attached: no room"}, {}, Health.DEGRADED, "not attached: no room"),
        ({}, {"lost_blocks": 7}, Health.FAILED, "7 blocks.*backup"),
        ({}, {"unreadable_blocks": 7}, Health.DEGRADED, "7 blocks could not be read.*spdk-ftl scrub"),
        ({}, {"host_errors": {"flush": {**NO_ERRORS, "doubt": 2}}}, Health.DEGRADED, "2 flushes"),
        ({}, {"zone_faults": 3}, Health.DEGRADED, "3 zones.*no spare zone"),
        ({}, {"limit": "crit", "limit_free_bands": 1}, Health.DEGRADED, "only 1 bands are free"),
        ({}, {"host_io": {"gate": "holding", "held": 9}}, Health.DEGRADED, "9 I/Os of hosts wait"),
        ({"dependents": {"failed": [{"method": "bdev_lvol_create", "error": "no"}]}}, {}, Health.DEGRADED, "bdev_lvol"),
    ],
)  # fmt: skip
def test_each_trouble_has_its_line_and_code(
    device: dict[str, Any],
    stats: dict[str, Any] | None,
    health: Health,
    told: str,
    answers: Answers,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(({**DEVICE, **device}, BusyError("not loaded") if stats is None else {**STATS, **stats}))
    assert cli.main(["health", "ftl0"]) == health
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{health!s:8}  ftl0 ")
    assert re.search(told, line), line


@pytest.mark.parametrize(
    "stats",
    [
        {"zone_faults": 3, "spare_zones": 2},
        {"host_errors": {"flush": {**NO_ERRORS, "gone": 5, "busy": 5, "mistake": 5}}},
        {"limit": "high"},
    ],
)
def test_what_the_ftl_copes_with_is_healthy(stats: dict[str, Any]) -> None:
    assert of_ftl(DEVICE, {**STATS, **stats}) == []


def test_a_cache_that_has_failed_is_told(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    cache = {"bdev": "Cache0", "state": "given_up", "failure": "Write Fault"}
    answers(({**DEVICE, "cache": "Cache0"}, STATS), properties={"cache": cache})
    assert cli.main(["health"]) == 3
    assert "Cache0 has failed (Write Fault)" in capsys.readouterr().out


def test_the_worst_line_is_the_exit_code(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    second = {**DEVICE, "name": "ftl1"}
    answers((DEVICE, {**STATS, "limit": "crit"}), (second, {**STATS, "lost_blocks": 1, "limit": "crit"}))
    assert cli.main(["health", "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["health"] == "failed"
    assert [each["health"] for each in told["ftls"]] == ["degraded", "failed"]
    assert told["daemon"] == {"health": "healthy", "problems": []}
    assert [each["health"] for each in told["ftls"][1]["problems"]] == ["failed", "degraded"]
    assert all(each["what"] and each["remedy"] for each in told["ftls"][1]["problems"])


def test_buffers_with_acknowledged_writes_degrade_the_daemon(
    answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    buffers = [{"uuid": "u1", "held_blocks": 5, "held_records": 0}, {"uuid": "u2", "held_blocks": 0, "held_records": 0}]
    answers(daemon={**DAEMON, "unneeded_buffers": buffers})
    assert cli.main(["health"]) == 3
    told = capsys.readouterr().out
    assert "1 write buffer files" in told
    assert "u1" in told
    assert "u2" not in told


def test_an_ftl_that_is_deleted_meanwhile_is_no_failure(answers: Answers) -> None:
    answers((DEVICE, NotFoundError("gone")))
    assert cli.main(["health"]) == 0


def test_a_daemon_that_cannot_be_asked_is_code_1(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers(daemon=NoDaemonError("no daemon there"))
    assert cli.main(["health"]) == 1
    assert "no daemon there" in capsys.readouterr().err


def test_a_daemon_that_hangs_is_code_1_before_the_check_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert health_command.ANSWER_TIMEOUT_S < 10
    monkeypatch.setattr(health_command, "ANSWER_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        assert cli.main(["health", "--socket", str(tmp_path / "s")]) == 1
    assert "no reply within 0.1 s" in capsys.readouterr().err


def test_names_of_strangers_do_not_reach_the_terminal(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers(({**DEVICE, "error": "\x1b[2J"}, STATS))
    cli.main(["health"])
    assert "\x1b" not in capsys.readouterr().out


def test_no_problem_is_healthy() -> None:
    assert worst([]) is Health.HEALTHY
