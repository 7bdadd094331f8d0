"""The crash machine itself: its model says what is wrong, its runs repeat, its command tells how to see a failure
again."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.ftl.check import CheckReport, check
from spdk_ftl_py.ftl.device import FtlDevice
from spdk_ftl_py.ftl.gc import spare_zones
from spdk_ftl_py.ftl.life import FtlState
from spdk_ftl_py.torture import fault, one_life, world
from spdk_ftl_py.torture import run as torture_run
from spdk_ftl_py.torture.content import GARBAGE, Content
from spdk_ftl_py.torture.fault import Injected
from spdk_ftl_py.torture.model import READ_ERROR, Model, Violation
from spdk_ftl_py.torture.options import Options
from spdk_ftl_py.torture.report import Report
from spdk_ftl_py.torture.result import WorldResult
from spdk_ftl_py.torture.run import run_torture, run_world
from spdk_ftl_py.torture.shape import Shape


def torture(**options: int | bool) -> dict[str, object]:
    report = Report()
    run_torture(Options(**options), report, lambda crashes, note: None)  # type: ignore[arg-type]
    assert report.values["violations"] == 0, (report.values["found"], report.values["replay"])
    return report.values


@pytest.mark.parametrize(
    "options",
    [
        {"chain": False},
        {"use_append": True},
        {"every": 3},
        {"faults": True},
        {"cache": "vss"},
        {"cache": "non-vss"},
        {"chain": True},
        {"chain": True, "faults": True, "cache": "non-vss"},
        {"chain": True, "use_append": True},
    ],
    ids=str,
)
def test_forty_crashes_break_no_promise(options: dict[str, int | bool]) -> None:
    values = torture(seed=20261122, crashes=40, **options)
    assert values["crashes"] == 40
    assert int(str(values["blocks_verified"])) > 0


@pytest.mark.parametrize("use_append", [False, True])
def test_the_same_seed_is_the_same_run(use_append: bool) -> None:
    options = Options(seed=4, use_append=use_append)
    first, second = (run_world(options, 1, 6) for _ in range(2))
    assert first == second
    assert first.digest != run_world(Options(seed=5, use_append=use_append), 1, 6).digest


def lose_a_zone(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> Injected:
    usable = [n for n, (_, state, _) in enumerate(media.zone_states()) if n > 1 and state != "read_only"]
    media.set_zone_state(rng.choice(usable), "read_only")
    return Injected.ZONE


@pytest.mark.parametrize("cache", ["none", "vss", "non-vss"])
def test_a_drive_that_loses_zone_after_zone_ends_read_only_and_breaks_no_promise(
    monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    for name, value in (("inject", lose_a_zone), ("FAULTS_PER_WORLD", 100), ("FAULTY_LIVES", 1.0)):
        monkeypatch.setattr(one_life, name, value)
    # Never emulated zones with append.
    result = run_world(Options(seed=7, cache=cache, use_append=True, faults=True), 0, 200)
    assert result.violations == []
    assert result.out_of_space == 1
    assert 0 < result.faults < 100


def test_drives_whose_blocks_rot_break_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROTTEN_LIVES", 1.0), ("FAULTS_PER_WORLD", 100), ("FAULTY_LIVES", 1.0)):
        monkeypatch.setattr(one_life, name, value)
    values = torture(seed=20261128, crashes=60, faults=True)
    assert int(str(values["rotten_blocks"])) > 20
    assert int(str(values["unreadable_blocks"])) > 20
    assert int(str(values["clean_halts"])) > 0


def test_a_zone_that_is_given_up_for_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_zones, "STRIKES_MAX", 1)
    # Failing writes and resets, and nothing else.
    for name, value in (("BUSY_LIVES", 0.0), ("ROTTEN_LIVES", 0.0), ("FAULTS_PER_WORLD", 100), ("FAULTY_LIVES", 1.0)):
        monkeypatch.setattr(one_life, name, value)
    monkeypatch.setattr(fault, "ZONE_EVENTS", 0.0)
    report = Report()
    run_torture(Options(seed=7, crashes=200, faults=True), report, lambda crashes, note: None)
    assert {each["kind"] for each in report.values["found"]} <= {"given_up", "read_only", "io_error"}
    assert report.values["violations"] > 0


def lose_cache_with_a_flush(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> Injected:
    media.inject_fault(op=_shim.Op.FLUSH, status=0x006, skip=rng.randint(0, 3), times=1, drops_cache=True)
    return Injected.DOUBT


@pytest.mark.parametrize("cache", ["none", "non-vss"])
def test_a_drive_that_loses_its_cache_with_a_flush_breaks_no_promise(
    monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    for name, value in (("inject", lose_cache_with_a_flush), ("FAULTS_PER_WORLD", 100), ("FAULTY_LIVES", 1.0)):
        monkeypatch.setattr(one_life, name, value)
    monkeypatch.setattr(one_life, "BUSY_LIVES", 0.0)
    result = run_world(Options(seed=11, cache=cache, faults=True), 0, 40)
    assert result.violations == []
    assert result.faults >= 20


def test_a_world_in_which_something_is_wrong_leaves_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FtlDevice] = []
    start = FtlDevice.start

    def noted(device: FtlDevice) -> None:
        made.append(device)
        start(device)

    def fail_all(media: _shim.EmulatedMedia, shape: Shape, rng: random.Random) -> Injected:
        media.inject_fault(op=_shim.Op.READ, status=0x281)
        return Injected.NOTHING

    for name, value in (("inject", fail_all), ("FAULTS_PER_WORLD", 100), ("FAULTY_LIVES", 1.0), ("BUSY_LIVES", 0.0)):
        monkeypatch.setattr(one_life, name, value)
    monkeypatch.setattr(FtlDevice, "start", noted)
    result = run_world(Options(seed=3, faults=True), 0, 20)
    assert result.violations
    assert {device.state for device in made} == {FtlState.HALTED}


def test_drives_are_busy_now_and_then() -> None:
    assert int(str(torture(seed=20261122, crashes=40, faults=True)["busy_answers"])) > 0


def written(model: Model, lba: int, *, durable: bool = False) -> int:
    change = model.submit(lba, 1, trim=False)
    model.acknowledge(lba, 1, change, durable=durable)
    return change


def trimmed(model: Model, lba: int, *, durable: bool = False) -> int:
    change = model.submit(lba, 1, trim=True)
    model.acknowledge(lba, 1, change, durable=durable)
    return change


def kinds_after_crash(model: Model, versions: list[int], *, forgetful: bool = True) -> list[str]:
    return [violation.kind for violation in model.check_restart(0, versions, forgetful=forgetful)]


def test_what_is_durable_must_be_there_or_something_newer() -> None:
    model = Model(1)
    old = written(model, 0, durable=True)
    durable = written(model, 0, durable=True)
    newer = written(model, 0)
    assert kinds_after_crash(model, [durable]) == kinds_after_crash(model, [newer]) == []
    assert kinds_after_crash(model, [old]) == ["older"]
    assert kinds_after_crash(model, [0]) == ["lost"]
    assert kinds_after_crash(model, [GARBAGE]) == ["garbage"]
    assert kinds_after_crash(model, [READ_ERROR]) == ["read_error"]


def test_with_a_cache_the_base_may_be_behind_but_not_behind_what_it_has_flushed() -> None:
    model = Model(2)

    def declared(*, on_base: bool) -> None:
        change = model.submit(0, 1, trim=False, uncorrectable=True)
        model.acknowledge(0, 1, change, durable=True, on_base=on_base)

    declared(on_base=True)
    assert [model.may_be_lost(lba, cached=True) for lba in range(2)] == [True, False]
    change = written(model, 0, durable=True)
    assert (model.may_be_lost(0, cached=True), model.may_be_lost(0, cached=False)) == (True, False)
    model.restart([change, 0], durable=True)
    assert model.may_be_lost(0, cached=True), "the base alone still has the older one"
    model.flushed(model.acknowledged())
    assert not model.may_be_lost(0, cached=True)
    declared(on_base=False)
    assert model.may_be_lost(0, cached=True)


def test_what_has_rotted_may_be_an_error_until_something_newer_is_due() -> None:
    model = Model(2)
    old = written(model, 0, durable=True)
    rotten = written(model, 0, durable=True)
    model.rot(0)
    assert kinds_after_crash(model, [READ_ERROR, 0]) == kinds_after_crash(model, [rotten, 0]) == []
    assert kinds_after_crash(model, [old, 0]) == ["older"], "an error is not what was there before"
    assert kinds_after_crash(model, [GARBAGE, READ_ERROR]) == ["garbage", "read_error"]
    assert model.forgotten([READ_ERROR, 0]) == []
    assert model.may_fail(0, model.floors(0, 2))
    assert not model.may_fail(1, model.floors(1, 1))
    newer = written(model, 0)
    assert not model.may_fail(0, model.floors(0, 2))
    assert model.forgotten([READ_ERROR, 0]) == [0], "that was acknowledged, and is gone"
    assert kinds_after_crash(model, [READ_ERROR, 0]) == [], "but was not durable"
    assert kinds_after_crash(model, [READ_ERROR, 0], forgetful=False) == ["read_error"]
    model.restart([READ_ERROR, 0], durable=True)
    assert kinds_after_crash(model, [newer, 0]) == ["resurrected"]
    assert model.may_fail(0, model.floors(0, 1))
    written(model, 0, durable=True)
    assert kinds_after_crash(model, [READ_ERROR, 0]) == ["read_error"]


def test_what_was_acknowledged_must_be_there_when_the_write_buffer_was_kept() -> None:
    model = Model(1)
    durable = written(model, 0, durable=True)
    acknowledged = written(model, 0)
    assert kinds_after_crash(model, [durable], forgetful=False) == ["older"]
    assert kinds_after_crash(model, [acknowledged], forgetful=False) == []


def test_what_was_acknowledged_and_is_gone_is_known() -> None:
    model = Model(3)
    durable, acknowledged = written(model, 0, durable=True), written(model, 0)
    unanswered = model.submit(1, 1, trim=False)
    trimmed(model, 2)
    assert model.forgotten([acknowledged, 0, 0]) == model.forgotten([acknowledged, unanswered, 0]) == []
    assert model.forgotten([durable, 0, 0]) == [0]


def test_what_was_trimmed_stays_trimmed() -> None:
    model = Model(1)
    old = written(model, 0, durable=True)
    trimmed(model, 0, durable=True)
    assert kinds_after_crash(model, [old]) == ["resurrected"]
    assert kinds_after_crash(model, [0]) == []


def test_what_was_gone_once_does_not_come_back() -> None:
    model = Model(1)
    durable = written(model, 0, durable=True)
    forgotten = written(model, 0)
    model.restart([durable], durable=True)
    assert kinds_after_crash(model, [forgotten]) == ["resurrected"]


def test_what_is_only_in_the_write_buffer_may_still_be_lost_with_power() -> None:
    model = Model(1)
    durable = written(model, 0, durable=True)
    acknowledged = written(model, 0)
    model.restart([acknowledged], durable=False)
    assert kinds_after_crash(model, [durable]) == []
    assert kinds_after_crash(model, [durable], forgetful=False) == ["older"]


def test_a_flush_covers_what_was_acknowledged_before_it() -> None:
    model = Model(2)
    covered = written(model, 0)
    before = model.acknowledged()
    written(model, 1)
    model.flushed(before)
    assert kinds_after_crash(model, [covered, 0]) == []
    assert kinds_after_crash(model, [0, 0]) == ["lost"]


def test_reads_do_not_go_back() -> None:
    model = Model(1)
    first = written(model, 0)
    second = model.submit(0, 1, trim=False)
    assert model.check_read(0, model.floors(0, 1), [first]) == []
    assert model.check_read(0, model.floors(0, 1), [second]) == []
    assert [violation.kind for violation in model.check_read(0, model.floors(0, 1), [first])] == ["older"]


def test_blocks_prove_what_they_are() -> None:
    content = Content(99)
    data = content.make(10, 3, 7)
    assert content.versions(10, data) == [7, 7, 7]
    assert content.versions(10, np.zeros((2, 4096), np.uint8)) == [0, 0]
    assert content.versions(11, data) == [GARBAGE] * 3
    assert Content(98).versions(10, data) == [GARBAGE] * 3
    torn = data.copy()
    torn[1, 2048:] = content.make(11, 1, 6)[0, 2048:]
    assert content.versions(10, torn) == [7, GARBAGE, 7]


def test_the_command_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.json"
    assert cli.main(["torture", "--seed", "3", "--crashes", "5", "--plain", "--json", str(path)]) == 0
    values = json.loads(path.read_text())
    assert (values["seed"], values["crashes"], values["violations"]) == (3, 5, 0)
    assert values["blocks_verified"] > 0
    assert sum(values["kinds"].values()) == 5
    assert "violations" in capsys.readouterr().out


def test_a_failure_says_how_to_see_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Model.check_restart

    def wrong(model: Model, lba: int, versions: list[int], *, forgetful: bool) -> list[Violation]:
        found = right(model, lba, versions, forgetful=forgetful)
        return found or ([Violation("lost", 7, f"change {model.change}")] if model.change > 900 else [])

    monkeypatch.setattr(Model, "check_restart", wrong)
    path = tmp_path / "t.json"
    assert cli.main(["torture", "--seed", "3", "--crashes", "60", "--plain", "--json", str(path)]) == 1
    first = json.loads(path.read_text())
    assert first["violations"] == 1
    replay = first["replay"].split()
    assert replay[:2] == ["spdk-ftl", "torture"]
    assert first["replay"] in capsys.readouterr().err
    assert cli.main([*replay[1:], "--plain", "--json", str(path)]) == 1
    assert json.loads(path.read_text())["found"] == first["found"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_world_in_order(number: signal.Signals) -> None:
    """Elsewhere than between two lives, I/O would be left in the drive, and told as a leak when Python ends."""
    told: list[int] = []

    def progress(crashes: int, _note: str) -> None:
        told.append(crashes)
        signal.raise_signal(number)

    handler = signal.getsignal(number)
    report = Report()
    with pytest.raises(KeyboardInterrupt):
        run_torture(Options(seed=3, crashes=60), report, progress)
    assert told[-1] <= report.values["crashes"] <= told[-1] + 1  # the last one may be one of a load
    assert report.values["blocks_verified"] > 0
    assert 1 <= len(told) <= 2  # the signal is seen when the loop next looks
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize("violations", [[], [Violation("lost", 7, "version 3")]])
def test_an_interrupted_run_says_what_it_has_done(
    violations: list[Violation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: Options, number: int, *_: Any) -> WorldResult:
        done = WorldResult(crashes=7, blocks_verified=1234, violations=list(violations))
        if number < 2:
            return WorldResult(crashes=20, blocks_verified=1000)
        raise torture_run.Interrupted(done)

    monkeypatch.setattr(torture_run, "run_world", interrupted)
    path = tmp_path / "t.json"
    code = cli.main(["torture", "--seed", "5", "--faults", "--crashes", "90", "--plain", "--json", str(path)])
    told = capsys.readouterr()
    assert json.loads(path.read_text())["crashes"] == 47
    if violations:  # which are what matters
        assert code == 1
        assert "to replay it: spdk-ftl torture --seed 5 --world 2 --crashes 20 --faults" in told.err
        return
    assert code == 130
    assert "interrupted after 47 crashes, 3,234 blocks verified: 0 violations" in told.out
    assert "the same from the beginning: spdk-ftl torture --seed 5 --crashes 90 --faults\n" in told.out


def test_a_report_that_can_not_be_written_is_told_before_the_first_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["torture", "--plain", "--json", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert (out, f"--json {tmp_path}: Is a directory" in err) == ("", True)


def test_what_the_checker_finds_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def damaged(*arguments: Any, **options: Any) -> CheckReport:
        report = await check(*arguments, **options)
        report.add("block 7")
        return report

    assert run_world(Options(seed=3), 0, 20).checks > 0
    monkeypatch.setattr(world, "check", damaged)
    result = run_world(Options(seed=3), 0, 20)
    assert result.violations[0] == Violation("damaged", -1, "the check: block 7")
    assert result.checks == 1


@pytest.mark.parametrize("wrong", [["--crashes", "0"], ["--every", "-1"], ["--seed", "x"], ["--cache", "tape"]])
def test_wrong_usage_of_torture_is_exit_code_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["torture", *wrong])
    assert ended.value.code == 2
