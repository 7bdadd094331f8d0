"""The fields of all lines of a chunk, found and read with numpy instead of line by line."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Lines = NDArray[np.int64]
"""Numbers of lines in the chunk."""
Numbers = NDArray[np.uint64]
Marks = NDArray[np.bool_]

DIGITS_MAX: Final = 19
"""So many fit into 64 bits, whatever they are."""
_NEWLINE: Final = 10
_RETURN: Final = 13


class Table:
    """Where each field of a chunk begins and ends.

    chunk: whole lines. separators: single bytes besides the end of a line. words: several separators in a row are one,
    and those around a line are none.
    """

    def __init__(self, chunk: bytes, separators: bytes, words: bool = False) -> None:
        self._bytes = np.frombuffer(chunk, np.uint8)
        separates = self._bytes == _NEWLINE
        for separator in separators:
            separates |= self._bytes == separator
        ends = np.flatnonzero(separates)
        starts = np.empty_like(ends)
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
        lasts = np.flatnonzero(self._bytes[ends] == _NEWLINE)
        # Lines may end as those of Windows do.
        returns = (ends[lasts] > starts[lasts]) & (self._bytes[ends[lasts] - 1] == _RETURN)
        ends[lasts[returns]] -= 1
        after: NDArray[np.int64]
        if words:
            kept: Marks = ends > starts
            after = np.cumsum(kept, dtype=np.int64)[lasts]
            self._starts, self._ends = starts[kept], ends[kept]
        else:
            after = lasts + 1
            self._starts, self._ends = starts, ends
        self._firsts = np.concatenate([np.zeros(1, np.int64), after[:-1]])
        self.counts: NDArray[np.int64] = after - self._firsts
        """Fields of each line."""

    def __len__(self) -> int:
        return len(self.counts)

    def empty(self) -> Marks:
        """Which lines have nothing in them."""
        none: Marks = self.counts == 0
        one = np.flatnonzero(self.counts == 1)
        none[one] = self._ends[self._firsts[one]] == self._starts[self._firsts[one]]
        return none

    def text(self, line: int, column: int) -> bytes:
        """One field."""
        field = self._firsts[line] + column
        return self._bytes[self._starts[field] : self._ends[field]].tobytes()

    def line(self, line: int, most: int = 120) -> str:
        """The beginning of one line, for a message."""
        if not self.counts[line]:
            return ""
        start = self._starts[self._firsts[line]]
        end = self._ends[self._firsts[line] + self.counts[line] - 1]
        return self._bytes[start : min(end, start + most)].tobytes().decode("ascii", "backslashreplace")

    def equal(self, lines: Lines, column: int, word: bytes) -> Marks:
        """Where the field is that word."""
        starts, ends = self._fields(lines, column)
        same: Marks = ends - starts == len(word)
        for number, byte in enumerate(word):
            # Where the field is shorter this looks at what follows it, which changes nothing.
            same &= self._at(starts + number) == byte
        return same

    def byte(self, lines: Lines, column: int, place: int) -> NDArray[np.uint8]:
        """One byte of the field; 0 where the field is shorter."""
        starts, ends = self._fields(lines, column)
        return np.where(starts + place < ends, self._at(starts + place), np.uint8(0))

    def number(self, lines: Lines, column: int) -> tuple[Numbers, Marks]:
        """The field as a number, and where it is one: of at most DIGITS_MAX digits, and of nothing but digits."""
        return self._number(*self._fields(lines, column))

    def decimal(self, lines: Lines, column: int, places: int) -> tuple[Numbers, Marks]:
        """The field as a number with exactly so many decimal places, times 10**places; its whole part must be less than
        10**9."""
        starts, ends = self._fields(lines, column)
        whole, whole_good = self._number(starts, np.maximum(ends - places - 1, starts))
        fraction, fraction_good = self._number(np.maximum(ends - places, starts), ends)
        good = whole_good & fraction_good & (whole < 10**9) & (ends - starts > places)
        good &= self._at(np.maximum(ends - places - 1, 0)) == ord(".")
        return whole * np.uint64(10**places) + fraction, good

    def _fields(self, lines: Lines, column: int) -> tuple[Lines, Lines]:
        fields = self._firsts[lines] + column
        return self._starts[fields], self._ends[fields]

    def _at(self, positions: Lines) -> NDArray[np.uint8]:
        return self._bytes.take(positions, mode="clip")

    def _number(self, starts: Lines, ends: Lines) -> tuple[Numbers, Marks]:
        lengths = ends - starts
        good = (lengths > 0) & (lengths <= DIGITS_MAX)
        value = np.zeros(len(starts), np.uint64)
        longest = int(lengths[good].max(initial=0))
        shortest = int(lengths.min(initial=longest))
        for place in range(longest):
            # A byte that is no digit becomes more than 9 here.
            digit = self._at(starts + place) - np.uint8(ord("0"))
            if place < shortest:
                good &= digit <= 9
                value = value * np.uint64(10) + digit
            else:
                inside = place < lengths
                good &= ~inside | (digit <= 9)
                value = np.where(inside, value * np.uint64(10) + digit, value)
        return value, good
