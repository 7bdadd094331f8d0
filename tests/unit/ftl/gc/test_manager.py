"""The band manager against a core that only tells of bands and takes orders."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.conf import FtlConf, Limit
from spdk_ftl_py.ftl.gc import manager as manager_module
from spdk_ftl_py.ftl.gc import standstill
from spdk_ftl_py.ftl.gc.manager import BandManager
from spdk_ftl_py.ftl.gc.reserve import CAREFUL_BANDS
from spdk_ftl_py.ftl.media.band import CLOSED, CLOSING, FREE, MOVING, OPEN, QUEUED, RESETTING, Band
from spdk_ftl_py.ftl.policy.interface import AgeClasses, Placement
from spdk_ftl_py.ftl.policy.pacing import Pace
from spdk_ftl_py.runtime.waiting import until

from .band_rig import bands_of, rows_of

BLOCKS = 1000
CONF = FtlConf(limits={"crit": Limit(0, 1), "high": Limit(5, 2), "low": Limit(40, 3), "start": Limit(100, 4)})


class ToldCore:
    """Its bands change by orders alone."""

    def __init__(self, bands: list[Band]) -> None:
        self.bands = list(bands)
        self.band_changes = 0
        self.next_seq = 1
        self.takings = 0
        self.opened: list[tuple[int, int, int]] = []
        self.moved: list[int] = []
        self.share = 100
        self.write_buffer_used = 0

    def changed_bands(self, most: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        self.takings += 1
        return rows_of([])

    def band_rows(self, first: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return rows_of(self.bands[first : first + count])

    def take_queued(self, stream: int) -> int | None:
        for band in self.bands:
            if band.state == QUEUED and band.stream == stream:
                self.bands[band.index] = dataclasses.replace(band, state=FREE)
                return band.index
        return None

    def open_band(self, stream: int, band: int, seq: int) -> None:
        assert self.bands[band].state == FREE
        self.bands[band] = dataclasses.replace(self.bands[band], state=QUEUED, stream=stream)
        self.opened.append((stream, band, seq))

    def set_placement(self, **fields: Any) -> None:
        self.placed = fields

    def asking(self) -> list[int]:
        return [3]

    def reset_bands(self, numbers: list[int]) -> list[int]:
        return []

    def set_pace(self, user_percent: int, reloc_per_thousand: int | None = None) -> None:
        self.share = user_percent

    def close_zone(self, band: int, punit: int) -> None:
        self.bands[band] = dataclasses.replace(self.bands[band], state=CLOSING, written=BLOCKS)

    def start_move(self, band: int) -> None:
        self.moved.append(band)

    def stats(self) -> Any:
        used = self.write_buffer_used
        return SimpleNamespace(write_buffer_used=used, media_written_blocks=0, zone_resets=0, busy_answers=0)


def manager_of(bands: list[Band], *, crashed: bool = False) -> tuple[BandManager, ToldCore]:
    core = ToldCore(bands)
    geometry: Any = SimpleNamespace(
        band_blocks=BLOCKS,
        shared_stream=False,
        punits=1,
        classes_max=8,
        band_count=len(bands),
        open_bands=2,
        block_count=BLOCKS,
        spare_bands=len(bands) - 1,
    )
    told: Any = core
    manager = BandManager(
        told,
        geometry,
        CONF,
        bands_of(bands),
        buffer_blocks=64,
        on_stuck=lambda reason: None,
        next_band_seq=50,
        crashed=crashed,
    )
    return manager, core


def band(index: int, state: str, *, valid: int = 0, written: int = 0, stream: int = _shim.STREAM_USER) -> Band:
    return Band(index, [index], BLOCKS, state, index + 1, stream, valid, written, set())


async def test_relocation_without_a_band_takes_the_users_next_one() -> None:
    """Its band lost a zone that the move counted on, and he has one to write that he has not begun."""
    manager, core = manager_of(
        [
            band(0, MOVING, valid=400, written=BLOCKS),
            band(1, OPEN, valid=10, written=10),
            band(2, QUEUED),
            *(band(index, CLOSED, valid=900, written=BLOCKS) for index in range(3, 8)),
        ]
    )
    manager.start()
    assert (core.opened, core.moved) == ([(_shim.STREAM_RELOC, 2, 50)], [])
    # He gets the next one that is free.
    for index in (0, 3, 4, 5):
        core.bands[index] = band(index, FREE)
    manager.bands.refresh(rows_of(core.bands))
    manager.pump()
    assert [stream for stream, _, _ in core.opened] == [_shim.STREAM_RELOC, _shim.STREAM_USER]
    manager.stop()


def with_two_free_bands(count: int, *, rest: int, left: int) -> list[Band]:
    """rest: of relocation's band. left: to copy."""
    return [
        band(0, MOVING, valid=left, written=BLOCKS),
        band(1, OPEN, valid=10, written=BLOCKS - rest, stream=_shim.STREAM_RELOC),
        band(2, FREE),
        band(3, FREE),
        *(band(index, CLOSED, valid=900, written=BLOCKS) for index in range(4, count)),
    ]


