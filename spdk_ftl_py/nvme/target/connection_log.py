"""Which hosts connect to a target, are refused, and leave: for the log, and for RPCs.

Everything is bounded, including the log, because strangers choose names, and how often they connect.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Protocol

from ...text import show_name

REFUSALS_MAX: Final = 64
"""Different refusals that are remembered: by address, host and reason."""
ENDED_MAX: Final = 64
LINES_BURST: Final = 30
LINE_PERIOD_S: Final = 2.0
"""After a burst of lines, one line in each such interval."""

log = logging.getLogger(__name__)

Address = tuple[str, int]


class LoggedController(Protocol):
    """The part of a controller that is logged."""

    @property
    def subnqn(self) -> str: ...
    @property
    def hostnqn(self) -> str: ...
    @property
    def peer_address(self) -> Address: ...
    @property
    def end_reason(self) -> str: ...
    @property
    def shut_down(self) -> bool:
        """The host has shut down in order."""

    def describe(self) -> dict[str, Any]:
        """Its identity, the time of its Connect, and its I/O."""


@dataclass
class _Refusal:
    count: int
    first: str
    last: str


class ConnectionLog:
    """The log of one target. ``remedy`` says how to allow a host that is not allowed."""

    def __init__(
        self,
        name: str = "",
        *,
        remedy: Callable[[str], str] = lambda _: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: the prefix of log lines. remedy: gets the host's NQN as it is shown."""
        self.name = name
        self._remedy = remedy
        self._refusals: dict[tuple[str, str, str], _Refusal] = {}
        self._ended: deque[dict[str, Any]] = deque(maxlen=ENDED_MAX)
        # Strangers must not use up the lines for hosts that are allowed.
        self._of_strangers = _Lines(clock)
        self._of_hosts = _Lines(clock)

    @property
    def _prefix(self) -> str:
        return f"{self.name}: " if self.name else ""

    def connected(self, controller: LoggedController) -> None:
        self._of_hosts.write(
            logging.INFO,
            f"{self._prefix}host {show_name(controller.hostnqn)} at {show_address(controller.peer_address)} connected",
        )

    def refused(self, peer: Address, hostnqn: str, reason: str, *, not_allowed: bool = False) -> None:
        """not_allowed: the host is not in the list of allowed hosts."""
        now = timestamp()
        key = (peer[0], hostnqn, reason)
        known = self._refusals.pop(key, None) or _Refusal(0, now, now)
        known.count, known.last = known.count + 1, now
        self._refusals[key] = known
        while len(self._refusals) > REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        if known.count & (known.count - 1):
            # A host that keeps trying is logged at its first, second, fourth, eighth, … attempt.
            return
        shown = show_name(hostnqn)
        remedy = self._remedy(shown) if not_allowed else ""
        times = f", {known.count} times so far" if known.count > 1 else ""
        self._of_strangers.write(
            logging.WARNING,
            f"{self._prefix}host {shown or 'without a name'} at {show_address(peer)} refused{times}: {reason}{remedy}",
        )

    def ended(self, controller: LoggedController) -> None:
        """Call it after the end of its queues."""
        how = "left in order" if controller.shut_down else controller.end_reason or "connection lost"
        entry = controller.describe()
        self._ended.append({**entry, "ended": timestamp(), "reason": how})
        self._of_hosts.write(
            logging.INFO,
            f"{self._prefix}host {show_name(controller.hostnqn)} at {show_address(controller.peer_address)} "
            f"disconnected: {how}; {entry['age_s']:.0f} s, {entry['read_blocks']} blocks read, {entry['write_blocks']} "
            f"written, {entry['errors']} errors",
        )

    @property
    def refusals(self) -> list[dict[str, Any]]:
        """The latest comes last."""
        return [
            {"traddr": traddr, "hostnqn": hostnqn, "reason": reason, "count": each.count, "first": each.first,
             "last": each.last}
            for (traddr, hostnqn, reason), each in self._refusals.items()
        ]  # fmt: skip

    @property
    def disconnected(self) -> list[dict[str, Any]]:
        """The latest comes last."""
        return list(self._ended)


class _Lines:
    """Limits the lines of the log; lines that are left out are counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._credit = float(LINES_BURST)
        self._at_s = clock()
        self._left_out = 0

    def write(self, level: int, line: str) -> None:
        now_s = self._clock()
        self._credit = min(self._credit + (now_s - self._at_s) / LINE_PERIOD_S, LINES_BURST)
        self._at_s = now_s
        if self._credit < 1:
            self._left_out += 1
            return
        self._credit -= 1
        more = f" ({self._left_out} earlier lines like this were left out)" if self._left_out else ""
        self._left_out = 0
        log.log(level, "%s%s", line, more)


def show_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def timestamp() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
