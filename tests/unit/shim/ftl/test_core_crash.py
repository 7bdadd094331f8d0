"""Promises 1, 2, 4 and 5 under loss of power: what was flushed is on media, whole and not older, crash after crash."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from spdk_ftl_py import _shim
from unit.shim.ftl.core_bench import Bench, content
from unit.shim.ftl.core_model import Model, recover, restarted

QUEUE_DEPTH = 8
LARGE_WRITE_BLOCKS = 8


@dataclass
class Outstanding:
    op: _shim.Op
    lba: int = 0
    block_count: int = 0
    change: int = 0
    fua: bool = False
    completed_before: list[int] | None = None


class Workload:
    """Writes, trims, flushes and FUA writes, several outstanding, until power fails."""

    OPERATIONS = 4000
    CUT_WITHIN = 1500
    """Operations of the media."""

    def __init__(self, bench: Bench, model: Model, rng: random.Random) -> None:
        self.bench = bench
        self.model = model
        self.rng = rng
        self.outstanding: dict[int, Outstanding] = {}

    def run(self, operations: int) -> None:
        for _ in range(operations):
            while len(self.outstanding) >= QUEUE_DEPTH and not self.bench.failed:
                self.step()
            if self.bench.failed:
                break
            self.submit()
            if self.rng.random() < 0.5:
                self.step()
        for _ in range(20_000):
            if not self.outstanding:
                return
            self.step()
        raise AssertionError(f"{len(self.outstanding)} I/Os never completed")

    def submit(self) -> None:
        port, rng = self.bench.port, self.rng
        kind = rng.random()
        if kind < 0.03:
            ticket = port.submit(_shim.Op.FLUSH)
            self.outstanding[ticket] = Outstanding(_shim.Op.FLUSH, completed_before=list(self.model.completed))
            return
        trim = kind < 0.10
        most = 24 if trim else LARGE_WRITE_BLOCKS
        block_count = rng.choice([1, 1, 1, 2, most])
        # Most writes go to a few LBAs, so that bands differ in what is valid.
        span = self.bench.block_count // (1 if rng.random() < 0.4 else 8)
        lba = rng.randrange(span - block_count + 1)
        change, version = self.model.submit(lba, block_count, trim=trim)
        fua = rng.random() < 0.03
        if trim:
            op = rng.choice([_shim.Op.DEALLOCATE, _shim.Op.WRITE_ZEROES])
            ticket = port.submit(op, lba, block_count, fua=fua)
        else:
            op = _shim.Op.WRITE
            data = b"".join(content(lba + i, version) for i in range(block_count))
            ticket = port.submit(op, lba, block_count, data, fua=fua)
        self.outstanding[ticket] = Outstanding(op, lba, block_count, change, fua)

    def step(self) -> None:
        self.bench.step()
        for ticket in [ticket for ticket in self.outstanding if ticket in self.bench.completed]:
            completion = self.bench.completed.pop(ticket)
            io = self.outstanding.pop(ticket)
            if completion.status:
                assert self.bench.failed, f"status {completion.status:#x} of op {io.op} without a crash"
            elif io.op == _shim.Op.FLUSH:
                assert io.completed_before is not None
                self.model.flushed(io.completed_before)
            else:
                self.model.acknowledge(io.lba, io.block_count, io.change, durable=io.fua)


def torture(seed: int, crashes: int, workload: type[Workload] = Workload, **options: object) -> dict[str, int]:
    """Runs, cuts power, walks the media, checks, loads, and again. Returns what happened, summed up."""
    rng = random.Random(seed)
    bench = Bench(schedule_seed=seed, **options)  # type: ignore[arg-type]
    model = Model(bench.block_count)
    total: dict[str, int] = {}
    try:
        for crash in range(crashes):
            media = bench.media
            media.cut_power_at(media.operations + rng.randrange(20, workload.CUT_WITHIN), rng.randrange(1 << 32))
            workload(bench, model, rng).run(workload.OPERATIONS)
            for name, value in bench.core.stats().as_dict().items():
                total[name] = total.get(name, 0) + value
            if not bench.failed:
                # Never got that far: the power fails now, with nothing outstanding.
                media.power_cut(rng.randrange(1 << 32))
            bench.close()
            media.power_on()
            recovered = recover(bench)
            model.check(recovered.versions, f"seed {seed}, crash {crash}")
            model.restart(recovered.versions)
            bench = restarted(bench, recovered, **options)
            bench.media.set_schedule(seed + crash)
            assert bench.versions() == recovered.versions
            bench.audit()
        return total
    finally:
        bench.close()


@pytest.mark.parametrize("seed", range(3))
def test_what_was_flushed_survives_any_number_of_power_cuts(seed: int) -> None:
    total = torture(seed, crashes=8)
    assert total["reloc_moved_blocks"] > 0
    assert total["zone_resets"] > 0
    assert total["media_trim_blocks"] > 0


@pytest.mark.parametrize("options", [{"use_append": True}, {"shared_stream": True, "punits": 1, "band_count": 16}])
def test_power_cuts_with_appends_and_with_one_stream(options: dict[str, object]) -> None:
    total = torture(99, crashes=8, **options)
    assert total["zone_resets"] > 0
