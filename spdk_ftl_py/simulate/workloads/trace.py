"""A trace as a workload: options, several runs, times, and how much nonsense is tolerated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import ParameterError, TraceError
from ...text import show_line, show_name
from . import chunks
from .addresses import FITS, Fit, Fold, OutsideError, Pack, Ranges, Refuse, Scale, in_blocks
from .base import BATCH, BATCH_BLOCKS, BLOCK_BYTES, Requests
from .formats import FORMATS, Format, Found, options_of, recognised
from .synthetic import bounded
from .table import Table

MALFORMED_DEFAULT: Final = 1000
FOREVER: Final = "forever"
_OPTION: Final = re.compile(r"([a-z]+)=([^=]*)")
_COUNT: Final = re.compile(r"[0-9]{1,15}")
_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)")
_OURS: Final = frozenset({"fit", "span", "repeat", "malformed"})
_FOR_FORMAT: Final = frozenset(option for each in FORMATS.values() for option in each.options)
_TIME_MAX_NS: Final = 1 << 62


@dataclass(frozen=True)
class TraceOptions:
    """What stands behind the format of a trace."""

    path: Path
    fit: str = "refuse"
    span_bytes: int | None = None
    """Of the traced device; None: what the trace touches at most."""
    repeat: int | None = 1
    """None: for ever."""
    malformed: int = MALFORMED_DEFAULT
    """So many lines are passed over."""
    of_format: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str) -> TraceOptions:
        """From PATH{:KEY=VALUE}. Raises ParameterError."""
        path, *rest = text.split(":")
        while rest and not _OPTION.fullmatch(rest[0]):
            path += f":{rest.pop(0)}"
        options: dict[str, str] = {}
        for each in rest:
            found = _OPTION.fullmatch(each)
            if not found:
                raise ParameterError(f"{show_line(each)!r} stands behind an option, but is none: must be KEY=VALUE")
            key, value = found[1], found[2]
            if key not in _OURS | _FOR_FORMAT:
                names = ", ".join(sorted(_OURS | _FOR_FORMAT))
                raise ParameterError(f"there is no option {show_name(key)}=: there are {names}")
            if key in options:
                raise ParameterError(f"{key}= is there twice")
            if not value:
                raise ParameterError(f"{key}= has no value")
            options[key] = value
        if not path or "\0" in path:
            raise ParameterError("the path of the trace is missing")
        fit = options.get("fit", "refuse")
        if fit not in FITS:
            raise ParameterError(f"fit={show_name(fit)}: must be one of {', '.join(FITS)}")
        if "span" in options and fit != "scale":
            raise ParameterError("span= has a meaning only with fit=scale")
        repeat = options.get("repeat", "1")
        return cls(
            path=Path(path),
            fit=fit,
            span_bytes=_bytes(options["span"]) if "span" in options else None,
            repeat=None if repeat == FOREVER else _count("repeat", repeat, 1, f" or {FOREVER}"),
            malformed=_count("malformed", options.get("malformed", str(MALFORMED_DEFAULT)), 0, ""),
            of_format=tuple((key, value) for key, value in options.items() if key in _FOR_FORMAT),
        )


@dataclass
class TraceCounts:
    """What a run through the file has met so far."""

    lines: int = 0
    requests: int = 0
    passed: int = 0
    """Lines that are well-formed, but not meant: of other devices, or neither write, trim nor read."""
    malformed: int = 0
    first_malformed: str = ""
    """Where it is, and its beginning."""


class Trace:
    """A workload that ends with its file, or with the last of several runs through it."""

    def __init__(self, name: str, kind: str, options: TraceOptions, block_count: int) -> None:
        """kind: a format's name, or "trace": the one that the first lines are of.

        Raises ParameterError for options that the format does not have.
        """
        self.name = name
        self.counts = TraceCounts()
        """Of the latest run."""
        self._kind = kind
        self._form_name = kind
        self._options = options
        self._block_count = block_count
        self._path = options.path
        self._span_blocks: int | None = None
        if kind in FORMATS:
            options_of(kind, dict(options.of_format))

    def check(self) -> None:
        """Reads the beginning of the file, unless it could not be read a second time. Raises TraceError."""
        if not chunks.check(self._path):
            if self._twice:
                raise TraceError(f"{self._shown} is no regular file and can't be read twice, which {self._twice} needs")
            return
        for chunk in chunks.chunks(self._path):
            form = self._format(chunk)
            table = Table(chunk, *_separation(form))
            self._tolerate(table, self._read(table, form))
            return
        raise TraceError(f"{self._shown} is empty")

    def requests(self, seed: int) -> Iterator[Requests]:
        """See Workload. Batches of at most BATCH requests and BATCH_BLOCKS blocks."""
        fit = self._fit()
        clock = _Clock()
        runs = 0
        while self._options.repeat is None or runs < self._options.repeat:
            clock.begin()
            self.counts = TraceCounts()
            for ranges, lines in self._ranges(clock):
                yield from self._batches(ranges, lines, fit)
            if not self.counts.requests:
                raise TraceError(self._nothing())
            runs += 1

    # --- inside ---

    @property
    def _shown(self) -> str:
        return chunks.shown(self._path)

    @property
    def _twice(self) -> str:
        if self._options.repeat != 1:
            return "repeat="
        return "fit=scale without span=" if self._options.fit == "scale" and self._options.span_bytes is None else ""

    def _ranges(self, clock: _Clock) -> Iterator[tuple[Ranges, NDArray[np.int64]]]:
        """The whole file once; and where in it each request stands."""
        form: Format | None = None
        for chunk in chunks.chunks(self._path):
            form = form or self._format(chunk)
            table = Table(chunk, *_separation(form))
            found = self._read(table, form)
            self._tolerate(table, found)
            time_ns = None if found.time is None else clock.times(found.time, form.time_unit_ns)
            ranges = in_blocks(found.op, found.offset, found.size, time_ns)
            some = ranges.blocks > 0
            lines = found.line + self.counts.lines + 1
            self.counts.lines += len(table)
            self.counts.passed += found.passed + int(np.count_nonzero(~some))
            self.counts.requests += int(np.count_nonzero(some))
            if some.any():
                yield ranges.at(some), lines[some]

    def _format(self, chunk: bytes) -> Format:
        kind = self._kind
        if kind not in FORMATS:
            found = recognised(chunk)
            if not found:
                raise TraceError(
                    f"{self._shown} begins like no known trace: name its format ({', '.join(FORMATS)}) instead of trace"
                )
            self._form_name = kind = found
            options_of(kind, dict(self._options.of_format))
        return FORMATS[kind](dict(self._options.of_format))

    def _read(self, table: Table, form: Format) -> Found:
        try:
            return form.read(table)
        except TraceError as error:
            raise TraceError(f"{self._shown}: {error.message}") from None

    def _tolerate(self, table: Table, found: Found) -> None:
        """Counts lines that are malformed, and raises TraceError if they are too many."""
        counts = self.counts
        for line in found.malformed[:1]:
            if not counts.malformed:
                text = show_line(table.line(int(line)), 120)
                counts.first_malformed = f"line {counts.lines + int(line) + 1}: {text!r}"
        counts.malformed += len(found.malformed)
        most = self._options.malformed
        if counts.malformed > most:
            last = counts.lines + int(found.malformed[len(found.malformed) - (counts.malformed - most)]) + 1
            raise TraceError(
                f"{self._shown}, line {last}: more than {most} malformed lines. The first is {counts.first_malformed}."
                f"{self._expected()} If most lines are good, pass over more (malformed=NUMBER)"
            )

    def _expected(self) -> str:
        name = self._form_name
        return f" A line of format {name} is like {FORMATS[name].example!r}."

    def _nothing(self) -> str:
        counts = self.counts
        chosen = "".join(f" {key}={show_name(value, 60)}" for key, value in self._options.of_format)
        text = f"{self._shown}: there is no request in its {counts.lines} lines"
        text += f" ({counts.passed} passed over, {counts.malformed} malformed).{self._expected()}"
        text += f" Look for the devices in it: chosen was{chosen}." if chosen else ""
        return f"{text} The first malformed is {counts.first_malformed}" if counts.malformed else text

    def _fit(self) -> Fit:
        fit = self._options.fit
        if fit == "fold":
            return Fold(self._block_count)
        if fit == "pack":
            return Pack(self._block_count)
        if fit == "scale":
            return Scale(self._block_count, self._span())
        return Refuse(self._block_count)

    def _span(self) -> int:
        if self._options.span_bytes is not None:
            return -(-self._options.span_bytes // BLOCK_BYTES)
        if self._span_blocks is None:
            most = 1
            self.counts = TraceCounts()
            for ranges, _ in self._ranges(_Clock()):
                most = max(most, int((ranges.first + ranges.blocks).max()))
            self._span_blocks = most
        return self._span_blocks

    def _batches(self, ranges: Ranges, lines: NDArray[np.int64], fit: Fit) -> Iterator[Requests]:
        # Packing makes many parts of a long range.
        for part, begin in _portions(ranges) if isinstance(fit, Pack) else ((ranges, 0),):
            try:
                placed = fit.place(part)
            except OutsideError as error:
                line = lines[begin + error.number]
                raise TraceError(f"{self._shown}, line {line}: {error.message}") from None
            for small, _ in _portions(placed):
                yield Requests(small.op, small.first, small.blocks.astype(np.uint32), small.time_ns)


class _Clock:
    """Times since the first request, which go on when the trace is run again."""

    def __init__(self) -> None:
        self._zero: int | None = None
        self._base = 0
        self._last = 0

    def begin(self) -> None:
        self._zero = None
        self._base = self._last

    def times(self, raw: NDArray[np.uint64], unit_ns: int) -> NDArray[np.uint64]:
        if not len(raw):
            return raw
        if self._zero is None:
            self._zero = int(raw[0])
        zero = np.uint64(self._zero)
        # Traces are sorted, more or less: what is too early counts as late as the one before.
        since = np.minimum(np.maximum(raw, zero) - zero, np.uint64(_TIME_MAX_NS // unit_ns)) * np.uint64(unit_ns)
        since = np.minimum(since + np.uint64(self._base), np.uint64(_TIME_MAX_NS))
        since[0] = max(int(since[0]), self._last)
        times = np.maximum.accumulate(since)
        self._last = int(times[-1])
        return times


def _portions(ranges: Ranges) -> Iterator[tuple[Ranges, int]]:
    """At most BATCH ranges and BATCH_BLOCKS blocks at a time, and the number of the first one. Longer ones in parts."""
    long = ranges.blocks > BATCH_BLOCKS
    if len(ranges) <= BATCH and not long.any() and int(ranges.blocks.sum()) <= BATCH_BLOCKS:
        yield ranges, 0
        return
    for part in bounded(np.minimum(ranges.blocks, BATCH_BLOCKS).astype(np.uint32)):
        if not long[part].any():
            yield ranges.at(part), part.start
            continue
        for number in range(part.start, part.stop):
            one = ranges.at(slice(number, number + 1))
            first, blocks = int(one.first[0]), int(one.blocks[0])
            for begin in range(0, blocks, BATCH_BLOCKS):
                size = min(BATCH_BLOCKS, blocks - begin)
                yield one.moved(np.array([first + begin], np.uint64), np.array([size], np.uint64)), number


def _separation(form: Format) -> tuple[bytes, bool]:
    return form.separators, form.words


def _count(key: str, text: str, least: int, more: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) < least:
        raise ParameterError(f"{key}={show_name(text)}: must be a whole number, at least {least}{more}")
    return int(text)


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    value = int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[found[2]] if found else 0
    if not BLOCK_BYTES <= value <= 1 << 62:
        raise ParameterError(f"span={show_name(text)}: must be a number of bytes, such as 512G, and at least a block")
    return value
