"""Host writes beside a move, on a reactor that is stepped: how much of the one comes between the other."""

from __future__ import annotations

import pytest

from spdk_ftl_py import _shim

from .core_bench import Bench

AHEAD_BLOCKS = 2 * 127
"""What relocation may be ahead of the user."""
READ_BLOCKS = 32
"""One more read may be sent when it is nearly that far."""
WRITES = 400
STEPS = 20
"""Between two writes: 0.2 ms, so the one read that each millisecond allows counts, too."""


class PacedBench(Bench):
    pace: tuple[int, int | None] | None = None

    def limit(self, share: int) -> None:
        if self.pace is None:
            super().limit(share)


def paced_bench() -> tuple[PacedBench, int]:
    """Half overwritten. With a closed band that is mostly valid."""
    bench = PacedBench(
        zone_size=2048, zone_capacity=1500, reloc_buffer_blocks=512, write_buffer_blocks=1024, batch_blocks=128
    )
    bench.gc = False
    for lba in range(0, 12_000, 32):
        bench.put(lba, 1, 32)
    bench.settle()
    bands = bench.core.bands()
    closed = [number for number, band in enumerate(bands) if band.state == _shim.BandState.CLOSED]
    return bench, max(closed, key=lambda number: bands[number].valid)


def reads_between_writes(bench: PacedBench) -> list[int]:
    steps = []
    for turn in range(WRITES):
        before = bench.core.stats().reloc_read_blocks
        bench.put(12_000 + turn, 1)
        for _ in range(STEPS):
            bench.step()
        steps.append(bench.core.stats().reloc_read_blocks - before)
    return steps


def test_a_paced_move_makes_small_steps_and_as_many_as_its_pace_says() -> None:
    bench, victim = paced_bench()
    with bench:
        bench.pace = (100, 3000)
        bench.core.set_pace(*bench.pace)
        bench.core.start_move(victim)
        steps = reads_between_writes(bench)
        ahead = steps[0]
        assert ahead <= AHEAD_BLOCKS + READ_BLOCKS
        assert max(steps[1:]) <= 2 * READ_BLOCKS
        assert 3 * WRITES - READ_BLOCKS <= sum(steps[1:]) <= 4 * WRITES + WRITES // 5 * READ_BLOCKS


def test_without_a_pace_a_move_goes_on_whatever_the_user_does() -> None:
    bench, victim = paced_bench()
    with bench:
        bench.pace = (100, None)
        bench.core.set_pace(*bench.pace)
        bench.core.start_move(victim)
        assert max(reads_between_writes(bench)) > AHEAD_BLOCKS + READ_BLOCKS


def test_a_paced_move_ends_by_itself_while_hosts_do_nothing() -> None:
    bench, victim = paced_bench()
    with bench:
        bench.pace = (100, 1)
        bench.core.set_pace(*bench.pace)
        bench.core.start_move(victim)
        bench.until(_shim.EventKind.MOVE_DONE)


def test_a_paced_move_ends_while_hosts_only_read() -> None:
    """Each millisecond allows a read."""
    bench, victim = paced_bench()
    with bench:
        bench.pace = (100, 1)
        bench.core.set_pace(*bench.pace)
        bench.core.start_move(victim)
        for _ in range(400):
            bench.read(0, 1)
            for _ in range(50):
                bench.step()
            if bench.take(_shim.EventKind.MOVE_DONE):
                break
        else:
            pytest.fail("the move does not end")


def test_what_the_user_writes_while_nothing_is_moved_is_no_debt_that_he_waits_for_later() -> None:
    """As when the event loop is late with the next move."""
    bench, _ = paced_bench()
    with bench:
        bench.pace = (80, None)
        bench.core.set_pace(*bench.pace)
        for lba in range(0, 6000, 32):
            bench.put(lba, 2, 32)
        bands = bench.core.bands()
        closed = [number for number, band in enumerate(bands) if band.state == _shim.BandState.CLOSED]
        victim = max(closed, key=lambda number: bands[number].valid)
        assert bands[victim].valid > 1000
        before = bench.core.stats().reloc_read_blocks
        bench.core.start_move(victim)
        bench.put(12_000, 1)
        # A quarter of four batches, what is read at once, and what until the write is answered; 2245 with the debt.
        assert bench.core.stats().reloc_read_blocks - before <= 1000