def gets_one(manager: BandManager, core: ToldCore) -> bool:
    """Whether the user gets a band."""
    manager.start()
    manager.stop()
    return _shim.STREAM_USER in [stream for stream, _, _ in core.opened]


@pytest.mark.parametrize(("rest", "left", "his"), [(500, 300, True), (100, 300, False), (500, 600, False)])
async def test_the_user_gets_what_relocation_needs_neither_now_nor_for_its_next_move(
    rest: int, left: int, his: bool
) -> None:
    """Counted in blocks: if little is left to copy, one free band and the rest of relocation's are enough for it."""
    manager, core = manager_of(with_two_free_bands(40, rest=rest, left=left))
    assert gets_one(manager, core) == his


@pytest.mark.parametrize("why", ["few bands", "a crash", "a zone that ended"])
async def test_the_user_gets_none_of_the_last_two_free_bands_if_their_rests_may_be_lost(why: str) -> None:
    bands = with_two_free_bands(9 if why == "few bands" else 40, rest=500, left=300)
    manager, core = manager_of(bands, crashed=why == "a crash")
    if why == "a zone that ended":
        manager.zone_ended()
    assert not gets_one(manager, core)
    if why != "few bands":
        # That was long ago.
        manager, core = manager_of(bands, crashed=why == "a crash")
        if why == "a zone that ended":
            manager.zone_ended()
        manager._feeding.next_band_seq += CAREFUL_BANDS
        assert gets_one(manager, core)


@pytest.mark.parametrize(
    ("room", "free", "share"),
    [(0, 1, 0), (500, 1, 100), (500, 0, 0)],
    ids=["nothing else to write to", "his band has room", "moves lack room"],
)
async def test_while_resets_are_in_progress_hosts_go_on_unless_their_data_has_to_go_to_relocations_band(
    room: int, free: int, share: int
) -> None:
    """Each reset waits for what was accepted before, so each of them could take a write buffer from relocation's room.
    A threaded reactor was left without any, with several resets in progress."""
    manager, core = manager_of(
        [
            band(0, OPEN, valid=9, written=BLOCKS - room),
            band(1, OPEN, valid=9, written=700, stream=_shim.STREAM_RELOC),
            band(2, MOVING, valid=600, written=BLOCKS),
            *(band(index, RESETTING, written=BLOCKS) for index in (3, 4)),
            *(band(index, FREE) for index in range(5, 5 + free)),
            *(band(index, CLOSED, valid=BLOCKS, written=BLOCKS) for index in range(5 + free, 40)),
        ]
    )
    manager._started = True
    manager.policy.policy.pace = lambda limits, level, moves: Pace()  # type: ignore[method-assign]
    if not room:
        manager.band_wanted(_shim.STREAM_USER)
    manager.pump()
    manager.stop()
    assert core.share == share


@pytest.mark.parametrize(("rest", "his"), [(700, True), (650, False)])
async def test_a_reset_that_waits_for_the_users_data_gets_no_band_that_moves_need(rest: int, his: bool) -> None:
    manager, core = manager_of(
        [
            band(0, OPEN, valid=9, written=BLOCKS),
            band(1, OPEN, valid=9, written=BLOCKS - rest, stream=_shim.STREAM_RELOC),
            band(2, MOVING, valid=600, written=BLOCKS),
            band(3, RESETTING, written=BLOCKS),
            band(4, FREE),
            *(band(index, CLOSED, valid=BLOCKS, written=BLOCKS) for index in range(5, 40)),
        ]
    )
    core.write_buffer_used = 64
    manager._started = True
    manager.band_wanted(_shim.STREAM_USER)
    manager.pump()
    manager.stop()
    assert core.opened == ([(_shim.STREAM_USER, 4, 50)] if his else [])


class DrainingCore(ToldCore):
    """Its user data goes to relocation's band 1 just before somebody looks at the write buffer. Hosts fill that again
    after it, unless they are stopped."""

    def stats(self) -> Any:
        self.bands[1] = dataclasses.replace(self.bands[1], written=self.bands[1].written + self.write_buffer_used)
        self.write_buffer_used = 0
        answer = super().stats()
        self.write_buffer_used = 60 if self.share else 0
        return answer


