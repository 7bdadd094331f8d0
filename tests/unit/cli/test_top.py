"""`spdk-ftl top`: what it shows, whatever the daemon answers, and what keys do. tests/e2e has it in a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.cli import top_command
from spdk_ftl_py.cli.top.samples import Ftl, Sample, Sampler, SampleThread
from spdk_ftl_py.cli.top.terminal import split_keys
from spdk_ftl_py.cli.top.view import ORDERS, View, count, detail, duration, latency, mib, ordered, ratio, screen
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.errors import BusyError, NoDaemonError
from spdk_ftl_py.rates import Rates

WIDTH, HEIGHT = 80, 24
HOSTILE = "nqn.\x1b[31m\x07" + "x" * 300


def rates(scale: float = 1.0) -> Rates:
    return Rates(2.0, 1e3 * scale, 4 * scale, 80 * scale, 900.0 * scale, 2e3 * scale, 8 * scale, 90.0, 1500.0,
                 20.0 * scale, 9.0, 2.5, 0.25)  # fmt: skip


def ftl(name: str, *, state: str = "online", scale: float = 1.0, free: int = 12, **more: Any) -> Ftl:
    device = {
        "uuid": f"uuid of {name}", "name": name, "state": state, "base_bdev": "Nvme0n1", "target": "/var/tmp/spdk.sock",
        "num_bands": 40000, "num_blocks": 1 << 31, "cache": None, "error": None, **more,
    }  # fmt: skip
    if state != "online":
        return Ftl(device)
    moves = [
        {"band": 39999 - i, "why": "endangered", "valid_blocks": 123456, "invalid_blocks": 1234567,
         "left_blocks": 999999, "age": 39999, "merit": 1234567.891}
        for i in range(9)
    ]  # fmt: skip
    stats = {
        "free_bands": free, "limit_free_bands": free, "active_relocs": 9, "limit": "high", "user_share": 5,
        "write_amplification": 3.25, "bands": {"free": free, "closed": 39000, "moving": 9, "open": 2, "mending": 1},
        "limits": {"crit": {"free_bands": 2, "user_share": 0}, "start": {"free_bands": 400, "user_share": 100}},
        "moves": moves,
    }  # fmt: skip
    controller = {"hostnqn": HOSTILE, "num_io_qpairs": 128, "commands": 12345678901, "age_s": 98765432.1}
    properties = {"cache": {"bdev": "Cache0", "state": "given_up", "failure": HOSTILE}}
    return Ftl(device, stats, rates(scale), properties, {"controllers": [controller] * 9})


def sample(*ftls: Ftl, error: str = "") -> Sample:
    return Sample(1.0, {"pid": 4194304, "uptime_s": 1e8}, ftls, error)


def text(lines: list[Any]) -> str:
    return "\n".join(line.plain for line in lines)


CASES = {
    "none": sample(),
    "before the first answer": Sample(),
    "no daemon": sample(ftl("ftl0"), error=f"{HOSTILE} is not running"),
    "one": sample(ftl("ftl0")),
    "many": sample(*(ftl(f"ftl{i}" + "-" * 60, scale=10.0**i) for i in range(20))),
    "waiting": sample(ftl("ftl0", state="deferred", waiting_for=HOSTILE), ftl("b", state="failed", error=HOSTILE)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (200, 60), (80, 5), (20, 3)])
def test_every_screen_fits_and_shows_no_control_characters(case: str, opened: bool, size: tuple[int, int]) -> None:
    shown = CASES[case]
    view = View(opened=shown.ftls[0].key if opened and shown.ftls else None)
    for view.help in (False, True):
        lines = screen(shown, view, width=size[0], height=size[1], interval_s=2)
        assert len(lines) == size[1]
        assert all(line.cell_len <= size[0] for line in lines)
        assert all(line.plain.isprintable() for line in lines)


def test_a_screen_of_80_by_24_cuts_nothing_of_an_ordinary_ftl() -> None:
    one = ftl("ftl0", free=120)
    for view in (View(), View(help=True)):
        assert "…" not in text(screen(sample(one), view, width=WIDTH, height=HEIGHT, interval_s=2))
    lines = detail(one, WIDTH)
    assert len(lines) < HEIGHT - 1
    assert "and 6 more" in text(lines)


def test_an_ftl_shows_its_numbers_with_units() -> None:
    shown = text(screen(sample(ftl("ftl0")), View(), width=WIDTH, height=HEIGHT, interval_s=2))
    rows = [line.split() for line in shown.splitlines()]
    assert ["1", ">ftl0", "online", "12", "2.50", "9", "moving", "R", "1.00k", "4.0", "80us", "900us"] in rows
    assert ["on", "Nvme0n1", "of", "40000", "high", "5%", "W", "2.00k", "8.0", "90us", "1.5ms"] in rows


def test_one_ftl_shows_what_relocation_does_and_why() -> None:
    shown = text(detail(ftl("ftl0"), WIDTH))
    assert "12 bands free: limit high, hosts get 5 % of writes, writes waited 25% of the time" in shown
    assert "crit at 2: 0 %, start at 400: 100 %" in shown
    assert "39999  endangered" in shown
    assert "39000 closed, 12 free, 9 moving" in shown
    assert "Cache0, given_up" in shown
    assert "9 connected" in shown


def test_the_screen_says_why_an_ftl_does_nothing_and_that_the_daemon_is_gone() -> None:
    waiting = ftl("ftl0", state="deferred", waiting_for="base bdev Nvme9n1 does not exist yet")
    assert "base bdev Nvme9n1" in text(screen(sample(waiting), View(), width=80, height=24, interval_s=1))
    gone = text(screen(sample(ftl("ftl0"), error="it is not running"), View(), width=80, height=24, interval_s=1))
    assert "the daemon does not answer" in gone
    assert "it is not running" in gone
    assert "ftl0" in gone


def test_more_ftls_than_fit_scroll_with_the_choice() -> None:
    many = sample(*(ftl(f"ftl{i:02}") for i in range(30)))
    for chosen in range(30):
        shown = text(screen(many, View(chosen=chosen), width=WIDTH, height=HEIGHT, interval_s=2))
        assert f">ftl{chosen:02}" in shown


def test_orders_put_first_what_is_greatest() -> None:
    busy, calm = ftl("a", scale=1, free=50), ftl("b", scale=0.1, free=3)
    off = ftl("c", state="waiting")
    first = {name: ordered([off, calm, busy], i)[0].name for i, name in enumerate(ORDERS)}
    assert first == {"name": "a", "IOPS": "a", "MiB/s": "a", "p99": "a", "WA": "a", "free": "b"}
    assert all(ordered([off, calm, busy], i)[2].name == "c" for i in range(len(ORDERS)))


def test_numbers_are_short() -> None:
    assert [count(each) for each in (0, 0.5, 9.96, 850, 999.6, 1000, 12345, 123456, 999999, 2.5e6, 1e9)] == [
        "0", "0.5", "10", "850", "1.00k", "1.00k", "12.3k", "123k", "1.00M", "2.50M", "1.00G",
    ]  # fmt: skip
    assert [latency(each) for each in (None, 0, 82.4, 999.9, 1234, 99_999, 999_999, 2.5e6)] == [
        "-", "0us", "82us", "1.0ms", "1.2ms", "100ms", "1.0s", "2.5s",
    ]  # fmt: skip
    assert [mib(each) for each in (None, 0.04, 12.34, 1234.5)] == ["-", "0.0", "12.3", "1234"]
    assert [ratio(each) for each in (None, 1, 12.345, 250.0)] == ["-", "1.00", "12.35", "250"]
    assert [duration(each) for each in (5, 65, 3660, 90000)] == ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]


def test_keys_are_told_apart() -> None:
    sent = b"q\x1b[A\x1bOB\r1\x1b\x1b[15~\x1b[1;5Ds?\x1b"
    assert list(split_keys(sent)) == ["q", "up", "down", "enter", "1", "escape", "s", "?", "escape"]


def test_keys_change_the_view() -> None:
    thread = SampleThread(Sampler(DaemonClient("/nowhere")), 1.0, lambda: None)
    thread.latest = sample(ftl("a"), ftl("b"), ftl("c"))
    view = View()
    expected = [
        ("down", 1, None), ("down", 2, None), ("down", 2, None), ("up", 1, None), ("enter", 1, "uuid of b"),
        ("down", 2, "uuid of c"), ("escape", 2, None), ("1", 0, "uuid of a"), ("9", 0, "uuid of a"), ("0", 0, None),
    ]  # fmt: skip
    for key, chosen, opened in expected:
        top_command._on_key(key, thread, view)
        assert (view.chosen, view.opened) == (chosen, opened), key
    for key in ("p", "s", "?"):
        top_command._on_key(key, thread, view)
    assert (view.paused, thread.paused, view.order, view.help) == (True, True, 1, True)


# --- the daemon


class Answers:
    """Of a daemon."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written = 0
        self.error: Exception | None = None
        monkeypatch.setattr(DaemonClient, "call", lambda _, method, params=None: self.call(method, params or {}))

    def call(self, method: str, params: dict[str, Any]) -> Any:
        if self.error is not None:
            raise self.error
        if method == "ftl_get_daemon":
            return {"pid": 1, "uptime_s": 1.0}
        if method == "ftl_get_devices":
            found = [ftl("ftl0").device, ftl("late", state="deferred").device]
            return [each for each in found if params.get("name") in (None, each["name"])]
        if params["name"] == "late":
            raise BusyError("it has no statistics")
        self.written += 100
        group = {"ios": self.written, "blocks": self.written}
        mine = {"uuid": "u", "user": {"read": group, "write": group}, "media_written_blocks": 3 * self.written}
        return {**(ftl("ftl0").stats or {}), **mine, "gc_moved_blocks": 0, "throttled_ms": 0}


