"""Records that cover the whole device, while few LBAs far apart refer to them: a host can make one with two writes and
a trim. What they cost when they settle, and when their band is moved, is counted in polls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import Bench
from unit.shim.ftl.core_model import recover, restarted
from unit.shim.ftl.test_trims import close_open_band

LARGE = 1 << 20
WALK_POLLS = LARGE // 32768
"""What one walk over the whole L2P takes."""
ROUNDS = 40
SPREAD: dict[str, Any] = {"punits": 1, "zone_size": 1 << 15, "zone_capacity": 256, "band_count": 36}


def large(**options: Any) -> Bench:
    """A device of which little can be written."""
    bench = Bench(**(SPREAD | {"block_count": LARGE, "verify_reads": False, "volatile_cache": False} | options))
    bench.gc = bench.auto_reset = False
    return bench


def polls(bench: Bench) -> int:
    """Steps with work until there is none."""
    count = idle = 0
    while idle <= 3:
        idle = 0 if bench.step() else idle + 1
        count += idle == 0
    return count


def trim(bench: Bench, lba: int, block_count: int) -> None:
    assert bench.run(_shim.Op.DEALLOCATE, lba, block_count) == 0


def band_of_records(bench: Bench) -> int:
    bands = bench.core.bands()
    return max(range(len(bands)), key=lambda number: int(bands[number].references))


def moved(bench: Bench, band: int) -> int:
    """Polls of a move to its end, when nothing else is to be done. Those without work count, too: the move goes on."""
    polls(bench)
    bench.core.start_move(band)
    taken = 0
    while bench.core.bands()[band].state == _shim.BandState.MOVING:
        bench.step()
        taken += 1
        assert taken < 100 * WALK_POLLS
    assert bench.core.bands()[band].references == 0
    assert bench.core.bands()[band].state == _shim.BandState.CLOSED
    return taken


@pytest.mark.parametrize("flushes", [False, True], ids=["one header", "a header each"])
def test_wide_records_of_a_band_are_found_in_one_walk(flushes: bool) -> None:
    with large() as bench:
        for i in range(ROUNDS):
            bench.put(i, 1)
            bench.put(LARGE - 1 - i, 1)
            trim(bench, 0, LARGE)
            assert not flushes or bench.flush() == 0
        assert bench.flush() == 0
        band = band_of_records(bench)
        close_open_band(bench, band)
        assert bench.core.bands()[band].references >= ROUNDS
        taken = moved(bench, band)
        # One walk finds them, one moves what refers to them; then there is what is read and written.
        assert taken < 2 * WALK_POLLS + 60, f"{taken} polls: a walk has {WALK_POLLS}"
        bench.audit()
        assert not any(bench.read(lba, 1).strip(b"\0") for lba in range(ROUNDS))


def test_a_wide_record_settles_without_a_walk() -> None:
    with large() as bench:
        bench.put(0, 1)
        assert bench.flush() == 0
        taken = []
        for i in range(8):
            bench.put(i, 1)
            bench.put(LARGE - 1 - i, 1)
            polls(bench)
            trim(bench, 0, LARGE)
            assert bench.flush() == 0
            taken.append(polls(bench))
        assert max(taken) < WALK_POLLS // 2, f"{taken}"
        bench.audit()
        assert not any(band.valid > band.references for band in bench.core.bands())


def test_records_of_what_nobody_refers_to_cost_nothing() -> None:
    with large() as bench:
        for i in range(ROUNDS):
            bench.put(i, 1)
            trim(bench, 0, LARGE)
        assert bench.flush() == 0
        band = band_of_records(bench)
        for i in range(ROUNDS):
            bench.put(i, 2)
        close_open_band(bench, band)
        assert bench.core.bands()[band].references == 0
        assert bench.flush() == 0
        polls(bench)
        written = bench.core.stats().media_trim_blocks
        assert moved(bench, band) < WALK_POLLS
        assert bench.core.stats().media_trim_blocks == written


def test_a_narrow_record_costs_what_it_covers_however_large_the_device_is() -> None:
    with large() as bench:
        for lba in (5, LARGE // 2, LARGE - 40):
            for i in range(8):
                bench.put(lba + i, 1)
            trim(bench, lba + 1, 6)
        assert bench.flush() == 0
        band = band_of_records(bench)
        close_open_band(bench, band)
        assert bench.core.bands()[band].references == 18
        assert moved(bench, band) < 60
        bench.audit()


# --- nothing is lost


def trimmed_in_two(bench: Bench) -> int:
    """LBAs 0 to 39 have old data that stays on media, and trims in another band. Returns that band, closed."""
    for lba in range(0, 48, 8):
        bench.put(lba, 1, 8)
    assert bench.flush() == 0
    close_open_band(bench, bench.zone_of(bench.address(0))[0])
    trim(bench, 30, 10)
    trim(bench, 0, 20)
    trim(bench, 10, 30)
    bench.put(12, 2)
    trim(bench, 0, 40)
    bench.put(25, 3)
    assert bench.flush() == 0
    band = band_of_records(bench)
    close_open_band(bench, band)
    assert bench.core.bands()[band].references == 39
    return band


@pytest.mark.parametrize("trim_chunk", [1, 8, 128])
def test_trims_survive_the_move_and_the_reset_of_their_band(trim_chunk: int) -> None:
    options = {"trim_chunk": trim_chunk}
    with Bench(**options) as bench:
        bench.gc = bench.auto_reset = False
        band = trimmed_in_two(bench)
        expected = bench.versions()
        moved(bench, band)
        bench.audit()
        bench.core.reset_band(band)
        polls(bench)
        assert bench.core.bands()[band].state == _shim.BandState.FREE
        bench.media.power_cut(1)
        bench.close()
        bench.media.power_on()
        recovered = recover(bench)
        assert recovered.versions[:48] == expected[:48]
        again = restarted(bench, recovered, **options)
        assert again.versions() == expected
        again.audit()
        again.close()


def test_a_write_during_the_move_of_its_trim_counts() -> None:
    with Bench() as bench:
        bench.gc = bench.auto_reset = False
        band = trimmed_in_two(bench)
        expected = bench.versions()
        polls(bench)
        bench.core.start_move(band)
        for lba in (0, 19, 39, 20, 5, 38):
            bench.put(lba, 50 + lba)
            expected[lba] = 50 + lba
        polls(bench)
        assert bench.versions() == expected
        bench.audit()
        bands = bench.core.bands()
        assert (bands[band].references, sum(each.references for each in bands)) == (0, 33)


def test_a_band_with_more_records_than_a_group_is_moved_in_parts() -> None:
    with Bench(band_count=12, punits=1, zone_size=1 << 15, zone_capacity=1 << 14, block_count=120_000) as bench:
        bench.gc = bench.auto_reset = False
        lbas = 40_000
        for lba in range(0, lbas, 16):
            bench.put(lba, 1, 16)
        for lba in range(0, lbas, 2):
            trim(bench, lba, 1)
        assert bench.flush() == 0
        band = band_of_records(bench)
        close_open_band(bench, band)
        records = bench.core.bands()[band].references
        assert records > 1 << 14
        moved(bench, band)
        polls(bench)
        bench.audit()
        entries = bench.core.l2p(0, lbas) >> np.uint64(62)
        assert (entries[::2] == 2).all()
        assert (entries[1::2] == 0).all()