async def test_user_data_that_goes_to_relocations_band_meanwhile_is_counted() -> None:
    manager, _ = manager_of(
        [
            band(0, OPEN, valid=9, written=BLOCKS),
            band(1, OPEN, valid=9, written=BLOCKS - 300, stream=_shim.STREAM_RELOC),
            band(2, QUEUED, stream=_shim.STREAM_RELOC),
            *(band(index, CLOSED, valid=640, written=BLOCKS) for index in range(3, 40)),
        ]
    )
    core = DrainingCore(manager._core.bands)
    core.write_buffer_used = 60
    for part in (manager, manager.reserve, manager._feeding):
        part._core = core
    manager._started = True
    manager.band_wanted(_shim.STREAM_USER)
    manager.pump()
    manager.stop()
    # For two of 640 there was room only before.
    assert len(core.moved) == 1
    room = sum(each.room for each in core.bands[1:3])
    assert room >= 640 * len(core.moved) + core.write_buffer_used


def early_band(*, moving: bool = True, free: int = 1, room: int = 900, valid: int = 900) -> list[Band]:
    """Twelve bands. The user stream has its next band, and so much room in the one that it writes."""
    return [
        band(0, MOVING if moving else CLOSED, valid=valid, written=BLOCKS),
        band(1, OPEN, valid=10, written=BLOCKS - room),
        band(2, QUEUED),
        *(band(index, FREE) for index in range(3, 3 + free)),
        *(band(index, CLOSED, valid=900, written=BLOCKS) for index in range(3 + free, 12)),
    ]


@pytest.mark.parametrize("room", [100, 900])
@pytest.mark.parametrize("free", [0, 1, 3])
@pytest.mark.parametrize("moving", [False, True])
async def test_the_users_next_band_is_taken_back_only_if_relocation_needs_it_and_he_does_not_yet(
    moving: bool, free: int, room: int
) -> None:
    """He asks for it again, and writes on meanwhile."""
    manager, core = manager_of(early_band(moving=moving, free=free, room=room))
    manager.start()
    # Without a free band, a move that has none to write to takes it in any case, and none begins. With one, one begins.
    taken = moving if free == 0 else free < 3 and room > 256
    assert (core.bands[2].state, core.bands[2].stream == _shim.STREAM_USER) == (
        (QUEUED, not taken) if free == 0 or not taken else (FREE, True)
    )
    assert (_shim.STREAM_USER in manager.classes.wanting) == taken
    manager.stop()


async def test_a_band_that_was_taken_back_is_not_given_again_until_he_needs_it() -> None:
    """Otherwise each look would open it, and take it back."""
    manager, core = manager_of(early_band(moving=False, valid=600))
    manager.start()
    opened = [stream for stream, _, _ in core.opened]
    for _ in range(20):
        manager.pump()
    assert core.bands[2].state == FREE
    assert [stream for stream, _, _ in core.opened] == opened
    assert core.share > 0
    # Now he does, and there is another.
    for number, changed in ((1, band(1, OPEN, valid=10, written=BLOCKS - 200)), (11, band(11, FREE))):
        core.bands[number] = changed
    manager.bands.refresh(rows_of(core.bands))
    manager.pump()
    assert [stream for stream, _, _ in core.opened] == [*opened, _shim.STREAM_USER]
    manager.stop()


async def test_his_band_is_not_taken_back_while_the_write_buffer_would_fill_the_rest_of_the_other() -> None:
    """A flush would wait for a whole move."""
    manager, core = manager_of(early_band())
    core.write_buffer_used = 700
    manager.start()
    assert core.bands[2].state == QUEUED
    assert core.share == 0
    manager.stop()


async def test_bands_that_were_taken_back_count_neither_for_wear_nor_as_written_after_a_crash() -> None:
    counted = []
    for room in (100, 900):
        manager, _ = manager_of(early_band(room=room), crashed=True)
        manager.start()
        until_careful = next(
            count for count in range(200) if not manager.reserve.in_whole_bands(manager.next_band_seq + count)
        )
        earned = next(count for count in range(200) if manager.levelling.earned(manager.next_band_seq + count))
        counted.append((until_careful, earned))
        manager.stop()
    assert counted[1] == (counted[0][0] + 1, counted[0][1] + 1)


async def test_what_he_gave_back_is_not_for_the_running_checkpoint() -> None:
    kept = []
    for given_back in (False, True):
        manager, _ = manager_of(early_band(moving=False, free=7))
        manager.start()
        if given_back:
            manager.reserve.given_back.add(_shim.STREAM_USER)
        kept.append(sum(manager.keep_band() is not None for _ in range(12)))
        manager.stop()
    assert kept[0] == kept[1] + 1 > 1


