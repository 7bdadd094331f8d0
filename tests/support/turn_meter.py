"""How long an event loop stands still between two of its turns."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TurnMeter:
    """longest_s: of what came between two turns, the CPU time that all threads of the process took, or the time that
    passed if that is less. So a machine that is busy with other things makes it no longer; but a thread that keeps the
    loop waiting for the GIL does, as does whatever the loop itself does. Threads that poll would, too: for a stepped
    reactor."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.turns = 0
        self._task: asyncio.Task[None] | None = None
        self._last = (0.0, 0.0)

    def restart(self) -> None:
        self.longest_s = 0.0
        self.turns = 0
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0)
            now = self._now()
            self.longest_s = max(self.longest_s, min(now[0] - self._last[0], now[1] - self._last[1]))
            self.turns += 1
            self._last = now


@asynccontextmanager
async def turn_meter() -> AsyncIterator[TurnMeter]:
    meter = TurnMeter()
    # What others have left is not ours, but the garbage collector goes through it with everything else.
    gc.collect()
    gc.freeze()
    meter.restart()
    task = asyncio.get_running_loop().create_task(meter._watch())
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.unfreeze()
