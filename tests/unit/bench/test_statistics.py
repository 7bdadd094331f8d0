"""Medians, ranges, and what counts as a change."""

from __future__ import annotations

import pytest

from spdk_ftl_py.bench.compare import changes, lines_of_changes
from spdk_ftl_py.bench.rows import Goal, Row, row
from spdk_ftl_py.bench.statistics import Sample, ratios

NAME = "spdk_tgt/tcp/fresh/write-qd32"


def _row(*values: float, metric: str = "iops", name: str = NAME, raw: float = 100.0, goal: Goal | None = None) -> Row:
    ftl = Sample.of([value * raw for value in values])
    return row(name, metric, Sample.of([raw]), ftl, Sample.of(values), goal)


def test_the_median_and_the_range_of_repeats() -> None:
    sample = Sample.of([3.0, 1.0, 100.0])
    assert (sample.median, sample.low, sample.high, sample.count) == (3.0, 1.0, 100.0, 3)
    assert Sample.of([8.0, 10.0, 12.0]).spread == pytest.approx(0.2)
    assert Sample.of([0.0, 0.0]).spread == 0


def test_ratios_are_those_of_neighbours() -> None:
    # The machine was twice as fast in the second pair. The ratio of the medians would be 0.75.
    assert ratios([50, 100, 60], of=[100, 200, 120]).median == 0.5
    assert ratios([1.0], of=[0.0]).median == 0
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], of=[1.0])


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal(0.8), 0.8, True),
        (Goal(0.8), 0.79, False),
        (Goal(10, at_least=False), 10, True),
        (Goal(10, at_least=False), 10.1, False),
        (Goal(0.8), None, False),
    ],
)
def test_goals(goal: Goal, value: float | None, met: bool) -> None:
    assert goal.met(value) is met


def test_a_goal_that_was_not_measured_is_a_row_that_is_not_met() -> None:
    missing = row(NAME, "iops", None, None, None, Goal(0.8), why="no spdk_tgt")
    assert (missing.met, missing.goal, missing.why) == (False, ">= 0.8", "no spdk_tgt")


def test_repeats_that_overlap_have_not_moved() -> None:
    assert not list(changes([_row(0.8, 0.9, 1.0)], [_row(0.98, 1.1, 1.2)]))
    assert lines_of_changes([_row(0.8, 0.9, 1.0)], [_row(0.98, 1.1, 1.2)])[0].startswith("nothing has moved")


def test_repeats_that_are_apart_have_moved() -> None:
    (change,) = changes([_row(0.8, 0.9, 1.0)], [_row(1.1, 1.2, 1.3)])
    assert change.better
    assert change.ratio
    assert change.factor == pytest.approx(1.2 / 0.9)
    (change,) = changes([_row(1.1, 1.2, 1.3)], [_row(0.8, 0.9, 1.0)])
    assert not change.better
    assert str(change).startswith("WORSE")


def test_less_latency_is_better() -> None:
    (change,) = changes([_row(3.0, 3.1, metric="p99_us")], [_row(2.0, 2.1, metric="p99_us")])
    assert change.better


def test_tiny_changes_single_repeats_and_unknown_rows_are_left_out() -> None:
    assert not list(changes([_row(1.0, 1.001)], [_row(1.01, 1.011)]))
    assert not list(changes([_row(1.0)], [_row(2.0)]))
    assert not list(changes([], [_row(2.0, 2.1)]))


def test_without_a_ratio_the_value_of_the_ftl_is_compared() -> None:
    def daemon(*values: float) -> Row:
        return row(NAME, "cpu_us_daemon", None, Sample.of(values), None)

    (change,) = changes([daemon(2.0, 2.1, 2.2)], [daemon(1.0, 1.1, 1.2)])
    assert (change.before, change.now, change.ratio, change.better) == (2.1, 1.1, False, True)
