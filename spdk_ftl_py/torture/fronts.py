"""Further reactors of a world, for the queues of hosts (conf `cores`). All reactors are stepped in one thread, so a run
follows from its seed although the product has a thread for each."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from .. import _shim
from ..daemon.front import LEASES_MAX
from ..runtime.reactor import ReactorLoop
from .clock import SimulatedClock

BURSTS: Final = 0.1
"""The part of the turns in which a front takes several steps."""
BURST_STEPS_MAX: Final = 12
PAUSES: Final = 0.1
"""The part of the turns in which a front begins a pause: the kernel runs something else on its CPU."""
PAUSE_TURNS_MAX: Final = 40


class Front(ReactorLoop):
    def __init__(self, number: int, rng: random.Random, clock: SimulatedClock) -> None:
        super().__init__(f"front-{number}", stepped=True, clock=clock.beside, pace=self._steps)
        self._rng = rng
        self._pause = 0

    def _steps(self) -> int:
        """Between two steps of the core's reactor, chosen by the seed."""
        if self._pause:
            self._pause -= 1
            return 0
        kind = self._rng.random()
        if kind < BURSTS:
            return self._rng.randint(2, BURST_STEPS_MAX)
        if kind < BURSTS + PAUSES:
            self._pause = self._rng.choice((0, 0, 1, 3, PAUSE_TURNS_MAX))
            return 0
        return 1


class Fronts:
    """One fewer than cores, so there may be none."""

    def __init__(self, cores: int, rng: random.Random, clock: SimulatedClock) -> None:
        self._rng = rng
        self._fronts = [Front(number, rng, clock) for number in range(1, cores)]
        self._crossings: list[_shim.Crossing] = []

    def __len__(self) -> int:
        return len(self._fronts)

    async def start(self) -> None:
        for front in self._fronts:
            await front.start()

    async def stop(self) -> None:
        """Idempotent."""
        self._crossings = []
        for front in self._fronts:
            await front.stop()

    def client(self, core: ReactorLoop) -> ReactorLoop:
        """The reactor of the host's own end."""
        return self._fronts[0] if self._fronts else core

    def cross(
        self, core: ReactorLoop, device: _shim.BlockDevice, buffer_blocks: int
    ) -> list[tuple[ReactorLoop, _shim.BlockDevice]]:
        """The device on each of them. Without fronts: on the core's reactor. buffer_blocks: as for daemon.front."""
        if not self._fronts:
            return [(core, device)]
        most = min(LEASES_MAX, buffer_blocks // (4 * len(self._fronts)))
        leases = self._rng.choice((0, most, most, most))
        self._crossings = [_shim.Crossing(front.shim, core.shim, device, leases=leases) for front in self._fronts]
        return list(zip(self._fronts, self._crossings, strict=True))

    def count(self) -> Counter[str]:
        """What has crossed; once for each cross()."""
        counted: Counter[str] = Counter()
        for stats in (crossing.stats() for crossing in self._crossings):
            counted.update(crossed_ios=stats.ios, leased_blocks=stats.leased_blocks)
        self._crossings = []
        return counted

    def choose(self, places: list[tuple[ReactorLoop, _shim.BlockDevice]]) -> tuple[ReactorLoop, _shim.BlockDevice]:
        return self._rng.choice(places) if len(places) > 1 else places[0]
