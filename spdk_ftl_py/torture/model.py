"""The answers that an FTL may give. For each LBA: the change that is durable, the newest acknowledged one, and those
that may have happened.

Changes are writes, trims and blocks that the host declares uncorrectable. They are numbered in the order of submission,
which is the order in which the FTL takes them. A written block carries the number of its change as its version. Version
0 reads as zeroes, and an uncorrectable block as an error.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

from .content import GARBAGE

READ_ERROR: Final = -2

NEVER_WRITTEN: Final = 0
"""The initial change of each LBA, which reads as zeroes."""


@dataclass(frozen=True)
class Violation:
    """A broken promise (docs/durability.md), found at one LBA (-1: at no particular one)."""

    kind: str
    """lost, older, garbage, resurrected, untold, read_error, refused, wedged, io_error, damaged, read_only,
    given_up, unnoticed, identity, overlap, compared, failed."""
    lba: int
    detail: str

    def __str__(self) -> str:
        where = f" at LBA {self.lba}" if self.lba >= 0 else ""
        return f"{self.kind}{where}: {self.detail}"


class Model:
    def __init__(self, block_count: int) -> None:
        self.block_count = block_count
        self.change = NEVER_WRITTEN
        self._trims = {NEVER_WRITTEN}
        self._uncorrectable: set[int] = set()
        self._last_uncorrectable: dict[int, int] = {}
        """By LBA: the newest change that declares it uncorrectable."""
        self._history: list[list[int]] = [[NEVER_WRITTEN] for _ in range(block_count)]
        """Per LBA: the changes that it may hold, in ascending order."""
        self._durable = [NEVER_WRITTEN] * block_count
        self._on_base = [NEVER_WRITTEN] * block_count
        """The change that is durable without an nv cache."""
        self._acknowledged = [NEVER_WRITTEN] * block_count
        self._seen = [NEVER_WRITTEN] * block_count
        """The newest change that a read has returned. The next read must not return an older one."""
        self._rotten: dict[int, int] = {}
        """By LBA: the newest change that the rot may have destroyed."""

    def grow(self, block_count: int) -> None:
        """Grows to that number of blocks. The new ones read as zeroes."""
        more = block_count - self.block_count
        self.block_count = block_count
        self._history += [[NEVER_WRITTEN] for _ in range(more)]
        for table in (self._durable, self._on_base, self._acknowledged, self._seen):
            table += [NEVER_WRITTEN] * more

    # --- actions of the host

    def submit(self, lba: int, block_count: int, *, trim: bool, uncorrectable: bool = False) -> int:
        """Adds a write, trim, or declaration that blocks are uncorrectable. Returns the number of its change, which is
        the version to write."""
        self.change += 1
        if trim:
            self._trims.add(self.change)
        if uncorrectable:
            self._uncorrectable.add(self.change)
            self._last_uncorrectable.update(dict.fromkeys(range(lba, lba + block_count), self.change))
        for each in range(lba, lba + block_count):
            self._history[each].append(self.change)
        return self.change

    def acknowledge(self, lba: int, block_count: int, change: int, *, durable: bool, on_base: bool = False) -> None:
        """on_base: durable even without the nv cache."""
        for each in range(lba, lba + block_count):
            if on_base and change > self._on_base[each]:
                self._on_base[each] = change
            if change > self._acknowledged[each]:
                self._acknowledged[each] = change
            if durable and change > self._durable[each]:
                self._durable[each] = change

    def acknowledged(self) -> list[int]:
        """The state for flushed(). Take it when the flush is submitted."""
        return list(self._acknowledged)

    def flushed(self, acknowledged_before: list[int]) -> None:
        self._durable = [max(pair) for pair in zip(self._durable, acknowledged_before, strict=True)]
        self._on_base = [max(pair) for pair in zip(self._on_base, acknowledged_before, strict=True)]

    def everything_durable(self) -> None:
        """Called after a clean halt."""
        self.flushed(self._acknowledged)

    def floors(self, lba: int, block_count: int) -> list[int]:
        """The floors for check_read(). Take them when the read is submitted."""
        part = slice(lba, lba + block_count)
        return [max(pair) for pair in zip(self._acknowledged[part], self._seen[part], strict=True)]

    def current(self, lba: int) -> int | None:
        """The version that the LBA holds; None if that is not known, or if it reads as an error."""
        newest = self._history[lba][-1]
        if newest != self._acknowledged[lba] or newest in self._uncorrectable or newest <= self._rotten.get(lba, -1):
            return None
        return 0 if newest in self._trims else newest

    # --- actions of the drive

    def rot(self, lba: int) -> None:
        """The content of the LBA is corrupted. It reads as an error, until a newer change must be visible."""
        self._rotten[lba] = self._history[lba][-1]

    def may_fail(self, lba: int, floors: list[int]) -> bool:
        """Whether a read may return an error. floors: as for check_read()."""
        return any(self._may_be_error(each, floor) for each, floor in enumerate(floors, lba))

    def may_be_lost(self, lba: int, *, cached: bool) -> bool:
        """Whether the base may say that an LBA reads as an error. cached: newer content may be in an nv cache alone."""
        if cached and self._last_uncorrectable.get(lba, -1) >= self._on_base[lba]:
            return True
        return self._may_be_error(lba, self._durable[lba])

    def _may_be_error(self, lba: int, floor: int) -> bool:
        return self._excused(lba, READ_ERROR, floor) or self._change_of(lba, READ_ERROR, floor) is not None

    def _excused(self, lba: int, version: int, floor: int) -> bool:
        return version == READ_ERROR and floor <= self._rotten.get(lba, -1)

    # --- answers of the device

    def check_read(self, lba: int, floors: list[int], versions: list[int]) -> list[Violation]:
        """Checks a read from a running device."""
        wrong = []
        for each, (floor, version) in enumerate(zip(floors, versions, strict=True), lba):
            change = self._change_of(each, version, floor)
            if self._excused(each, version, floor):
                continue
            if change is None:
                wrong.append(self._violation(each, version, floor, "acknowledged"))
            elif change > self._seen[each]:
                self._seen[each] = change
        return wrong

    def check_restart(self, lba: int, versions: list[int], *, forgetful: bool) -> list[Violation]:
        """Checks a read from a device that was just loaded, before any other I/O. forgetful: changes that were
        acknowledged but not flushed may be lost."""
        what = "durable" if forgetful else "acknowledged"
        wrong = []
        for each, version in enumerate(versions, lba):
            floor = self._durable[each] if forgetful else max(self._acknowledged[each], self._seen[each])
            if self._change_of(each, version, floor) is None and not self._excused(each, version, floor):
                wrong.append(self._violation(each, version, floor, what))
        return wrong

    def forgotten(self, versions: list[int]) -> list[int]:
        """The LBAs that have lost an acknowledged change. Hosts must be told about them."""
        return [
            lba
            for lba, version in enumerate(versions)
            if self._change_of(lba, version, self._acknowledged[lba]) is None
            and not self._excused(lba, version, self._acknowledged[lba])
        ]

    def restart(self, versions: list[int], *, durable: bool) -> None:
        """From now on the LBAs hold what was found. durable: none of it is only in a write buffer."""
        for lba, version in enumerate(versions):
            history = self._history[lba]
            found = self._change_of(lba, version, self._durable[lba])
            if found is None:
                if self._excused(lba, version, self._durable[lba]):
                    # Changes newer than the rot are lost, and none of them comes back.
                    rotten = self._rotten[lba]
                    self._history[lba] = history[: bisect_right(history, rotten)]
                    self._acknowledged[lba] = min(self._acknowledged[lba], rotten)
                    self._seen[lba] = min(self._seen[lba], rotten)
                continue
            if durable:
                # Of several trims this is the earliest, so later checks do not demand too much.
                self._durable[lba] = found
            elif version in (0, READ_ERROR):
                # The latest one. Until it is durable as well, a loss of power may bring back what lies between.
                kind = self._uncorrectable if version else self._trims
                found = max(change for change in history if change in kind)
            first = bisect_left(history, min(self._durable[lba], found))
            self._history[lba] = history[first : bisect_right(history, found)]
            self._acknowledged[lba] = self._seen[lba] = found

    def _change_of(self, lba: int, version: int, floor: int) -> int | None:
        """The earliest change from floor on that explains the version."""
        history = self._history[lba]
        if version > 0:
            at = bisect_left(history, version)
            there = at < len(history) and history[at] == version and not self._without_data(version)
            return version if there and version >= floor else None
        if version not in (0, READ_ERROR):
            return None
        kind = self._uncorrectable if version else self._trims
        for change in history[bisect_left(history, floor) :]:
            if change in kind:
                return change
        return None

    def _without_data(self, change: int) -> bool:
        return change in self._trims or change in self._uncorrectable

    def _violation(self, lba: int, version: int, floor: int, what: str) -> Violation:
        history = self._history[lba]
        least = f"{self._shown(floor)} is {what}"
        tail = ", ".join(self._shown(change) for change in history[-4:])
        if version == GARBAGE:
            return Violation("garbage", lba, f"not a version of it; {least}")
        if version == READ_ERROR:
            return Violation("read_error", lba, f"reads as an error; {least}")
        if version == 0:
            kind = "lost"
        elif version < floor:
            kind = "resurrected" if self._without_data(floor) else "older"
        else:
            kind = "resurrected"
        return Violation(kind, lba, f"holds {self._shown(version) if version else 'zeroes'}; {least}; newest: {tail}")

    def _shown(self, change: int) -> str:
        if change == NEVER_WRITTEN:
            return "never written"
        if change in self._uncorrectable:
            return f"uncorrectable {change}"
        return f"{'trim' if change in self._trims else 'version'} {change}"
