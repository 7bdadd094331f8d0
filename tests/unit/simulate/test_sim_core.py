"""SimCore counts as a model in Python does, whatever is written, trimmed, moved and reset."""

from __future__ import annotations

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.media.band import BAND_ROW, CLOSED, FREE, MOVING, SHIM_STATES

BANDS, BLOCKS, COUNT = 8, 16, 64
KINDS = (_shim.EventKind.BAND_NEXT_NEEDED, _shim.EventKind.MOVE_DONE, _shim.EventKind.BAND_RESET_DONE)


def core_of(**settings: int) -> _shim.SimCore:
    return _shim.SimCore(block_count=COUNT, band_count=BANDS, band_blocks=BLOCKS, **settings)


def rows(core: _shim.SimCore) -> np.ndarray:
    return core.band_rows(0, BANDS).view(BAND_ROW)


def lbas(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def write(core: _shim.SimCore, numbers: np.ndarray) -> None:
    """All of them: a stream that asks for a band gets the next free one, and what is empty is reset."""
    at = 0
    while at < len(numbers):
        done, stop = core.run(numbers[at:])
        at += done
        states = rows(core)
        core.reset_bands(
            states["band"][(states["state"] == SHIM_STATES.index(CLOSED)) & (states["valid"] == 0)].tolist()
        )
        for kind, number in core.take_events():
            assert kind in KINDS
            if kind == _shim.EventKind.BAND_NEXT_NEEDED:
                free = rows(core)["band"][rows(core)["state"] == SHIM_STATES.index(FREE)]
                core.open_band(number, int(free[0]), 1)
        assert stop != _shim.SimStop.BLOCKED or done == len(numbers)


def test_each_lba_is_valid_once_and_the_band_of_the_version_before_loses_it() -> None:
    core = core_of()
    random = np.random.default_rng(1)
    written: set[int] = set()
    for _ in range(40):
        numbers = random.integers(0, COUNT, 10, np.uint64)
        write(core, numbers)
        written |= set(numbers.tolist())
        assert int(rows(core)["valid"].sum()) == len(written) == core.stats().mapped_blocks
        # What no closed band holds any more has to be moved before all bands are taken.
        counts = rows(core)
        closed = counts["state"] == SHIM_STATES.index(CLOSED)
        if closed.sum() >= BANDS - 3:
            core.start_move(int(counts["band"][closed][np.argmin(counts["valid"][closed])]))
    stats = core.stats()
    assert stats.user_written_blocks == 400
    assert stats.media_written_blocks == 400 + stats.reloc_moved_blocks
    assert stats.reloc_moved_blocks > 0


def test_trims_take_blocks_out_of_their_bands() -> None:
    core = core_of()
    write(core, np.arange(COUNT, dtype=np.uint64))
    ops, lengths = np.array([1, 2, 1], np.uint8), np.array([10, COUNT, 20], np.uint32)
    assert core.run(lbas(0, 0, 5), lengths, ops) == (3, _shim.SimStop.DONE)
    assert int(rows(core)["valid"].sum()) == core.stats().mapped_blocks == COUNT - 25
    assert core.stats().user_written_blocks == COUNT


def test_a_request_that_stops_half_way_continues_there() -> None:
    core = core_of()
    lengths = np.array([COUNT], np.uint32)
    done, stop = core.run(lbas(0), lengths)
    assert (done, stop) == (0, _shim.SimStop.DECISION)
    asked = 0
    while done == 0:
        for _, number in core.take_events():
            core.open_band(number, asked, 1)
            asked += 1
        done, stop = core.run(lbas(0), lengths)
    assert core.stats().user_written_blocks == COUNT
    assert asked == COUNT // BLOCKS + 1


def test_a_paced_move_advances_with_the_hosts_writes() -> None:
    core = _shim.SimCore(block_count=4096, band_count=16, band_blocks=1024)
    numbers = np.arange(4096, dtype=np.uint64)
    at = band = 0
    while at < len(numbers):
        done, _ = core.run(numbers[at:])
        at += done
        for _, number in core.take_events():
            core.open_band(number, band, band)
            band += 1
    core.open_band(1, band, band)
    core.set_pace(100, 500)
    core.start_move(0)
    assert core.run(np.full(200, 4000, np.uint64))[0] == 200
    # Half a block for each, and what relocation may be ahead.
    moved = core.stats().reloc_moved_blocks
    assert 100 <= moved <= 100 + 300
    core.set_pace(0, None)
    # Relocation asks for its next band, then the move ends.
    events = []
    for _ in range(2):
        assert core.run(numbers[:10]) == (0, _shim.SimStop.DECISION)
        events += core.take_events()
    assert events == [(_shim.EventKind.BAND_NEXT_NEEDED, 1), (_shim.EventKind.MOVE_DONE, 0)]
    assert core.stats().reloc_moved_blocks == 1024


def test_stalls_are_those_of_the_phase_that_has_begun() -> None:
    core = _shim.SimCore(block_count=64, band_count=16, band_blocks=16)
    numbers = np.arange(64, dtype=np.uint64)
    at = band = 0
    while at < len(numbers):
        at += core.run(numbers[at:])[0]
        for _, number in core.take_events():
            core.open_band(number, band, band)
            band += 1
    core.open_band(1, band, band)
    core.start_move(0)
    core.set_pace(0, None)
    core.run(numbers[:1])
    core.set_pace(100, None)
    assert core.run(numbers[60:])[0] == 4
    stats = core.stats()
    assert stats.stall_blocks_max == stats.reloc_moved_blocks > 0
    assert sum(stats.stalls) == stats.user_written_blocks == 68
    core.forget_stalls()
    assert core.run(numbers[60:])[0] == 4
    stats = core.stats()
    assert (stats.stall_blocks_max, sum(stats.stalls), stats.stalls[0]) == (0, 4, 4)


def test_classes_go_to_bands_of_their_own_and_ages_choose_them() -> None:
    core = core_of()
    core.set_placement(
        classes=4, user_classes=2, user=((0, 1), (40,)), unwritten=1,
        relocated=[((2, 3), (70,)), ((2, 3), (70,)), ((2,), ()), ((3,), ())],
    )  # fmt: skip
    for number in range(4):
        core.open_band(number, number, number)
    core.run(np.arange(8, dtype=np.uint64))
    assert rows(core)["written"].tolist() == [0, 8, 0, 0, 0, 0, 0, 0], "what was never written"
    core.run(np.arange(2, dtype=np.uint64))
    assert rows(core)["written"].tolist()[:2] == [2, 8], "soon overwritten"
    assert core.asking() == []


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="two bands of two blocks"):
        _shim.SimCore(block_count=1, band_count=1, band_blocks=2)
    with pytest.raises(ValueError, match="2\\^32"):
        _shim.SimCore(block_count=1, band_count=1 << 20, band_blocks=1 << 12)
    core = core_of()
    with pytest.raises(ValueError, match=r"relocated names class 7, which must be within 1\.\.1"):
        core.set_placement(classes=2, user_classes=1, user=((0,), ()), unwritten=0, relocated=[((7,), ())])
    with pytest.raises(ValueError, match="beyond the last LBA"):
        core.run(lbas(COUNT))
    with pytest.raises(ValueError, match="beyond the last LBA"):
        core.run(lbas(1), np.array([COUNT], np.uint32))
    with pytest.raises(ValueError, match="one length"):
        core.run(lbas(1, 2), np.array([1], np.uint32))
    with pytest.raises(ValueError, match="not closed"):
        core.start_move(0)
    with pytest.raises(ValueError, match="no such stream"):
        core.open_band(2, 0, 1)
    core.open_band(0, 0, 1)
    with pytest.raises(BlockingIOError):
        core.open_band(0, 1, 1)
    with pytest.raises(ValueError, match="not free"):
        core.open_band(1, 0, 1)
    assert core.take_queued(0) == 0
    assert core.take_queued(0) is None


