"""Which loads run at the same time: never more than allowed, the small ones first, nobody kept from his turn."""

from __future__ import annotations

import asyncio
import random

import pytest

from spdk_ftl_py.daemon import load_turns as module
from spdk_ftl_py.daemon.load_turns import LoadTurn, LoadTurns
from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.time_limit import time_limit

MIB = 1 << 20
NEVER_S = 1000.0


class Load:
    """One that runs until end() is called."""

    def __init__(
        self,
        turns: LoadTurns,
        size: int,
        *,
        room: int = 0,
        first: bool = False,
        at_once: bool = False,
        failed: bool = False,
    ) -> None:
        self.size = size
        self.turn: LoadTurn | None = None
        self.began = asyncio.Event()
        self._end = asyncio.Event()
        self._turns = turns
        self._room = room
        self.task = asyncio.ensure_future(self._run(first=first, at_once=at_once, failed_before=failed))

    async def _run(self, **options: bool) -> None:
        async with self._turns.turn(self.size, **options) as self.turn:
            if self._room:
                await self.turn.room(self._room)
            self.began.set()
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def begun(loads: list[Load]) -> list[int]:
    await settle()
    return [load.size for load in loads if load.began.is_set() and not load.task.done()]


async def end_all(loads: list[Load]) -> None:
    for load in loads:
        load.task.cancel()
    await asyncio.gather(*(load.task for load in loads), return_exceptions=True)


async def test_the_smallest_go_first_and_never_more_than_allowed() -> None:
    turns = LoadTurns(2, stall_s=NEVER_S)
    loads = [Load(turns, size) for size in (50, 40, 10, 30, 20)]
    assert await begun(loads) == [50, 40]
    await loads[0].end()
    assert await begun(loads) == [40, 10]
    await loads[1].end()
    assert await begun(loads) == [10, 20]
    waiting = loads[3].turn
    assert waiting is None
    await loads[2].end()
    assert await begun(loads) == [30, 20]
    for load in loads[3:]:
        await load.end()
    assert turns._turns == []


async def test_an_order_goes_before_the_others_and_a_failed_load_behind_them() -> None:
    turns = LoadTurns(1, stall_s=NEVER_S)
    loads = [Load(turns, 1), Load(turns, 2, failed=True), Load(turns, 50), Load(turns, 90, first=True)]
    served = []
    for _ in loads:
        (size,) = await begun(loads)
        served.append(size)
        await next(load for load in loads if load.size == size).end()
    assert served == [1, 90, 50, 2]


async def test_one_whose_hosts_are_held_waits_for_no_place_but_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = LoadTurns(1, memory_mib=10, stall_s=NEVER_S)
    running = Load(turns, 1, room=8 * MIB)
    parked = Load(turns, 2, room=9 * MIB)
    other = Load(turns, 3, first=True)
    changes = [Load(turns, 90, at_once=True), Load(turns, 91, room=4 * MIB, at_once=True)]
    assert await begun([running, parked, other, *changes]) == [1, 90]
    assert "memory to load" in turns_of(changes[1]).waits_for
    # Who waits for memory does not keep one without need for it waiting.
    monkeypatch.setattr(module, "PARKED_MAX", 0)
    changes.append(Load(turns, 92, at_once=True))
    assert await begun([running, parked, other, *changes]) == [1, 90, 92]
    await running.end()
    assert await begun([parked, other, *changes]) == [90, 91, 92]
    monkeypatch.undo()
    for change in changes:
        await change.end()
    assert await begun([parked, other]) == [3]
    await other.end()
    assert await begun([parked]) == [2]
    await parked.end()
    assert turns._turns == []


async def test_who_has_waited_long_is_served_in_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENT_S", 0.0)
    turns = LoadTurns(1, stall_s=NEVER_S)
    loads = [Load(turns, size) for size in (3, 9, 1, 2)]
    served = []
    for _ in loads:
        (size,) = await begun(loads)
        served.append(size)
        await next(load for load in loads if load.size == size).end()
    assert served == [3, 9, 1, 2]


async def test_one_that_stands_still_leaves_its_place_and_counts_again_when_it_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    turns = LoadTurns(1, stall_s=0.02, hold_s=NEVER_S)
    hangs, other, third = (Load(turns, size) for size in (1, 2, 3))
    assert await begun([hangs, other]) == [1]
    async with time_limit(20):
        await other.began.wait()
    assert hangs.turn is not None
    # Its place is gone, but hosts wait longer.
    assert hangs.turn.stands_still
    assert hangs.turn.moves
    turns.hold_s = 0.0
    assert not hangs.turn.moves
    turns.hold_s = NEVER_S
    hangs.turn.moved()
    assert hangs.turn in turns.running
    assert hangs.turn.moves
    async with time_limit(20):
        await third.began.wait()
    await end_all([hangs, other, third])
    assert turns._turns == []
    assert turns._timer is None


