"""The watchdog of a service manager hears of this process only while all its threads turn."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.runtime import watchdog as module
from spdk_ftl_py.runtime.reactor import ReactorLoop, running_reactors
from spdk_ftl_py.runtime.service_manager import ServiceManager
from spdk_ftl_py.runtime.watchdog import Watchdog
from spdk_ftl_py.time_limit import time_limit

ALIVE = "WATCHDOG=1"


class Listening:
    """A service manager that only listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return lines

    def manager(self, **more: str) -> ServiceManager:
        return ServiceManager({"NOTIFY_SOCKET": str(self.path), **more})


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(tmp_path / "notify")
    yield made
    made.socket.close()


async def turned(reactor: ReactorLoop, before: int) -> None:
    async with time_limit(20):
        while reactor.shim.rounds == before:  # noqa: ASYNC110 - the reactor tells nobody
            await asyncio.sleep(0)


async def test_an_idle_reactor_is_alive(listening: Listening) -> None:
    watchdog = Watchdog(listening.manager(WATCHDOG_USEC="60000000"))
    async with ReactorLoop("idle", spin_us=0) as reactor:
        assert reactor in running_reactors()
        for _ in range(3):
            before = reactor.shim.rounds
            watchdog.look()
            assert listening.heard() == [ALIVE]
            # It slept, and was woken for the next look.
            await turned(reactor, before)
    assert reactor not in running_reactors()
    watchdog.look()
    assert listening.heard() == [ALIVE]


async def test_a_reactor_that_hangs_is_reported_by_silence(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = Watchdog(listening.manager(WATCHDOG_USEC="60000000"))
    async with ReactorLoop("stuck", spin_us=0) as reactor:
        watchdog.look()
        # The thread is gone, and nobody but the watchdog can know.
        reactor.shim.stop()
        # Rounds before its end count; behind these nothing turns.
        watchdog.look()
        listening.heard()
        for _ in range(3):
            watchdog.look()
        assert listening.heard() == []
        watchdog.stopping(100.0, int)
        # Nor does a halt get more time.
        assert listening.heard() == ["STOPPING=1"]
        before = reactor.shim.rounds
        reactor.shim.start()
        reactor.shim.wake()
        await turned(reactor, before)
        watchdog.look()
        assert listening.heard() == [ALIVE]
    told = [record.getMessage() for record in caplog.records if "reactor thread" in record.getMessage()]
    assert [text.partition(":")[0] for text in told] == ["stuck", "stuck"]
    assert "has hung for 15 s" in told[0]
    assert "again" in told[1]


async def test_it_looks_several_times_in_a_period(listening: Listening) -> None:
    async with time_limit(20), Watchdog(listening.manager(WATCHDOG_USEC="40000", WATCHDOG_PID=str(os.getpid()))):
        heard: list[str] = []
        while heard.count(ALIVE) < 3:
            await asyncio.sleep(0)
            heard += listening.heard()
    assert set(heard) == {ALIVE}


async def test_a_start_and_a_halt_get_more_time_as_long_as_they_take(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXTEND_EVERY_S", 0.01)
    more = "EXTEND_TIMEOUT_USEC=60000000"

    async def hear_more() -> None:
        heard: list[str] = []
        while len(heard) < 3:
            await asyncio.sleep(0)
            heard += listening.heard()
        assert set(heard) == {more}

    async with time_limit(20), Watchdog(listening.manager()) as watchdog:
        with watchdog.starting():
            await hear_more()
        listening.heard()
        watchdog._extend()
        assert listening.heard() == []
        # Not for ever.
        monkeypatch.setattr(module, "EXTENDED_MAX_S", 0.0)
        with watchdog.starting():
            await asyncio.sleep(0)
            watchdog._extend()
            assert listening.heard() == []
        watchdog.stopping(100.0, int)
        assert listening.heard() == ["STOPPING=1", more]
        await hear_more()


async def test_a_halt_gets_more_time_only_while_it_moves_on_and_within_its_bound(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "EXTEND_TIMEOUT_USEC=60000000"
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    moves = 0
    watchdog = Watchdog(listening.manager())
    watchdog.stopping(100.0, lambda: moves)
    assert listening.heard() == ["STOPPING=1", more]
    extended = []
    for now in range(1010, 1130, 10):
        moves += now <= 1030 or now >= 1080
        watchdog._extend()
        if listening.heard():
            extended.append(now)
    # It stands still from 1030 on, and for good from 1060 on; then it moves again, until its time is over.
    assert extended == [1010, 1020, 1030, 1040, 1050, 1080, 1090]
    watchdog.tell_status("halting: 1 of 2")
    assert listening.heard() == ["STATUS=halting: 1 of 2"]


async def test_without_a_manager_it_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Watchdog(ServiceManager({"WATCHDOG_USEC": "1000"})) as watchdog:
        with watchdog.starting():
            pass
        watchdog.stopping(100.0, int)
        assert watchdog._tasks == []


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_PID": str(os.getpid())}, 0.0),
    ],
)
def test_the_watchdog_is_meant_for_this_process(
    variables: dict[str, str], seconds: float, listening: Listening
) -> None:
    environment = {"NOTIFY_SOCKET": str(listening.path), **variables}
    assert ServiceManager(environment).watchdog_s == seconds
    assert environment == {}


@pytest.mark.parametrize("period", ["x", "-5", "1.5", "9" * 30])
def test_a_period_that_is_no_number_is_refused(period: str) -> None:
    with pytest.raises(ParameterError, match=r"\$WATCHDOG_USEC"):
        ServiceManager({"WATCHDOG_USEC": period})
