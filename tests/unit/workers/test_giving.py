"""Work that is given is answered once, whoever dies of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdk_ftl_py.workers.giving import DEATHS_MAX, LOSSES_MAX, Giving
from spdk_ftl_py.workers.spread import Hooks, spread
from spdk_ftl_py.workers.work import Answer, Task, Told
from support.quick_work import VANISHES, PlayedWorkers


def numbers(count: int) -> Callable[[], Task | None]:
    tasks = iter([Task(key, key) for key in range(count)])
    return lambda: next(tasks, None)


@settings(max_examples=50)
@given(
    count=st.integers(0, 40),
    capacity=st.integers(1, 5),
    size=st.integers(1, 9),
    script=st.lists(st.integers(0, 2000), max_size=80),
)
def test_each_task_is_answered_once_whenever_workers_die(
    count: int, capacity: int, size: int, script: list[int]
) -> None:
    workers = PlayedWorkers(lambda number: number * number, capacity, script)
    answers: list[Answer] = []
    told: list[str] = []
    given_times: Counter[int] = Counter()
    hooks = Hooks(answers.extend, told.append, lambda tasks: given_times.update(task.key for task in tasks))
    spread(workers, "", numbers(count), hooks, size=lambda _: size)
    assert sorted(answer.key for answer in answers) == list(range(count))
    assert all(answer.error or answer.value == answer.key**2 for answer in answers)
    # Nobody is given up who was not with that many workers that died.
    assert sum(bool(answer.error) for answer in answers) * DEATHS_MAX <= workers.deaths
    assert all(given_times[answer.key] >= DEATHS_MAX for answer in answers if answer.error)
    assert bool(told) <= bool(workers.deaths)
    # All that a death costs is one chunk.
    assert given_times.total() <= count + workers.deaths * size


def test_a_task_that_kills_its_workers_is_given_up_and_costs_no_other() -> None:
    giving = Giving(numbers(3))
    assert giving.take(3) == (1, [Task(0, 0), Task(1, 1), Task(2, 2)])
    assert giving.answered(1, Answer(0))
    assert giving.ended(1, "killed") == ([Task(1, 1), Task(2, 2)], None)
    assert giving.take(3) == (2, [Task(1, 1)])  # alone
    assert giving.take(3) == (3, [Task(2, 2)])
    assert giving.ended(2, "killed") == ([Task(1, 1)], None)
    assert giving.take(3) == (4, [Task(1, 1)])
    again, given_up = giving.ended(4, "by SIGKILL")
    assert (again, given_up and given_up.key) == ([], 1)
    assert given_up is not None
    assert given_up.error == f"{DEATHS_MAX} workers have died of it; the last one: by SIGKILL"
    assert giving.answered(3, Answer(2))
    assert giving.ended(3) == ([], None)
    assert (giving.in_flight, giving.take(3)) == (0, None)


def test_a_task_that_is_lost_with_its_workers_is_tried_longer_but_not_for_ever() -> None:
    giving = Giving(numbers(2))
    for number in range(1, LOSSES_MAX):
        assert giving.take(1) == (number, [Task(0, 0)])
        # A death between does not count as one of a row of losses, nor a loss as a death.
        assert giving.ended(number, lost="retired") == ([Task(0, 0)], None)
    giving.take(1)
    assert giving.ended(LOSSES_MAX, died="killed") == ([Task(0, 0)], None)
    giving.take(1)
    text = f"it was lost {LOSSES_MAX} times with its worker; the last time: retired"
    assert giving.ended(LOSSES_MAX + 1, lost="retired") == ([], Answer(0, error=text, lost=True))
    assert giving.take(1) == (LOSSES_MAX + 2, [Task(1, 1)])


def test_workers_that_vanish_are_told_and_cost_no_task() -> None:
    workers = PlayedWorkers(lambda number: number, 1, [VANISHES] * (LOSSES_MAX - 1))
    answers: list[Answer] = []
    told: list[str] = []
    spread(workers, "", numbers(1), Hooks(answers.extend, told.append))
    assert answers == [Answer(0, 0)]
    assert told == ["gone: given again: number 0"] * (LOSSES_MAX - 1)


def test_answers_that_nobody_waits_for_are_not_counted() -> None:
    giving = Giving(numbers(1))
    giving.take(1)
    assert giving.answered(1, Answer(0))
    assert not giving.answered(1, Answer(0))
    assert not giving.answered(1, Answer(5))
    assert not giving.answered(9, Answer(0))


def test_a_source_is_asked_again_when_something_was_answered() -> None:
    left = [Task(1, 1), None, Task(2, 2)]
    answers: list[Answer] = []
    workers = PlayedWorkers(lambda number: number, 4, [1, 2, 1, 2])
    spread(workers, "", lambda: left.pop(0) if left else None, Hooks(answers.extend, lambda text: None))
    assert [answer.key for answer in answers] == [1, 2]


def test_what_workers_tell_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = PlayedWorkers(lambda number: number, 1, [])
    right = workers.events
    monkeypatch.setattr(workers, "events", lambda timeout: [Told("a worker is gone"), *right(timeout)])
    told: list[str] = []
    spread(workers, "", numbers(1), Hooks(lambda answers: None, told.append))
    assert told == ["a worker is gone"] * 2
