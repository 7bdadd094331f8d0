"""Text that a stranger chose, as it may stand in a log or on a terminal: printable ASCII, bounded in length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NAME_SHOWN_MAX: Final = 256
"""More than any NQN that is one takes."""
LINE_SHOWN_MAX: Final = 400
_NO_WORD: Final = ((" ", "\\x20"), ('"', "\\x22"), ("'", "\\x27"), ("`", "\\x60"))


def show_name(name: str, most: int = NAME_SHOWN_MAX) -> str:
    """An NQN, say: one word, without quotes. One that needs no escapes is shown as it is."""
    shown = _escaped(name)
    for char, escape in _NO_WORD:
        shown = shown.replace(char, escape)
    return _cut(shown, most)


def show_names(names: Iterable[str], most: int = 8) -> str:
    """Several, of which those beyond the first are only counted."""
    shown = [show_name(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def show_line(text: str, most: int = LINE_SHOWN_MAX) -> str:
    """A sentence, with its spaces and quotes."""
    return _cut(_escaped(text), most)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape", "backslashreplace").decode("ascii")


def _cut(shown: str, most: int) -> str:
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
