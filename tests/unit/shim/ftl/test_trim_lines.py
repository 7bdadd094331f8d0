"""Trims of one queue, and blocks that it declares uncorrectable, are in nobody else's way: not of the writes, trims and
flushes of other queues, and not after a loss of power."""

from __future__ import annotations

import random
from typing import Any

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import Bench, content, version_of
from unit.shim.ftl.core_model import LOST, recover
from unit.shim.ftl.test_core_crash import Outstanding, Workload, torture
from unit.shim.ftl.test_core_stack import HostPort, Link

LARGE = 2 << 20
"""Blocks: to declare all of them uncorrectable takes 64 steps at least."""
LARGE_BASE = {"band_count": 10, "punits": 1, "zone_size": 1 << 18, "zone_capacity": 1 << 18}
SPARSE_BASE = {"band_count": 12, "punits": 1, "zone_size": 4096, "zone_capacity": 4096}
TRIMS = 24
FEW_STEPS = 40
UNREADABLE = 0x281


class TwoQueues:
    """One core, two queues of hosts."""

    def __init__(self, **options: Any) -> None:
        self.bench = Bench(**(options or {"block_count": LARGE, **LARGE_BASE}))
        self.links = [Link(self.bench.reactor, self.bench.core, queue_depth=TRIMS) for _ in range(2)]
        self.trimmer, self.other = (HostPort(self.bench, link.host) for link in self.links)

    def __enter__(self) -> TwoQueues:
        return self

    def __exit__(self, *_: object) -> None:
        while self.bench.step():
            pass
        for port in (self.trimmer, self.other):
            port.port.close()
        for link in self.links:
            link.close()
        self.bench.close()

    def steps_of(self, op: _shim.Op, *how: object) -> int:
        """Until the other queue has its answer, which is no error."""
        ticket = self.other.port.submit(op, *how)
        for steps in range(1, 20_000):
            self.bench.step()
            if ticket in self.other.completed:
                assert self.other.completed.pop(ticket).status == 0
                return steps
        raise AssertionError("never")

    def mark_all(self) -> int:
        """Declares all blocks uncorrectable, more than one command of a host can. Returns the ticket of bench, when
        that has begun."""
        ticket = self.bench.port.submit(_shim.Op.WRITE_UNCORRECTABLE, 0, LARGE)
        for _ in range(FEW_STEPS):
            self.bench.step()
            if self.bench.address(0) >> 62 == 3:
                return ticket
        raise AssertionError("it does not begin")

    def trim_all(self) -> list[int]:
        return [self.trimmer.port.submit(_shim.Op.DEALLOCATE, 0, LARGE) for _ in range(TRIMS)]


def test_writes_of_another_queue_do_not_wait_for_trims() -> None:
    with TwoQueues() as two:
        two.trim_all()
        for _ in range(4):
            two.bench.step()
        assert two.steps_of(_shim.Op.WRITE, 5, 1, content(5, 1)) < FEW_STEPS
        assert version_of(5, two.other.read(5)) in (0, 1)


def test_trims_of_another_queue_take_turns() -> None:
    with TwoQueues() as two:
        two.other.write(7, content(7, 1))
        two.trim_all()
        for _ in range(4):
            two.bench.step()
        # One turn of the other's, at most, and its own.
        assert two.steps_of(_shim.Op.DEALLOCATE, 7, 1) < 20 * FEW_STEPS


def test_a_flush_does_not_wait_for_blocks_that_are_being_marked() -> None:
    with TwoQueues() as two:
        two.other.write(0, content(0, 1))
        mark = two.mark_all()
        assert two.steps_of(_shim.Op.FLUSH) < FEW_STEPS
        assert mark not in two.bench.completed, "it was to be under way still"
        assert two.bench.wait(mark).status == 0
        assert two.other.read_status(0) == UNREADABLE


