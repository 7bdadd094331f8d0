"""Measures sections on a bed: windows on the raw bdev and on the FTL by turns."""

from __future__ import annotations

from typing import Final

from .bed import VARIANTS, Bed, settled
from .measured import Measured, Timing, Told, written
from .plan import Section
from .workloads import WORKLOADS, Workload

SHARE: Final = 0.4
"""The part of a fresh FTL that is filled before it is read. The rest is room for the writes of mixed loads, before
relocation begins."""
STEADY_WRITES: Final = 2
"""How often the capacity is written at random before the steady state is measured."""
WARM_BLOCKS: Final = 40_000
"""More than a warm-up writes, unless the base is so small that its third is less."""
RENEW_EMPTY: Final = 0.5
RENEW_FILLED: Final = 0.25
"""A fresh FTL is made anew when less than this part of its budget is left."""


def measure(bed: Bed, section: Section, timing: Timing, tell: Told) -> dict[str, Measured]:
    """By the names of workloads. tell: called before each window."""
    tell(f"{section.name}: preparing")
    bed.create(VARIANTS[section.variant])
    _touch(bed)
    state = _Gc(bed) if section.state == "gc" else _Fresh(bed)
    found = {}
    for workload in section.workloads:
        state.prepare(workload)
        bed.want_qpairs(workload.all_qpairs)
        measured = found[workload.name] = Measured(workload)
        for repeat in range(timing.repeats):
            # Neither side is always the first.
            for side in ("raw", "ftl") if repeat % 2 == 0 else ("ftl", "raw"):
                tell(f"{section.name}/{workload.name}: {side}")
                if side == "ftl":
                    state.window(measured, timing)
                else:
                    window = bed.window("raw", workload, timing, blocks=state.blocks)
                    measured.raw.append(window)
    return found


def _touch(bed: Bed) -> None:
    """Once for each bed: every block of the bdevs is written, so that no window pays for memory that is used for the
    first time."""
    if bed.touched:
        return
    bed.client.run("raw", WORKLOADS["seq-write"], total_blocks=bed.raw_block_count)
    bed.client.run("ftl", WORKLOADS["seq-write"], total_blocks=bed.raw_block_count)
    bed.wrote(bed.raw_block_count)
    bed.touched = True


class _Fresh:
    """Measures an FTL that has not relocated anything."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._filled = False
        self.blocks = 0
        bed.renew()

    def prepare(self, workload: Workload) -> None:
        fill = workload.kind != "write"
        if not fill and self._filled:
            self._bed.renew()
        elif fill and not self._filled:
            self._fill()
        self._filled = fill
        self.blocks = self._share if fill else 0

    @property
    def _share(self) -> int:
        # spdk_nvme_perf always uses the whole namespace.
        return self._bed.block_count if self._bed.perf is not None else int(self._bed.block_count * SHARE)

    def _fill(self) -> None:
        bed, share = self._bed, self._share
        bed.renew()
        for side in ("raw", "ftl"):
            bed.client.run(side, WORKLOADS["seq-write"], total_blocks=share, blocks=share)
        bed.wrote(share)

    def window(self, measured: Measured, timing: Timing) -> None:
        bed, workload = self._bed, measured.workload
        if workload.writes and bed.budget < bed.whole_budget * (RENEW_FILLED if self._filled else RENEW_EMPTY):
            bed.renew()
            if self._filled:
                self._fill()
        limit = max(bed.budget - WARM_BLOCKS, bed.budget // 3) if workload.kind == "write" else 0
        before = bed.stats()
        window = bed.window("ftl", workload, timing, blocks=self.blocks, total_blocks=limit)
        after = bed.stats()
        bed.wrote(written(before, after))
        measured.ftl.append(window)
        measured.amplified(before, after)


class _Gc:
    """Measures an FTL that was filled, and then overwritten at random with twice its capacity."""

    blocks = 0

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        bed.renew()
        count = bed.block_count
        bed.client.run("ftl", WORKLOADS["seq-write"], total_blocks=count)
        bed.client.run("ftl", WORKLOADS["write-qd128"], total_blocks=STEADY_WRITES * count)
        bed.wrote((1 + STEADY_WRITES) * count)

    def prepare(self, workload: Workload) -> None:
        if not workload.writes:
            settled(self._bed)

    def window(self, measured: Measured, timing: Timing) -> None:
        before = self._bed.stats()
        measured.ftl.append(self._bed.window("ftl", measured.workload, timing))
        measured.amplified(before, self._bed.stats())


def windows(sections: list[Section], timing: Timing) -> int:
    """How many windows measure() tells of."""
    return sum(2 * timing.repeats * len(section.workloads) + 1 for section in sections)
