"""bench/scale.py: which sizes are measured, what is modelled from them, and what a row says."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spdk_ftl_py.errors import FtlError

BENCH = Path(__file__).resolve().parents[3] / "bench"
GIB = 1 << 30


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale_script", BENCH / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    return module


def point(size: float, *, gib_per_tb: float = 4, seconds_per_tb: float = 10) -> dict[str, Any]:
    """A load whose costs are 2 s, 1 GiB, and so much for each TB."""
    part = {
        "wall_s": 2 + seconds_per_tb * size,
        "cpu_s": size,
        "peak_bytes": GIB + gib_per_tb * GIB * size,
        "process_bytes": GIB + gib_per_tb * GIB * size,
        "stall_s": 0.005,
    }
    return {
        "size": size,
        "process_s": 3 + seconds_per_tb * size,
        "mapped": 1e8 * size,
        "on_media": 2e8 * size,
        "l2p_bytes": GIB * size,
        "halt_s": 1 + size,
        "dirty": part,
        "clean": part,
        "running": part,
        "turn": part,
        "trim": {"trim_s": size, "write_s": 0.001, "read_s": 0.001},
    }


def test_sizes_grow_while_the_next_one_fits_into_memory_and_time(
    scale: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "measured", lambda what, size, **how: point(size))

    def climbed(gibibytes: float, seconds: float) -> list[float]:
        ladder = scale.Ladder()
        limits = scale.Limits(gibibytes * GIB, time.monotonic() + seconds)
        ladder.climb("load", (0.5, 1, 2, 4, 8), limits, 0, lambda what: None)
        return [each["size"] for each in ladder.points]

    assert climbed(1000, 1000) == [0.5, 1, 2, 4, 8]
    # 4 TB take 17 GiB, and 30 % may be missing.
    assert climbed(20, 1000) == [0.5, 1, 2]
    assert climbed(23, 1000) == [0.5, 1, 2, 4]
    assert climbed(1000, 40) == [0.5, 1, 2]


def test_a_size_that_fails_ends_it_and_the_smaller_ones_count(
    scale: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(what: str, size: float, **how: Any) -> dict[str, Any]:
        if size == 2:
            raise FtlError("load 2: exit code -9")
        return point(size)

    monkeypatch.setattr(scale, "measured", measured)
    ladder = scale.Ladder()
    ladder.climb("load", (1, 2, 4), scale.Limits(1e15, time.monotonic() + 1e6), 0, lambda what: None)
    assert [each["size"] for each in ladder.points] == [1]
    assert ladder.failure is not None
    with pytest.raises(FtlError, match="exit code -9"):
        scale.Ladder().climb("load", (2, 4), scale.Limits(1e15, time.monotonic() + 1e6), 0, lambda what: None)


def test_what_was_not_measured_is_on_the_line_and_says_so(
    scale: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ladder = scale.Ladder([point(0.5), point(1), point(2)])
    rows = list(scale.load_rows(ladder))
    found = {(each.name, each.size): each for each in rows}
    dirty = found["dirty load", "16 TB"]
    assert (dirty.value, dirty.modelled, dirty.goal, dirty.met) == (pytest.approx(162), True, 15, False)
    assert found["dirty load", "1 TB"].value == 12
    assert not found["dirty load", "1 TB"].modelled
    # 1 GiB, and 3 more for each TB.
    assert found["dirty load, memory beside the L2P", "4 TB"].value == pytest.approx(13 * 1024)
    assert found["dirty load, CPU per block on media", "16 TB"].value == pytest.approx(1e6 / 2e8)
    assert found["dirty load, longest stall of the event loop", "16 TB"].value == pytest.approx(5)
    assert found["dirty load, longest stall of the event loop", "16 TB"].met
    scale.show(rows)
    told = capsys.readouterr().out
    assert "| what | 1 TB | 2 TB | 4 TB | 16 TB | at most | |" in told
    assert "| dirty load, s | 12 | 22 | ~42 | ~162 | 2 / 4 / 8 / 15 | not met |" in told
    json.dumps([vars(each) for each in rows])


def test_a_single_size_is_modelled_in_proportion(scale: ModuleType) -> None:
    ladder = scale.Ladder([point(0.5)])
    assert ladder.line(lambda each: each["dirty"]["wall_s"], lambda each: each["size"], 16) == 7 * 32


@pytest.mark.parametrize(
    ("value", "goal", "name", "met"),
    [(1, 2, "load", True), (3, 2, "load", False), (95, 90, "random writes", True), (5, 90, "random writes", False)],
)
def test_a_goal_is_met_or_not(value: float, goal: float, name: str, met: bool, scale: ModuleType) -> None:
    assert scale.row(name, "1 TB", value, "s", goal).met is met
    assert scale.row(name, "1 TB", value, "s", None).met is None


def test_wrong_usage_is_told_before_anything_is_measured(
    scale: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "measured", lambda *a, **k: pytest.fail("measured"))
    for arguments, told in (
        (["--only", "nothing"], "no measurement 'nothing'"),
        (["--only", "l2p", "--plot", "x.svg"], "needs the measurement load"),
        (["--memory", "0"], "must be above 0"),
    ):
        monkeypatch.setattr(sys, "argv", ["scale.py", *arguments])
        with pytest.raises(SystemExit):
            scale.main()
        assert told in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["scale.py", "--json", "/nowhere/x.json"])
    assert scale.main() == 1
    assert "/nowhere/x.json" in capsys.readouterr().err
