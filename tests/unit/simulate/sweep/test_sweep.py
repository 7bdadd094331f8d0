"""A sweep as a user runs it, with points that take no time."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spdk_ftl_py.cli.main import main
from spdk_ftl_py.errors import BusyError, ConfError, ExistsError, FtlError
from spdk_ftl_py.simulate.engine import simulate
from spdk_ftl_py.simulate.spec import Spec
from spdk_ftl_py.simulate.sweep import needs as needs_module
from spdk_ftl_py.simulate.sweep.grid import axis, grid
from spdk_ftl_py.simulate.sweep.sweep import Sweep
from spdk_ftl_py.workers.identity import difference, identity
from support.quick_work import POINT, SETTINGS, Killed, PlayedWorkers, point, sweep

AXES = ["policy=greedy,sepbit", "reserved=10,20"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def play(path: Path | None, words: list[str], script: list[int], end: int | None = None) -> tuple[Sweep, list[int]]:
    made = Sweep(grid([axis(word) for word in words], SETTINGS), path, resume=True, function=POINT)
    workers = PlayedWorkers(point, 3, script, end)
    try:
        made.run(workers, lambda done: None, lambda text: None)
    except Killed:
        pass
    finally:
        made.close()
    return made, workers.executed


def test_a_sweep_writes_its_results_in_the_order_of_the_grid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, told = tmp_path / "r.csv", tmp_path / "s.json"
    assert sweep(["--sweep", *AXES, "--out", str(path), "--jobs", "2", "--json", str(told)]) == 0
    found = rows(path)
    assert [(each["policy"], each["reserved"]) for each in found] == [
        ("greedy", "10"), ("greedy", "20"), ("sepbit", "10"), ("sepbit", "20"),
    ]  # fmt: skip
    assert [each["bands"] for each in found] == ["1024"] * 4
    assert float(found[0]["write_amplification"]) == point({"policy": "greedy", "reserved": 10})["write_amplification"]
    values = json.loads(told.read_text())
    assert [each["result"]["wear"] for each in values["points"]] == [{"max": 3}] * 4
    assert values["axes"] == {"policy": ["greedy", "sepbit"], "reserved": [10, 20]}
    out, err = capsys.readouterr()
    assert "sepbit" in out
    assert err == ""
    assert "spec" not in "".join(found[0])
    # Again, it has nothing to do.
    before = path.read_bytes()
    assert sweep(["--sweep", *AXES, "--out", str(path), "--resume"]) == 0
    assert path.read_bytes() == before
    assert "4 of 4 points are finished" in capsys.readouterr().err
    # For scripts nothing else is on standard output.
    assert sweep(["--sweep", *AXES, "--out", str(path), "--resume", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == values["points"]


@pytest.mark.parametrize("end", range(0, 12, 3))
@pytest.mark.parametrize("torn", [b"", b"3f", b"00000000 {}\n"])
def test_what_is_finished_is_not_simulated_again(end: int, torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    first, _ = play(path, AXES, [1, 7, 2, 5, 8, 11, 3], end)
    with (tmp_path / "r.csv.journal").open("ab") as file:
        file.write(torn)
    second, again = play(path, AXES, [])
    assert second.restored == first.done
    assert bool(second.dropped) == bool(torn)
    assert Counter(again) == Counter({number for number in range(4) if number not in first._finished})
    assert second.rows() == play(None, AXES, [])[0].rows()


def test_a_point_that_fails_is_recorded_and_simulated_again_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--sweep", "policy=greedy,d_choices", "--out", str(tmp_path / "r.csv"), "--jobs", "1"]
    with pytest.raises(FtlError) as failed:
        sweep(words)
    assert failed.value.message.startswith(
        "1 of 2 points failed (--resume simulates them again); the first, policy=d_choices: "
        "ValueError: a policy that is broken ("
    )
    (good, bad) = rows(tmp_path / "r.csv")
    assert (good["error"], bad["write_amplification"]) == ("", "")
    assert bad["error"].startswith("ValueError: a policy that is broken")
    _, again = play(tmp_path / "r.csv", words[1:2], [])
    assert again == [1]


def test_another_grid_and_other_code_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.csv"
    play(path, AXES, [])
    with pytest.raises(FtlError) as refused:
        play(path, [AXES[0], "reserved=10,30"], [])
    assert "was begun differently (grid.axes.reserved: [10, 20] then, [10, 30] now): give another" in str(refused.value)
    right = needs_module.identity
    monkeypatch.setattr(needs_module, "identity", lambda more: {**right(more), "shim": "new"})
    with pytest.raises(FtlError, match=r'\(code\.shim: "[0-9a-f]{16}" then, "new" now\)'):
        play(path, AXES, [])


def test_a_policy_of_the_users_own_is_part_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "my_policy_of_a_sweep.py"
    module.write_text("from spdk_ftl_py import Policy\n\nclass Mine(Policy):\n    name = 'mine'\n")
    words = ["policy=my_policy_of_a_sweep:Mine,greedy,d_choices:d=5,d_choices:d=20"]
    play(tmp_path / "r.csv", words, [])
    play(tmp_path / "r.csv", words, [])
    module.write_text(module.read_text() + "# changed\n")
    with pytest.raises(FtlError, match=r"was begun differently \(code\.module my_policy_of_a_sweep: "):
        play(tmp_path / "r.csv", words, [])
    with pytest.raises(ConfError, match="no_such_module"):
        play(tmp_path / "s.csv", ["policy=no_such_module:Policy"], [])


def test_what_a_policy_of_the_users_own_inherits_from_is_part_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    base = tmp_path / "base_of_a_sweep.py"
    base.write_text("from spdk_ftl_py import Policy\n\nclass Base(Policy):\n    name = 'base'\n")
    (tmp_path / "leaf_of_a_sweep.py").write_text("import base_of_a_sweep as b\n\nclass Leaf(b.Base):\n    pass\n")
    info = tmp_path / "sweeps-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sweeps\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[spdk_ftl_py.policies]\nof_a_sweep = leaf_of_a_sweep:Leaf\n")
    found = play(tmp_path / "r.csv", ["policy=of_a_sweep"], [])[0].code
    here = {name: value for name, value in found.items() if name not in identity()}
    assert here.pop("entry point spdk_ftl_py.policies of_a_sweep") == "leaf_of_a_sweep:Leaf"
    assert set(here) == {"module base_of_a_sweep", "module leaf_of_a_sweep"}
    assert difference(found, identity(found)) == ""
    base.write_text(base.read_text() + "# changed\n")
    with pytest.raises(FtlError, match=r"was begun differently \(code\.module base_of_a_sweep: "):
        play(tmp_path / "r.csv", ["policy=of_a_sweep"], [])


def test_a_trace_that_has_changed_is_noticed(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("1,w,0,4096\n" * 9)
    words = [f"workload=uniform,trace:{trace}:repeat=forever", "reserved=10,20"]
    play(tmp_path / "r.csv", words, [], end=3)
    trace.touch()
    first, _ = play(tmp_path / "r.csv", words, [])
    assert first.restored
    trace.write_text(trace.read_text().replace("9", "8", 1))
    with pytest.raises(FtlError) as refused:
        play(tmp_path / "r.csv", words, [])
    told = refused.value.message
    assert told.startswith(f"trace {trace} is not the one that {tmp_path}/r.csv.journal was begun with (digest ")
    assert told.endswith(" now): restore the file as it was, or give another --out")


def test_a_trace_that_can_be_read_only_once_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "regular").open("w") as file:
        file.write("128166372003061629,hm,0,Write,8192,4096,1331\n")
        file.flush()
        for trace in (tmp_path / "fifo", "/dev/stdin", f"/dev/fd/{file.fileno()}", "/dev/null"):
            for words in ([f"workload=msr:{trace}"], ["seed=1,2", "--workload", f"msr:{trace}"]):
                with pytest.raises(SystemExit) as ended:
                    main(["simulate", "--sweep", *words, "--jobs", "1"])
                assert ended.value.code == 2
                told = f"argument --sweep: trace {trace}: each point of a sweep reads it again, in a process of its own"
                assert told in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("of last week")
    words = ["--sweep", *AXES, "--out", str(path)]
    with pytest.raises(ExistsError, match="exist: give another --out, or remove the file"):
        sweep(words)
    assert path.read_text() == "of last week"
    path.unlink()
    play(path, AXES, [], end=2)
    with pytest.raises(ExistsError, match=r"r\.csv\.journal is the journal of a sweep: --resume goes on with it"):
        sweep(words)
    with (
        pytest.raises(BusyError, match="in use by another process"),
        Sweep(grid([axis(word) for word in AXES], SETTINGS), path, resume=True, function=POINT)._journal,  # type: ignore[union-attr]
    ):
        sweep([*words, "--resume"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sweep", "colour=1"], "argument --sweep: 'colour' can't be swept: use bands, "),
        (["--sweep", "reserved"], "argument --sweep: 'reserved': must be NAME=VALUE"),
        (["--sweep", "seed=1", "--out", "r.xlsx"], "argument --out: 'r.xlsx': must end in .csv or .parquet"),
        (["--sweep", "seed=1", "--out", ""], "argument --out: an empty path"),
        (["--sweep", "seed=1", "--resume"], "--resume needs the --out of the sweep"),
        (["--sweep", "seed=1", "--jobs", "2", "--scheduler", "h:1"], "--jobs can't be used with --scheduler"),
        (["--sweep", "reserved=10,100"], "argument --sweep: reserved: 100: must be 1 to 99"),
        (["--sweep", "workload=uniform,tape"], "argument --sweep: workload: 'tape': must be one of uniform, seq"),
        (["--resume"], "--resume can only be used with --sweep"),
        (["--jobs", "1"], "--jobs can only be used with --sweep"),
        (["--sweep", "seed=1", "--jobs", "0"], "argument --jobs: 0: must be 1 to 1024"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        sweep(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_kill_9_half_way_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, started = tmp_path / "r.csv", tmp_path / "started"
    monkeypatch.setenv("SPDK_FTL_TEST_POINTS", str(started))
    program = (
        f"import sys; sys.path[:] = {[os.path.abspath(part) for part in sys.path]!r}; "
        "from support.quick_work import sweep; sys.exit(sweep(sys.argv[1:]))"
    )
    words = ["--sweep", "policy=greedy,sepbit", "reserved=10,20,30,40,50,60", "--out", str(path)]
    command = [sys.executable, "-c", program, *words, "--jobs", "2"]
    running = subprocess.Popen(command, env={**os.environ, "SPDK_FTL_TEST_STOP": "7"})

    def begun() -> int:
        return len(started.read_text().splitlines()) if started.exists() else 0

    deadline = time.monotonic() + 60
    # Two points are in flight: all others that have begun are finished.
    while begun() < 8 or len(finished(path)) < 6:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = finished(path)
    assert not path.exists()
    # Its processes may live a little longer, and begin one more.
    monkeypatch.setenv("SPDK_FTL_TEST_POINTS", str(tmp_path / "started again"))
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 12 points are finished" in done.stderr
    again = Counter((tmp_path / "started again").read_text().splitlines())
    assert len(again) == again.total() == 12 - len(before)
    found = rows(path)
    assert [each["reserved"] for each in found] == ["10", "20", "30", "40", "50", "60"] * 2
    assert all(each["write_amplification"] and not each["error"] for each in found)


def finished(path: Path) -> list[Any]:
    journal = path.with_name(f"{path.name}.journal")
    if not journal.exists():
        return []
    return re.findall(rb'"result":', journal.read_bytes())


def test_the_command_simulates_each_point_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.csv"
    given = "simulate --bands 64 --band-blocks 256 --writes 1x --jobs 1 --sweep"
    words = [*given.split(), "policy=greedy,d_choices:d=3", "shared=false,true", "--out", str(path)]
    assert main(words) == 0
    found = rows(path)
    assert [(each["policy"], each["shared"]) for each in found] == [
        ("greedy", "false"), ("greedy", "true"), ("d_choices:d=3", "false"), ("d_choices:d=3", "true"),
    ]  # fmt: skip
    for each in found[1::2]:
        alone = simulate(Spec(bands=64, band_blocks=256, writes="1x", policy=each["policy"], shared=True))
        assert float(each["write_amplification"]) == alone["write_amplification"]
        assert int(each["relocated"]) == alone["relocated"]
    capsys.readouterr()
    assert main([*words[:-2], "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 4
