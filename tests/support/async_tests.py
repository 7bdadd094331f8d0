"""Async tests and the rigs they use: a test is a plain ``async def``, a rig is a fixture.

A fixture that returns an async context manager is entered before the test's first line, on the test's loop, and left
behind its last; the test gets what entering it gives. Those that it needs are entered before it. A test that uses
``clock``, as whatever stands on a stepped reactor does, runs in simulated time.

>>> @pytest.mark.rig(zones=40)
... async def test_what_was_written_is_read_back(rig: FtlRig) -> None: ...

Options that only the test itself knows: ``rig = await make_rig(conf=conf)``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest

from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.torture.clock import SimulatedClock, run_simulated

LIMIT_S = 600
"""By the test's own clock: in simulated time a test that waits for what never comes would not end otherwise."""

_ENTERED: pytest.StashKey[list[AbstractAsyncContextManager[Any]]] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    value = yield
    if fixturedef.scope == "function" and isinstance(value, AbstractAsyncContextManager):
        request.node.stash.setdefault(_ENTERED, []).append(value)
    return value


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None

    # pytest keeps its items to the end of the session: what a test used is not to live as long.
    contexts = pyfuncitem.stash.get(_ENTERED, [])
    pyfuncitem.stash[_ENTERED] = []

    async def run() -> None:
        async with AsyncExitStack() as stack:
            rigs = [(rig, await stack.enter_async_context(rig)) for rig in contexts]
            values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
            for name, value in values.items():
                values[name] = next((entered for rig, entered in rigs if rig is value), value)
            await asyncio.wait_for(pyfuncitem.obj(**values), LIMIT_S)

    clock = pyfuncitem.funcargs.get("clock")
    if clock is None:
        asyncio.run(run())
    else:
        run_simulated(clock, run())
    return True


def rig_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of the test's ``@pytest.mark.rig(...)``."""
    marker = request.node.get_closest_marker("rig")
    return {} if marker is None else dict(marker.kwargs)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def reactor(clock: SimulatedClock) -> ReactorLoop:
    """Stepped, in simulated time: what a test does follows from its seeds, on a fast machine as on a slow one."""
    return ReactorLoop("test", stepped=True, clock=clock)


@pytest.fixture
def rigs() -> AsyncExitStack:
    """For fixtures that make rigs on demand: what is entered into it is left behind the test."""
    return AsyncExitStack()