async def test_memory_is_shared_and_one_that_is_larger_is_alone_with_it() -> None:
    turns = LoadTurns(8, memory_mib=10, stall_s=NEVER_S)
    large = Load(turns, 9, room=50 * MIB)
    loads = [large, Load(turns, 1, room=6 * MIB), Load(turns, 2, room=4 * MIB), Load(turns, 3, room=1 * MIB)]
    assert await begun(loads) == [9]
    assert loads[1].turn is None or loads[1].turn.waits
    clean = Load(turns, 7)
    assert await begun([clean]) == [7]
    # It has no memory any more, though it has not ended.
    assert large.turn is not None
    await large.turn.room(0)
    assert await begun(loads) == [9, 1, 2]
    assert turns.taken_bytes == 10 * MIB
    assert loads[3].turn is not None
    assert loads[3].turn.waits_for == (
        "memory to load: it takes 1 MiB beside its L2P, and other loads have 10 of 10 MiB (serve --load-memory)"
    )
    await loads[2].end()
    assert await begun(loads) == [9, 1, 3]
    assert turns.taken_bytes == 7 * MIB
    await end_all([*loads, clean])
    assert turns.taken_bytes == 0


async def test_a_large_one_that_waits_long_for_memory_is_not_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = LoadTurns(8, memory_mib=10, stall_s=NEVER_S)
    first, large = Load(turns, 1, room=6 * MIB), Load(turns, 9, room=50 * MIB)
    assert await begun([first, large]) == [1]
    small = Load(turns, 2, room=2 * MIB)
    assert await begun([first, large, small]) == [1, 2]
    monkeypatch.setattr(module, "PATIENT_S", 0.0)
    late = Load(turns, 3, room=1 * MIB)
    assert await begun([first, large, small, late]) == [1, 2]
    await first.end()
    await small.end()
    assert await begun([large, late]) == [9]
    await large.end()
    assert await begun([late]) == [3]
    await late.end()


async def test_only_some_begin_that_can_not_have_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PARKED_MAX", 2)
    turns = LoadTurns(1, memory_mib=10, stall_s=NEVER_S)
    loads = [Load(turns, size, room=10 * MIB) for size in range(1, 9)]
    await settle()
    began = [load for load in loads if load.turn is not None]
    assert len(began) == 1
    await turns_of(began[0]).room(10 * MIB)
    monkeypatch.setattr(turns, "most", 2)
    turns.look()
    await settle()
    assert sum(load.turn is not None for load in loads) <= 4
    assert await begun(loads) == [1]
    await end_all(loads)


def turns_of(load: Load) -> LoadTurn:
    assert load.turn is not None
    return load.turn


async def test_it_says_what_a_load_waits_for() -> None:
    turns = LoadTurns(1, stall_s=NEVER_S)
    loads = [Load(turns, size) for size in (1, 2, 3)]
    await settle()
    waiting = [turn for turn in turns._turns if turn.waits]
    assert [turn.waits_for for turn in waiting] == [
        f"its turn to load: 1 FTLs are being loaded, at most 1 at a time (serve --loads), and {before} are before it"
        for before in (0, 1)
    ]
    assert turns_of(loads[0]).waits_for == ""
    await end_all(loads)


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_all_get_their_turn_within_the_bounds(seed: int) -> None:
    chance = random.Random(seed)
    most, memory = chance.randint(1, 5), 20
    turns = LoadTurns(most, memory_mib=memory, stall_s=NEVER_S)
    now = taken = ended = 0

    async def one(number: int) -> None:
        nonlocal now, taken, ended
        size, needs = chance.randint(1, 100), chance.choice((0, 0, 3, 7, 15, 40))
        async with turns.turn(size, failed_before=chance.random() < 0.2) as turn:
            now += 1
            assert now <= most
            await asyncio.sleep(0)
            if needs:
                now -= 1
                await turn.room(needs * MIB)
                now += 1
                taken += needs
                assert now <= most
                assert taken <= memory or taken == needs
                for _ in range(chance.randint(0, 5)):
                    await asyncio.sleep(0)
                taken -= needs
                await turn.room(0)
            now -= 1
        ended += 1

    tasks = [asyncio.ensure_future(one(number)) for number in range(64)]
    for _ in range(chance.randint(1, 60)):
        await asyncio.sleep(0)
    async with time_limit(20):
        await asyncio.gather(*tasks)
    assert ended == 64
    assert turns.taken_bytes == 0
    assert turns._turns == []


@pytest.mark.parametrize(("most", "memory_mib"), [(0, 1), (257, 1), (1, 0)])
def test_bounds_that_can_not_work_are_refused(most: int, memory_mib: int) -> None:
    with pytest.raises(ParameterError):
        LoadTurns(most, memory_mib)
