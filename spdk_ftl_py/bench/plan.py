"""What is measured: sections (a state and a variant of the FTL) with their workloads, and the goals of some of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..errors import ParameterError
from .rows import Goal
from .workloads import WORKLOADS, Workload

State = Literal["fresh", "gc"]
STATES: Final[tuple[State, ...]] = ("fresh", "gc")

_DEPTHS: Final = ("qd1", "qd32", "qd128")
_RANDOM: Final = tuple(f"{kind}-{depth}" for kind in ("write", "read", "mix") for depth in _DEPTHS)
_WRITES: Final = tuple(f"write-{depth}" for depth in _DEPTHS)
_READS: Final = tuple(f"read-{depth}" for depth in _DEPTHS)
_SYNCS: Final = ("fsync-qd1", "fsync-qd32")
_SHARED: Final = ("read-qd1", "write-qd1", "seq-write", "write-qd128")
_LARGE: Final = ("seq-write", "seq-read")
SHARED: Final = "vfio-user"
"""The section of the goals of vfio-user (shared.py). It has a bed of its own."""


@dataclass(frozen=True)
class Section:
    state: State
    variant: str
    workloads: tuple[Workload, ...]

    def where(self, kept: Callable[[str, Workload], bool]) -> Section:
        return replace(self, workloads=tuple(each for each in self.workloads if kept(self.state, each)))

    @property
    def name(self) -> str:
        return self.state + (f"+{self.variant}" if self.variant else "")


def _section(state: State, variant: str, names: Iterable[str]) -> Section:
    return Section(state, variant, tuple(WORKLOADS[name] for name in names))


# Sequential writes leave whole bands invalid: they come last, so that relocation finds what random writes leave.
FULL: Final = (
    _section("fresh", "", (*_RANDOM, *_LARGE, *_SYNCS, "read-beside-writes")),
    _section("fresh", "", tuple(f"{name}-4q" for name in (*_RANDOM, *_LARGE, *_SYNCS))),
    _section(
        "gc",
        "",
        (*_WRITES, "write-qd32-4q", "write-qd128-4q", "mix-qd1", "mix-qd32", "mix-qd128", "read-beside-writes",
         *_SYNCS, *_READS, "seq-read", "seq-write"),
    ),
    _section("fresh", "cache", (*_WRITES, *_SYNCS, "seq-write")),
    _section("gc", "cache", ("write-qd32", "write-qd128", "read-beside-writes")),
    _section("fresh", "digests", (*_WRITES, *_READS, *_LARGE)),
    _section("fresh", "no-verify", (*_READS, "seq-read")),
    _section("fresh", SHARED, _SHARED),
)  # fmt: skip
QUICK: Final = (
    _section("fresh", "", (*_WRITES, *_READS, "mix-qd32", *_LARGE, "fsync-qd1", "read-beside-writes")),
    _section("gc", "", (*_WRITES, "mix-qd32", "read-beside-writes", "seq-write")),
    _section("fresh", "cache", ("write-qd32",)),
    _section("fresh", "digests", ("write-qd32", "read-qd32")),
    _section("fresh", "no-verify", ("read-qd32",)),
    _section("fresh", SHARED, _SHARED),
)

# Issue 12, section 2: ratios to the raw bdev.
RATIO_GOALS: Final = {
    "write-qd1": Goal(0.85),
    "write-qd32": Goal(0.95),
    "write-qd128": Goal(0.75),
    "read-qd1": Goal(0.55),
    "read-qd32": Goal(0.8),
    "read-qd128": Goal(0.85),
    "seq-write": Goal(0.45),
    "seq-read": Goal(0.6),
}
GC_MEDIA_WRITES: Final = Goal(0.8)
"""Writes of hosts times write amplification, to the writes of a fresh FTL."""
GC_TAIL: Final = Goal(10, at_least=False)
"""p99.9 of writes at queue depth 32, to p50."""
GC_READS: Final = Goal(1.3, at_least=False)
"""p99 of reads, to that without relocation."""

# Issue 12, section 4: client and base in one process, both ways by vfio-user.
SHARED_GOALS: Final = {
    ("read-qd1", "latency_to_raw_tcp"): Goal(1.2, at_least=False),
    ("write-qd1", "latency_to_raw_tcp"): Goal(0.6, at_least=False),
    ("seq-write", "mib_s_to_raw_vfio_user"): Goal(0.6),
    ("write-qd128", "cpu_us_daemon"): Goal(1.2, at_least=False),
}


def selected(sections: Sequence[Section], patterns: Sequence[str]) -> list[Section]:
    """The workloads that match one of the patterns: SECTION/WORKLOAD, with * and ? as in file names. A pattern without
    / is of the section "fresh". Without patterns all of them. Raises ParameterError if a pattern matches none."""
    if not patterns:
        return list(sections)
    wanted = [pattern if "/" in pattern else f"fresh/{pattern}" for pattern in patterns]
    used: set[str] = set()
    found: list[Section] = []
    for section in sections:
        kept = []
        for workload in section.workloads:
            name = f"{section.name}/{workload.name}"
            matching = [pattern for pattern in wanted if fnmatch.fnmatchcase(name, pattern)]
            used.update(matching)
            if matching:
                kept.append(workload)
        if kept:
            found.append(Section(section.state, section.variant, tuple(kept)))
    unused = [pattern for pattern in wanted if pattern not in used]
    if unused:
        names = sorted({section.name for section in sections})
        raise ParameterError(
            f"--only {unused[0]}: no such workload; there are {', '.join(sorted(WORKLOADS))}, "
            f"each as SECTION/WORKLOAD with the sections {', '.join(names)} (not each has all of them)"
        )
    return found