def test_writes_of_the_same_queue_wait_for_their_trims() -> None:
    with TwoQueues() as two:
        port = two.trimmer.port
        tickets = []
        for version in range(1, 5):
            tickets.append(port.submit(_shim.Op.WRITE, 9, 1, content(9, version)))
            tickets.append(port.submit(_shim.Op.DEALLOCATE, 0, LARGE // 8))
        tickets.append(port.submit(_shim.Op.WRITE, LARGE // 8 - 1, 1, content(LARGE // 8 - 1, 7)))
        assert {two.trimmer.wait(ticket).status for ticket in tickets} == {0}
        assert version_of(9, two.other.read(9)) == 0
        assert version_of(LARGE // 8 - 1, two.other.read(LARGE // 8 - 1)) == 7


@pytest.mark.parametrize("cut", [False, True], ids=["", "flush_before"])
def test_a_mark_is_newer_than_what_another_queue_wrote_where_it_comes_later(cut: bool) -> None:
    two = TwoQueues()
    with two:
        last = LARGE - 1
        two.other.write(0, content(0, 1))
        two.other.write(last, content(last, 1))
        mark = two.mark_all()
        if cut:
            assert two.steps_of(_shim.Op.FLUSH) < FEW_STEPS
        two.other.write(last, content(last, 2))
        two.other.write(0, content(0, 2))
        assert mark not in two.bench.completed, "it was to be under way still"
        assert two.bench.wait(mark).status == 0
        assert two.other.read_status(last) == UNREADABLE
        assert version_of(0, two.other.read(0)) == 2
        two.steps_of(_shim.Op.FLUSH)
        two.bench.media.power_cut(1)
    two.bench.media.power_on()
    recovered = recover(two.bench)
    assert recovered.versions[last] == LOST
    assert recovered.versions[0] == 2


def _trim_and_write_at_once(two: TwoQueues, rng: random.Random, lbas: list[int]) -> None:
    """Both queues, what they do overlapping, until all is done and durable."""
    tickets = [two.trimmer.port.submit(_shim.Op.DEALLOCATE, 0, two.bench.block_count) for _ in range(2)]
    for version in range(40):
        lba = rng.choice(lbas)
        two.other.write(lba, content(lba, version + 1))
        for _ in range(rng.randrange(6)):
            two.bench.step()
    assert {two.trimmer.wait(ticket).status for ticket in tickets} == {0}
    two.steps_of(_shim.Op.FLUSH)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_read_when_all_is_done_and_flushed_is_what_a_restart_finds(seed: int) -> None:
    rng = random.Random(seed)
    spacing, count = SparseWorkload.SPACING, SparseWorkload.LBAS
    lbas = [number * spacing for number in range(count)]
    options = {"block_count": spacing * count, "trim_step": 128 if seed % 2 else 32768, **SPARSE_BASE}
    two = TwoQueues(schedule_seed=seed, **options)
    with two:
        for lba in lbas:
            two.other.write(lba, content(lba, 100))
        for _ in range(5):
            _trim_and_write_at_once(two, rng, lbas)
        read = [version_of(lba, two.other.read(lba)) for lba in lbas]
        two.bench.media.power_cut(seed)
    two.bench.media.power_on()
    found = recover(two.bench).versions
    assert [found[lba] for lba in lbas] == read


class SparseWorkload(Workload):
    """Few LBAs of many, so that a trim of most of them takes many steps, and flushes come upon it half applied."""

    OPERATIONS = 300
    CUT_WITHIN = 400
    SPACING = 150
    LBAS = 200

    def submit(self) -> None:
        port, rng = self.bench.port, self.rng
        kind = rng.random()
        if kind < 0.1:
            ticket = port.submit(_shim.Op.FLUSH)
            self.outstanding[ticket] = Outstanding(_shim.Op.FLUSH, completed_before=list(self.model.completed))
            return
        if kind < 0.13:
            lba = rng.randrange(self.LBAS // 4) * self.SPACING
            block_count = rng.randrange(self.LBAS * self.SPACING // 2)
            change, _ = self.model.submit(lba, block_count, trim=True)
            ticket = port.submit(_shim.Op.DEALLOCATE, lba, block_count)
            self.outstanding[ticket] = Outstanding(_shim.Op.DEALLOCATE, lba, block_count, change)
            return
        lba = rng.randrange(self.LBAS) * self.SPACING
        change, version = self.model.submit(lba, 1, trim=False)
        ticket = port.submit(_shim.Op.WRITE, lba, 1, content(lba, version))
        self.outstanding[ticket] = Outstanding(_shim.Op.WRITE, lba, 1, change)


@pytest.mark.parametrize("seed", range(3))
def test_a_trim_that_takes_many_steps_survives_any_number_of_power_cuts(seed: int) -> None:
    block_count = SparseWorkload.SPACING * SparseWorkload.LBAS
    options = {"block_count": block_count, "trim_step": 256, **SPARSE_BASE}
    torture(seed, crashes=3, workload=SparseWorkload, **options)
