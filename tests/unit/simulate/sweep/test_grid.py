"""The points of a sweep, from what is given on a command line."""

from __future__ import annotations

import pytest

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.simulate.sweep.grid import Axis, axis, grid
from support.quick_work import SETTINGS


def test_each_combination_is_a_point_and_the_last_axis_changes_first() -> None:
    made = grid([axis("policy=greedy,sepbit"), axis("bands=256"), axis("reserved=10,20")], SETTINGS)
    assert len(made) == 4
    points = made.points()
    assert [(each["policy"], each["reserved"]) for each in points] == [
        ("greedy", 10), ("greedy", 20), ("sepbit", 10), ("sepbit", 20),
    ]  # fmt: skip
    assert all({**SETTINGS, **each} == each and each["bands"] == 256 for each in points)
    assert made.varying == ["policy", "reserved"]


def test_values_have_the_types_of_the_settings() -> None:
    axes = ["writes=10x,500", "shared=true,false", "fraction=1,2.5", r"workload=mix:a\,b,zipf:0.99", "reserved=5"]
    made = grid([axis(each) for each in axes], SETTINGS)
    assert list(made.axes.values()) == [["10x", "500"], [True, False], [1.0, 2.5], ["mix:a,b", "zipf:0.99"], [5]]
    assert axis("band-blocks=5") == Axis("band_blocks", ("5",))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reserved"], "must be NAME=VALUE,VALUE,…"),
        (["reserved="], "must be NAME="),
        (["reserved=1,,2"], "must be NAME="),
        (["=1"], "must be NAME="),
        (["a b=1"], "must be NAME="),
        (["reserved=5,5"], "has a value twice"),
        (["colour=5"], "'colour' can't be swept: use bands, policy, "),
        (["seed=1", "seed=2"], "seed is given twice: write all of its values after one seed="),
        (["reserved=x"], "reserved=x: must be a number"),
        (["reserved=1.5"], "reserved=1.5: must be a number"),
        (["fraction=nan"], "fraction=nan: must be a finite number"),
        (["shared=yes"], "shared=yes: must be true or false"),
        (["seed=" + ",".join(map(str, range(1001))), "bands=" + ",".join(map(str, range(1000)))], "1,001,000 points"),
    ],
)
def test_nonsense_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ParameterError) as refused:
        grid([axis(word) for word in words], SETTINGS)
    assert told in refused.value.message
