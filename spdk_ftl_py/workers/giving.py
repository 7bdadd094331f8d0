"""Who was given what, and what has to be given again because a worker has died: plain bookkeeping, without a clock or
a thread."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from .work import Answer, Task

DEATHS_MAX: Final = 3
"""Processes that may die of a task before it is given up. Some die of something else."""
LOSSES_MAX: Final = 10
"""Times that a task may be lost with its worker, by no fault of its own as far as one knows, before it is given up:
where each worker vanishes there must be an end, too."""


class Giving:
    """source: the next task that nobody was given; None: none at the moment.

    Each task is answered once: by a worker, or by an Answer with an error, after too many of its workers have died
    or vanished.
    """

    def __init__(self, source: Callable[[], Task | None]) -> None:
        self._source = source
        self._again: deque[list[Task]] = deque()
        self._given: dict[int, dict[int, Task]] = {}
        """The tasks of each chunk that are not answered, in order."""
        self._deaths: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._chunks = 0

    @property
    def in_flight(self) -> int:
        """Chunks."""
        return len(self._given)

    def take(self, size: int) -> tuple[int, list[Task]] | None:
        """Number and tasks of the next chunk, of at most that many. None: there is none at the moment."""
        tasks: list[Task] = []
        if self._again:
            tasks = self._again.popleft()
            if len(tasks) > size:
                self._again.appendleft(tasks[size:])
                tasks = tasks[:size]
        else:
            while len(tasks) < size and (task := self._source()) is not None:
                tasks.append(task)
        if not tasks:
            return None
        self._chunks += 1
        self._given[self._chunks] = {task.key: task for task in tasks}
        return self._chunks, tasks

    def answered(self, chunk: int, answer: Answer) -> bool:
        """False for an answer that is not wanted (any more)."""
        if self._given.get(chunk, {}).pop(answer.key, None) is None:
            return False
        self._forget(answer.key)
        return True

    def ended(self, chunk: int, died: str = "", lost: str = "") -> tuple[list[Task], Answer | None]:
        """What is given again, and the answer of a task that is given up instead. died, lost: see Ended."""
        rest = list(self._given.pop(chunk, {}).values())
        if not rest:
            return [], None
        # Workers execute tasks in order, so this is the one that was being executed.
        suspect, *others = rest
        given_up = self._counted(suspect.key, died, lost)
        if given_up is None:
            # Alone, so that others don't suffer from it.
            self._again.append([suspect])
        if others:
            self._again.append(others)
        return rest if given_up is None else others, given_up

    def _counted(self, key: int, died: str, lost: str) -> Answer | None:
        if lost:
            self._losses[key] += 1
            if self._losses[key] < LOSSES_MAX:
                return None
            text = f"it was lost {LOSSES_MAX} times with its worker; the last time: {lost}"
        else:
            self._deaths[key] += 1
            if self._deaths[key] < DEATHS_MAX:
                return None
            text = f"{DEATHS_MAX} workers have died of it; the last one: {died or 'it did not answer'}"
        self._forget(key)
        return Answer(key, error=text, lost=bool(lost))

    def _forget(self, key: int) -> None:
        self._deaths.pop(key, None)
        self._losses.pop(key, None)
