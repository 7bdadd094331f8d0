"""The formats of traces: what the fields of a line mean."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ParameterError, TraceError
from ...text import show_line, show_name
from .base import READ, TRIM, WRITE
from .table import Lines, Marks, Numbers, Table

ANY: Final = "any"
OFFSET_MAX: Final = 1 << 62
SIZE_MAX: Final = 1 << 52
_SECTOR_BYTES: Final = 512


@dataclass(frozen=True)
class Found:
    """What a chunk holds. All arrays but ``malformed`` have the shape (requests,)."""

    line: Lines
    op: NDArray[np.uint8]
    offset: Numbers
    """In bytes."""
    size: Numbers
    """In bytes."""
    time: Numbers | None
    """In units of the format, from whenever."""
    malformed: Lines
    passed: int
    """Lines that are well-formed, but not meant: of other devices, or neither write, trim nor read."""


class Format(ABC):
    """One format, for one run through one file. It knows whose requests it has seen."""

    name: ClassVar[str]
    example: ClassVar[str]
    device_is: ClassVar[str] = ""
    """What the option ``device`` means."""
    options: ClassVar[frozenset[str]] = frozenset({"device"})
    time_unit_ns: ClassVar[int]
    separators: ClassVar[bytes] = b","
    words: ClassVar[bool] = False

    def __init__(self, options: dict[str, str]) -> None:
        """Raises ParameterError for an option with a value that means nothing."""
        self._options = options
        self._seen: dict[int, bytes] = {}

    @classmethod
    @abstractmethod
    def recognises(cls, line: bytes) -> bool:
        """Whether it could be a line of such a file."""

    @abstractmethod
    def read(self, table: Table) -> Found:
        """Raises TraceError if the requests are of several devices, and none of them was chosen."""

    # --- for the formats themselves ---

    def _chosen(self, table: Table, lines: Lines, column: int, option: str = "device") -> Lines:
        """The lines that have what the option wants: all, if it is not given."""
        wanted = self._options.get(option, ANY)
        return lines if wanted == ANY else lines[table.equal(lines, column, wanted.encode())]

    def _only(self, table: Table, lines: Lines, column: int, option: str = "device") -> None:
        """Raises TraceError if the option is not given, and not all of these have the same."""
        if option in self._options or not len(lines):
            return
        first = self._seen.setdefault(column, table.text(int(lines[0]), column))
        same = table.equal(lines, column, first)
        if not same.all():
            other = table.text(int(lines[np.argmin(same)]), column)
            names = " and ".join(show_name(name.decode("ascii", "replace"), 60) for name in (first, other))
            raise TraceError(
                f"requests of several devices ({option} {names}): choose one (…:{option}=VALUE), or lay them over "
                f"each other (…:{option}={ANY})"
            )


def _found(
    lines: Lines, op: NDArray[np.uint8], offset: Numbers, size: Numbers, time: Numbers | None, good: Marks, bad: Lines
) -> Found:
    good = good & (offset <= OFFSET_MAX) & (size <= SIZE_MAX)
    malformed = np.sort(np.concatenate([bad, lines[~good]]))
    # A request without any byte does nothing.
    kept = good & (size > 0)
    return Found(
        lines[kept],
        op[kept],
        offset[kept],
        size[kept],
        None if time is None else time[kept],
        malformed,
        int(np.count_nonzero(good & ~kept)),
    )


def _more_passed(found: Found, passed: int) -> Found:
    return Found(found.line, found.op, found.offset, found.size, found.time, found.malformed, found.passed + passed)


def _with_columns(table: Table, columns: int) -> tuple[Lines, Lines]:
    """The lines that have so many fields, and those that have another number, but are not empty."""
    right = table.counts == columns
    return np.flatnonzero(right), np.flatnonzero(~right & ~table.empty())


def _op_by_word(
    table: Table, lines: Lines, column: int, words: tuple[tuple[bytes, int], ...]
) -> tuple[NDArray[np.uint8], Marks]:
    op = np.zeros(len(lines), np.uint8)
    good = np.zeros(len(lines), np.bool_)
    for word, meaning in words:
        same = table.equal(lines, column, word)
        op[same] = meaning
        good |= same
    return op, good


class Msr(Format):
    """MSR Cambridge (SNIA IOTTA 388): times in 100 ns since 1601, offset and size in bytes."""

    name = "msr"
    example = "128166372003061629,hm,1,Read,383496192,32768,413"
    device_is = "DiskNumber"
    options = frozenset({"device", "host"})
    time_unit_ns = 100

    @classmethod
    def recognises(cls, line: bytes) -> bool:
        """See Format."""
        fields = line.split(b",")
        return len(fields) == 7 and fields[3].lower() in (b"read", b"write", b"type")

    def read(self, table: Table) -> Found:
        """See Format."""
        lines, bad = _with_columns(table, 7)
        right = len(lines)
        lines = self._chosen(table, lines, 1, "host")
        lines = self._chosen(table, lines, 2)
        time, good = table.number(lines, 0)
        op, op_good = _op_by_word(table, lines, 3, ((b"Read", READ), (b"Write", WRITE)))
        offset, offset_good = table.number(lines, 4)
        size, size_good = table.number(lines, 5)
        found = _found(lines, op, offset, size, time, good & op_good & offset_good & size_good, bad)
        self._only(table, found.line, 1, "host")
        self._only(table, found.line, 2)
        return _more_passed(found, right - len(lines))


class Alibaba(Format):
    """Alibaba block traces of 2020: times in microseconds, offset and length in bytes."""

    name = "alibaba"
    example = "419,W,37920768,16384,1577808000000626"
    device_is = "device_id"
    time_unit_ns = 1000

    @classmethod
    def recognises(cls, line: bytes) -> bool:
        """See Format."""
        fields = line.split(b",")
        return len(fields) == 5 and fields[1] in (b"R", b"W", b"opcode")

    def read(self, table: Table) -> Found:
        """See Format."""
        lines, bad = _with_columns(table, 5)
        right = len(lines)
        lines = self._chosen(table, lines, 0)
        op, good = _op_by_word(table, lines, 1, ((b"R", READ), (b"W", WRITE)))
        offset, offset_good = table.number(lines, 2)
        size, size_good = table.number(lines, 3)
        time, time_good = table.number(lines, 4)
        found = _found(lines, op, offset, size, time, good & offset_good & size_good & time_good, bad)
        self._only(table, found.line, 0)
        return _more_passed(found, right - len(lines))


class Fio(Format):
    """What `fio --write_iolog` writes. Version 3 has times, in microseconds; the waits of version 2 are passed over."""

    name = "fio"
    example = "1041 /dev/nvme0n1 write 8192 4096"
    device_is = "the file's name"
    time_unit_ns = 1000
    separators = b" \t"
    words = True
    _OPS: ClassVar = ((b"write", WRITE), (b"read", READ), (b"trim", TRIM))
    _OTHER_IO: ClassVar = ((b"sync", 0), (b"datasync", 0), (b"sync_file_range", 0), (b"syncfs", 0), (b"wait", 0))
    _FILE: ClassVar = ((b"add", 0), (b"open", 0), (b"close", 0))
    _HEADER: ClassVar = re.compile(rb"fio version ([0-9]{1,3}) iolog\r?")

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__(options)
        self._version = 0

    @classmethod
    def recognises(cls, line: bytes) -> bool:
        """See Format."""
        return cls._HEADER.fullmatch(line) is not None

    def read(self, table: Table) -> Found:
        """See Format."""
        header = 0
        if not self._version:
            self._version = self._version_of(table)
            header = 1
        timed = self._version == 3
        name = int(timed)
        all_lines = np.arange(header, len(table))
        counts = table.counts[header:]
        orders = all_lines[counts == name + 2]
        orders_bad = ~_op_by_word(table, orders, name + 1, self._FILE)[1]
        lines = all_lines[counts == name + 4]
        known = _op_by_word(table, lines, name + 1, self._OPS)[1]
        other = _op_by_word(table, lines, name + 1, self._OTHER_IO)[1]
        bad = [all_lines[(counts != name + 2) & (counts != name + 4) & (counts > 0)], orders[orders_bad]]
        bad.append(lines[~known & ~other])
        passed = len(orders) - int(np.count_nonzero(orders_bad)) + int(np.count_nonzero(other))
        all_io = lines[known]
        lines = self._chosen(table, all_io, name)
        passed += len(all_io) - len(lines)
        op = _op_by_word(table, lines, name + 1, self._OPS)[0]
        offset, good = table.number(lines, name + 2)
        size, size_good = table.number(lines, name + 3)
        good &= size_good
        time = None
        if timed:
            time, time_good = table.number(lines, 0)
            good &= time_good
        found = _found(lines, op, offset, size, time, good, np.concatenate(bad))
        self._only(table, found.line, name)
        return _more_passed(found, passed)

    def _version_of(self, table: Table) -> int:
        first = b" ".join(table.text(0, column) for column in range(min(int(table.counts[0]), 5)))
        header = self._HEADER.fullmatch(first)
        if not header:
            raise TraceError('the first line is not "fio version 2 iolog" or "fio version 3 iolog"')
        version = int(header[1])
        if version not in (2, 3):
            raise TraceError(f"version {version} of fio's iolog: must be 2 or 3")
        return version


class Blkparse(Format):
    """What blkparse prints by default: sectors of 512 bytes. Of each request, one event counts (``action``)."""

    name = "blkparse"
    example = "8,0 1 42 0.000012345 697 Q WS 223490 + 8 [kworker/1:1]"
    device_is = "MAJOR,MINOR"
    options = frozenset({"device", "action"})
    time_unit_ns = 1
    separators = b" \t"
    words = True
    _EVENT: ClassVar = re.compile(rb"\s*[0-9]+,[0-9]+\s+[0-9]+\s+[0-9]+\s+[0-9]+\.[0-9]{9}\s+[0-9]+\s+[A-Z]+\s.*")

    def __init__(self, options: dict[str, str]) -> None:
        super().__init__(options)
        action = options.get("action", "Q")
        if action not in ("Q", "D", "C"):
            raise ParameterError(f"action={show_name(action)}: must be Q (queued), D (issued) or C (completed)")
        self._action = action.encode()

    @classmethod
    def recognises(cls, line: bytes) -> bool:
        """See Format."""
        return cls._EVENT.fullmatch(line) is not None

    def read(self, table: Table) -> Found:
        """See Format."""
        # Messages and, at the end, sums stand between the events.
        lines = np.flatnonzero(table.counts >= 7)
        lines = lines[table.equal(lines, 5, self._action)]
        sure = table.decimal(lines, 3, 9)[1]
        passed = len(table) - int(np.count_nonzero(sure))
        lines = lines[sure]
        events = len(lines)
        lines = self._chosen(table, lines, 0)
        op, moves_data = self._ops(table, lines)
        lines, op = lines[moves_data], op[moves_data]
        passed += events - len(lines)
        right = table.counts[lines] >= 10
        right[right] = table.equal(lines[right], 8, b"+")
        bad, lines, op = lines[~right], lines[right], op[right]
        time, good = table.decimal(lines, 3, 9)
        sector, sector_good = table.number(lines, 7)
        sectors, sectors_good = table.number(lines, 9)
        good &= sector_good & (sector <= OFFSET_MAX // _SECTOR_BYTES)
        good &= sectors_good & (sectors <= SIZE_MAX // _SECTOR_BYTES)
        offset, size = sector * np.uint64(_SECTOR_BYTES), sectors * np.uint64(_SECTOR_BYTES)
        found = _found(lines, op, offset, size, time, good, bad)
        self._only(table, found.line, 0)
        return _more_passed(found, passed)

    def _ops(self, table: Table, lines: Lines) -> tuple[NDArray[np.uint8], Marks]:
        """By the field RWBS: W, R or D, behind an F (flush before), before others. A flush alone moves nothing."""
        first = table.byte(lines, 6, 0)
        flushes = first == ord("F")
        letter = np.where(flushes, table.byte(lines, 6, 1), first)
        op = np.full(len(lines), 255, np.uint8)
        for byte, meaning in ((b"W", WRITE), (b"D", TRIM), (b"R", READ)):
            op[letter == ord(byte)] = meaning
        # "FWS [fio]": a flush without a sector.
        flushes &= table.counts[lines] >= 8
        flushes[flushes] = table.byte(lines[flushes], 7, 0) == ord("[")
        return op, (op != 255) & ~flushes


FORMATS: Final[dict[str, type[Format]]] = {each.name: each for each in (Msr, Alibaba, Fio, Blkparse)}


def recognised(chunk: bytes) -> str | None:
    """The name of the format that the first lines are of."""
    for line in chunk[: 1 << 16].split(b"\n")[:16]:
        for name, each in FORMATS.items():
            if each.recognises(line.rstrip(b"\r")):
                return name
    return None


def options_of(name: str, options: dict[str, str]) -> None:
    """Raises ParameterError for an option that the format does not have, or a value that means nothing."""
    kind = FORMATS[name]
    for option in options:
        if option not in kind.options:
            raise ParameterError(f"{option}=: a trace of format {name} has no {show_line(option)}")
    kind(options)
