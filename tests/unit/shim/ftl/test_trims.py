"""Trims are answered before they are applied to the L2P, and nobody can tell (docs/ftl.md, "Trims")."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdk_ftl_py import _shim
from spdk_ftl_py.ftl.load.write_buffer_file import BufferFiles
from unit.shim.ftl.core_bench import UUID_OF_TESTS, Bench, content
from unit.shim.ftl.core_model import LOST, recover, restarted
from unit.shim.ftl.test_core_crash import Outstanding, Workload, torture

CHUNK = 8
LATE: dict[str, Any] = {"trim_chunk": CHUNK, "trim_step": 0}
"""Nothing is applied unless somebody needs it."""
UNREADABLE = 0x281
LARGE = 2 << 20
TRIMS_MOST = 120
STEPS_MAX = 5000


def filled(**options: Any) -> Bench:
    """Every LBA has version 1, on media."""
    bench = Bench(**(LATE | options))
    for lba in range(0, bench.block_count, CHUNK):
        bench.put(lba, 1, min(CHUNK, bench.block_count - lba))
    assert bench.flush() == 0
    bench.settle()
    return bench


def trim(bench: Bench, lba: int, block_count: int) -> None:
    assert bench.run(_shim.Op.DEALLOCATE, lba, block_count) == 0


def valid(bench: Bench) -> int:
    return sum(band.valid for band in bench.core.bands())


def whole_chunks(lba: int, end: int) -> int:
    return end // CHUNK * CHUNK - -(-lba // CHUNK) * CHUNK


def lbas_in(bench: Bench, band: int) -> list[int]:
    return [lba for lba in range(bench.block_count) if bench.zone_of(bench.address(lba))[0] == band]


def closed(bench: Bench) -> int:
    """The fullest closed band."""
    bands = bench.core.bands()
    numbers = [number for number, band in enumerate(bands) if band.state == _shim.BandState.CLOSED]
    return max(numbers, key=lambda number: int(bands[number].valid))


def close_open_band(bench: Bench, band: int) -> None:
    """Writes to the last LBA until the band is open no longer."""
    version = 100_000
    while bench.core.bands()[band].state in (_shim.BandState.OPEN, _shim.BandState.CLOSING):
        bench.put(bench.block_count - 1, version)
        version += 1


def after_power_cut(bench: Bench) -> list[int]:
    bench.media.power_cut(1)
    bench.close()
    bench.media.power_on()
    return recover(bench).versions


def test_nothing_waits_until_a_trim_of_everything_is_applied() -> None:
    zone = 1 << 20
    options = {"band_count": 6, "punits": 1, "zone_size": zone, "zone_capacity": zone, "verify_reads": False}
    with Bench(block_count=LARGE, volatile_cache=False, **options) as bench:
        for band in range(2):
            bench.core.load_band(band, _shim.BandState.CLOSED, band + 1, [zone])
            entries = np.arange(LARGE // 2, dtype=np.uint64) + np.uint64(bench.zones[band][0])
            bench.core.load_l2p(band * (LARGE // 2), entries)
        bench.gc = bench.auto_reset = False
        bench.band_seq = 100
        tickets = [
            bench.port.submit(_shim.Op.DEALLOCATE, 0, LARGE),
            bench.port.submit(_shim.Op.WRITE, LARGE - 5, 1, content(LARGE - 5, 2)),
        ]
        for _ in range(3):
            bench.step()
        assert {bench.completed.pop(ticket).status for ticket in tickets} == {0}
        assert valid(bench) > LARGE * 3 // 4, "most of it is not applied yet"
        assert bench.core.allocated_blocks() == 1
        read = bench.port.submit(_shim.Op.READ, LARGE - 6, 3, block := bytearray(b"x" * 3 * 4096))
        for _ in range(3):
            bench.step()
        assert bench.completed.pop(read).status == 0
        assert bytes(block) == bytes(4096) + content(LARGE - 5, 2) + bytes(4096)
        for _ in range(STEPS_MAX):
            bench.step()
            if valid(bench) <= 2:
                break
        bench.settle()
        bench.audit()
        assert bench.core.l2p(0, LARGE)[LARGE // 3] >> np.uint64(62) == 2
        assert bench.core.allocated_blocks() == 1


@pytest.mark.parametrize(("lba", "end"), [(0, 64), (3, 61), (8, 24), (9, 15), (7, 9), (8, 16), (15, 33)])
def test_any_range_reads_zeroes_before_and_after_it_is_applied(lba: int, end: int) -> None:
    with filled() as bench:
        before = valid(bench)
        trim(bench, lba, end - lba)
        expected = [0 if lba <= each < end else 1 for each in range(bench.block_count)]
        assert bench.versions() == expected
        bench.settle()
        hidden = max(whole_chunks(lba, end), 0)
        assert before - (end - lba) + hidden <= valid(bench) <= before - (end - lba) + hidden + 1
        assert bench.core.allocated_blocks() == sum(expected)
        for each in range(lba, end, 3):
            expected[each] = 2
            bench.put(each, 2)
        assert bench.versions() == expected
        assert bench.core.allocated_blocks() == sum(version > 0 for version in expected)
        assert bench.flush() == 0
        assert after_power_cut(bench) == expected


def test_an_accepted_trim_is_held_whole_and_survives_a_loss_of_power_after_a_flush(tmp_path: Path) -> None:
    files = BufferFiles(tmp_path, UUID_OF_TESTS)
    with filled(write_buffer_path=str(files.path(1))) as bench:
        trim(bench, 5, 90)
        held = files.read(1, bench.block_count)
        assert held is not None
        (record,) = held.records
        assert (int(record["lba"]), int(record["block_count"])) == (5, 90)
        assert bench.flush() == 0
        assert after_power_cut(bench)[:100] == [1] * 5 + [0] * 90 + [1] * 5


def test_what_was_in_the_write_buffer_is_trimmed_too() -> None:
    with Bench(**LATE) as bench:
        bench.put(0, 1, 8)
        bench.put(8, 1, 8)
        trim(bench, 0, 16)
        bench.put(9, 2)
        assert bench.versions(0, 16) == [0] * 9 + [2] + [0] * 6
        assert bench.flush() == 0
        bench.settle()
        assert bench.versions(0, 16) == [0] * 9 + [2] + [0] * 6
        assert bench.core.allocated_blocks() == 1
        assert after_power_cut(bench)[:16] == [0] * 9 + [2] + [0] * 6


def test_a_move_copies_nothing_that_is_trimmed() -> None:
    with filled() as bench:
        bench.gc = bench.auto_reset = False
        band = closed(bench)
        lbas = lbas_in(bench, band)
        trim(bench, 0, lbas[-3])
        bench.core.start_move(band)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert (done.moved_blocks, done.lost_blocks) == (len([lba for lba in lbas if lba >= lbas[-3]]), 0)
        assert bench.core.bands()[band].valid == 0
        assert bench.core.stats().reloc_read_blocks == done.moved_blocks
        assert bench.versions() == [0 if lba < lbas[-3] else 1 for lba in range(bench.block_count)]


@pytest.mark.parametrize("steps", range(1, 12, 2))
def test_a_block_that_is_trimmed_while_it_can_not_be_read_is_not_lost(steps: int) -> None:
    with filled() as bench:
        bench.gc = bench.auto_reset = False
        band = closed(bench)
        for lba in lbas_in(bench, band):
            bench.media.rot(bench.address(lba), 5)
        bench.core.start_move(band)
        for _ in range(steps):
            bench.step()
        trim(bench, 0, bench.block_count)
        done = bench.until(_shim.EventKind.MOVE_DONE)
        assert done.lost_blocks == 0
        assert bench.versions() == [0] * bench.block_count
        assert bench.core.allocated_blocks() == 0


def test_a_scrub_reports_nothing_that_is_trimmed() -> None:
    with filled() as bench:
        band = closed(bench)
        lbas = lbas_in(bench, band)
        bench.media.rot(bench.address(lbas[0]), 77)
        trim(bench, 0, lbas[-1])
        bench.core.start_scrub(band)
        bench.until(_shim.EventKind.SCRUB_DONE)
        assert bench.core.scrub_status().end == _shim.ScrubEnd.READ
        assert bench.core.stats().scrub_bad_blocks == 0
        assert bench.core.stats().scrub_read_blocks <= 1 + CHUNK


@pytest.mark.parametrize("steps", range(4))
def test_a_compare_write_does_not_find_what_was_trimmed(steps: int) -> None:
    with filled() as bench:
        ticket = bench.port.submit(_shim.Op.COMPARE_WRITE, 9, 1, content(9, 1) + content(9, 2))
        for _ in range(steps):
            bench.step()
        trim(bench, 8, 8)
        assert bench.wait(ticket).status in (0, 0x285)
        assert bench.versions(8, 8) == [0] * 8
        ticket = bench.port.submit(_shim.Op.COMPARE_WRITE, 10, 1, bytes(4096) + content(10, 3))
        assert bench.wait(ticket).status == 0
        assert bench.versions(8, 8) == [0, 0, 3, 0, 0, 0, 0, 0]


def test_more_trims_than_can_be_unapplied() -> None:
    count = TRIMS_MOST + 40
    trimmed = count * CHUNK
    with filled(band_count=28) as bench:
        assert bench.block_count > trimmed
        for first in range(0, count, 40):
            numbers = range(first, first + 40)
            tickets = [bench.port.submit(_shim.Op.DEALLOCATE, number * CHUNK, CHUNK) for number in numbers]
            assert {bench.wait(ticket).status for ticket in tickets} == {0}
        assert bench.versions() == [0] * trimmed + [1] * (bench.block_count - trimmed)
        assert bench.flush() == 0
        assert after_power_cut(bench) == [0] * trimmed + [1] * (bench.block_count - trimmed)


def test_the_band_of_a_record_waits_until_its_trim_is_applied() -> None:
    with filled() as bench:
        bench.gc = bench.auto_reset = False
        trim(bench, 0, bench.block_count // 2)
        assert bench.flush() == 0
        bench.settle()
        header = bench.address(0) & ((1 << 62) - 1)
        assert header < bench.media.block_count, "the record is on media, and says so for all that is hidden"
        band = bench.zone_of(header)[0]
        close_open_band(bench, band)
        assert bench.flush() == 0
        assert bench.core.bands()[band].valid > 0
        bench.core.start_move(band)
        bench.until(_shim.EventKind.MOVE_DONE)
        bench.settle()
        assert bench.core.bands()[band].valid == 0
        bench.audit()
        bench.core.reset_band(band)
        bench.until(_shim.EventKind.BAND_RESET_DONE)
        half = bench.block_count // 2
        expected = [0] * half + [1] * (bench.block_count - 1 - half)
        assert bench.versions(0, bench.block_count - 1) == expected
        assert bench.flush() == 0
        assert after_power_cut(bench)[:-1] == expected


def test_a_band_is_not_reset_before_the_trims_recorded_in_it_are_applied() -> None:
    with filled() as bench:
        bench.gc = bench.auto_reset = False
        trim(bench, 0, 4 * CHUNK)
        assert bench.flush() == 0
        bench.settle()
        band = bench.zone_of(bench.address(0) & ((1 << 62) - 1))[0]
        close_open_band(bench, band)
        for lba in lbas_in(bench, band):
            if lba < bench.block_count - 1:
                bench.put(lba, 3)
        bench.settle()
        with pytest.raises(ValueError, match="move it first"):
            bench.core.reset_band(band)


def test_what_a_halt_saves_of_the_l2p_has_trims_that_are_not_applied() -> None:
    with filled() as bench:
        bench.put(3, 2)
        trim(bench, 0, 50)
        bench.put(17, 4)
        assert bench.flush() == 0
        bench.settle()
        entries, crcs = bench.core.l2p(0, bench.block_count), bench.core.crcs(0, bench.block_count)
        expected = bench.versions()
        assert expected[:51] == [0] * 17 + [4] + [0] * 32 + [1]
        bench.close()
        recovered = recover(bench)
        assert recovered.versions == expected
        with restarted(bench, replace(recovered, entries=entries, crcs=crcs)) as again:
            assert again.versions() == expected
            again.audit()


def test_uncorrectable_blocks_and_trims_of_one_chunk() -> None:
    with filled() as bench:
        assert bench.run(_shim.Op.WRITE_UNCORRECTABLE, 1, 2) == 0
        trim(bench, 0, 8)
        assert bench.versions(0, 8) == [0] * 8
        assert bench.run(_shim.Op.WRITE_UNCORRECTABLE, 2, 2) == 0
        trim(bench, 3, 1)
        assert [bench.read_status(lba) for lba in range(5)] == [0, 0, UNREADABLE, 0, 0]
        assert bench.core.allocated_blocks() == bench.block_count - 7
        assert bench.flush() == 0
        assert after_power_cut(bench)[:9] == [0, 0, LOST, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("chunk", [0, 3, 256])
def test_a_chunk_is_a_power_of_two_of_128_at_most(chunk: int) -> None:
    with pytest.raises(ValueError, match="trim_chunk"):
        Bench(trim_chunk=chunk)


@pytest.mark.parametrize("beside_reads", [False, True])
def test_trims_are_applied_although_large_ones_come_without_end(beside_reads: bool) -> None:
    zone = 1 << 20
    options = {"band_count": 6, "punits": 1, "zone_size": zone, "zone_capacity": zone, "verify_reads": False}
    with Bench(block_count=LARGE, volatile_cache=False, trim_chunk=1, **options) as bench:
        bench.core.load_band(0, _shim.BandState.CLOSED, 1, [zone])
        bench.core.load_l2p(0, np.arange(64, dtype=np.uint64) + np.uint64(bench.zones[0][0]))
        bench.gc = bench.auto_reset = False
        bench.band_seq = 100
        waiting: list[int] = []
        for _ in range(100):
            if beside_reads:
                bench.wait(bench.port.submit(_shim.Op.READ, 0, 1, bytearray(4096)))
            waiting = [ticket for ticket in waiting if ticket not in bench.completed]
            # To look through all LBAs takes all of a turn, and there is always another one.
            waiting += [bench.port.submit(_shim.Op.DEALLOCATE, 0, LARGE) for _ in range(4 - len(waiting))]
            bench.step()
        assert bench.core.bands()[0].valid == 0


class LargeTrims(Workload):
    """Reads are checked whenever nothing is outstanding. Trims are often of many chunks."""

    OPERATIONS = 1500
    CUT_WITHIN = 800

    def submit(self) -> None:
        rng = self.rng
        kind = rng.random()
        if kind < 0.03:
            while self.outstanding and not self.bench.failed:
                self.step()
            if not self.bench.failed:
                self.verify()
        elif kind < 0.1:
            lba = rng.randrange(self.bench.block_count)
            block_count = rng.randrange(1, min(self.bench.block_count - lba, rng.choice((40, 400))) + 1)
            change, _ = self.model.submit(lba, block_count, trim=True)
            ticket = self.bench.port.submit(_shim.Op.DEALLOCATE, lba, block_count)
            self.outstanding[ticket] = Outstanding(_shim.Op.DEALLOCATE, lba, block_count, change)
        else:
            super().submit()

    def verify(self) -> None:
        bench = self.bench
        for lba in self.rng.sample(range(bench.block_count), 12):
            data = bytearray(4096)
            ticket = bench.port.submit(_shim.Op.READ, lba, 1, data)
            for _ in range(STEPS_MAX):
                if ticket in bench.completed or bench.failed:
                    break
                bench.step()
            if bench.failed or bench.completed.pop(ticket).status:
                return
            assert bytes(data) == content(lba, self.model.current(lba)), f"LBA {lba}"


@pytest.mark.parametrize(("seed", "step"), [(1, 0), (2, CHUNK), (3, 0), (4, 64)])
def test_trims_that_are_applied_late_survive_any_number_of_power_cuts(seed: int, step: int) -> None:
    total = torture(seed, crashes=5, workload=LargeTrims, trim_chunk=CHUNK, trim_step=step)
    assert total["media_trim_blocks"] > 0
    assert total["reloc_moved_blocks"] > 0


def test_chunks_of_which_some_lbas_are_used_again_and_again() -> None:
    """The counts of chunks stay right: else a trim would miss content, or would count what is not there."""
    rng = random.Random(7)
    with Bench(**LATE) as bench:
        model = [0] * bench.block_count
        for version in range(1, 1200):
            lba = rng.randrange(bench.block_count - 70)
            if rng.random() < 0.1:
                count = rng.randrange(1, 70)
                trim(bench, lba, count)
                model[lba : lba + count] = [0] * count
            else:
                bench.put(lba, version)
                model[lba] = version
            if version % 50 == 0:
                assert bench.core.allocated_blocks() == sum(each > 0 for each in model)
        assert bench.versions() == model
        assert bench.core.stats().zone_resets > 0
