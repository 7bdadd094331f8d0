"""`spdk-ftl scrub`: what it waits for, prints, and exits with."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.cli import scrub_command
from spdk_ftl_py.errors import DaemonError, FtlError

FOUND = {
    "read_blocks": 900,
    "bad_blocks": 0,
    "bad_metadata": 0,
    "slow_bands": 0,
    "relocated_bands": 0,
    "unread_bands": 0,
}
LAST = {
    "round": 4,
    "ordered": True,
    "began": "2026-11-28T10:00:00+00:00",
    "ended": "2026-11-28T10:01:00+00:00",
    **FOUND,
}
RUNNING = {"state": "running", "progress": 0.25, "round": 4, "ordered": True, "last": {**LAST, "round": 3}}
DONE = {"state": "waiting", "progress": None, "last": LAST}

Answers = Callable[..., list[tuple[str, dict[str, Any]]]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Those of the daemon to bdev_ftl_get_stats, and ftl_get_devices, one after the other; the result is what it was
    asked."""
    monkeypatch.setattr(scrub_command, "POLL_S", 0.0)

    def use(*statuses: Any) -> list[tuple[str, dict[str, Any]]]:
        asked: list[tuple[str, dict[str, Any]]] = []
        left: Iterator[Any] = iter(statuses)

        def call(_self: object, method: str, params: dict[str, Any]) -> Any:
            asked.append((method, params))
            if method == "bdev_ftl_scrub":
                return {"name": params["name"], **RUNNING}
            status = next(left)
            if isinstance(status, Exception):
                raise status
            if method == "ftl_get_devices":
                assert isinstance(status, list)
                return status
            return status if "scrub" in status else {"state": "running", "scrub": status}

        monkeypatch.setattr(scrub_command.DaemonClient, "call", call)
        return asked

    return use


def test_it_waits_for_the_round_it_has_ordered(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    asked = answers(RUNNING, RUNNING, DONE)
    assert cli.main(["scrub", "ftl0"]) == 0
    assert [method for method, _ in asked] == ["bdev_ftl_scrub", *["bdev_ftl_get_stats"] * 3]
    shown = capsys.readouterr()
    assert "read_blocks" in shown.out
    assert "900" in shown.out
    assert shown.err == "", "no bar where nobody sees it"


@pytest.mark.parametrize("what", ["bad_blocks", "bad_metadata", "unread_bands"])
def test_bad_blocks_are_exit_code_1(answers: Answers, capsys: pytest.CaptureFixture[str], what: str) -> None:
    answers({**DONE, "last": {**LAST, what: 2}})
    assert cli.main(["scrub", "ftl0", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"name": "ftl0", **LAST, what: 2}


def test_slow_bands_are_none(answers: Answers) -> None:
    answers({**DONE, "last": {**LAST, "slow_bands": 1, "relocated_bands": 1}})
    assert cli.main(["scrub", "ftl0"]) == 0


@pytest.mark.parametrize("option", ["--no-wait", "--stop"])
def test_who_does_not_wait_gets_how_it_stands(
    answers: Answers, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    asked = answers()
    assert cli.main(["scrub", "ftl0", option, "--json"]) == 0
    assert asked == [("bdev_ftl_scrub", {"name": "ftl0", **({"stop": True} if option == "--stop" else {})})]
    assert json.loads(capsys.readouterr().out)["progress"] == 0.25


def test_a_device_that_waits_for_its_base_is_waited_for(answers: Answers) -> None:
    busy = FtlError("FTL bdev ftl0 is waiting; it has no statistics", errno=errno.EBUSY)
    waiting = [{"name": "ftl0", "state": "waiting", "error": "base bdev Nvme0n1: lost"}]
    lost = {"state": "failed", "scrub": RUNNING}
    answers(RUNNING, lost, waiting, busy, waiting, busy, waiting, RUNNING, DONE)
    assert cli.main(["scrub", "ftl0"]) == 0


@pytest.mark.parametrize(
    "stats",
    [
        {"state": "failed", "scrub": RUNNING},
        FtlError("FTL bdev ftl0 is failed: it has no statistics", errno=errno.EBUSY),
    ],
)
def test_a_device_that_has_failed_for_good_is_not_waited_for(
    answers: Answers, capsys: pytest.CaptureFixture[str], stats: dict[str, Any] | Exception
) -> None:
    answers(RUNNING, stats, [{"name": "ftl0", "state": "failed", "error": "the base is worn out"}])
    assert cli.main(["scrub", "ftl0"]) == 2
    assert "the FTL has failed: the base is worn out" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--no-wait", "--stop"])
def test_what_can_not_be_written_is_not_the_exit_code_of_bad_blocks(
    monkeypatch: pytest.MonkeyPatch, answers: Answers, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scrub_command, "_show", full)
    answers()
    assert cli.main(["scrub", "ftl0", option]) == 2
    assert "can't be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({**RUNNING, "ordered": False}, "no longer ordered"),
        ({**DONE, "last": None}, "no longer ordered"),
        (FtlError("FTL bdev ftl0: no such FTL", errno=errno.ENODEV), "no such FTL"),
        (DaemonError("the daemon broke off"), "broke off"),
    ],
)
def test_what_does_not_come_to_its_end_is_exit_code_2(
    answers: Answers, capsys: pytest.CaptureFixture[str], then: dict[str, Any] | Exception, told: str
) -> None:
    answers(RUNNING, then)
    assert cli.main(["scrub", "ftl0"]) == 2
    assert told in capsys.readouterr().err


def test_a_refusal_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise FtlError("FTL bdev ftl0 is deferred; it can't be scrubbed now", errno=errno.EBUSY)

    monkeypatch.setattr(scrub_command.DaemonClient, "call", refuse)
    assert cli.main(["scrub", "ftl0"]) == 2
    assert capsys.readouterr().err == "spdk-ftl: scrub ftl0: FTL bdev ftl0 is deferred; it can't be scrubbed now\n"


def test_an_interrupt_ends_the_waiting(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> None:
    answers(RUNNING, RUNNING)

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scrub_command.time, "sleep", interrupt)
    assert cli.main(["scrub", "ftl0"]) == 130
