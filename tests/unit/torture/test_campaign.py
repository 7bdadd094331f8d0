"""A campaign runs each world once, whoever dies of it and however often it is begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.torture import campaign as campaign_module
from spdk_ftl_py.torture import campaign_command, one_world
from spdk_ftl_py.torture.campaign import Campaign
from spdk_ftl_py.torture.options import Options
from spdk_ftl_py.torture.report import Report
from spdk_ftl_py.torture.run import run_world
from spdk_ftl_py.workers.giving import LOSSES_MAX
from spdk_ftl_py.workers.journal import Journal
from support.quick_work import SLOW_WORLD, VANISHES, WORLD, Killed, PlayedWorkers, world

NOTHING = {"elapsed_s", "crashes_per_s", "machine"}


def play(
    options: Options, path: Path | None, workers: PlayedWorkers | None = None, *, end_expected: bool = False
) -> dict[str, Any]:
    workers = workers or PlayedWorkers(world, 1, [])
    report = Report()
    campaign = Campaign(options, report, path)
    try:
        complete = campaign.complete
        campaign.run(workers, lambda crashes, note: None, lambda text: None)
        assert campaign.complete
        assert not complete or not workers.executed
    except Killed:
        assert end_expected
    except FtlError as error:
        if not end_expected or "times with its worker" not in error.message:
            raise
    finally:
        campaign.close()
    return {name: value for name, value in report.values.items() if name not in NOTHING}


@settings(deadline=None, max_examples=30)
@given(
    crashes=st.integers(1, 500),
    lives=st.lists(
        st.tuples(
            st.integers(1, 5),
            # No 0 modulo 5 three times in a row for the same world is likely, which would end it as a failure.
            st.lists(st.integers(0, 2000).filter(lambda choice: choice % 5 or choice % 4 == 0), max_size=60),
            st.integers(1, 30),
            st.binary(max_size=20),
        ),
        max_size=3,
    ),
    faults=st.booleans(),
)
def test_no_world_is_skipped_or_counted_twice_whoever_dies(
    tmp_path_factory: pytest.TempPathFactory,
    crashes: int,
    lives: list[tuple[int, list[int], int, bytes]],
    faults: bool,
) -> None:
    options = Options(seed=3, crashes=crashes, faults=faults)
    path = tmp_path_factory.getbasetemp() / "campaign"
    path.unlink(missing_ok=True)
    executed: set[int] = set()
    for capacity, script, end, torn in lives:
        workers = PlayedWorkers(world, capacity, script, end)
        before = finished(path)
        play(options, path, workers, end_expected=True)
        # What was finished is not run again.
        assert not before & set(workers.executed)
        executed |= set(workers.executed)
        if torn.strip(b"\n"):
            with path.open("ab") as file:
                file.write(torn.replace(b"\n", b""))
    values = play(options, path)
    assert finished(path) == set(range(values["worlds"]))
    assert executed <= finished(path)
    if "failed" not in {each["kind"] for each in values["found"]}:
        # Nothing tells it from a campaign in which all went well.
        assert values == play(options, None)
    assert values["crashes"] >= crashes


def finished(path: Path) -> set[int]:
    if not path.exists():
        return set()
    numbers: list[int] = []
    for line in path.read_bytes().splitlines()[2:]:
        try:
            records = json.loads(line[9:])
        except ValueError:
            continue  # torn
        numbers += [record["world"] for record in records if "world" in record]
    assert len(numbers) == len(set(numbers))
    return set(numbers)


def test_a_campaign_goes_on_with_more_crashes_but_not_with_other_options(tmp_path: Path) -> None:
    path = tmp_path / "c"
    play(Options(seed=3, crashes=100), path)
    workers = PlayedWorkers(world, 2, [])
    more = play(Options(seed=3, crashes=300), path, workers)
    assert more == play(Options(seed=3, crashes=300), None)
    assert min(workers.executed) >= 5
    with pytest.raises(FtlError, match=r"campaign .*/c was begun differently \(options.faults: false then, true now\)"):
        play(Options(seed=3, crashes=100, faults=True), path)


def test_another_package_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(Options(crashes=20), tmp_path / "c")
    monkeypatch.setattr(campaign_module, "identity", lambda: {"version": "9.9"})
    with pytest.raises(FtlError, match=r"was begun differently .*the same options with the same package"):
        play(Options(crashes=20), tmp_path / "c")


def test_worlds_that_raise_are_violations_and_the_campaign_counts_on() -> None:
    values = play(Options(seed=3, crashes=200, every=5), None)
    assert values["crashes"] >= 200
    found = [each for each in values["found"] if each["kind"] == "failed"]
    assert [each["world"] for each in found[:2]] == [1, 6]
    assert found[0]["detail"] == "world 1"
    assert values["replays"][0] == "spdk-ftl torture --seed 3 --world 1 --crashes 20 --every 5"
    assert len(values["replays"]) == len(found)


def test_a_world_that_is_lost_is_no_violation_and_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "c"
    options = Options(seed=3, crashes=60)
    workers = PlayedWorkers(world, 1, [VANISHES] * LOSSES_MAX)
    with pytest.raises(FtlError, match=r"^world 0: it was lost 10 times with its worker; the last time: gone: mend"):
        play(options, path, workers)
    assert finished(path) == set()
    assert play(options, path) == play(options, None)


def test_a_campaign_of_broken_code_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign_module, "VIOLATING_WORLDS_MAX", 4)
    values = play(Options(crashes=10_000, every=2), None)  # each other world raises
    assert (values["violations"], values["worlds"]) == (4, 8)


def test_a_world_comes_back_as_it_was() -> None:
    result = run_world(Options(seed=3, chain=False), 0, 1)
    values = one_world.run(one_world.argument(Options(seed=3, chain=False), 0, 1))
    assert json.loads(json.dumps(values)) == values
    back = one_world.from_dict(values)
    assert one_world.to_dict(back) == one_world.to_dict(result)
    assert (back.crashes, back.kinds, back.digest) == (result.crashes, result.kinds, result.digest)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_runs_a_campaign_and_finds_the_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With real worlds, in processes; a campaign of one world is what `--world 0` runs."""
    monkeypatch.setattr(campaign_module, "CRASHES_PER_WORLD", 1)
    words = ["torture", "--seed", "3", "--no-chain", "--crashes", "1", "--plain", "--json", str(tmp_path / "t.json")]
    words += ["--campaign", str(tmp_path / "c")]
    assert cli.main([*words, "--jobs", "1"]) == 0
    first = json.loads((tmp_path / "t.json").read_text())
    expected = run_world(Options(seed=3, chain=False), 0, 1)
    assert (first["crashes"], first["kinds"]) == (expected.crashes, dict(expected.kinds))
    capsys.readouterr()
    # It looks for no workers any more.
    monkeypatch.setattr(campaign_command, "chosen_workers", None)
    assert cli.main([*words, "--scheduler", "127.0.0.1:1"]) == 0
    again = json.loads((tmp_path / "t.json").read_text())
    assert again["digest"] == first["digest"]
    told = capsys.readouterr().out
    assert "1 worlds with 1 crashes are finished\nthe campaign is finished: no world is run\n" in told


