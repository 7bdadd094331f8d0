"""What a signal does to a program of ours: it ends in order, or goes on as it was."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
"""A terminal that goes away ends its foreground program; none of ours has a configuration file to read again."""
OF_A_TERMINAL: Final = (signal.SIGQUIT, signal.SIGHUP)
"""Who starts a program with these ignored (nohup) wants it to outlive the terminal."""
OTHERS: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Their default would end the program with everything it has in the target left standing."""

log = logging.getLogger(__name__)


def ignored(number: signal.Signals) -> None:
    log.info("%s: ignored", number.name)


@contextlib.contextmanager
def on_signals(
    end: Callable[[signal.Signals], None], other: Callable[[signal.Signals], None] = ignored
) -> Iterator[None]:
    """Meanwhile ENDING call end, and OTHERS other, in the event loop."""
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
