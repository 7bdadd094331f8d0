"""What passes between those who give work, and those who do it."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from .identity import Identity

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One call of a function on some worker."""

    key: int
    argument: Any
    """As JSON has it."""


@dataclass(frozen=True)
class Request:
    """Tasks that one worker executes in order."""

    chunk: int
    function: str
    """``module:name``, of a function that takes one argument and answers a value, both as JSON has them."""
    tasks: Sequence[Task]
    identity: Identity
    """Of the code that has to run there."""

    @classmethod
    def from_dict(cls, chunk: int, values: Mapping[str, Any]) -> Request:
        return cls(chunk, values["function"], [Task(*task) for task in values["tasks"]], values["identity"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "identity": self.identity,
            "tasks": [[task.key, task.argument] for task in self.tasks],
        }


@dataclass(frozen=True)
class Answer:
    key: int
    value: Any = None
    error: str = ""
    """What the function raised, in one line."""
    seconds: float = 0.0
    where: str = ""
    """The worker."""
    lost: bool = False
    """The error is that the task was lost too often: as far as one knows, not by its fault."""


@dataclass(frozen=True)
class Answered:
    chunk: int
    answer: Answer


@dataclass(frozen=True)
class Ended:
    """A worker is done with a chunk."""

    chunk: int
    died: str = ""
    """How, if the process died that executed it."""
    lost: str = ""
    """Why, if there will be no more answers from this worker, by no fault of the tasks."""
    refused: str = ""
    """Why, if the worker is one that must not execute it."""
    where: str = ""


@dataclass(frozen=True)
class Told:
    """Something for the user to know."""

    text: str


Event = Answered | Ended | Told


class Workers(Protocol):
    """Those who do the work. Whoever gives it calls all of this from one thread."""

    def capacity(self) -> int:
        """How many chunks they take at a time; may change. Raises FtlError if there is nobody (any more)."""
        ...

    def submit(self, request: Request) -> None:
        """Events about the chunk follow: each Answered once at most, and Ended exactly once, last."""
        ...

    def events(self, timeout: float) -> list[Event]:
        """Waits until there is something, but not longer than that many seconds. Raises FtlError."""
        ...

    def close(self) -> None:
        """Ends work that is not done. Idempotent."""
        ...


def drained(events: queue.SimpleQueue[T], timeout: float) -> list[T]:
    """What is in the queue; waits that long for the first."""
    found: list[T] = []
    try:
        found.append(events.get(timeout=timeout))
        while True:
            found.append(events.get_nowait())
    except queue.Empty:
        return found
