"""The reactor threads of a process, shared by everything that does I/O in it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from ..errors import BusyError, ParameterError
from .reactor import ReactorLoop

REACTORS_MAX: Final = 256
_LIST: Final = re.compile(r"\[?(\d{1,5}(?:-\d{1,5})?(?:,\d{1,5}(?:-\d{1,5})?)*)\]?")
_MASK: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,1024})")


def usable_cpus() -> tuple[int, ...]:
    """The CPUs on which this process may run, in ascending order."""
    return tuple(sorted(os.sched_getaffinity(0)))


def parse_cpu_mask(given: str) -> tuple[int, ...]:
    """CPUs as SPDK's -m takes them, in ascending order: a hexadecimal mask (0x6 or 6), or a list in brackets
    (``[1,2]``, ``[1-3]``). A list with a comma or a dash needs no brackets.

    Raises ParameterError: it is neither, or this process may not run on one of them.
    """
    text = given.strip()
    if (listed := _LIST.fullmatch(text)) and any(mark in text for mark in "[,-"):
        found: set[int] = set()
        for part in listed[1].split(","):
            first, _, last = part.partition("-")
            if int(last or first) < int(first):
                raise ParameterError(f"CPUs {given!r}: the range {part} ends before it begins")
            found.update(range(int(first), int(last or first) + 1))
    elif mask := _MASK.fullmatch(text):
        bits = int(mask[1], 16)
        found = {cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1}
    else:
        raise ParameterError(f"CPUs {given!r}: give a hexadecimal mask like 0x6, or a list like [1,2] or [1-2]")
    if not found:
        raise ParameterError(f"CPUs {given!r}: no CPU is given")
    if missing := found.difference(usable := usable_cpus()):
        raise ParameterError(
            f"CPUs {given!r}: this process can't run on CPU {', '.join(map(str, sorted(missing)[:8]))}; it can run on "
            f"{', '.join(map(str, usable[:64]))}"
        )
    return tuple(sorted(found))


class Reactors:
    """A fixed number of reactors. Each has a thread while somebody uses it.

    >>> reactors = Reactors(2)
    >>> reactor = await reactors.take()
    >>> await reactors.give_back(reactor)
    """

    def __init__(self, most: int | None = None, cpus: Sequence[int] = ()) -> None:
        """most: how many reactors; one for each of the CPUs by default. cpus: the first reactor's thread is pinned to
        the first one, and so on, in turn; without them, threads run where the kernel puts them. Raises
        ParameterError."""
        most = most or min(REACTORS_MAX, len(cpus or usable_cpus()))
        if not 1 <= most <= REACTORS_MAX:
            raise ParameterError(f"{most} reactors: there can be 1 to {REACTORS_MAX}")
        self.cpus = tuple(cpus)
        self._reactors: list[ReactorLoop | None] = [None] * most
        self._users = [0] * most

    @property
    def most(self) -> int:
        return len(self._reactors)

    async def take(self) -> ReactorLoop:
        """The reactor with the fewest users, running. Call give_back() as often."""
        return (await self.take_several(1))[0]

    async def take_more(self, besides: ReactorLoop, count: int) -> list[ReactorLoop]:
        """As take_several(), of the others."""
        return await self.take_several(count, besides)

    async def take_several(self, count: int, besides: ReactorLoop | None = None) -> list[ReactorLoop]:
        """Different reactors, those with the fewest users first. Raises ParameterError if there are not so many."""
        if count > self.most:
            raise ParameterError(
                f"{count} cores: this daemon has {self.most} reactor{'s' if self.most > 1 else ''}: start it with "
                f"--reactors {count} or more, or ask for fewer cores"
            )
        others = (number for number in range(self.most) if besides is None or self._reactors[number] is not besides)
        numbers = sorted(others, key=lambda number: (self._users[number], number))[:count]
        taken: list[ReactorLoop] = []
        try:
            for number in numbers:
                reactor = self._reactors[number]
                if reactor is None:
                    cpu = self.cpus[number % len(self.cpus)] if self.cpus else None
                    reactor = ReactorLoop(f"reactor-{number}", cpu=cpu)
                    await reactor.start()
                    self._reactors[number] = reactor
                self._users[number] += 1
                taken.append(reactor)
        except BaseException:
            for reactor in taken:
                await self.give_back(reactor)
            raise
        return taken

    async def give_back(self, reactor: ReactorLoop) -> None:
        """The last user's call ends the thread. Nothing of that user may be on the reactor any more. Raises BusyError
        if nobody uses it."""
        if reactor not in self._reactors:
            raise BusyError(f"{reactor.name} is not used by anybody")
        number = self._reactors.index(reactor)
        self._users[number] -= 1
        if self._users[number] == 0:
            self._reactors[number] = None
            await reactor.stop()
