"""What the band manager needs of the world: a core that takes its orders, and time. `spdk-ftl simulate` has others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...runtime.pulse import next_beat


class Counters(Protocol):
    """Of CoreStats."""

    @property
    def write_buffer_used(self) -> int: ...
    @property
    def media_written_blocks(self) -> int: ...
    @property
    def zone_resets(self) -> int: ...
    @property
    def busy_answers(self) -> int: ...


class Core(Protocol):
    """Of FtlCore (_shim.pyi)."""

    @property
    def band_changes(self) -> int: ...
    @property
    def next_seq(self) -> int: ...
    def set_placement(
        self,
        *,
        classes: int,
        user_classes: int,
        user: tuple[Sequence[int], Sequence[int]],
        unwritten: int,
        relocated: Sequence[tuple[Sequence[int], Sequence[int]]],
        regions: NDArray[np.uint8] | None,
        region_blocks: int,
    ) -> None: ...
    def asking(self) -> list[int]: ...
    def open_band(self, stream: int, band: int, band_seq: int) -> None: ...
    def take_queued(self, stream: int) -> int | None: ...
    def close_zone(self, band: int, punit: int) -> bool: ...
    def start_move(self, band: int) -> None: ...
    def reset_bands(self, bands: Sequence[int]) -> list[int]: ...
    def set_pace(self, user_percent: int, reloc_per_thousand: int | None = None) -> None: ...
    def changed_bands(self, most: int) -> NDArray[np.uint8]: ...
    def band_rows(self, first: int, count: int) -> NDArray[np.uint8]: ...
    def stats(self) -> Counters: ...


class Handle(Protocol):
    def cancel(self) -> object: ...


class Turns(Protocol):
    """When something is called."""

    def time(self) -> float:
        """In seconds."""

    def soon(self, call: Callable[[], object]) -> Handle:
        """In the next turn."""

    def later(self, delay_s: float, call: Callable[[], object]) -> Handle: ...

    def at_beat(self, period_s: float, call: Callable[[], object]) -> Handle:
        """As runtime/pulse.py: at a multiple of the period."""


class LoopTurns:
    """Those of the running event loop."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def soon(self, call: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_soon(call)

    def later(self, delay_s: float, call: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_later(delay_s, call)

    def at_beat(self, period_s: float, call: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_at(next_beat(period_s), call)


LOOP_TURNS: Final = LoopTurns()
