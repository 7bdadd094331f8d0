"""Scrubs in the life of a device, some at full speed. Checks that they find all rotten blocks and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Set
from typing import Final

from .. import _shim
from ..ftl.device import FtlDevice
from ..ftl.life import FtlState
from ..ftl.media.band import BAND_ROW, MOVING, SHIM_STATES
from .model import Violation

SCRUBBED_LIVES: Final = 0.35
"""The part of the lives with ordered scrubs."""
ORDERED: Final = 0.01
"""The probability of an order in each step, while no scrub is ordered."""


class Scrubbing:
    """The scrubs of one life. pump() must be called in each of its steps."""

    def __init__(self, device: FtlDevice, rng: random.Random, rotten: Set[tuple[int, int]]) -> None:
        """rotten: (address, LBA) of every rotten block in this world so far. The set grows."""
        self.chosen = rng.random() < SCRUBBED_LIVES
        """This life has scrubs."""
        self._device = device
        self._rng = rng
        self._rotten_ever = rotten
        self._ended = device.core.scrub_status().ended
        self._first_round = self._round
        self._rounds = device.scrub.rounds
        self._rotten: dict[int, int] = {}
        self._rotten_in = 0

    def rot(self, rotten: Mapping[int, int]) -> None:
        """Adds rotten blocks: addresses by LBA. The next round that begins must find them."""
        self._rotten.update(rotten)
        self._rotten_in = self._round

    @property
    def _round(self) -> int:
        """The number of the last round that has begun."""
        stored = self._device.scrub.to_dict()
        return max((int(each["number"]) for each in (stored["round"], stored["last"]) if each is not None), default=0)

    def pump(self) -> Iterator[Violation]:
        """Orders scrubs. Returns violations in the results of earlier ones."""
        yield from self._false_alarm()
        scrub = self._device.scrub
        if not self.chosen or self._device.state is not FtlState.RUNNING:
            return
        if scrub.rounds != self._rounds:
            self._rounds = scrub.rounds
            last = scrub.status()["last"]
            if self._rotten and int(last["round"]) > self._rotten_in:
                yield from self._missed()
                self._rotten.clear()
        elif not scrub.ordered and self._rng.random() < ORDERED:
            self._device.order_scrub()

    def _false_alarm(self) -> Iterator[Violation]:
        """Checks whether the scrub of a band has reported a block that is not bad."""
        status = self._device.core.scrub_status()
        if status.ended == self._ended:
            return
        self._ended = status.ended
        address = status.address
        if status.end == _shim.ScrubEnd.BAD and not any(address == rotten for rotten, _ in self._rotten_ever):
            yield Violation("damaged", -1, f"a scrub reported block {address} as bad, although it has not rotted")

    def _missed(self) -> Iterator[Violation]:
        core, geometry = self._device.core, self._device.geometry
        rows = core.band_rows(0, geometry.band_count).view(BAND_ROW)
        found = {
            zone
            for row, zones in zip(rows, self._device.zone_map.bands(), strict=True)
            if row["unreadable"] or SHIM_STATES[row["state"]] == MOVING
            for zone in zones
        }
        for lba, address in self._rotten.items():
            if int(core.l2p(lba, 1)[0]) == address and address // geometry.zone_size not in found:
                yield Violation("unnoticed", lba, f"block {address} has rotted, but a scrub has not found it")

    def alarms(self, stats: _shim.CoreStats) -> Iterator[Violation]:
        """Checks whether the scrubs of this life have found blocks that are not bad. A round finds each block once, or
        twice if it reads the band again."""
        bad = (stats.scrub_bad_blocks, stats.scrub_bad_metadata)
        rounds = self._round - self._first_round + 1
        if bad[1] or bad[0] > 2 * rounds * len(self._rotten_ever):
            text = (
                f"scrubs reported {bad[0]} bad blocks and {bad[1]} bad metadata blocks, but {len(self._rotten_ever)} "
                "have rotted"
            )
            yield Violation("damaged", -1, text)
