"""Steps: undone backwards, each once, whatever fails."""

from __future__ import annotations

import asyncio
import functools

import pytest

from spdk_ftl_py.runtime.steps import Steps


async def test_steps_are_undone_backwards_and_only_once() -> None:
    done: list[str] = []

    async def note(what: str) -> None:
        done.append(what)

    steps = Steps("thing")
    await steps.run("a", note("a"), lambda: note("undo a"))
    await steps.run("b", note("b"), lambda: note("undo b"))
    assert await steps.undo() == []
    assert await steps.undo() == []
    assert done == ["a", "b", "undo b", "undo a"]


async def test_a_step_that_failed_is_undone_too_as_it_may_have_taken_effect() -> None:
    done: list[str] = []

    async def fail() -> None:
        raise OSError("half way")

    async def note(what: str) -> None:
        done.append(what)

    steps = Steps("thing")
    with pytest.raises(OSError, match="half way"):
        await steps.run("a", fail(), lambda: note("undo a"))
    await steps.undo()
    assert done == ["undo a"]


async def test_an_undo_that_fails_is_reported_and_the_others_still_run() -> None:
    done: list[str] = []

    async def note(what: str) -> None:
        done.append(what)

    async def fail() -> None:
        raise ValueError("stuck")

    steps = Steps("thing")
    steps.on_undo("a", lambda: note("undo a"))
    steps.on_undo("b", fail)
    assert [(name, str(error)) for name, error in await steps.undo()] == [("b", "stuck")]
    assert done == ["undo a"]


async def test_as_a_context_what_fails_is_taken_back_and_what_succeeds_stays() -> None:
    done: list[str] = []

    async def work(*, fails: bool) -> None:
        async with Steps("thing") as steps:
            for name in "abc":
                steps.on_undo(name, functools.partial(done.append, f"undo {name}"))
            steps.keep("b")
            if fails:
                raise OSError("half way")

    await work(fails=False)
    assert done == []
    with pytest.raises(OSError, match="half way"):
        await work(fails=True)
    assert done == ["undo c", "undo a"]


async def test_undoing_runs_to_its_end_when_the_caller_is_cancelled() -> None:
    done: list[str] = []

    steps, started, go_on = Steps("thing"), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        started.set()
        await go_on.wait()
        done.append("undo b")

    async def last() -> None:
        done.append("undo a")
        finished.set()

    finished = asyncio.Event()
    steps.on_undo("a", last)
    steps.on_undo("b", slow)
    task = asyncio.create_task(steps.undo())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await finished.wait()
    assert done == ["undo b", "undo a"]


async def test_a_step_that_is_done_again_has_one_undo_the_last_one() -> None:
    done: list[str] = []

    async def note(what: str) -> None:
        done.append(what)

    steps = Steps("thing")
    for attempt in range(1000):
        await steps.run("claim", note(""), lambda attempt=attempt: note(f"undo {attempt}"))  # type: ignore[misc]
        steps.on_undo("attach", lambda attempt=attempt: note(f"detach {attempt}"))  # type: ignore[misc]
    await steps.undo()
    assert [what for what in done if what] == ["detach 999", "undo 999"]
