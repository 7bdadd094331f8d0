"""Bands of several classes: which class each block goes to, and that no class waits for ever."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import BLOCK, GC_START_FREE_BANDS, Bench, Table, content

OPEN, CLOSING, QUEUED, FREE = (
    _shim.BandState.OPEN,
    _shim.BandState.CLOSING,
    _shim.BandState.QUEUED,
    _shim.BandState.FREE,
)
HOMELESS_NS = 5_000_000
STUCK_NS = 20_000_000


def bench_of(**options: Any) -> Bench:
    return Bench(**{"band_count": 24, "classes_max": 8, "fill_percent": 50, **options})


def rows(bench: Bench) -> np.ndarray[Any, Any]:
    return bench.core.band_rows(0, len(bench.zones)).view(np.dtype(_shim.band_row_layout()))


def only(number: int) -> Table:
    return ((number,), ())


def states(bench: Bench, stream: int) -> list[_shim.BandState]:
    return [band.state for band in bench.core.bands() if band.stream == stream and band.state != FREE]


def test_a_write_goes_to_the_class_for_the_age_of_what_it_replaces() -> None:
    with bench_of() as bench:
        bench.gc = False
        bench.place(((1, 2, 3), (10, 40)), only(4), unwritten=0)
        bench.put(5, 1)
        assert bench.flush() == 0
        assert bench.class_of(5) == 0, "nothing was there"
        bench.put(5, 2)
        assert bench.flush() == 0
        assert bench.class_of(5) == 1, "a younger version than 10 blocks"
        for lba in range(20, 45):
            bench.put(lba, 1)
        bench.put(5, 3)
        assert bench.flush() == 0
        assert bench.class_of(5) == 2
        for lba in range(50, 100):
            bench.put(lba, 1)
        # Two versions, both in the write buffer: the second one replaces one of age 0.
        first, second = (bench.port.submit(_shim.Op.WRITE, 5, 1, content(5, version)) for version in (4, 5))
        assert [bench.wait(ticket).status for ticket in (first, second)] == [0, 0]
        assert bench.flush() == 0
        assert bench.class_of(5) == 1
        bench.put(20, 2)
        assert bench.flush() == 0
        assert bench.class_of(20) == 3, "of 50 blocks and more"
        assert bench.wait(bench.port.submit(_shim.Op.DEALLOCATE, 20, 1)).status == 0
        bench.put(20, 3)
        assert bench.flush() == 0
        assert bench.class_of(20) == 0, "it was trimmed"


def test_a_region_decides_before_the_age() -> None:
    with bench_of() as bench:
        regions = np.array([255, 2, 1], np.uint8)
        bench.place(((0,), ()), only(3), regions=regions, region_blocks=16, user_classes=3)
        regions[:] = 0
        for lba in (3, 20, 40, 100):
            bench.put(lba, 1)
        assert bench.flush() == 0
        assert [bench.class_of(lba) for lba in (3, 20, 40, 100)] == [0, 2, 1, 0]


def test_a_copy_goes_to_the_class_for_its_age_and_for_the_class_it_was_in() -> None:
    with bench_of(punits=1) as bench:
        bench.gc = False
        bench.put(0, 1, 16)
        assert bench.flush() == 0
        source = bench.zone_of(bench.address(0))[0]
        lba = 16
        while bench.core.bands()[source].state == OPEN:
            bench.put(lba, 1)
            lba += 1
        bench.settle()
        # The blocks of seq 1 to 16 are just old enough.
        old = bench.core.next_seq - 16
        bench.place(only(0), ((2, 3), (old,)), only(4), user_classes=2)
        bench.core.start_move(source)
        bench.until(_shim.EventKind.MOVE_DONE)
        assert [bench.class_of(lba) for lba in range(17)] == [3] * 16 + [2]
        assert rows(bench)["data_seq"][bench.zone_of(bench.address(0))[0]] in (8, 9), "it did not become younger"


def test_rows_tell_when_a_band_was_opened_and_how_old_its_data_is() -> None:
    with bench_of() as bench:
        bench.gc = False
        bench.put(0, 1, 8)
        assert bench.flush() == 0
        number = bench.zone_of(bench.address(0))[0]
        row = rows(bench)[number]
        assert row["opened_seq"] in range(1, 10)
        assert row["data_seq"] in (4, 5), "the mean of 1 to 8, rounded towards opened_seq"
        free = next(number for number, band in enumerate(bench.core.bands()) if band.state == FREE)
        bench.core.load_history(free, np.array([5], np.uint8), np.array([3], np.uint64), np.array([1 << 60], np.uint64))
        row = rows(bench)[free]
        assert (row["stream"], row["opened_seq"], row["data_seq"]) == (5, 3, bench.core.next_seq)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 9}, "8 classes"),
        ({"classes": 0}, "each side"),
        ({"user_classes": 0}, "each side"),
        ({"user_classes": 3}, "each side"),
        ({"user_classes": 300}, "class 300"),
        ({"unwritten": 2}, "unwritten"),
        ({"user": ((2,), ())}, "class 2"),
        ({"user": ((0, 1), ())}, "one limit fewer"),
        ({"user": ((0, 1, 0), (7, 7))}, "ascend"),
        ({"user": ((), ())}, "1..8"),
        ({"relocated": []}, "1..8"),
        ({"relocated": [((1,), ())]}, "class 1"),
        ({"relocated": [((2,), ())] * 9}, "1..8"),
        ({"regions": np.array([0, 2], np.uint8)}, "region"),
        ({"region_blocks": 0}, "region_blocks"),
    ],
)
def test_a_placement_that_makes_no_sense_changes_nothing(change: dict[str, Any], message: str) -> None:
    sensible: dict[str, Any] = {
        "classes": 3, "user_classes": 2, "user": ((0, 1), (9,)), "unwritten": 1, "relocated": [((2,), ())],
    }  # fmt: skip
    with bench_of() as bench:
        bench.put(0, 1)
        with pytest.raises(ValueError, match=message):
            bench.core.set_placement(**(sensible | change))
        with pytest.raises(ValueError, match="stream 2"):
            bench.core.open_band(2, 20, 99)
        bench.core.set_placement(**sensible)
        bench.core.open_band(2, 20, 99)
    with bench_of(classes_max=2) as bench, pytest.raises(ValueError, match="2 classes"):
        bench.core.set_placement(**sensible)
    with bench_of(shared_stream=True) as bench, pytest.raises(ValueError, match="1 classes"):
        bench.core.set_placement(**sensible)


def test_a_flush_waits_for_the_data_of_every_class() -> None:
    with bench_of() as bench:
        regions = np.arange(6, dtype=np.uint8)
        bench.place(only(0), only(6), regions=regions, region_blocks=4, user_classes=6)
        for round_number in range(1, 4):
            tickets = [
                bench.port.submit(_shim.Op.WRITE, 4 * number, 1, content(4 * number, round_number))
                for number in range(6)
            ]
            flush = bench.port.submit(_shim.Op.FLUSH, 0, 0)
            assert bench.wait(flush).status == 0
            assert bench.on_media(range(0, 24, 4))
            assert [bench.class_of(lba) for lba in range(0, 24, 4)] == list(range(6))
            assert all(bench.wait(ticket).status == 0 for ticket in tickets)


@pytest.mark.parametrize("side", ["user", "reloc"])
def test_data_of_a_class_that_gets_no_band_goes_to_another_one_of_its_side(side: str) -> None:
    with bench_of(punits=1) as bench:
        bench.gc = False
        bench.place(
            only(0), ((2, 3), (100,)), regions=np.array([0, 1], np.uint8), region_blocks=64, user_classes=2, classes=4
        )
        bench.put(0, 1, 8)
        assert bench.flush() == 0
        if side == "user":
            bench.withheld = {1}
            begun = bench.now_ns
            bench.put(64, 1, 8)
            assert bench.flush() == 0
            assert bench.now_ns - begun >= HOMELESS_NS, "a band may be on its way"
            assert bench.class_of(64) == 0
            begun = bench.now_ns
            bench.put(80, 1, 8)
            assert bench.flush() == 0
            assert bench.now_ns - begun < HOMELESS_NS, "it waits only once"
            bench.withheld = set()
            bench.put(96, 1, 8)
            bench.settle()
            bench.put(104, 1)
            assert bench.flush() == 0
            assert bench.class_of(104) == 1
            return
        source = bench.zone_of(bench.address(0))[0]
        bench.write_to_the_end_of(source)
        bench.put(64, 1, 32)
        bench.put(0, 2, 4)
        bench.put(96, 1, 8)
        for lba in range(64, 128):
            bench.put(lba, 2)
        assert bench.flush() == 0
        # All of the source is older than 100 blocks by now, or not: only one of the two gets a band.
        bench.withheld = {3}
        bench.core.open_band(2, next(n for n, b in enumerate(bench.core.bands()) if b.state == FREE), 777)
        bench.core.start_move(source)
        bench.until(_shim.EventKind.MOVE_DONE)
        assert bench.class_of(5) == 2


def test_the_end_of_a_move_does_not_wait_for_the_next_one() -> None:
    """The few blocks of the first band go to another class than those of the second one, so these fill no batch."""
    with bench_of(punits=1, max_active_relocs=2, max_reloc_qdepth=1, reloc_buffer_blocks=64) as bench:
        bench.gc = bench.auto_reset = False
        for lba in range(0, 96, 8):
            bench.put(lba, 1, 8)
            assert bench.flush() == 0
        band_of = [bench.zone_of(bench.address(lba))[0] for lba in range(96)]
        first, second = band_of[0], next(band for band in band_of if band != band_of[0])
        of_first = band_of.count(first)
        for lba in range(4, of_first):
            bench.put(lba, 2)
        assert bench.flush() == 0
        bench.place(only(0), ((1, 2), (bench.core.next_seq - of_first,)))
        for number in (1, 2):
            free = next(n for n, band in enumerate(bench.core.bands()) if band.state == FREE)
            bench.core.open_band(number, free, 700 + number)
        for number in (first, second):
            assert bench.core.bands()[number].state == _shim.BandState.CLOSED
            bench.core.start_move(number)
        assert bench.until(_shim.EventKind.MOVE_DONE).band == first
        assert [bench.class_of(lba) for lba in range(4)] == [2] * 4
        assert rows(bench)["valid"][second] >= 8, "most of the second one is still to be read"
        assert bench.until(_shim.EventKind.MOVE_DONE).band == second
        assert bench.versions(0, 96) == [1] * 4 + [2] * (of_first - 4) + [1] * (96 - of_first)


def test_a_reset_does_not_wait_for_classes_of_hosts_writes_that_get_no_band() -> None:
    with bench_of(punits=1) as bench:
        bench.gc = bench.auto_reset = False
        bench.place(
            only(0), only(3), regions=np.array([0, 1, 2], np.uint8), region_blocks=32, user_classes=3, classes=4
        )
        bench.put(0, 1, 8)
        assert bench.flush() == 0
        victim = bench.zone_of(bench.address(0))[0]
        lba = 0
        while bench.core.bands()[victim].state in (OPEN, CLOSING):
            bench.withheld = {0, 1, 2}
            bench.port.submit(_shim.Op.WRITE, lba % 32, 1, content(lba % 32, 2))
            lba += 1
            for _ in range(20):
                bench.step()
        # The rest of class 0 waits in the write buffer, and so does what follows.
        bench.port.submit(_shim.Op.WRITE, 40, 1, content(40, 3))
        bench.port.submit(_shim.Op.WRITE, 70, 1, content(70, 3))
        bench.core.start_move(victim)
        bench.until(_shim.EventKind.MOVE_DONE)
        begun = bench.now_ns
        bench.core.reset_band(victim)
        bench.until(_shim.EventKind.BAND_RESET_DONE)
        assert bench.now_ns - begun >= STUCK_NS
        assert bench.class_of(40) == bench.class_of(70) == 3, "relocation's band took them"


def test_classes_that_vanish_close_hosts_bands_and_fill_those_of_relocation_first() -> None:
    with bench_of(punits=1) as bench:
        bench.gc = False
        regions = np.arange(4, dtype=np.uint8)
        bench.place(only(0), ((4, 5, 6, 7), (60, 120, 180)), regions=regions, region_blocks=32, user_classes=4)
        for lba in (0, 32, 64, 96):
            bench.put(lba, 1, 16)
        assert bench.flush() == 0
        for number in range(4, 8):
            free = next(n for n, band in enumerate(bench.core.bands()) if band.state == FREE)
            bench.core.open_band(number, free, 500 + number)
        bench.settle()
        assert [states(bench, number).count(OPEN) for number in range(8)] == [1] * 8
        queued = next(n for n, band in enumerate(bench.core.bands()) if band.state == FREE)
        bench.core.open_band(3, queued, 600)
        # Some data is in the write buffer, some on its way.
        for lba in (16, 48, 80, 112):
            bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, 7))
        bench.step()
        bench.place(only(0), only(1))
        bands = bench.core.bands()
        assert bands[queued].state == FREE
        open_now = [band.stream for band in bands if band.state == OPEN]
        assert sorted(open_now) == [0, 1, 1, 1, 1]
        assert bench.flush() == 0
        assert bench.on_media((16, 48, 80, 112))
        assert bench.versions(0, 17) == [1] * 16 + [7]
        assert states(bench, 0).count(OPEN) == 1
        # Relocation continues in the bands that it has, whatever their number was.
        before = {number for number, band in enumerate(bench.core.bands()) if band.state == OPEN and band.stream == 1}
        victim = bench.zone_of(bench.address(32))[0]
        assert bench.core.bands()[victim].state in (_shim.BandState.CLOSED, CLOSING)
        bench.settle()
        bench.core.start_move(victim)
        bench.until(_shim.EventKind.MOVE_DONE)
        assert bench.zone_of(bench.address(32))[0] in before
        assert bench.versions(32, 17) == [1] * 16 + [7]
        bench.audit()


def random_placement(bench: Bench, rng: random.Random) -> None:
    user_classes = rng.randrange(1, 7)
    classes = rng.randrange(user_classes + 1, 9)

    def table(first: int, end: int) -> Table:
        count = rng.randrange(1, 5)
        limits = sorted(rng.sample(range(1, 400), count - 1))
        return tuple(rng.randrange(first, end) for _ in range(count)), tuple(limits)

    bench.place(
        table(0, user_classes),
        *(table(user_classes, classes) for _ in range(rng.randrange(1, 9))),
        unwritten=rng.randrange(user_classes),
        classes=classes,
        user_classes=user_classes,
        regions=np.array([rng.choice([255, rng.randrange(user_classes)]) for _ in range(9)], np.uint8)
        if rng.random() < 0.3
        else None,
        region_blocks=rng.choice([1, 16, 64]),
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_placements_lose_nothing(seed: int) -> None:
    """Placements change under load, with garbage collection, trims and failing writes."""
    rng = random.Random(seed)
    with bench_of(
        punits=1 + seed % 2,
        fill_percent=55,
        write_buffer_blocks=rng.choice([16, 32, 96]),
        reloc_buffer_blocks=rng.choice([8, 32]),
        use_append=seed % 3 == 2,
        schedule_seed=seed,
        volatile_cache=seed % 2 == 0,
    ) as bench:
        model = [0] * bench.block_count
        seen: set[int] = set()
        for version in range(1, 50):
            if version % 12 == 1:
                random_placement(bench, rng)
            tickets = []
            for lba in rng.sample(range(bench.block_count), 40):
                if rng.random() < 0.05:
                    tickets.append(bench.port.submit(_shim.Op.DEALLOCATE, lba, 1))
                    model[lba] = 0
                else:
                    tickets.append(bench.port.submit(_shim.Op.WRITE, lba, 1, content(lba, version)))
                    model[lba] = version
            assert {bench.wait(ticket).status for ticket in tickets} == {0}
            if rng.random() < 0.3:
                assert bench.flush() == 0
                assert not np.any((bench.core.l2p(0, bench.block_count) >> np.uint64(62)) == 1), "slots"
            seen |= {band.stream for band in bench.core.bands() if band.state == OPEN}
            used = sum(band.state in (OPEN, CLOSING) for band in bench.core.bands())
            assert used <= 9
        assert bench.versions() == model
        bench.audit()
        assert len(seen) > 2
        assert len(bench.take(_shim.EventKind.MOVE_DONE)) > 3, GC_START_FREE_BANDS
        assert len(content(0, 1)) == BLOCK