def test_once_prints_one_measurement(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Answers(monkeypatch)
    assert cli.main(["top", "--once", "--interval", "0.1", "--socket", "/nowhere"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:2] == ["FTL", "STATE"]
    assert rows[1][:4] == ["ftl0", "online", "12", "3.00"]
    assert rows[3][:2] == ["late", "deferred"]


def test_json_has_what_the_daemon_answers_and_the_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Answers(monkeypatch)
    assert cli.main(["top", "ftl0", "--once", "--json", "--interval", "0.1", "--socket", "/nowhere"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (only,) = json.loads(line)["ftls"]
    assert only["device"]["name"] == "ftl0"
    assert only["stats"]["free_bands"] == 12
    assert only["rates"]["write_amplification"] == 3.0


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (["--once"], NoDaemonError("is not running"), "is not running"),
        (["ftl9", "--once"], None, "has no FTL bdev ftl9"),
        ([], None, "not a terminal: give --once"),
    ],
)
def test_what_prevents_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: Exception | None,
    told: str,
) -> None:
    Answers(monkeypatch).error = error
    assert cli.main(["top", *arguments, "--socket", "/nowhere"]) == 1
    assert told in capsys.readouterr().err


def test_what_was_known_stays_while_the_daemon_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch)
    sampler = Sampler(DaemonClient("/nowhere"))
    first = sampler.take(Sample())
    answers.error = NoDaemonError("is not running")
    gone = sampler.take(first)
    assert (gone.ftls, gone.error) == (first.ftls, "is not running")
    answers.error = None
    back = sampler.take(gone)
    assert back.error == ""
    assert back.ftls[0].rates is not None
