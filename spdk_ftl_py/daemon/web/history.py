"""The rates of each FTL in the last half hour, so that a page that was just opened is not empty. It keeps rates, not
whole answers: some 100 KiB for each FTL."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ...errors import FtlError
from ...rates import Rates, between
from ...runtime.turns import Turns
from ..device import ManagedDevice

INTERVAL_S: Final = 5.0
KEPT_S: Final = 1800.0
_ROWS_MAX: Final = int(KEPT_S / INTERVAL_S)
COLUMNS: Final = (
    "time", "read_iops", "read_mib_s", "read_p50_us", "read_p99_us", "write_iops", "write_mib_s", "write_p50_us",
    "write_p99_us", "media_mib_s", "gc_mib_s", "write_amplification", "free_bands", "user_share",
)  # fmt: skip
"""Of a row; time: of its end, in seconds since 1970. The others are as in Rates and in bdev_ftl_get_stats."""

log = logging.getLogger(__name__)

Row = tuple[float | None, ...]


class _Past:
    """Of one FTL."""

    def __init__(self) -> None:
        self.rows: deque[Row] = deque(maxlen=_ROWS_MAX)
        self.last: tuple[float, Mapping[str, Any]] | None = None
        """The last answer, and when by the monotonic clock."""


class History:
    """start(), then close(). devices: those of the daemon, now."""

    def __init__(self, devices: Callable[[], Iterable[ManagedDevice]]) -> None:
        self._devices = devices
        self._pasts: dict[str, _Past] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="history of the web page")

    async def close(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.take(time.monotonic(), time.time())
            except Exception:
                # The page lacks a row then; the FTLs have nothing to do with it.
                log.exception("history of the web page: internal error")
            await asyncio.sleep(INTERVAL_S)

    async def take(self, now: float, date: float) -> None:
        """Adds what each FTL did since the last call. now: by the monotonic clock; date: in seconds since 1970."""
        pasts: dict[str, _Past] = {}
        turns = Turns()
        for device in list(self._devices()):
            await turns()
            past = pasts[str(device.uuid)] = self._pasts.get(str(device.uuid)) or _Past()
            try:
                stats = device.stats()
            except FtlError:
                past.last = None
                continue
            before, past.last = past.last, (now, stats)
            rates = None if before is None else between(before[1], stats, now - before[0])
            if rates is not None:
                past.rows.append(_row(date, rates, stats))
        self._pasts = pasts

    def describe(self, uuid: str) -> dict[str, Any]:
        """JSON-able. Without rows for an FTL that is not known."""
        past = self._pasts.get(uuid)
        return {"interval_s": INTERVAL_S, "columns": COLUMNS, "rows": [] if past is None else list(past.rows)}


def _row(date: float, rates: Rates, stats: Mapping[str, Any]) -> Row:
    of_rates = (
        None if value is None else float(f"{value:.4g}") for value in (getattr(rates, name) for name in COLUMNS[1:-2])
    )
    return (round(date, 1), *of_rates, stats["free_bands"], stats["user_share"])
