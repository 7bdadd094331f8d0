"""What signals do to the programs of this package: a program ends in order, or continues."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
"""Signals that end a program. SIGHUP is one: there is no configuration file to read again."""
OF_A_TERMINAL: Final = (signal.SIGQUIT, signal.SIGHUP)
"""A program that is started with these ignored (nohup) is meant to outlive the terminal."""
OTHERS: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""By default these would end the program, and leave everything that it has in the target."""

log = logging.getLogger(__name__)


def ignored(number: signal.Signals) -> None:
    log.info("%s: ignored", number.name)


@contextlib.contextmanager
def on_signals(
    end: Callable[[signal.Signals], None], other: Callable[[signal.Signals], None] = ignored
) -> Iterator[None]:
    """While this context is active, ENDING signals call end, and OTHERS call other, in the event loop."""
    loop = asyncio.get_running_loop()
    handlers = {
        **{number: end for number in ENDING if not _kept_out(number)},
        **dict.fromkeys(OTHERS, other),
    }
    for number, handle in handlers.items():
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _kept_out(number: signal.Signals) -> bool:
    return number in OF_A_TERMINAL and signal.getsignal(number) == signal.SIG_IGN
