"""What each of the policies chooses, and where SepBIT puts blocks."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py.conf import DEFAULT_RELOC_POLICY, RELOC_POLICIES
from spdk_ftl_py.errors import ConfError
from spdk_ftl_py.ftl.policy.guard import Guard, checked_placement
from spdk_ftl_py.ftl.policy.interface import BandTable, Placement, Policy, Reclaimed, Surroundings
from spdk_ftl_py.ftl.policy.registry import SHIPPED, make_policy
from spdk_ftl_py.ftl.policy.sepbit import LIFESPANS, SepBit

from .tables import around, table


def choice(name: str, bands: BandTable, *, allowed: list[bool] | None = None) -> int:
    mask = bands.closed if allowed is None else np.array(allowed)
    guard = Guard.new(name, around())
    number, _ = guard.best(bands, mask)
    assert guard.replaced is None
    return number


def test_those_that_ship_are_those_that_conf_knows() -> None:
    assert tuple(sorted(SHIPPED)) == RELOC_POLICIES
    assert DEFAULT_RELOC_POLICY in SHIPPED


@pytest.mark.parametrize("name", RELOC_POLICIES)
@pytest.mark.parametrize("count", [1, 3])
def test_each_makes_a_choice_of_any_bands(name: str, count: int) -> None:
    """Empty, full, without any zone left, with more than they should hold."""
    bands = table([0, 100, 0, 101][:count], capacity=[100, 100, 0, 100][:count], age=[1, 1 << 40, 1, 5][:count])
    assert choice(name, bands) in range(count)
    assert choice(name, bands, allowed=[False] * (count - 1) + [True]) == count - 1


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("greedy", 2), ("seed", 0), ("cost_benefit", 0), ("sepbit", 0), ("sepbit:victim=greedy", 2), ("age_threshold", 1)],
)
def test_the_best_band_is_each_ones_own(name: str, chosen: int) -> None:
    # Invalid 10, 40, 50.
    assert choice(name, table([90, 60, 50], age=[5000, 100, 99])) == chosen


def test_cost_benefit_can_go_by_the_age_of_data_which_a_move_does_not_make_young() -> None:
    bands = table([50, 50], age=[9, 5], data_age=[5, 9])
    assert [choice(f"cost_benefit{age}", bands) for age in ("", ":age=band", ":age=data")] == [0, 0, 1]


def test_among_young_bands_only_age_threshold_is_greedy() -> None:
    bands = table([90, 60, 50], age=[99, 50, 99])
    assert choice("age_threshold", bands) == 2
    assert choice("age_threshold:percent=5", bands) == 2
    assert choice("age_threshold:percent=0", table([90, 50], age=[999, 1])) == 1


def test_d_choices_draws_from_closed_bands_and_takes_the_best_of_those() -> None:
    bands = table(list(range(50)), closed=[number % 5 == 0 for number in range(50)])
    guard = Guard.new("d_choices:d=2:seed=5", around())
    chosen = [guard.best(bands, bands.closed)[0] for _ in range(300)]
    assert set(chosen) == set(range(0, 45, 5)) | ({45} & set(chosen))
    assert chosen.count(0) > 30 > chosen.count(40)
    again = Guard.new("d_choices:d=2:seed=5", around())
    assert [again.best(bands, bands.closed)[0] for _ in range(300)] == chosen
    assert choice("d_choices:d=500", bands) == 0
    # None of the drawn ones may be moved: the best of the others.
    assert choice("d_choices:d=1", bands, allowed=[number in (31, 47) for number in range(50)]) == 31


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("d_choices:d=0", "d = 0"),
        ("d_choices:d=x", "d = x"),
        ("d_choices:seed=-1", "seed = -1"),
        ("age_threshold:percent=1001", "0 to 1000"),
        ("age_threshold:percent=1.5", "percent = 1.5"),
        ("sepbit:victim=best", "victim = best: must be one of greedy, seed, cost_benefit"),
        ("cost_benefit:age=block", "age = block: must be band or data"),
        ("greedy:d=1", "Greedy takes no parameters"),
        ("d_choices:e=1", "DChoices takes the parameters d: int = 10, seed: int = 0"),
        ("d_choices:d=1:d=2", "d is given twice"),
    ],
)
def test_wrong_parameters_are_named(name: str, message: str) -> None:
    with pytest.raises(ConfError) as caught:
        make_policy(name, around())
    assert f"conf reloc_policy = {name!r}: " in caught.value.message
    assert message.replace("int", "'int'") in caught.value.message or message in caught.value.message


# --- SepBIT


def reclaim(policy: Policy, age: int, *, band_class: int = 0, times: int = LIFESPANS) -> list[bool]:
    return [policy.reclaimed(Reclaimed(3, band_class, age, valid=5, capacity=100)) for _ in range(times)]


def test_sepbit_separates_as_the_paper_does() -> None:
    policy = SepBit(around())
    first = policy.placement()
    assert (first.classes, first.user_classes, first.unwritten) == (6, 2, 1)
    # l is infinite: each block that replaces one is short-lived, and each old one is young.
    assert (first.user.classes, first.relocated[0].classes, first.relocated[1].classes) == ((0,), (2,), (3,))
    assert reclaim(policy, 7, band_class=1, times=40) == [False] * 40
    assert reclaim(policy, 100, times=8) == [False] * 8
    assert reclaim(policy, 300, times=8) == [False] * 7 + [True]
    assert policy.lifespan == 200
    then = policy.placement()
    assert (then.user.classes, then.user.limits) == ((0, 1), (200,))
    assert then.relocated[0].classes == (2,)
    for band_class in range(1, 6):
        assert (then.relocated[band_class].classes, then.relocated[band_class].limits) == ((3, 4, 5), (800, 3200))
    # The next estimate is of the next ones alone.
    assert reclaim(policy, 50)[-1]
    assert policy.lifespan == 50


@pytest.mark.parametrize(
    ("classes_max", "classes", "old"), [(8, 6, (3, 4, 5)), (5, 5, (3, 4)), (4, 4, (3,)), (3, 3, (2,))]
)
def test_with_fewer_classes_old_blocks_share_one(classes_max: int, classes: int, old: tuple[int, ...]) -> None:
    policy = SepBit(around(classes_max=classes_max))
    reclaim(policy, 100)
    placement = checked_placement(policy.placement(), policy.surroundings)
    assert (placement.classes, placement.user_classes) == (classes, 2)
    assert placement.relocated[0].classes == (2,)
    assert placement.relocated[1].classes == old
    assert placement.relocated[1].limits == (400, 1600)[: len(old) - 1]


@pytest.mark.parametrize("classes_max", [1, 2])
def test_without_classes_to_separate_sepbit_does_as_others(classes_max: int) -> None:
    policy = SepBit(around(classes_max=classes_max))
    assert not any(reclaim(policy, 100, times=40))
    assert policy.placement() == Placement()


@pytest.mark.parametrize("name", RELOC_POLICIES)
@pytest.mark.parametrize("classes_max", range(1, 9))
def test_each_placement_is_one_that_is_possible(name: str, classes_max: int) -> None:
    surroundings: Surroundings = around(classes_max=classes_max)
    policy = make_policy(name, surroundings)
    for _ in range(2):
        checked_placement(policy.placement(), surroundings)
        reclaim(policy, 1)
