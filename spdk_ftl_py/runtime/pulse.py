"""Periodic work of many objects in the same turns of the event loop, so that an idle process wakes seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final
from weakref import WeakKeyDictionary

_serial = count()


class _Pulse:
    """The beats of one period on one loop: one timer for all who look at them."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._looks: dict[int, Callable[[], object]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, look: Callable[[], object]) -> int:
        number = next(_serial)
        self._looks[number] = look
        if self._timer is None:
            self._arm()
        return number

    def remove(self, number: int) -> bool:
        """Whether nobody looks any more. Idempotent."""
        self._looks.pop(number, None)
        if self._looks:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(next_beat(self._period_s), self._beat)

    def _beat(self) -> None:
        self._arm()
        for number, look in list(self._looks.items()):
            # A look may end others.
            if number in self._looks:
                look()


_pulses: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, _Pulse]]] = WeakKeyDictionary()


def next_beat(period_s: float) -> float:
    """The loop's time of the next beat: a multiple of period_s, at most period_s ahead."""
    now = asyncio.get_running_loop().time()
    beat = (now // period_s + 1) * period_s
    # Rounding may give the beat that is now.
    return beat if beat > now else beat + period_s


def on_beat(period_s: float, look: Callable[[], object]) -> Callable[[], None]:
    """Calls look() at each beat from now on, in the turn in which all with that period, or a multiple of it, are
    called. It must be quick, and must not raise. Returns a function that ends this; it is idempotent."""
    loop = asyncio.get_running_loop()
    pulses = _pulses.setdefault(loop, {})
    pulse = pulses.get(period_s)
    if pulse is None:
        pulse = pulses[period_s] = _Pulse(period_s)
    number = pulse.add(look)

    def end() -> None:
        if pulse.remove(number) and pulses.get(period_s) is pulse:
            del pulses[period_s]

    return end


async def beat(period_s: float, *, idle: Callable[[], bool] | None = None) -> None:
    """Sleeps until the next beat. All that wait with the same period wake in one turn; those with a multiple of it,
    too.

    idle: sleeps on while that is true. It is asked at each beat, without a turn of the caller's task, which takes some
    30 times as long. What it raises is raised here.
    """
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look() -> None:
        if woken.done():
            return
        try:
            if idle is not None and idle():
                return
        except Exception as error:
            woken.set_exception(error)
        else:
            woken.set_result(None)

    end = on_beat(period_s, look)
    try:
        await woken
    finally:
        end()
