"""Work for workers that takes no time, and workers that are played: what they do is a list of numbers."""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.workers.work import Answer, Answered, Ended, Event, Request

SQUARE = f"{__name__}:square"
POINT = f"{__name__}:point"
WORLD = f"{__name__}:world"
SLOW_WORLD = f"{__name__}:slow_world"


def square(argument: Any) -> Any:
    """Of a number. {"die": FILE}: kills its process unless the file is there, and makes it first; {"always": "die"};
    {"end": FILE, "times": N}: is ended in order, N times; {"wait": FILE}: says with FILE.pid that it has begun, and
    waits until the file is there."""
    if isinstance(argument, int):
        return argument * argument
    if "always" in argument:
        os.kill(os.getpid(), signal.SIGKILL)
    if "die" in argument and not Path(argument["die"]).exists():
        Path(argument["die"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "end" in argument:
        with open(argument["end"], "a+") as file:
            file.seek(0)
            if len(file.read()) < argument["times"]:
                file.write(".")
                file.flush()
                os.kill(os.getpid(), signal.SIGTERM)
    if "wait" in argument:
        begun = Path(argument["wait"] + ".new")
        begun.write_text(str(os.getpid()))
        begun.rename(argument["wait"] + ".pid")
        while not Path(argument["wait"]).exists():
            time.sleep(0.01)
    if "refuse" in argument:
        raise ParameterError(argument["refuse"])
    if "raise" in argument:
        raise ValueError(argument["raise"])
    print("what work prints does not get between the results")
    return "done"


def point(argument: dict[str, Any]) -> dict[str, Any]:
    """A simulation that is not one. SPDK_FTL_TEST_POINTS is a file that it adds a line to, and after so many lines,
    SPDK_FTL_TEST_STOP, it waits to be killed."""
    if (path := os.environ.get("SPDK_FTL_TEST_POINTS")) is not None:
        with open(path, "a") as file:
            file.write(f"{argument['policy']} {argument['reserved']}\n")
        while len(Path(path).read_text().splitlines()) > int(os.environ.get("SPDK_FTL_TEST_STOP", "1000")):
            time.sleep(0.05)
    if argument["policy"] == "d_choices":
        raise ValueError("a policy\nthat is broken")
    wa = 1 + 10 / argument["reserved"] + len(argument["policy"]) / 10
    return {
        "write_amplification": wa,
        "host_writes": 1000,
        "steady": True,
        "over_time": [1, wa],
        "wear": {"max": 3},
        "spec": argument,
    }


def world(argument: dict[str, Any]) -> dict[str, Any]:
    """A world that follows from its number: some end early, some break a promise, and some raise."""
    number = argument["world"]
    rng = random.Random(f"{argument['options']['seed']}/{number}")
    if argument["options"]["every"] and number % argument["options"]["every"] == 1:
        raise RuntimeError(f"world {number}")
    crashes = argument["crashes"] if rng.random() < 0.8 else rng.randrange(argument["crashes"])
    values: dict[str, Any] = {"crashes": crashes, "kinds": {"power": crashes}, "digest": f"{rng.getrandbits(64):x}"}
    if argument["options"]["faults"] and rng.random() < 0.2:
        values["violations"] = [{"kind": "lost", "lba": number, "detail": "version 3"}]
        values["last_crash"] = "power at a write"
    return values


VANISHES = 25
"""In the script of PlayedWorkers: a worker is lost."""


class PlayedWorkers:
    """Workers without processes. Each number of script decides one step: which chunk goes on, and what becomes of it.

    When the script ends, all goes well. end: raises that after so many steps, as if the command were killed.
    """

    def __init__(
        self, function: Callable[[Any], Any], capacity: int, script: Sequence[int], end: int | None = None
    ) -> None:
        self._function = function
        self._capacity = capacity
        self._script = list(script)
        self._end = end
        self._steps = 0
        self._chunks: dict[int, list[tuple[int, Any]]] = {}
        self.executed: list[int] = []
        self.deaths = 0

    def capacity(self) -> int:
        return self._capacity

    def submit(self, request: Request) -> None:
        assert request.chunk not in self._chunks
        assert len(self._chunks) < self._capacity
        self._chunks[request.chunk] = [(task.key, task.argument) for task in request.tasks]

    def events(self, timeout: float) -> list[Event]:
        self._steps += 1
        if self._end is not None and self._steps > self._end:
            raise Killed
        choice = self._script.pop(0) if self._script else 7
        number = sorted(self._chunks)[choice % len(self._chunks)]
        tasks = self._chunks[number]
        if choice % 5 == 0:
            # Dies while it executes, or vanishes; what it has executed may be lost.
            del self._chunks[number]
            self.deaths += 1
            self.executed += [key for key, _ in tasks[:1]]
            return [Ended(number, lost="gone") if choice % VANISHES == 0 else Ended(number, died="killed")]
        if not tasks:
            del self._chunks[number]
            return [Ended(number)]
        key, argument = tasks.pop(0)
        self.executed.append(key)
        try:
            answer = Answer(key, self._function(argument))
        except (RuntimeError, ValueError) as error:
            answer = Answer(key, error=str(error))
        # One that says it twice is not counted twice.
        return [Answered(number, answer)] * (2 if choice % 3 == 0 else 1)

    def close(self) -> None:
        self._chunks.clear()


class Killed(BaseException):
    """The command ends without a chance to do anything."""


def slow_world(argument: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.02)
    return world(argument)


SETTINGS = {
    "bands": 1024,
    "policy": "greedy",
    "reserved": 20,
    "workload": "uniform",
    "writes": "10x",
    "fraction": 0.5,
    "shared": False,
    "seed": 1,
}
"""What `spdk-ftl simulate` would have for each setting without options."""


def sweep(words: Sequence[str]) -> int:
    """`spdk-ftl simulate --sweep` with points that take no time."""
    # Which those who only work do not need.
    from spdk_ftl_py.simulate.sweep.command import add_sweep_options, run_sweep, sweep_wanted
    from spdk_ftl_py.usage import whole

    parser = argparse.ArgumentParser("spdk-ftl simulate")
    parser.set_defaults(parser=parser)
    for option in ("--json", "--plot"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--reserved", type=whole(1, 99))
    parser.add_argument("--workload", choices=("uniform", "seq"))
    add_sweep_options(parser)
    arguments = parser.parse_args(words)
    return run_sweep(arguments, SETTINGS, function=POINT) if sweep_wanted(arguments) else -1
