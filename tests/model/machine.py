"""What the state machines have in common: simulated time, and how much hypothesis tries."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine

from spdk_ftl_py.torture.clock import SimulatedClock, SimulatedLoop

STEP_TIMEOUT_S = 60
"""Of simulated time."""


class SimulatedMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = SimulatedClock()
        self.loop = SimulatedLoop(self.clock)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, STEP_TIMEOUT_S))


def effort(max_examples: int, steps: int) -> settings:
    """In CI the same examples each time: what breaks then, a change has broken."""
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