@pytest.mark.parametrize("seed", range(12))
def test_writes_in_a_run_are_as_writes_one_by_one(seed: int) -> None:
    """With lengths, SimCore takes each block by itself."""
    random = np.random.default_rng(seed)
    settings = {
        "shared_stream": seed % 4 == 3,
        "reaction_blocks": int(random.integers(20)),
        "max_active_relocs": 2,
    }
    bands, blocks, count = 24, 150, 2400
    cores = [_shim.SimCore(block_count=count, band_count=bands, band_blocks=blocks, **settings) for _ in range(2)]
    ages = ((1, 2, 3), (300, 2000)) if seed % 3 == 2 else ((1,), ())
    for core in cores if seed % 4 != 3 else ():
        core.set_placement(
            classes=4, user_classes=1, user=((0,), ()), unwritten=0, relocated=[ages] * 4, regions=None, region_blocks=1
        )
    seq = 0
    for _ in range(600):
        numbers = random.integers(0, count, int(random.integers(1, 400)), np.uint64)
        ones = np.ones(len(numbers), np.uint32)
        most = int(random.integers(1, 300))
        at, stopped = 0, 0
        while at < len(numbers) and stopped < 3:
            answers = [
                cores[0].run(numbers[at:], media_blocks=most),
                cores[1].run(numbers[at:], ones[at:], media_blocks=most),
            ]
            assert answers[0] == answers[1]
            at += answers[0][0]
            stopped += answers[0][1] == _shim.SimStop.BLOCKED
            told = [core.take_events() for core in cores]
            assert told[0] == told[1]
            assert (cores[0].changed_bands(bands) == cores[1].changed_bands(bands)).all()
            assert cores[0].stats().as_dict() == cores[1].stats().as_dict()
            table = cores[0].band_rows(0, bands).view(BAND_ROW)
            free = table["band"][table["state"] == SHIM_STATES.index(FREE)].tolist()
            wanting = {number for core in cores for number in core.asking()}
            for number in sorted(wanting):
                # Now and then the class has to wait.
                if free and random.random() < 0.8:
                    seq += 1
                    band = free.pop(int(random.integers(len(free))))
                    for core in cores:
                        core.open_band(number, band, seq)
            closed = table[table["state"] == SHIM_STATES.index(CLOSED)]
            empty = closed["band"][closed["valid"] == 0].tolist()
            for core in cores:
                assert core.reset_bands(empty) == []
            full = closed[closed["valid"] > 0]
            moving = (table["state"] == SHIM_STATES.index(MOVING)).sum()
            if len(full) and moving < 2 and len(free) < 6:
                for core in cores:
                    core.start_move(int(full["band"][np.argmin(full["valid"])]))
            if random.random() < 0.3:
                pace = None if random.random() < 0.3 else int(random.integers(1, 6000))
                share = 100 if random.random() < 0.6 else int(random.integers(1, 100))
                for core in cores:
                    core.set_pace(share, pace)
    assert cores[0].stats().reloc_moved_blocks > 1000
    assert (cores[0].data_seqs() == cores[1].data_seqs()).all()