def test_all_replay_commands_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign_command, "FUNCTION", WORLD)
    words = ["torture", "--seed", "3", "--faults", "--crashes", "900", "--plain", "--jobs", "2"]
    words += ["--campaign", str(tmp_path / "c")]
    assert cli.main(words) == 1
    told = capsys.readouterr().err
    values = play(Options(seed=3, crashes=900, faults=True), None)
    assert len(values["replays"]) > 2
    assert [line.partition("replay it: ")[2] for line in told.splitlines() if "replay it" in line] == values["replays"]
    assert f"{len(values['replays'])} violations in {len(values['replays'])} worlds\n" in told
    assert cli.main(words) == 1  # of a finished campaign, too


def test_kill_9_half_way_and_the_same_command_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is killed, with worlds in flight."""
    path = tmp_path / "c"
    program = (
        f"import sys; sys.path[:] = {[os.path.abspath(part) for part in sys.path]!r}; "
        "from spdk_ftl_py.cli import main; "
        "from spdk_ftl_py.torture import campaign_command; "
        f"campaign_command.FUNCTION = {SLOW_WORLD!r}; sys.exit(main.main(sys.argv[1:]))"
    )
    words = ["torture", "--seed", "3", "--crashes", "400", "--plain", "--jobs", "2"]
    words += ["--campaign", str(path), "--json", str(tmp_path / "t.json")]
    running = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not path.exists() or len(finished(path)) < 5:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = finished(path)
    monkeypatch.setattr(campaign_command, "FUNCTION", WORLD)
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert f"{len(before)} worlds with " in told
    assert "were given but not finished: given again" in told
    values = json.loads((tmp_path / "t.json").read_text())
    expected = play(Options(seed=3, crashes=400), None)
    assert {name: values[name] for name in expected if name != "found"} | {"found": []} == expected


def test_the_file_of_another_build_is_refused_before_its_worlds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with Journal(path, "campaign") as journal:
        journal.begin({"campaign": 0}, "")
        journal.append({"world": 0, "result": {"gone": 1}})
    with pytest.raises(FtlError, match="was begun differently"):
        play(Options(seed=3, crashes=20), path)
