"""What a workload is like: how much it writes, onto how many blocks, how unevenly, and after how many other writes a
block is written again, which is what placement lives on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ParameterError
from .base import BLOCK_BYTES, BLOCK_COUNT_MAX, READ, TRIM, WRITE, Requests, Workload
from .parse import parse
from .trace import Trace

PAGE_BLOCKS: Final = 1 << 12
_PAGE_BYTES: Final = PAGE_BLOCKS * (8 + 4)
MEMORY_BYTES_MAX: Final = 4 << 30
SYNTHETIC_BLOCKS: Final = 1 << 20
"""Of the device that a synthetic workload is described for, unless another is asked for."""
SYNTHETIC_WRITES: Final = 10
"""Times the device's blocks."""
_STEPS: Final = 16
"""Of the histogram of distances, for each power of two: at most 4.5 % each."""
_HOT_SHARE: Final = 0.2
_PERCENTILES: Final = (10, 50, 90, 99)


@dataclass(frozen=True)
class Description:
    """Blocks are of 4 KiB."""

    workload: str
    requests: int
    write_blocks: int
    trim_blocks: int
    read_blocks: int
    footprint_blocks: int
    """Different blocks that are written."""
    highest_block: int
    """Of all that are written, trimmed or read; plus 1. 0 without any."""
    rewrites: int
    """Blocks that are written although they were written before, and not trimmed since."""
    rewrite_distance: dict[str, int]
    """Percentiles of the blocks written between two writes of the same block, rounded up by at most 4.5 %. Empty
    without rewrites."""
    hot_share: float
    """Of all blocks written: those that went to the hottest fifth of the footprint."""
    request_blocks_mean: float
    duration_s: float | None
    passed_lines: int
    malformed_lines: int


def describe(
    workload: Workload,
    *,
    seed: int = 1,
    write_blocks: int | None = None,
    progress: Callable[[int], None] = lambda written: None,
) -> Description:
    """Takes all that a trace has, or write_blocks blocks of writes. Needs 12 bytes of memory for each block of the
    footprint, or more if that is scattered.

    progress: called with the blocks written so far. Raises TraceError; ParameterError if memory is short.
    """
    watch = _Watch()
    for batch in workload.requests(seed):
        watch.see(batch)
        progress(watch.written)
        if write_blocks is not None and (watch.written >= write_blocks or watch.idle):
            break
    passed, malformed = (workload.counts.passed, workload.counts.malformed) if isinstance(workload, Trace) else (0, 0)
    return watch.description(workload.name, passed, malformed)


def describe_text(spec: str, *, block_count: int | None = None, as_json: bool = False) -> str:
    """For the command line. A trace is read to its end, and its addresses may be any unless a device is given.

    Raises ParameterError for a spec that means nothing, TraceError, and UnsupportedError.
    """
    # A trace takes any device; a synthetic workload needs a sensible one.
    workload = parse(spec, block_count or BLOCK_COUNT_MAX)
    count = None
    if not isinstance(workload, Trace):
        block_count = block_count or SYNTHETIC_BLOCKS
        workload = parse(spec, block_count)
        count = SYNTHETIC_WRITES * block_count
    elif workload.endless:
        raise ParameterError(f"workload {spec!r}: repeat=forever has no end: leave it out")
    description = describe(workload, write_blocks=count)
    if as_json:
        return json.dumps(asdict(description), indent=2)
    return "\n".join(_lines(description))


def _lines(each: Description) -> list[str]:
    def size(blocks: int) -> str:
        return f"{blocks} blocks ({blocks * BLOCK_BYTES / 2**30:.2f} GiB)"

    lines = [
        f"requests      {each.requests}, {each.request_blocks_mean:.2f} blocks on average",
        f"written       {size(each.write_blocks)}",
        f"trimmed       {size(each.trim_blocks)}",
        f"read          {size(each.read_blocks)}",
        f"footprint     {size(each.footprint_blocks)} written, below block {each.highest_block}",
        f"skew          {each.hot_share:.1%} of what is written goes to the hottest fifth of the footprint",
    ]
    if each.rewrites:
        distances = ", ".join(f"{name} {distance}" for name, distance in each.rewrite_distance.items())
        lines.append(f"rewritten     {each.rewrites} blocks, after {distances} blocks")
    if each.duration_s is not None:
        lines.append(f"duration      {each.duration_s:.1f} s")
    if each.passed_lines or each.malformed_lines:
        lines.append(f"lines         {each.passed_lines} passed over, {each.malformed_lines} malformed")
    return lines


