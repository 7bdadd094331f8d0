"""The terminal of `spdk-ftl top`: keys one by one, the alternate screen, and everything as it was at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

_KEYS: Final = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up",
    b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down",
    b"\r": "enter", b"\n": "enter", b"\x1b[C": "enter", b"\x1bOC": "enter",
    b"\x1b": "escape", b"\x7f": "escape", b"\x1b[D": "escape", b"\x1bOD": "escape",
}  # fmt: skip
_READ_BYTES: Final = 64
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class EndedError(Exception):
    """A signal asks the program to end. signum: its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Terminal:
    """A context: the terminal is ours from its beginning to its end, however it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stdin = sys.stdin.fileno()
        self._attributes: list[Any] = []
        self._live: Live | None = None
        self._woken, self._waker = os.pipe()
        self._handlers: dict[int, Any] = {}
        self._leaving = False

    def __enter__(self) -> Terminal:
        os.set_blocking(self._waker, False)
        os.set_blocking(self._woken, False)
        self._attributes = termios.tcgetattr(self._stdin)
        try:
            for each in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, *_ENDING):
                self._handlers[each] = signal.signal(each, self._on_signal)
            self._take()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        for descriptor in (self._woken, self._waker):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _take(self) -> None:
        tty.setcbreak(self._stdin)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stderr=False)
        self._live.start()

    def _give_back(self) -> None:
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:
            # Also if the terminal has gone away.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._attributes)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._leaving:
            return
        if number in _ENDING:
            raise EndedError(number)
        if number == signal.SIGTSTP:
            self._give_back()
            os.kill(os.getpid(), signal.SIGSTOP)
            # Here after SIGCONT.
            self._take()
        self.wake()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now. $COLUMNS and $LINES, which rich prefers, may be older."""
        with contextlib.suppress(OSError):
            self._console.size = ConsoleDimensions(*os.get_terminal_size(self._console.file.fileno()))
        return self._console.width, self._console.height

    def show(self, lines: list[Text]) -> None:
        if self._live is not None:
            self._live.update(Group(*lines), refresh=True)

    def wake(self) -> None:
        """pressed() returns. May be called by any thread."""
        with contextlib.suppress(OSError):
            os.write(self._waker, b"x")

    def pressed(self) -> Iterator[str]:
        """Waits for keys, or wake(); then yields the keys. Raises EOFError if the terminal has gone away."""
        ready, _, _ = select.select([self._stdin, self._woken], [], [])
        if self._woken in ready:
            with contextlib.suppress(OSError):
                os.read(self._woken, _READ_BYTES)
        if self._stdin in ready:
            try:
                data = os.read(self._stdin, _READ_BYTES)
            except OSError:
                data = b""
            if not data:
                raise EOFError
            yield from split_keys(data)


def split_keys(data: bytes) -> Iterator[str]:
    """The names of the keys in what a terminal sent: up, down, enter, escape, or the character. Unknown sequences are
    left out."""
    while data:
        found = next((each for each in sorted(_KEYS, key=len, reverse=True) if data.startswith(each)), None)
        if found == b"\x1b" and data[1:2] in (b"[", b"O"):
            # A sequence that means nothing here ends with its first letter.
            end = next((i for i, each in enumerate(data[2:], 3) if chr(each).isalpha() or each == ord("~")), len(data))
            data = data[end:]
            continue
        key = found or data[:1]
        yield _KEYS[found] if found is not None else key.decode("latin-1")
        data = data[len(key) :]
