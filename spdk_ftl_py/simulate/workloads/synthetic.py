"""Synthetic workloads: where hosts write (a pattern), how much (sizes), and what else they do (trims, reads, mixes).

A pattern is a tree: leaves choose LBAs, the nodes above choose sizes, operations, or one of several patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import ParameterError
from .base import BATCH, BATCH_BLOCKS, READ, TRIM, Requests
from .bijection import Bijection
from .zipf import Zipf

Blocks = NDArray[np.uint32]
Lbas = NDArray[np.uint64]

REQUEST_BLOCKS_MAX: Final = 1 << 16
"""256 MiB."""


@dataclass
class Taken:
    """Some requests, which belong to whoever took them."""

    op: NDArray[np.uint8]
    lba: Lbas
    blocks: Blocks


class Stream(Protocol):
    """A pattern under way: it knows how far it has come."""

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        """The next count requests. blocks: of each one; None for one block each."""
        ...


class Pattern(Protocol):
    """What a synthetic workload consists of."""

    def start(self, rng: np.random.Generator) -> Stream:
        """From the beginning."""
        ...


class Synthetic:
    """A workload that never ends."""

    def __init__(self, name: str, pattern: Pattern) -> None:
        self.name = name
        self._pattern = pattern

    def requests(self, seed: int) -> Iterator[Requests]:
        """Batches of at most BATCH requests and BATCH_BLOCKS blocks."""
        stream = self._pattern.start(np.random.Generator(np.random.SFC64(seed)))
        while True:
            taken = stream.take(BATCH, None)
            for part in bounded(taken.blocks):
                yield Requests(taken.op[part], taken.lba[part], taken.blocks[part], None)


def bounded(blocks: Blocks) -> Iterator[slice]:
    """Slices of at most BATCH requests and, unless a single request is longer, BATCH_BLOCKS blocks."""
    if len(blocks) <= BATCH and int(blocks.max(initial=0)) * len(blocks) <= BATCH_BLOCKS:
        if len(blocks):
            yield slice(0, len(blocks))
        return
    ends = np.cumsum(blocks, dtype=np.uint64)
    first = 0
    while first < len(blocks):
        before = int(ends[first - 1]) if first else 0
        last = int(np.searchsorted(ends, before + BATCH_BLOCKS, side="right"))
        last = min(max(last, first + 1), first + BATCH)
        yield slice(first, last)
        first = last


# --- leaves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Uniform:
    """Each LBA is as likely as any other."""

    block_count: int

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        return _Random(self.block_count, lambda count: _uniform(rng, 0, self.block_count, count))


@dataclass(frozen=True)
class ZipfPattern:
    """A few LBAs are written often. They lie anywhere."""

    zipf: Zipf

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        place = Bijection(self.zipf.count)
        return _Random(self.zipf.count, lambda count: place(self.zipf.ranks(rng, count)))


@dataclass(frozen=True)
class Drift:
    """Zipf's distribution over LBAs that become hot and cold: every few requests, the hottest ones change places."""

    zipf: Zipf
    every: int
    """Requests."""
    hot: int
    """LBAs that change places."""

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        return _Random(self.zipf.count, _Drifting(self, rng))


@dataclass(frozen=True)
class HotCold:
    """The first LBAs get a share of the requests, the others the rest."""

    block_count: int
    hot: int
    share: float

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""

        def lbas(count: int) -> Lbas:
            is_hot = rng.random(count) < self.share
            hot_count = int(np.count_nonzero(is_hot))
            lba = np.empty(count, np.uint64)
            lba[is_hot] = _uniform(rng, 0, self.hot, hot_count)
            if hot_count < count:
                lba[~is_hot] = _uniform(rng, self.hot, self.block_count, count - hot_count)
            return lba

        return _Random(self.block_count, lbas)


@dataclass(frozen=True)
class Sequential:
    """From LBA 0 to the last one, and again."""

    block_count: int

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        return _Sequence(self.block_count)


class _Random:
    def __init__(self, block_count: int, lbas: _Lbas) -> None:
        self._block_count = block_count
        self._lbas = lbas

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        lba = self._lbas(count)
        if blocks is None:
            return Taken(np.zeros(count, np.uint8), lba, np.ones(count, np.uint32))
        # Aligned to its size, as a file system or `fio --bs` does it.
        lba -= lba % blocks
        blocks = np.minimum(blocks, self._block_count - lba).astype(np.uint32)
        return Taken(np.zeros(count, np.uint8), lba, blocks)


class _Lbas(Protocol):
    def __call__(self, count: int, /) -> Lbas: ...