@pytest.mark.parametrize(("written", "moves"), [((900,), 3), ((100, 450, 200), 3), ((900,), 1)])
async def test_a_move_that_levels_wear_leaves_room_for_all_others(written: tuple[int, ...], moves: int) -> None:
    """Several open bands of relocation are those of classes that there were."""
    count = len(written)
    manager, core = manager_of(
        [
            *(band(i, OPEN, written=each, stream=_shim.STREAM_RELOC) for i, each in enumerate(written)),
            band(count, OPEN, written=600),
            *(band(index, FREE) for index in range(count + 1, count + 3)),
            band(count + 3, CLOSED, valid=BLOCKS, written=BLOCKS),
            *(band(index, CLOSED, valid=600, written=BLOCKS) for index in range(count + 4, 40)),
        ]
    )
    manager._conf = dataclasses.replace(CONF, max_active_relocs=moves)
    manager.levelling.victim = lambda next_band_seq: count + 3  # type: ignore[method-assign]
    manager.levelling.may_rest = lambda number: True  # type: ignore[method-assign]
    manager.policy.policy.pace = lambda limits, level, moves: Pace()  # type: ignore[method-assign]
    manager._started = True
    begins = count == 1 and moves > 1
    assert manager._level_wear() == begins
    assert core.moved == ([count + 3] if begins else [])
    # Its band is given up for it.
    assert [each.state for each in core.bands[:count]] == ([CLOSING] if begins else [OPEN] * count)
    if begins:
        manager.bands.refresh(rows_of(core.bands))
        manager.bands.ordered(count + 3, MOVING)
        manager._set_share()
        assert core.share == 100
        assert manager.reserve.reloc_room() >= manager.reserve.committed() + 600 + manager.reserve.least_gain + 64
    manager.stop()


SIX = Placement(
    classes=6,
    user_classes=3,
    user=AgeClasses((0, 1, 2), (10, 20)),
    relocated=(AgeClasses((3, 4), (7,)), *(AgeClasses((5,)),) * 5),
)
SPACIOUS = [band(index, FREE) for index in range(20)]


async def test_a_placement_is_passed_on_unless_it_has_more_classes_than_there_is_room_for() -> None:
    manager, core = manager_of(SPACIOUS)
    assert manager.classes_max == 8
    manager.set_placement(SIX)
    assert core.placed["user"] == ((0, 1, 2), (10, 20))
    assert core.placed["relocated"] == [((3, 4), (7,)), *[((5,), ())] * 5]
    manager, core = manager_of(SPACIOUS[:9])
    assert manager.classes_max == 3
    with pytest.raises(ValueError, match="6 classes: this FTL has bands for 3 at most"):
        manager.set_placement(SIX)
    assert not hasattr(core, "placed")


async def test_of_several_classes_only_those_that_ask_get_a_band() -> None:
    manager, core = manager_of(SPACIOUS)
    manager.policy.policy.placement = lambda: SIX  # type: ignore[method-assign]
    manager.start()
    assert [stream for stream, _, _ in core.opened] == [3, 0]
    for stream in (5, 7, 1):
        manager.band_wanted(stream)
    manager.pump()
    assert [stream for stream, _, _ in core.opened] == [3, 0, 5, 1], "class 7 is one that there was"
    core.opened.clear()
    manager.set_placement(Placement())
    manager.band_wanted(1)
    manager.want_all()
    manager.pump()
    assert {stream for stream, _, _ in core.opened} <= {0, 1}
    manager.stop()


@pytest.mark.parametrize("wanted", [3, 4])
@pytest.mark.parametrize("room", [True, False])
async def test_a_class_leaves_the_reserve_to_a_side_without_room(wanted: int, room: bool) -> None:
    written = 10 if room else BLOCKS
    bands = [
        band(0, OPEN, valid=9, written=written, stream=5),
        band(1, OPEN, valid=9, written=10, stream=0),
        band(2, FREE),
        band(3, FREE),
        *(band(index, CLOSED, valid=900, written=BLOCKS) for index in range(4, 20)),
    ]
    manager, core = manager_of(bands)
    manager.set_placement(SIX)
    manager._started = True
    manager.band_wanted(wanted)
    manager.pump()
    assert [stream for stream, _, _ in core.opened] == ([] if room else [wanted])
    # The rest of all bands of relocation is what it can write.
    assert manager.reserve.reloc_room() == 2 * BLOCKS + (BLOCKS - 10 if room else 0)
    assert not manager.reserve.user_starved()
    manager.stop()


