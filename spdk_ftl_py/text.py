"""Text that strangers chose (names of hosts, replies of a target), for a log or a terminal: it can't end the line or
control the terminal, and has a bounded length."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

SHOWN_MAX: Final = 4096
NAME_SHOWN_MAX: Final = 256
"""Longer than any valid NQN."""
LINE_SHOWN_MAX: Final = 400
_HIDDEN: Final = "\u2028\u2029\ufeff"
"""Escaped besides characters that are not printable: line ends, and an invisible mark."""
_NO_WORD: Final = ((" ", "\\x20"), ('"', "\\x22"), ("'", "\\x27"), ("`", "\\x60"))


def show_name(name: str, most: int = NAME_SHOWN_MAX) -> str:
    """One word of printable ASCII, without quotes, such as an NQN. A word that needs no escapes is shown as it is, and
    two different words never look the same, unless they are cut."""
    word = _escaped(name, _is_plain)
    for char, escape in _NO_WORD:
        word = word.replace(char, escape)
    return _cut(word, most)


def show_names(names: Iterable[str], most: int = 8) -> str:
    """Several words; those beyond the first ones are only counted."""
    words = [show_name(name) for name in names]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def show_line(text: str, most: int = LINE_SHOWN_MAX) -> str:
    """A sentence of printable ASCII, with its spaces and quotes."""
    return _cut(_escaped(text, _is_plain), most)


def shown(text: str, most: int = SHOWN_MAX, *, keep: str = "") -> str:
    """A whole message, parts of which may be escaped already: everything that is not printable as \x1b, \u202e and the
    like, except for the characters of keep."""
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    if text.isprintable() and not any(char in text for char in _HIDDEN):
        return text
    return _escaped(text, lambda char: char in keep or (char.isprintable() and char not in _HIDDEN))


def _escaped(text: str, harmless: Callable[[str], bool]) -> str:
    return "".join(char if harmless(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def _is_plain(char: str) -> bool:
    return " " <= char <= "~" and char != "\\"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


class ShownFormatter(logging.Formatter):
    """One line of printable text for each message; a traceback after it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shown(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return shown(super().formatException(ei), 16 * SHOWN_MAX, keep="\n")  # type: ignore[arg-type]
