"""Gives work to whoever does it, until all of it is done."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import FtlError
from .giving import Giving
from .identity import Identity, identity
from .work import Answer, Answered, Ended, Request, Task, Told, Workers

_LOOK_S: Final = 0.5
"""How often a Ctrl-C, or a worker that has come or gone, is looked for."""


@dataclass
class Hooks:
    """What whoever wants the work done is told of."""

    answered: Callable[[Sequence[Answer]], None]
    """Each task exactly once; those together that came at the same time."""
    told: Callable[[str], None]
    given: Callable[[Sequence[Task]], None] = lambda tasks: None
    """Before a worker has them; again for those that are given again."""


def spread(
    workers: Workers,
    function: str,
    source: Callable[[], Task | None],
    hooks: Hooks,
    *,
    size: Callable[[int], int] = lambda capacity: 1,
    code: Identity | None = None,
) -> None:
    """Returns when all tasks are answered and the source has no more. Does not close the workers.

    source: the next task, or None if there is none at the moment; it is asked again after an answer. size: how many
    tasks a chunk has, from what the workers' capacity is. code: what workers must have; None: this package. Raises
    FtlError, and what the hooks raise; tasks that are with workers then stay there until these are closed.
    """
    giving = Giving(source)
    code = code or identity()
    while True:
        capacity = workers.capacity()
        while giving.in_flight < capacity and (taken := giving.take(max(1, size(capacity)))) is not None:
            number, tasks = taken
            hooks.given(tasks)
            workers.submit(Request(number, function, tasks, code))
        if not giving.in_flight:
            return
        answers: list[Answer] = []
        refused: Ended | None = None
        for event in workers.events(_LOOK_S):
            if isinstance(event, Told):
                hooks.told(event.text)
            elif isinstance(event, Answered):
                if giving.answered(event.chunk, event.answer):
                    answers.append(event.answer)
            elif event.refused:
                refused = event
            else:
                answers += _ended(giving, event, hooks)
        if answers:
            hooks.answered(answers)
        if refused is not None:
            raise _other_code(refused)


def _other_code(event: Ended) -> FtlError:
    return FtlError(
        f"{event.where} has something else than this command ({event.refused}): change neither the package nor files "
        "that it works with while it runs; start the command again",
        errno=errno.ESTALE,
    )


def _ended(giving: Giving, event: Ended, hooks: Hooks) -> list[Answer]:
    """The answer of a task that is given up."""
    again, given_up = giving.ended(event.chunk, event.died, event.lost)
    if again:
        hooks.told(f"{event.died or event.lost or event.where + ' did not answer'}: given again: {_shown(again)}")
    return [given_up] if given_up is not None else []


def _shown(tasks: Sequence[Task]) -> str:
    keys = [task.key for task in tasks]
    if len(keys) == 1:
        return f"number {keys[0]}"
    if keys == list(range(keys[0], keys[-1] + 1)):
        return f"numbers {keys[0]} to {keys[-1]}"
    return f"numbers {', '.join(map(str, keys))}"