class _Watch:
    def __init__(self) -> None:
        self.written = 0
        self.idle = False
        """The last batches wrote nothing, and nothing else will come of it."""
        self._requests = 0
        self._blocks = np.zeros(3, np.int64)
        self._highest = 0
        self._distances = np.zeros(64 * _STEPS, np.int64)
        self._pages = _Pages()
        self._time_ns: int | None = None
        self._batches_without = 0

    def see(self, batch: Requests) -> None:
        blocks = batch.blocks.astype(np.int64)
        self._requests += len(batch)
        for op in (WRITE, TRIM, READ):
            self._blocks[op] += int(blocks[batch.op == op].sum())
        self._highest = max(self._highest, int((batch.lba + batch.blocks).max()))
        if batch.time_ns is not None:
            self._time_ns = int(batch.time_ns[-1])
        changes = batch.op != READ
        self._change(batch.lba[changes].astype(np.int64), blocks[changes], batch.op[changes] == TRIM)
        self.written = int(self._blocks[WRITE])
        self._batches_without = 0 if (batch.op == WRITE).any() else self._batches_without + 1
        self.idle = self._batches_without > 100

    def _change(self, first: NDArray[np.int64], blocks: NDArray[np.int64], trims: NDArray[np.bool_]) -> None:
        """Each block that is written or trimmed, in order."""
        if not len(first):
            return
        begin = np.cumsum(blocks) - blocks
        lba = np.arange(int(blocks.sum())) + np.repeat(first - begin, blocks)
        trimmed = np.repeat(trims, blocks)
        # The number of the write; 0 is "never".
        when = np.where(trimmed, 0, self.written + np.cumsum(~trimmed))
        order = np.argsort(lba, kind="stable")
        lba, when = lba[order], when[order]
        starts = np.concatenate([[True], lba[1:] != lba[:-1]])
        ends = np.concatenate([starts[1:], [True]])
        before = np.concatenate([[0], when[:-1]])
        written = np.add.reduceat((when > 0).astype(np.int64), np.flatnonzero(starts))
        before[starts] = self._pages.swap(lba[starts], when[ends], written)
        again = (when > 0) & (before > 0)
        bucket = np.floor(np.log2((when[again] - before[again]).astype(np.float64)) * _STEPS).astype(np.int64)
        self._distances += np.bincount(bucket, minlength=len(self._distances))

    def description(self, name: str, passed: int, malformed: int) -> Description:
        footprint, hot = self._pages.footprint()
        rewrites = int(self._distances.sum())
        reached = np.cumsum(self._distances)
        percentiles = {
            f"p{percent}": int(2 ** ((int(np.searchsorted(reached, rewrites * percent / 100)) + 1) / _STEPS))
            for percent in _PERCENTILES
            if rewrites
        }
        return Description(
            workload=name,
            requests=self._requests,
            write_blocks=self.written,
            trim_blocks=int(self._blocks[TRIM]),
            read_blocks=int(self._blocks[READ]),
            footprint_blocks=footprint,
            highest_block=self._highest,
            rewrites=rewrites,
            rewrite_distance=percentiles,
            hot_share=hot / self.written if self.written else 0.0,
            request_blocks_mean=int(self._blocks.sum()) / self._requests if self._requests else 0.0,
            duration_s=None if self._time_ns is None else self._time_ns / 1e9,
            passed_lines=passed,
            malformed_lines=malformed,
        )


class _Pages:
    """When each block was written last, and how often, for the parts of the device that are written."""

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._last = np.zeros((0, PAGE_BLOCKS), np.int64)
        self._counts = np.zeros((0, PAGE_BLOCKS), np.uint32)

    def swap(self, lba: NDArray[np.int64], when: NDArray[np.int64], written: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last writes of these blocks, which ascend, and the new ones in their place."""
        pages, back = np.unique(lba // PAGE_BLOCKS, return_inverse=True)
        slots = np.array([self._slots.setdefault(page, len(self._slots)) for page in pages.tolist()])
        self._grow(len(self._slots))
        at = slots[back] * PAGE_BLOCKS + lba % PAGE_BLOCKS
        last, counts = self._last.reshape(-1), self._counts.reshape(-1)
        before = last[at]
        last[at] = when
        counts[at] += written.astype(np.uint32)
        return before

    def footprint(self) -> tuple[int, int]:
        """Blocks that were ever written, and the writes of the hottest of them."""
        counts = self._counts[self._counts > 0]
        hot = round(len(counts) * _HOT_SHARE)
        if not hot:
            return len(counts), 0
        return len(counts), int(np.partition(counts, len(counts) - hot)[len(counts) - hot :].sum(dtype=np.int64))

    def _grow(self, pages: int) -> None:
        have = len(self._last)
        if pages <= have:
            return
        if pages * _PAGE_BYTES > MEMORY_BYTES_MAX:
            raise ParameterError(
                f"the workload is scattered over so much of its device that describing it takes more than "
                f"{MEMORY_BYTES_MAX >> 30} GiB of memory: describe a part of it, or use fit=pack"
            )
        more = max(pages, have + have // 2) - have
        self._last = np.concatenate([self._last, np.zeros((more, PAGE_BLOCKS), np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros((more, PAGE_BLOCKS), np.uint32)])
