"""A workload from its text (docs/policies.md, "Workloads and traces")::

    spec     = trace | mix
    mix      = term { "+" term }
    term     = [ WEIGHT "*" ] workload
    workload = "(" mix ")" | NAME { ":" argument }
    trace    = FORMAT ":" PATH { ":" KEY "=" VALUE }

The last argument of trim, read, size and part is a workload again. Everything behind a trace's format is its path and
its options, so a trace can't be part of a mix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ...errors import ParameterError
from ...text import show_line
from . import synthetic
from .base import BLOCK_COUNT_MAX, Workload
from .formats import FORMATS
from .synthetic import Pattern, Synthetic
from .trace import Trace, TraceOptions
from .zipf import THETA_MAX, Zipf

SPEC_CHARS_MAX: Final = 4096
DRIFT_REQUESTS_MIN: Final = 64
_DEPTH_MAX: Final = 16
_WORD: Final = re.compile(r"[^:+*()]*")
_WEIGHT: Final = re.compile(r"([^:+*()]*)\*")
_NUMBER: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]+)?")
SYNTHETIC: Final = ("uniform", "zipf:THETA", "drift:THETA[:EVERY[:HOT]]", "hotcold:F:P", "seq")
AROUND: Final = ("trim:SHARE:W", "read:SHARE:W", "size:BLOCKS:W", "size:LOW-HIGH:W", "part:FROM-TO:W")
_ALL: Final = f"{', '.join((*SYNTHETIC, *AROUND))}, or a trace: {', '.join((*FORMATS, 'trace'))} and :PATH"


def parse(spec: str, block_count: int) -> Workload:
    """The workload, for a device of block_count blocks. Of a trace, the beginning is read.

    Raises ParameterError for a spec that means nothing, and TraceError for a trace that can't be read.
    """
    if not 1 <= block_count <= BLOCK_COUNT_MAX:
        raise ParameterError(f"a device of {block_count} blocks: must be 1 to {BLOCK_COUNT_MAX}")
    if len(spec) > SPEC_CHARS_MAX:
        raise ParameterError(f"a workload of {len(spec)} characters: must be at most {SPEC_CHARS_MAX}")
    kind, colon, rest = spec.partition(":")
    if colon and (kind == "trace" or kind in FORMATS):
        try:
            trace = Trace(spec, kind, TraceOptions.of(rest), block_count)
        except ParameterError as error:
            raise type(error)(f"workload {show_line(spec)!r}: {error.message}") from None
        trace.check()
        return trace
    return Synthetic(spec, _Parser(spec).whole(block_count))


def check(spec: str) -> None:
    """Before the device's size is known: raises what parse() raises for every device. A part of a device may still be
    too small to have a block."""
    parse(spec, BLOCK_COUNT_MAX)


def trace_of(spec: str) -> Path | None:
    """The file of a trace; None for other workloads. Raises ParameterError."""
    kind, colon, rest = spec.partition(":")
    return TraceOptions.of(rest).path if colon and (kind == "trace" or kind in FORMATS) else None


class _Parser:
    """Of one spec, from left to right."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._at = 0
        self._depth = 0

    def whole(self, block_count: int) -> Pattern:
        pattern = self._mix(block_count)
        if self._at < len(self._spec):
            raise self._error(f"{self._spec[self._at]!r} does not belong there")
        return pattern

    def _mix(self, block_count: int) -> Pattern:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error(f"nested more than {_DEPTH_MAX} deep")
        weights, patterns = [], []
        while True:
            weight = self._weight()
            weights.append(1.0 if weight is None else weight)
            patterns.append(self._workload(block_count))
            if not self._skip("+"):
                break
        self._depth -= 1
        if len(patterns) == 1:
            if weight is not None:
                raise self._error("a weight, but no mix: add +WORKLOAD, or leave the weight out")
            return patterns[0]
        try:
            return synthetic.Mix(weights, patterns)
        except ParameterError as error:
            raise self._error(error.message) from None

    def _weight(self) -> float | None:
        found = _WEIGHT.match(self._spec, self._at)
        if not found:
            return None
        self._at = found.end()
        return self._number(found[1], "a weight", 0, 1e9)

    def _workload(self, block_count: int) -> Pattern:
        if self._skip("("):
            pattern = self._mix(block_count)
            if not self._skip(")"):
                raise self._error("a ( without its )")
            return pattern
        name = self._word()
        make = _MAKERS.get(name)
        if not make:
            trace = " A trace can't be part of a mix." if name == "trace" or name in FORMATS else ""
            what = f"there is no workload {show_line(name)!r}" if name else "a workload is missing"
            raise self._error(f"{what}: there are {_ALL}.{trace}")
        return make(self, block_count)

    # --- the workloads by name ---

    def uniform(self, block_count: int) -> Pattern:
        return synthetic.Uniform(block_count)

    def seq(self, block_count: int) -> Pattern:
        return synthetic.Sequential(block_count)

    def zipf(self, block_count: int) -> Pattern:
        return synthetic.ZipfPattern(Zipf(self._argument("zipf:THETA", 0, THETA_MAX), block_count))

    def drift(self, block_count: int) -> Pattern:
        usage = "drift:THETA[:EVERY[:HOT]]"
        theta = self._argument(usage, 0, THETA_MAX)
        # Those of SepBIT's synthetic workloads: 512 MiB of 50 GiB, a fifth.
        every = self._argument(usage, 0, 1000) if self._spec.startswith(":", self._at) else 0.01
        hot = self._argument(usage, 0, 1) if self._spec.startswith(":", self._at) else 0.2
        requests = max(DRIFT_REQUESTS_MIN, round(every * block_count))
        return synthetic.Drift(Zipf(theta, block_count), requests, max(1, round(hot * block_count)))

    def hotcold(self, block_count: int) -> Pattern:
        fraction = self._argument("hotcold:F:P", 0, 1)
        share = self._argument("hotcold:F:P", 0, 1)
        hot = min(max(1, round(fraction * block_count)), block_count)
        return synthetic.HotCold(block_count, hot, 1.0 if hot == block_count else share)

    def trim(self, block_count: int) -> Pattern:
        share = self._argument("trim:SHARE:WORKLOAD", 0, 1)
        return synthetic.trims(share, self._inner("trim:SHARE:WORKLOAD", block_count))

    def read(self, block_count: int) -> Pattern:
        share = self._argument("read:SHARE:WORKLOAD", 0, 1)
        return synthetic.reads(share, self._inner("read:SHARE:WORKLOAD", block_count))

    def size(self, block_count: int) -> Pattern:
        usage = "size:BLOCKS:WORKLOAD or size:LOW-HIGH:WORKLOAD"
        text = self._text(usage)
        low, dash, high = text.partition("-")
        least = self._blocks(low)
        most = self._blocks(high) if dash else least
        if most < least:
            raise self._error(f"size {show_line(text)}: the second number must be at least the first")
        return synthetic.Sized(least, most, self._inner(usage, block_count))

    def part(self, block_count: int) -> Pattern:
        usage = "part:FROM-TO:WORKLOAD"
        text = self._text(usage)
        start, dash, end = text.partition("-")
        if not dash:
            raise self._error(f"part {show_line(text)}: must be {usage}, with two parts of 1, such as 0-0.5")
        first = round(self._number(start, usage, 0, 1) * block_count)
        last = round(self._number(end, usage, 0, 1) * block_count)
        if last <= first:
            raise self._error(f"part {show_line(text)}: there is no block in it")
        return synthetic.Part(first, self._inner(usage, last - first))

    # --- pieces of text ---

    def _inner(self, usage: str, block_count: int) -> Pattern:
        if not self._skip(":"):
            raise self._error(f"a workload is missing: must be {usage}")
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise self._error(f"nested more than {_DEPTH_MAX} deep")
        pattern = self._workload(block_count)
        self._depth -= 1
        return pattern

    def _argument(self, usage: str, least: float, most: float) -> float:
        return self._number(self._text(usage), usage, least, most)

    def _text(self, usage: str) -> str:
        if not self._skip(":"):
            raise self._error(f"an argument is missing: must be {usage}")
        return self._word()

    def _number(self, text: str, usage: str, least: float, most: float) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not least <= value <= most:
            raise self._error(f"{show_line(text)!r} in {usage}: must be a number from {least:g} to {most:g}")
        return value

    def _blocks(self, text: str) -> int:
        most = synthetic.REQUEST_BLOCKS_MAX
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
            raise self._error(f"{show_line(text)!r} in size: must be a whole number of blocks from 1 to {most}")
        return int(text)

    def _word(self) -> str:
        found = _WORD.match(self._spec, self._at)
        assert found
        self._at = found.end()
        return found[0]

    def _skip(self, char: str) -> bool:
        found = self._spec.startswith(char, self._at)
        self._at += found
        return found

    def _error(self, what: str) -> ParameterError:
        return ParameterError(f"workload {show_line(self._spec)!r}: {what}")


_MAKERS: Final[dict[str, Callable[[_Parser, int], Pattern]]] = {
    "uniform": _Parser.uniform,
    "zipf": _Parser.zipf,
    "drift": _Parser.drift,
    "hotcold": _Parser.hotcold,
    "seq": _Parser.seq,
    "trim": _Parser.trim,
    "read": _Parser.read,
    "size": _Parser.size,
    "part": _Parser.part,
}
