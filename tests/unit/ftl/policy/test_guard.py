"""Each kind of fault of a policy costs it its place, and nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py.conf import DEFAULT_RELOC_POLICY, FtlConf, Limit
from spdk_ftl_py.ftl.policy import guard as guards
from spdk_ftl_py.ftl.policy.guard import REGIONS_MAX, Guard, checked_pace
from spdk_ftl_py.ftl.policy.interface import AgeClasses, BandTable, Placement, Policy, Reclaimed
from spdk_ftl_py.ftl.policy.limits import Limits
from spdk_ftl_py.ftl.policy.pacing import MoveSize, Pace, decide

from .tables import around, table

BANDS = table([50, 10, 90], closed=[True, True, False])
LIMITS = Limits(
    FtlConf(limits={"crit": Limit(0, 5), "high": Limit(5, 10), "low": Limit(40, 20), "start": Limit(100, 40)})
)
MOVES = [MoveSize(valid=750, left=700, capacity=1000)]
Y = AgeClasses((1,))


class Odd(Policy):
    """Returns what the test says, or raises it."""

    def __init__(self, **answers: Any) -> None:
        super().__init__(around())
        self.answers = answers

    def _answer(self, method: str, usual: Any) -> Any:
        answer = self.answers.get(method, usual)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def merit(self, bands: BandTable) -> Any:
        return self._answer("merit", np.zeros(len(bands.valid)))

    def placement(self) -> Any:
        return self._answer("placement", Placement())

    def reclaimed(self, band: Reclaimed) -> Any:
        return self._answer("reclaimed", False)

    def pace(self, limits: Limits, level: float, moves: Sequence[MoveSize]) -> Any:
        return self._answer("pace", Pace())

    def worn(self, bands: BandTable) -> Any:
        return self._answer("worn", None)


def guarded(policy: Policy, **options: Any) -> tuple[Guard, list[str]]:
    guard = Guard("mine:Odd", policy, around(), **options)
    told: list[str] = []
    guard.on_replaced = lambda: told.append(str(guard.replaced))
    return guard, told


def ask(guard: Guard) -> None:
    """What the default decides in its place."""
    assert guard.best(BANDS, BANDS.closed)[0] == 1
    assert guard.placement() == Placement()
    assert guard.reclaimed(Reclaimed(1, 0, 5, 5, 100)) is False
    assert guard.pace(LIMITS, 30.0, MOVES) == decide(LIMITS, 30.0, MOVES)
    assert guard.worn(BANDS) is None


FAULTS: list[tuple[str, Any, str]] = [
    ("merit", ZeroDivisionError("by zero"), r"merit\(\) raised ZeroDivisionError: by zero"),
    ("merit", SystemExit(3), r"merit\(\) raised SystemExit: 3"),
    ("merit", asyncio.CancelledError(), r"merit\(\) raised CancelledError"),
    ("merit", GeneratorExit(), r"merit\(\) raised GeneratorExit"),
    ("merit", ValueError("\x1b[2J\n"), r"merit\(\) raised ValueError: \\x1b\[2J\\n$"),
    ("merit", RecursionError(), r"merit\(\) raised RecursionError"),
    ("merit", None, r"merit\(\) returned nonsense: its shape is \(\)"),
    ("merit", np.zeros(2), r"its shape is \(2,\), not \(3,\)"),
    ("merit", np.zeros((3, 1)), "its shape is"),
    ("merit", [1, 2], "its shape is"),
    ("merit", ["a", "b", "c"], "instead of numbers"),
    ("merit", np.array([1j, 2, 3]), "complex128 instead of numbers"),
    ("merit", np.array([1, None, 3]), "object instead of numbers"),
    ("merit", np.array([np.nan, 1, 2]), "the merit of band 0 is not a number"),
    ("placement", None, "None is not a Placement"),
    ("placement", OSError("gone"), r"placement\(\) raised OSError: gone"),
    ("placement", Placement(classes=7, relocated=(Y,) * 7), "classes is 7: must be 2 to 6"),
    ("placement", Placement(classes=1, relocated=(Y,)), "classes is 1"),
    ("placement", Placement(classes=2.5), "classes is a float"),  # type: ignore[arg-type]
    ("placement", Placement(user_classes=2), "user_classes is 2: must be 1 to 1"),
    ("placement", Placement(classes=3), "an entry for each of the 3 classes"),
    ("placement", Placement(user=Y), "a class in user is 1: must be 0 to 0"),
    ("placement", Placement(unwritten=1), "unwritten is 1"),
    ("placement", Placement(relocated=(Y, AgeClasses())), r"a class in relocated\[1\] is 0: must be 1 to 1"),
    ("placement", Placement(user=AgeClasses((0, 0), (1, 2))), "2 classes and 2 limits"),
    ("placement", Placement(user=AgeClasses(())), "0 classes"),
    ("placement", Placement(user=AgeClasses((0,) * 9, tuple(range(8)))), "9 classes"),
    ("placement", Placement(user=AgeClasses((0, 0, 0), (5, 5))), "don't ascend"),
    ("placement", Placement(user=AgeClasses((0, 0), (-1,))), "a limit in user is -1"),
    ("placement", Placement(user=AgeClasses((0, 0), (1 << 64,))), "a limit in user is"),
    ("placement", Placement(user=5), "user is a int"),  # type: ignore[arg-type]
    ("placement", Placement(regions=[0]), "numpy array of uint8"),  # type: ignore[arg-type]
    ("placement", Placement(regions=np.array([0, 1], np.uint8)), "regions must be classes of hosts"),
    ("placement", Placement(regions=np.zeros(REGIONS_MAX + 1, np.uint8)), "at most 1048576 are possible"),
    ("placement", Placement(region_blocks=0), "region_blocks is 0"),
    ("reclaimed", ValueError("x"), r"reclaimed\(\) raised ValueError: x"),
    ("reclaimed", np.zeros(2), r"reclaimed\(\) raised ValueError"),
    ("pace", None, "None is not a Pace"),
    ("pace", Pace(user_share=101), "user_share is 101: must be 0 to 100"),
    ("pace", Pace(user_share=50.5), "user_share is a float"),  # type: ignore[arg-type]
    ("pace", Pace(100, 0), "reloc_per_thousand is 0"),
    ("pace", Pace(100, 1 << 40), "reloc_per_thousand is"),
    ("worn", 3, "the band is 3: must be 0 to 2"),
    ("worn", 1.0, "the band is a float"),
    ("worn", 2, "band 2 is not closed"),
]


@pytest.mark.parametrize(("method", "answer", "message"), FAULTS)
def test_a_policy_at_fault_is_replaced_by_the_default(method: str, answer: Any, message: str) -> None:
    memory: dict[str, str] = {}
    guard, told = guarded(Odd(**{method: answer}), memory=memory)
    ask_one = {
        "merit": lambda: guard.best(BANDS, BANDS.closed)[0] == 1,
        "placement": lambda: guard.placement() == Placement(),
        "reclaimed": lambda: guard.reclaimed(Reclaimed(1, 0, 5, 5, 100)) is False,
        "pace": lambda: guard.pace(LIMITS, 30.0, MOVES) == decide(LIMITS, 30.0, MOVES),
        "worn": lambda: guard.worn(BANDS) is None,
    }[method]
    assert guard.in_use == "mine:Odd"
    assert ask_one()
    assert len(told) == 1
    assert re.search(message, told[0]), told
    assert (guard.replaced, guard.in_use, memory) == (told[0], DEFAULT_RELOC_POLICY, {"mine:Odd": told[0]})
    ask(guard)
    assert len(told) == 1
    # The next life of the same FTL in this process begins with the default.
    again = Guard.loaded("mine:Odd", around(), memory)
    assert (again.in_use, again.replaced) == (DEFAULT_RELOC_POLICY, told[0])


def test_a_policy_without_its_own_part_is_replaced_too() -> None:
    class Forgetful(Policy):
        def __init__(self) -> None:
            pass

        def merit(self, bands: BandTable) -> Any:
            return np.zeros(self.surroundings.band_count)

    guard, told = guarded(Forgetful())
    ask(guard)
    assert "AttributeError" in told[0]


def test_what_a_policy_sees_is_not_its_to_change() -> None:
    class Meddler(Policy):
        def merit(self, bands: BandTable) -> Any:
            bands.valid[:] = 0
            return bands.valid

    frozen = dataclasses.replace(BANDS, valid=BANDS.valid.copy())
    frozen.valid.flags.writeable = False
    guard, told = guarded(Meddler(around()))
    assert guard.best(frozen, frozen.closed)[0] == 1
    assert "read-only" in told[0]


def test_numbers_of_bands_that_may_not_be_moved_do_not_matter() -> None:
    guard, told = guarded(Odd(merit=np.array([1.0, 2.0, np.nan])))
    assert guard.best(BANDS, BANDS.closed) == (1, 2.0)
    guard, told = guarded(Odd(merit=np.array([-np.inf, -np.inf, 5])))
    assert guard.best(BANDS, np.array([False, True, False]))[0] == 1
    guard, told = guarded(Odd(merit=np.array([-5, -7, 9])))
    assert guard.best(BANDS, BANDS.closed) == (0, -5.0)
    assert told == []


def test_a_pace_never_holds_back_both_sides() -> None:
    assert checked_pace(Pace(20, 4000)) == Pace(20, 4000)
    assert checked_pace(Pace(20, 3999)) == Pace(20)
    assert checked_pace(Pace(0, 1000)) == Pace(0)
    assert checked_pace(Pace(100, 1)) == Pace(100, 1)


class Clock:
    """Of the CPU; each call of a policy takes ``next_ms``."""

    def __init__(self) -> None:
        self.now = 0
        self.next_ms = 0

    def __call__(self) -> int:
        self.now += self.next_ms * 500_000
        return self.now

    def take(self, guard: Guard, ms: int) -> None:
        self.next_ms = 2 * ms
        guard.worn(BANDS)


def test_a_policy_that_is_slow_three_times_is_replaced() -> None:
    clock = Clock()
    guard, told = guarded(Odd(), cpu_ns=clock)
    for ms in (51, 50, 49, 80):
        clock.take(guard, ms)
    assert told == []
    clock.take(guard, 70)
    assert told == ["worn() took 70 ms, and more than 50 ms before"]
    ask(guard)


def test_slow_calls_long_ago_are_forgiven() -> None:
    clock = Clock()
    guard, told = guarded(Odd(), cpu_ns=clock)
    for _ in range(4):
        clock.take(guard, 60)
        for _ in range(guards.FORGIVEN_CALLS):
            clock.take(guard, 1)
    assert told == []


def test_time_is_that_of_this_thread_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Policy):
        def worn(self, bands: BandTable) -> int | None:
            sum(range(3_000_000))
            return None

    guard, told = guarded(Busy(around()))
    monkeypatch.setattr(guards, "SLOW_NS", 1_000_000)
    for _ in range(3):
        guard.worn(BANDS)
    assert len(told) == 1
    assert told[0].startswith("worn() took ")


def test_an_interruption_is_not_the_policys_fault() -> None:
    guard, told = guarded(Odd(merit=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        guard.best(BANDS, BANDS.closed)
    assert told == []