class _Drifting:
    def __init__(self, drift: Drift, rng: np.random.Generator) -> None:
        self._drift = drift
        self._rng = rng
        self._place = Bijection(drift.zipf.count)
        self._now = Bijection(drift.hot, self._key())
        self._left = drift.every

    def __call__(self, count: int, /) -> Lbas:
        rank = self._drift.zipf.ranks(self._rng, count)
        done = 0
        while done < count:
            part = rank[done : done + self._left]
            is_hot = part < self._drift.hot
            part[is_hot] = self._now(part[is_hot])
            done += len(part)
            self._left -= len(part)
            if not self._left:
                self._left = self._drift.every
                self._now = Bijection(self._drift.hot, self._key())
        return self._place(rank)

    def _key(self) -> int:
        return int(self._rng.integers(0, 1 << 63))


class _Sequence:
    def __init__(self, block_count: int) -> None:
        self._block_count = block_count
        self._next = 0

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        if blocks is None:
            lba = np.arange(self._next, self._next + count, dtype=np.uint64)
            blocks = np.ones(count, np.uint32)
            self._next += count
        else:
            ends = np.cumsum(blocks, dtype=np.uint64) + np.uint64(self._next)
            lba = ends - blocks
            self._next = int(ends[-1])
        lba %= np.uint64(self._block_count)
        self._next %= self._block_count
        # A request that reaches over the end is cut; the next one goes on behind its rest.
        return Taken(np.zeros(count, np.uint8), lba, np.minimum(blocks, self._block_count - lba).astype(np.uint32))


def _uniform(rng: np.random.Generator, low: int, high: int, count: int) -> Lbas:
    if high <= 1 << 32:
        return rng.integers(low, high, count, dtype=np.uint32).astype(np.uint64)
    return rng.integers(low, high, count, dtype=np.uint64)


# --- what stands above them ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sized:
    """Requests of low to high blocks, each size as likely as any other."""

    low: int
    high: int
    pattern: Pattern

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        return _Sized(self, rng)


@dataclass(frozen=True)
class Changed:
    """A share of the requests, chosen at random, trims or reads instead."""

    op: int
    share: float
    pattern: Pattern

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        return _Changed(self, rng)


@dataclass(frozen=True)
class Part:
    """A pattern, made for fewer blocks, on the blocks from ``first`` on."""

    first: int
    pattern: Pattern

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        return _Part(self.first, self.pattern.start(rng))


class Mix:
    """Requests of several patterns, mingled at random.

    weights: how often each is chosen, relative to the others. Raises ParameterError if all are 0.
    """

    def __init__(self, weights: Sequence[float], patterns: Sequence[Pattern]) -> None:
        total = sum(weights)
        if not total > 0:
            raise ParameterError("the weights of a mix are all 0: one must be more")
        # One that is never chosen takes no part, however the last limit is rounded.
        self._parts = [(weight / total, pattern) for weight, pattern in zip(weights, patterns, strict=True) if weight]

    def start(self, rng: np.random.Generator) -> Stream:
        """See Pattern."""
        limits = np.cumsum([weight for weight, _ in self._parts])[:-1]
        return _Mixed(limits, [pattern.start(rng) for _, pattern in self._parts], rng)


class _Sized:
    def __init__(self, sized: Sized, rng: np.random.Generator) -> None:
        self._sized = sized
        self._stream = sized.pattern.start(rng)
        self._rng = rng

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        low, high = self._sized.low, self._sized.high
        if low == high:
            return self._stream.take(count, np.full(count, low, np.uint32))
        return self._stream.take(count, self._rng.integers(low, high + 1, count, dtype=np.uint32))


class _Changed:
    def __init__(self, changed: Changed, rng: np.random.Generator) -> None:
        self._changed = changed
        self._stream = changed.pattern.start(rng)
        self._rng = rng

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        taken = self._stream.take(count, blocks)
        taken.op[self._rng.random(count) < self._changed.share] = self._changed.op
        return taken


class _Part:
    def __init__(self, first: int, stream: Stream) -> None:
        self._first = np.uint64(first)
        self._stream = stream

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        taken = self._stream.take(count, blocks)
        taken.lba += self._first
        return taken


class _Mixed:
    def __init__(self, limits: NDArray[np.float64], streams: list[Stream], rng: np.random.Generator) -> None:
        self._limits = limits
        self._streams = streams
        self._rng = rng

    def take(self, count: int, blocks: Blocks | None) -> Taken:
        chosen = np.searchsorted(self._limits, self._rng.random(count), side="right")
        mixed = Taken(np.empty(count, np.uint8), np.empty(count, np.uint64), np.empty(count, np.uint32))
        for number, stream in enumerate(self._streams):
            at = np.flatnonzero(chosen == number)
            if at.size:
                taken = stream.take(len(at), None if blocks is None else blocks[at])
                mixed.op[at], mixed.lba[at], mixed.blocks[at] = taken.op, taken.lba, taken.blocks
        return mixed


def trims(share: float, pattern: Pattern) -> Pattern:
    """Trims among the requests."""
    return Changed(TRIM, share, pattern)


def reads(share: float, pattern: Pattern) -> Pattern:
    """Reads among the requests."""
    return Changed(READ, share, pattern)
