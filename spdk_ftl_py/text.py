"""Text that strangers chose (names of hosts, replies of a target), in a log or on a terminal: it can neither end the
line nor speak to the terminal, and is of bounded length."""

from __future__ import annotations

import logging
from typing import Final

SHOWN_MAX: Final = 4096
_HIDDEN: Final = "\u2028\u2029\ufeff"
"""Beside what is not printable: line ends, and a mark that is nothing to see."""


def shown(text: str, most: int = SHOWN_MAX, *, keep: str = "") -> str:
    """Everything that is not printable as \\x1b, \\u202e and the like, but for the characters of keep."""
    if len(text) > most:
        text = f"{text[:most]}... ({len(text)} characters)"
    if text.isprintable() and not any(char in text for char in _HIDDEN):
        return text
    return "".join(char if char in keep or _harmless(char) else _escaped(char) for char in text)


def _harmless(char: str) -> bool:
    return char.isprintable() and char not in _HIDDEN


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class ShownFormatter(logging.Formatter):
    """One line of printable text for each message; a traceback behind it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = shown(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return shown(super().formatException(ei), 16 * SHOWN_MAX, keep="\n")  # type: ignore[arg-type]


def log_to_stderr(level: int, form: str) -> None:
    """As logging.basicConfig() does, through ShownFormatter."""
    handler = logging.StreamHandler()
    handler.setFormatter(ShownFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])