@pytest.mark.parametrize(("count", "moves"), [(40, True), (17, True), (16, False)])
async def test_a_band_more_is_kept_for_several_classes_if_there_are_enough(count: int, moves: bool) -> None:
    def bands() -> list[Band]:
        return [
            band(0, OPEN, valid=9, written=10, stream=3),
            band(1, OPEN, valid=9, written=10, stream=0),
            *(band(index, FREE) for index in range(2, 7)),
            *(band(index, CLOSED, valid=500, written=BLOCKS) for index in range(7, count)),
        ]

    for placement in (Placement(), SIX):
        manager, core = manager_of(bands())
        manager.set_placement(placement)
        manager._started = True
        manager.pump()
        # One more than the threshold of start is free.
        assert bool(core.moved) == (moves and placement is SIX)
        manager.stop()


async def test_bands_that_wait_for_one_of_several_classes_are_not_free_space() -> None:
    def level(*states: str) -> float:
        queued = [band(index, state, stream=4) for index, state in enumerate(states)]
        closed = [band(index, CLOSED, valid=900, written=BLOCKS) for index in range(2, 60)]
        manager, _ = manager_of([*queued, *closed])
        manager.set_placement(SIX)
        return manager.level

    # A queued band alone counts half, as any that is being written, and now a whole less.
    assert level(FREE, FREE) - level(FREE, QUEUED) == 1.5


async def test_a_policy_of_several_classes_is_replaced_before_the_device_is_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(standstill, "STUCK_S", 0.01)
    manager, core = manager_of(
        [
            band(0, OPEN, valid=9, written=BLOCKS, stream=0),
            band(1, OPEN, valid=9, written=BLOCKS, stream=3),
            *(band(index, CLOSED, valid=BLOCKS, written=BLOCKS) for index in range(2, 20)),
        ]
    )
    told: list[tuple[str | None, int, str]] = []
    manager._on_stuck = lambda why: told.append((manager.policy.replaced, core.placed["classes"], why))
    manager.policy.policy.placement = lambda: SIX  # type: ignore[method-assign]
    manager.start()
    assert core.placed["classes"] == 6
    assert await until(lambda: core.placed["classes"] == 2, timeout_s=5, poll_s=0.01)
    assert not told
    manager.band_wanted(0)
    assert await until(lambda: bool(told), timeout_s=5, poll_s=0.01)
    ((replaced, classes, why),) = told
    assert "no free band is left (20 bands, 18 of them closed)" in why
    assert classes == 2
    assert replaced == f"its classes took too many bands: {why}"
    assert manager.stopped


async def test_while_no_band_changes_the_core_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "IDLE_POLL_S", 0.01)
    monkeypatch.setattr(manager_module, "IDLE_POLL_MAX_S", 0.02)
    manager, core = manager_of([band(0, QUEUED), band(1, QUEUED, stream=_shim.STREAM_RELOC), band(2, FREE)])
    manager.start()
    manager.pump()
    before = core.takings
    await asyncio.sleep(0.1)
    assert core.takings == before
    # Whether or not an event tells of it.
    core.band_changes += 1
    assert await until(lambda: core.takings > before, timeout_s=10, poll_s=0.005)
    manager.stop()
    after = core.takings
    core.band_changes += 1
    await asyncio.sleep(0.05)
    assert core.takings == after


async def test_a_placement_that_the_core_refuses_costs_the_policy() -> None:
    manager, core = manager_of(SPACIOUS)
    placed = core.set_placement

    def refuse(**fields: Any) -> None:
        if fields["classes"] > 2:
            raise ValueError("too many")
        placed(**fields)

    core.set_placement = refuse  # type: ignore[method-assign]
    manager.policy.policy.placement = lambda: SIX  # type: ignore[method-assign]
    manager.start()
    assert manager.policy.replaced == "placement() returned nonsense: too many"
    assert core.placed["classes"] == 2
    assert [stream for stream, _, _ in core.opened] == [1, 0]
    manager.stop()


async def test_thresholds_that_leave_no_room_for_classes_need_a_policy_with_fewer() -> None:
    manager, _ = manager_of(SPACIOUS)
    assert manager.classes_max == 8
    greedy = dataclasses.replace(CONF, reloc_policy="greedy")
    assert manager.needs_new_policy(greedy)
    assert not manager.needs_new_policy(dataclasses.replace(CONF, invalid_thld=1))
    high = CONF.with_limits(start=Limit(100, 15))
    assert manager.needs_new_policy(high)
    manager.set_conf(high, manager.new_policy(high))
    assert manager.classes_max == 3
    assert not manager.needs_new_policy(high)
    manager.stop()
