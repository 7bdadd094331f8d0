"""The reactors that FTLs share, and the CPUs they are pinned to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.errors import BusyError, ParameterError
from spdk_ftl_py.runtime import reactors as module
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.runtime.reactors import Reactors, parse_cpu_mask, usable_cpus


async def test_who_comes_gets_the_reactor_with_the_fewest_users() -> None:
    reactors = Reactors(2)
    threads = threading.active_count()
    one, two, three = [await reactors.take() for _ in range(3)]
    assert one is not two
    assert three is one
    assert one.shim.running
    assert two.shim.running
    await reactors.give_back(two)
    assert not two.shim.running
    assert await reactors.take() is not one
    await reactors.give_back(one)
    assert one.shim.running
    await reactors.give_back(three)
    assert not one.shim.running
    with pytest.raises(BusyError):
        await reactors.give_back(one)
    again = await reactors.take()
    assert again is not one
    assert again.name == "reactor-0"
    assert threading.active_count() == threads


async def test_several_are_different_ones() -> None:
    reactors = Reactors(3)
    single = await reactors.take()
    several = await reactors.take_several(2)
    assert len({single, *several}) == 3
    with pytest.raises(ParameterError, match="4 cores: this daemon has 3 reactors: start it with --reactors 4"):
        await reactors.take_several(4)
    for each in (single, *several):
        await reactors.give_back(each)


async def test_a_reactor_that_can_not_start_leaves_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(reactor: ReactorLoop) -> None:
        if reactor.name == "reactor-1":
            raise RuntimeError("no thread")
        await start(reactor)

    start = ReactorLoop.start
    reactors = Reactors(2)
    monkeypatch.setattr(ReactorLoop, "start", fails)
    with pytest.raises(RuntimeError, match="no thread"):
        await reactors.take_several(2)
    monkeypatch.undo()
    taken = await reactors.take_several(2)
    assert all(each.shim.running for each in taken)
    for each in taken:
        await reactors.give_back(each)


def test_there_is_one_for_each_cpu_unless_somebody_says_otherwise() -> None:
    assert Reactors().most == min(len(usable_cpus()), module.REACTORS_MAX)
    assert Reactors(cpus=usable_cpus()[:1]).most == 1
    assert Reactors(5, usable_cpus()[:1]).most == 5
    with pytest.raises(ParameterError):
        Reactors(module.REACTORS_MAX + 1)


async def test_threads_run_on_the_cpus_they_are_given() -> None:
    cpus = usable_cpus()
    reactors = Reactors(3, cpus[-2:])
    taken = await reactors.take_several(3)
    threads = {(task / "comm").read_text().strip(): int(task.name) for task in Path("/proc/self/task").iterdir()}
    for number, each in enumerate(taken):
        assert os.sched_getaffinity(threads[each.name]) == {cpus[-2:][number % len(cpus[-2:])]}
        await reactors.give_back(each)


def test_a_cpu_that_is_not_there_is_refused_and_leaves_no_thread() -> None:
    reactor = _shim.Reactor("nowhere")
    with pytest.raises((RuntimeError, OSError), match="nowhere can't run on CPU 1000"):
        reactor.start(1000)
    assert not reactor.running
    reactor.start()
    reactor.stop()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("0x6", (1, 2)), ("6", (1, 2)), ("F", (0, 1, 2, 3)), ("[0]", (0,)), ("[0,2-3]", (0, 2, 3)), ("1,3", (1, 3)),
        ("10", (4,)), ("0-2", (0, 1, 2)), (" [1,1] ", (1,)),
    ],
)  # fmt: skip
def test_cpus_as_spdk_takes_them(given: str, found: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: tuple(range(8)))
    assert parse_cpu_mask(given) == found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "give a hexadecimal mask"), ("0", "no CPU"), ("xyz", "give a hexadecimal mask"),
        ("[3-1]", "ends before it begins"), ("[1,,2]", "give a hexadecimal mask"), ("-1", "give a hexadecimal mask"),
        ("0x100", "can't run on CPU 8"), ("[0-99999]", "can't run on CPU 8, 9,"), ("f" * 2000, "give a hexadecimal"),
    ],
)  # fmt: skip
def test_what_are_no_cpus(given: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cpus", lambda: tuple(range(8)))
    with pytest.raises(ParameterError, match=told):
        parse_cpu_mask(given)
