"""`spdk-ftl stats`: what matters first, and what happens now."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from spdk_ftl_py.cli import commands, stats_command
from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.cli.units import show_bytes, show_us
from spdk_ftl_py.errors import BusyError, NotFoundError

CLASSES = ("gone", "busy", "doubt", "command", "block", "zone", "mistake")
BOUNDS = [1 << power for power in range(25)]


def _words(line: str) -> list[str]:
    return line.split()


def latency(count: int, bound: int = 256) -> dict[str, Any]:
    """All of them between half the bound and the bound."""
    return {
        "count": count, "sum_us": 200.0 * count, "mean_us": 200.0, "p50_us": 210.0, "p90_us": 230.0, "p99_us": 1234.5,
        "p99_9_us": 250.0, "max_us": 2_500_000.0,
        "buckets": [[each, count if each >= bound else 0] for each in BOUNDS],
    }  # fmt: skip


STATS: dict[str, Any] = {
    "name": "ftl0", "uuid": "u", "state": "running", "free_bands": 60, "bands": {"free": 60, "open": 2}, "limit": "low",
    "user_share": 80, "host_read_blocks": 1 << 18, "host_written_blocks": 1 << 19, "host_trimmed_blocks": 0,
    "media_written_blocks": 3 << 18, "write_amplification": 1.5, "gc_moved_blocks": 256, "relocs_started": 7,
    "active_relocs": 1, "zone_resets": 1234, "lost_blocks": 0, "unreadable_blocks": 2, "reads_rescued": 0,
    "reads_repeated": 0, "zone_faults": 0, "spare_zones": 3, "nv_cache": {"write": {"blocks": 0}},
    "scrub": {"state": "waiting", "progress": None}, "reactor": {"busy_us": 25, "idle_us": 75},
    "throttled_ms": 1500,
    "user": {"read": {"ios": 1000, "blocks": 1 << 18}, "write": {"ios": 2_000_000, "blocks": 1 << 19}},
    "core": {
        "media_user_blocks": 1 << 19, "media_reloc_blocks": 256, "media_header_blocks": 100,
        "media_summary_blocks": 28, "throttled_ns": 1_500_000_000, "read_errors": 1, "crc_errors": 0,
        "write_errors": 0, "scrub_bad_blocks": 0,
    },
    "latency": {"read": latency(1000), "write": latency(2_000_000), "flush": latency(5), "trim": latency(0)},
    "host_errors": {kind: dict.fromkeys(CLASSES, 0) for kind in ("read", "write", "flush", "trim")},
    "host_io": {"gate": "open", "held": 0},
}  # fmt: skip


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*told: Any) -> None:
        left: Iterator[Any] = iter(told)

        def call(*_: object) -> Any:
            # As somebody who has seen enough.
            answer = next(left, KeyboardInterrupt())
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(commands.DaemonClient, "call", call)
        monkeypatch.setattr(stats_command.time, "sleep", lambda _: None)
        clock = iter(range(100))
        monkeypatch.setattr(stats_command.time, "monotonic", lambda: float(next(clock)))

    return use


def test_what_matters_stands_first_with_units(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers(STATS)
    assert cli.main(["stats", "ftl0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ftl0: running, 60 of 62 bands free, limit low (hosts may do 80 % of writes)"
    assert lines[3].split() == [
        "read",
        "1.00",
        "GiB",
        "1,000",
        "200",
        "us",
        "210",
        "us",
        "1.23",
        "ms",
        "250",
        "us",
        "2.50",
        "s",
        "0",
    ]
    assert lines[4].split()[:4] == ["write", "2.00", "GiB", "2,000,000"]
    assert lines[6].split() == ["trim", "0", "B", "0", "-", "-", "-", "-", "-", "0"]
    text = "\n".join(lines)
    assert "write amplification 1.50: hosts 2.00 GiB, relocation 1.00 MiB, metadata 512 KiB" in text
    assert "1.50 s  writes have waited for a limit" in text
    assert "25.0%  busy" in text
    assert "2 could not be read for hosts" in text
    assert max(map(len, lines[:7])) <= 80


def test_errors_are_told_by_kind_and_class(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stats = copy.deepcopy(STATS)
    stats["host_errors"]["flush"]["doubt"] = 3
    stats["host_io"]["held"] = 7
    answers(stats)
    cli.main(["stats", "ftl0"])
    shown = capsys.readouterr().out
    assert "errors: flush doubt 3" in shown
    assert "7 I/Os are held" in shown


def test_json_is_the_raw_answer(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers(STATS)
    assert cli.main(["stats", "ftl0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATS


def test_all_adds_every_counter(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers(STATS)
    assert cli.main(["stats", "ftl0", "--all"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ftl0: running")
    assert "core.media_header_blocks" in shown


def test_a_daemon_before_latencies_and_a_targets_own_ftl_are_shown_too(
    answers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ("latency", "host_errors", "host_io", "reactor")
    answers({key: value for key, value in STATS.items() if key not in new})
    assert cli.main(["stats", "ftl0"]) == 0
    assert "1.00 GiB" in capsys.readouterr().out
    answers({"name": "n0", "user": {"read": {"ios": 5}}})
    assert cli.main(["stats", "n0"]) == 0
    assert "user.read.ios" in capsys.readouterr().out


def after(stats: dict[str, Any]) -> dict[str, Any]:
    later = copy.deepcopy(stats)
    later["host_written_blocks"] += 25600
    later["user"]["write"] = {"ios": 2_000_500, "blocks": later["host_written_blocks"]}
    later["media_written_blocks"] += 51200
    later["gc_moved_blocks"] += 12800
    later["latency"]["write"] = latency(2_000_000 + 500)
    later["latency"]["write"]["buckets"] = [
        [bound, count + (500 if bound >= 1024 else 0) - (500 if bound >= 256 else 0)]
        for bound, count in later["latency"]["write"]["buckets"]
    ]
    later["host_errors"]["write"]["busy"] += 4
    return later


def test_watch_shows_rates(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers(STATS, after(STATS), after(STATS))
    assert cli.main(["stats", "ftl0", "--watch", "5"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["MiB/s", "r"]
    assert first.split() == ["0.0", "0", "-", "100.0", "500", "1.02", "ms", "2.00", "50.0", "60", "low", "4"]
    assert second.split() == ["0.0", "0", "-", "0.0", "0", "-", "-", "0.0", "60", "low", "0"]
    assert len(heading) <= 80
    assert len(first) <= 80


def test_watch_as_json_is_a_line_each_time(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answers(STATS, STATS)
    assert cli.main(["stats", "ftl0", "--watch", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [STATS, STATS]


@pytest.mark.parametrize("told", [{"name": "ftl0"}, {each: STATS[each] for each in STATS if each != "latency"}])
def test_watch_says_that_it_can_not_compare_what_has_no_latencies(
    told: dict[str, Any], answers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(told, told)
    assert cli.main(["stats", "ftl0", "--watch"]) == 1
    assert "older than this command: use --json" in capsys.readouterr().err


def test_watch_waits_with_an_ftl_and_ends_with_it(answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    again = {**after(STATS), "media_written_blocks": 0}
    answers(STATS, BusyError("ftl0 is waiting"), STATS, again, NotFoundError("ftl0: no such FTL"))
    assert cli.main(["stats", "ftl0", "--watch"]) == 1
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == "ftl0 is waiting"
    assert len(lines) == 3
    # It was loaded in between, and its counters began again.
    assert lines[2].split() == ["-"] * 8 + ["60", "low", "4"]
    assert "no such FTL" in told.err


@pytest.mark.parametrize("interval", ["0", "0.05", "x", "-1"])
def test_an_interval_that_can_not_be_is_wrong_usage(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["stats", "ftl0", "--watch", interval])
    assert ended.value.code == 2
    assert "--watch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 B"), (999, "999 B"), (1023, "1.00 KiB"), (1536, "1.50 KiB"), (1 << 40, "1.00 TiB"), (10**18, "888 PiB")],
)
def test_bytes(value: int, shown: str) -> None:
    assert show_bytes(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 us"), (0.4, "0 us"), (12.34, "12.3 us"), (999.9, "1.00 ms"), (61e6, "61.0 s")]
)
def test_times(value: float, shown: str) -> None:
    assert show_us(value) == shown
